"""Shows that a change keeps all numbers: trains, exports and samples with two versions and compares the results.

    python benchmarks/same_numerics.py --before ../before/.venv/bin/python [--save DIR]
    python benchmarks/same_numerics.py --against DIR [--only lstm-text gru-items]

Each version is a Python interpreter in whose environment it is installed;
``--after`` is this interpreter unless another one is named. Nine small models,
three cells on three kinds of text, are trained for 200 steps each. Compared:

- weights: each tensor of the last checkpoint, byte for byte;
- state: what resuming needs (optimizer, hidden state, random numbers) and the history of losses, byte for byte.
  Names are not compared, and the later version may store more;
- model: the ONNX graph byte for byte, and the metadata, except for the digest and the versions, which must
  differ, and for the parity figures, unless ``--strict`` is given. The later version may say more of the training;
- text: at least 1,000 sampled characters.

``--save`` keeps the results of ``--before`` for ``--against``, which takes half
the time. Kept results hold for one machine and one version of PyTorch and of
ONNX Runtime. The exit code is 1 if anything differs or a command fails.

The versions are driven by their command lines, so that their modules may be
moved and renamed. Speed plays no part: the budget is in steps, and each
process computes with one thread.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor

STEPS = 200
USAGE_ERROR = 2  # exit code for an option that this version does not know
CHARACTERS = 1000  # sampled, at least
TEXT, RUN, SAMPLE, COMMANDS = "text.txt", "run", "sample.txt", "commands.json"
PARTS = ("weights", "state", "model", "text")
CHANGING = {"charrnn.sha256", "charrnn.producer"}  # metadata that tells versions apart
RENAMED = {
    "--max-cost": "--max-loss-increase"
}  # options whose name depends on the version: the old one and the new one
PARITY, TRAINING = "charrnn.parity", "charrnn.training"


class FailedError(Exception):
    """A command failed, or saved results cannot be used."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model to train.

    Attributes:
        cell: lstm, gru or rnn.
        kind: text (running text), streams (char-rnn's split) or items.
        options: of ``charrnn train``, by their oldest names; see ``RENAMED``.
        dtypes: of the model files to export.
        resumed: trained for half the steps first, and resumed.
    """

    cell: str
    kind: str
    options: tuple[str, ...]
    dtypes: tuple[str, ...] = ("fp32",)
    resumed: bool = False

    @property
    def name(self) -> str:
        """Cell and kind, as in ``--only``."""
        return f"{self.cell}-{self.kind}"

    def commands(self) -> list[list[str]]:
        """Arguments of ``charrnn``, one list a command; the last one prints the sample."""
        train = ["train", TEXT, "--out", RUN, "--cell", self.cell, "--hidden-size", "64", "--seed", "1"]
        train += ["--device", "cpu", "--eval-steps", "50", *self.options]
        commands = [[*train, "--steps", str(STEPS // 2 if self.resumed else STEPS)]]
        if self.resumed:
            commands.append(["train", "--out", RUN, "--resume", "--steps", str(STEPS)])
        for dtype in self.dtypes:
            # The increase of the loss is stored in the file; the limit on it is not tested here.
            measured = [] if dtype == "fp32" else ["--max-cost", "9"]
            commands.append(["export", f"{RUN}/last.pt", model_file(dtype), "--dtype", dtype, *measured])
        length = ["--num", "80"] if self.kind == "items" else ["--length", str(CHARACTERS)]
        commands.append(["sample", model_file("fp32"), "--seed", "2", "--quiet", *length])
        return commands


def model_file(dtype: str) -> str:
    """The name of a model file."""
    return f"model-{dtype}.onnx"


SMALL = ("--embedding-size", "16", "--batch-size", "8", "--seq-len", "32")
FP32 = ("--precision", "fp32")
DROPOUT = ("--dropout", "0.1")
STREAMS, ITEMS = ("--split", "streams"), ("--lines",)
CASES = (
    # Without --precision: bf16 where the processor has instructions for it.
    Case(cell="lstm", kind="text", options=(*SMALL, *DROPOUT, "--num-layers", "2")),
    Case(cell="lstm", kind="streams", options=(*SMALL, *DROPOUT, *FP32, *STREAMS), resumed=True),
    Case(cell="lstm", kind="items", options=(*SMALL, *DROPOUT, *FP32, *ITEMS), dtypes=("fp32", "int8")),
    Case(cell="gru", kind="text", options=(*SMALL, *DROPOUT, *FP32), dtypes=("fp32", "fp16")),
    Case(cell="gru", kind="streams", options=("--preset", "char-rnn", "--batch-size", "10", *DROPOUT, *FP32)),
    Case(cell="gru", kind="items", options=(*SMALL, *DROPOUT, *FP32, *ITEMS), resumed=True),
    Case(cell="rnn", kind="text", options=("--preset", "torch-rnn", "--batch-size", "10", *DROPOUT)),
    Case(cell="rnn", kind="streams", options=(*SMALL, *DROPOUT, *FP32, *STREAMS, "--optimizer", "adamw")),
    Case(cell="rnn", kind="items", options=(*SMALL, *DROPOUT, *FP32, *ITEMS, "--min-count", "5")),
)


def make_text() -> str:
    """About 60 kB in lines: sentences of made-up words, with some characters outside ASCII; always the same."""
    draw = random.Random(12)
    onsets = ("b", "br", "d", "f", "g", "k", "kl", "l", "m", "n", "p", "r", "s", "st", "t", "v", "ß", "ж", "ツ")
    syllables = [onset + vowel for onset in onsets for vowel in ("a", "e", "i", "o", "u", "é", "ö")]
    words = ["".join(draw.choices(syllables, k=draw.choice((1, 2, 2, 3)))) for _ in range(300)]
    lines = []
    for _ in range(1600):
        sentence = " ".join(draw.choices(words, k=draw.randint(3, 9)))
        lines.append(f"{sentence.capitalize()}{draw.choice('...!?…')}\n")
    return "".join(lines)


def produce(case: Case, python: str, folder: Path) -> None:
    """Runs the commands of a case; its files are in the folder afterwards.

    Raises:
        FailedError: a command failed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / COMMANDS).unlink(missing_ok=True)
    (folder / TEXT).write_text(make_text(), encoding="utf-8", newline="")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {
        "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONUTF8": "1", "CHARRNN_CACHE": str(folder / "cache"),
    }  # fmt: skip
    for arguments in case.commands():
        overwrite = ["--overwrite"] if arguments[0] == "train" and "--resume" not in arguments else []
        old_names = [*arguments, *overwrite]
        new_names = [RENAMED.get(argument, argument) for argument in old_names]
        for named in [new_names, old_names] if new_names != old_names else [old_names]:
            command = [python, "-m", "charrnn", *named]
            try:
                done = subprocess.run(
                    command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=False
                )
            except OSError as error:
                raise FailedError(f"{python}: cannot be run: {error.strerror or error}") from error
            if done.returncode != USAGE_ERROR:
                break
        if done.returncode:
            told = (done.stderr or done.stdout).decode(errors="replace").strip()
            raise FailedError(f"{case.name}: exit code {done.returncode} from {' '.join(command)}\n{told}")
    (folder / SAMPLE).write_bytes(done.stdout)
    # Written last: a folder without it is incomplete.
    (folder / COMMANDS).write_text(json.dumps(case.commands()))


