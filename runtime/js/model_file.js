// Model-file format 1 and generator 1 of runtime/README.md: the metadata of a file, read from its protobuf fields.
// ONNX Runtime's JavaScript interface does not give access to metadata_props.

import { ModelFileError } from "./errors.js";
import { sha256 } from "./sha256.js";
import { Vocabulary } from "./vocab.js";

const FORMAT = 1;
const GENERATOR = 1;
const MAX_DEPTH = 3; // of graphs in a generator: the graph, its loops, and the branches in a loop
const DIGEST = "charrnn.sha256";
const DOMAINS = ["", "ai.onnx", "com.microsoft"];

// Field numbers of onnx.proto (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto)
const MODEL = { graph: 7, opsetImport: 8, metadata: 14, training: 20, functions: 25 };
const GRAPH = { node: 1, initializer: 5, sparse: 15 };
const NODE = { attribute: 5, domain: 7 };
const ATTRIBUTE = { tensor: 5, graph: 6, tensors: 10, graphs: 11, sparse: 22, sparses: 23 };
const TENSOR = { externalData: 13, dataLocation: 14 };

const [VARINT, FIXED64, BYTES, FIXED32] = [0, 1, 2, 5];

/**
 * One field of a protobuf message: where it stands, and its payload.
 * @typedef {{number: number, wireType: number, offset: number, start: number, end: number, value: number}} Field
 */

/** One state of the cell. @typedef {{input: string, output: string, size: number}} StateSpec */

/**
 * The metadata of a model file.
 * @typedef {object} ModelInfo
 * @property {boolean} generator whether it is a generator: a graph that draws whole texts, instead of a step
 * @property {string} cell
 * @property {number} numLayers
 * @property {number} hiddenSize
 * @property {Vocabulary} vocabulary
 * @property {StateSpec[]} states
 * @property {number} startToken
 * @property {string} dtype of the weights
 * @property {string} sha256 of the file
 * @property {Record<string, any>} training
 * @property {Record<string, any>} parity
 * @property {Record<string, any>} producer
 */

/** @param {Uint8Array} data @param {number} at @param {number} end @returns {[number, number]} value and next byte */
function varint(data, at, end) {
  let value = 0;
  for (let i = 0; i < 10; i++) {
    if (at >= end) throw new ModelFileError(`not an ONNX file, or cut short at byte ${at}`);
    const byte = data[at++];
    value += (byte & 0x7f) * 2 ** (7 * i); // no shift: lengths may pass 2**31
    if (byte < 0x80) return [value, at];
  }
  throw new ModelFileError(`not an ONNX file: overlong number at byte ${at}`);
}

/** @param {Uint8Array} data @param {number} start @param {number} end @returns {Generator<Field>} */
function* fields(data, start = 0, end = data.length) {
  let at = start;
  while (at < end) {
    const offset = at;
    let tag;
    let value = 0;
    [tag, at] = varint(data, at, end);
    const [number, wireType] = [Math.floor(tag / 8), tag % 8];
    let payload = at;
    if (wireType === VARINT) [value, at] = varint(data, at, end);
    else if (wireType === BYTES) {
      let length;
      [length, payload] = varint(data, at, end);
      at = payload + length;
    } else if (wireType === FIXED64) at += 8;
    else if (wireType === FIXED32) at += 4;
    else throw new ModelFileError(`not an ONNX file: wire type ${wireType} at byte ${offset}`);
    if (number === 0 || at > end) {
      throw new ModelFileError(`not an ONNX file, or cut short: field ${number} at byte ${offset} runs over the end`);
    }
    yield { number, wireType, offset, start: payload, end: at, value };
  }
}

/** @param {Uint8Array} data @param {Field} field */
function message(data, field) {
  if (field.wireType !== BYTES) {
    throw new ModelFileError(`not an ONNX file: field ${field.number} at byte ${field.offset} is not a message`);
  }
  return fields(data, field.start, field.end);
}

/** @param {Uint8Array} data @param {Field} field @returns {string} */
function string(data, field) {
  try {
    if (field.wireType !== BYTES) throw new TypeError("no text");
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(data.subarray(field.start, field.end));
  } catch {
    throw new ModelFileError(`not an ONNX file: broken text at byte ${field.start}`);
  }
}

/** @param {Uint8Array} data @param {Field} field @returns {[string, string]} */
function entry(data, field) {
  const parts = ["", "", ""];
  for (const item of message(data, field)) if (item.number < 3) parts[item.number] = string(data, item);
  return [parts[1], parts[2]];
}

/** @param {string} domain */
function checkDomain(domain) {
  if (!DOMAINS.includes(domain)) {
    throw new ModelFileError(`operators of '${domain}': only standard ONNX and com.microsoft operators are allowed`);
  }
}

/** @param {Uint8Array} data @param {Field} tensor */
function checkTensor(data, tensor) {
  for (const part of message(data, tensor)) {
    if (part.number === TENSOR.externalData || (part.number === TENSOR.dataLocation && part.value)) {
      throw new ModelFileError("a tensor is in another file; a model file must hold all its data itself");
    }
  }
}

/**
 * @param {Uint8Array} data @param {Field} graph
 * @param {number} depth how many graphs in graphs there may be, this one included
 */
