"""What file jobs and live streams are both made of: the model, and what is done to its masks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from streamseg.models.card import people_labels
from streamseg.models.registry import find_model
from streamseg.runtime.pool import WorkerPool
from streamseg.runtime.segmenter import ModelSegmenter

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from streamseg.abc import MaskFilter
    from streamseg.config import Config, LiveConfig, MaskConfig
    from streamseg.effects.base import VideoEffect

__all__ = ["NO_EFFECT", "load_segmenter", "mask_filters", "segmenter_for", "wanted_by"]

NO_EFFECT = "none"


def load_segmenter(
    model: str | Path = "selfie",
    *,
    workers: int = 1,
    threads: int = 0,
    timeout_s: float = 30.0,
    attempts: int = 3,
    labels: Any = "people",
) -> ModelSegmenter:
    """Return a segmenter for a model; nothing is started before it is opened.

    Args:
        model: A bundled model's name, or the path of a .pte.
        workers: Number of model processes.
        threads: Threads of each; 0 chooses by the model's input size.
        timeout_s: A frame that takes longer has its process killed and is tried again.
        attempts: How many processes a frame may cost before it fails.
        labels: Whose masks are wanted; see ``WorkerPool``.

    Raises:
        ModelError: If there is no such model.
    """
    pool = WorkerPool(
        find_model(model),
        workers=workers,
        threads=threads or None,
        timeout_s=timeout_s,
        attempts=attempts,
        labels=labels,
    )
    return ModelSegmenter(pool)


def segmenter_for(config: Config | LiveConfig, labels: Any, *, attempts: int = 3) -> ModelSegmenter:
    """Return the segmenter that a configuration asks for; see ``load_segmenter``."""
    model = config.model
    return load_segmenter(
        model.name,
        workers=model.workers,
        threads=model.threads,
        timeout_s=model.timeout_s,
        attempts=attempts,
        labels=labels,
    )


def mask_filters(config: MaskConfig) -> list[MaskFilter]:
    """Return the filters that a configuration asks for, in their order."""
    from streamseg.masks.refinement import EdgeRefinement
    from streamseg.masks.smoothing import TemporalSmoothing

    filters: list[MaskFilter] = []
    if config.smoothing > 0:
        filters.append(TemporalSmoothing(ratio=config.smoothing))
    if config.refine:
        filters.append(EdgeRefinement())
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
