// Whole texts with onnxruntime-node. Python writes the models and the texts that it draws from them into a folder
// (see test_node.py), which CHARRNN_VECTORS names.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import test from "node:test";

import ort from "onnxruntime-node";

import { ModelFileError, Sampler, UsageError } from "../../runtime/js/sampler.js";

const folder = process.env.CHARRNN_VECTORS;
const skip = folder ? false : "CHARRNN_VECTORS names no folder; run: python -m pytest tests/web";
const read = (name) => readFileSync(join(folder, name));
const cases = folder ? JSON.parse(read("texts.json").toString()) : [];

for (const { model, prompt, options, text, finish_reason, tokens } of cases) {
  test(`${model} ${JSON.stringify(options)}`, async () => {
    const sampler = await Sampler.load(ort, read(model));
    const { seed, index, ...others } = options;
    const got = await sampler.generate(prompt, { ...others, seed: BigInt(seed), index: BigInt(index) });
    assert.equal(got.text, text);
    assert.equal(got.finishReason, finish_reason);
    assert.deepEqual(got.tokens, tokens);
  });
}

/** Checks plain values; numbers may differ in their last digits. */
function close(got, expected, place = "") {
  if (typeof expected === "number" && !Number.isInteger(expected)) {
    assert.ok(Math.abs(got - expected) <= 1e-6 * Math.abs(expected), `${place}: ${got} is not ${expected}`);
  } else if (expected !== null && typeof expected === "object") {
    assert.deepEqual(Object.keys(got), Object.keys(expected), place);
    for (const key of Object.keys(expected)) close(got[key], expected[key], `${place}.${key}`);
  } else assert.equal(got, expected, place);
}

const asked = folder ? JSON.parse(read("probabilities.json").toString()) : [];

for (const { model, method, text, options, result } of asked) {
  test(`${method} ${model} ${JSON.stringify(text)} ${JSON.stringify(options)}`, async () => {
    const sampler = await Sampler.load(ort, read(model));
    const got = await sampler[method](text, options);
    close(got instanceof Map ? [...got] : got, result);
  });
}

test("what cannot be completed or classified", { skip }, async () => {
  const sampler = await Sampler.load(ort, read("lstm.onnx"));
  for (const options of [{ n: 0 }, { n: 1001 }, { max_length: 0 }, { width: 4097 }, { until: 5 }, { until: null }]) {
    await assert.rejects(sampler.complete("The", options), (error) => {
      assert.ok(error instanceof UsageError);
      assert.match(error.message, new RegExp(Object.keys(options)[0]));
      return true;
    });
  }
  await assert.rejects(sampler.complete("漢"), /never seen "漢"/);
  await assert.rejects(sampler.next("漢"), /never seen "漢"/);
  await assert.rejects(sampler.next("a", { unknown: "charge" }), /use "error" or "skip"/);
  await assert.rejects(sampler.classify("a"), /cannot classify/);
  await assert.rejects((await Sampler.load(ort, read("bytes.onnx"))).complete("a", { until: "é" }), /only ASCII/);
  await assert.rejects((await Sampler.load(ort, read("counted.onnx"))).classify("a", { prior: "flat" }), /prior/);
  const generator = await Sampler.load(ort, read("generator-lstm.onnx"));
  for (const method of ["complete", "next", "classify"]) {
    await assert.rejects(generator[method]("a"), /load the model file instead/);
  }
});

test("two texts at a time do not disturb each other", { skip }, async () => {
  const sampler = await Sampler.load(ort, read("lstm.onnx"));
  const options = { length: 100, seed: 3 };
  const alone = await sampler.sample("The ", options);
  const [one, two] = await Promise.all([sampler.sample("The ", options), sampler.sample("a", options)]);
  assert.equal(one, alone);
  assert.notEqual(two, alone);
});

test("a stream gives up its text piece by piece, and can be left", { skip }, async () => {
  const sampler = await Sampler.load(ort, read("lstm.onnx"));
  let text = "";
  for await (const piece of sampler.stream("", { length: 1e6, seed: 1 })) {
    text += piece;
    if (text.length === 30) break;
  }
  assert.equal(text, await sampler.sample("", { length: 30, seed: 1 }));
});

test("a generator reads long prompts, refuses what it does not know, and can be left", { skip }, async () => {
  const sampler = await Sampler.load(ort, read("lstm.onnx"));
  const generator = await Sampler.load(ort, read("generator-lstm.onnx"));
  const options = { length: 50, seed: 4, stop: "zz" };
  const prompt = "The cat ".repeat(100);
  assert.equal(await generator.sample(prompt, options), await sampler.sample(prompt, options));
  for (const other of [{ typical_p: 0.5 }, { presence_penalty: 1 }, { allowed: "The" }, { pattern: "a+" }]) {
    assert.throws(() => generator.stream("", { ...options, ...other }), /load the model file instead/);
  }
  let text = "";
  for await (const piece of generator.stream("", { length: 1e6, seed: 1 })) {
    text += piece;
    if (text.length >= 30) break;
  }
  assert.equal(text, await sampler.sample("", { length: text.length, seed: 1 }));
});

test("arguments are checked at the call", { skip }, async () => {
  const sampler = await Sampler.load(ort, read("lstm.onnx"));
  for (const options of [{ length: 0 }, { length: 2.5 }, { length: 9, seed: -1 }, { length: 9, unknown: "?" }, {}]) {
    assert.throws(() => sampler.stream("", options), UsageError);
  }
  assert.throws(() => sampler.stream("漢", { length: 9 }), /never seen "漢" \(U\+6F22\) at position 0/);
});

test("a file that is not verified loads with a warning", { skip }, async (t) => {
  const warn = t.mock.method(console, "warn", () => {});
  await Sampler.load(ort, read("lstm.onnx"));
  assert.equal(warn.mock.callCount(), 0);
  await Sampler.load(ort, read("unverified.bin"));
  assert.match(warn.mock.calls[0].arguments[0], /not verified/);
});

test("damaged model files", { skip }, async () => {
  const good = read("lstm.onnx");
  for (let i = 0; i < 60; i++) {
    const bad = Uint8Array.from(good);
    bad[Math.floor((i / 60) * bad.length)] ^= 1 << (i % 8);
    await assert.rejects(Sampler.load(ort, bad), ModelFileError);
    await assert.rejects(Sampler.load(ort, good.subarray(0, Math.floor((i / 60) * good.length))), ModelFileError);
  }
});

test("files that contradict themselves or the format", { skip }, async () => {
  const wrong = JSON.parse(folder ? read("wrong.json").toString() : "[]");
  assert.ok(wrong.length >= 5);
  for (const { model, message } of wrong) {
    await assert.rejects(Sampler.load(ort, read(model)), (error) => {
      assert.ok(error instanceof ModelFileError, String(error));
      assert.match(error.message, new RegExp(message));
      return true;
    });
  }
});
