// Loads ONNX Runtime and the model, and samples texts, in a thread of its own. Texts are drawn by the generator, many
// characters in a call; texts of a pattern by the model file, which is loaded when the first one is asked for.

import { CharrnnError, newSeed, Sampler, UsageError } from "./charrnn/sampler.js";

const TELL = 40; // milliseconds of samplingOptions between two messages to the page

const SESSION = { executionProviders: ["wasm"] };

/** @type {Sampler | null} */
let generator = null;
/** @type {Promise<Sampler> | null} */
let stepping = null;
/** @type {any} */
let ort = null;
/** @type {any} */
let site = null;
let stopped = false;
let [bytes, total] = [0, 0];

/**
 * Gives the page's messages a chance to arrive. Browsers would delay a timer by 4 ms each time.
 * @returns {Promise<void>}
 */
function breathe() {
  return new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => {
      port1.close();
      resolve();
    };
    port2.postMessage(null);
  });
}

/**
 * A file of the site, or of a public network and then checked against its digest.
 * @param {{url: string, integrity?: string}} source
 * @returns {Promise<Uint8Array<ArrayBuffer>>}
 */
async function download({ url, integrity = "" }) {
  let response;
  try {
    response = await fetch(url, integrity ? { integrity, mode: "cors", credentials: "omit" } : {});
  } catch {
    throw new CharrnnError(
      `${url} could not be loaded${integrity ? ", or is not the file that this site was made with" : ""}`,
    );
  }
  if (!response.ok || !response.body) throw new CharrnnError(`${url} could not be loaded: HTTP status ${response.status}`);
  total += Number(response.headers.get("Content-Length"));
  const pieces = [];
  const reader = response.body.getReader();
  for (;;) {
    const { value, done } = await reader.read();
    if (done) break;
    pieces.push(value);
    bytes += value.length;
    postMessage({ type: "loading", bytes, total });
  }
  return new Uint8Array(await new Blob(pieces).arrayBuffer());
}

/** @param {{url: string, integrity?: string}} source */
async function importModule(source) {
  if (!source.integrity) return import(new URL(source.url, self.location.href).href);
  // fetch() checks the digest, import() cannot.
  const url = URL.createObjectURL(new Blob([await download(source)], { type: "text/javascript" }));
  try {
    return await import(url);
  } finally {
    URL.revokeObjectURL(url);
  }
}

async function load() {
  site = JSON.parse(new TextDecoder().decode(await download({ url: "site.json" })));
  const [module, wasm, file] = await Promise.all([
    importModule(site.module),
    download(site.wasm),
    download({ url: site.generator }),
  ]);
  ort = module;
  ort.env.wasm.numThreads = 1; // more would want headers that simple web servers do not send
  ort.env.wasm.wasmBinary = wasm.buffer;
  generator = await Sampler.load(ort, file, SESSION);
  const { cell, numLayers, hiddenSize, dtype, training, vocabulary } = generator.info;
  const symbols = vocabulary.size - vocabulary.special.size;
  postMessage({
    type: "ready",
    model: {
      cell,
      numLayers,
      hiddenSize,
      dtype,
      training,
      symbols,
      labels: [...vocabulary.labels.keys()],
      kind: vocabulary.kind,
      bytes: file.length,
    },
  });
}

/** @returns {Promise<Sampler>} for texts of a pattern */
function loadModel() {
  stepping ??= download({ url: site.model }).then((file) => Sampler.load(ort, file, SESSION));
  stepping.catch(() => (stepping = null)); // it may come the next time
  return stepping;
}

/** @param {any} request */
async function write({ prompt, label, seed, stop, pattern, length, temperature, top_p, min_p }) {
  if (!generator) throw new UsageError("the model is not loaded yet");
  stopped = false;
  const sampler = pattern ? await loadModel() : generator;
  const used = seed === "" ? newSeed() : BigInt(seed);
  const pieces = sampler.stream(prompt, {
    seed: used,
    stop: stop ? [stop] : [],
    label: label || null,
    pattern: pattern || null,
    length,
    temperature,
    top_p,
    min_p,
  });
  let [text, count, reason] = ["", 0, ""];
  let [begun, told] = [0, performance.now()];
  const tell = (/** @type {string} */ type) => {
    const seconds = begun ? (performance.now() - begun) / 1000 : 0;
    postMessage({ type, text, count, seconds, seed: String(used), reason });
    text = "";
  };
  while (!reason) {
    const { value, done } = await pieces.next();
    if (done) reason = value.finishReason;
    else if (value) {
      begun ||= performance.now();
      text += value;
      count += value.length === 1 ? 1 : [...value].length;
    }
    if (performance.now() - told > TELL) {
      if (text) tell("piece");
      await breathe();
      told = performance.now();
      if (stopped) reason ||= "stopped";
    }
  }
  await pieces.return(/** @type {any} */ (undefined));
  if (text) tell("piece");
  tell("done");
}

/** @param {unknown} error */
function fail(error) {
  const message = error instanceof Error ? error.message : String(error);
  postMessage({ type: "error", message: error instanceof CharrnnError ? message : `Something went wrong: ${message}` });
}

self.onmessage = ({ data }) => {
  if (data.type === "stop") stopped = true;
  else write(data).catch(fail);
};
load().catch(fail);
