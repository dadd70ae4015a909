// Patterns: a text that matches a regular expression as a whole, as "Patterns" in runtime/README.md specifies it.
// A pattern becomes a finite automaton over the tokens; its deterministic states are made as texts come to them.

import { UsageError } from "./errors.js";

/** @typedef {import("./vocab.js").Vocabulary} Vocabulary */
/** @typedef {[number, number][]} Ranges first and last code point of each range, in order, with gaps between them */
/** @typedef {{ kind: "set", ranges: Ranges } | { kind: "all" | "any", parts: Node[] } | Repeated} Node */
/** @typedef {{ kind: "repeated", part: Node, least: number, most: number }} Repeated most may be Infinity */

const MAX_PATTERN = 10_000; // characters
const MAX_STATES = 10_000;
const MAX_EDGES = 100_000;
const MAX_VISITS = 300_000; // while edges without a token are removed
const MAX_REPEAT = 100_000;
const MAX_DEPTH = 50;
const MAX_DISTANCES = 4_000_000; // states times min_length
const MAX_NODE_NUMBERS = 1 << 20; // in the deterministic states; when there are more, they are made anew
const LAST = 0x10ffff;
const NEVER = 1 << 30; // the distance to a place that cannot be reached
const ESCAPES = new Map(Object.entries({ a: 7, f: 12, n: 10, r: 13, t: 9, v: 11 }));
const HEX_LENGTHS = new Map(Object.entries({ x: 2, u: 4, U: 8 }));
const CATEGORIES = new Map(
  Object.entries({
    d: /\p{Nd}/u,
    s: /[\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]/u,
    w: /[\p{L}\p{N}_]/u,
  }),
);
/** @type {[string, string][]} */
const REFUSED_GROUPS = [
  ["(?=", "look-ahead"],
  ["(?!", "look-ahead"],
  ["(?<", "look-behind"],
  ["(?P=", "a back-reference"],
  ["(?(", "a conditional group"],
  ["(?>", "an atomic group"],
  ["(?#", "a comment"],
];

/** @param {Ranges} ranges @returns {Ranges} the same set, in order and with gaps */
function merged(ranges) {
  /** @type {Ranges} */
  const result = [];
  for (const [first, last] of [...ranges].sort((a, b) => a[0] - b[0])) {
    const before = result.at(-1);
    if (before && first <= before[1] + 1) before[1] = Math.max(before[1], last);
    else result.push([first, last]);
  }
  return result;
}

/** @param {Ranges} ranges @returns {Ranges} */
function complement(ranges) {
  /** @type {Ranges} */
  const result = [];
  let begin = 0;
  for (const [first, last] of ranges) {
    if (first > begin) result.push([begin, first - 1]);
    begin = last + 1;
  }
  if (begin <= LAST) result.push([begin, LAST]);
  return result;
}

class Parser {
  /**
   * @param {string} pattern
   * @param {Iterable<number>} universe the code points that classes such as \w are looked up for
   */
  constructor(pattern, universe) {
    this._pattern = pattern;
    this._characters = Array.from(pattern);
    this._universe = universe;
    this._at = 0;
    this._depth = 0;
    /** @type {Set<string>} */
    this._names = new Set();
    /** @type {Map<string, Ranges>} */
    this._categories = new Map();
  }

  /** @returns {Node} */
  parse() {
    const node = this._alternation();
    if (this._at < this._characters.length) throw this._error("')' without '('");
    return node;
  }

  /** @param {string} problem @param {number} [at] */
  _error(problem, at = this._at) {
    return new UsageError(`pattern "${this._pattern.slice(0, 60)}": ${problem} at position ${at}`);
  }

  /** @param {string} what @param {number} at */
  _refused(what, at) {
    return this._error(`${what} is not supported,`, at);
  }

  /** @param {string[]} candidates @returns {string} which of them comes next, or "" */
  _nextIs(...candidates) {
    return candidates.find((c) => Array.from(c).every((x, i) => this._characters[this._at + i] === x)) ?? "";
  }

