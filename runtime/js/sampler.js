// Text from a charrnn model file with ONNX Runtime, in a browser (onnxruntime-web) or in Node (onnxruntime-node).
// The same model, prompt, options and seed give the text that the Python runtime gives: see runtime/README.md.

import { CharrnnError, ModelFileError, ModelOutputError, UnknownCharacterError, UsageError } from "./errors.js";
import { readModelFile } from "./model_file.js";
import { UniformStream } from "./philox.js";
import { checkCount, TokenSampler, StopStrings } from "./sampling.js";

export { CharrnnError, ModelFileError, ModelOutputError, readModelFile, UniformStream, UnknownCharacterError, UsageError };

const PENALTY_HISTORY = 4096; // tokens kept beyond the penalty window before the list is shortened

/** @typedef {import("./model_file.js").ModelInfo} ModelInfo */
/** @typedef {import("./sampling.js").SamplingOptions} SamplingOptions */

/**
 * @typedef {object} TextOptions
 * @property {number} length how many tokens to draw at most, at least 1
 * @property {number | bigint} [seed] 0 to 2**64 - 1; the same seed gives the same text; a new one if not given
 * @property {number | bigint} [index] which of the texts of this seed
 * @property {string | string[]} [stop] strings at which the text ends; they are not part of it
 * @property {"error" | "skip"} [unknown] what to do with prompt characters the model does not know
 */

/**
 * A finished text.
 * @typedef {object} Generation
 * @property {string} text the continuation, without the prompt and the stop string
 * @property {"length" | "stop" | "end" | "pattern"} finishReason
 * @property {bigint} seed
 * @property {bigint} index
 * @property {number[]} tokens ids of all drawn tokens
 */

/** @returns {bigint} a fresh seed, short enough to be read aloud */
export function newSeed() {
  return BigInt(crypto.getRandomValues(new Uint32Array(1))[0]);
}

/** Samples from one model. Several texts may be drawn at a time; each keeps a state of its own. */
export class Sampler {
  /**
   * Use `Sampler.load`.
   * @param {any} ort @param {any} session @param {ModelInfo} info
   */
  constructor(ort, session, info) {
    this._ort = ort;
    this._session = session;
    this.info = info;
    this.vocabulary = info.vocabulary;
  }

  /**
   * A sampler for a model file.
   * @param {any} ort the module onnxruntime-web or onnxruntime-node
   * @param {Uint8Array | ArrayBuffer} model the file's bytes
   * @param {object} [sessionOptions] for `ort.InferenceSession.create`
   * @returns {Promise<Sampler>}
   * @throws {ModelFileError} not a charrnn model file, damaged, or ONNX Runtime cannot load it
   */
  static async load(ort, model, sessionOptions = {}) {
    const data = model instanceof Uint8Array ? model : new Uint8Array(model);
    const info = readModelFile(data);
    let session;
    try {
      // One thread: a step is too small to share.
      session = await ort.InferenceSession.create(data, {
        intraOpNumThreads: 1,
        interOpNumThreads: 1,
        logSeverityLevel: 3,
        ...sessionOptions,
      });
    } catch (error) {
      throw new ModelFileError(`ONNX Runtime cannot load the model: ${firstLine(error)}`);
    }
    checkGraph(session, info);
    if (info.parity.verified === false) {
      console.warn("charrnn: the model file is not verified: when it was exported, it did not compute what was trained");
    }
    return new Sampler(ort, session, info);
  }

  /**
   * Continues a prompt.
   * @param {string} prompt empty to begin a text
   * @param {TextOptions & SamplingOptions} options
   * @returns {Promise<string>} the continuation, without the prompt
   */
  async sample(prompt, options) {
    return (await this.generate(prompt, options)).text;
  }

  /**
   * Like `sample`, but also returns how the text ended, its seed and its tokens.
   * @param {string} prompt
   * @param {TextOptions & SamplingOptions} options
   * @returns {Promise<Generation>}
   */
  async generate(prompt, options) {
    const pieces = this.stream(prompt, options);
    let text = "";
    for (;;) {
      const { value, done } = await pieces.next();
      if (done) return { text, ...value };
      text += value;
    }
  }

  /**
   * Yields the text in pieces as they are drawn. Arguments are checked at the call. While a long prompt is read,
   * pieces are empty: the caller may give up between any two.
   *
   * A step in a browser runs on the thread that called it: use a worker, or wait for a timer now and then.
   * @param {string} prompt
   * @param {TextOptions & SamplingOptions} options
   * @returns {AsyncGenerator<string, Omit<Generation, "text">>}
   */
  stream(prompt, options) {
    const { length, seed, index, stop, unknown, ...samplingOptions } = options;
    const { special } = this.vocabulary;
    const tokenSampler = new TokenSampler(samplingOptions, this.vocabulary);
    // A model that was trained with folded line ends has never seen CR.
    const folds = this.info.training.newlines === "lf" && typeof prompt === "string";
    const ids = this.vocabulary.encode(folds ? prompt.replace(/\r\n?/g, "\n") : prompt, unknown);
    return this._generate(
      ids.length && !special.has("begin") ? ids : [this.info.startToken, ...ids],
      tokenSampler.penalizes ? ids : [],
      tokenSampler,
      new UniformStream(seed ?? newSeed(), index ?? 0),
      new StopStrings(stop),
      checkCount("length", length, 1),
      tokenSampler.startPattern(length),
    );
  }

