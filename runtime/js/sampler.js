// Text from a charrnn model file or generator with ONNX Runtime, in a browser (onnxruntime-web) or in Node (onnxruntime-node).
// The same model, prompt, options and seed give the text that the Python runtime gives: see runtime/README.md.

import { classify, logPrior } from "./classifying.js";
import { checkCompleteOptions, complete, nextTokens } from "./completing.js";
import { CharrnnError, ModelFileError, ModelOutputError, UnknownCharacterError, UsageError } from "./errors.js";
import { readModelFile } from "./model_file.js";
import { UniformStream } from "./philox.js";
import { initialState, Runner } from "./runner.js";
import { brokenLogits, checkCount, TokenSampler, StopStrings } from "./sampling.js";

export { CharrnnError, ModelFileError, ModelOutputError, readModelFile, UniformStream, UnknownCharacterError, UsageError };

const PENALTY_HISTORY = 4096; // tokens kept beyond the penalty window before the list is shortened
const PROMPT_PIECE = 256; // tokens of a prompt that are read before the caller may give up
const [FIRST_BLOCK, LARGEST_BLOCK] = [8, 256]; // tokens that a generator draws in a call
const BLOCK_MS = 30; // blocks that take longer do not grow

/** @typedef {import("./model_file.js").ModelInfo} ModelInfo */
/** @typedef {import("./sampling.js").SamplingOptions} SamplingOptions */
/** @typedef {import("./completing.js").CompleteOptions} CompleteOptions */
/** @typedef {import("./completing.js").Completions} Completions */

/**
 * @typedef {object} TextOptions
 * @property {number} length how many tokens to draw at most, at least 1
 * @property {number | bigint} [seed] 0 to 2**64 - 1; the same seed gives the same text; a new one if not given
 * @property {number | bigint} [index] which of the texts of this seed
 * @property {string | string[]} [stop] strings at which the text ends; they are not part of it
 * @property {"error" | "skip"} [unknown] what to do with prompt characters the model does not know
 * @property {string | null} [label] what kind of text, one of `vocabulary.labels`
 */

