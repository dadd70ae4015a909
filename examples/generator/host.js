// Draws a text with ONNX Runtime for JavaScript alone. node.mjs and index.html show how to call it.

// ONNX Runtime for JavaScript does not give access to the metadata: an entry is the key, a byte 0x12, the length of
// the value in groups of 7 bits, the lowest first, and the value.
function metadata(file, key) {
  let at = new TextDecoder("latin1").decode(file).lastIndexOf(key + "\x12") + key.length + 1;
  let size = 0;
  for (let shift = 0; ; shift += 7) {
    size += (file[at] & 0x7f) << shift;
    if (file[at++] < 0x80) return new TextDecoder().decode(file.subarray(at, at + size));
  }
}

export async function* draw(ort, file, prompt, length, seed) {
  const session = await ort.InferenceSession.create(file);
  const { tokens: symbols, special } = JSON.parse(metadata(file, "charrnn.vocab"));
  const states = JSON.parse(metadata(file, "charrnn.states"));
  let ids = Array.from(prompt, (character) => symbols.indexOf(character));
  if (!ids.length || "begin" in special) ids.unshift(metadata(file, "charrnn.start_token"));
  const int64 = (values, ...shape) => new ort.Tensor("int64", BigInt64Array.from(values, BigInt), shape);
  const float64 = (value) => new ort.Tensor("float64", Float64Array.of(value), [1]);
  const feeds = { seed: int64([seed]), index: int64([0], 1), end: int64([special.end ?? -1]), top_k: int64([0], 1) };
  Object.assign(feeds, { temperature: float64(1), top_p: float64(1), min_p: float64(0) });
  for (const { input, shape } of states) feeds[input] = new ort.Tensor("float32", new Float32Array(shape[1]), [1, shape[1]]);
  for (let position = 0; position < length; ) {
    const count = Math.min(length - position, 64); // a piece at a time
    Object.assign(feeds, { prompt: int64(ids, ids.length, 1), prompt_lengths: int64([ids.length], 1) });
    Object.assign(feeds, { position: int64([position], 1), length: int64([count]) });
    const outputs = await session.run(feeds);
    const drawn = Array.from(outputs.tokens.data, Number).slice(0, Number(outputs.counts.data[0]));
    yield drawn.filter((id) => id !== special.end).map((id) => symbols[id]).join("");
    if (drawn.length < count || drawn.at(-1) === special.end) return;
    // To go on: the last token is the prompt, and the states have seen all before it.
    [ids, position] = [drawn.slice(-1), position + drawn.length];
    for (const { input, output } of states) feeds[input] = outputs[output];
  }
}
