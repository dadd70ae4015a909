// The vocabulary of a model file: text to token ids and back.

import { ModelFileError, UnknownCharacterError, UsageError } from "./errors.js";

const LABEL = "label:"; // the name of a label's special token begins with this
export const UNKNOWN = -1; // stands for a character outside the vocabulary that is charged
const FORMS = ["NFC", "NFD", "NFKC", "NFKD"];

/**
 * UTF-8. A lone surrogate becomes three bytes; TextEncoder would replace it by U+FFFD.
 * @param {string} text
 * @returns {number[]}
 */
function utf8(text) {
  const bytes = [];
  for (const character of text) {
    const c = /** @type {number} */ (character.codePointAt(0));
    if (c < 0x80) bytes.push(c);
    else if (c < 0x800) bytes.push(0xc0 | (c >> 6), 0x80 | (c & 63));
    else if (c < 0x10000) bytes.push(0xe0 | (c >> 12), 0x80 | ((c >> 6) & 63), 0x80 | (c & 63));
    else bytes.push(0xf0 | (c >> 18), 0x80 | ((c >> 12) & 63), 0x80 | ((c >> 6) & 63), 0x80 | (c & 63));
  }
  return bytes;
}

export class Vocabulary {
  /**
   * @param {unknown} json the value of `charrnn.vocab`
   * @throws {ModelFileError} it does not describe a vocabulary
   */
  constructor(json) {
    const { kind, tokens, special = {}, normalize = null } = /** @type {any} */ (json ?? {});
    if (!Array.isArray(tokens) || !tokens.length || typeof special !== "object" || special === null) {
      throw new ModelFileError("metadata 'charrnn.vocab' is no vocabulary");
    }
    if (kind !== "characters" && kind !== "bytes") throw new ModelFileError(`unknown kind of token ${kind}`);
    if (normalize !== null && !FORMS.includes(normalize)) {
      throw new ModelFileError(`unknown Unicode normal form ${normalize}`);
    }
    /** @type {"characters" | "bytes"} */
    this.kind = kind;
    this.size = tokens.length;
    /** @type {string | null} */
    this.normalize = normalize;
    /** @type {Map<string, number>} names of special tokens to ids */
    this.special = new Map(Object.entries(special));
    const specialIds = new Set(this.special.values());
    if (
      specialIds.size !== this.special.size ||
      ![...specialIds].every((i) => Number.isInteger(i) && i >= 0 && i < tokens.length)
    ) {
      throw new ModelFileError("special tokens need ids of their own inside the vocabulary");
    }
    /** @type {Map<number, number>} code point or byte to id */
    this._ids = new Map();
    /** @type {(number | null)[]} id to code point or byte; null for a special token */
    this._symbols = tokens.map((token, id) => {
      if (specialIds.has(id)) return null;
      let symbol;
      if (kind === "bytes") {
        if (Number.isInteger(token) && token >= 0 && token < 256) symbol = token;
      } else if (typeof token === "string" && [...token].length === 1) {
        symbol = token.codePointAt(0);
      }
      if (symbol === undefined) throw new ModelFileError(`token ${id} of the vocabulary is no ${kind.slice(0, -1)}`);
      if (this._ids.has(symbol)) throw new ModelFileError("a vocabulary holds every token once");
      this._ids.set(symbol, id);
      return symbol;
    });
  }

  /**
   * The labels that a text can have, to the ids of their tokens, in id order.
   * @returns {Map<string, number>}
   */
  get labels() {
    const named = [...this.special].filter(([name]) => name.startsWith(LABEL)).sort((a, b) => a[1] - b[1]);
    return new Map(named.map(([name, id]) => [name.slice(LABEL.length), id]));
  }

