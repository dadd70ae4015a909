"""The models of a server. Their engines run on threads of their own and report to the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from charrnn_runtime import Engine, Job, ModelFileError, Sampler, UsageError

from charrnn_server.options import ServerOptions
from charrnn_server.schema import Model


def load(paths: Sequence[str | Path], options: ServerOptions) -> dict[str, Sampler]:
    """Samplers by name: the file's name without its ending.

    Raises:
        UsageError: there is no path, or two files have the same name.
        ModelFileError: a file is not a model file; for a checkpoint the message says how to export it.
    """
    if not paths:
        raise UsageError("name at least one model file")
    samplers: dict[str, Sampler] = {}
    for path in map(Path, paths):
        if path.is_dir():
            raise ModelFileError(
                f"{path} is a folder; if it is that of a run, export it: charrnn export {path} {path.name}.onnx"
            )
        if path.stem in samplers:
            raise UsageError(f"two models are named {path.stem!r}; rename a file")
        samplers[path.stem] = Sampler(path, threads=options.threads)
    return samplers


class Models:
    """Samplers, their engines, and the event that each unfinished job sets when it has something new."""

    def __init__(self, samplers: dict[str, Sampler], options: ServerOptions) -> None:
        self.created = int(time.time())
        self.engines = {
            name: Engine(
                sampler,
                batch=options.streams,
                queue=options.queue,
                queue_tokens=max(4_000_000, options.max_prompt),
                on_update=self._on_update,
            )
            for name, sampler in samplers.items()
        }
        self._waiters: dict[Job, asyncio.Event] = {}
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        """Starts the engines for the running event loop."""
        self._loop = asyncio.get_running_loop()
        for engine in self.engines.values():
            engine.start()

    def close(self) -> None:
        """Stops the engines; all unfinished texts end with an error."""
        for engine in self.engines.values():
            engine.close()

    def submit(self, jobs: Sequence[Callable[[], Job]], news: asyncio.Event) -> list[Job]:
        """Submits all jobs of a request, or none of them; ``news`` is set when one of them has something to take.

        Raises:
            CharrnnError: one of them cannot be taken.
        """
        submitted: list[Job] = []
        try:
            for submit in jobs:
                job = submit()
                self._waiters[job] = news
                submitted.append(job)
        except Exception:
            self.forget(submitted)
            raise
        news.set()  # something may have happened before the event was registered
        return submitted

    def forget(self, jobs: Sequence[Job]) -> None:
        """Cancels the jobs that have not ended."""
        for job in jobs:
            job.cancel()
            self._waiters.pop(job, None)

    def describe(self, name: str) -> Model:
        """A model as ``/v1/models`` shows it."""
        info = self.engines[name].sampler.info
        return Model(
            id=name,
            object="model",
            created=self.created,
            owned_by="charrnn",
            cell=info.cell,
            num_layers=info.num_layers,
            hidden_size=info.hidden_size,
            vocabulary=len(info.vocabulary),
            labels=list(info.vocabulary.labels),
        )

    def _on_update(self, jobs: Sequence[Job]) -> None:
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the event loop is closed, so no request waits any more
                self._loop.call_soon_threadsafe(self._wake, jobs)

    def _wake(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            if event := self._waiters.get(job):
                event.set()
