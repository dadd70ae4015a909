"""Trains thirty models of all kinds, exports each, and prints what the parity check measured.

    python benchmarks/parity.py [--only NAME] [--seeds 1] [--folder FOLDER]

The texts come from the running Python: the source of its standard library, the names in it, and the names of
Unicode's characters. The table's figures are those of ``charrnn.parity`` (runtime/README.md). The last column is for
comparison: it is the largest difference between PyTorch's float32 forward and ONNX Runtime's steps along 1,000 random
tokens, as a multiple of 1e-5 of the largest logit. That was the limit of an earlier check; it measures how chaotic
the model is on random tokens. With ``--seeds 200`` each model is checked again with so many seeds of the check.
"""

from __future__ import annotations

import argparse
import ast
import sys
import sysconfig
import tempfile
import time
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from charrnn_export.errors import ParityError
from charrnn_export.export import DEFAULT_OPSET, describe
from charrnn_export.step import StepModule
from charrnn_export.trace import trace
from charrnn_export.verify import check_parity
from charrnn_runtime import ModelInfo
from charrnn_runtime.session import OnnxCell, open_session

import charrnn
from charrnn.model.char_rnn import CharRNN
from charrnn.runs.checkpoint import load_checkpoint

OLD_STEPS, OLD_LIMIT = 1000, 1e-5


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model to train.

    Attributes:
        name: what is special about it.
        text: a key of ``TEXTS``.
        options: of ``charrnn.train``.
    """

    name: str
    text: str
    options: dict[str, Any] = field(default_factory=dict)


NAMES: dict[str, Any] = {"lines": True, "seed": 1}
CASES = (
    # Two models that the earlier check refused.
    Case(name="names, LSTM", text="names", options={**NAMES, "steps": 2000, "hidden_size": 256}),
    Case(name="GRU, high rate", text="100 kB", options={"cell": "gru", "steps": 400, "hidden_size": 192, "lr": 0.02}),
    # Every cell, with one to three layers, on each kind of text.
    *(
        Case(
            name=f"{kind}, {cell} {layers}×{size}",
            text=text,
            options={"cell": cell, "num_layers": layers, "hidden_size": size, "steps": 500, **options},
        )
        for cell in ("lstm", "gru", "rnn")
        for layers, size, kind, text, options in (
            (1, 128, "text", "300 kB", {}),
            (2, 96, "items", "names", {"lines": True}),
            (3, 64, "bytes", "300 kB", {"bytes": True, "dropout": 0.1}),
        )
    ),
    *(
        Case(
            name=f"large alphabet, {cell}", text="characters", options={"cell": cell, "hidden_size": 128, "steps": 300}
        )
        for cell in ("lstm", "gru", "rnn")
    ),
    Case(name="items of a large alphabet", text="characters", options={"lines": True, "hidden_size": 64, "steps": 300}),
    Case(name="defaults", text="300 kB", options={"steps": 300}),
    Case(name="defaults, items", text="names", options={"lines": True, "steps": 300}),
    Case(name="preset char-rnn", text="300 kB", options={"preset": "char-rnn", "steps": 300}),
    Case(name="preset torch-rnn", text="300 kB", options={"preset": "torch-rnn", "steps": 300}),
    Case(name="one-hot inputs", text="100 kB", options={"embedding_size": 0, "hidden_size": 128, "steps": 500}),
    # Learning rates five times too high: 0.03 for Muon, 0.02 for AdamW.
    *(
        Case(
            name=f"rate × 5, {cell}",
            text="100 kB",
            options={"cell": cell, "hidden_size": 128, "steps": 500, "lr": 0.03},
        )
        for cell in ("lstm", "gru", "rnn")
    ),
    Case(
        name="rate × 5, AdamW",
        text="100 kB",
        options={"cell": "gru", "hidden_size": 128, "steps": 500, "optimizer": "adamw", "lr": 0.02},
    ),
    # Trained far too long on a small text.
    *(
        Case(name=f"over-trained, {cell}", text="10 kB", options={"cell": cell, "hidden_size": 128, "steps": 4000})
        for cell in ("lstm", "gru", "rnn")
    ),
    Case(name="an hour on a small text", text="20 kB", options={"hidden_size": 64, "time": "1h"}),
    Case(
        name="rate × 5, items, lstm 2×64",
        text="names",
        options={"lines": True, "num_layers": 2, "hidden_size": 64, "steps": 500, "lr": 0.03},
    ),
    Case(
        name="bytes of a large alphabet",
        text="characters",
        options={"cell": "gru", "bytes": True, "hidden_size": 64, "steps": 300},
    ),
)


def _library() -> Iterator[tuple[Path, str]]:
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        yield path, path.read_text("utf-8", "replace")


def _names() -> str:
    """Names of all functions and classes in the first 120 modules of the standard library, one a line."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    sources = [source for _, source in _library()][:120]
    return "".join(
        f"{node.name}\n" for text in sources for node in ast.walk(ast.parse(text)) if isinstance(node, kinds)
    )