  /** @param {string[]} candidates */
  _take(...candidates) {
    const found = this._nextIs(...candidates);
    this._at += Array.from(found).length;
    return found;
  }

  /** @returns {Node} */
  _alternation() {
    const parts = [this._concatenation()];
    while (this._take("|")) parts.push(this._concatenation());
    return parts.length === 1 ? parts[0] : { kind: "any", parts };
  }

  /** @returns {Node} */
  _concatenation() {
    // The whole text must match anyway, so anchors at its ends change nothing.
    while (this._depth === 0 && this._take("^", "\\A"));
    /** @type {Node[]} */
    const parts = [];
    while (this._at < this._characters.length && !this._nextIs("|", ")")) {
      const begin = this._at;
      const anchor = this._take("^", "\\A", "$", "\\Z");
      if (anchor) {
        const after = anchor === "$" || anchor === "\\Z";
        while (this._depth === 0 && after && this._take("$", "\\Z"));
        const ends = this._at === this._characters.length || this._nextIs("|");
        if (this._depth || !after || !ends) throw this._refused(`an anchor (${anchor}) inside a pattern`, begin);
        break;
      }
      parts.push(this._quantified(this._atom()));
    }
    return parts.length === 1 ? parts[0] : { kind: "all", parts };
  }

  /** @param {Node} part @returns {Node} */
  _quantified(part) {
    const bounds = this._quantifier();
    if (!bounds) return part;
    if (this._nextIs("+")) throw this._refused("a possessive quantifier", this._at);
    this._take("?"); // a lazy quantifier matches the same texts
    const begin = this._at;
    if (this._quantifier()) {
      throw this._error("a quantifier after a quantifier; put a group (?:...) around the first one", begin);
    }
    return { kind: "repeated", part, least: bounds[0], most: bounds[1] };
  }

