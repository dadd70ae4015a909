"""How fast is a training beside another one, on a machine whose processors both want?

    python benchmarks/side_by_side.py [--rounds 5] [--steps 300] [--before PYTHON]

Each round trains alone, and twice at the same time, with as many threads as torch takes by itself. Speeds are steps
a second of training, start-up left out. ``--before`` names the Python of another version: it trains alone by turns with
this one, so that both meet the same machine. Medians, and the lowest and highest of the rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

OPTIONS = ["--hidden-size", "128", "--optimizer", "adamw", "--precision", "fp32", "--eval-steps", "100000"]


def speeds(pythons: Sequence[str], text: Path, steps: int) -> list[float]:
    """Trains in one process for each Python, all at the same time; steps a second of each."""
    environment = {
        name: value for name, value in os.environ.items() if name not in ("OMP_NUM_THREADS", "GOMP_SPINCOUNT")
    }
    with tempfile.TemporaryDirectory() as folder:
        runs = [Path(folder) / str(i) for i in range(len(pythons))]
        started = [
            subprocess.Popen(
                [python, "-P", "-m", "charrnn", "train", text, "--out", run, "--steps", str(steps), *OPTIONS],
                env=environment,
                stdout=subprocess.DEVNULL,
            )
            for python, run in zip(pythons, runs, strict=True)
        ]
        assert [process.wait() for process in started] == [0] * len(pythons)
        return [_speed(run) for run in runs]


def _speed(run: Path) -> float:
    """Steps a second between the first and the last report."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text("utf-8").splitlines()]
    last = lines[-1]
    return float(last["step"] / last["elapsed"])


def main() -> None:
    """Prints the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--before", help="the Python of another version")
    arguments = parser.parse_args()
    draw = random.Random(1)
    found: dict[str, list[float]] = {"alone": [], "beside another": []}
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / "text.txt"
        text.write_text(" ".join("".join(draw.choices("abcdefghij", k=draw.randint(2, 8))) for _ in range(60_000)))
        for _ in range(arguments.rounds):
            if arguments.before:
                found.setdefault("alone, before", []).extend(speeds([arguments.before], text, arguments.steps))
            found["alone"] += speeds([sys.executable], text, arguments.steps)
            found["beside another"] += speeds([sys.executable] * 2, text, arguments.steps)
    alone = statistics.median(found["alone"])
    for name, values in found.items():
        median = statistics.median(values)
        spread = f"{min(values):.1f} to {max(values):.1f}"
        print(f"{name}: {median:.1f} steps a second ({spread}), {median / alone:.2f} of alone")


if __name__ == "__main__":
    main()
