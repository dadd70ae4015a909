// Drawing a token from logits, as "Drawing a token" in runtime/README.md specifies it.

import { ModelOutputError, UsageError } from "./errors.js";
import { Automaton, patternOfFill } from "./pattern.js";

/** @typedef {import("./vocab.js").Vocabulary} Vocabulary */
/** @typedef {import("./pattern.js").PatternState} PatternState */

/**
 * How to draw; see `SamplingOptions` of the Python runtime for what each does.
 * @typedef {object} SamplingOptions
 * @property {number} [temperature] 0 is greedy
 * @property {number | null} [top_k]
 * @property {number | null} [typical_p]
 * @property {number | null} [top_p]
 * @property {number | null} [min_p]
 * @property {number} [repetition_penalty]
 * @property {number} [frequency_penalty]
 * @property {number} [presence_penalty]
 * @property {number} [penalty_window]
 * @property {Record<string, number> | null} [logit_bias] character to a number that is added to its logit
 * @property {string | null} [allowed] only these characters (and the end token)
 * @property {string | null} [pattern] a regular expression that the whole text matches
 * @property {string | null} [fill] a text with gaps, instead of a pattern: `?` is a gap
 * @property {number} [particles] with a pattern: how many copies are drawn and weighed
 * @property {number} [min_length]
 */

/** @type {Required<SamplingOptions>} */
const DEFAULTS = {
  temperature: 1,
  top_k: null,
  typical_p: null,
  top_p: null,
  min_p: null,
  repetition_penalty: 1,
  frequency_penalty: 0,
  presence_penalty: 0,
  penalty_window: 64,
  logit_bias: null,
  allowed: null,
  pattern: null,
  fill: null,
  particles: 1,
  min_length: 0,
};

const MAX_PARTICLES = 1024;

/** @param {string} name @param {unknown} value @returns {number} */
function real(name, value) {
  if (typeof value !== "number" || !Number.isFinite(value)) {
    throw new UsageError(`${name} must be a finite number, got ${String(value)}`);
  }
  return value;
}

/**
 * A whole number in a range.
 * @param {string} name @param {unknown} value @param {number} least @param {number} [most]
 * @returns {number}
 */
export function checkCount(name, value, least, most = Infinity) {
  if (typeof value !== "number" || !Number.isSafeInteger(value) || value < least || value > most) {
    const range = most < Infinity ? `from ${least} to ${most}` : `of at least ${least}`;
    throw new UsageError(`${name} must be a whole number ${range}, got ${String(value)}`);
  }
  return value;
}

/**
 * All options, checked, with the defaults where none are given.
 * @param {SamplingOptions} options
 * @returns {Required<SamplingOptions>}
 */
export function checkOptions(options) {
  for (const name of Object.keys(options)) {
    if (!(name in DEFAULTS)) throw new UsageError(`unknown option ${name}; known: ${Object.keys(DEFAULTS).join(", ")}`);
  }
  const given = Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined));
  const all = { ...DEFAULTS, ...given };
  if (real("temperature", all.temperature) < 0) {
    throw new UsageError(`temperature must be 0 (greedy) or more, got ${all.temperature}`);
  }
  if (all.top_k !== null) checkCount("top_k", all.top_k, 0);
  for (const name of /** @type {const} */ (["typical_p", "top_p", "min_p"])) {
    const value = all[name];
    if (value === null) continue;
    real(name, value);
    if (value < 0 || value > 1 || (value === 0 && name !== "min_p")) {
      throw new UsageError(`${name} must be ${name === "min_p" ? "" : "above "}0 to 1, got ${value}`);
    }
  }
  for (const name of /** @type {const} */ (["repetition_penalty", "frequency_penalty", "presence_penalty"])) {
    real(name, all[name]);
  }
  if (all.repetition_penalty <= 0) {
    throw new UsageError(`repetition_penalty must be above 0, got ${all.repetition_penalty}`);
  }
  checkCount("penalty_window", all.penalty_window, 1);
  checkCount("min_length", all.min_length, 0);
  for (const [character, bias] of Object.entries(all.logit_bias ?? {})) {
    if ([...character].length !== 1) throw new UsageError(`logit_bias is for single characters, got "${character}"`);
    if (bias !== -Infinity) real(`logit_bias["${character}"]`, bias);
  }
  if (all.allowed !== null && (typeof all.allowed !== "string" || !all.allowed)) {
    throw new UsageError("allowed must be a string of at least one character");
  }
  if (checkCount("particles", all.particles, 1) > MAX_PARTICLES) {
    throw new UsageError(`particles must be at most ${MAX_PARTICLES}, got ${all.particles}`);
  }
  if (all.particles > 1) {
    if (all.temperature === 0) throw new UsageError("particles need a temperature above 0");
    if (all.pattern === null && all.fill === null && all.allowed === null && !all.min_length) {
      throw new UsageError("particles are weighed by what a pattern leaves; give a pattern, or leave particles out");
    }
  }
  if (all.pattern !== null && all.fill !== null) throw new UsageError("give a pattern or fill, not both");
  return all;
}

