// The step of a model, for one or more texts side by side.

/** @typedef {import("./model_file.js").ModelInfo} ModelInfo */

/** The step of a model for one or more texts; it keeps their states between calls. */
export class Runner {
  /** @param {any} ort @param {any} session @param {ModelInfo} info */
  constructor(ort, session, info) {
    this._ort = ort;
    this._session = session;
    this._states = info.states;
    this._token = BigInt64Array.of(0n);
    /** @type {Record<string, any>} */
    this._feeds = { token: new ort.Tensor("int64", this._token, [1]), ...initialState(ort, info) };
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

/** @param {any} ort @param {ModelInfo} info @returns {Record<string, any>} the states before the first token of a text */
export function initialState(ort, info) {
  const state = ({ input, size }) => [input, new ort.Tensor("float32", new Float32Array(size), [1, size])];
  return Object.fromEntries(info.states.map(state));
}
