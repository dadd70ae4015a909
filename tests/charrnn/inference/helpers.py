"""What tests of evaluation and scoring share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from charrnn_runtime import Sampler

from charrnn.config import DataConfig
from charrnn.inference.item_scores import item_lines
from charrnn.inference.models import open_sampler

if TYPE_CHECKING:
    from tests.conftest import MakeTrainer

NAMES = ["anna", "bella", "clara", "dana", "ella"]


def trained(make_trainer: MakeTrainer, name: str = "made", **settings: Any) -> tuple[Path, Sampler]:
    """A run folder, and the sampler of its last checkpoint."""
    trainer = make_trainer(name, **settings)
    trainer.train()
    return trainer.folder, open_sampler(trainer.folder / "last.pt")


def scored(sampler: Sampler, path: Path, part: Any, config: DataConfig) -> list[str]:
    """The items of a part of a text, as they are scored."""
    return [str(line.text) for lines in item_lines(sampler, [str(path)], config, split=part) for line in lines]
