"""Effects: what becomes of a picture once its masks are known.

An effect takes a frame and its segmentation and returns the picture to show, in the frame's own
YUV format. ``streamseg.effects.registry`` builds them by name; nothing is imported before that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from streamseg.effects.base import VideoEffect
    from streamseg.effects.registry import EFFECTS, create_effect

__all__ = ["EFFECTS", "VideoEffect", "create_effect"]

_HOME = {"EFFECTS": "registry", "VideoEffect": "base", "create_effect": "registry"}


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{home}"), name)
