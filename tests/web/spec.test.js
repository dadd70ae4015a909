// The vectors of runtime/README.md: what the specification itself says a port must give.

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import test from "node:test";

import { Automaton, patternOfFill } from "../../runtime/js/pattern.js";
import { philox, UniformStream } from "../../runtime/js/philox.js";
import { checkOptions, sampleToken, TokenSampler, StopStrings } from "../../runtime/js/sampling.js";
import { sha256 } from "../../runtime/js/sha256.js";
import { ModelOutputError, UnknownCharacterError, UsageError } from "../../runtime/js/errors.js";
import { Vocabulary } from "../../runtime/js/vocab.js";

const readme = readFileSync(new URL("../../runtime/README.md", import.meta.url), "utf8");
const json = /## Test vectors[^]*?```json\n([^]*?)```/.exec(readme)[1];
// Seeds above 2**53 are no JavaScript numbers.
const vectors = JSON.parse(json.replace(/("(?:seed|index)": )(\d+)/g, '$1"$2"'));

test("uniform numbers", () => {
  assert.ok(vectors.uniforms.length >= 4);
  for (const { seed, index, first, lane = 0, words, uniforms } of vectors.uniforms) {
    const stream = new UniformStream(BigInt(seed), BigInt(index), first, lane);
    words.forEach((word, i) => {
      const n = first + i;
      const got = philox(BigInt(seed), BigInt(index), BigInt(Math.floor(n / 4)), BigInt(lane))[n % 4];
      assert.equal(got.toString(16).padStart(16, "0"), word);
      assert.equal(stream.next(), uniforms[i]);
    });
  }
});

test("patterns", () => {
  assert.ok(vectors.patterns.length >= 10);
  for (const { tokens, end, pattern, min_length, length, drawn, continuing, matches } of vectors.patterns) {
    const names = [...tokens, ...(end ? ["<end>"] : [])];
    const vocabulary = new Vocabulary({ kind: "characters", tokens: names, special: end ? { end: tokens.length } : {} });
    const state = new Automaton(pattern, vocabulary, () => true, min_length).start(length);
    for (const id of vocabulary.encode(drawn)) assert.ok(state.advance(id));
    assert.equal(state.matches, matches, pattern);
    const going = [...tokens].filter((c) => state.copy().advance(vocabulary.encode(c)[0]));
    assert.equal(going.join(""), continuing, pattern);
  }
});

test("patterns and gaps that are refused", () => {
  const vocabulary = new Vocabulary({ kind: "characters", tokens: [..."abc"], special: {} });
  const refused = {
    "(?=a)b": /look-ahead/, "(?<=a)b": /look-behind/, "(a)\\1": /back-reference/, "a++": /possessive/, "\\ba": /word boundary/,
    "a$b": /anchor/, "(?i)a": /flag/, "a(": /without/, "*a": /nothing to repeat/, "a**": /quantifier after/, "[b-a]": /range/,
    "((a{100}){100}){100}": /too large/, "(a?){1000}": /too complex/, xyz: /never seen x, y, z/, "()*": /only the empty text/,
  };
  for (const [pattern, problem] of Object.entries(refused)) {
    assert.throws(() => new Automaton(pattern, vocabulary, () => true, 0), problem, pattern);
  }
  assert.throws(() => new Automaton("a{9}", vocabulary, () => true, 0).start(8), /9 tokens/);
  assert.equal(patternOfFill("The ? (?)\\? \\\\"), "The .+ \\(.+\\)\\? \\\\");
  assert.throws(() => patternOfFill("a"), /no gap/);
});

test("draws", () => {
  assert.ok(vectors.draws.length >= 20);
  for (const { logits, options, uniform, token } of vectors.draws) {
    assert.equal(sampleToken(Float32Array.from(logits), checkOptions(options), uniform), token, JSON.stringify(options));
  }
});

const letters = (text) => new Vocabulary({ kind: "characters", tokens: [...text], special: {}, normalize: null });

