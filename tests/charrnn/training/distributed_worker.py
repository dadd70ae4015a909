"""What test_distributed.py trains, in one process or in one of two: small runs, one after the other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from charrnn.config import DataConfig, ModelConfig, TrainConfig
from charrnn.data.corpus import read_corpus
from charrnn.runs.checkpoint import load_checkpoint
from charrnn.training.distributed import Processes, processes
from charrnn.training.trainer import Trainer


def settings(text: Path, train: dict[str, Any], data: dict[str, Any], dropout: float) -> dict[str, Any]:
    """Arguments of a Trainer, the same for one process and for two."""
    own: dict[str, Any] = {"seq_len": 16, "warmup_steps": 10, "lr": 0.01, "precision": "fp32", "device": "cpu"}
    data_config = DataConfig(**data)
    return {
        "model_config": ModelConfig(hidden_size=24, embedding_size=12, num_layers=2, dropout=dropout),
        "data_config": data_config,
        "train_config": TrainConfig(**(own | train)),
        "corpus": read_corpus([str(text)], data_config),
    }


def run(folder: Path, job: dict[str, Any], group: Processes | None = None) -> Trainer:
    """Trains as the job says, in ``folder/job["name"]``."""
    arguments = settings(folder / "text.txt", job["train"], job.get("data", {}), job.get("dropout", 0.0))
    if cell := job.get("cell"):
        arguments["model_config"] = replace(arguments["model_config"], cell=cell)
    if group is not None:
        arguments["processes"] = group
    if resume := job.get("resume"):
        arguments["checkpoint"] = load_checkpoint(folder / resume / "last.pt")
    target = folder / job["name"]
    target.mkdir(exist_ok=True)
    trainer = Trainer(**arguments, folder=target)
    # Only rank 0 is asked to stop: the others must follow.
    last = job.get("stop_after") if group is None or group.first else None
    trainer.train(lambda: last is not None and trainer.run.counters.step >= last)
    return trainer


def run_jobs(folder: Path, jobs: list[dict[str, Any]]) -> None:
    """Trains as each job says, as one of several processes."""
    with processes("cpu") as joined:
        for each in jobs:
            run(folder, each, joined)
            joined.all_gather(0)  # a folder that the next job resumes from is written by rank 0
