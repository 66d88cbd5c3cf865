"""Everything that streamseg raises on purpose.

    StreamsegError                  exit code of the command line
    ├── ConfigError                 2  an option or a configuration key is wrong
    ├── SourceError
    │   ├── SourceOpenError         2  it cannot be read at all
    │   └── SourceReadError         1  it stopped being readable on the way
    ├── ModelError                  2  the model file or its card cannot be used
    │   └── DownloadError           1  a file cannot be fetched, or is not what was asked for
    │       ├── OfflineError        2  it would have to be fetched, but that is switched off
    │       └── DownloadInterruptedError 1  it stopped on the way; the next call goes on
    ├── WorkerError                 1  a model process failed
    │   ├── WorkerDiedError         1  it ended by itself or by a signal, with the frame it had
    │   └── WorkerTimeoutError      1  it did not answer in time and was killed
    ├── EffectError                 1  an effect could not be applied to a frame
    └── SinkError
        ├── SinkOpenError           2  the target cannot be written as asked
        └── SinkWriteError          1  writing failed on the way

What can go wrong with a still picture has the names and numbers (``code``) that React Native
ExecuTorch's users know:

    ModelError
    ├── ModuleNotLoadedError        2  102  a call before the model is loaded
    ├── ModelGeneratingError        1  104  a call while one is running
    ├── InvalidModelOutputError     2  115  what the model returns does not fit its card or task
    └── WrongDimensionsError        2  116  a shape is not what it must be
    ConfigError
    ├── InvalidConfigError          2  112  an option of a task, or the wrong task for a model
    └── InvalidUserInputError       2  117  a wrong argument: an unknown label, a type, a size
    SourceOpenError
    └── FileReadFailedError         2  114  a picture that cannot be fetched, read or decoded

Errors of other libraries become one of these once, at the boundary, ``from`` the original.
A message is one line: what failed, with what value, and what to try.
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "ConfigError",
    "DownloadError",
    "DownloadInterruptedError",
    "EffectError",
    "FileReadFailedError",
    "InvalidConfigError",
    "InvalidModelOutputError",
    "InvalidUserInputError",
    "ModelError",
    "ModelGeneratingError",
    "ModuleNotLoadedError",
    "OfflineError",
    "SinkError",
    "SinkOpenError",
    "SinkWriteError",
    "SourceError",
    "SourceOpenError",
    "SourceReadError",
    "StreamsegError",
    "WorkerDiedError",
    "WorkerError",
    "WorkerTimeoutError",
    "WrongDimensionsError",
]


class StreamsegError(Exception):
    """Base of all errors of streamseg; catch it to catch everything that is expected."""

    exit_code: ClassVar[int] = 1
    """What the command line exits with: 2 for what the user can correct, 1 for a failure."""

    code: ClassVar[int | None] = None
    """React Native ExecuTorch's number for the same failure, None where it has none."""


class ConfigError(StreamsegError):
    """An option, or a key of a configuration file, is unknown or has a wrong value."""

    exit_code = 2


class SourceError(StreamsegError):
    """A source failed."""


class SourceOpenError(SourceError):
    """A source cannot be opened: missing, unreadable, not a video, without a video stream."""

    exit_code = 2


class SourceReadError(SourceError):
    """A source that was open stopped being readable before any frame could be kept."""


class ModelError(StreamsegError):
    """A model file, its graph or its card cannot be used."""

    exit_code = 2


class DownloadError(ModelError):
    """A file cannot be fetched, or is not what was asked for."""

    exit_code = 1


class OfflineError(DownloadError):
    """A file is not here, and fetching is switched off."""

    exit_code = 2


class DownloadInterruptedError(DownloadError):
    """A download stopped on the way: the connection was cut, or somebody cancelled it."""

    code = 118


class ModuleNotLoadedError(ModelError):
    """A task was called while its model was not loaded."""

    code = 102

    def __init__(
        self,
        message: str = "The model is currently not loaded. "
        "Please load the model before calling forward().",
    ) -> None:
        super().__init__(message)


class ModelGeneratingError(ModelError):
    """A task was called while another call of it was running."""

    exit_code = 1
    code = 104

    def __init__(
        self,
        message: str = "The model is currently generating. "
        "Please wait until previous model run is complete. Or load it with queue=True.",
    ) -> None:
        super().__init__(message)


class InvalidConfigError(ConfigError):
    """An option of a task is wrong, or the task is not the one that the model was made for."""

    code = 112


class FileReadFailedError(SourceOpenError):
    """A picture cannot be fetched, read or decoded."""

    code = 114


class InvalidModelOutputError(ModelError):
    """What a model returns does not fit its card, or the task that it was loaded for."""

    code = 115


class WrongDimensionsError(ModelError):
    """A shape is not what it must be."""

    code = 116


class InvalidUserInputError(ConfigError):
    """An argument of a call is wrong: an unknown label, a type that is no picture, its size."""

    code = 117


class WorkerError(StreamsegError):
    """A model process failed."""


class WorkerDiedError(WorkerError):
    """A model process ended by itself or by a signal while it was needed."""


class WorkerTimeoutError(WorkerError):
    """A model process did not answer within its time and was killed."""


class EffectError(StreamsegError):
    """An effect could not be built for, or applied to, a frame."""


class SinkError(StreamsegError):
    """A sink failed."""


class SinkOpenError(SinkError):
    """A target cannot be written as asked: it exists, its folder does not, the encoder refuses."""

    exit_code = 2


class SinkWriteError(SinkError):
    """Writing failed on the way: the disk is full, or the finished file did not verify."""
