"""Where pictures go: files, windows, cameras, servers. Nothing is imported until it is used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from streamseg.sinks.display import DisplaySink
    from streamseg.sinks.file import FileSink
    from streamseg.sinks.masks import MaskSink
    from streamseg.sinks.mjpeg import MjpegSink
    from streamseg.sinks.null import NullSink
    from streamseg.sinks.recording import RecordingSink
    from streamseg.sinks.stream import StreamSink
    from streamseg.sinks.virtual_camera import VirtualCameraSink

__all__ = [
    "DisplaySink",
    "FileSink",
    "MaskSink",
    "MjpegSink",
    "NullSink",
    "RecordingSink",
    "StreamSink",
    "VirtualCameraSink",
]

_HOME = {
    "DisplaySink": "streamseg.sinks.display",
    "FileSink": "streamseg.sinks.file",
    "MaskSink": "streamseg.sinks.masks",
    "MjpegSink": "streamseg.sinks.mjpeg",
    "NullSink": "streamseg.sinks.null",
    "RecordingSink": "streamseg.sinks.recording",
    "StreamSink": "streamseg.sinks.stream",
    "VirtualCameraSink": "streamseg.sinks.virtual_camera",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
