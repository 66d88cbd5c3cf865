"""Which effect comes next when a user presses a key, and which masks effects need.

A room that is hidden is not shown for want of a finger's care: from an effect that hides it only
others that do come next, and what was to be hidden, the background or the people, stays the same.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, NamedTuple

from streamseg.effects.per_class import altered_classes
from streamseg.effects.registry import option_names
from streamseg.errors import ConfigError
from streamseg.models.card import people_labels
from streamseg.session.parts import wanted_by

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from streamseg.config import EffectConfig
    from streamseg.effects.base import VideoEffect

__all__ = ["Look", "labels_for", "mask_look", "next_look"]

_log = logging.getLogger(__name__)

_HIDING = ("blur", "replace", "pixelate")
_SHOWING = ("none", "tint", "grayscale")
_CLASSIFYING = ("labels", "none")  # all that a model without masks can do
_FEW = 32  # labels of a model without people, all of whose masks may be asked for
_KEPT = ("on", "subject", "threshold", "feather")  # what is hidden, not how


class Look(NamedTuple):
    """An effect by name, and its options."""

    name: str
    options: Mapping[str, Any]


def next_look(now: Look, configured: EffectConfig, *, classifies: bool = False) -> Look:
    """Return what follows on this in turn.

    Args:
        now: What is shown.
        configured: One of the ring, with its options.
        classifies: Whether the model has no masks.
    """
    hides = now.name not in (*_SHOWING, *_CLASSIFYING)
    if classifies:
        ring = list(_CLASSIFYING)
    else:
        ring = list(_HIDING if hides else (*_SHOWING, *_HIDING))
        if configured.name not in ring and not (hides and configured.name in _SHOWING):
            ring.insert(0, configured.name)
    here = ring.index(now.name) if now.name in ring else -1
    name = ring[(here + 1) % len(ring)]
    own = configured.options if name == configured.name else {}
    return Look(name, {**own, **_kept(now, name)})


def mask_look(now: Look) -> Look:
    """Return the view of the mask that this effect works with."""
    return Look("mask", _kept(now, "mask"))


def _kept(now: Look, name: str) -> dict[str, Any]:
    known = option_names(name)
    options = dict(now.options)
    if now.name == "per-class":
        # Which classes are altered says what is hidden: another effect is to hide as much.
        options |= {"on": "subject", "subject": altered_classes(now.options)}
    return {key: options[key] for key in _KEPT if key in options and key in known}


def labels_for(
    *effects: VideoEffect | None, strict: bool = True
) -> Callable[[tuple[str, ...]], tuple[str, ...]]:
    """Return which labels a live model returns: the effects', and those of people.

    With these every effect that is about people can follow without loading the model again.

    Args:
        *effects: What is in use, or comes next.
        strict: Whether it is an error when the model has no such label; else it is logged, and the
            effect hides everything.
    """

    def choose(labels: tuple[str, ...]) -> tuple[str, ...]:
        wanted: list[str] = []
        for effect in effects:
            try:
                wanted += () if effect is None else wanted_by(effect)(labels)
            except ConfigError as exc:
                if strict:
                    raise
                _log.error("everything is hidden: %s", exc)
        people = people_labels(labels) or (labels if len(labels) <= _FEW or not wanted else ())
        return tuple(dict.fromkeys((*wanted, *people)))

    return choose
