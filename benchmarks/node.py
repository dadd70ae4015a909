"""Of many texts drawn with the same seeds in Python and in Node, how many differ?

    python benchmarks/node.py MODEL.onnx … [--texts 1000] [--length 1000] [--package onnxruntime-node]

The random numbers and the arithmetic of drawing are the same everywhere; the logits are computed by another build of
ONNX Runtime, which may round differently. A text differs when a rounding decided which character was drawn, with all
that follows. ``onnxruntime-node`` is native code; ``onnxruntime-web`` computes in WebAssembly, as browsers
do. The package must be installed: ``make web-test``, or ``npm install`` in tests/web.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

from charrnn_runtime import Sampler

ROOT = Path(__file__).parents[1]
PROGRAM = """
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";
const [sources, folder, name, model, texts, length] = process.argv.slice(2);
const require = createRequire(folder + "/");
const ort = require(name);
if (ort.env?.wasm) ort.env.wasm.numThreads = 1;
const { Sampler } = await import(pathToFileURL(sources + "/sampler.js"));
const sampler = await Sampler.load(ort, readFileSync(model));
for (let index = 0; index < Number(texts); index++) {
  const text = await sampler.sample("", { length: Number(length), seed: 1n, index: BigInt(index) });
  console.log(JSON.stringify(text));
}
"""


def first_difference(a: str, b: str) -> int:
    """The position of the first character that differs."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def main() -> None:
    """Prints a row for each model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--texts", type=int, default=1000)
    parser.add_argument("--length", type=int, default=1000)
    parser.add_argument("--package", default="onnxruntime-node", choices=["onnxruntime-node", "onnxruntime-web"])
    parser.add_argument("--folder", type=Path, default=ROOT / "tests" / "web", help="where the package is installed")
    arguments = parser.parse_args()
    node = shutil.which("node") or sys.exit("node is not installed")
    print("| model | growth along its own text | texts that differ | characters before the first difference |")
    print("|---|---|---|---|")
    for path in arguments.models:
        begun = time.monotonic()
        sampler = Sampler(path)
        here = sampler.sample_batch([""] * arguments.texts, length=arguments.length, seed=1)
        command = [node, "--input-type=module", "-", str(ROOT / "runtime" / "js"), str(arguments.folder.resolve())]
        command += [arguments.package, str(path.resolve()), str(arguments.texts), str(arguments.length)]
        done = subprocess.run(command, input=PROGRAM, stdout=subprocess.PIPE, check=True, encoding="utf-8")
        there = [json.loads(line) for line in done.stdout.splitlines()]
        places = [first_difference(a, b) for a, b in zip(here, there, strict=True) if a != b]
        before = f"{min(places)} to {max(places)}" if places else "–"
        growth = sampler.info.parity["growth"]["own"]
        print(f"| {path.name} | {growth:.2g} | {len(places)} of {arguments.texts} | {before} |", flush=True)
        print(f"{time.monotonic() - begun:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
