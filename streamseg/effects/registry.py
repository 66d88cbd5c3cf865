"""The effects by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from types import MappingProxyType
from typing import Any

from streamseg.effects.base import VideoEffect
from streamseg.effects.blur import BlurEffect
from streamseg.effects.cutout import CutoutEffect
from streamseg.effects.grayscale import GrayscaleEffect
from streamseg.effects.labels import LabelsEffect
from streamseg.effects.mask_view import MaskViewEffect
from streamseg.effects.none import NoEffect
from streamseg.effects.options import nearest
from streamseg.effects.per_class import PerClassEffect
from streamseg.effects.pixelate import PixelateEffect
from streamseg.effects.replace import ReplaceEffect
from streamseg.effects.tint import TintEffect
from streamseg.errors import ConfigError

__all__ = ["EFFECTS", "create_effect", "option_names"]

EFFECTS: Mapping[str, type[VideoEffect]] = MappingProxyType(
    {
        "none": NoEffect,
        "blur": BlurEffect,
        "replace": ReplaceEffect,
        "tint": TintEffect,
        "cutout": CutoutEffect,
        "pixelate": PixelateEffect,
        "grayscale": GrayscaleEffect,
        "mask": MaskViewEffect,
        "per-class": PerClassEffect,
        "labels": LabelsEffect,
    }
)
"""Name -> class; each is built from one instance of its ``options_type``."""

_INSTEAD = {"per-class": ": its classes are named in the table [effect.classes]"}


def option_names(name: str) -> tuple[str, ...]:
    """Return the options that an effect takes.

    Raises:
        ConfigError: If there is no such effect.
    """
    return tuple(item.name for item in fields(_find(name).options_type))


def create_effect(name: str, options: Mapping[str, Any] | None = None) -> VideoEffect:
    """Build an effect.

    Args:
        name: A key of ``EFFECTS``.
        options: Values for the effect's options; what is left out keeps its default.

    Raises:
        ConfigError: If there is no such effect or option, or a value is wrong. Also if the
            background of ``replace`` cannot be read.
    """
    kind = _find(name)
    known = option_names(name)
    for key in options or {}:
        if key == "on" and key not in known:
            able = [effect for effect in EFFECTS if "on" in option_names(effect)]
            raise ConfigError(
                f"effect {name!r} cannot be applied to the subject instead of the background "
                f"(--subject on the command line, option 'on' in files); {', '.join(able)} can"
            )
        if key == "subject" and key not in known:
            raise ConfigError(
                f"effect {name!r} has no classes to choose (--classes on the command line, option "
                f"'subject' in files){_INSTEAD.get(name, '')}"
            )
        if key not in known:
            takes = f"it takes {', '.join(known)}" if known else "it takes none"
            raise ConfigError(
                f"effect {name!r} has no option {key!r}{nearest(key, (*known, 'name'))} ({takes})"
            )
    build: Any = kind  # every class takes its own options_type
    effect: VideoEffect = build(kind.options_type(**(options or {})))
    return effect


def _find(name: str) -> type[VideoEffect]:
    try:
        return EFFECTS[name]
    except KeyError:
        hint = nearest(str(name), tuple(EFFECTS))
        raise ConfigError(
            f"there is no effect {name!r}{hint} (effects: {', '.join(EFFECTS)})"
        ) from None
