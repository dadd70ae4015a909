"""The HTML report of a run: loss curves, samples, settings, and a link to a heat map in a second page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from charrnn.errors import RunFolderError
from charrnn.files import write_atomically
from charrnn.reports.html import fill_page
from charrnn.reports.plots import loss_limits
from charrnn.runs.metrics import read_metrics
from charrnn.runs.samples import Sample, read_samples

HEATMAP_LENGTH = 5000
_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 720, 320, 52, 34
_Points = list[tuple[float, float]]


def write_report(folder: Path, target: Path) -> Path | None:
    """Writes the report, and a heat map of the best model on a text that the model has sampled.

    Args:
        folder: the run.
        target: the page; the heat map is written beside it as ``NAME-heatmap.html``.

    Returns:
        The heat map's path, or None if the run has no checkpoint.

    Raises:
        RunFolderError: the folder has no metrics.
        CheckpointError: its best.pt is damaged.
        WriteError: a page cannot be written.
    """
    lines = read_metrics(folder)
    training, validation = (_points(lines, key) for key in ("loss", "val_loss"))
    if not training and not validation:
        raise RunFolderError(f"{folder}: no metrics in it; name a folder that charrnn train wrote")
    heat = _heatmap(folder, target.with_name(f"{target.stem}-heatmap.html"))
    parts = [f"<section><h2>Loss</h2>{curves(training, validation)}</section>"]
    if heat is not None:
        link = escape(_relative(heat.name), quote=True)
        parts.append(f'<section><h2>Units</h2><p><a href="{link}">Heat map of the best model</a></p></section>')
    parts.append(_samples(read_samples(folder)))
    parts.append(_settings(folder / "config.json"))
    page = fill_page("report", title=f"Run {folder.resolve().name}", body="\n".join(parts))
    write_atomically(target, page.encode())
    return heat


def curves(training: _Points, validation: _Points) -> str:
    """Training and validation loss over epochs as SVG; losses of the first steps may be cut off (``loss_limits``)."""
    low, high = loss_limits([y for _, y in training], [y for _, y in validation])
    right = max(x for x, _ in training + validation) or 1.0

    def place(x: float, y: float) -> str:
        across = _LEFT + x / right * (_WIDTH - _LEFT - 12)
        down = 10 + (high - min(y, high)) / (high - low) * (_HEIGHT - _BOTTOM - 10)
        return f"{across:.1f},{down:.1f}"

    parts = [f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="Training and validation loss by epoch">']
    for i in range(5):
        y = low + (high - low) * i / 4
        left, down = place(0, y).split(",")
        parts.append(f'<line class="grid" x1="{left}" x2="{_WIDTH - 12}" y1="{down}" y2="{down}"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{down}" dy="4" text-anchor="end">{y:.2f}</text>')
        across = place(right * i / 4, low).split(",")[0]
        parts.append(f'<text x="{across}" y="{_HEIGHT - 12}" text-anchor="middle">{right * i / 4:.2f}</text>')
    for kind, points in (("training", training), ("validation", validation)):
        line = " ".join(place(x, y) for x, y in points)
        parts.append(f'<polyline class="{kind}" points="{line}"/>')
    for x, y in validation:
        across, down = place(x, y).split(",")
        parts.append(f'<circle class="validation" cx="{across}" cy="{down}" r="3.5"/>')
    best = f", best {min(y for _, y in validation):.4f}" if validation else ""
    caption = f"nats per character by epoch; thin: training, marked: validation{best}"
    return f"<figure>{''.join(parts)}</svg><figcaption>{caption}</figcaption></figure>"


def _points(lines: Sequence[dict[str, Any]], key: str) -> _Points:
    return [
        (float(line["epoch"]), float(line[key]))
        for line in lines
        if isinstance(line.get(key), (int, float)) and isinstance(line.get("epoch"), (int, float))
    ]


def _samples(samples: Sequence[Sample]) -> str:
    if not samples:
        return ""
    entries = [
        f"<article><h3>step {s.step:,} <small>epoch {s.epoch:.2f}, validation {s.val_loss:.4f}</small></h3>"
        f"<pre>{escape(s.text)}</pre></article>"
        for s in samples
    ]
    return f"<section><h2>Samples, growing up</h2>{''.join(entries)}</section>"


def _settings(path: Path) -> str:
    try:
        settings = json.loads(path.read_bytes())
    except (OSError, ValueError):  # the report shows the curves without the settings
        return ""
    rows = [
        f"<tr><th>{escape(f'{group}.{name}')}</th><td>{escape(json.dumps(value, ensure_ascii=False))}</td></tr>"
        for group, values in (settings.items() if isinstance(settings, dict) else ())
        if isinstance(values, dict)
        for name, value in values.items()
    ]
    return f"<section><h2>Configuration</h2><table>{''.join(rows)}</table></section>"


def _heatmap(folder: Path, target: Path) -> Path | None:
    if not (folder / "best.pt").exists():
        return None
    from charrnn.inference.models import open_sampler
    from charrnn.reports.heatmap.build import build_heatmap, model_title

    sampler = open_sampler(folder)
    text = sampler.sample(length=HEATMAP_LENGTH, seed=0)
    made = build_heatmap(sampler, text, title=model_title(folder), text_name="the model's own, seed 0")
    write_atomically(target, made.page.encode())
    return target


def _relative(name: str) -> str:
    from urllib.parse import quote

    return f"./{quote(name)}"
