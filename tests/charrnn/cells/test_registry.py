"""Which cells there are."""

from __future__ import annotations

import subprocess
import sys

import pytest

from charrnn.cells import cell_layer, cell_names
from charrnn.cells.layer import Layer
from charrnn.errors import ConfigError


def test_every_module_of_the_folder_is_a_cell_of_its_name() -> None:
    assert cell_names() == ("gru", "lstm", "rnn")
    for name in cell_names():
        assert issubclass(cell_layer(name), Layer)
        assert cell_layer(name).step.name == name


@pytest.mark.parametrize("name", ["layer", "kernels", "LSTM", "os", "..config", ""])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="known: gru, lstm, rnn"):
        cell_layer(name)


def test_the_names_are_known_without_torch() -> None:
    code = "import sys; from charrnn.cells import cell_names; cell_names(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