def texts() -> dict[str, str]:
    """The texts, by the names that the cases use."""
    source = "".join(text for _, text in _library())
    characters = (chr(i) for i in range(0x20, 0x10000))
    named = "".join(f"{c} {name.lower()}\n" for c in characters if (name := unicodedata.name(c, "")) and c.isalpha())
    return {
        "300 kB": source[:300_000],
        "100 kB": source[100_000:200_000],
        "20 kB": source[:20_000],
        "10 kB": source[:10_000],
        "names": _names(),
        "characters": named[:60_000],
    }


def old_figure(model: CharRNN, onnx_model: bytes, info: ModelInfo) -> float:
    """Largest difference of torch's forward and ONNX Runtime's steps along random tokens, as the module says."""
    generator = torch.Generator().manual_seed(0)
    cell = OnnxCell(open_session(onnx_model, device="cpu"), info)
    worst, scale = 0.0, 1.0
    for batch in (1, 3):
        tokens_TB = torch.randint(len(info.vocabulary), (OLD_STEPS, batch), generator=generator)
        states = tuple(torch.randn(batch, spec.size, generator=generator).tanh() for spec in info.states)
        logits, _ = model.sequence_forward()(tokens_TB, states)
        runner = cell.runner(batch, tuple(s.numpy() for s in states))
        steps = np.stack([runner.step(token).copy() for token in tokens_TB.numpy()])
        scale = max(scale, float(logits.abs().max()))
        worst = max(worst, float(np.abs(logits.numpy() - steps).max()))
    return worst / scale / OLD_LIMIT


def row(case: Case, text: str, folder: Path, seeds: int) -> str:
    """Trains, exports and checks a model; its row of the table."""
    if not (folder / "last.pt").exists():
        charrnn.train(text=text, out=folder, progress=False, **case.options)
    checkpoint = load_checkpoint(folder / "last.pt")
    model = checkpoint.build_model()
    step = StepModule(model.export_weights())
    proto, info = trace(step, opset=DEFAULT_OPSET), describe(step, checkpoint.vocabulary)
    figures: list[Mapping[str, Any]] = []
    refused = 0
    begun = time.monotonic()
    for seed in range(seeds):
        try:
            figures.append(check_parity(proto, info, step, model.sequence_forward(), seed=seed))
        except ParityError as error:
            refused += 1
            print(f"{case.name}, seed {seed}: {error}", file=sys.stderr)
            figures.append(error.parity)
    checked = time.monotonic() - begun
    first = figures[0]
    nearest = {name: max(f["of_allowed"][name] for f in figures) for name in first["of_allowed"]}
    config = model.config
    cells = [
        case.name,
        f"{config.cell} {config.num_layers}×{config.hidden_size}",
        f"{len(checkpoint.vocabulary):,}",
        f"{checkpoint.progress['step']:,}",
        f"{checkpoint.history[-1]['val_loss']:.3f}",
        f"{first['largest_logit']:.3g}",
        f"{first['one_step']:.1e}",
        f"{first['chain']:.1e}",
        *(f"{nearest[name]:.2f}" for name in ("graph", "sequence", "step", "onnx")),
        f"{nearest['blocks']:.2f}" if "blocks" in nearest else "–",
        f"{first['growth']['own']:.2g} / {first['growth']['random']:.2g}",
        f"{refused} of {seeds}" if seeds > 1 else "no" if not refused else "yes",
        f"{checked / seeds:.1f} s",
        f"{old_figure(model, proto.SerializeToString(), info):.2g}",
    ]
    return f"| {' | '.join(cells)} |"


HEADER = (
    "model", "cell", "tokens", "steps", "loss", "largest logit", "one step", "chain",
    "graph", "forward", "torch step", "onnx step", "blocks", "growth, own / random", "refused", "check", "random 1,000",
)  # fmt: skip


def main() -> None:
    """Prints the table, a row as soon as its model is trained."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", action="append", help="a case by name; may be repeated", choices=[c.name for c in CASES]
    )
    parser.add_argument("--seeds", type=int, default=1, help="of the check, for each model")
    parser.add_argument("--folder", type=Path, help="keep the runs here; those that are there are used")
    arguments = parser.parse_args()
    print(f"| {' | '.join(HEADER)} |\n|{'---|' * len(HEADER)}")
    sources = texts()
    with tempfile.TemporaryDirectory() as temporary:
        for number, case in enumerate(CASES):
            if not arguments.only or case.name in arguments.only:
                folder = (arguments.folder or Path(temporary)) / f"{number:02}"
                print(row(case, sources[case.text], folder, arguments.seeds), flush=True)


if __name__ == "__main__":
    main()
