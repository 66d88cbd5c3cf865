"""From a model's boxes and mask logits to boxes and masks of the picture.

Coordinates are continuous: pixel i reaches from i to i + 1 and has its centre in the middle.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from streamseg.tasks.fitting import content_box

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from streamseg.models.card import Card

__all__ = ["Geometry", "mask_in_box"]


@dataclass(frozen=True, slots=True)
class Geometry:
    """Where a picture lies in its model's input, and how to get back.

    Attributes:
        picture_size: (H, W) in pixels.
        input_size: (H, W) of the model's input in pixels.
        content: (top, left, bottom, right) of the picture in the input, the rest being bars.
        shift: What is added to coordinates of the input: half a pixel is between the conventions
            of sampling.
    """

    picture_size: tuple[int, int]
    input_size: tuple[int, int]
    content: tuple[int, int, int, int]
    shift: float = 0.0

    @classmethod
    def of(cls, card: Card, picture_size: tuple[int, int], input_size: tuple[int, int]) -> Geometry:
        """Return the geometry of a picture that was fitted as the card says."""
        shift = -0.5 if card.sampling == "corner" else 0.0
        return cls(picture_size, input_size, content_box(picture_size, card, input_size), shift)

    def boxes_to_picture(self, boxes: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return boxes in pixels of the picture, within it.

        Args:
            boxes: (N, 4) x0, y0, x1, y1 in pixels of the model's input.
        """
        offset, scale = self.to_picture()
        moved = (np.asarray(boxes, np.float64) + self.shift - offset) * scale - self.shift
        height, width = self.picture_size
        limits: NDArray[np.float64] = np.clip(moved, 0.0, [width, height, width, height])
        return limits

    def to_picture(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return what is subtracted from, then multiplied with, x0, y0, x1, y1 of the input."""
        top, left, bottom, right = self.content
        height, width = self.picture_size
        across, down = width / (right - left), height / (bottom - top)
        return np.array([left, top] * 2, float), np.array([across, down] * 2, float)

    def samples(
        self, start: int, count: int, axis: int, mask_length: int
    ) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
        """Return where pixels of the picture lie on one axis of a mask, between which two samples.

        Args:
            start: Index of the first pixel.
            count: How many pixels.
            axis: 0 for rows, 1 for columns.
            mask_length: Samples of the mask on this axis, which cover the whole input.

        Returns:
            Indices of the sample before and of the one after, and the latter's part in [0, 1].
        """
        offset, scale = self.to_picture()
        offset_px, step = offset[1 - axis], scale[1 - axis]
        centres = np.arange(start, start + count) + 0.5
        in_input = (centres + self.shift) / step + offset_px - self.shift
        position = in_input * (mask_length / self.input_size[axis]) - 0.5
        position = np.clip(position, 0.0, mask_length - 1.0)
        before = np.floor(position).astype(np.intp)
        after = np.minimum(before + 1, mask_length - 1)
        return before, after, (position - before).astype(np.float32)


def mask_in_box(
    logits: NDArray[np.float32],
    geometry: Geometry,
    box: NDArray[np.float64],
    area: tuple[int, int, int, int],
    *,
    original: bool,
) -> NDArray[np.uint8]:
    """Return an object's mask within its box.

    The sigmoid comes first, then resizing, bilinearly; what is above one half then is the object.

    Args:
        logits: (h, w) over the whole model input.
        geometry: Of the picture.
        box: x0, y0, x1, y1 in pixels of the picture.
        area: (top, left, bottom, right), the picture's pixels that the box covers.
        original: Whether the mask has the picture's resolution, otherwise that of the logits.

    Returns:
        (bottom - top, right - left), or the samples that lie in the box; uint8, 0 or 1.
    """
    height, width = logits.shape
    if not original:
        rows = _span(geometry, box[1], box[3], 0, height)
        columns = _span(geometry, box[0], box[2], 1, width)
        return np.asarray(logits[rows, columns] > 0.0, np.uint8)
    top, left, bottom, right = area
    above, below, down = geometry.samples(top, bottom - top, 0, height)
    before, after, across = geometry.samples(left, right - left, 1, width)
    first, last = int(above[0]), int(below[-1]) + 1
    shares = _sigmoid(logits[first:last])
    # Columns first: there are fewer rows yet.
    shares = shares[:, before] + (shares[:, after] - shares[:, before]) * across
    upper, lower = shares[above - first], shares[below - first]
    return np.asarray(upper + (lower - upper) * down[:, None] > 0.5, np.uint8)


def _span(geometry: Geometry, start: float, end: float, axis: int, length: int) -> slice:
    """Return the samples of a mask that a box touches on one axis, at least one."""
    offset, scale = geometry.to_picture()
    edges = (np.array([start, end]) + geometry.shift) / scale[1 - axis] + offset[1 - axis]
    first, last = (edges - geometry.shift) * (length / geometry.input_size[axis])
    low = min(max(0, math.floor(first)), length - 1)
    return slice(low, max(low + 1, min(length, math.ceil(last))))


def _sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    # Without overflow for any logit: beyond 80 nothing changes in float32.
    exponentials = np.exp(-np.clip(logits, -80.0, 80.0))
    return np.asarray(1.0 / (1.0 + exponentials), np.float32)
