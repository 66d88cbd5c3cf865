"""Regions: the parts of a picture that get a colour each, classes or single objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import av  # noqa: F401 - before cv2, see tests/unit/test_imports.py
import cv2
import numpy as np

from streamseg.effects.shaping import lowest_covered, shape_mask

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from streamseg.effects.options import MaskOptions
    from streamseg.segmentation import FrameInstance, Segmentation

__all__ = ["Region", "class_masks", "split_by_instance"]


@dataclass(frozen=True, slots=True, eq=False)
class Region:
    """A part of the picture.

    Attributes:
        name: What it is called in a legend.
        label: The class that it is of.
        rgb: Its colour.
        mask: (H, W) float32 coverage in [0, 1].
    """

    name: str
    label: str
    rgb: tuple[int, int, int]
    mask: NDArray[np.float32]


def class_masks(
    segmentation: Segmentation, labels: Sequence[str], options: MaskOptions
) -> dict[str, NDArray[np.float32]] | None:
    """Return the shaped masks of those classes that are there.

    Masks are used where there are any, the class map otherwise.

    Args:
        segmentation: What the model said.
        labels: The classes to look for.
        options: How masks are shaped.

    Returns:
        Label -> (H, W) float32 in [0, 1]; None if nothing is known of them.
    """
    given: Mapping[str, NDArray[np.float32]] = {
        label: segmentation.masks[label] for label in labels if label in segmentation.masks
    }
    if not given:
        if segmentation.class_map is None or segmentation.class_map.size == 0:
            return None
        present = set(np.unique(segmentation.class_map).tolist())
        given = {
            label: (segmentation.class_map == number).astype(np.float32)
            for number, label in enumerate(segmentation.labels)
            if number in present and label in labels
        }
    lowest = lowest_covered(options.threshold)
    shaped = {}
    for label, mask in given.items():
        peak = float(mask.max(initial=-1.0))
        if not 0.0 <= peak < np.inf or not np.isfinite(mask.sum()):
            return None
        if peak > lowest:
            soft = shape_mask(mask, options.threshold, options.feather)
            if soft.any():
                shaped[label] = soft
    return shaped


def split_by_instance(
    mask: NDArray[np.float32], instances: Sequence[FrameInstance]
) -> list[NDArray[np.float32]]:
    """Divide the mask of a class among its objects.

    Each pixel belongs to the object whose own mask is strongest there, or nearest where none
    reaches: the class's mask may be finer than the objects', and follow the picture's edges.

    Args:
        mask: (H, W) float32, of the class.
        instances: Its objects; their masks may have another size.

    Returns:
        A mask of the given one's size for each, which add up to the given one.
    """
    if len(instances) == 1:
        return [mask]
    size = (mask.shape[1], mask.shape[0])
    best: NDArray[Any] = np.full(mask.shape, -1.0, np.float32)
    owner: NDArray[Any] = np.zeros(mask.shape, np.uint8)
    for number, instance in enumerate(instances):
        own = instance.mask
        if own.shape != mask.shape:
            own = cv2.resize(own, size, interpolation=cv2.INTER_LINEAR).reshape(mask.shape)
        # A little of a wide blur decides where no mask is: who is nearer has more of it.
        near = cv2.blur(own, (15, 15), borderType=cv2.BORDER_REPLICATE).reshape(mask.shape)
        near *= np.float32(0.01)
        near += own
        stronger = near > best
        best[stronger] = near[stronger]
        owner[stronger] = number
    return [np.where(owner == number, mask, np.float32(0.0)) for number in range(len(instances))]