  /** @returns {[number, number] | null} */
  _quantifier() {
    const begin = this._at;
    if (this._take("*")) return [0, Infinity];
    if (this._take("+")) return [1, Infinity];
    if (this._take("?")) return [0, 1];
    const found = /^\{(?!\})([0-9]*)(,?)([0-9]*)\}/.exec(this._characters.slice(begin, begin + 40).join(""));
    if (!found || !(found[1] || found[2])) return null; // a brace that stands for itself
    const least = Number(found[1]);
    const most = found[2] ? (found[3] ? Number(found[3]) : Infinity) : least;
    if (most < least) throw this._error("at most fewer repetitions than at least", begin);
    if (Math.max(least, most === Infinity ? 0 : most) > MAX_REPEAT) {
      throw this._error(`more than ${MAX_REPEAT} repetitions`, begin);
    }
    this._at += found[0].length;
    return [least, most];
  }

  /** @returns {Node} */
  _atom() {
    const begin = this._at;
    if (this._quantifier()) throw this._error("a quantifier with nothing to repeat", begin);
    if (this._nextIs("(")) return this._group();
    if (this._take("[")) return { kind: "set", ranges: this._class(begin) };
    if (this._take(".")) return { kind: "set", ranges: complement([[10, 10]]) };
    if (this._nextIs("\\")) return { kind: "set", ranges: this._escape(false) };
    return { kind: "set", ranges: this._single() };
  }

  /** @returns {Node} */
  _group() {
    const begin = this._at;
    for (const [text, what] of REFUSED_GROUPS) if (this._nextIs(text)) throw this._refused(what, begin);
    if (this._take("(?P<")) {
      const end = this._characters.indexOf(">", this._at);
      const name = this._characters.slice(this._at, end).join("");
      if (end < 0 || !/^[\p{L}_][\p{L}\p{N}_]*$/u.test(name) || this._names.has(name)) {
        throw this._error("a group name that is missing, malformed or given twice", begin);
      }
      this._names.add(name);
      this._at = end + 1;
    } else if (!this._take("(?:")) {
      this._take("(");
      if (this._nextIs("?")) throw this._refused("a flag or another extension (?...)", begin);
    }
    if (++this._depth > MAX_DEPTH) throw this._error(`groups nested more than ${MAX_DEPTH} deep`, begin);
    const node = this._alternation();
    this._depth--;
    if (!this._take(")")) throw this._error("'(' without ')'", begin);
    return node;
  }

  /** @param {number} begin @returns {Ranges} */
  _class(begin) {
    const negated = Boolean(this._take("^"));
    /** @type {Ranges} */
    const ranges = [];
    for (let first = true; first || !this._take("]"); first = false) {
      const least = this._classItem(begin);
      if (this._nextIs("-") && !this._nextIs("-]")) {
        const at = this._at++;
        const most = this._classItem(begin);
        const single = [least, most].every((r) => r.length === 1 && r[0][0] === r[0][1]);
        if (!single || least[0][0] > most[0][0]) throw this._error("a bad character range", at);
        ranges.push([least[0][0], most[0][0]]);
      } else for (const [a, b] of least) ranges.push([a, b]);
    }
    return negated ? complement(merged(ranges)) : merged(ranges);
  }

  /** @param {number} begin @returns {Ranges} */
  _classItem(begin) {
    if (this._at >= this._characters.length) throw this._error("'[' without ']'", begin);
    return this._nextIs("\\") ? this._escape(true) : this._single();
  }

  /** @returns {Ranges} the next character */
  _single() {
    const c = /** @type {number} */ (this._characters[this._at++].codePointAt(0));
    return [[c, c]];
  }

  /** @param {boolean} inClass @returns {Ranges} */
  _escape(inClass) {
    const begin = this._at++;
    const letter = this._characters[this._at++] ?? "";
    if (/^[dswDSW]$/.test(letter)) {
      const ranges = this._category(letter.toLowerCase());
      return letter === letter.toLowerCase() ? ranges : complement(ranges);
    }
    const length = HEX_LENGTHS.get(letter);
    if (length !== undefined) {
      const digits = this._characters.slice(this._at, this._at + length).join("");
      this._at += length;
      if (digits.length < length || !/^[0-9a-fA-F]+$/.test(digits)) {
        throw this._error(`an incomplete escape \\${letter}`, begin);
      }
      const c = parseInt(digits, 16);
      if (c > LAST) throw this._error(`no such character: \\${letter}${digits}`, begin);
      return [[c, c]];
    }
    const simple = letter === "b" && inClass ? 8 : ESCAPES.get(letter);
    if (simple !== undefined) return [[simple, simple]];
    if (/^[bB]$/.test(letter) && !inClass) throw this._refused(`a word boundary (\\${letter})`, begin);
    if (/^[0-9]$/.test(letter)) {
      throw this._refused(inClass || letter === "0" ? "an octal escape" : "a back-reference", begin);
    }
    if (!letter || /^[a-zA-Z]$/.test(letter)) throw this._error(`an unknown escape \\${letter}`, begin);
    this._at--;
    return this._single();
  }

  /** @param {string} letter @returns {Ranges} */
  _category(letter) {
    let ranges = this._categories.get(letter);
    if (!ranges) {
      const regex = /** @type {RegExp} */ (CATEGORIES.get(letter));
      ranges = [];
      for (const c of this._universe) if (regex.test(String.fromCodePoint(c))) ranges.push([c, c]);
      ranges = merged(ranges);
      this._categories.set(letter, ranges);
    }
    return ranges;
  }
}

/** @param {number} c @returns {number[]} */
function utf8(c) {
  return Array.from(new TextEncoder().encode(String.fromCodePoint(c)));
}

/**
 * The UTF-8 forms of a range of characters, without surrogates, as sequences of ranges of bytes, in order.
 * @param {number} first @param {number} last @returns {[number, number][][]}
 */
