"""The trainer's errors; they hang from the runtime's root, so one ``except CharrnnError`` catches all.

CharrnnError                exit code 1
├── UsageError              exit code 2
│   └── ConfigError         an option has a value that cannot be used
├── CorpusError             a text cannot be read, or cannot be trained on
│   └── DownloadError       a known corpus cannot be fetched
├── CheckpointError         a file is no checkpoint, is damaged, or does not fit
├── DivergedError            the loss is no longer a number
├── DistributedError        another process of the run is gone
├── RunFolderError          the run folder exists already, or cannot be written
├── SamplingError           a model does not give what was asked for
└── WriteError              a file cannot be written
"""

from __future__ import annotations

from charrnn_runtime import CharrnnError, UsageError


class ConfigError(UsageError):
    """An option has a value that cannot be used."""


class CorpusError(CharrnnError):
    """A text cannot be read, or cannot be trained on."""


class DownloadError(CorpusError):
    """A known corpus cannot be fetched, or what came is not what was asked for."""


class CheckpointError(CharrnnError):
    """A file is no checkpoint, is damaged, or does not fit what is asked of it."""


class DivergedError(CharrnnError):
    """Training has diverged: the loss is no longer a number."""


class DistributedError(CharrnnError):
    """Another process of a run on several is gone, or does not answer."""


class RunFolderError(CharrnnError):
    """The run folder exists already, or cannot be written."""

    exit_code = 2


class WriteError(CharrnnError):
    """A file cannot be written."""


class SamplingError(CharrnnError):
    """A model does not give what was asked for, such as so many distinct items."""
