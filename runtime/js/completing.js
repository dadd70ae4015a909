// The most probable continuations of a text, with their exact probabilities: a beam search with a bound.
// charrnn_runtime/completing.py says how it works.

import { UsageError } from "./errors.js";
import { checkCount, logSoftmax } from "./sampling.js";

/** @typedef {import("./runner.js").Runner} Runner */
/** @typedef {import("./vocab.js").Vocabulary} Vocabulary */

const MAX_COMPLETIONS = 1000;
const MAX_LENGTH = 1000;
const MAX_WIDTH = 4096;

/**
 * @typedef {object} CompleteOptions
 * @property {number} [n] how many continuations, at most 1,000; 5 if not given
 * @property {string} [until] characters at which a continuation ends, " \n.," if not given; for a model of bytes only ASCII
 * @property {number} [max_length] how many tokens a continuation has at most, at most 1,000; 20 if not given
 * @property {number} [width] how many beginnings are followed at a time, at most 4,096; 64 if not given
 */

/**
 * A continuation.
 * @typedef {object} Completion
 * @property {string} text without the prompt and the character at which it ends
 * @property {number} probability that the text goes on with `text` and then ends (if not `ended`: goes on with `text`)
 * @property {boolean} ended false if it was cut at `max_length`
 * @property {number[]} tokens
 */

/**
 * Continuations, the most probable one first.
 * @typedef {object} Completions
 * @property {Completion[]} items
 * @property {boolean} exact whether it is certain that no other continuation is more probable than the last one here
 * @property {number} width how many beginnings were followed at a time at most
 */

/**
 * Tokens that a text begins with, while it is completed.
 * @typedef {{logProb: number, tokens: number[]}} Beginning
 */

/** @param {CompleteOptions} options @param {Vocabulary} vocabulary @throws {UsageError} one is out of range */
export function checkCompleteOptions({ n = 5, until = " \n.,", max_length = 20, width = 64 }, vocabulary) {
  checkCount("n", n, 1, MAX_COMPLETIONS);
  checkCount("max_length", max_length, 1, MAX_LENGTH);
  checkCount("width", width, 1, MAX_WIDTH);
  if (typeof until !== "string") throw new UsageError(`until must be a string of characters, got ${String(until)}`);
  const symbols = Array.from(until, (character) => /** @type {number} */ (character.codePointAt(0)));
  if (vocabulary.kind === "bytes" && symbols.some((symbol) => symbol > 127)) {
    throw new UsageError("until: for a model of bytes only ASCII characters, which are a single byte each");
  }
  const ends = new Set(symbols.map((symbol) => vocabulary.token(symbol)));
  ends.add(vocabulary.specialId("end"));
  ends.delete(undefined);
  return { n, max_length, width, ends: /** @type {Set<number>} */ (ends) };
}

/**
 * @param {Runner} runner that has been fed the prompt
 * @param {Float32Array} logits [vocab] after it
 * @param {Vocabulary} vocabulary
 * @param {ReturnType<typeof checkCompleteOptions>} options
 * @returns {Promise<Completions>}
 */
export async function complete(runner, logits, vocabulary, { n, max_length, width, ends }) {
  const size = vocabulary.size;
  const grows = Array.from({ length: size }, (_, id) => id).filter((id) => !vocabulary.isSpecial(id) && !ends.has(id));
  const best = new Best(n);
  /** @type {Beginning[]} */
  let beginnings = [{ logProb: 0, tokens: [] }];
  let dropped = -Infinity;
  for (let length = 0; length < max_length; length++) {
    if (length) logits = await runner.step(beginnings.map(({ tokens }) => tokens[length - 1]));
    const rows = beginnings.map((_, row) => logSoftmax(logits.subarray(row * size, (row + 1) * size)));
    if (length && ends.size) {
      const ended = beginnings.map(({ logProb, tokens }, row) => {
        return { logProb: logProb + logSumExp([...ends].map((id) => rows[row][id])), tokens };
      });
      best.add(ended, true);
    }
    /** @type {(Beginning & {row: number})[]} */
    let candidates = [];
    beginnings.forEach(({ logProb, tokens }, row) => {
      for (const id of grows) {
        const sum = logProb + rows[row][id];
        if (sum >= best.least && sum > -Infinity) candidates.push({ logProb: sum, tokens: [...tokens, id], row });
      }
    });
    if (length + 1 === max_length) {
      best.add(candidates, false);
      break;
    }
    if (!candidates.length) break;
    if (candidates.length > width) {
      const order = candidates.map((_, i) => i).sort((a, b) => candidates[b].logProb - candidates[a].logProb || a - b);
      dropped = Math.max(dropped, candidates[order[width]].logProb);
      candidates = order.slice(0, width).sort((a, b) => a - b).map((i) => candidates[i]);
    }
    beginnings = candidates;
    runner.pick(candidates.map(({ row }) => row));
  }
  const items = best.items.map(({ logProb, tokens, ended }) => {
    return { text: vocabulary.decode(tokens), probability: Math.exp(logProb), ended, tokens };
  });
  return { items, exact: dropped <= best.least, width };
}

/**
 * The probability of each next character.
 * @param {Float32Array} logits [vocab] @param {Vocabulary} vocabulary
 * @returns {Map<string | number, number>} see `Sampler.next`
 */
export function nextTokens(logits, vocabulary) {
  const logs = logSoftmax(logits);
  const order = Array.from(logs, (_, id) => id).sort((a, b) => logs[b] - logs[a] || a - b);
  const end = vocabulary.specialId("end");
  const shown = order.filter((id) => id === end || !vocabulary.isSpecial(id));
  return new Map(shown.map((id) => [id === end ? "" : vocabulary.symbol(id), Math.exp(logs[id])]));
}

/** The n best continuations so far. */
class Best {
  /** @param {number} n */
  constructor(n) {
    this._n = n;
    /** @type {(Beginning & {ended: boolean})[]} */
    this.items = [];
    this.least = -Infinity; // a continuation with a smaller log-probability is not among the n best
  }

  /** @param {Beginning[]} found @param {boolean} ended */
  add(found, ended) {
    for (const { logProb, tokens } of found) {
      if (logProb > -Infinity && logProb >= this.least) this.items.push({ logProb, tokens, ended });
    }
    this.items.sort((a, b) => b.logProb - a.logProb || compareIds(a.tokens, b.tokens));
    this.items.length = Math.min(this.items.length, this._n);
    if (this.items.length === this._n) this.least = this.items[this._n - 1].logProb;
  }
}

/** @param {number[]} a @param {number[]} b @returns {number} */
function compareIds(a, b) {
  for (let i = 0; i < Math.min(a.length, b.length); i++) if (a[i] !== b[i]) return a[i] - b[i];
  return a.length - b.length;
}

/** @param {number[]} values at least one @returns {number} the logarithm of the sum of their exponentials */
export function logSumExp(values) {
  const most = Math.max(...values);
  if (most === -Infinity) return most;
  let sum = 0;
  for (const value of values) sum += Math.exp(value - most);
  return most + Math.log(sum);
}
