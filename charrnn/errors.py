"""The trainer's errors. All derive from the runtime's ``CharrnnError``, so one ``except CharrnnError`` catches them.

CharrnnError                exit code 1
├── UsageError              exit code 2
│   └── ConfigError         an option has a value that cannot be used
├── CorpusError             a text cannot be read, or cannot be trained on
│   └── DownloadError       a known corpus cannot be fetched
├── CheckpointError         a file is not a checkpoint, is damaged, or does not fit
├── DivergedError           training has diverged: the loss is NaN or very large
├── DistributedError        another process of the run has ended
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
    """A known corpus cannot be fetched, or the downloaded file is not the known one."""


class CheckpointError(CharrnnError):
    """A file is not a checkpoint, is damaged, or does not fit the given options or text."""


class DivergedError(CharrnnError):
    """Training has diverged: the loss is NaN or very large."""


class DistributedError(CharrnnError):
    """Another process of the run has ended, or does not answer."""


class RunFolderError(CharrnnError):
    """The run folder exists already, or cannot be written."""

    exit_code = 2


class WriteError(CharrnnError):
    """A file cannot be written."""


class SamplingError(CharrnnError):
    """A model cannot give what was asked for, such as a number of distinct items."""