  /**
   * @param {number[]} prompt tokens to feed before the first draw, at least one
   * @param {number[]} history
   * @param {TokenSampler} tokenSampler
   * @param {UniformStream} uniforms
   * @param {StopStrings} stop
   * @param {number} length
   * @param {import("./pattern.js").PatternState | null} pattern
   * @returns {AsyncGenerator<string, Omit<Generation, "text">>}
   */
  async *_generate(prompt, history, tokenSampler, uniforms, stop, length, pattern) {
    const make = () => new Text(this.vocabulary, [...history], tokenSampler, stop.copy(), length, pattern?.copy() ?? null);
    const runner = new Runner(this._ort, this._session, this.info);
    for (let i = 0; i < prompt.length - 1; i++) {
      await runner.step([prompt[i]]);
      if (i % 256 === 255) yield "";
    }
    let text = make();
    if (tokenSampler.options.particles > 1) {
      const particles = new Particles(tokenSampler, make, runner, prompt[prompt.length - 1], uniforms);
      while (await particles.step()) yield "";
      text = particles.choose();
      yield text.text;
    } else {
      let last = prompt[prompt.length - 1];
      while (text.finishReason === null) {
        const logits = await runner.step([last]);
        last = tokenSampler.sample(logits, uniforms.next(), text.history, text.tokens.length, text.pattern);
        const piece = text.append(last);
        if (piece) yield piece;
      }
    }
    const finishReason = /** @type {Generation["finishReason"]} */ (text.finishReason);
    return { finishReason, seed: uniforms.seed, index: uniforms.index, tokens: text.tokens };
  }
}

/** One text while it is drawn, apart from the states of the model. */
class Text {
  /**
   * @param {import("./vocab.js").Vocabulary} vocabulary
   * @param {number[]} history tokens of the prompt, if the options look at them
   * @param {TokenSampler} tokenSampler
   * @param {StopStrings} stop
   * @param {number} length
   * @param {import("./pattern.js").PatternState | null} pattern
   */
  constructor(vocabulary, history, tokenSampler, stop, length, pattern) {
    this._end = vocabulary.specialId("end");
    this._decoder = vocabulary.decoder();
    this._tokenSampler = tokenSampler;
    this._stop = stop;
    this._length = length;
    this.history = history;
    this.pattern = pattern;
    /** @type {number[]} */
    this.tokens = [];
    this.text = "";
    /** @type {Generation["finishReason"] | null} */
    this.finishReason = null;
  }

  /** @param {number} token @returns {string} the text that is now certain */
  append(token) {
    const { penalizes, options } = this._tokenSampler;
    this.tokens.push(token);
    if (penalizes) {
      this.history.push(token);
      if (this.history.length > options.penalty_window + PENALTY_HISTORY) {
        this.history = this.history.slice(-options.penalty_window);
      }
    }
    let piece = "";
    if (token === this._end) this.finishReason = "end";
    else if (this.pattern && !this.pattern.advance(token)) this.finishReason = "pattern"; // it is not part of the text
    else {
      piece = this._decoder.decode(token);
      if (this.tokens.length > options.min_length) piece = this._stop.feed(piece);
      if (this._stop.stopped) this.finishReason = "stop";
      else if (this.tokens.length === this._length) this.finishReason = "length";
      else if (this.pattern?.complete) this.finishReason = "pattern";
    }
    if (this.finishReason && !this._stop.stopped) {
      piece += this._stop.feed(this._decoder.flush());
      if (this._stop.stopped) this.finishReason = "stop";
      else piece += this._stop.flush();
    }
    if (this._tokenSampler.options.particles > 1) this.text += piece;
    return piece;
  }
}

/** Several copies of a text, drawn side by side and weighed: "Particles" in runtime/README.md. */
class Particles {
  /**
   * @param {TokenSampler} tokenSampler
   * @param {() => Text} make a new text
   * @param {Runner} runner that has been fed the prompt but its last token
   * @param {number} last that token
   * @param {UniformStream} uniforms of the text
   */
  constructor(tokenSampler, make, runner, last, uniforms) {
    const count = tokenSampler.options.particles;
    this._tokenSampler = tokenSampler;
    this._make = make;
    this._runner = runner;
    this._runner.pick(new Array(count).fill(0));
    this._tokens = new Array(count).fill(last);
    this._texts = Array.from({ length: count }, make);
    /** @type {number[]} */
    this._weights = new Array(count).fill(1);
    this._draws = new UniformStream(uniforms.seed, uniforms.index, 0, 1);
    this._choices = new UniformStream(uniforms.seed, uniforms.index, 0, 2);
  }