test("draws with penalties, bias and allowed characters", () => {
  assert.ok(vectors.adjusted.length >= 5);
  for (const { tokens, logits, options, history, uniform, token } of vectors.adjusted) {
    const tokenSampler = new TokenSampler(options, letters(tokens));
    assert.equal(tokenSampler.sample(Float32Array.from(logits), uniform, history), token, JSON.stringify(options));
  }
});

test("the largest uniform number never runs over the end", () => {
  assert.equal(sampleToken([0, 0, -745, -Infinity], checkOptions({}), 1 - 2 ** -53), 1);
});

test("logits that nothing can be drawn from", () => {
  for (const logits of [[0, NaN], [Infinity, 0], [-Infinity, -Infinity]]) {
    for (const temperature of [0, 1]) {
      assert.throws(() => sampleToken(logits, checkOptions({ temperature }), 0.5), ModelOutputError);
    }
  }
});

test("options out of range", () => {
  const wrong = [
    { temperature: -1 }, { temperature: NaN }, { temperature: "1" }, { top_k: -1 }, { top_k: 1.5 }, { top_p: 0 },
    { top_p: 2 }, { min_p: -0.1 }, { repetition_penalty: 0 }, { penalty_window: 0 }, { allowed: "" }, { nonsense: 1 },
    { logit_bias: { ab: 1 } }, { logit_bias: { a: NaN } },
  ];
  for (const options of wrong) {
    assert.throws(() => checkOptions(options), (error) => {
      assert.ok(error instanceof UsageError);
      assert.match(error.message, new RegExp(Object.keys(options)[0]));
      return true;
    });
  }
  for (const seed of [-1, 2 ** 64, 1.5, "7", 2n ** 64n]) assert.throws(() => new UniformStream(seed), UsageError);
});

test("stop strings never leak", () => {
  const stop = new StopStrings(["aab", "ba"]);
  assert.deepEqual(["x", "a", "a", "a"].map((piece) => stop.feed(piece)), ["x", "", "", "a"]);
  assert.equal(stop.feed("c"), "aac");
  assert.equal(stop.feed("yb"), "y");
  assert.equal(stop.feed("a"), "");
  assert.ok(stop.stopped);
  for (const strings of ["", ["a", ""], [1]]) assert.throws(() => new StopStrings(strings === "" ? [""] : strings), UsageError);
});

test("vocabulary", () => {
  const vocabulary = letters("ab漢\u{1F600}");
  assert.deepEqual(vocabulary.encode("b\u{1F600}a"), [1, 3, 0]);
  assert.equal(vocabulary.decode([2, 3, 0]), "漢\u{1F600}a");
  assert.deepEqual(vocabulary.encode("axb", "skip"), [0, 1]);
  assert.throws(() => vocabulary.encode("a\u{1F600}xy"), (error) => {
    assert.ok(error instanceof UnknownCharacterError);
    assert.deepEqual([error.character, error.position], ["x", 2]);
    return true;
  });
  const bytes = new Vocabulary({ kind: "bytes", tokens: [...Array(256).keys()], special: {}, normalize: "NFC" });
  assert.deepEqual(bytes.encode("e\u0301"), [0xc3, 0xa9]);
  assert.deepEqual(bytes.encode("\ud800"), [0xed, 0xa0, 0x80]);
  const decoder = bytes.decoder();
  assert.deepEqual([0xef, 0xbb, 0xbf, 0xe6, 0x41].map((byte) => decoder.decode(byte)), ["", "", "\ufeff", "", "\ufffdA"]);
  assert.equal(decoder.decode(0xf0) + decoder.flush(), "\ufffd");
});

test("SHA-256", () => {
  for (const size of [0, 1, 55, 56, 63, 64, 65, 119, 120, 1000]) {
    const data = Uint8Array.from({ length: size }, (_, i) => (i * 7) & 255);
    const cut = Math.floor(size / 3);
    const expected = createHash("sha256").update(data).digest("hex");
    assert.equal(sha256([data.subarray(0, cut), data.subarray(cut)]), expected);
  }
});
