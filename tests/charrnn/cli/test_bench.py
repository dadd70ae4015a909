from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.conftest import Charrnn, Run


def rows(out: str) -> list[list[str]]:
    return [line.split() for line in out.splitlines() if line.endswith("%")]


def test_bench_prints_a_row_for_each_batch(run: Run, charrnn: Charrnn) -> None:
    outcome = charrnn("bench", run.model, "--batch", 1, "--batch", 3, "--threads", 1, "--seconds", 0.05)
    assert outcome.code == 0, outcome.err
    table = rows(outcome.out)
    assert [row[:4] for row in table] == [["float32", "cpu", "1", "1"], ["float32", "cpu", "1", "3"]]
    assert all(float(row[4].replace(",", "")) > 100 for row in table)
    assert "first character of a new process after" in outcome.out
    assert f"{run.model}: {run.model.stat().st_size:,} bytes" in outcome.out


def test_a_checkpoint_is_measured_in_both_dtypes(run: Run, charrnn: Charrnn) -> None:
    """Beside another model; nothing but speed is measured."""
    outcome = charrnn("bench", run.folder, run.model, "--batch", 2, "--seconds", 0.05, "--device", "auto")
    assert outcome.code == 0, outcome.err
    dtypes = ("float32", "int8", "float32")
    assert [row[:4] for row in rows(outcome.out)] == [[dtype, "cpu", "auto", "2"] for dtype in dtypes]
    assert "as int8:" in outcome.out
    assert outcome.out.count("first character") == 3


@pytest.mark.parametrize(
    ("options", "code", "part"),
    [
        (["--batch", "0"], 2, "batch"),
        (["--seconds", "0"], 2, "seconds"),
        (["--seconds", "nan"], 2, "seconds"),
        (["--seconds", "inf"], 2, "seconds"),
        (["--device", "npu"], 2, "unknown device"),
        (["--threads", "many"], 2, "threads must be"),
    ],
)
def test_bench_refuses(run: Run, charrnn: Charrnn, options: list[str], code: int, part: str) -> None:
    outcome = charrnn("bench", run.model, *options)
    assert outcome.code == code
    assert part in outcome.err
    assert rows(outcome.out) == []
