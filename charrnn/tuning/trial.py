"""A process of a search: trains models, one after the other, and tells how good each became.

A search starts several of these, each with one thread. ``Worker`` is the side of the search, ``main`` that of the
process; they exchange pickled objects through pipes. The process is a plain one, not one of ``multiprocessing``: a
program that calls ``charrnn.tune`` need not guard its main module, and Ctrl-C reaches the search alone, since the
process has a session of its own. It ends when the pipe closes, so it never outlives the search, however that ends.
"""

from __future__ import annotations

import os
import pickle
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from charrnn_runtime import CharrnnError

from charrnn.data.in_memory import InMemory
from charrnn.errors import DistributedError

Source = Sequence[str] | InMemory
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


@dataclass(frozen=True, kw_only=True)
class Job:
    """A model to train: all options of the run, and the folder for its files while it is trained."""

    source: Source
    options: Mapping[str, Any]
    folder: Path


class Worker:
    """A process that trains; it starts with the first job, and again if it has died."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._ended = False
        self._lock = threading.Lock()

    def run(self, job: Job) -> float:
        """Trains a model.

        Returns:
            The lowest validation loss of the run, in nats per character.

        Raises:
            CharrnnError: as ``charrnn.train``.
            DistributedError: the process has ended; ``end`` does that, or a lack of memory.
        """
        with self._lock:
            if self._ended:
                raise DistributedError("the search has ended")
            if self._process is None:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "charrnn.tuning.trial"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    env={**os.environ, **(ONE_THREAD if job.options.get("threads") == 1 else {})},
                    start_new_session=True,
                )
            process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            pickle.dump(job, process.stdin)
            process.stdin.flush()
            result = pickle.load(process.stdout)
        except (OSError, EOFError, pickle.UnpicklingError) as error:
            self._close()
            raise DistributedError(
                f"the process of a trial ended with code {process.returncode} (-9 may be a lack of memory)"
            ) from error
        if isinstance(result, BaseException):
            raise result
        return float(result)

    def end(self) -> None:
        """Ends the process at once; may be called from any thread. No job can be run afterwards."""
        with self._lock:
            self._ended = True
            if self._process is not None:
                self._process.kill()

    def _close(self) -> None:
        with self._lock:
            process, self._process = self._process, None
        if process is not None:
            process.kill()
            for pipe in (process.stdin, process.stdout):
                with suppress(OSError):
                    pipe.close()  # type: ignore[union-attr]
            process.wait()

    def close(self) -> None:
        """Ends the process and waits for its end."""
        self.end()
        self._close()


def run(job: Job) -> float:
    """Trains a model in this process; see ``Worker.run``."""
    from charrnn.training.run import train

    given: dict[str, Any] = {}
    if isinstance(job.source, InMemory):
        given = {"text": job.source.text, "items": job.source.items}
    job.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=job.folder) as folder:
        texts = () if isinstance(job.source, InMemory) else job.source
        return train(*texts, **given, out=folder, progress=False, signals=(), **job.options).best_val_loss


def main() -> None:
    """Takes jobs from standard input, and writes their results to standard output, until the input ends."""
    results = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever else is printed must not stand between the results
    jobs: queue.Queue[Job] = queue.Queue()

    def read() -> None:
        try:
            while True:
                jobs.put(pickle.load(sys.stdin.buffer))
        finally:
            os._exit(0)  # the search has ended

    threading.Thread(target=read, daemon=True).start()
    while True:
        job = jobs.get()
        result: float | Exception
        try:
            result = run(job)
        except (CharrnnError, MemoryError) as error:
            result = error
        pickle.dump(result, results)
        results.flush()


if __name__ == "__main__":
    main()