function utf8Ranges(first, last) {
  if (first <= 0xdfff && last >= 0xd800) {
    return [...(first < 0xd800 ? utf8Ranges(first, 0xd7ff) : []), ...(last > 0xdfff ? utf8Ranges(0xe000, last) : [])];
  }
  for (const limit of [0x7f, 0x7ff, 0xffff]) {
    if (first <= limit && limit < last) return [...utf8Ranges(first, limit), ...utf8Ranges(limit + 1, last)];
  }
  if (last > 0x7f) {
    for (const bits of [6, 12, 18]) {
      const low = (1 << bits) - 1;
      if ((first & ~low) !== (last & ~low)) {
        if (first & low) return [...utf8Ranges(first, first | low), ...utf8Ranges((first | low) + 1, last)];
        if ((last & low) !== low) {
          return [...utf8Ranges(first, (last & ~low) - 1), ...utf8Ranges(last & ~low, last)];
        }
      }
    }
  }
  const ends = utf8(last);
  return [utf8(first).map((byte, i) => [byte, ends[i]])];
}

/** @typedef {Map<number, Map<number, Ranges>>} Tree for each state its targets and the bytes that lead there; -1 ends */

/** @param {Ranges} ranges @returns {Tree} the UTF-8 forms as a small automaton from state 0 on */
function utf8Tree(ranges) {
  /** @type {Tree} */
  const tree = new Map();
  /** @type {Map<string, number>} */
  const known = new Map();
  /** @param {[number, number][][]} sequences @param {boolean} root @returns {number} */
  const add = (sequences, root) => {
    /** @type {Map<string, [number, number][][]>} */
    const children = new Map();
    for (const [byte, ...rest] of sequences) {
      const key = byte.join();
      if (!children.has(key)) children.set(key, []);
      /** @type {[number, number][][]} */ (children.get(key)).push(rest);
    }
    const edges = [...children].map(([key, rest]) => /** @type {const} */ ([key, rest[0].length ? add(rest, false) : -1]));
    const key = JSON.stringify(edges);
    let state = 0;
    if (!root) {
      state = known.get(key) ?? known.size + 1;
      known.set(key, state);
    }
    /** @type {Map<number, Ranges>} */
    const targets = new Map();
    for (const [bytes, target] of edges) {
      if (!targets.has(target)) targets.set(target, []);
      const [a, b] = bytes.split(",").map(Number);
      /** @type {Ranges} */ (targets.get(target)).push([a, b]);
    }
    tree.set(state, targets);
    return state;
  };
  add(ranges.flatMap(([first, last]) => utf8Ranges(first, last)), true);
  return tree;
}

/** Thompson's construction: states with edges for sets of tokens, and empty edges. */
class Builder {
  /** @param {Vocabulary} vocabulary @param {(id: number) => boolean} usable */
  constructor(vocabulary, usable) {
    this._vocabulary = vocabulary;
    this._usable = usable;
    /** @type {[number, number][][]} */
    this.edges = [[]];
    /** @type {number[][]} */
    this.empty = [[]];
    /** @type {Map<string, number>} */
    this._setIds = new Map();
    /** @type {Map<string, Tree>} */
    this._trees = new Map();
    /** @type {number[][]} the tokens of each set */
    this.sets = [];
    /** @type {Set<string>} */
    this.unseen = new Set();
  }

  _new() {
    this.edges.push([]);
    return this.empty.push([]) - 1;
  }

  /** @param {Ranges} ranges @returns {Tree} */
  _tree(ranges) {
    const key = ranges.join(";");
    let tree = this._trees.get(key);
    if (!tree) this._trees.set(key, (tree = utf8Tree(ranges)));
    return tree;
  }

  /** @param {Node} node @returns {number} how many states the part takes, at most */
  size(node) {
    if (node.kind === "set") return this._vocabulary.kind === "characters" ? 1 : this._tree(node.ranges).size + 1;
    if (node.kind !== "repeated") return node.parts.reduce((sum, part) => sum + this.size(part) + 1, 1);
    return 2 + this.size(node.part) * Math.max(1, node.most === Infinity ? node.least + 1 : node.most);
  }

