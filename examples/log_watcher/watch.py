"""Flags the lines of a log that a model finds strange; needs numpy and ONNX Runtime, and no torch.

    tail -f app.log | python watch.py log.onnx clean.log

A line's score is its nats per character. The threshold is learnt from a log in which all is well, which the model may
have been trained on: one line in ``--one-in`` of it has a higher score.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from charrnn_runtime import Sampler


def scores(sampler: Sampler, batches: Iterable[list[str]]) -> Iterator[tuple[float, str]]:
    """Each line with its nats per character; of a batch of one line, as soon as the line has come."""
    for item in sampler.score_items(batches):
        yield item.nats / item.tokens, str(item.text)


def learn_threshold(sampler: Sampler, clean: list[str], one_in: float) -> float:
    """The score that one line in ``one_in`` of a clean log exceeds."""
    return float(np.quantile([score for score, _ in scores(sampler, [clean])], 1 - 1 / one_in))


def main() -> None:
    """Prints strange lines with their scores until the input ends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("clean", type=Path, help="a log in which all is well")
    parser.add_argument("--one-in", type=float, default=1000, help="clean lines for each false alarm (default: 1000)")
    args = parser.parse_args()
    sampler = Sampler(args.model)
    threshold = learn_threshold(sampler, args.clean.read_text("utf-8").splitlines(), args.one_in)
    print(f"threshold: {threshold:.3f} nats per character", file=sys.stderr)
    for score, line in scores(sampler, ([line.rstrip("\n")] for line in sys.stdin)):
        if score > threshold:
            print(f"{score:.3f}\t{line}", flush=True)


if __name__ == "__main__":
    main()
