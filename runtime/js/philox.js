// The uniform numbers of seeded sampling: Philox4x64-10 (Salmon et al. 2011), as runtime/README.md specifies it.

import { UsageError } from "./errors.js";

const MASK = (1n << 64n) - 1n;

/**
 * A seed as a BigInt.
 * @param {string} name of the argument, for the message
 * @param {number | bigint} value
 * @returns {bigint} 0 to 2**64 - 1
 */
export function checkSeed(name, value) {
  if (typeof value === "number" && Number.isSafeInteger(value)) value = BigInt(value);
  // A number above 2**53 has been rounded, so it may not be the seed that was written.
  if (typeof value !== "bigint") {
    throw new UsageError(`${name} must be a whole number (above 2**53 a BigInt), got ${value}`);
  }
  if (value < 0n || value > MASK) throw new UsageError(`${name} must be from 0 to ${MASK}, got ${value}`);
  return value;
}

/**
 * Four words of the generator.
 * @param {bigint} seed
 * @param {bigint} index
 * @param {bigint} block number of the block of four, from 0
 * @param {bigint} [lane] second word of the counter
 * @returns {bigint[]}
 */
export function philox(seed, index, block, lane = 0n) {
  let [c0, c1, c2, c3] = [(block + 1n) & MASK, lane, 0n, 0n];
  let [k0, k1] = [seed, index];
  for (let round = 0; round < 10; round++) {
    const p0 = 0xd2e7470ee14c6c93n * c0;
    const p1 = 0xca5a826395121157n * c2;
    [c0, c1, c2, c3] = [(p1 >> 64n) ^ c1 ^ k0, p1 & MASK, (p0 >> 64n) ^ c3 ^ k1, p0 & MASK];
    k0 = (k0 + 0x9e3779b97f4a7c15n) & MASK;
    k1 = (k1 + 0xbb67ae8584caa73bn) & MASK;
  }
  return [c0, c1, c2, c3];
}

/** Uniform numbers in [0, 1): the n-th depends only on (seed, index, n). */
export class UniformStream {
  /**
   * @param {number | bigint} seed 0 to 2**64 - 1
   * @param {number | bigint} [index] which of the streams of this seed
   * @param {number} [position] the number to begin with
   * @param {number} [lane] 0 for texts, 1 and 2 for particles
   */
  constructor(seed, index = 0, position = 0, lane = 0) {
    this.seed = checkSeed("seed", seed);
    this.index = checkSeed("index", index);
    this.position = position;
    this._lane = BigInt(lane);
    /** @type {bigint[]} */
    this._words = [];
    if (position % 4) this._words = this._block();
  }

  _block() {
    return philox(this.seed, this.index, BigInt(Math.floor(this.position / 4)), this._lane);
  }

  /** @returns {number} the next number */
  next() {
    const at = this.position % 4;
    if (at === 0) this._words = this._block();
    this.position += 1;
    return Number(this._words[at] >> 11n) * 2 ** -53; // 53 bits: exact
  }
}