  /** @param {Node} node @param {number} start @returns {number} the state after the part */
  add(node, start) {
    if (node.kind === "set") return this._addSet(node.ranges, start);
    if (node.kind === "all") return node.parts.reduce((state, part) => this.add(part, state), start);
    if (node.kind === "any") {
      const end = this._new();
      for (const part of node.parts) {
        const begin = this._new();
        this.empty[start].push(begin);
        this.empty[this.add(part, begin)].push(end);
      }
      return end;
    }
    for (let i = 0; i < node.least; i++) start = this.add(node.part, start);
    const end = this._new();
    this.empty[start].push(end);
    if (node.most === Infinity) {
      this.empty[this.add(node.part, end)].push(end);
      return end;
    }
    for (let i = node.least; i < node.most; i++) {
      start = this.add(node.part, start);
      this.empty[start].push(end);
    }
    return end;
  }

  /** @param {Ranges} ranges @param {number} start */
  _addSet(ranges, start) {
    const end = this._new();
    if (this._vocabulary.kind === "characters") {
      const id = this._setId(ranges);
      if (id >= 0) this.edges[start].push([id, end]);
      else if (ranges.length === 1 && ranges[0][0] === ranges[0][1]) this.unseen.add(String.fromCodePoint(ranges[0][0]));
      return end;
    }
    /** @type {Map<number, number>} */
    const states = new Map([[0, start], [-1, end]]);
    /** @param {number} place @returns {number} */
    const state = (place) => {
      if (!states.has(place)) states.set(place, this._new());
      return /** @type {number} */ (states.get(place));
    };
    for (const [source, targets] of this._tree(ranges)) {
      for (const [target, bytes] of targets) {
        const id = this._setId(bytes);
        const [from, to] = [state(source), state(target)];
        if (id >= 0) this.edges[from].push([id, to]);
      }
    }
    return end;
  }

  /** @param {Ranges} ranges @returns {number} the number of a set of tokens; -1 if it is empty */
  _setId(ranges) {
    const key = ranges.join(";");
    let id = this._setIds.get(key);
    if (id === undefined) {
      const tokens = this._vocabulary.tokensIn(ranges).filter(this._usable);
      id = tokens.length ? this.sets.push(tokens) - 1 : -1;
      this._setIds.set(key, id);
    }
    return id;
  }
}

/** A pattern over the tokens of a vocabulary. */
export class Automaton {
  /**
   * @param {string} pattern
   * @param {Vocabulary} vocabulary
   * @param {(id: number) => boolean} usable whether a token may be drawn
   * @param {number} minLength how many tokens a text has at least
   * @throws {UsageError} the pattern is malformed, too large, or matches no text
   */
  constructor(pattern, vocabulary, usable, minLength) {
    if (typeof pattern !== "string") throw new UsageError("pattern must be a string");
    if (pattern.length > MAX_PATTERN) throw new UsageError(`pattern: at most ${MAX_PATTERN} characters`);
    const universe = vocabulary.kind === "characters" ? vocabulary.codePoints() : Array.from({ length: LAST + 1 }, (_, c) => c);
    const tree = new Parser(pattern, universe).parse();
    const builder = new Builder(vocabulary, usable);
    if (builder.size(tree) > MAX_STATES) {
      throw new UsageError(`the pattern is too large: more than ${MAX_STATES} states with its repetitions written out`);
    }
    const final = builder.add(tree, 0);
    this.end = vocabulary.specialId("end");
    this.minLength = minLength;
    this._removeEmptyEdges(builder, final);
    this._makeClasses(builder.sets, vocabulary.size);
    this._findDistances();
    /** @type {Map<string, PatternNode>} */
    this._nodes = new Map();
    this._numbers = 0;
    this.startNode = this.node([0], 0);
    if (this.startNode.nearest === NEVER) {
      const unseen = [...builder.unseen].slice(0, 5).join(", ");
      const empty = this.distances[0][0] < NEVER;
      const more = unseen ? `; the model has never seen ${unseen}` : "";
      throw new UsageError(`pattern "${pattern.slice(0, 60)}": ${empty ? "only the empty text" : "no text"} matches${more}`);
    }
  }

