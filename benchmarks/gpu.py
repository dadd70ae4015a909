"""Everything about training that needs a GPU, measured and checked in eight minutes; prints one table.

    python benchmarks/gpu.py [TEXT] [--dry-run] [--only PART ...]

It needs torch with CUDA and numpy, and nothing else: no network, no other package, and charrnn itself need not be
installed. TEXT is tinyshakespeare, by default ../shared/tinyshakespeare.txt or the copy in charrnn's cache; without it
the source of Python's standard library is read, whose losses are not comparable with the target. Each part is a process
with a time limit of its own, so that one that fails does not hide the others. ``--dry-run`` does the same with tiny
sizes on the CPU, and shows only that the script works.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "export"), str(ROOT / "runtime")]

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from charrnn.cells import cell_names
from charrnn.config import DataConfig, ModelConfig, TrainConfig
from charrnn.data.corpus import Corpus, read_corpus
from charrnn.data.in_memory import InMemory
from charrnn.events import Listener, Validated
from charrnn.model.char_rnn import CharRNN
from charrnn.runs.checkpoint import load_checkpoint
from charrnn.training.cadence import Cadence
from charrnn.training.defaults import choose_here
from charrnn.training.live_sample import sample_live
from charrnn.training.optim import Optimizers
from charrnn.training.trainer import Trainer

TARGET = 1.4697  # nats; what nanoGPT's authors publish for a small GPT after 3 minutes of an A100
TINYSHAKESPEARE = 1_115_394  # characters
LIMITS = {"correctness": 60, "batch": 60, "speed": 120, "target": 120, "resume": 60, "carried": 60}  # seconds
DRY_LIMIT = 600  # of a part of a dry run, which may be on a busy machine
Row = tuple[str, str]


@dataclass(frozen=True)
class Place:
    """Where the parts run and how large everything is."""

    device: str
    text: str
    dry: bool

    @property
    def corpus(self) -> Corpus:
        """The text as token ids."""
        return read_corpus(InMemory(text=self.text), DataConfig())

    def train(self, **options: Any) -> TrainConfig:
        """The recipe on this device."""
        return TrainConfig(device=self.device, **options)

    def wait(self) -> None:
        """Waits until the device has done all that was asked of it."""
        if self.device != "cpu":
            torch.cuda.synchronize()


def correctness(place: Place) -> list[Row]:
    """Losses and gradients of each cell on the device, against float64 on the CPU."""
    rows = []
    for cell in cell_names():
        torch.manual_seed(1)
        config = ModelConfig(cell=cell, hidden_size=64, num_layers=2, embedding_size=32)
        exact = CharRNN(config, 65).double()
        model = CharRNN(config, 65)
        model.load_state_dict(exact.state_dict())
        model.to(place.device)
        tokens = torch.randint(65, (24, 16))
        resets = torch.rand(24, 16) < 0.1
        results = []
        for net, where in ((exact, "cpu"), (model, place.device)):
            state = tuple(part.to(net.head.weight.dtype) for part in net.initial_state(16))
            logits, _ = net(tokens.to(where), state, resets.to(where))
            loss = F.cross_entropy(logits.flatten(0, 1), tokens.to(where).flatten())
            loss.backward()  # type: ignore[no-untyped-call]
            gradients = [p.grad.double().cpu() for p in net.parameters() if p.grad is not None]
            results.append((loss.item(), gradients))
        (loss64, exact_gradients), (loss32, gradients) = results
        wrong = max(
            float((ours - theirs).norm() / theirs.norm())
            for ours, theirs in zip(gradients, exact_gradients, strict=True)
        )
        # cuDNN multiplies in TF32, with 10 bits of mantissa.
        good = abs(loss64 - loss32) < 1e-3 and wrong < 2e-2
        rows.append((f"{cell}: gradients", f"{'ok' if good else 'WRONG'}, relative error {wrong:.1e}"))
    return rows


def batch(place: Place) -> list[Row]:
    """What the recipe chooses on this device, by budget."""
    corpus = place.corpus
    rows = []
    budgets: list[dict[str, float]] = [{"time": seconds} for seconds in (30.0, 120.0, 600.0, 3600.0)]
    for budget in [{"epochs": 1.0}] if place.dry else budgets:  # speeds are measured only for a budget of time
        train = place.train(**budget)
        choice = choose_here(ModelConfig(), train, given=(), corpus=corpus, data=DataConfig())
        model, chosen = choice.model, choice.train
        size = f"{model.num_layers}×{model.hidden_size}, dropout {model.dropout:g}"
        rows.append(
            (
                f"recipe for {' '.join(f'{name} {value:g}' for name, value in budget.items())}",
                f"{size}, batch {chosen.batch_size} × {chosen.seq_len}, rate {chosen.lr:g}",
            )
        )
    return rows


def plain(config: ModelConfig, place: Place, precision: str) -> Callable[[Tensor], None]:
    """One step of the loop that one would write by hand: nn.LSTM and AdamW."""
    embedding, head = nn.Embedding(65, config.embedding_size), nn.Linear(config.hidden_size, 65)
    core = nn.LSTM(config.embedding_size, config.hidden_size, config.num_layers)
    net = nn.ModuleList([embedding, core, head]).to(place.device)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-5)
    state: tuple[Tensor, Tensor] | None = None

    def step(tokens: Tensor) -> None:
        nonlocal state
        with torch.autocast(torch.device(place.device).type, torch.bfloat16, enabled=precision == "bf16"):
            y, (h, c) = core(embedding(tokens), state)
            logits = head(y)
        state = (h.detach(), c.detach())
        optimizer.zero_grad()
        F.cross_entropy(logits.float().flatten(0, 1), tokens.flatten()).backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()

    return step


def ours(config: ModelConfig, place: Place, precision: str, optimizer: str) -> Callable[[Tensor], None]:
    """One step as the trainer makes it."""
    train = place.train(optimizer=optimizer)
    net = CharRNN(config, 65).to(place.device)
    optimizers = Optimizers(net, train)
    state: tuple[Tensor, ...] | None = None

    def step(tokens: Tensor) -> None:
        nonlocal state
        before = net.initial_state(tokens.shape[1]) if state is None else state
        with torch.autocast(torch.device(place.device).type, torch.bfloat16, enabled=precision == "bf16"):
            logits, new = net(tokens, before)
        state = tuple(s.detach() for s in new)
        F.cross_entropy(logits.float().flatten(0, 1), tokens.flatten()).backward()  # type: ignore[no-untyped-call]
        optimizers.step(1e-3)

    return step


def speed(place: Place) -> list[Row]:
    """Characters a second against plain nn.LSTM, in turns in one process; medians."""
    rows = []
    sizes = ((1, 16), (2, 16)) if place.dry else ((1, 512), (2, 512), (3, 1024))
    rows_of_batch, length, rounds = (4, 8, 2) if place.dry else (128, 64, 7)
    precisions = ("fp32",) if place.dry else ("fp32", "bf16")
    for layers, hidden in sizes:
        for precision in precisions:
            config = ModelConfig(num_layers=layers, hidden_size=hidden)
            steps = [
                plain(config, place, precision),
                ours(config, place, precision, "adamw"),
                ours(config, place, precision, "muon"),
            ]
            tokens = torch.randint(65, (length, rows_of_batch), device=place.device)
            times: list[list[float]] = [[] for _ in steps]
            for number in range(rounds + 1):
                for step, taken in zip(steps, times, strict=True):
                    place.wait()
                    began = time.perf_counter()
                    for _ in range(5):
                        step(tokens)
                    place.wait()
                    if number:  # the first round allocates and chooses kernels
                        taken.append((time.perf_counter() - began) / 5)
            theirs, adamw, muon = (rows_of_batch * length / statistics.median(taken) for taken in times)
            rows.append(
                (
                    f"{layers}×{hidden}, {precision}, batch {rows_of_batch} × {length}",
                    f"nn.LSTM {theirs:,.0f} chars/s; AdamW {adamw:,.0f} ({adamw / theirs:.2f} times), "
                    f"Muon {muon:,.0f} ({muon / theirs:.2f})",
                )
            )
    return rows


class _Validations(Listener):
    def __init__(self) -> None:
        self.seen: list[Validated] = []

    def on_validation(self, event: Validated) -> None:
        self.seen.append(event)


def trainer(place: Place, folder: Path, train: TrainConfig, **options: Any) -> Trainer:
    """A run of the recipe's choice in a folder."""
    corpus = place.corpus
    model, config = ModelConfig(hidden_size=16, embedding_size=16), train
    if not place.dry:
        choice = choose_here(ModelConfig(), train, given=(), corpus=corpus, data=DataConfig())
        model, config = choice.model, choice.train
    return Trainer(
        model_config=model, data_config=DataConfig(), train_config=config, corpus=corpus, folder=folder, **options
    )


