"""Where frames come from. Importing this room is cheap: each source is loaded when first named."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from streamseg.sources.file import FileSource

__all__ = ["FileSource"]

_HOMES = {"FileSource": "streamseg.sources.file"}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
