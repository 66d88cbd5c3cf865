"""Everything that streamseg raises on purpose.

    StreamsegError                  exit code of the command line
    ├── ConfigError                 2  an option or a configuration key is wrong
    ├── SourceError
    │   ├── SourceOpenError         2  it cannot be read at all
    │   └── SourceReadError         1  it stopped being readable on the way
    ├── ModelError                  2  the model file or its card cannot be used
    ├── WorkerError                 1  a model process failed
    │   ├── WorkerDiedError         1  it ended by itself or by a signal, with the frame it had
    │   └── WorkerTimeoutError      1  it did not answer in time and was killed
    ├── EffectError                 1  an effect could not be applied to a frame
    └── SinkError
        ├── SinkOpenError           2  the target cannot be written as asked
        └── SinkWriteError          1  writing failed on the way

Errors of other libraries become one of these once, at the boundary, ``from`` the original.
A message is one line: what failed, with what value, and what to try.
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "ConfigError",
    "EffectError",
    "ModelError",
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
]


class StreamsegError(Exception):
    """Base of all errors of streamseg; catch it to catch everything that is expected."""

    exit_code: ClassVar[int] = 1
    """What the command line exits with: 2 for what the user can correct, 1 for a failure."""


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
