"""What was found in a picture, whatever kind of model found it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from streamseg.errors import InvalidModelOutputError
from streamseg.tasks.fitting import check_memory
from streamseg.tasks.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from numpy.typing import NDArray

    from streamseg.tasks.instance import Instance, InstanceSegmenter
    from streamseg.tasks.panoptic import PanopticSegmenter
    from streamseg.tasks.semantic import SemanticSegmenter
    from streamseg.tasks.semantic_result import SemanticResult
    from streamseg.tasks.threads import Check

__all__ = ["Found", "Region", "is_background", "of_instances", "of_segments", "of_semantic"]


@dataclass(frozen=True, slots=True)
class Region:
    """The pixels of one class, or of one object.

    Attributes:
        label: Its class.
        index: The class's index.
        score: In [0, 1]: of an object; of a class the mean probability of its pixels. None where
            the model has no such value, or it was not asked for.
        box: (x, y, width, height) in pixels of the picture.
        mask: Returns (H, W) bool, of the picture's size. It is made when it is asked for: a hundred
            of a large picture at once take gigabytes.
    """

    label: str
    index: int
    score: float | None
    box: tuple[float, float, float, float]
    mask: Callable[[], NDArray[np.bool_]]


@dataclass(frozen=True, slots=True)
class Found:
    """What was found in one picture.

    Attributes:
        name: The picture's path or address, as it may be shown.
        size: (height, width) in pixels.
        labels: All labels of the model.
        regions: The classes that are there, or the objects, or the segments.
        class_map: (H, W) int32, the index of each pixel's class; None for objects and segments.
        segment_map: (H, W) int32, the number of each pixel's region, from 1, 0 for none; None for
            classes and objects.
        probabilities: Label -> (H, W) float32, of the labels asked for.
    """

    name: str
    size: tuple[int, int]
    labels: tuple[str, ...]
    regions: tuple[Region, ...]
    class_map: NDArray[np.int32] | None = None
    segment_map: NDArray[np.int32] | None = None
    probabilities: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)


def is_background(label: str) -> bool:
    """Whether a label stands for what is nothing in particular."""
    return label.strip("_").upper() == "BACKGROUND"


async def of_semantic(
    segmenter: SemanticSegmenter[Any], pixels: NDArray[np.uint8], name: str, classes: Any
) -> Found:
    """Return the classes of a picture.

    Args:
        segmenter: With its model loaded.
        pixels: The picture, (H, W, 3) uint8 RGB.
        name: What it is called.
        classes: Labels of interest, ``all``, or none for all but the background.

    Raises:
        InvalidUserInputError: If the probabilities would fill the memory.
        InvalidModelOutputError: If the probabilities are no numbers.
    """
    size = (pixels.shape[0], pixels.shape[1])
    count = len(segmenter.labels) if classes == "all" else len({each.upper() for each in classes})
    check_memory(count, size, "give fewer with --classes, or a smaller picture")
    result = await segmenter.forward(pixels, classes)
    regions = await in_thread(partial(_classes, result))
    probabilities = {label: result[label] for label in result if label != "ARGMAX"}
    return Found(
        name, result.size, result.labels, regions, result.ARGMAX, probabilities=probabilities
    )


def _classes(result: SemanticResult[Any], check: Check) -> tuple[Region, ...]:
    asked = set(result.keys()) - {"ARGMAX"}
    found = []
    for index in np.flatnonzero(np.bincount(result.ARGMAX.ravel(), minlength=len(result.labels))):
        check()
        label = result.labels[index]
        if (asked and label not in asked) or (not asked and is_background(label)):
            continue
        mask = result.ARGMAX == index
        score = None
        if label in asked:
            score = float(result[label].mean(where=mask, dtype=np.float64))
            if not math.isfinite(score):
                raise InvalidModelOutputError(
                    f"the model returned probabilities of {label} that are no numbers: check its "
                    "card's mean and std, or use another model"
                )
        make_mask = partial(np.equal, result.ARGMAX, index)
        found.append(Region(label, int(index), score, _box(mask), make_mask))
    return tuple(found)


async def of_instances(
    segmenter: InstanceSegmenter, pixels: NDArray[np.uint8], name: str, classes: Collection[str]
) -> Found:
    """Return the objects of a picture, of all classes where none are given; see ``of_semantic``."""
    result = await segmenter.forward(pixels, classes_of_interest=tuple(classes))
    labels = segmenter.labels
    found = []
    for each in result:
        left, top, right, bottom = each.bbox
        box = (left, top, right - left, bottom - top)
        index = labels.index(each.label)
        found.append(Region(each.label, index, each.score, box, partial(_whole, each)))
    return Found(name, (pixels.shape[0], pixels.shape[1]), labels, tuple(found))


def _whole(instance: Instance) -> NDArray[np.bool_]:
    return instance.whole_mask().view(np.bool_)  # it is of 0 and 1


async def of_segments(
    segmenter: PanopticSegmenter, pixels: NDArray[np.uint8], name: str, classes: Collection[str]
) -> Found:
    """Return the segments of a picture, as the first of the model's subtasks divides it.

    Segments that share an id, for their class has no objects, are one, with the best of their
    scores. Those that nobody sees are left out. See ``of_instances``.
    """
    result = await segmenter.forward(pixels)
    labels = segmenter.labels
    chosen = {label.upper() for label in classes}

    def regions(check: Check) -> tuple[tuple[Region, ...], NDArray[np.int32]]:
        best: dict[int, tuple[int, float | None]] = {}
        for each in result.segments:
            if chosen and labels[each.label_id].upper() not in chosen:
                continue
            _, known = best.get(each.id, (each.label_id, None))
            scores = [score for score in (known, each.score) if score is not None]
            best[each.id] = each.label_id, max(scores, default=None)
        numbers = np.zeros(int(result.ids.max(initial=0)) + 1, np.int32)
        found = []
        for number, (index, score) in best.items():
            check()
            mask = result.ids == number
            if mask.any():
                make_mask = partial(np.equal, result.ids, number)
                found.append(Region(labels[index], index, score, _box(mask), make_mask))
                numbers[number] = len(found)
        return tuple(found), numbers[result.ids]

    found, segment_map = await in_thread(regions)
    size = (pixels.shape[0], pixels.shape[1])
    return Found(name, size, labels, found, segment_map=segment_map)


def _box(mask: NDArray[np.bool_]) -> tuple[float, float, float, float]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return (
        float(columns[0]),
        float(rows[0]),
        float(columns[-1] - columns[0] + 1),
        float(rows[-1] - rows[0] + 1),
    )
