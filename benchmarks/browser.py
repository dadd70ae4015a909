"""Characters a second in a headless Chromium: a model file's steps against its generator's blocks.

    python benchmarks/browser.py MODEL.onnx … [--length 3000] [--rounds 3]

Both draw the same text in the same worker, in turns; the first round is not counted. It needs the package playwright,
a Chromium, and onnxruntime-web in the cache (``make web-test``).
"""

from __future__ import annotations

import argparse
import functools
import http.server
import json
import shutil
import statistics
import tempfile
import threading
from pathlib import Path

from charrnn_runtime import read_model_file
from playwright.sync_api import sync_playwright

from charrnn.web.site import write_site

WORKER = """
import { Sampler } from "./charrnn/sampler.js";
self.onmessage = async ({ data: { length, rounds } }) => {
  const site = await (await fetch("site.json")).json();
  const read = async (url) => new Uint8Array(await (await fetch(url)).arrayBuffer());
  const ort = await import(new URL(site.module.url, self.location.href).href);
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmBinary = (await read(site.wasm.url)).buffer;
  const samplers = [];
  for (const url of [site.model, site.generator]) samplers.push(await Sampler.load(ort, await read(url)));
  const rows = [];
  for (let round = 0; round <= rounds; round++) {
    for (const options of [{}, { top_p: 0.95 }]) {
      const texts = [];
      for (const sampler of samplers) {
        const begun = performance.now();
        texts.push(await sampler.sample("", { length, seed: 7, temperature: 0.8, ...options }));
        const speed = (1000 * length) / (performance.now() - begun);
        if (round) rows.push([JSON.stringify(options), sampler.info.generator ? "blocks" : "steps", speed]);
      }
      if (texts[0] !== texts[1]) throw new Error("the texts differ");
    }
  }
  postMessage(rows);
};
"""
CALL = """(data) => new Promise((resolve, reject) => {
  const worker = new Worker("bench.js", { type: "module" });
  worker.onmessage = (event) => resolve(event.data);
  worker.onerror = (event) => reject(new Error(event.message));
  worker.addEventListener("messageerror", reject);
  worker.postMessage(data);
})"""


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Files of a folder, without a log."""

    def log_message(self, *_: object) -> None:
        """Writes nothing."""


def main() -> None:
    """Prints a row for each model and kind of drawing: the medians of the rounds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--length", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    print("| model | options | steps, characters a second | blocks | ratio |")
    print("|---|---|---|---|---|")
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for model in arguments.models:
            write_site(read_model_file(model).data, Path(folder))
            Path(folder, "bench.js").write_text(WORKER, "utf-8")
            page = browser.new_page()
            page.goto(f"http://127.0.0.1:{server.server_port}/style.css")
            rows = page.evaluate(CALL, {"length": arguments.length, "rounds": arguments.rounds})
            for options in dict.fromkeys(row[0] for row in rows):
                steps, blocks = (
                    statistics.median(speed for o, kind, speed in rows if (o, kind) == (options, name))
                    for name in ("steps", "blocks")
                )
                shown = json.loads(options) or "none"
                print(f"| {model.name} | {shown} | {steps:,.0f} | {blocks:,.0f} | {blocks / steps:.2f} |", flush=True)
            page.close()
        browser.close()
        server.shutdown()


if __name__ == "__main__":
    main()
