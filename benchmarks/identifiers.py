"""A model of the standard library's identifiers, labelled by kind: how well it classifies, and what it writes.

    python benchmarks/identifiers.py write FILE
    python benchmarks/identifiers.py [--time 2m] [--num 1000]

The first form writes a line for each identifier: its kind (function, class, constant, module), a tab, the name. They
are read from the source of this Python's standard library with ``ast``: definitions, assignments to names in capitals
at the top level or in a class, and the names of modules. Names that do not follow the convention for their kind (PEP 8)
are left out. Nothing is imported or run.

The second form trains a model on them, and prints accuracy and log-loss on the items kept for validation, and how many
texts of each label the regular expression of that kind accepts.
"""

from __future__ import annotations

import argparse
import ast
import re
import sysconfig
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import charrnn

FORMS = {
    "class": re.compile(r"_*[A-Z][A-Za-z0-9]*"),
    "constant": re.compile(r"_*[A-Z][A-Z0-9_]*"),
    "function": re.compile(r"_*[a-z][A-Za-z0-9_]*"),
    "module": re.compile(r"[a-z_][a-z0-9_]*(\.[a-z_][a-z0-9_]*)*"),
}
_CONSTANT = re.compile(r"_*[A-Z][A-Z0-9_]{2,}")
_SKIPPED = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__", "lib2to3"}


def identifiers() -> list[tuple[str, str]]:
    """(kind, name), sorted, each once."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    found = set()
    for path in sorted(folder.rglob("*.py")):
        place = path.relative_to(folder)
        if _SKIPPED & set(place.parts):
            continue
        module = ".".join(place.with_suffix("").parts).removesuffix(".__init__")
        found.add(("module", module))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):
            continue
        found |= set(_names(tree))
    return sorted((kind, name) for kind, name in found if FORMS[kind].fullmatch(name))


def _names(tree: ast.AST) -> Iterator[tuple[str, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            yield "class", node.name
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("__"):
            yield "function", node.name
        if isinstance(node, ast.Module | ast.ClassDef):
            for statement in node.body:
                targets = statement.targets if isinstance(statement, ast.Assign) else []
                for target in targets:
                    if isinstance(target, ast.Name) and _CONSTANT.fullmatch(target.id):
                        yield "constant", target.id


def write(path: Path) -> None:
    """Writes the identifiers as lines with their labels."""
    path.write_text("".join(f"{kind}\t{name}\n" for kind, name in identifiers()), encoding="utf-8")


def main() -> None:
    """The command line of this script."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("command", nargs="?", choices=["write"])
    parser.add_argument("file", nargs="?", type=Path)
    parser.add_argument("--time", default="2m", help="budget of the training (default 2m)")
    parser.add_argument("--num", type=int, default=1000, help="texts of each label (default 1000)")
    args = parser.parse_args()
    if args.command:
        if args.file is None:
            parser.error("name the file to write")
        write(args.file)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "identifiers.txt"
        write(path)
        run = charrnn.train(path, out=Path(folder) / "run", lines=True, label="tab", time=args.time, progress=False)
        print(repr(run))
        report(run, path, args.num)


def report(run: charrnn.Run, path: Path, num: int) -> None:
    """Prints what the model does with identifiers that it was not trained on, and what it writes."""
    from charrnn.inference.item_scores import item_lines
    from charrnn.inference.label_scores import LabelScores
    from charrnn.inference.training_summary import item_config

    sampler = run.sampler
    scores = LabelScores(sampler)
    lines = item_lines(sampler, [str(path)], item_config(sampler.info), split="val")
    for batch in scores.classified(lines):
        for _ in scores.scored(
            sampler.score_items([[line.text for line in batch]], labels=[[line.label for line in batch]])
        ):
            pass
    print(scores)
    for label, form in FORMS.items():
        shares = []
        for temperature in (1.0, 0.8):
            texts = sampler.sample_batch([""] * num, length=60, seed=1, label=label, temperature=temperature)
            accepted = sum(form.fullmatch(text) is not None for text in texts)
            shares.append(f"{accepted / num:.1%} at temperature {temperature:g}")
        print(f"{label}: of {num:,} texts {', '.join(shares)} have the form; {', '.join(texts[:6])}")
    bare = sampler.sample_batch([""] * num, length=60, seed=1)
    kinds = Counter(next(iter(probabilities)) for probabilities in sampler.classify_batch(bare))
    total = sum(sampler.info.training["labels"].values())
    for label, count in sampler.info.training["labels"].items():
        print(f"without label: {kinds[label] / num:.1%} {label}, {count / total:.1%} in training")


if __name__ == "__main__":
    main()
