// The playground. All texts are shown through text nodes, so the text of a model or user is never parsed as HTML.
const $ = (id) => document.getElementById(id);
const form = $("form"), text = $("text");
const LEVELS = [0.5, 1, 2, 3.5, 5, 7]; // bits of surprise at which a colour begins
const SHOWN = 200_000; // characters kept on the page
const SEEN = 500; // characters of the prompt that suggestions look at

let running = null; // the AbortController of the text being written

function headers() {
  const all = { "Content-Type": "application/json" };
  if ($("key").value) all.Authorization = `Bearer ${$("key").value}`;
  return all;
}

function complain(message) {
  $("error").textContent = message;
  $("error").hidden = !message;
}

async function failure(response) {
  if (response.status === 401) {
    $("key-field").hidden = false;
    $("key").focus();
  }
  try {
    return (await response.json()).error.message;
  } catch {
    return `The server answered ${response.status}.`;
  }
}

async function loadModels() {
  const response = await fetch("v1/models", { headers: headers() });
  if (!response.ok) return complain(await failure(response));
  const { data } = await response.json();
  $("model").replaceChildren(
    ...data.map((model) => {
      const option = new Option(model.id, model.id);
      option.dataset.labels = JSON.stringify(model.labels);
      option.dataset.about = `${model.cell.toUpperCase()} ${model.num_layers}×${model.hidden_size}, ${model.vocabulary} characters`;
      return option;
    }),
  );
  describe();
}

function describe() {
  const chosen = $("model").selectedOptions[0];
  if (!chosen) return;
  $("about").textContent = chosen.dataset.about;
  const labels = JSON.parse(chosen.dataset.labels), before = $("label").value;
  $("label").replaceChildren(new Option("any", ""), ...labels.map((label) => new Option(label, label)));
  $("label").value = labels.includes(before) ? before : "";
  $("label-field").hidden = labels.length === 0;
}

function unescape(value) {
  return value.replace(/\\(n|t|\\)/g, (_, c) => ({ n: "\n", t: "\t", "\\": "\\" })[c]);
}

function asked() {
  const body = {
    model: $("model").value,
    prompt: $("prompt").value,
    temperature: Number($("temperature").value),
    max_tokens: Number($("length").value),
    stream: true,
  };
  if ($("seed").value.trim()) body.seed = Number($("seed").value);
  if ($("stop").value) body.stop = unescape($("stop").value);
  if ($("label").value) body.label = $("label").value;
  if ($("pattern").value) body.pattern = $("pattern").value;
  if ($("surprise").checked) body.logprobs = 0;
  return body;
}

// The data of server-sent events, as they come.
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    buffer += value;
    const parts = buffer.split("\n\n");
    buffer = parts.pop();
    for (const part of parts) if (part.startsWith("data: ")) yield part.slice(6);
  }
}

function level(logProb) {
  const bits = -logProb / Math.LN2;
  return LEVELS.filter((limit) => bits >= limit).length;
}

// One element for each run of characters whose surprise is about equal.
function coloured(piece, logprobs, begin) {
  const out = document.createDocumentFragment();
  const { text_offset: offsets, token_logprobs: values } = logprobs;
  const add = (from, to, rank) => {
    const span = document.createElement("span");
    if (rank) span.className = `s${rank}`;
    span.textContent = piece.slice(from, to);
    out.append(span);
  };
  // Offsets count code points, so the text is cut into code points.
  const points = Array.from(piece);
  const at = [0];
  for (const point of points) at.push(at[at.length - 1] + point.length);
  let from = 0, rank = 0;
  offsets.forEach((offset, i) => {
    const here = at[offset - begin] ?? piece.length;
    const next = values[i] === null ? 0 : level(values[i]);
    if (next !== rank) {
      if (here > from) add(from, here, rank);
      from = here;
      rank = next;
    }
  });
  add(from, piece.length, rank);
  return { fragment: out, count: points.length };
}

function follow(change) {
  const near = text.scrollHeight - text.scrollTop - text.clientHeight < 60;
  change();
  if (near) text.scrollTop = text.scrollHeight;
}

function show(piece, logprobs, begin) {
  let count = Array.from(piece).length;
  follow(() => {
    if (logprobs) {
      const made = coloured(piece, logprobs, begin);
      text.append(made.fragment);
      count = made.count;
    } else text.append(piece);
  });
  return count;
}

