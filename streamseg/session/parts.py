"""What file jobs and live streams are both made of: the model, and what is done to its masks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio.to_thread

from streamseg.errors import ConfigError
from streamseg.models.card import Model, people_labels
from streamseg.models.registry import (
    card_of,
    find_model,
    model_names,
    model_state,
)
from streamseg.runtime.segmenter import ModelSegmenter
from streamseg.runtime.task_pool import TaskPool
from streamseg.tasks.obtaining import obtain

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from streamseg.abc import MaskFilter
    from streamseg.config import MaskConfig, Scenario
    from streamseg.effects.base import VideoEffect
    from streamseg.models.card import Card

__all__ = [
    "NO_EFFECT",
    "check_effect",
    "load_segmenter",
    "mask_filters",
    "obtain_configured",
    "segmenter_for",
    "wanted_by",
]

NO_EFFECT = "none"


async def obtain_configured(
    config: Scenario, on_download: Callable[[float], None] | None = None
) -> Model:
    """Return the model that a configuration names, fetched where that is needed.

    Args:
        config: Of any kind.
        on_download: Called on the event loop with the share of the download that is done, 0 to 1.

    Raises:
        ConfigError: If the model would have to be fetched and is not one for the effect.
        ModelError: If there is no such model, or it cannot be fetched.
    """
    await anyio.to_thread.run_sync(_check_before_fetching, config)
    return await obtain(config.model.name, on_progress=on_download)


def _check_before_fetching(config: Scenario) -> None:
    """Refuse a model of the wrong task before it is fetched in vain."""
    name = config.model.name
    if name not in model_names() or model_state(name) != "remote":
        return
    # Not at the top: the model process starts while these are imported.
    from streamseg.effects.registry import create_effect

    effect = config.effect
    check_effect(effect.name, create_effect(effect.name, effect.options), card_of(name))


def load_segmenter(
    model: str | Path | Model = "selfie",
    *,
    workers: int = 1,
    threads: int = 0,
    timeout_s: float = 30.0,
    attempts: int = 3,
    labels: Any = "people",
) -> ModelSegmenter:
    """Return a segmenter for a model; nothing is started before it is opened.

    Args:
        model: The name of a model that is here, the path of a .pte, or the model itself.
        workers: Number of model processes.
        threads: Threads of each; 0 chooses by the model's input size.
        timeout_s: A frame that takes longer has its process killed and is tried again.
        attempts: How many processes a frame may cost before it fails.
        labels: Whose masks are wanted; see ``WorkerPool``.

    Raises:
        ModelError: If there is no such model, or it would have to be fetched.
    """
    pool = TaskPool(
        model if isinstance(model, Model) else find_model(model),
        workers=workers,
        threads=threads or None,
        timeout_s=timeout_s,
        attempts=attempts,
        labels=labels,
    )
    return ModelSegmenter(pool)


def segmenter_for(
    config: Scenario, labels: Any, *, attempts: int = 3, model: Model | None = None
) -> ModelSegmenter:
    """Return the segmenter that a configuration asks for; see ``load_segmenter``.

    Args:
        config: Of any kind.
        labels: Whose masks are wanted.
        attempts: How many processes a frame may cost before it fails.
        model: The configured model, where it was obtained already.
    """
    wish = config.model
    return load_segmenter(
        model or wish.name,
        workers=wish.workers,
        threads=wish.threads,
        timeout_s=wish.timeout_s,
        attempts=attempts,
        labels=labels,
    )


def check_effect(name: str, effect: VideoEffect, card: Card, *, masks: bool = False) -> None:
    """Refuse what a model cannot be used for, as far as its card tells; loads nothing.

    Args:
        name: The effect's name.
        effect: The effect.
        card: The model's.
        masks: Whether masks are written besides.

    Raises:
        ConfigError: If the model is of another task than the effect needs, or has not the classes
            that it is to work on.
    """
    classifies = card.task == "classification"
    if classifies and (effect.needs == "masks" or masks):
        what = f"effect {name!r} needs" if effect.needs == "masks" else "writing masks needs"
        raise ConfigError(
            f"the model {card.name} classifies pictures, but {what} masks: choose a segmentation "
            "model, or the effect 'labels'"
        )
    if effect.needs == "scores" and not classifies:
        raise ConfigError(
            f"the model {card.name} is for {card.task}, but effect {name!r} needs one for "
            "classification, such as efficientnet-v2-s (a .pte of your own has its task in its "
            "card)"
        )
    if card.labels is not None and (masks or effect.needs != "nothing"):
        effect.wanted_labels(card.labels)


def mask_filters(config: MaskConfig) -> list[MaskFilter]:
    """Return the filters that a configuration asks for, in their order."""
    from streamseg.masks.present import PresentOnly
    from streamseg.masks.refinement import EdgeRefinement
    from streamseg.masks.smoothing import TemporalSmoothing

    filters: list[MaskFilter] = []
    if config.smoothing > 0:
        filters.append(PresentOnly(TemporalSmoothing(ratio=config.smoothing)))
    if config.refine:
        filters.append(PresentOnly(EdgeRefinement()))
    return filters


def wanted_by(
    effect: VideoEffect, *, masks: bool = False
) -> Callable[[tuple[str, ...]], Sequence[str]]:
    """Return which of a model's labels the effect, and a mask output beside it, need."""

    def choose(labels: tuple[str, ...]) -> Sequence[str]:
        wanted = tuple(effect.wanted_labels(labels))
        if not wanted and masks:
            wanted = people_labels(labels) or labels
        return wanted

    return choose