/**
 * @param {ArrayLike<number>} logits
 * @returns {number} the largest
 * @throws {ModelOutputError} they hold NaN or +infinity, or nothing finite
 */
function largest(logits) {
  let most = -Infinity;
  let broken = false;
  for (let i = 0; i < logits.length; i++) {
    if (Number.isNaN(logits[i])) broken = true;
    else if (logits[i] > most) most = logits[i];
  }
  if (broken || !Number.isFinite(most)) throw brokenLogits(broken ? "NaN" : "infinite values");
  return most;
}

/**
 * Natural log-probabilities in float64.
 * @param {ArrayLike<number>} logits @returns {Float64Array}
 * @throws {ModelOutputError} they hold NaN or +infinity, or nothing finite
 */
export function logSoftmax(logits) {
  const most = largest(logits);
  const logs = Float64Array.from(logits, (value) => value - most);
  let sum = 0;
  for (const value of logs) sum += Math.exp(value);
  const total = Math.log(sum);
  return logs.map((value) => value - total);
}

/** @param {string} what the logits hold */
export function brokenLogits(what) {
  return new ModelOutputError(
    `the model's logits hold ${what}: its weights are damaged, or training had diverged before it was saved`,
  );
}

/**
 * How many of the first values, at least one, reach this fraction of their sum.
 * @param {number[]} values @param {number} fraction
 */
function reaching(values, fraction) {
  let total = 0;
  for (const value of values) total += value;
  let sum = 0;
  for (let n = 0; n < values.length; n++) {
    sum += values[n];
    if (sum >= fraction * total) return n + 1;
  }
  return values.length;
}

/**
 * The part of the ranking whose surprise is nearest to the entropy, still in rank order.
 * @param {Float64Array} weights @param {number[]} ranking @param {number} fraction
 */
function typical(weights, ranking, fraction) {
  const ranked = ranking.filter((i) => weights[i] > 0);
  let total = 0;
  for (const i of ranked) total += weights[i];
  const p = ranked.map((i) => weights[i] / total);
  const surprise = p.map((value) => -Math.log(value));
  let entropy = 0;
  for (let r = 0; r < p.length; r++) entropy += p[r] * surprise[r];
  const distance = surprise.map((value) => Math.abs(value - entropy));
  const nearest = p.map((_, r) => r).sort((a, b) => distance[a] - distance[b] || a - b);
  const kept = nearest.slice(0, reaching(nearest.map((r) => p[r]), fraction));
  return kept.sort((a, b) => a - b).map((r) => ranked[r]);
}

/**
 * One token for the logits and a uniform number in [0, 1): greedy, or temperature, filters and the draw.
 * @param {ArrayLike<number>} logits
 * @param {Required<SamplingOptions>} options
 * @param {number} uniform
 * @returns {number}
 */