async function write() {
  if (running || !form.reportValidity()) return;
  hideSuggestions();
  const body = asked();
  const mine = new AbortController();
  running = mine;
  complain("");
  $("go").disabled = true;
  $("halt").disabled = false;
  $("copy").disabled = true;
  $("figures").textContent = "";
  $("status").textContent = "Writing";
  $("legend").hidden = body.logprobs === undefined;
  const given = document.createElement("span");
  given.className = "given";
  given.textContent = body.prompt;
  text.replaceChildren(given);
  text.classList.add("writing");
  if (matchMedia("(max-width: 48rem)").matches) text.parentElement.scrollIntoView({ block: "start" });
  let written = 0, seed = null, reason = null;
  const began = performance.now();
  let first = null;
  const tell = () => {
    const seconds = (performance.now() - (first ?? began)) / 1000;
    const speed = seconds > 0.05 ? ` · ${Math.round(written / seconds).toLocaleString("en")} characters/s` : "";
    $("figures").textContent = `${written.toLocaleString("en")}${speed}${seed === null ? "" : ` · seed ${seed}`}`;
  };
  try {
    const response = await fetch("v1/completions", {
      method: "POST", headers: headers(), body: JSON.stringify(body), signal: mine.signal,
    });
    if (!response.ok) throw new Error(await failure(response));
    for await (const data of events(response)) {
      if (data === "[DONE]") break;
      const event = JSON.parse(data);
      if (event.error) throw new Error(event.error.message);
      first ??= performance.now();
      seed = event.seed;
      const [choice] = event.choices;
      written += show(choice.text, choice.logprobs, written);
      reason = choice.finish_reason ?? reason;
      tell();
      if (written > SHOWN) mine.abort();
    }
    $("status").textContent = `Done: ${written} characters`;
  } catch (error) {
    if (mine.signal.aborted) {
      $("status").textContent = `Stopped after ${written} characters`;
    } else {
      complain(error.message);
      $("status").textContent = "";
    }
  } finally {
    running = null;
    text.classList.remove("writing");
    $("go").disabled = false;
    $("halt").disabled = true;
    $("copy").disabled = written === 0;
    if (written) tell();
  }
}

// Suggestions while one types: the most probable ends of the last word, if the caret is at the end.
let suggesting = null; // the AbortController of the request under way
let typed = 0; // the timer that waits for a pause

function hideSuggestions() {
  clearTimeout(typed);
  suggesting?.abort();
  $("suggestions").hidden = true;
  $("suggestions").replaceChildren();
}

function take(suggestion) {
  hideSuggestions();
  $("prompt").setRangeText(suggestion, $("prompt").selectionStart, $("prompt").selectionEnd, "end");
  $("prompt").focus();
  suggestSoon();
}

async function suggest() {
  const prompt = $("prompt");
  if (!prompt.value || prompt.selectionStart !== prompt.value.length) return;
  const mine = new AbortController();
  suggesting = mine;
  // What was written long ago says little about the next word, and takes time to read.
  const body = { model: $("model").value, prompt: Array.from(prompt.value).slice(-SEEN).join(""), n: 3, unknown: "skip" };
  try {
    const response = await fetch("complete", {
      method: "POST", headers: headers(), body: JSON.stringify(body), signal: mine.signal,
    });
    if (!response.ok) return; // suggestions are a help: their errors do not disturb
    const { completions } = await response.json();
    if (mine.signal.aborted) return;
    $("suggestions").replaceChildren(
      ...completions.map(({ text, probability }) => {
        const button = document.createElement("button");
        button.type = "button";
        button.className = "small";
        button.textContent = text;
        button.title = `${(100 * probability).toPrecision(2)} %`;
        button.addEventListener("click", () => take(text));
        return button;
      }),
    );
    $("suggestions").hidden = completions.length === 0;
  } catch {
    // The request was given up, or the server is away.
  }
}

function suggestSoon() {
  hideSuggestions();
  typed = setTimeout(suggest, 150);
}

function halt() {
  running?.abort();
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  write();
});
$("halt").addEventListener("click", () => {
  halt();
  $("go").focus();
});
$("copy").addEventListener("click", async () => {
  await navigator.clipboard.writeText(text.textContent);
  $("status").textContent = "Copied";
  $("copy").textContent = "Copied";
  setTimeout(() => ($("copy").textContent = "Copy"), 1500);
});
$("model").addEventListener("change", describe);
$("key").addEventListener("change", () => {
  complain("");
  loadModels();
});
$("temperature").addEventListener("input", () => {
  $("temperature-value").value = Number($("temperature").value).toFixed(2);
});
$("prompt").addEventListener("input", suggestSoon);
$("prompt").addEventListener("keydown", (event) => {
  if ($("suggestions").hidden) return;
  if (event.key === "Tab" && !event.shiftKey) {
    event.preventDefault();
    take($("suggestions").firstElementChild.textContent);
  } else if (event.key === "Escape") {
    event.stopPropagation();
    hideSuggestions();
  }
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    write();
  } else if (event.key === "Escape") halt();
});
loadModels();
