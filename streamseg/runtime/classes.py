"""Which of a model's classes are wanted."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from typing import Literal

from streamseg.errors import ConfigError
from streamseg.models.card import people_labels

__all__ = ["WantedLabels", "choose_classes"]

WantedLabels = Sequence[str] | Literal["people", "all"] | Callable[[tuple[str, ...]], Sequence[str]]


def choose_classes(labels: tuple[str, ...], wanted: WantedLabels) -> tuple[int, ...]:
    """Return the class indices that ``WorkerPool(labels=wanted)`` means.

    Args:
        labels: All labels of the model.
        wanted: As for ``WorkerPool``.

    Raises:
        ConfigError: If the model has no such label.
    """
    if callable(wanted):
        wanted = wanted(labels)
    if wanted == "people":
        wanted = people_labels(labels) or "all"
    if wanted == "all":
        return tuple(range(len(labels)))
    by_name = {label.upper(): index for index, label in enumerate(labels)}
    chosen = []
    for name in wanted:
        index = by_name.get(name.upper())
        if index is None:
            near = difflib.get_close_matches(name.upper(), by_name, n=1)
            hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(labels[:30])}"
            raise ConfigError(f"the model has no class {name!r}: {hint}")
        chosen.append(index)
    return tuple(chosen)
