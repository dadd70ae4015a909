"""Curves of one or several runs, drawn with matplotlib."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charrnn_runtime import UsageError

from charrnn.errors import RunFolderError
from charrnn.files import write_atomically
from charrnn.runs.metrics import read_metrics

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg", ".pdf")
BLOCKS, ASCII_LEVELS = "▁▂▃▄▅▆▇█", "_.-=+*#@"  # of a sparkline, on terminals with and without blocks
X_AXES = {"step": "step", "epoch": "epoch", "elapsed": "seconds"}


def plot_runs(folders: Sequence[Path], target: Path, *, x: str = "epoch") -> None:
    """Writes a picture of ``draw_runs``.

    Args:
        folders, x: see ``draw_runs``.
        target: the image to write, .png, .svg or .pdf.

    Raises:
        UsageError: the image's suffix or ``x`` is unknown, or matplotlib is missing.
        RunFolderError: a folder has no metrics.
        WriteError: the image cannot be written.
    """
    if target.suffix.lower() not in SUFFIXES:
        raise UsageError(f"{target}: the picture's name must end in {', '.join(SUFFIXES)}")
    figure = draw_runs(folders, x=x)
    buffer = io.BytesIO()
    figure.savefig(buffer, format=target.suffix.lower().lstrip("."), dpi=150)
    write_atomically(target, buffer.getvalue())


def draw_runs(folders: Sequence[Path], *, x: str = "epoch") -> Figure:
    """Training (thin) and validation loss (thick, marked) of each run.

    Args:
        folders: run folders; each needs a metrics.jsonl.
        x: what to draw over: "step", "epoch" or "elapsed".

    Returns:
        A figure that a notebook shows. ``matplotlib.pyplot`` does not know it, so it need not be closed.

    Raises:
        UsageError: ``x`` is unknown, or matplotlib is missing.
        RunFolderError: a folder has no metrics.
    """
    if x not in X_AXES:
        raise UsageError(f"unknown x axis {x!r}; known: {', '.join(X_AXES)}")
    runs = {folder: _curves(folder) for folder in folders}
    figure = _new_figure()
    axes = figure.subplots()
    for number, (folder, (training, validation)) in enumerate(runs.items()):
        colour = f"C{number % 10}"
        axes.plot([p[x] for p in training], [p["loss"] for p in training], color=colour, alpha=0.35, linewidth=1)
        best = min((p["val_loss"] for p in validation), default=float("nan"))
        axes.plot(
            [p[x] for p in validation],
            [p["val_loss"] for p in validation],
            color=colour,
            marker="o",
            markersize=4,
            linewidth=2,
            label=f"{_drawable(folder.name)}: validation (best {best:.4f}); thin: training",
        )
    low, high = loss_limits(
        [p["loss"] for training, _ in runs.values() for p in training],
        [p["val_loss"] for _, validation in runs.values() for p in validation],
    )
    axes.set_ylim(low - 0.03 * (high - low), high)
    axes.set_xlabel(X_AXES[x])
    axes.set_ylabel("loss, nats per character")
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def trials_picture(trials: Sequence[tuple[Mapping[str, Any], float]], importances: Mapping[str, float]) -> bytes:
    """The trials of a search as a PNG: the loss over each setting, the most important settings first.

    Args:
        trials: the change of each setting by name, and the loss with the shortest budget.
        importances: of the settings, in parts of 1; may be empty.

    Raises:
        UsageError: matplotlib is missing.
    """
    names = list(importances) or list(trials[0][0] if trials else ())
    columns = max(1, min(4, len(names)))
    rows = max(1, -(-len(names) // columns))
    figure = _new_figure()
    figure.set_size_inches(3 * columns, 2.8 * rows)
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for axes, name in zip(grid.flat, names, strict=False):
        values = [change[name] for change, _ in trials]
        axes.scatter(values, [loss for _, loss in trials], c=range(len(trials)), cmap="viridis", s=18)
        if name in ("hidden_size", "lr"):
            axes.set_xscale("log")
        share = f" ({importances[name]:.0%})" if name in importances else ""
        axes.set_title(f"{name.replace('_', ' ')}{share}", fontsize="medium")
        axes.grid(alpha=0.3)
    for axes in grid[:, 0]:
        axes.set_ylabel("loss, nats")
    for axes in list(grid.flat)[len(names) :]:
        axes.set_axis_off()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()


def _drawable(name: str) -> str:
    """A name as a legend can show it: characters that the font lacks as escapes, dollar signs as they are."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    known = get_font(findfont(FontProperties())).get_charmap()
    shown = "".join(c if ord(c) in known else c.encode("ascii", "backslashreplace").decode() for c in name)
    shown = shown.replace("$", r"\$")  # matplotlib would take it for a formula
    return f" {shown}" if shown.startswith("_") else shown  # a legend leaves out names that begin with an underscore


def _new_figure() -> Figure:
    """An empty figure. It is made without pyplot, so it depends on no window system and no backend setting.

    Raises:
        UsageError: matplotlib is not installed.
    """
    # matplotlib cannot be imported where this names a backend that is not installed, as in a notebook's processes.
    inherited = os.environ.pop("MPLBACKEND", None)
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UsageError("drawing needs matplotlib; run: pip install 'charrnn[plot]'") from error
    finally:
        if inherited is not None:
            os.environ["MPLBACKEND"] = inherited

    class ShownFigure(Figure):
        """A figure that notebooks show even if pyplot has not been imported."""

        def _repr_png_(self) -> bytes:
            buffer = io.BytesIO()
            self.savefig(buffer, format="png")
            return buffer.getvalue()

    return ShownFigure(figsize=(8, 5), layout="constrained")


def loss_limits(training: Sequence[float], validation: Sequence[float]) -> tuple[float, float]:
    """The lowest and the highest loss that a plot shows.

    The axis ends a little above the validation losses: the training losses of
    the first steps would squeeze everything that matters into its lowest part.
    Without validation losses it shows the training losses whole.
    """
    losses = validation or training
    worst = max(losses)
    return min([*losses, *training]), worst + 0.25 * (worst - min(losses)) + 0.05


def _curves(folder: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    lines = read_metrics(folder)
    training = [line for line in lines if isinstance(line.get("loss"), (int, float))]
    validation = [line for line in lines if isinstance(line.get("val_loss"), (int, float))]
    if not training and not validation:
        raise RunFolderError(f"{folder}: no metrics in it; name a folder that charrnn train wrote")
    return training, validation


def sparkline(values: Sequence[float], levels: str = BLOCKS) -> str:
    """A row of characters, one a value: the first level for the lowest, the last for the highest; NaN is a space."""
    finite = [v for v in values if v == v and abs(v) != float("inf")]
    if not finite:
        return ""
    low, high = min(finite), max(finite)
    scale = (len(levels) - 0.001) / (high - low) if high > low else 0.0
    return "".join(levels[int((v - low) * scale)] if v in finite else " " for v in values)
