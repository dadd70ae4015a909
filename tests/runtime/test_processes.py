"""A sampler in other processes: pickled, copied, sent to workers."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import onnxruntime
import pytest
from charrnn_runtime import Sampler, UsageError

if TYPE_CHECKING:
    from tests.runtime.conftest import TinyModel


def test_copies_and_pickles_sample_the_same_texts(tiny: TinyModel, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(tiny.data())
    sampler = Sampler(path, threads=1)
    path.unlink()  # a copy needs the bytes, not the file
    for again in (copy.copy(sampler), copy.deepcopy(sampler), pickle.loads(pickle.dumps(sampler))):
        assert again.info == sampler.info
        assert again.sample("bad", length=200, seed=1) == sampler.sample("bad", length=200, seed=1)


def test_what_cannot_be_pickled_says_what_to_do(tiny: TinyModel, sampler: Sampler) -> None:
    session = onnxruntime.InferenceSession(tiny.data(), providers=["CPUExecutionProvider"])
    with pytest.raises(UsageError, match="path or bytes"):
        pickle.dumps(Sampler(session))
    for copying in (pickle.dumps, copy.deepcopy):
        with pytest.raises(UsageError, match="to_bytes"):
            copying(sampler.start("bad"))


def _sample(sampler: Sampler, seed: int) -> str:
    return sampler.sample("bad", length=50, seed=seed)


def test_a_pool_of_spawned_workers(sampler: Sampler) -> None:
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        texts = list(pool.map(_sample, [sampler] * 3, range(3)))
    assert texts == [_sample(sampler, seed) for seed in range(3)]
