"""Where frames come from. Importing this room is cheap: each source is loaded when first named."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from streamseg.sources.camera import CameraSource
    from streamseg.sources.file import FileSource
    from streamseg.sources.paced import PacedSource
    from streamseg.sources.reconnect import Reconnect
    from streamseg.sources.screen import ScreenSource
    from streamseg.sources.stream import StreamSource
    from streamseg.sources.synthetic import TestSource

__all__ = [
    "CameraSource",
    "FileSource",
    "PacedSource",
    "Reconnect",
    "ScreenSource",
    "StreamSource",
    "TestSource",
]

_HOME = {
    "CameraSource": "streamseg.sources.camera",
    "FileSource": "streamseg.sources.file",
    "PacedSource": "streamseg.sources.paced",
    "Reconnect": "streamseg.sources.reconnect",
    "ScreenSource": "streamseg.sources.screen",
    "StreamSource": "streamseg.sources.stream",
    "TestSource": "streamseg.sources.synthetic",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