function checkGraph(data, graph, depth) {
  for (const part of message(data, graph)) {
    if (part.number === GRAPH.initializer) checkTensor(data, part);
    if (part.number === GRAPH.sparse) throw new ModelFileError("a model file must not hold sparse tensors");
    if (part.number !== GRAPH.node) continue;
    for (const item of message(data, part)) {
      if (item.number === NODE.domain) checkDomain(string(data, item));
      if (item.number !== NODE.attribute) continue;
      for (const piece of message(data, item)) {
        if (piece.number === ATTRIBUTE.tensor || piece.number === ATTRIBUTE.tensors) checkTensor(data, piece);
        if (piece.number === ATTRIBUTE.graph && depth > 1) checkGraph(data, piece, depth - 1);
        else if ([ATTRIBUTE.graph, ATTRIBUTE.graphs, ATTRIBUTE.sparse, ATTRIBUTE.sparses].includes(piece.number)) {
          throw new ModelFileError("a model file must not hold control flow or sparse tensors");
        }
      }
    }
  }
}

/**
 * Reads and checks a model file or a generator; nothing in it is executed.
 * @param {Uint8Array} data
 * @returns {ModelInfo}
 * @throws {ModelFileError} not an ONNX file, not a charrnn model, damaged, or with something that the format forbids
 */
export function readModelFile(data) {
  /** @type {Map<string, string>} */
  const metadata = new Map();
  const digested = [];
  /** @type {Field[]} */
  const graphs = [];
  for (const part of fields(data)) {
    let key = "";
    if (part.number === MODEL.metadata) {
      const [name, value] = entry(data, part);
      if (metadata.has(name)) throw new ModelFileError(`metadata '${name}' stands twice in the file`);
      metadata.set(name, value);
      key = name;
    } else if (part.number === MODEL.opsetImport) {
      for (const item of message(data, part)) if (item.number === 1) checkDomain(string(data, item));
    } else if (part.number === MODEL.graph) {
      graphs.push(part);
    } else if (part.number === MODEL.functions || part.number === MODEL.training) {
      throw new ModelFileError("a model file must not hold functions or training graphs");
    }
    if (key !== DIGEST) digested.push(data.subarray(part.offset, part.end));
  }
  if (graphs.length !== 1) throw new ModelFileError("not an ONNX model: it holds no graph");
  const info = describe(metadata);
  checkGraph(data, graphs[0], info.generator ? MAX_DEPTH : 1);
  if (info.sha256 !== sha256(digested)) {
    throw new ModelFileError(
      "the file was damaged or changed after export (its SHA-256 does not match); copy or export it again",
    );
  }
  return info;
}

/** @param {Map<string, string>} metadata @returns {ModelInfo} */
function describe(metadata) {
  /** @param {string} key @returns {string} */
  function text(key) {
    const value = metadata.get(`charrnn.${key}`);
    if (value === undefined) throw new ModelFileError(`metadata 'charrnn.${key}' is missing`);
    return value;
  }
  /** @param {string} key @param {number} least @returns {number} */
  function integer(key, least) {
    const value = text(key);
    if (!/^[0-9]{1,9}$/.test(value) || Number(value) < least) {
      throw new ModelFileError(
        `metadata 'charrnn.${key}' is '${value.slice(0, 40)}', not a whole number of at least ${least}`,
      );
    }
    return Number(value);
  }
  /** @param {string} key @returns {any} */
  function json(key) {
    try {
      return JSON.parse(text(key));
    } catch (error) {
      if (error instanceof ModelFileError) throw error;
      throw new ModelFileError(`metadata 'charrnn.${key}' is not JSON`);
    }
  }
  /**
   * Metadata for people. It may hold the NaN of a diverged run, which JSON.parse refuses, so errors are ignored.
   * @param {string} key
   */
  function optional(key) {
    try {
      const value = JSON.parse(metadata.get(`charrnn.${key}`) ?? "{}");
      return value !== null && typeof value === "object" ? value : {};
    } catch {
      return {};
    }
  }

  const generator = !metadata.has("charrnn.format") && metadata.has("charrnn.generator");
  if (!generator && !metadata.has("charrnn.format")) {
    throw new ModelFileError("not a charrnn model: the ONNX file has no metadata 'charrnn.format'");
  }
  const version = integer(generator ? "generator" : "format", 1);
  if (version > (generator ? GENERATOR : FORMAT)) {
    const known = generator ? `generator ${GENERATOR}` : `format ${FORMAT}`;
    throw new ModelFileError(`${generator ? "generator" : "model-file format"} ${version} is newer than this sampler (${known})`);
  }
  const vocabulary = new Vocabulary(json("vocab"));
  const startToken = integer("start_token", 0);
  if (startToken >= vocabulary.size) {
    throw new ModelFileError(`metadata 'charrnn.start_token' ${startToken} is not in the vocabulary`);
  }
  return {
    generator,
    cell: text("cell"),
    numLayers: integer("num_layers", 1),
    hiddenSize: integer("hidden_size", 1),
    vocabulary,
    states: states(json("states")),
    startToken,
    dtype: metadata.get("charrnn.dtype") ?? "float32",
    sha256: text("sha256"),
    training: optional("training"),
    parity: optional("parity"),
    producer: optional("producer"),
  };
}

/** @param {any} value @returns {StateSpec[]} */
function states(value) {
  if (!Array.isArray(value) || !value.length) throw new ModelFileError("metadata 'charrnn.states' names no states");
  const names = new Set();
  return value.map((item) => {
    const { input, output, shape, dtype } = item ?? {};
    const named = typeof input === "string" && typeof output === "string";
    const shaped = Array.isArray(shape) && shape.length === 2 && Number.isInteger(shape[1]) && shape[1] > 0;
    if (!named || !shaped || shape[0] !== "batch" || names.has(input) || names.has(output) || input === output) {
      throw new ModelFileError("metadata 'charrnn.states' has an entry that is not a state, or one name twice");
    }
    if (dtype !== "float32") throw new ModelFileError(`state '${input}' is ${dtype}; format 1 has float32 states`);
    names.add(input).add(output);
    return { input, output, size: shape[1] };
  });
}