  /**
   * @param {string} label
   * @returns {number} id of the token that is fed before a text with this label, in place of the begin token
   * @throws {UsageError} the model has no such label
   */
  labelToken(label) {
    const labels = this.labels;
    const id = typeof label === "string" ? labels.get(label.normalize("NFC").trim()) : undefined;
    if (id === undefined) {
      const shown = [...labels.keys()].slice(0, 10).map((name) => JSON.stringify(name));
      if (labels.size > shown.length) shown.push("…");
      throw new UsageError(
        labels.size
          ? `the model has no label ${JSON.stringify(label)}; its ${labels.size} labels are ${shown.join(", ")}`
          : "the model was trained without labels; leave label out",
      );
    }
    return id;
  }

  /** @param {string} name @returns {number | undefined} id of a special token */
  specialId(name) {
    return this.special.get(name);
  }

  /**
   * Token ids of a text.
   * @param {string} text
   * @param {"error" | "skip" | "charge"} [unknown] what to do with characters outside the vocabulary; "charge" gives `UNKNOWN`
   * @returns {number[]}
   * @throws {UnknownCharacterError}
   */
  encode(text, unknown = "error") {
    if (typeof text !== "string") throw new UsageError("a text must be a string");
    if (this.normalize) text = text.normalize(this.normalize);
    const symbols =
      this.kind === "bytes" ? utf8(text) : Array.from(text, (c) => /** @type {number} */ (c.codePointAt(0)));
    const replacement = this.special.get("unknown") ?? (unknown === "charge" ? UNKNOWN : undefined);
    const ids = [];
    let missing = 0;
    let first = 0;
    for (let i = 0; i < symbols.length; i++) {
      const id = this._ids.get(symbols[i]) ?? replacement;
      if (id !== undefined) ids.push(id);
      else if (missing++ === 0) first = i;
    }
    if (missing && unknown === "error") {
      throw new UnknownCharacterError(String.fromCodePoint(symbols[first]), first, missing);
    }
    return ids;
  }

  /** @param {number} symbol a code point or byte @returns {number | undefined} id of its token */
  token(symbol) {
    return this._ids.get(symbol);
  }

  /** @param {number} id @returns {boolean} whether it stands for no text */
  isSpecial(id) {
    return this._symbols[id] === null;
  }

  /** @param {number} id of a token that is not special @returns {string | number} its character, or byte */
  symbol(id) {
    const symbol = /** @type {number} */ (this._symbols[id]);
    return this.kind === "bytes" ? symbol : String.fromCodePoint(symbol);
  }

  /** @returns {number[]} the code points or bytes of all tokens but the special ones */
  codePoints() {
    return [...this._ids.keys()];
  }

  /** @param {[number, number][]} ranges of code points or bytes @returns {number[]} the tokens in these ranges */
  tokensIn(ranges) {
    const ids = [...this._ids].filter(([symbol]) => ranges.some(([first, last]) => first <= symbol && symbol <= last));
    return ids.map(([, id]) => id);
  }

  /** @param {Iterable<number>} ids @returns {string} */
  decode(ids) {
    const decoder = this.decoder();
    let text = "";
    for (const id of ids) text += decoder.decode(id);
    return text + decoder.flush();
  }

  /** A decoder for one stream of tokens. */
  decoder() {
    return new Decoder(this._symbols, this.kind);
  }
}

/** Turns one token at a time into text, holding back the bytes of an unfinished character. */
class Decoder {
  /**
   * @param {(number | null)[]} symbols
   * @param {"characters" | "bytes"} kind
   */
  constructor(symbols, kind) {
    this._symbols = symbols;
    // ignoreBOM: a drawn U+FEFF is text like any other
    this._utf8 = kind === "bytes" ? new TextDecoder("utf-8", { ignoreBOM: true }) : null;
  }

  /** @param {number} id @returns {string} the text that this token completes; may be empty */
  decode(id) {
    const symbol = this._symbols[id];
    if (symbol === null) return "";
    if (this._utf8) return this._utf8.decode(Uint8Array.of(symbol), { stream: true });
    return String.fromCodePoint(symbol);
  }

  /** @returns {string} U+FFFD for an unfinished character at the end of the stream, or nothing */
  flush() {
    return this._utf8 ? this._utf8.decode() : "";
  }
}