def interpreter(path: str) -> str:
    """The path made absolute: commands run in folders of their own. A symbolic link tells Python its environment."""
    return str(Path(path).absolute()) if Path(path).exists() else path


def check_complete(case: Case, folder: Path) -> None:
    """Checks that the folder holds the results of the same commands.

    Raises:
        FailedError: it does not.
    """
    try:
        commands = json.loads((folder / COMMANDS).read_text())
    except (OSError, ValueError):
        commands = None
    if commands != case.commands() or (folder / TEXT).read_text(encoding="utf-8") != make_text():
        raise FailedError(f"{folder}: not the results of this script's commands for {case.name}; --save them again")


def compare(case: Case, before: Path, after: Path, *, strict: bool = False) -> dict[str, list[str]]:
    """The differences between two folders of results, a line each, by part; a part that is equal has none."""
    checkpoints = [torch.load(folder / RUN / "last.pt", weights_only=True) for folder in (before, after)]
    texts = [(folder / SAMPLE).read_bytes() for folder in (before, after)]
    return {
        "weights": list(_weights(*(checkpoint["weights"] for checkpoint in checkpoints))),
        "state": list(_state(*checkpoints)),
        "model": [
            f"{dtype}: {line}"
            for dtype in case.dtypes
            for line in _models(*(onnx.load(folder / model_file(dtype)) for folder in (before, after)), strict=strict)
        ],
        "text": list(_texts(*texts)),
    }


def _weights(before: dict[str, Tensor], after: dict[str, Tensor]) -> Iterator[str]:
    if not before:
        yield "there are no weights"
    for name in sorted(before.keys() | after.keys()):
        if name not in before or name not in after:
            yield f"{name} is only {'after' if name in after else 'before'}"
        elif _content(before[name]) != _content(after[name]):
            old, new = before[name], after[name]
            same_shape = old.shape == new.shape
            by = f"by at most {(new.double() - old.double()).abs().max():.3g}" if same_shape else "in shape"
            yield f"{name} differs {by}"


def _state(before: dict[str, Any], after: dict[str, Any]) -> Iterator[str]:
    for name in ("step", "epoch", "train_loss", "val_loss"):
        old, new = ([row[name] for row in checkpoint["history"]] for checkpoint in (before, after))
        if old != new or not old:
            yield f"history of {name}: {old} became {new}"
    if before["vocabulary"] != after["vocabulary"]:
        yield "the vocabulary differs"
    old_values, new_values = (Counter(_values(checkpoint["resume"])) for checkpoint in (before, after))
    if lost := (old_values - new_values).total():
        yield f"{lost} of {old_values.total()} values for resuming are not the same afterwards"


