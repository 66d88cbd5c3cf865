"""Options of effects: frozen values, checked when they are made."""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Any

from streamseg.errors import ConfigError
from streamseg.models.card import people_labels

__all__ = [
    "EffectOptions",
    "MaskOptions",
    "SideOptions",
    "StrengthOptions",
    "check_choice",
    "check_labels",
    "check_number",
    "check_switch",
    "nearest",
    "resolve_subject",
]

_LISTED = 24  # labels in a message; some models have a thousand


def nearest(name: str, known: Sequence[str], *, most: int = 1) -> str:
    """Return ``", did you mean ...?"`` for a misspelt name, or an empty string.

    Args:
        name: What was given.
        known: The right names.
        most: How many of them are offered, the nearest first.
    """
    lowered = {item.lower(): item for item in known}
    close = difflib.get_close_matches(name.lower(), list(lowered), n=most, cutoff=0.5)
    return f", did you mean {' or '.join(repr(lowered[item]) for item in close)}?" if close else ""


def check_number(option: str, value: object, low: float, high: float, *, open_ends: bool) -> None:
    """Check that an option is a finite number within bounds.

    Raises:
        ConfigError: With the option, what was got and what is allowed.
    """
    shown = f"between {low:g} and {high:g}" + (", the ends excluded" if open_ends else "")
    fits = False
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        fits = low < value < high if open_ends else low <= value <= high
    if not fits:
        raise ConfigError(f"{option} must be a number {shown}, got {value!r}")


def check_choice(option: str, value: object, allowed: Sequence[str]) -> None:
    """Check that an option is one of a few words.

    Raises:
        ConfigError: With the option, what was got and what is allowed.
    """
    if not isinstance(value, str) or value not in allowed:
        hint = nearest(value, allowed) if isinstance(value, str) else ""
        raise ConfigError(f"{option} must be one of {', '.join(allowed)}, got {value!r}{hint}")


def check_labels(option: str, names: Any) -> tuple[str, ...]:
    """Return an option that is a list of labels, as a tuple.

    Args:
        option: Its name.
        names: Its value, which may come from a file, whatever the annotations say.

    Raises:
        ConfigError: With the option and what was got.
    """
    listed = isinstance(names, Sequence | Set) and not isinstance(names, str)
    if not listed or not all(isinstance(name, str) and name for name in names):
        raise ConfigError(f"{option} must be a list of labels, got {names!r}")
    return tuple(names)


def check_switch(option: str, value: object) -> None:
    """Check that an option is true or false.

    Raises:
        ConfigError: With the option and what was got.
    """
    if not isinstance(value, bool):
        raise ConfigError(f"{option} must be true or false, got {value!r}")


@dataclass(frozen=True, kw_only=True, slots=True)
class EffectOptions:
    """What every effect's options have in common: they are checked at construction."""

    def __post_init__(self) -> None:
        self._check()

    def _check(self) -> None:
        """Raise ConfigError for a wrong value; subclasses extend it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskOptions(EffectOptions):
    """Which part of the picture an effect works on, and how its edge looks.

    Attributes:
        subject: Labels that make up the people, for example ``("SELFIE",)``, in capitals or not.
            Empty: SELFIE and PERSON, as far as the model has them.
        threshold: Probability, between 0 and 1, where the picture belongs half to the subject;
            a higher one makes the subject smaller.
        feather: Extra softness of the edge: width of the ramp as a percentage, 0 to 20, of the
            picture's shorter side.
    """

    subject: tuple[str, ...] = ()
    threshold: float = 0.5
    feather: float = 0.0

    def _check(self) -> None:
        object.__setattr__(self, "subject", check_labels("subject", self.subject))
        check_number("threshold", self.threshold, 0.0, 1.0, open_ends=True)
        check_number("feather", self.feather, 0.0, 20.0, open_ends=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class SideOptions(MaskOptions):
    """Options of effects that work on the background or, the other way round, on the people.

    Attributes:
        on: ``background``: the subject stays as it is. ``subject``: the subject is altered, for
            example to make people anonymous.
    """

    on: str = "background"

    def _check(self) -> None:
        MaskOptions._check(self)
        check_choice("on", self.on, ("background", "subject"))


@dataclass(frozen=True, kw_only=True, slots=True)
class StrengthOptions(SideOptions):
    """Options of effects that can be weaker or stronger.

    Attributes:
        strength: 0, which leaves the picture untouched, to 100.
    """

    strength: float = 50.0

    def _check(self) -> None:
        SideOptions._check(self)
        check_number("strength", self.strength, 0.0, 100.0, open_ends=False)


def resolve_subject(
    subject: tuple[str, ...], labels: Sequence[str], *, option: str = "subject"
) -> tuple[str, ...]:
    """Return the labels that make up the subject for a model with these labels.

    Args:
        subject: Labels as asked for, in capitals or not, with blanks, ``_``, ``-`` or nothing
            between words; empty for all that mean people.
        labels: The model's labels.
        option: What they were asked for with, for the message.

    Returns:
        Labels as the model writes them, each once.

    Raises:
        ConfigError: If the model does not know a label, or has none for people.
    """
    if not subject:
        people = people_labels(tuple(labels))
        if not people:
            raise ConfigError(
                f"{option} must be given: the model has no SELFIE or PERSON, only {_listed(labels)}"
            )
        return people
    written = {_plain(label): label for label in reversed(labels)}
    found: dict[str, None] = {}
    for name in subject:
        label = name if name in labels else written.get(_plain(name))
        if label is None:
            raise ConfigError(
                f"{option} {name!r} is not a label of the model{nearest(name, labels, most=3)} "
                f"(labels: {_listed(labels)})"
            )
        found[label] = None
    return tuple(found)


def _plain(label: str) -> str:
    return "".join(letter for letter in label.casefold() if letter not in " _-") or label


def _listed(labels: Sequence[str]) -> str:
    shown = ", ".join(labels[:_LISTED])
    return shown if len(labels) <= _LISTED else f"{shown} and {len(labels) - _LISTED} more"
