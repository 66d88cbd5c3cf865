"""EffectChoice: an effect that somebody far away asks for.

What a stranger says must not open a file of this machine. So effects and options that strangers may
name are listed here, one by one; whatever else there is, or will be, is the operator's. Of those
listed one option names a file: the background of ``replace``. It is taken only as a colour, or as
the name of a picture that was uploaded.

Where the operator does not let people see their room (``may_bypass``), what shows it is not offered
either: neither effects that leave the room as it is, nor options that turn an effect round, or off.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamseg.effects.colours import is_colour
from streamseg.effects.registry import EFFECTS
from streamseg.errors import ConfigError

if TYPE_CHECKING:
    from streamseg.webrtc.uploads import Uploads

__all__ = [
    "FILE_OPTIONS",
    "EffectChoice",
    "Menu",
    "servable_effects",
    "shown_effect",
    "with_files",
]

FILE_OPTIONS: frozenset[tuple[str, str]] = frozenset({("replace", "background")})
"""Effect and option for each option that can name a file."""

_MASK = ("subject", "threshold", "feather")
_SIDE = (*_MASK, "on")
# Not among them: ``per-class``, whose options are other effects, as many as sixteen, each of which
# costs as much as the effect alone; and ``cutout``, since no codec here carries alpha.
_OFFERED: Mapping[str, tuple[str, ...]] = {
    "none": ("subject",),
    "blur": (*_SIDE, "strength"),
    "replace": (*_SIDE, "background", "fit"),
    "tint": (*_MASK, "strength", "colours", "contours", "legend", "objects"),
    "pixelate": (*_SIDE, "strength"),
    "grayscale": (*_SIDE, "strength"),
    "mask": _MASK,
    "labels": ("subject", "top", "least", "corner"),
}
# What hides the room, with the options that cannot bring it back: not ``on`` and ``subject``, which
# say what is hidden, nor ``threshold`` and ``feather``, with which everything becomes the subject.
_HIDING: Mapping[str, tuple[str, ...]] = {
    "blur": ("strength",),
    "replace": ("background", "fit"),
    "pixelate": ("strength",),
    "mask": _MASK,
}
# Likewise of every other effect: the operator's own may be one that hides little.
_REVEALING = ("subject", "threshold", "feather", "on")
_MAX_OPTIONS = 16
_PLAIN = (str, int, float, bool, type(None))


@dataclass(frozen=True, slots=True)
class EffectChoice:
    """An effect that was asked for.

    Attributes:
        name: One of ``Menu.effects``.
        options: To make it with; an uploaded picture is a ``Path`` here.
        said: The options without paths, to be repeated to whoever asked.
    """

    name: str
    options: Mapping[str, Any] = field(repr=False)
    said: Mapping[str, Any]


def servable_effects() -> tuple[str, ...]:
    """Return the effects that an operator may configure: those that a stream can show."""
    return tuple(name for name, kind in EFFECTS.items() if not kind.output_has_alpha)


def with_files(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a configured effect, with a ``Path`` for each that names a file.

    So it is known what must not be told to strangers when the effect cannot be made.

    Args:
        name: The effect.
        options: As configured.
    """
    given = dict(options)
    for effect, option in FILE_OPTIONS:
        value = given.get(option)
        if effect == name and isinstance(value, str) and value.strip() and not is_colour(value):
            given[option] = Path(value)
    return given


def shown_effect(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return an effect of the configuration as strangers may see it: without paths.

    Args:
        name: The effect.
        options: As configured.

    Returns:
        ``{"name": ..., "options": {...}}``, and ``"files": [...]`` with the names of those options
        that name a file, if there are any.
    """
    shown = {
        option: value
        for option, value in options.items()
        if isinstance(value, str | int | float | bool)
        and ((name, option) not in FILE_OPTIONS or (isinstance(value, str) and is_colour(value)))
    }
    told: dict[str, Any] = {"name": name, "options": shown}
    files = [option for option in options if (name, option) in FILE_OPTIONS and option not in shown]
    return {**told, "files": files} if files else told


@dataclass(frozen=True, slots=True)
class Menu:
    """What strangers may choose of the effects.

    Attributes:
        may_bypass: Whether they may see their picture without an effect. If not, they have the
            effects that hide the room and the operator's own, none of them weaker than the operator
            has it, and without the options that say where it works.
        own: The operator's effect: ``{"name": ..., "options": {...}}``.
    """

    may_bypass: bool = True
    own: Mapping[str, Any] | None = None

    @property
    def effects(self) -> dict[str, tuple[str, ...]]:
        """The effects by name, each with the options that may be set."""
        if self.may_bypass:
            return dict(_OFFERED)
        own = None if self.own is None else self.own["name"]
        return {
            name: _HIDING.get(name, tuple(option for option in options if option not in _REVEALING))
            for name, options in _OFFERED.items()
            if name in _HIDING or name == own
        }

    def choose(self, name: str, options: Mapping[str, Any], uploads: Uploads) -> EffectChoice:
        """Return the choice for what was asked for; opens nothing.

        Args:
            name: The effect.
            options: Its options, from JSON. A strength that would show too much is made higher.
            uploads: The pictures that there are.

        Raises:
            ConfigError: If there is no such effect, option or picture to be had, an option is
                nested, or the background is neither a picture nor a colour. The values of other
                options are the effect's to check.
        """
        offered = self.effects
        if name not in offered:
            kept = name in _OFFERED
            why = "this server shows no room: " if kept else "there is no effect of this name: "
            raise ConfigError(f"{why}{', '.join(offered)} can be had")
        if len(options) > _MAX_OPTIONS:
            raise ConfigError(f"{len(options)} options are more than any effect has")
        for option, value in options.items():
            if option not in offered[name]:
                takes = ", ".join(offered[name])
                raise ConfigError(f"effect {name!r} has no such option here: it takes {takes}")
            if not _is_flat(value):
                raise ConfigError(f"{option} of effect {name!r} is nested: expected a plain value")
        said = self._strengthened(name, options)
        resolved = dict(said)
        for effect, option in FILE_OPTIONS:
            if effect != name or option not in resolved:
                continue
            value = resolved[option]
            path = uploads.path(value) if isinstance(value, str) else None
            if path is not None:
                resolved[option] = path
            elif not (isinstance(value, str) and is_colour(value)):
                raise ConfigError(
                    f"{option} is neither a colour nor the id of a picture that was uploaded and "
                    "is still there: upload it again"
                )
        return EffectChoice(name, resolved, said)

    def _strengthened(self, name: str, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return options whose strength is at least the operator's, or else the effect's own."""
        said = dict(options)
        strength = said.get("strength")
        given = isinstance(strength, int | float) and not isinstance(strength, bool)
        if self.may_bypass or not given:
            return said
        least: Any = next(
            item.default for item in fields(EFFECTS[name].options_type) if item.name == "strength"
        )
        if self.own is not None and self.own["name"] == name:
            least = self.own["options"].get("strength", least)
        if not strength >= least:  # nor if it is no number at all
            said["strength"] = least
        return said


def _is_flat(value: Any) -> bool:
    """Return whether a value is plain, or a list or table of plain ones; no option has more."""
    inner = value.values() if isinstance(value, Mapping) else value
    if isinstance(value, Mapping | list):
        return all(isinstance(each, _PLAIN) for each in inner)
    return isinstance(value, _PLAIN)
