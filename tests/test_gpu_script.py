"""benchmarks/gpu.py, on the CPU with tiny sizes: its parts give rows, and a failure of one does not hide the others."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gpu.py"


@pytest.fixture(scope="module")
def gpu() -> Any:
    before = list(sys.path)
    spec = importlib.util.spec_from_file_location("gpu_script", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu_script"] = module
    spec.loader.exec_module(module)
    sys.path[:] = before
    return module


@pytest.mark.parametrize("part", ["correctness", "batch", "speed", "carried"])
def test_a_part_gives_rows(gpu: Any, part: str, text: str) -> None:
    rows = gpu.PARTS[part](gpu.Place("cpu", text, True))
    assert rows
    assert not [result for _, result in rows if "FAIL" in result or "WRONG" in result]


def test_a_part_that_takes_too_long_is_a_row(gpu: Any, text: str) -> None:
    rows = gpu.run_part("speed", text, ["--device", "cpu", "--dry-run"], 0.01)
    assert rows == [("speed", "FAILED: not done after 0.01 s")]


def test_the_text_is_named_or_found(gpu: Any, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("the cat")
    assert gpu.read_text(str(tmp_path / "text.txt")) == ("the cat", str(tmp_path / "text.txt"))
    with pytest.raises(SystemExit, match="no such file"):
        gpu.read_text(str(tmp_path / "missing"))
