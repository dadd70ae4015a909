"""metrics.jsonl: cut and damaged lines, and training that goes back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from charrnn.errors import RunFolderError
from charrnn.runs.metrics import NAME, MetricsFile, read_metrics


def test_metrics_drop_what_was_cut_and_what_came_after_the_checkpoint(tmp_path: Path) -> None:
    with MetricsFile(tmp_path, 0) as metrics:
        for step in range(10, 60, 10):
            metrics.write(step=step, loss=1.0 / step)
    path = tmp_path / NAME
    path.write_bytes(path.read_bytes() + b'{"step": 60, "lo')
    assert [line["step"] for line in read_metrics(tmp_path)] == [10, 20, 30, 40, 50]
    with MetricsFile(tmp_path, 30) as metrics:
        metrics.write(step=40, loss=2.0)
    assert [(line["step"], line["loss"]) for line in read_metrics(tmp_path)][-2:] == [(30, 1 / 30), (40, 2.0)]


@pytest.mark.parametrize("damaged", [b"{", b"[1]", b'{"loss": 1}', b'{"step": "one"}', b"\xff", b""])
def test_lines_behind_a_damaged_one_are_left_out(tmp_path: Path, damaged: bytes) -> None:
    (tmp_path / NAME).write_bytes(b'{"step": 1}\n' + damaged + b'\n{"step": 3}\n')
    assert read_metrics(tmp_path) == [{"step": 1}]


def test_a_run_without_metrics_and_one_whose_file_cannot_be_read(tmp_path: Path) -> None:
    assert read_metrics(tmp_path) == []
    (tmp_path / NAME).mkdir()
    with pytest.raises(RunFolderError, match=r"metrics\.jsonl: cannot be read: Is a directory"):
        read_metrics(tmp_path)


def test_lines_are_there_at_once_and_those_after_a_step_can_be_dropped(tmp_path: Path) -> None:
    with MetricsFile(tmp_path, 0) as metrics:
        for step in (1, 2, 3):
            metrics.write(step=step)
            assert read_metrics(tmp_path)[-1] == {"step": step}
        metrics.drop_after(1)
        metrics.write(step=2, loss=0.5)
        metrics.sync()
    lines = (tmp_path / NAME).read_text().splitlines()
    assert list(map(json.loads, lines)) == [{"step": 1}, {"step": 2, "loss": 0.5}]
