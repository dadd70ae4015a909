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
    const end = this.vocabulary.specialId("end");
    const { min_length, penalty_window } = tokenSampler.options;
    const decoder = this.vocabulary.decoder();
    const runner = new Runner(this._ort, this._session, this.info);
    /** @type {number[]} */
    const tokens = [];
    for (let i = 0; i < prompt.length - 1; i++) {
      await runner.step(prompt[i]);
      if (i % 256 === 255) yield "";
    }
    let last = prompt[prompt.length - 1];
    /** @type {Generation["finishReason"] | null} */
    let finishReason = null;
    while (finishReason === null) {
      const logits = await runner.step(last);
      last = tokenSampler.sample(logits, uniforms.next(), history, tokens.length, pattern);
      tokens.push(last);
      if (tokenSampler.penalizes) {
        history.push(last);
        if (history.length > penalty_window + PENALTY_HISTORY) history = history.slice(-penalty_window);
      }
      let piece = "";
      if (last === end) finishReason = "end";
      else if (pattern && !pattern.advance(last)) finishReason = "pattern"; // the token is not part of the text
      else {
        piece = decoder.decode(last);
        if (tokens.length > min_length) piece = stop.feed(piece);
        if (stop.stopped) finishReason = "stop";
        else if (tokens.length === length) finishReason = "length";
        else if (pattern?.complete) finishReason = "pattern";
      }
      if (finishReason && !stop.stopped) {
        piece += stop.feed(decoder.flush());
        if (stop.stopped) finishReason = "stop";
        else piece += stop.flush();
      }
      if (piece) yield piece;
    }
    return { finishReason, seed: uniforms.seed, index: uniforms.index, tokens };
  }
}

/** The step of a model; it keeps its state between calls. */
class Runner {
  /** @param {any} ort @param {any} session @param {ModelInfo} info */
  constructor(ort, session, info) {
    this._session = session;
    this._states = info.states;
    this._token = BigInt64Array.of(0n);
    /** @type {Record<string, any>} */
    this._feeds = { token: new ort.Tensor("int64", this._token, [1]) };
    for (const { input, size } of info.states) {
      this._feeds[input] = new ort.Tensor("float32", new Float32Array(size), [1, size]);
    }
  }

  /** @param {number} token @returns {Promise<Float32Array>} logits [vocab] */
  async step(token) {
    this._token[0] = BigInt(token);
    // Output tensors are not passed: onnxruntime-web accepts them, but does not write into them.
    const results = await this._session.run(this._feeds);
    for (const { input, output } of this._states) this._feeds[input] = results[output];
    return results.logits.data;
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
