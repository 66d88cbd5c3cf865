"""EffectChoice: an effect that somebody far away asks for.

What a stranger says must not open a file of this machine. Of all options of all effects one names
a file: the background of ``replace``. It is taken only as a colour, or as the name of a picture
that was uploaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from streamseg.effects.colours import is_colour
from streamseg.effects.registry import EFFECTS, option_names
from streamseg.errors import ConfigError

if TYPE_CHECKING:
    from streamseg.webrtc.uploads import Uploads

__all__ = ["FILE_OPTIONS", "EffectChoice", "choose_effect", "offered_effects", "shown_effect"]

FILE_OPTIONS: frozenset[tuple[str, str]] = frozenset({("replace", "background")})
"""Effect and option for each option that can name a file."""

_MAX_OPTIONS = 16


@dataclass(frozen=True, slots=True)
class EffectChoice:
    """An effect that was asked for.

    Attributes:
        name: One of ``offered_effects``.
        options: To make it with; an uploaded picture is a ``Path`` here.
        said: The options as they were asked for, to be repeated to whoever did.
    """

    name: str
    options: Mapping[str, Any] = field(repr=False)
    said: Mapping[str, Any]


def offered_effects() -> dict[str, tuple[str, ...]]:
    """Return the effects that a stream can show, each with its options' names.

    One that makes a picture transparent is not among them: no codec here carries alpha.
    """
    return {name: option_names(name) for name, kind in EFFECTS.items() if not kind.output_has_alpha}


def shown_effect(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return an effect of the configuration as strangers may see it: without paths.

    Args:
        name: The effect.
        options: As configured.
    """
    shown = {
        option: value
        for option, value in options.items()
        if isinstance(value, str | int | float | bool)
        and ((name, option) not in FILE_OPTIONS or (isinstance(value, str) and is_colour(value)))
    }
    return {"name": name, "options": shown}


def choose_effect(name: str, options: Mapping[str, Any], uploads: Uploads) -> EffectChoice:
    """Return the choice for what was asked for; opens nothing.

    Args:
        name: The effect.
        options: Its options, from JSON.
        uploads: The pictures that there are.

    Raises:
        ConfigError: If there is no such effect or picture, or the background is neither a picture
            nor a colour. The values of other options are the effect's to check.
    """
    offered = offered_effects()
    if name not in offered:
        raise ConfigError(f"there is no effect of this name: {', '.join(offered)} can be had")
    if len(options) > _MAX_OPTIONS:
        raise ConfigError(f"{len(options)} options are more than any effect has")
    resolved = dict(options)
    for effect, option in FILE_OPTIONS:
        if effect != name or option not in resolved:
            continue
        value = resolved[option]
        path = uploads.path(value) if isinstance(value, str) else None
        if path is not None:
            resolved[option] = path
        elif not (isinstance(value, str) and is_colour(value)):
            raise ConfigError(
                f"{option} is neither a colour nor the id of a picture that was uploaded and is "
                "still there: upload it again"
            )
    return EffectChoice(name, resolved, dict(options))
