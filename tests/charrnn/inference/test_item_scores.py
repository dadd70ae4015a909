"""Scores of items: each from its beginning, in batches, sorted on request."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from charrnn_runtime import CharrnnError
from charrnn_runtime.scoring import ItemScore
from charrnn_runtime.text_scores import score_lines

from charrnn.data.item_filter import Membership, item_hash
from charrnn.inference import item_scores
from charrnn.inference.item_scores import by_surprisal, item_lines
from charrnn.inference.training_summary import item_config
from charrnn.runs.checkpoint import load_checkpoint
from tests.charrnn.inference.helpers import NAMES, scored, trained

if TYPE_CHECKING:
    from tests.conftest import MakeTrainer


@pytest.mark.parametrize("test_frac", [0.0, 0.1])
@pytest.mark.parametrize("val_frac", [0.01, 0.3])
def test_five_names_are_validated_on_the_items_that_training_took(
    make_trainer: MakeTrainer, tmp_path: Path, val_frac: float, test_frac: float
) -> None:
    """So few that the fractions alone would leave a part without any of them."""
    path = tmp_path / "names.txt"
    path.write_text("\n".join(NAMES * 20) + "\n")
    settings: dict[str, Any] = {"text": path, "lines": True, "val_frac": val_frac, "test_frac": test_frac, "steps": 3}
    folder, sampler = trained(make_trainer, **settings)
    by_hash = sorted(NAMES, key=item_hash)
    n_val = max(1, sum(item_hash(name) < int(val_frac * 2**64) for name in NAMES))
    expected = {"val": by_hash[:n_val], "train": by_hash[n_val : -1 if test_frac else None]}
    if test_frac:
        expected["test"] = by_hash[-1:]
    for part, names in expected.items():
        assert sorted(set(scored(sampler, path, part, item_config(sampler.info)))) == sorted(names), part
    known = Membership.load(next(folder.glob("items-*.npy")))
    assert {name for name in NAMES if name in known} == set(expected["train"])
    lines = item_lines(sampler, [str(path)], item_config(sampler.info), split="val")
    scores = [score for _, score in score_lines(sampler, lines, "error")]
    mean = sum(score.nats for score in scores) / sum(score.tokens for score in scores)
    assert mean == pytest.approx(load_checkpoint(folder / "last.pt").progress["val_loss"], abs=1e-4)


def test_the_least_likely_come_first_and_equal_ones_stay_in_order() -> None:
    scores = [
        ItemScore(text=text, nats=nats, tokens=tokens)
        for text, nats, tokens in [("a", 1.0, 2), ("\ud800b", 9.0, 3), ("c\n", 1.5, 3), ("", 4.0, 1)]
    ]
    assert list(by_surprisal(iter(scores))) == [scores[3], scores[1], scores[0], scores[2]]
    assert scores[1].bits_per_char == pytest.approx(3 / math.log(2))


def test_without_a_temporary_folder_what_fits_in_memory_is_sorted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/proc/missing")
    scores = [ItemScore(text=text, nats=nats, tokens=1) for text, nats in [("a", 1.0), ("bb", 2.0)]]
    assert list(by_surprisal(scores)) == scores[::-1]
    monkeypatch.setattr(item_scores, "_IN_MEMORY", 2)
    with pytest.raises(CharrnnError, match="TMPDIR, or leave out --sort"):
        list(by_surprisal(scores))
