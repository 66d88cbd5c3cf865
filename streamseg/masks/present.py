"""PresentOnly: a mask filter that works only on the classes that are in the picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from streamseg.abc import MaskFilter

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from streamseg.frames import Frame
    from streamseg.segmentation import Segmentation

__all__ = ["PresentOnly"]

_ABSENT = 0.01


class PresentOnly(MaskFilter):
    """Spares a filter the masks of classes that are nowhere.

    Models know up to a hundred classes, of which a picture shows a few. A mask that is below 1 %
    everywhere becomes 0, and is not filtered. Where a model returns one mask only it is filtered
    whatever it is.

    Args:
        inner: The filter.
    """

    def __init__(self, inner: MaskFilter) -> None:
        self.inner = inner
        self.each_frame = inner.each_frame
        self._nothing = np.zeros((0, 0), np.float32)

    def apply(self, frame: Frame, segmentation: Segmentation) -> Segmentation:
        """Return the segmentation with the masks that matter filtered, in its order."""
        masks = segmentation.masks
        if len(masks) <= 1:
            return self.inner.apply(frame, segmentation)
        # What is no number is the filter's business, and the effect's: it is not below 1 %.
        there = {label: mask for label, mask in masks.items() if not _is_absent(mask)}
        filtered = self.inner.apply(frame, segmentation.with_masks(there)).masks
        shape = next(iter(filtered.values() or masks.values())).shape
        if self._nothing.shape != shape:
            self._nothing = np.zeros(shape, np.float32)
        nothing: NDArray[np.float32] = self._nothing
        return segmentation.with_masks({label: filtered.get(label, nothing) for label in masks})

    def reset(self) -> None:
        """Forget all earlier frames."""
        self.inner.reset()


def _is_absent(mask: NDArray[np.float32]) -> bool:
    return mask.size > 0 and float(mask.max()) < _ABSENT
