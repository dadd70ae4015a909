"""``charrnn plot``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.conftest import Charrnn, Run

pytest.importorskip("matplotlib")


def test_plot_draws_runs_and_refuses_what_it_cannot_draw(charrnn: Charrnn, run: Run, tmp_path: Path) -> None:
    for suffix, magic in ((".png", b"\x89PNG"), (".svg", b"<?xml")):
        picture = tmp_path / f"loss{suffix}"
        assert charrnn("plot", run.folder, run.folder, "-o", picture, "--x", "step").code == 0
        assert picture.read_bytes().startswith(magic)
    assert charrnn("plot", run.folder, "-o", tmp_path / "loss.bmp").code == 2
    assert charrnn("plot", tmp_path, "-o", tmp_path / "loss.png").code == 2
    assert charrnn("plot", run.folder, "-o", tmp_path / "loss.png", "--x", "hours").code == 2
