from __future__ import annotations

from pathlib import Path

import pytest
import torch
from charrnn_export import export_model
from charrnn_runtime import UsageError, Vocabulary
from typer.testing import CliRunner

from charrnn.cli import app
from charrnn.config import ModelConfig
from charrnn.errors import ConfigError
from charrnn.model import CharRNN


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    vocabulary = Vocabulary.of_text("\n abc")
    torch.manual_seed(0)
    made = CharRNN(ModelConfig(cell="rnn", num_layers=1, hidden_size=8), len(vocabulary))
    out = export_model(
        made.export_weights(), vocabulary, made.sequence_logits, training={}, producer={}, parity_steps=3
    )
    path = tmp_path_factory.mktemp("bench") / "m.onnx"
    path.write_bytes(out.data)
    return path


def test_bench_prints_a_row_for_each_batch(model: Path) -> None:
    done = CliRunner().invoke(app, ["bench", str(model), "--batch", "1", "--batch", "3", "--seconds", "0.05"])
    assert done.exit_code == 0, done.output
    rows = [line.split() for line in done.stdout.splitlines() if line.endswith("%")]
    assert [row[0] for row in rows] == ["1", "3"]
    assert all(float(row[1].replace(",", "")) > 100 for row in rows)
    assert "first character of a new process after" in done.stdout


def test_bench_refuses(model: Path) -> None:
    for options, error in ((["--batch", "0"], UsageError), (["--seconds", "0"], ConfigError)):
        done = CliRunner().invoke(app, ["bench", str(model), *options])
        assert isinstance(done.exception, error)
