"""The page of a heat map: one HTML file that loads nothing else.

Each character of the text takes about a byte for each unit (compressed, in
base64), 8 bytes for the five guesses and 3 for surprise and text. So 100,000
characters with 40 units are about 4 MB. The browser unpacks a unit when it is chosen.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charrnn.reports.heatmap.analysis import Analysis, Unit
from charrnn.reports.html import data_block, fill_page

BITS_UNIT = 1000  # surprise is stored in units of 1/1000 bit
LEVELS = 254


def heatmap_page(analysis: Analysis, *, title: str, facts: Mapping[str, str]) -> str:
    """The HTML page.

    Args:
        analysis: the data to show.
        title: heading; any text.
        facts: lines about model and text: label → value; any text.
    """
    symbols, indices = np.unique(np.array([ord(c) for c in analysis.shown], np.uint32), return_inverse=True)
    blocks = {
        "text": _packed(indices.astype(np.uint16 if len(symbols) <= 1 << 16 else np.uint32)),
        "bits": _packed(np.minimum(np.rint(analysis.bits * BITS_UNIT), 65535).astype(np.uint16)),
        "guesses": _packed(analysis.guesses.astype(np.uint16 if len(analysis.labels) <= 1 << 16 else np.uint32)),
        "probabilities": _packed(np.rint(analysis.probabilities * 255).astype(np.uint8)),
    }
    units = []
    for number, unit in enumerate(analysis.units):
        low, high, levels = quantised(unit.values)
        blocks[f"unit{number}"] = _packed(levels)
        units.append(_description(unit) | {"low": low, "high": high})
    about = {
        "length": len(analysis.shown),
        "symbols": symbols.tolist(),
        "wide": 4 if len(symbols) > 1 << 16 else 2,
        "labels": list(analysis.labels),
        "labelsWide": 4 if len(analysis.labels) > 1 << 16 else 2,
        "guesses": analysis.guesses.shape[1],
        "bitsUnit": BITS_UNIT,
        "levels": LEVELS,
        "units": units,
        "title": title,
        "facts": list(facts.items()),
    }
    data = [data_block("about", about), *(data_block(name, block) for name, block in blocks.items())]
    return fill_page("heatmap", title=title, data="\n".join(data))


def quantised(values: NDArray[np.float32]) -> tuple[float, float, NDArray[np.uint8]]:
    """The lowest and the highest value shown, and each value as a number from 0 to ``LEVELS`` between them.

    The lowest and the highest half per cent of the values are clipped. Otherwise a few
    large values would leave nearly the same colour for all others.
    """
    finite = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=65504, neginf=-65504)
    low, high = (float(v) for v in np.quantile(finite, [0.005, 0.995]))
    if high <= low:
        low, high = float(finite.min()), float(finite.max())
    span = high - low or 1.0
    levels = np.rint((np.clip(finite, low, high) - low) / span * LEVELS)
    return low, high, levels.astype(np.uint8)


def _description(unit: Unit) -> dict[str, Any]:
    return {
        "name": unit.name,
        "state": unit.state,
        "correlations": {name: round(r, 3) for name, r in unit.correlations.items()},
    }


def _packed(values: NDArray[Any]) -> str:
    """Little-endian bytes, zlib, base64."""
    little = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
    return base64.b64encode(zlib.compress(little.tobytes(), 6)).decode()
