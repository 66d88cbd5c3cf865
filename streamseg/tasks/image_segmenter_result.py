"""What ImageSegmenter takes for options and returns: masks, and labels with colours.

Source: the reference of TensorFlow Lite's task library.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

import numpy as np

from streamseg.effects.colours import class_colour

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "ColoredLabel",
    "OutputType",
    "RunningMode",
    "SegmentationResult",
    "colored_label",
    "voc_color",
]

# What TensorFlow Lite's label files say where PASCAL VOC has one word.
_TWO_WORDS = {"diningtable": "dining table", "pottedplant": "potted plant", "tvmonitor": "tv"}


class OutputType(StrEnum):
    """What ``segment`` returns: TensorFlow Lite's two, and as with MediaPipe both of them."""

    CATEGORY_MASK = "category_mask"
    CONFIDENCE_MASK = "confidence_mask"
    BOTH = "both"


class RunningMode(StrEnum):
    """How pictures come.

    ``image``: one at a time, by ``segment``. ``video``: the frames of a video, none left out, by
    ``segment_for_video``. ``live_stream``: as a camera gives them, by ``segment_async``; one is
    worked on, one waits, and a newer one takes the place of that which waits.
    """

    IMAGE = "image"
    VIDEO = "video"
    LIVE_STREAM = "live_stream"


@dataclass(frozen=True, slots=True)
class ColoredLabel:
    """A class of the model.

    Attributes:
        color: (red, green, blue), each 0 to 255: that of the PASCAL VOC palette.
        category_name: As TensorFlow Lite's label files write it: ``dining table``.
        display_name: For people to read, the same where there is no better one.
    """

    color: tuple[int, int, int]
    category_name: str
    display_name: str


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class SegmentationResult:
    """What a model says of one picture.

    Attributes:
        category_mask: (H, W) uint8, the index of each pixel's class among ``colored_labels``; None
            where only confidences were asked for.
        confidence_masks: For each of ``colored_labels`` (H, W) float32 in [0, 1]; None where only
            categories were asked for.
        colored_labels: The classes, in the model's order.
        model_ms: Time in the model process, in milliseconds.
        timestamp_ms: What the frame came with; None in the mode ``image``.
    """

    category_mask: NDArray[np.uint8] | None
    confidence_masks: tuple[NDArray[np.float32], ...] | None
    colored_labels: tuple[ColoredLabel, ...]
    model_ms: float
    timestamp_ms: int | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the masks in pixels: the model's in the mode ``image``, else the frame's."""
        mask = self.category_mask
        if mask is None:
            assert self.confidence_masks is not None
            return (self.confidence_masks[0].shape[0], self.confidence_masks[0].shape[1])
        return (mask.shape[0], mask.shape[1])

    def colored(self) -> NDArray[np.uint8]:
        """Return each pixel in the colour of its class, (H, W, 3) uint8 RGB."""
        categories = self.category_mask
        if categories is None:
            assert self.confidence_masks is not None
            categories = np.argmax(np.stack(self.confidence_masks), axis=0).astype(np.uint8)
        palette = np.array([label.color for label in self.colored_labels], np.uint8)
        return np.asarray(palette[categories], np.uint8)

    def __repr__(self) -> str:
        height, width = self.size
        given = {"category": self.category_mask, "confidence": self.confidence_masks}
        kind = " and ".join(name for name, masks in given.items() if masks is not None)
        return f"SegmentationResult({kind} {height}x{width}, {len(self.colored_labels)} labels)"


def voc_color(index: int) -> tuple[int, int, int]:
    """Return the colour of a class in the palette of PASCAL VOC, 0 black.

    Args:
        index: 0 to 255.
    """
    # Effects show the background in another colour: black is none.
    return class_colour("", index) if index else (0, 0, 0)


def colored_label(index: int, label: str) -> ColoredLabel:
    """Return a class with its colour and its names.

    Args:
        index: Of the class, 0 to 255.
        label: As the model's card has it.
    """
    name = label.lower().replace("_", " ") if label.isupper() else label
    name = _TWO_WORDS.get(name, name)
    return ColoredLabel(voc_color(index), name, name)