def target(place: Place) -> list[Row]:
    """Seconds of training until the validation loss is at most the target."""
    seen = _Validations()
    comparable = len(place.text) == TINYSHAKESPEARE and not place.dry
    budget = 2.0 if place.dry else 60.0
    with tempfile.TemporaryDirectory() as name:
        run = trainer(place, Path(name), place.train(time=budget), listener=seen, cadence=Cadence(validations=20))
        run.train()
    reached = next((event.elapsed for event in seen.seen if event.val_loss <= TARGET), None)
    best = min(event.val_loss for event in seen.seen)
    what = "" if comparable else " (another text than the target's: not comparable)"
    when = f"after {reached:.1f} s" if reached is not None else "not reached"
    return [
        (f"time to {TARGET} nats, in a run of {budget:g} s{what}", f"{when}; best {best:.4f}"),
        ("first validation", f"{seen.seen[0].val_loss:.4f} after {seen.seen[0].elapsed:.1f} s"),
    ]


def _until(place: Place, folder: Path, steps: int, checkpoint: Any = None) -> None:
    train = place.train(steps=steps, eval_steps=20)
    small = ModelConfig(hidden_size=16 if place.dry else 256, embedding_size=32, dropout=0.1)
    cadence = Cadence(first_save_seconds=0.0, save_seconds=1.0)
    Trainer(
        model_config=small, data_config=DataConfig(), train_config=train, corpus=place.corpus, folder=folder,
        checkpoint=checkpoint, cadence=cadence,
    ).train()  # fmt: skip