def _values(nested: Any) -> Iterator[tuple[Any, ...]]:
    """The values in nested containers, without their names; None is skipped."""
    if isinstance(nested, dict):
        nested = list(nested.values())
    if isinstance(nested, (list, tuple)):
        for value in nested:
            yield from _values(value)
    elif isinstance(nested, Tensor):
        yield _content(nested)
    elif nested is not None:
        yield (type(nested).__name__, repr(nested))


def _content(tensor: Tensor) -> tuple[Any, ...]:
    """Type, shape and bytes of a tensor: -0.0 is not 0.0, and NaN equals NaN."""
    flat = tensor.contiguous().flatten()
    return str(tensor.dtype), tuple(tensor.shape), flat.view(torch.uint8).numpy().tobytes()


def _models(before: onnx.ModelProto, after: onnx.ModelProto, *, strict: bool) -> Iterator[str]:
    ignored = CHANGING if strict else CHANGING | {PARITY}
    old, new = ({p.key: p.value for p in model.metadata_props if p.key not in ignored} for model in (before, after))
    before_training, after_training = (json.loads(props.get(TRAINING, "{}")) for props in (old, new))
    if before_training.items() <= after_training.items():
        old.pop(TRAINING, None), new.pop(TRAINING, None)
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) != new.get(key):
            yield f"metadata {key}: {_short(old.get(key))} became {_short(new.get(key))}"
    old_tensors, new_tensors = (
        {tensor.name: tensor.SerializeToString(deterministic=True) for tensor in model.graph.initializer}
        for model in (before, after)
    )
    for name in sorted(old_tensors.keys() | new_tensors.keys()):
        if old_tensors.get(name) != new_tensors.get(name):
            yield f"initializer {name} differs"
    rest = []
    for model in (before, after):
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        del copy.metadata_props[:]
        rest.append(copy.SerializeToString(deterministic=True))
    if rest[0] != rest[1] and old_tensors == new_tensors:
        yield f"the graph differs ({len(rest[0]):,} bytes became {len(rest[1]):,})"


def _short(value: str | None) -> str:
    return "(absent)" if value is None else value if len(value) <= 300 else f"{value[:300]}…"


def _texts(before: bytes, after: bytes) -> Iterator[str]:
    old, new = (text.decode(errors="backslashreplace") for text in (before, after))
    if len(old) < CHARACTERS:
        yield f"only {len(old)} characters were sampled"
    if before != after:
        pairs = enumerate(zip(old, new, strict=False))
        place = next((i for i, (a, b) in pairs if a != b), min(len(old), len(new)))
        yield f"differs from character {place:,} on: {old[place : place + 30]!r} became {new[place : place + 30]!r}"


def producer(folder: Path) -> str:
    """The versions that wrote a model file."""
    model = onnx.load(folder / model_file("fp32"))
    versions = json.loads(next(p.value for p in model.metadata_props if p.key == "charrnn.producer"))
    return ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))


def main(argv: Sequence[str] | None = None) -> int:
    """Prints a table, one row a case, and every difference; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [case.name for case in CASES]
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--before", metavar="PYTHON", type=interpreter, help="interpreter of the version to compare with"
    )
    source.add_argument("--against", metavar="DIR", type=Path, help="results that --save kept, instead of --before")
    parser.add_argument(
        "--after", metavar="PYTHON", default=sys.executable, type=interpreter, help="interpreter of the changed version"
    )
    parser.add_argument("--save", metavar="DIR", type=Path, help="keep the results of --before in this folder")
    parser.add_argument("--only", nargs="+", metavar="CASE", choices=names, default=names, help=", ".join(names))
    parser.add_argument("--strict", action="store_true", help="compare the parity figures too")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="commands at a time (default: cores)")
    args = parser.parse_args(argv)
    if args.save and args.against:
        parser.error("--save keeps the results of --before; leave out --against")
    cases = [case for case in CASES if case.name in args.only]
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        before, after = (args.against or args.save or Path(temporary, "before")).absolute(), Path(temporary, "after")

        def run(case: Case) -> dict[str, list[str]]:
            if args.before:
                produce(case, args.before, before / case.name)
            check_complete(case, before / case.name)
            produce(case, args.after, after / case.name)
            return compare(case, before / case.name, after / case.name, strict=args.strict)

        with ThreadPoolExecutor(args.jobs) as pool:
            print(f"{'case':14}" + "".join(f"{part:10}" for part in PARTS), flush=True)
            found: list[str] = []
            try:
                for case, differences in zip(cases, pool.map(run, cases), strict=True):
                    cells = ("DIFFERS" if differences[part] else "equal" for part in PARTS)
                    print(f"{case.name:14}" + "".join(f"{cell:10}" for cell in cells), flush=True)
                    found += [f"{case.name}: {part}: {line}" for part in PARTS for line in differences[part]]
            except FailedError as error:
                pool.shutdown(cancel_futures=True)
                print(error, file=sys.stderr)
                return 1
        versions = [producer(folder / cases[0].name) for folder in (before, after)]
    for line in found:
        print(line)
    print(f"before: {versions[0]}\nafter: {versions[1]}")
    count = f"{len(found)} differences" if found else "no difference"
    print(f"{count} in {len(cases)} models, {time.monotonic() - began:.0f} s")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
