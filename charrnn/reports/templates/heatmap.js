"use strict";
// The text is drawn on a canvas, only the rows in view, so a long text costs only memory.
// Everything that comes from texts and names goes through textContent or fillText, never through innerHTML.
(() => {
  const element = (id) => document.getElementById(id);
  const data = (id) => JSON.parse(element("data-" + id).textContent);
  const about = data("about");
  const length = about.length;
  const canvas = element("canvas"), scroller = element("scroller"), map = element("map");
  const pen = canvas.getContext("2d"), mapPen = map.getContext("2d");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const FONT = "ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace";
  const SIZE = 14, GUESS = 11, PAD = 10, TAB = 4;
  const SURPRISED = 8; // bits at which the colour is full

  // ---- data ----

  async function unpack(id, bytes) {
    const packed = Uint8Array.from(atob(data(id)), (c) => c.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
    const buffer = await new Response(stream).arrayBuffer();
    if (bytes === 1) return new Uint8Array(buffer);
    const view = new DataView(buffer), out = new (bytes === 2 ? Uint16Array : Uint32Array)(buffer.byteLength / bytes);
    for (let i = 0; i < out.length; i++) out[i] = bytes === 2 ? view.getUint16(2 * i, true) : view.getUint32(4 * i, true);
    return out;
  }

  let text, bits, guesses, probabilities; // one entry a position
  let levels = null; // 0 to 255, the colour of each position
  let chosen = -1; // number of a unit, or -1 for surprise
  const symbols = about.symbols.map((code) => String.fromCodePoint(code));
  const unpacked = new Map();

  // ---- layout ----

  let rowHeight = 22, charWidth = 8.5, columns = 80, rows = []; // rows: first position of each
  let wide = []; // columns that each symbol takes
  let cursor = 0, hovered = -1;

  function measure() {
    pen.font = `${SIZE}px ${FONT}`;
    charWidth = pen.measureText("0").width;
    wide = about.symbols.map((code, i) =>
      code === 9 ? TAB : code < 0x300 ? 1 : pen.measureText(symbols[i]).width > 1.4 * charWidth ? 2 : 1);
  }

  function layout() {
    rowHeight = element("under").checked ? 22 + about.guesses * (GUESS + 2) + 6 : 22;
    columns = Math.max(8, Math.floor((scroller.clientWidth - 2 * PAD) / charWidth));
    rows = [0];
    let used = 0;
    for (let i = 0; i < length; i++) {
      const width = wide[text[i]];
      if (used + width > columns && used) { rows.push(i); used = 0; }
      used += width;
      if (about.symbols[text[i]] === 10 && i + 1 < length) { rows.push(i + 1); used = 0; }
    }
    element("spacer").style.height = Math.max(0, rows.length * rowHeight + 2 * PAD - scroller.clientHeight) + "px";
    for (const [it, box] of [[canvas, scroller], [map, map]]) {
      const ratio = devicePixelRatio || 1;
      const width = box.clientWidth, height = scroller.clientHeight;
      it.width = Math.round(width * ratio);
      it.height = Math.round(height * ratio);
      it.style.height = height + "px";
      if (it === canvas) it.style.width = width + "px";
      it.getContext("2d").setTransform(ratio, 0, 0, ratio, 0, 0);
    }
    drawMap();
    draw();
  }

  function rowOf(position) {
    let low = 0, high = rows.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (rows[middle] <= position) low = middle; else high = middle - 1;
    }
    return low;
  }

  function* inRow(row) { // [position, x, width]
    const end = row + 1 < rows.length ? rows[row + 1] : length;
    let x = PAD;
    for (let i = rows[row]; i < end; i++) {
      const width = wide[text[i]] * charWidth;
      yield [i, x, width];
      x += width;
    }
  }

  // ---- colours ----

  let palette = [], colours = {};
  function mix(a, b, t) { return `rgb(${a.map((v, i) => Math.round(v + (b[i] - v) * t)).join(" ")})`; }
  function recolour() {
    const style = getComputedStyle(document.documentElement);
    for (const name of ["ground", "ink", "faint", "mark", "bar", "hit", "line"]) colours[name] = style.getPropertyValue("--" + name).trim();
    const night = dark.matches;
    const middle = night ? [28, 30, 33] : [253, 252, 250];
    const low = night ? [28, 84, 166] : [108, 164, 232], high = night ? [168, 62, 24] : [244, 140, 84];
    const surprise = night ? [172, 40, 66] : [244, 118, 128];
    palette = Array.from({ length: 256 }, (_, v) =>
      chosen < 0 ? mix(middle, surprise, v / 255)
        : v < 127 ? mix(middle, low, (127 - v) / 127) : mix(middle, high, Math.min(1, (v - 127) / 127)));
    const legend = element("legend").getContext("2d");
    const top = chosen < 0 ? 255 : about.levels;
    for (let x = 0; x < 256; x++) { legend.fillStyle = palette[Math.round(x / 255 * top)]; legend.fillRect(x, 0, 1, 1); }
  }

  // ---- drawing ----

  const shown = { 10: "↵", 13: "␍", 9: "→" };
  let asked = false;
  function draw() {
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => { asked = false; paint(); });
  }

  function paint() {
    const width = scroller.clientWidth, height = scroller.clientHeight, top = scroller.scrollTop;
    pen.fillStyle = colours.ground;
    pen.fillRect(0, 0, width, height);
    if (!levels) return;
    pen.textBaseline = "middle";
    const first = Math.max(0, Math.floor((top - PAD) / rowHeight));
    const last = Math.min(rows.length - 1, Math.floor((top + height) / rowHeight));
    for (let row = first; row <= last; row++) {
      const y = PAD + row * rowHeight - top;
      pen.font = `${SIZE}px ${FONT}`;
      for (const [i, x, wideness] of inRow(row)) {
        pen.fillStyle = palette[levels[i]];
        pen.fillRect(x, y, wideness + 0.5, 21);
      }
      for (const [i, x] of inRow(row)) {
        const code = about.symbols[text[i]];
        if (code === 32) continue;
        const mark = shown[code] ?? (code < 32 || code === 127 ? "·" : null);
        pen.fillStyle = mark ? colours.faint : colours.ink;
        pen.fillText(mark ?? symbols[text[i]], x, y + 11.5);
      }
      if (element("under").checked) underneath(row, y);
    }
    for (const [position, strong] of [[hovered, false], [cursor, true]]) {
      if (position < 0) continue;
      const row = rowOf(position);
      if (row < first || row > last) continue;
      for (const [i, x, wideness] of inRow(row)) {
        if (i !== position) continue;
        pen.strokeStyle = strong ? colours.mark : colours.ink;
        pen.lineWidth = strong ? 2 : 1;
        pen.strokeRect(x - 0.5, PAD + row * rowHeight - top, wideness + 1, 21);
      }
    }
  }

  function underneath(row, y) {
    pen.font = `${GUESS}px ${FONT}`;
    for (const [i, x, wideness] of inRow(row)) {
      for (let k = 0; k < about.guesses; k++) {
        const at = i * about.guesses + k, p = probabilities[at] / 255;
        const line = y + 22 + k * (GUESS + 2);
        const right = i + 1 < length && about.labels[guesses[at]] === label(i + 1);
        pen.globalAlpha = Math.sqrt(p);
        pen.fillStyle = right ? colours.hit : colours.bar;
        pen.fillRect(x, line, wideness - 1, GUESS + 1);
        pen.globalAlpha = 0.35 + 0.65 * p;
        pen.fillStyle = colours.ink;
        pen.fillText(about.labels[guesses[at]].slice(0, 1), x + 0.5, line + 6.5);
        pen.globalAlpha = 1;
      }
    }
  }

  function drawMap() { // the whole text from top to bottom: the mean colour of the rows behind each pixel
    const height = scroller.clientHeight, width = map.clientWidth;
    mapPen.clearRect(0, 0, width, height);
    if (!levels) return;
    const span = Math.max(rows.length, 1);
    const lines = Math.min(height, span);
    for (let y = 0; y < lines; y++) {
      const begin = rows[Math.floor(y * span / lines)];
      const next = Math.floor((y + 1) * span / lines);
      const end = next < rows.length ? rows[next] : length;
      let sum = 0;
      for (let i = begin; i < end; i++) sum += levels[i];
      mapPen.fillStyle = palette[Math.round(sum / Math.max(1, end - begin))];
      mapPen.fillRect(0, y * height / lines, width, height / lines + 1);
    }
    const all = rows.length * rowHeight + 2 * PAD;
    mapPen.strokeStyle = colours.ink;
    mapPen.lineWidth = 1.5;
    mapPen.strokeRect(1, scroller.scrollTop / all * height + 1, width - 2, Math.max(6, Math.min(1, height / all) * height - 2));
  }

  // ---- details of a position ----

  function label(i) {
    const code = about.symbols[text[i]];
    return { 10: "↵", 9: "⇥", 32: "␣", 13: "␍" }[code] ?? (code < 32 ? "U+" + code.toString(16).padStart(4, "0").toUpperCase() : symbols[text[i]]);
  }
  const percent = (p) => p >= 254.5 ? ">99 %" : p < 2.5 ? "<1 %" : Math.round(p / 2.55) + " %";
  const spoken = { "↵": "newline", "␣": "space", "⇥": "tab" };

  function tell() {
    const i = hovered >= 0 ? hovered : cursor;
    const where = element("where");
    where.replaceChildren();
    const b = document.createElement("b");
    b.textContent = label(i);
    let value = "";
    if (chosen >= 0) {
      const unit = about.units[chosen];
      value = ` · ${unit.name} = ${(unit.low + (unit.high - unit.low) * levels[i] / about.levels).toFixed(2)}`;
    }
    const surprise = (bits[i] / about.bitsUnit).toFixed(2);
    where.append(b, ` character ${(i + 1).toLocaleString("en")} · surprise ${surprise} bits${value}`);
    const list = element("guesses");
    list.replaceChildren();
    const words = [];
    for (let k = 0; k < about.guesses; k++) {
      const at = i * about.guesses + k, name = about.labels[guesses[at]];
      const item = document.createElement("li"), fill = document.createElement("i");
      const c = document.createElement("span"), p = document.createElement("span");
      fill.style.width = probabilities[at] / 2.55 + "%";
      c.className = "c";
      c.textContent = name;
      p.textContent = percent(probabilities[at]);
      if (i + 1 < length && name === label(i + 1)) { item.className = "hit"; item.title = "this one came"; }
      item.append(fill, c, p);
      list.append(item);
      words.push(`${spoken[name] ?? name} ${percent(probabilities[at])}`);
    }
    if (hovered < 0) element("says").textContent =
      `${spoken[label(i)] ?? label(i)}, surprise ${surprise} bits${value}. Next: ${words.join(", ")}`;
  }

  function go(position) {
    cursor = Math.min(length - 1, Math.max(0, position));
    hovered = -1;
    const top = rowOf(cursor) * rowHeight;
    if (top < scroller.scrollTop) scroller.scrollTop = top;
    const bottom = top + rowHeight + 2 * PAD - scroller.clientHeight;
    if (bottom > scroller.scrollTop) scroller.scrollTop = bottom;
    tell();
    draw();
  }

  function at(event) {
    const box = canvas.getBoundingClientRect();
    const row = Math.floor((event.clientY - box.top + scroller.scrollTop - PAD) / rowHeight);
    if (row < 0 || row >= rows.length) return -1;
    const x = event.clientX - box.left;
    for (const [i, left, width] of inRow(row)) if (x >= left && x < left + width) return i;
    return -1;
  }

  function above(step) { // the position one row up or down, at about the same column
    const row = rowOf(cursor), target = Math.min(rows.length - 1, Math.max(0, row + step));
    const end = target + 1 < rows.length ? rows[target + 1] : length;
    return Math.min(end - 1, rows[target] + cursor - rows[row]);
  }

  const page = () => Math.max(1, Math.floor(scroller.clientHeight / rowHeight) - 1);
  const keys = {
    ArrowRight: () => cursor + 1, ArrowLeft: () => cursor - 1, ArrowDown: () => above(1), ArrowUp: () => above(-1),
    PageDown: () => above(page()), PageUp: () => above(-page()),
    Home: (e) => e.ctrlKey ? 0 : rows[rowOf(cursor)],
    End: (e) => e.ctrlKey ? length - 1 : (rowOf(cursor) + 1 < rows.length ? rows[rowOf(cursor) + 1] : length) - 1,
  };
  canvas.addEventListener("keydown", (event) => {
    const move = keys[event.key];
    if (!move || event.altKey || event.metaKey) return;
    event.preventDefault();
    go(move(event));
  });
  canvas.addEventListener("pointermove", (event) => {
    if (event.pointerType === "touch") return;
    const now = at(event);
    if (now === hovered) return;
    hovered = now;
    tell();
    draw();
  });
  canvas.addEventListener("pointerleave", () => { if (hovered >= 0) { hovered = -1; tell(); draw(); } });
  canvas.addEventListener("click", (event) => { const now = at(event); if (now >= 0) go(now); });
  scroller.addEventListener("scroll", () => { draw(); drawMap(); });
  function jump(event) {
    const all = rows.length * rowHeight + 2 * PAD, box = map.getBoundingClientRect();
    scroller.scrollTop = (event.clientY - box.top) / box.height * all - scroller.clientHeight / 2;
  }
  map.addEventListener("pointerdown", (event) => { map.setPointerCapture(event.pointerId); jump(event); });
  map.addEventListener("pointermove", (event) => { if (event.buttons) jump(event); });

  // ---- choosing a unit ----

  const wish = element("feature"), list = element("list"), panel = element("panel");
  const best = (unit) => Object.entries(unit.correlations).reduce((a, b) => Math.abs(b[1]) > Math.abs(a[1]) ? b : a, ["", 0]);
  const signed = (r) => (r < 0 ? "−" : "+") + Math.abs(r).toFixed(2);
  const title = (number) => {
    if (number < 0) return "surprise: bits per character";
    const unit = about.units[number], [name, r] = best(unit);
    return name ? `${name} (r = ${signed(r)}), ${unit.name}` : unit.name;
  };

  function option(number, what, r, name) {
    const item = document.createElement("label");
    item.className = "item" + (number === chosen ? " on" : "");
    const radio = document.createElement("input");
    radio.type = "radio";
    radio.name = "unit";
    radio.value = number;
    radio.checked = number === chosen;
    radio.addEventListener("change", () => choose(number));
    const parts = [["what", what], ["r", r === null ? "" : "r = " + signed(r)], ["name", name]].map(([kind, words]) => {
      const span = document.createElement("span");
      span.className = kind;
      span.textContent = words;
      return span;
    });
    item.append(radio, ...parts);
    if (r !== null) {
      const meter = document.createElement("span"), fill = document.createElement("i");
      meter.className = "meter";
      fill.style.width = 100 * Math.abs(r) + "%";
      meter.append(fill);
      item.append(meter);
    }
    item.addEventListener("click", () => panel.classList.contains("open") && setTimeout(() => open(false)));
    return item;
  }

  function fillList() {
    const feature = wish.value;
    const ranked = about.units.map((unit, number) => {
      const [name, r] = feature ? [feature, unit.correlations[feature]] : best(unit);
      return { number, name, r, unit };
    }).sort((a, b) => Math.abs(b.r) - Math.abs(a.r));
    list.replaceChildren(option(-1, "surprise", null, "bits per character"),
      ...ranked.map(({ number, name, r, unit }) => option(number, name || "nothing nameable", r, unit.name)));
  }

  async function choose(number) {
    chosen = number;
    if (!unpacked.has(number)) {
      unpacked.set(number, number < 0
        ? Uint8Array.from(bits, (b) => Math.min(255, b / about.bitsUnit / SURPRISED * 255))
        : await unpack("unit" + number, 1));
    }
    if (chosen !== number) return; // the user has chosen another unit in the meantime
    levels = unpacked.get(number);
    for (const item of list.children) item.classList.toggle("on", item.firstChild.checked);
    element("chosen").textContent = "Colour: " + title(number);
    const unit = about.units[number];
    element("low").textContent = unit ? unit.low.toFixed(2) : "0 bits";
    element("high").textContent = unit ? unit.high.toFixed(2) : SURPRISED + " bits or more";
    recolour();
    drawMap();
    draw();
    tell();
    document.body.dataset.unit = unit ? unit.name : "surprise";
  }

  function open(on) {
    panel.classList.toggle("open", on);
    element("choose").ariaExpanded = String(on);
    if (on) list.querySelector("input:checked")?.focus(); else if (element("choose").offsetParent) element("choose").focus();
  }
  element("choose").addEventListener("click", () => open(!panel.classList.contains("open")));
  panel.addEventListener("keydown", (event) => { if (event.key === "Escape" || event.key === "Enter") open(false); });
  wish.addEventListener("change", fillList);
  element("under").addEventListener("change", () => { layout(); go(cursor); });
  dark.addEventListener("change", () => { recolour(); drawMap(); draw(); });

  // ---- start ----

  async function begin() {
    element("facts").textContent = about.facts.map(([name, value]) => `${name} ${value}`).join(" · ");
    const names = Object.keys(about.units[0]?.correlations ?? {});
    for (const [value, words] of [["", "anything (best first)"], ...names.map((name) => [name, name])]) {
      const it = document.createElement("option");
      it.value = value;
      it.textContent = words;
      wish.append(it);
    }
    [text, bits, guesses, probabilities] = await Promise.all([
      unpack("text", about.wide), unpack("bits", 2), unpack("guesses", about.labelsWide), unpack("probabilities", 1)]);
    measure();
    chosen = about.units.length ? 0 : -1;
    fillList();
    await choose(chosen);
    layout();
    tell();
    new ResizeObserver(layout).observe(scroller);
    document.body.dataset.ready = "yes";
  }
  begin().catch((error) => { element("facts").textContent = `This page needs a newer browser (${error.message}).`; throw error; });
})();