export function sampleToken(logits, options, uniform) {
  const most = largest(logits);
  const size = logits.length;
  const { temperature, top_k, typical_p, top_p, min_p } = options;
  if (temperature === 0) {
    for (let i = 0; i < size; i++) if (logits[i] === most) return i;
  }
  let weights = new Float64Array(size);
  for (let i = 0; i < size; i++) weights[i] = Math.exp((logits[i] - most) / temperature);
  if (top_k || (typical_p ?? 1) < 1 || (top_p ?? 1) < 1 || min_p) {
    const all = weights;
    let ranking = Array.from(all, (_, i) => i).sort((a, b) => all[b] - all[a] || a - b);
    if (top_k) ranking = ranking.slice(0, top_k);
    if (typical_p !== null && typical_p < 1) ranking = typical(all, ranking, typical_p);
    if (top_p !== null && top_p < 1) ranking = ranking.slice(0, reaching(ranking.map((i) => all[i]), top_p));
    if (min_p) {
      const least = min_p * all[ranking[0]];
      ranking = ranking.filter((i) => all[i] >= least);
    }
    weights = new Float64Array(size);
    for (const i of ranking) weights[i] = all[i];
  }
  let total = 0;
  for (let i = 0; i < size; i++) {
    total += weights[i];
    weights[i] = total; // from here on: the sums up to i
  }
  const threshold = uniform * total;
  for (let i = 0; i < size; i++) if (weights[i] > threshold) return i;
  return weights.indexOf(total); // uniform * total was rounded up to total
}

/** Draws for one text: the options, compiled for a vocabulary. */
export class TokenSampler {
  /**
   * @param {SamplingOptions} options
   * @param {Vocabulary} vocabulary
   * @throws {UsageError} an option is out of range or names a character the model does not know
   */
  constructor(options, vocabulary) {
    this.options = checkOptions(options);
    this._end = vocabulary.specialId("end");
    const { repetition_penalty, frequency_penalty, presence_penalty, logit_bias, allowed, min_length } = this.options;
    this.penalizes = repetition_penalty !== 1 || frequency_penalty !== 0 || presence_penalty !== 0;
    /** @type {Float64Array | null} */
    this._bias = null;
    for (const [character, value] of Object.entries(logit_bias ?? {})) {
      this._bias ??= new Float64Array(vocabulary.size);
      for (const id of new Set(vocabulary.encode(character))) this._bias[id] += value;
    }
    /** @type {Set<number> | null} */
    this._allowed = null;
    if (allowed !== null) {
      this._allowed = new Set(vocabulary.encode(allowed));
      if (this._end !== undefined) this._allowed.add(this._end);
    }
    const delaysEnd = min_length > 0 && this._end !== undefined;
    /** @type {Automaton | null} */
    this._automaton = null;
    const expression = this.options.fill === null ? this.options.pattern : patternOfFill(this.options.fill);
    if (expression !== null) {
      const forbidden = /** @param {number} id */ (id) =>
        (this._allowed !== null && !this._allowed.has(id)) || this._bias?.[id] === -Infinity;
      this._automaton = new Automaton(expression, vocabulary, (id) => !forbidden(id), min_length);
    }
    this._adjusts = this.penalizes || this._bias !== null || this._allowed !== null || delaysEnd;
  }

  /** Whether a generator can draw with these options: it knows temperature, top_k, top_p and min_p. */
  get fitsGenerator() {
    return !this._adjusts && !this._automaton && (this.options.typical_p ?? 1) === 1;
  }

  /**
   * The state of a text of at most `length` tokens in the pattern, or null without a pattern.
   * @param {number} length
   * @throws {UsageError} every match is longer
   */
  startPattern(length) {
    return this._automaton && this._automaton.start(length);
  }

  /**
   * One token.
   * @param {Float32Array} logits [vocab]
   * @param {number} uniform in [0, 1)
   * @param {number[]} history tokens of the prompt and all drawn ones; needed if `penalizes`
   * @param {number} drawn how many have been drawn
   * @param {PatternState | null} pattern where the text stands in the pattern
   * @returns {number}
   */
  sample(logits, uniform, history = [], drawn = 0, pattern = null) {
    if (!this._adjusts && !pattern) return sampleToken(logits, this.options, uniform);
    largest(logits); // what is wrong with the model is told before the options are blamed
    const adjusted = this._adjusted(logits, history);
    this._forbid(adjusted, drawn, pattern);
    return sampleToken(adjusted, this.options, uniform);
  }

