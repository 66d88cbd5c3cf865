"""Segmentation: what a model said of one frame, and FrameInstance: one object in it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

__all__ = ["FrameInstance", "Segmentation"]


@dataclass(frozen=True, slots=True, eq=False)
class FrameInstance:
    """One object that an instance model found in a frame.

    The objects of still pictures are ``streamseg.Instance``: in pixels, and yes or no for each.

    Attributes:
        label: Its class, one of ``Segmentation.labels``.
        score: How sure the model is, in [0, 1].
        box: (x0, y0, x1, y1) as shares of the picture's width and height, in [0, 1].
        mask: (H, W) float32 probability in [0, 1] over the whole picture, 0 outside of the box.
    """

    label: str
    score: float
    box: tuple[float, float, float, float]
    mask: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Segmentation:
    """What a model said of one frame; masks at its size or, after refinement, finer.

    Attributes:
        index: ``Frame.index`` of the frame that this belongs to.
        labels: All labels of the model, in the order of its classes.
        class_map: (H, W) uint8, the index into ``labels`` of the most probable class of each pixel
            (int32 where a model has more than 256 classes); None where nobody asked for it.
        masks: Label -> (H, W) float32 probability in [0, 1], for the labels that were asked for.
        model_ms: How long the model ran, in milliseconds.
        instances: The objects that an instance model found, the surest first. ``masks`` then has
            for each class the union of its objects.
        scores: Label -> probability in [0, 1] that the picture as a whole shows it, the most
            probable first; of models that classify pictures, which have no masks.
    """

    index: int
    labels: tuple[str, ...]
    class_map: NDArray[np.uint8] | NDArray[np.int32] | None = None
    masks: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    model_ms: float = 0.0
    instances: tuple[FrameInstance, ...] = ()
    scores: Mapping[str, float] = field(default_factory=dict)

    def mask_of(self, labels: Iterable[str]) -> NDArray[np.float32]:
        """Return the probability that a pixel is of any of these classes.

        Args:
            labels: One or more of the labels in ``masks``.

        Returns:
            (H, W) float32 in [0, 1]; do not write into it.

        Raises:
            KeyError: If a label is not in ``masks``.
        """
        wanted = [self.masks[label] for label in labels]
        if not wanted:
            raise KeyError("mask_of() needs at least one label")
        if len(wanted) == 1:
            return wanted[0]
        total: NDArray[np.float32] = np.add.reduce(wanted)
        return np.minimum(total, np.float32(1.0), out=total)

    def with_masks(self, masks: Mapping[str, NDArray[np.float32]]) -> Segmentation:
        """Return this with other masks of the same labels, of any one size."""
        return replace(self, masks=masks)

    def __repr__(self) -> str:
        sizes = {label: f"{m.shape[1]}x{m.shape[0]}" for label, m in self.masks.items()}
        return f"Segmentation(index={self.index}, masks={sizes}, model_ms={self.model_ms:.1f})"
