"""Many chained steps, and texts from a checkpoint and from its file. benchmarks/endurance.py runs 10,000 steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from charrnn_export import StepModule, verify

from charrnn.inference.models import open_sampler

if TYPE_CHECKING:
    from charrnn_export import Exported

    from tests.conftest import Run
    from tests.export.conftest import Trained


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_three_hundred_chained_steps(
    cell: str, layers: int, trained: Callable[[str, int], Trained], exported: Callable[[str, int], Exported]
) -> None:
    made, out = trained(cell, layers), exported(cell, layers)
    parity = verify.check_parity(out.data, out.info, StepModule(made.weights), made.model.sequence_logits, steps=300)
    assert parity["steps"] == 300
    assert 0 < parity["max_difference"] <= 1e-5


def test_ten_thousand_characters_from_checkpoint_and_file(run: Run) -> None:
    """The batch and the stream too; one seed."""
    of_checkpoint, of_file = open_sampler(run.best), open_sampler(run.model)
    text = of_file.sample("the ", length=10_000, seed=11)
    assert of_checkpoint.sample("the ", length=10_000, seed=11) == text
    assert "".join(of_file.stream("the ", length=10_000, seed=11)) == text
    batch = of_file.sample_batch(["the ", "T", "", "cat", "on a", "m", "s."], length=10_000, seed=11)
    assert batch[0] == text
    assert batch[6] == of_checkpoint.sample("s.", length=10_000, seed=11, index=6)