  /**
   * The state of a text that may have `length` tokens.
   * @param {number} length
   * @returns {PatternState}
   * @throws {UsageError} every match is longer
   */
  start(length) {
    if (this.startNode.nearest > length) {
      throw new UsageError(
        `length ${length} is shorter than the shortest text that matches the pattern: ${this.startNode.nearest} tokens`,
      );
    }
    return new PatternState(this, this.startNode, length);
  }

  /** @param {Builder} builder @param {number} final */
  _removeEmptyEdges(builder, final) {
    const numbers = new Map([[0, 0]]);
    const order = [0];
    /** @type {[number, number][][]} for each state, its edges: a set and the state it leads to */
    this.edges = [];
    /** @type {boolean[]} */
    this.accepting = [];
    let visits = 0;
    let count = 0;
    for (const state of order) {
      const reached = new Set([state]);
      /** @type {Map<string, [number, number]>} */
      const found = new Map();
      for (const here of reached) {
        for (const edge of builder.edges[here]) found.set(edge.join(), edge);
        for (const there of builder.empty[here]) reached.add(there);
      }
      visits += reached.size;
      count += found.size;
      if (visits > MAX_VISITS || count > MAX_EDGES) {
        throw new UsageError("the pattern is too complex; it has large repetitions inside repetitions");
      }
      /** @type {[number, number][]} */
      const edges = [];
      for (const [set, target] of found.values()) {
        let number = numbers.get(target);
        if (number === undefined) numbers.set(target, (number = order.push(target) - 1));
        edges.push([set, number]);
      }
      this.edges.push(edges);
      this.accepting.push(reached.has(final));
    }
  }

  /** Tokens that are in the same sets are one class. @param {number[][]} sets @param {number} size */
  _makeClasses(sets, size) {
    /** @type {string[]} */
    const signatures = Array.from({ length: size }, () => "");
    sets.forEach((tokens, set) => {
      for (const token of tokens) signatures[token] += `${set},`;
    });
    /** @type {Map<string, number>} */
    const classes = new Map();
    for (const signature of signatures) if (!classes.has(signature)) classes.set(signature, classes.size);
    this.numClasses = classes.size;
    this.classes = signatures.map((signature) => /** @type {number} */ (classes.get(signature)));
    /** @type {number[][]} the classes of each set */
    this.setClasses = sets.map((tokens) => [...new Set(tokens.map((token) => this.classes[token]))]);
  }

  /** For each number of tokens so far, up to minLength: how many each state takes to a match. */
  _findDistances() {
    const count = this.edges.length;
    /** @type {number[][]} */
    const before = Array.from({ length: count }, () => []);
    this.edges.forEach((edges, source) => edges.forEach(([, target]) => before[target].push(source)));
    const distance = this.accepting.map((accepts) => (accepts ? 0 : NEVER));
    const queue = [...distance.keys()].filter((state) => distance[state] === 0);
    for (const state of queue) {
      for (const source of before[state]) {
        if (distance[source] === NEVER) {
          distance[source] = distance[state] + 1;
          queue.push(source);
        }
      }
    }
    if (this.minLength * count > MAX_DISTANCES) throw new UsageError("the pattern is too large for this min_length");
    /** @type {number[][]} */
    this.distances = [distance];
    for (let i = 0; i < this.minLength; i++) {
      const next = this.distances[0];
      const here = this.edges.map((edges) => edges.reduce((least, [, target]) => Math.min(least, next[target] + 1), NEVER));
      this.distances.unshift(here);
    }
  }

  /** @param {number[]} states in order @param {number} count tokens so far, at most minLength @returns {PatternNode} */
  node(states, count) {
    const key = `${count}:${states.join()}`;
    let node = this._nodes.get(key);
    if (!node) {
      if (this._numbers > MAX_NODE_NUMBERS) {
        this._numbers = 0;
        for (const old of this._nodes.values()) old.next.clear();
        this._nodes.clear();
      }
      node = new PatternNode(this, states, count);
      this._nodes.set(key, node);
      this._numbers += states.length + this.classes.length + 100;
    }
    return node;
  }
}