def resume(place: Place) -> list[Row]:
    """A run that is killed and resumed, against one that is not."""
    steps = 40 if place.dry else 300
    with tempfile.TemporaryDirectory() as name:
        straight, killed = Path(name) / "straight", Path(name) / "killed"
        straight.mkdir()
        killed.mkdir()
        _until(place, straight, steps)
        child = subprocess.Popen(
            [sys.executable, __file__, "--device", place.device, "--part", "until", "--folder", str(killed)]
            + (["--dry-run"] if place.dry else []),
            stdin=subprocess.PIPE,
        )
        assert child.stdin is not None
        child.stdin.write(json.dumps({"text": place.text, "steps": steps}).encode())
        child.stdin.close()
        while not (killed / "last.pt").exists() and child.poll() is None:
            time.sleep(0.01)
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        at = load_checkpoint(killed / "last.pt")
        _until(place, killed, steps, at)
        whole, mended = load_checkpoint(straight / "last.pt"), load_checkpoint(killed / "last.pt")
        same = all(torch.equal(whole.weights[key], mended.weights[key]) for key in whole.weights)
        gap = abs(whole.history[-1]["val_loss"] - mended.history[-1]["val_loss"])
        return [
            (
                f"killed at step {at.progress['step']} of {steps} and resumed",
                f"{'the same weights, bit for bit' if same else 'other weights'}; losses differ by {gap:.1e} nats",
            )
        ]