/**
 * How a prompt is read.
 * @typedef {object} PromptOptions
 * @property {"error" | "skip"} [unknown] what to do with prompt characters the model does not know
 * @property {string | null} [label] what kind of text, one of `vocabulary.labels`
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
   * A sampler for a model file, or for a generator. A generator draws many tokens in a call, which is faster, but it
   * knows only `temperature`, `top_k`, `top_p` and `min_p` of the options.
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
    const { length, seed, index, stop, unknown, label, ...samplingOptions } = options;
    const tokenSampler = new TokenSampler(samplingOptions, this.vocabulary);
    if (this.info.generator && !tokenSampler.fitsGenerator) {
      throw new UsageError("a generator knows only temperature, top_k, top_p and min_p; load the model file instead");
    }
    const { ids, fed } = this._encodePrompt(prompt, { unknown, label });
    return this._generate(
      fed,
      tokenSampler.penalizes ? ids : [],
      tokenSampler,
      new UniformStream(seed ?? newSeed(), index ?? 0),
      new StopStrings(stop),
      checkCount("length", length, 1),
      tokenSampler.startPattern(length),
    );
  }

  /**
   * The most probable continuations of a prompt, for autocomplete. A continuation has at least one token, and ends
   * before a character of `until` or at the model's end token.
   * @param {string} prompt
   * @param {CompleteOptions & PromptOptions} [options]
   * @returns {Promise<Completions>}
   */
  async complete(prompt, { unknown, label, ...options } = {}) {
    this._checkSteps();
    const checked = checkCompleteOptions(options, this.vocabulary);
    const [runner, logits] = await this._after(prompt, { unknown, label });
    return complete(runner, logits, this.vocabulary, checked);
  }

  /**
   * The probabilities of what comes after a prompt, the most probable first.
   * @param {string} prompt
   * @param {PromptOptions} [options]
   * @returns {Promise<Map<string | number, number>>} by character (by byte for a model of bytes); the empty text is the
   *   model's end token. Other special tokens are left out.
   */
  async next(prompt, options = {}) {
    this._checkSteps();
    const [, logits] = await this._after(prompt, options);
    return nextTokens(logits, this.vocabulary);
  }

  /**
   * The probability of each label for a whole text, by Bayes' rule, the most probable first.
   * @param {string} text characters that the model has never seen are charged as the least likely one
   * @param {{prior?: "training" | "uniform"}} [options] the labels' shares of the training items, or equal ones
   * @returns {Promise<Map<string, number>>}
   */
  async classify(text, { prior = "training" } = {}) {
    this._checkSteps();
    const logs = logPrior(this.info, prior);
    const targets = this._encode(text, "charge");
    const end = this.vocabulary.specialId("end");
    if (end !== undefined) targets.push(end);
    return classify(new Runner(this._ort, this._session, this.info), this.info, targets, logs);
  }

  /** @throws {UsageError} it is a generator, which gives no logits */
  _checkSteps() {
    if (this.info.generator) throw new UsageError("a generator only draws texts; load the model file instead");
  }

  /** @param {string} prompt @param {PromptOptions} options @returns {Promise<[Runner, Float32Array]>} a runner that has been fed it, and the logits [vocab] */
  async _after(prompt, options) {
    const { fed } = this._encodePrompt(prompt, options);
    const runner = new Runner(this._ort, this._session, this.info);
    let logits = new Float32Array();
    for (const token of fed) logits = await runner.step([token]);
    return [runner, logits];
  }

  /** @param {string} text @param {"error" | "skip" | "charge"} [unknown] @returns {number[]} */
  _encode(text, unknown) {
    // A model that was trained with folded line ends has never seen CR.
    const folds = this.info.training.newlines === "lf" && typeof text === "string";
    return this.vocabulary.encode(folds ? text.replace(/\r\n?/g, "\n") : text, unknown);
  }

  /**
   * @param {string} prompt @param {PromptOptions} options
   * @returns {{ids: number[], fed: number[]}} its own tokens, and those to feed: at least one
   */
  _encodePrompt(prompt, { unknown = "error", label }) {
    if (unknown !== "error" && unknown !== "skip") throw new UsageError(`unknown: ${unknown}: use "error" or "skip"`);
    const ids = this._encode(prompt, unknown);
    const begins = ids.length && !this.vocabulary.special.has("begin") ? [] : [this.info.startToken];
    return { ids, fed: [...(label == null ? begins : [this.vocabulary.labelToken(label)]), ...ids] };
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
    let last = prompt[prompt.length - 1];
    let text = make();
    const drawer = this.info.generator
      ? new BlockDrawer(this._ort, this._session, this.info, tokenSampler.options, uniforms)
      : null;
    const runner = new Runner(this._ort, this._session, this.info);
    for (let at = 0; at < prompt.length - 1; at += PROMPT_PIECE) {
      if (at) yield "";
      const piece = prompt.slice(at, Math.min(at + PROMPT_PIECE, prompt.length - 1));
      if (drawer) await drawer.read(piece);
      else for (const token of piece) await runner.step([token]);
    }
    if (drawer) {
      while (text.finishReason === null) {
        let piece = "";
        for (last of await drawer.draw(last, text.tokens.length, length)) {
          piece += text.append(last);
          if (text.finishReason !== null) break;
        }
        if (piece) yield piece;
      }
    } else if (tokenSampler.options.particles > 1) {
      const particles = new Particles(tokenSampler, make, runner, last, uniforms);
      while (await particles.step()) yield "";
      text = particles.choose();
      yield text.text;
    } else {
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

/** Reads and draws with a generator, a block of tokens in a call. It keeps the states between calls. */
class BlockDrawer {
  /**
   * @param {any} ort @param {any} session @param {ModelInfo} info
   * @param {Required<SamplingOptions>} options @param {UniformStream} uniforms for its seed and index
   */
  constructor(ort, session, info, { temperature, top_k, top_p, min_p }, { seed, index }) {
    this._ort = ort;
    this._session = session;
    this._states = info.states;
    this._end = info.vocabulary.specialId("end") ?? -1;
    this._block = FIRST_BLOCK;
    this._broken = false;
    const real = (/** @type {number} */ value) => new ort.Tensor("float64", Float64Array.of(value), [1]);
    /** @type {Record<string, any>} */
    this._feeds = {
      index: this._integers([BigInt.asIntN(64, index)], [1]),
      seed: this._integers([BigInt.asIntN(64, seed)], []),
      end: this._integers([this._end], []),
      temperature: real(temperature),
      top_k: this._integers([top_k ?? 0], [1]),
      top_p: real(top_p ?? 1),
      min_p: real(min_p ?? 0),
      ...initialState(ort, info),
    };
  }

  /** @param {(number | bigint)[]} values @param {number[]} shape */
  _integers(values, shape) {
    return new this._ort.Tensor("int64", BigInt64Array.from(values, BigInt), shape);
  }

  /** @param {number[]} tokens to feed */
  async read(tokens) {
    await this._run(tokens, 0, 1); // the token that is drawn is not fed
  }

  /**
   * @param {number} last the token to feed
   * @param {number} drawn how many have been drawn
   * @param {number} length how many to draw in all
   * @returns {Promise<number[]>} the next tokens
   */
  async draw(last, drawn, length) {
    if (this._broken) throw brokenLogits("NaN or infinite values");
    const begun = performance.now();
    const count = Math.min(this._block, length - drawn);
    const tokens = await this._run([last], drawn, count);
    const took = performance.now() - begun;
    if (took < BLOCK_MS / 2) this._block = Math.min(2 * this._block, LARGEST_BLOCK);
    else if (took > 2 * BLOCK_MS) this._block = Math.max(this._block / 2, FIRST_BLOCK);
    // The tokens before those logits are given up first.
    this._broken = tokens.length < count && tokens[tokens.length - 1] !== this._end;
    return tokens;
  }

  /** @param {number[]} prompt @param {number} position @param {number} length */
  async _run(prompt, position, length) {
    const results = await this._session.run({
      ...this._feeds,
      prompt: this._integers(prompt, [prompt.length, 1]),
      prompt_lengths: this._integers([prompt.length], [1]),
      position: this._integers([position], [1]),
      length: this._integers([length], []),
    });
    for (const { input, output } of this._states) this._feeds[input] = results[output];
    return Array.from(results.tokens.data.subarray(0, Number(results.counts.data[0])), Number);
  }
}

/** @typedef {[name: string, type: string, shape: (string | number)[]]} Value a string is a dynamic size */

/** @param {ModelInfo} info @returns {Record<string, Value[]>} what its graph must have, in this order */
function expectedValues(info) {
  /** @returns {Value[]} */
  const states = (/** @type {"input" | "output"} */ side) => info.states.map((s) => [s[side], "float32", ["batch", s.size]]);
  if (!info.generator) {
    return {
      inputs: [["token", "int64", ["batch"]], ...states("input")],
      outputs: [["logits", "float32", ["batch", info.vocabulary.size]], ...states("output")],
    };
  }
  return {
    inputs: [
      ["prompt", "int64", ["prompt_length", "batch"]],
      .../** @type {Value[]} */ (["prompt_lengths", "index", "position"].map((name) => [name, "int64", ["batch"]])),
      .../** @type {Value[]} */ (["seed", "length", "end"].map((name) => [name, "int64", []])),
      ["temperature", "float64", ["batch"]],
      ["top_k", "int64", ["batch"]],
      ["top_p", "float64", ["batch"]],
      ["min_p", "float64", ["batch"]],
      ...states("input"),
    ],
    outputs: [["tokens", "int64", ["drawn", "batch"]], ["counts", "int64", ["batch"]], ...states("output")],
  };
}

/** @param {any} session @param {ModelInfo} info */
function checkGraph(session, info) {
  const { inputs, outputs } = expectedValues(info);
  for (const [what, expected, names, metadata] of [
    ["inputs", inputs, session.inputNames, session.inputMetadata],
    ["outputs", outputs, session.outputNames, session.outputMetadata],
  ]) {
    // A generator that was made with log-probabilities has one more output.
    const found = names.filter((/** @type {string} */ name) => !(info.generator && name === "log_probs")).join(", ");
    const wanted = expected.map(([name]) => name).join(", ");
    if (found !== wanted) throw new ModelFileError(`the graph's ${what} are ${found}; its metadata asks for ${wanted}`);
    for (const [name, type, shape] of expected) {
      const value = metadata.find((/** @type {any} */ item) => item.name === name);
      const fits = (/** @type {string | number} */ size, /** @type {number} */ axis) =>
        typeof size === "number" ? value.shape[axis] === size : typeof value.shape[axis] !== "number";
      if (value.type !== type || value.shape.length !== shape.length || !shape.every(fits)) {
        throw new ModelFileError(
          `'${name}' is ${value.type} [${value.shape}]; its metadata asks for ${type} [${shape.join(", ")}]`,
        );
      }
    }
  }
}

/** @param {unknown} error */
function firstLine(error) {
  return String(error instanceof Error ? error.message : error).trim().split("\n")[0].slice(0, 300);
}