/** A deterministic state: a set of states of the automaton. */
class PatternNode {
  /** @param {Automaton} automaton @param {number[]} states @param {number} count */
  constructor(automaton, states, count) {
    this.states = states;
    this.count = count;
    const accepting = count >= automaton.minLength && states.some((state) => automaton.accepting[state]);
    const distances = automaton.distances[Math.min(count + 1, automaton.minLength)];
    const ofClasses = new Int32Array(automaton.numClasses).fill(NEVER);
    for (const state of states) {
      for (const [set, target] of automaton.edges[state]) {
        const needed = Math.min(NEVER, distances[target] + 1);
        for (const c of automaton.setClasses[set]) if (needed < ofClasses[c]) ofClasses[c] = needed;
      }
    }
    /** How many tokens each token takes to a match, itself included; 0 for an end token that may be drawn. */
    this.needed = Int32Array.from(automaton.classes, (c) => ofClasses[c]);
    this.nearest = this.needed.reduce((a, b) => Math.min(a, b), NEVER);
    /** Whether the text matches here and every token may be drawn. */
    this.open = accepting && automaton.end === undefined;
    if (accepting && automaton.end !== undefined) this.needed[automaton.end] = 0;
    /** @type {Map<number, PatternNode>} */
    this.next = new Map();
  }

  /** @param {Automaton} automaton @param {number} token @returns {PatternNode} */
  following(automaton, token) {
    const c = automaton.classes[token];
    let node = this.next.get(c);
    if (!node) {
      /** @type {Set<number>} */
      const reached = new Set();
      for (const state of this.states) {
        for (const [set, target] of automaton.edges[state]) {
          if (automaton.setClasses[set].includes(c)) reached.add(target);
        }
      }
      const states = [...reached].sort((a, b) => a - b);
      node = automaton.node(states, Math.min(this.count + 1, automaton.minLength));
      this.next.set(c, node);
    }
    return node;
  }
}

/** Where one text stands in its pattern. */
export class PatternState {
  /** @param {Automaton} automaton @param {PatternNode} node @param {number} remaining */
  constructor(automaton, node, remaining) {
    this._automaton = automaton;
    this._node = node;
    this._remaining = remaining;
  }

  /** @param {Float64Array} logits those of tokens that lead to no match become -Infinity */
  mask(logits) {
    if (this._node.open) return; // a token that does not continue the match ends the text
    const { needed } = this._node;
    for (let i = 0; i < logits.length; i++) if (needed[i] > this._remaining) logits[i] = -Infinity;
  }

  /** @param {number} token @returns {boolean} false if it does not continue the match: the text has ended before it */
  advance(token) {
    if (this._node.needed[token] > this._remaining) return false;
    this._node = this._node.following(this._automaton, token);
    this._remaining--;
    return true;
  }

  /** Whether the text may end here: the model may draw its end token, or has none. */
  get matches() {
    const { end } = this._automaton;
    return end === undefined ? this._node.open : this._node.needed[end] === 0;
  }

  /** Whether the text matches, no token can continue the match, and the model has no end token to say so. */
  get complete() {
    return this._node.open && this._node.nearest > this._remaining;
  }

  /** @returns {PatternState} a state that advances on its own */
  copy() {
    return new PatternState(this._automaton, this._node, this._remaining);
  }
}

/**
 * The pattern of a text with gaps.
 * @param {string} fill `?` is a gap, `\?` and `\\` are the characters themselves
 * @returns {string}
 */
export function patternOfFill(fill) {
  if (typeof fill !== "string") throw new UsageError("fill must be a string");
  const parts = fill.match(/\\[?\\]|[^?]|\?/gsu) ?? [];
  if (!parts.includes("?")) throw new UsageError(`fill "${fill.slice(0, 80)}" has no gap; write ? for a gap`);
  const special = /[\\^$.|?*+()[\]{}]/;
  return parts
    .map((part) => {
      if (part === "?") return ".+";
      const character = /** @type {string} */ (Array.from(part).at(-1));
      return special.test(character) ? `\\${character}` : character;
    })
    .join("");
}
