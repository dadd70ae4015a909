"""Many clients of ``charrnn serve`` at once: characters a second, time to the first one, memory; every text checked.

    python benchmarks/serving.py [MODEL.onnx] [--clients 200] [--seconds 60]

The server is a process of its own; all clients are one other process. Each
client asks for text after text, streamed; every third one disconnects in the
middle of each text. Without a model, random weights of 1×256 are used: speed
does not depend on them. The exit code is 1 if another client had an error, or
got a text that differs from its single run.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from charrnn_runtime import Sampler

TEXTS = 40  # different texts: few enough to generate each alone afterwards
LENGTH = 1500


@dataclass
class Tally:
    """The results of the clients."""

    characters: int = 0
    texts: int = 0
    left: int = 0
    first: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


def body(number: int, model: str) -> dict[str, Any]:
    """One of the requests."""
    return {"model": model, "max_tokens": LENGTH - 25 * (number % 20), "seed": number, "stream": True}


async def client(
    url: str, model: str, expected: list[str], start: int, leaves: bool, until: float, tally: Tally
) -> None:
    """Asks for one text after the other."""
    where = urlsplit(url)
    number = start
    while time.perf_counter() < until:
        number = (number + 7) % TEXTS
        stop = len(expected[number]) * (1 + number % 3) // 5 if leaves else None
        begin = time.perf_counter()
        reader, writer = await asyncio.open_connection(where.hostname, where.port)
        data = json.dumps(body(number, model)).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nHost: {where.netloc}\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Content-Length: {len(data)}\r\nConnection: close\r\n\r\n".encode() + data)
        text, done = "", False
        while not done and (line := await reader.readline()):
            if not line.startswith(b"data: "):
                continue
            if line == b"data: [DONE]\n":
                done = True
                break
            event = json.loads(line[6:])
            if "error" in event:
                break
            if not text:
                tally.first.append(time.perf_counter() - begin)
            text += event["choices"][0]["text"]
            tally.characters += len(event["choices"][0]["text"])
            if time.perf_counter() > until or (stop is not None and len(text) >= stop):
                break
        writer.close()
        if done:
            tally.texts += 1
            if text != expected[number]:
                tally.errors.append(f"text {number} is not its single run")
        elif not expected[number].startswith(text) or not (text or time.perf_counter() > until):
            tally.errors.append(f"text {number} broke off or is wrong: {text[-40:]!r}")
        else:
            tally.left += 1


async def crowd(url: str, model: str, expected: list[str], count: int, seconds: float) -> tuple[Tally, float]:
    """Runs the clients; what they saw, and characters a second."""
    tally = Tally()
    begin = time.perf_counter()
    until = begin + seconds
    # A single client never disconnects.
    leaves = [i % 3 == 2 for i in range(count)]
    await asyncio.gather(*(client(url, model, expected, i, leaves[i], until, tally) for i in range(count)))
    return tally, tally.characters / (time.perf_counter() - begin)


def resident(pid: int) -> float:
    """Resident memory in MB, on Linux."""
    status = Path(f"/proc/{pid}/status").read_text("ascii")
    return int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) / 1024


async def watch(pid: int, memory: list[float]) -> None:
    """Notes the memory once a second."""
    while True:
        memory.append(resident(pid))
        await asyncio.sleep(1)


async def measure(url: str, model: str, pid: int, expected: list[str], clients: int, seconds: float) -> bool:
    """Prints the table; returns whether there was no error."""
    alone, one = await crowd(url, model, expected, 1, min(5.0, seconds))
    memory: list[float] = []
    watcher = asyncio.create_task(watch(pid, memory))
    many, all_of_them = await crowd(url, model, expected, clients, seconds)
    watcher.cancel()
    half = memory[len(memory) // 2 :]
    print("| | 1 client |", f"{clients} clients |")
    print("|---|---|---|")
    print(f"| characters a second | {one:,.0f} | {all_of_them:,.0f} ({all_of_them / one:.1f}×) |")
    for name, share in (("median", 50), ("p95", 95)):
        values = [f"{np.percentile(tally.first, share) * 1000:.0f} ms" for tally in (alone, many)]
        print(f"| time to the first character, {name} | {values[0]} | {values[1]} |")
    print(f"| texts, all compared | {alone.texts:,} | {many.texts:,}, and {many.left:,} left half way |")
    print(f"| errors | {len(alone.errors)} | {len(many.errors)} |")
    print(f"| memory, first second → second half | | {memory[0]:.0f} → {min(half):.0f} to {max(half):.0f} MB |")
    for error in (alone.errors + many.errors)[:5]:
        print(error, file=sys.stderr)
    return not (alone.errors or many.errors)


def random_model(folder: Path) -> Path:
    """A model file with random weights, 1×256."""
    import torch
    from charrnn_export import export_model
    from charrnn_runtime import Vocabulary

    from charrnn.config import ModelConfig
    from charrnn.model.char_rnn import CharRNN

    torch.manual_seed(0)
    vocabulary = Vocabulary(symbols=tuple(range(32, 128)))
    model = CharRNN(ModelConfig(cell="lstm", num_layers=1, hidden_size=256), len(vocabulary)).eval()
    exported = export_model(
        model.export_weights(), vocabulary, model.sequence_forward(), training={}, producer={}, parity_steps=20
    )
    path = folder / "random.onnx"
    path.write_bytes(exported.data)
    return path


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model", nargs="?", type=Path)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = arguments.model or random_model(Path(folder))
        sampler = Sampler(model)
        requests = [body(number, model.stem) for number in range(TEXTS)]
        expected = [sampler.sample(length=r["max_tokens"], seed=r["seed"]) for r in requests]
        command = [sys.executable, "-m", "charrnn_server", str(model), "--port", "0"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            url = server.stdout.readline().strip()
            try:
                well = asyncio.run(measure(url, model.stem, server.pid, expected, arguments.clients, arguments.seconds))
            finally:
                server.terminate()
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
