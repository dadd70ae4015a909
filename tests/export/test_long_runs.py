"""Long texts from a checkpoint and from its file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from charrnn.inference.models import open_sampler

if TYPE_CHECKING:
    from tests.conftest import Run


@pytest.mark.slow
def test_ten_thousand_characters_from_checkpoint_and_file(run: Run) -> None:
    """The batch and the stream too; one seed."""
    of_checkpoint, of_file = open_sampler(run.best), open_sampler(run.model)
    text = of_file.sample("the ", length=10_000, seed=11)
    assert of_checkpoint.sample("the ", length=10_000, seed=11) == text
    assert "".join(of_file.stream("the ", length=10_000, seed=11)) == text
    batch = of_file.sample_batch(["the ", "T", "", "cat", "on a", "m", "s."], length=10_000, seed=11)
    assert batch[0] == text
    assert batch[6] == of_checkpoint.sample("s.", length=10_000, seed=11, index=6)
