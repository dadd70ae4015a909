// The page: reads the settings, shows the text. The model runs in worker.js, so that the page stays responsive.

/** @param {string} id @returns {any} */
const element = (id) => document.getElementById(id);
const number = new Intl.NumberFormat("en");
const form = element("form");
const worker = new Worker("worker.js", { type: "module" });
const drawn = element("drawn").appendChild(document.createTextNode(""));
let writing = false;
let ready = false;

/** @param {string} text @param {"polite" | "off"} [live] off: not to be read aloud */
function status(text, live = "polite") {
  element("status").setAttribute("aria-live", live);
  element("status").textContent = text;
}

/** @param {string} text empty for none */
function fail(text) {
  element("error").textContent = text;
  element("error").hidden = !text;
}

/** @param {boolean} now */
function setWriting(now) {
  writing = now;
  element("write").disabled = now || !ready;
  element("stop").disabled = !now;
}

/** @param {any} model what worker.js says of the model */
function describe(model) {
  const { training } = model;
  const corpus = typeof training.corpus === "string" && training.corpus ? training.corpus : "";
  const title = corpus || "A small language model";
  element("title").textContent = title;
  document.title = `${title} · charrnn`;
  const size = `${model.cell.toUpperCase()} ${model.numLayers}×${model.hiddenSize}`;
  const parts = [`${size}, ${(model.bytes / 1e6).toFixed(1)} MB${model.dtype === "float32" ? "" : `, ${model.dtype}`}`];
  parts.push(`${number.format(model.symbols)} ${model.kind === "bytes" ? "bytes" : "characters"} known`);
  if (Number.isFinite(training.epochs)) parts.push(`trained for ${Number(training.epochs.toPrecision(3))} epochs`);
  if (Number.isFinite(training.val_loss)) parts.push(`${training.val_loss.toFixed(3)} nats per character`);
  parts.push("computed in your browser");
  element("about").textContent = parts.join(" · ");
  element("label").replaceChildren(new Option("any", ""), ...model.labels.map((/** @type {string} */ label) => new Option(label, label)));
  element("label-field").hidden = !model.labels.length;
}

/** @param {any} told */
function progress({ count, seconds, seed, reason }) {
  const speed = seconds > 0.05 ? ` · ${number.format(Math.round(count / seconds))} per second` : "";
  const ended = reason === "stopped" ? " · stopped" : "";
  status(`${number.format(count)} characters${speed} · seed ${seed}${ended}`, reason ? "polite" : "off");
}

function start() {
  if (!ready || writing || !form.reportValidity()) return;
  fail("");
  const prompt = element("prompt").value;
  element("given").textContent = prompt;
  drawn.data = "";
  element("text").scrollTop = 0;
  element("keep").hidden = true;
  setWriting(true);
  status("Reading the prompt…");
  worker.postMessage({
    type: "start",
    prompt,
    label: element("label").value,
    seed: element("seed").value.trim(),
    stop: element("stop-at").value,
    pattern: element("pattern").value,
    length: element("length").valueAsNumber,
    temperature: element("temperature").valueAsNumber,
    top_p: element("top_p").valueAsNumber,
    min_p: element("min_p").valueAsNumber,
  });
}

function stop() {
  if (writing) worker.postMessage({ type: "stop" });
}

worker.onmessage = ({ data }) => {
  switch (data.type) {
    case "loading":
      status(`Loading: ${(data.bytes / 1e6).toFixed(1)} MB`);
      element("progress").hidden = false;
      if (data.bytes <= data.total) {
        element("progress").max = data.total;
        element("progress").value = data.bytes;
      } else element("progress").removeAttribute("value"); // sent compressed: the total size is unknown
      break;
    case "ready":
      ready = true;
      element("progress").hidden = true;
      describe(data.model);
      setWriting(false);
      status("Ready.");
      break;
    case "piece": {
      const box = element("text");
      const follows = box.scrollHeight - box.scrollTop - box.clientHeight < 40;
      drawn.appendData(data.text);
      if (follows) box.scrollTop = box.scrollHeight;
      progress(data);
      break;
    }
    case "done":
      progress(data);
      setWriting(false);
      element("keep").hidden = element("seed").value.trim() === data.seed;
      element("keep").dataset.seed = data.seed;
      break;
    case "error":
      fail(data.message);
      element("progress").hidden = true;
      status(ready ? "" : "The model could not be loaded.");
      setWriting(false);
  }
};
worker.onerror = (event) => {
  fail(`This browser cannot run the sampler: ${event.message || "module workers are missing"}`);
  status("");
};

form.addEventListener("submit", (/** @type {Event} */ event) => {
  event.preventDefault();
  start();
});
element("stop").addEventListener("click", stop);
element("keep").addEventListener("click", () => {
  element("seed").value = element("keep").dataset.seed;
  element("keep").hidden = true;
  element("seed").focus();
});
element("temperature").addEventListener("input", () => {
  element("temperature-value").textContent = String(element("temperature").valueAsNumber);
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") stop();
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    start();
  }
});
element("temperature-value").textContent = String(element("temperature").valueAsNumber); // the browser may remember one
status("Loading…");
