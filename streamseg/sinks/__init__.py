"""Where pictures go: files, picture sequences, masks. Nothing is imported until it is used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from streamseg.sinks.file import FileSink
    from streamseg.sinks.masks import MaskSink
    from streamseg.sinks.null import NullSink

__all__ = ["FileSink", "MaskSink", "NullSink"]

_HOME = {
    "FileSink": "streamseg.sinks.file",
    "MaskSink": "streamseg.sinks.masks",
    "NullSink": "streamseg.sinks.null",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