def carried(place: Place) -> list[Row]:
    """A checkpoint of the device that continues and samples on the CPU."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _until(place, folder, 20 if place.dry else 200)
        found = load_checkpoint(folder / "last.pt")
        model = found.build_model()
        text = sample_live(model, found.vocabulary, length=40, seed=1)
        _until(replace(place, device="cpu"), folder, 22 if place.dry else 210, found)
        after = load_checkpoint(folder / "last.pt")
        good = after.progress["step"] > found.progress["step"] and math.isfinite(after.history[-1]["val_loss"])
        return [("carried to the CPU", f"{'goes on' if good else 'FAILS'} there, and samples {text[:40]!r}")]


PARTS: dict[str, Callable[[Place], list[Row]]] = {
    "correctness": correctness, "batch": batch, "speed": speed, "target": target, "resume": resume, "carried": carried
}  # fmt: skip


def read_text(given: str | None) -> tuple[str, str]:
    """The text, and where it came from."""
    cache = Path(os.environ.get("CHARRNN_CACHE", Path.home() / ".cache" / "charrnn"))
    shared = ROOT.parent / "shared" / "tinyshakespeare.txt"
    for path in [Path(given)] if given else [shared, *sorted(cache.rglob("*tinyshakespeare*"))]:
        if path.is_file():
            return path.read_text("utf-8"), str(path)
    if given:
        raise SystemExit(f"{given}: there is no such file")
    library = Path(sysconfig.get_paths()["stdlib"])
    files = sorted(library.glob("*.py"))
    return "".join(f.read_text("utf-8", "replace") for f in files)[:2_000_000], "the standard library's source"


def run_part(name: str, text: str, arguments: Sequence[str], limit: float) -> list[Row]:
    """The rows of a part, made in a process of its own; what went wrong with it is a row, too."""
    command = [sys.executable, __file__, "--part", name, *arguments]
    try:
        done = subprocess.run(
            command, input=json.dumps({"text": text}).encode(), stdout=subprocess.PIPE, timeout=limit, check=False
        )
        rows: list[Row] = [(row[0], row[1]) for row in json.loads(done.stdout.splitlines()[-1])]
        return rows
    except subprocess.TimeoutExpired:
        return [(name, f"FAILED: not done after {limit:g} s")]
    except (IndexError, ValueError):
        return [(name, f"FAILED with code {done.returncode}; its error stands above")]


def main() -> None:
    """Prints the table as it grows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", nargs="?")
    parser.add_argument("--dry-run", action="store_true", help="tiny sizes, on the CPU")
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    for name in ("--part", "--folder", "--device"):  # of the processes that this script starts
        parser.add_argument(name, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.part:
        job = json.load(sys.stdin)
        place = Place(args.device, job["text"], args.dry_run)
        if args.part == "until":
            _until(place, Path(args.folder), job["steps"])
        else:
            rows = PARTS[args.part](place)
            print("\n" + json.dumps(rows))
        return
    if not args.dry_run and not torch.cuda.is_available():
        raise SystemExit("there is no CUDA device here; --dry-run does the same with tiny sizes on the CPU")
    device = "cpu" if args.dry_run else "cuda"
    where = "CPU, DRY RUN WITH TINY SIZES: NOT RUN ON A GPU" if args.dry_run else torch.cuda.get_device_name()
    text, source = read_text(args.text)
    text = text[:20_000] if args.dry_run else text
    print(f"{where}; torch {torch.__version__}, CUDA {torch.version.cuda}; text: {source}\n")
    print("| what | result |\n|---|---|")
    failed = False
    for name in args.only:
        limit = DRY_LIMIT if args.dry_run else LIMITS[name]
        rows = run_part(name, text, ["--device", device] + (["--dry-run"] if args.dry_run else []), limit)
        failed = failed or any(word in result for _, result in rows for word in ("FAIL", "WRONG"))
        for what, result in rows:
            print(f"| {what} | {result} |", flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
