"""Samplers in forked children."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime
import pytest
from charrnn_runtime import Sampler, UsageError

if TYPE_CHECKING:
    from tests.runtime.conftest import Forked, TinyModel


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")


@needs_fork
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
@pytest.mark.parametrize("threads", [1, 2])
def test_a_forked_child_goes_on(tiny: TinyModel, forked: Forked, threads: int) -> None:
    """With two threads inside the session, which do not survive a fork, and with texts that are half finished."""
    sampler = Sampler(tiny.data(), threads=threads)
    expected = sampler.sample("bad", length=300, seed=1)
    stream, talk = sampler.stream("bad", length=300, seed=1), sampler.start("bad", seed=1)
    head, begun = "".join(next(stream) for _ in range(3)), talk.sample(100)

    def child() -> None:
        assert head + "".join(stream) == expected
        assert begun + talk.sample(200) == expected
        assert sampler.sample("bad", length=300, seed=1) == expected
        assert sampler.sample_batch(["bad"] * 20, length=30, seed=1)[0] == expected[:30]
        np.testing.assert_allclose(sampler.score("bad face").nats, nats)

    nats = sampler.score("bad face").nats
    for _ in range(2):
        forked(child)
    assert head + "".join(stream) == expected


@needs_fork
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_session_of_ones_own_in_a_forked_child(tiny: TinyModel, forked: Forked) -> None:
    sampler = Sampler(onnxruntime.InferenceSession(tiny.data(), providers=["CPUExecutionProvider"]))

    def child() -> None:
        with pytest.raises(UsageError, match=r"forked.*spawn"):
            sampler.sample(length=3)

    forked(child)