  /**
   * `sample`, and the share of the probability at this temperature that `allowed` and the like have left.
   * @param {Float32Array} logits
   * @param {number} uniform
   * @param {number[]} history
   * @param {number} drawn
   * @param {PatternState | null} pattern
   * @returns {[number, number]}
   */
  sampleWeighted(logits, uniform, history, drawn, pattern) {
    largest(logits);
    const adjusted = this._adjusted(logits, history);
    const most = largest(adjusted);
    const weights = adjusted.map((value) => Math.exp((value - most) / this.options.temperature));
    this._forbid(adjusted, drawn, pattern);
    let [left, total] = [0, 0];
    for (let i = 0; i < weights.length; i++) {
      total += weights[i];
      if (adjusted[i] > -Infinity) left += weights[i];
    }
    return [sampleToken(adjusted, this.options, uniform), left / total];
  }

  /** @param {Float32Array} logits @param {number[]} history */
  _adjusted(logits, history) {
    const { repetition_penalty, frequency_penalty, presence_penalty, penalty_window } = this.options;
    const adjusted = Float64Array.from(logits);
    if (this.penalizes) {
      /** @type {Map<number, number>} */
      const counts = new Map();
      for (const id of history.slice(-penalty_window)) counts.set(id, (counts.get(id) ?? 0) + 1);
      for (const [id, count] of counts) {
        const logit = adjusted[id];
        const penalized = logit > 0 ? logit / repetition_penalty : logit * repetition_penalty;
        adjusted[id] = penalized - (count * frequency_penalty + presence_penalty);
      }
    }
    if (this._bias) for (let i = 0; i < adjusted.length; i++) adjusted[i] += this._bias[i];
    return adjusted;
  }

  /** Makes the logits of tokens that must not be drawn -Infinity. @param {Float64Array} adjusted @param {number} drawn @param {PatternState | null} pattern */
  _forbid(adjusted, drawn, pattern) {
    if (this._allowed) for (let i = 0; i < adjusted.length; i++) if (!this._allowed.has(i)) adjusted[i] = -Infinity;
    pattern?.mask(adjusted);
    if (this._end !== undefined && drawn < this.options.min_length) adjusted[this._end] = -Infinity;
    if (adjusted.every((value) => value === -Infinity)) {
      throw new UsageError("the options leave no character to draw (allowed, pattern or logit_bias)");
    }
  }
}

/** Ends a stream of text at the first stop string; no part of a stop string is ever given out. */
export class StopStrings {
  /** @param {string | string[]} [strings] */
  constructor(strings = []) {
    this._strings = typeof strings === "string" ? [strings] : [...strings];
    if (!this._strings.every((s) => typeof s === "string" && s)) {
      throw new UsageError("a stop string must hold at least one character");
    }
    this._held = "";
    this.stopped = false;
  }

  /** @returns {StopStrings} new ones, for another text */
  copy() {
    return new StopStrings(this._strings);
  }

  /** @param {string} piece @returns {string} the text that certainly comes before any stop string */
  feed(piece) {
    if (!this._strings.length || !piece) return piece;
    const text = this._held + piece;
    const found = this._strings.map((s) => text.indexOf(s)).filter((at) => at >= 0);
    if (found.length) {
      this.stopped = true;
      this._held = "";
      return text.slice(0, Math.min(...found));
    }
    const hold = Math.max(...this._strings.map((s) => overlap(text, s)));
    this._held = text.slice(text.length - hold);
    return text.slice(0, text.length - hold);
  }

  /** @returns {string} what was held back, once the stream has ended without a stop string */
  flush() {
    const held = this._held;
    this._held = "";
    return held;
  }
}

/** Length of the longest end of the text that a stop string may begin with. @param {string} text @param {string} s */
function overlap(text, s) {
  for (let n = Math.min(text.length, s.length - 1); n > 0; n--) if (s.startsWith(text.slice(-n))) return n;
  return 0;
}
