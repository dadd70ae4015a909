"""Samples during training are those of the exported model, and change nothing."""

from __future__ import annotations

import pytest
import torch

from charrnn.inference.models import open_sampler
from charrnn.runs.checkpoint import load_checkpoint
from charrnn.training.live_sample import sample_live
from tests.conftest import Run


def test_it_is_the_sample_of_the_exported_model(run: Run) -> None:
    checkpoint = load_checkpoint(run.best)
    model = checkpoint.build_model()
    expected = open_sampler(run.model).sample(length=200, seed=3)
    assert sample_live(model, checkpoint.vocabulary, length=200, seed=3) == expected


@pytest.mark.parametrize("training", [True, False])
def test_neither_the_model_nor_the_random_numbers_change(run: Run, training: bool) -> None:
    checkpoint = load_checkpoint(run.best)
    model = checkpoint.build_model().train(training)
    before, rng = {name: w.clone() for name, w in model.state_dict().items()}, torch.get_rng_state()
    sample_live(model, checkpoint.vocabulary, length=20, seed=3)
    assert all(w.equal(before[name]) for name, w in model.state_dict().items())
    assert torch.get_rng_state().equal(rng)
    assert model.training is training
