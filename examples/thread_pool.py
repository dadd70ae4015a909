"""Many texts at once from one Sampler in a plain thread pool.

    python examples/thread_pool.py model.onnx

One Sampler serves all threads: every call has buffers of its own, and ONNX
Runtime lets go of Python's lock while it computes. Texts depend on their seeds
alone, not on the threads.
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

from charrnn_runtime import Sampler


def main(path: str, count: int = 8) -> None:
    """Prints ``count`` texts of 100 characters."""
    sampler = Sampler(path)
    with ThreadPoolExecutor(max_workers=4) as pool:
        for seed, text in enumerate(pool.map(lambda s: sampler.sample(length=100, seed=s), range(count))):
            print(f"seed {seed}: {text!r}")


if __name__ == "__main__":
    main(sys.argv[1])
