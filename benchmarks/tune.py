"""`charrnn tune` against the recipe in the same time, on texts of the zoo: validation losses and their difference.

    python benchmarks/tune.py [--texts licence tinyshakespeare Python] [--time 20m] [--seed 1]

The recipe trains once for the whole time; the search uses at most two thirds of it, and its winner is trained in the
rest. Both have the whole machine, one after the other, so nothing else should run on it.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import zoo  # type: ignore[import-not-found]  # it stands beside this script

import charrnn


def main() -> None:
    """Prints a row for each text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", nargs="*", choices=list(zoo.TEXTS), default=["licence", "tinyshakespeare", "Python"])
    parser.add_argument("--time", default="20m")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    print(f"| text, {args.time} | the recipe | tune | difference | trials | the winner |")
    print("|---|---|---|---|---|---|")
    for name in args.texts:
        with tempfile.TemporaryDirectory() as folder:
            path, options = zoo.text_file(name, Path(folder)), zoo.TEXTS[name][1]
            common = {"time": args.time, "progress": False, "seed": args.seed, **options}
            run = charrnn.train(path, out=Path(folder) / "recipe", **common)
            tuning = charrnn.tune(path, out=Path(folder) / "tune", **common)
        assert tuning.run is not None
        winner = tuning.command.partition(str(path))[2].strip()
        difference = tuning.run.best_val_loss - run.best_val_loss
        print(
            f"| {name} | {run.best_val_loss:.4f} | {tuning.run.best_val_loss:.4f} | {difference:+.4f} "
            f"| {len(tuning.outcomes)} | {winner} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
