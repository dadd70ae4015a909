// Which label a text has: Bayes' rule over the labels of a model. charrnn_runtime/classifying.py says how.

import { logSumExp } from "./completing.js";
import { ModelFileError, UsageError } from "./errors.js";
import { logSoftmax } from "./sampling.js";
import { UNKNOWN } from "./vocab.js";

/** @typedef {import("./model_file.js").ModelInfo} ModelInfo */
/** @typedef {import("./runner.js").Runner} Runner */

/**
 * The logarithm of the probability of each label before the text is known.
 * @param {ModelInfo} info @param {"training" | "uniform"} prior
 * @returns {number[]}
 * @throws {UsageError} the model has no labels, or the prior is unknown
 * @throws {ModelFileError} what the file says of the labels is damaged
 */
export function logPrior({ vocabulary, training }, prior) {
  const labels = [...vocabulary.labels.keys()];
  if (!labels.length) {
    throw new UsageError("the model was trained without labels, and cannot classify; train one with --label");
  }
  if (prior !== "training" && prior !== "uniform") {
    throw new UsageError(`prior: ${String(prior)}: use "training" or "uniform"`);
  }
  const stored = prior === "training" ? training.labels : undefined;
  let counts = labels.map(() => 1);
  if (stored !== undefined && stored !== null) {
    counts = labels.map((label) => (Object.hasOwn(stored, label) ? stored[label] : 0));
    const wrong = typeof stored !== "object" || Array.isArray(stored) || !counts.some((count) => count);
    if (wrong || !counts.every((count) => Number.isInteger(count) && count >= 0)) {
      throw new ModelFileError("metadata 'charrnn.training': labels must be numbers of items; export it again");
    }
  }
  const total = counts.reduce((sum, count) => sum + count, 0);
  return counts.map((count) => Math.log(count / total));
}

/**
 * @param {Runner} runner from the zero state
 * @param {ModelInfo} info
 * @param {number[]} targets tokens of the text with its end; unknown ones are charged
 * @param {number[]} prior see `logPrior`
 * @returns {Promise<Map<string, number>>} the probability of each label, the most probable first
 */
export async function classify(runner, { vocabulary }, targets, prior) {
  const { labels, size } = vocabulary;
  const plain = Array.from({ length: size }, (_, id) => id).filter((id) => !vocabulary.isSpecial(id));
  runner.pick(prior.map(() => 0));
  let logits = await runner.step([...labels.values()]);
  const logs = [...prior];
  for (let at = 0; at < targets.length; at++) {
    const token = targets[at];
    for (let k = 0; k < logs.length; k++) {
      const row = logSoftmax(logits.subarray(k * size, (k + 1) * size));
      // A character that the model has never seen costs as much as the least likely one; it is not fed.
      logs[k] += token === UNKNOWN ? plain.reduce((least, id) => Math.min(least, row[id]), Infinity) : row[token];
    }
    if (token !== UNKNOWN && at + 1 < targets.length) logits = await runner.step(logs.map(() => token));
  }
  const total = logSumExp(logs);
  const found = [...labels.keys()].map((label, k) => /** @type {[string, number]} */ ([label, logs[k] - total]));
  found.sort((a, b) => b[1] - a[1]);
  return new Map(found.map(([label, log]) => [label, Math.exp(log)]));
}