  /** @returns {Promise<boolean>} false if all texts had ended */
  async step() {
    if (this._texts.every((text) => text.finishReason !== null)) return false;
    const count = this._texts.length;
    const logits = await this._runner.step(this._tokens);
    const size = logits.length / count;
    this._texts.forEach((text, k) => {
      const uniform = this._draws.next();
      if (text.finishReason !== null) return;
      const row = logits.subarray(k * size, (k + 1) * size);
      const [token, share] = this._tokenSampler.sampleWeighted(row, uniform, text.history, text.tokens.length, text.pattern);
      this._tokens[k] = token;
      this._weights[k] *= share;
      text.append(token);
    });
    const most = Math.max(...this._weights);
    this._weights = this._weights.map((weight) => (most > 0 ? weight / most : 1));
    let [sum, squares] = [0, 0];
    for (const weight of this._weights) {
      sum += weight;
      squares += weight * weight;
    }
    if (sum * sum < (count / 2) * squares) {
      const uniform = this._choices.next();
      const chosen = this._texts.map((_, j) => this._pick(((j + uniform) / count) * sum));
      // A decoder of bytes cannot be copied, so a copy is the same tokens once more.
      this._texts = chosen.map((i) => {
        const copy = this._make();
        for (const token of this._texts[i].tokens) copy.append(token);
        return copy;
      });
      this._tokens = chosen.map((i) => this._tokens[i]);
      this._weights = this._weights.map(() => 1);
      this._runner.pick(chosen);
    }
    return true;
  }

  /** @returns {Text} one of the texts, in proportion to their weights */
  choose() {
    let sum = 0;
    for (const weight of this._weights) sum += weight;
    return this._texts[this._pick(this._choices.next() * sum)];
  }

  /** @param {number} point @returns {number} the first particle up to which the weights exceed the point */
  _pick(point) {
    let reached = 0;
    for (let i = 0; i < this._weights.length; i++) {
      reached += this._weights[i];
      if (reached > point) return i;
    }
    return this._weights.length - 1;
  }
}

/** The step of a model for one or more texts; it keeps their states between calls. */
class Runner {
  /** @param {any} ort @param {any} session @param {ModelInfo} info */
  constructor(ort, session, info) {
    this._ort = ort;
    this._session = session;
    this._states = info.states;
    this._token = BigInt64Array.of(0n);
    /** @type {Record<string, any>} */
    this._feeds = { token: new ort.Tensor("int64", this._token, [1]) };
    for (const { input, size } of info.states) {
      this._feeds[input] = new ort.Tensor("float32", new Float32Array(size), [1, size]);
    }
  }

  /** @param {number[]} tokens one for each text @returns {Promise<Float32Array>} logits [texts, vocab], flat */
  async step(tokens) {
    for (let i = 0; i < tokens.length; i++) this._token[i] = BigInt(tokens[i]);
    // Output tensors are not passed: onnxruntime-web accepts them, but does not write into them.
    const results = await this._session.run(this._feeds);
    for (const { input, output } of this._states) this._feeds[input] = results[output];
    return results.logits.data;
  }

  /** @param {number[]} rows the texts whose states go on, each as often as it is named */
  pick(rows) {
    this._token = new BigInt64Array(rows.length);
    this._feeds.token = new this._ort.Tensor("int64", this._token, [rows.length]);
    for (const { input, size } of this._states) {
      const before = this._feeds[input].data;
      const data = new Float32Array(rows.length * size);
      rows.forEach((row, i) => data.set(before.subarray(row * size, (row + 1) * size), i * size));
      this._feeds[input] = new this._ort.Tensor("float32", data, [rows.length, size]);
    }
  }
}

/** @param {any} session @param {ModelInfo} info */
function checkGraph(session, info) {
  const size = info.vocabulary.size;
  /** @type {[string, any, string[], Map<string, [string, number | null]>][]} */
  const sides = [
    [
      "inputs",
      session.inputMetadata,
      session.inputNames,
      new Map([["token", ["int64", null]], ...info.states.map((s) => /** @type {any} */ ([s.input, ["float32", s.size]]))]),
    ],
    [
      "outputs",
      session.outputMetadata,
      session.outputNames,
      new Map([["logits", ["float32", size]], ...info.states.map((s) => /** @type {any} */ ([s.output, ["float32", s.size]]))]),
    ],
  ];
  for (const [what, metadata, names, expected] of sides) {
    if (names.join() !== [...expected.keys()].join()) {
      throw new ModelFileError(`the graph's ${what} are ${names.join(", ")}; its metadata asks for ${[...expected.keys()].join(", ")}`);
    }
    for (const { name, type, shape } of metadata) {
      const [dtype, width] = /** @type {[string, number | null]} */ (expected.get(name));
      const fits = width === null ? shape.length === 1 : shape.length === 2 && shape[1] === width;
      if (type !== dtype || !fits || typeof shape[0] === "number") {
        throw new ModelFileError(
          `'${name}' is ${type} [${shape}]; its metadata asks for ${dtype} [batch${width === null ? "" : `, ${width}`}]`,
        );
      }
    }
  }
}

/** @param {unknown} error */
function firstLine(error) {
  return String(error instanceof Error ? error.message : error).trim().split("\n")[0].slice(0, 300);
}
