// Errors that callers can correct; the same names as in the Python runtime.

/** Root of all errors that are raised on purpose. */
export class CharrnnError extends Error {
  /** @param {string} message */
  constructor(message) {
    super(message);
    this.name = new.target.name;
  }
}

/** An argument has a value that cannot be used. */
export class UsageError extends CharrnnError {}

/** A text holds a character that the model has never seen. */
export class UnknownCharacterError extends UsageError {
  /**
   * @param {string} character
   * @param {number} position in code points (bytes, for a model of bytes), from 0
   * @param {number} total how many such characters the text has
   */
  constructor(character, position, total) {
    const code = (character.codePointAt(0) ?? 0).toString(16).toUpperCase().padStart(4, "0");
    const more = total > 1 ? ` (${total} such characters in all)` : "";
    super(
      `the model has never seen ${JSON.stringify(character)} (U+${code}) at position ${position} of the text${more}; ` +
        'leave it out, or pass unknown: "skip"',
    );
    this.character = character;
    this.position = position;
  }
}

/** A file is not a charrnn model file, is damaged, or contradicts itself. */
export class ModelFileError extends CharrnnError {}

/** The model computed logits from which nothing can be drawn. */
export class ModelOutputError extends CharrnnError {}
