"""From a model's logits to segments, by the rules of transformers' image processors.

There are two kinds of models. Those of *semantic segmentation* return logits for each class, which
are resized to the picture before the largest one is taken. Those of *mask classification* return
class logits and mask logits for each of their queries; from these follow

* ``semantic``: the class whose masks, weighed with the queries' class probabilities, add up to most,
* ``panoptic``: each pixel belongs to the query whose mask, times its score, is largest there; a
  query that keeps too little of its own mask is dropped,
* ``instance``: for DETR the same; for MaskFormer and Mask2Former the masks of the best pairs of
  query and class are painted one over the other.

A query more or a large picture costs time, not memory: masks are resized one at a time.

Source: transformers 5.23, ``post_process_{semantic,instance,panoptic}_segmentation`` of the image
processors of SegFormer, MaskFormer, Mask2Former and DETR; Cheng et al., "Per-Pixel Classification
is Not All You Need for Semantic Segmentation", 2021.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

# Before cv2: the other way round, FFmpeg's x11grab crashes the process.
import av  # noqa: F401
import cv2
import numpy as np

from streamseg.tasks.mask_rules_order import largest_first

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from numpy.typing import NDArray

__all__ = [
    "Family",
    "Segment",
    "SegmentMap",
    "Subtask",
    "Thresholds",
    "class_segments",
    "largest_class",
    "query_class_maps",
    "query_segments",
]

Family = Literal["maskformer", "mask2former", "detr"]
Subtask = Literal["panoptic", "instance", "semantic"]

# Mask2Former's own: masks are resized to this before anything else, whatever the model's input is.
_MASK2FORMER_SIZE = (384, 384)
_SCORE_DIGITS = 6


@dataclass(frozen=True, slots=True)
class Thresholds:
    """What decides whether a segment is found; the defaults are those of transformers' pipeline.

    Attributes:
        score: A query's class must be more probable than this, in [0, 1].
        mask: From which value on a pixel counts to a query's own mask, in [0, 1].
        overlap: How much of its own mask a segment must keep beside the others, in [0, 1].
    """

    score: float = 0.9
    mask: float = 0.5
    overlap: float = 0.5


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a picture.

    Attributes:
        id: Its value in ``SegmentMap.ids``, from 1; segments of a fused class share one.
        label_id: Index of its class.
        score: How sure the model is, in [0, 1], to six digits; None where it has no such value.
    """

    id: int
    label_id: int
    score: float | None


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class SegmentMap:
    """The segments of one picture.

    Attributes:
        ids: (H, W) int32 in the picture's size: the segment that a pixel belongs to, 0 for none.
        segments: In the order of their ids; one that lies behind others may have no pixel left.
    """

    ids: NDArray[np.int32]
    segments: tuple[Segment, ...]

    def mask(self, segment: Segment) -> NDArray[np.uint8]:
        """Return (H, W) uint8: 255 where the picture shows this segment, 0 elsewhere."""
        return np.where(self.ids == segment.id, np.uint8(255), np.uint8(0))

    def __repr__(self) -> str:
        height, width = self.ids.shape
        return f"SegmentMap({height}x{width}, {len(self.segments)} segments)"


def largest_class(
    scores: Iterable[NDArray[np.float32]], size: tuple[int, int]
) -> NDArray[np.int32]:
    """Return the class with the largest score for each pixel of a picture; of equals, the first.

    Args:
        scores: (h, w) float32 for each class: logits or any other value that grows with them.
        size: (H, W) of the picture in pixels.

    Returns:
        (H, W) int32.
    """
    classes = np.zeros(size, np.int32)
    best = np.full(size, -np.inf, np.float32)
    larger = np.empty(size, np.bool_)
    for index, score in enumerate(scores):
        resized = _resize(score, size)
        np.greater(resized, best, out=larger)
        classes[larger] = index
        np.maximum(best, resized, out=best)
    return classes


def class_segments(classes: NDArray[np.int32]) -> SegmentMap:
    """Return a segment for each class that is there, by ascending index.

    Args:
        classes: (H, W) int32, indices of classes.
    """
    present = np.flatnonzero(np.bincount(classes.reshape(-1)))
    segments = tuple(Segment(int(index) + 1, int(index), None) for index in present)
    return SegmentMap(classes + np.int32(1), segments)


def query_class_maps(
    family: Family, class_logits: NDArray[np.float32], mask_logits: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return a map for each class, from all queries: the scores for ``largest_class``.

    Args:
        family: Whose rules hold.
        class_logits: (Q, K + 1) float32, the last class means that there is nothing.
        mask_logits: (Q, h, w) float32.

    Returns:
        (K, h', w') float32; a sum over queries, not a probability.
    """
    masks = np.stack([_sigmoid(_own_size(family, mask)) for mask in mask_logits])
    shares = _softmax(class_logits)[:, :-1]
    summed: NDArray[np.float32] = np.tensordot(shares, masks, axes=(0, 0))
    return summed


def query_segments(
    family: Family,
    subtask: Literal["panoptic", "instance"],
    class_logits: NDArray[np.float32],
    mask_logits: NDArray[np.float32],
    size: tuple[int, int],
    thresholds: Thresholds,
    *,
    fused: Collection[int] = (),
) -> SegmentMap:
    """Return what a model of mask classification found in a picture.

    Args:
        family: Whose rules hold.
        subtask: What is wanted.
        class_logits: (Q, K + 1) float32, the last class means that there is nothing.
        mask_logits: (Q, h, w) float32.
        size: (H, W) of the picture in pixels.
        thresholds: What counts. ``instance`` of MaskFormer and Mask2Former uses the first only.
        fused: Indices of the classes whose segments share one id; for ``panoptic``.
    """
    probabilities = _softmax(class_logits)
    if subtask == "instance" and family != "detr":
        return _painted(family, probabilities, mask_logits, size, thresholds.score)
    labels = probabilities.argmax(1)
    scores = probabilities.max(1)
    kept = (labels != probabilities.shape[1] - 1) & (scores > thresholds.score)
    queries = [int(query) for query in np.flatnonzero(kept)]
    owner, own_areas = _divided(
        family, mask_logits[queries], scores[queries], size, thresholds.mask
    )
    areas = np.bincount(owner.reshape(-1), minlength=len(queries))
    ids = np.zeros(len(queries) or 1, np.int32)
    segments: list[Segment] = []
    shared: dict[int, int] = {}
    for place, query in enumerate(queries):
        if not areas[place] or not own_areas[place]:
            continue
        # In float32, as the reference divides: a threshold of 0.5 is often met exactly.
        if not np.float32(areas[place]) / np.float32(own_areas[place]) > thresholds.overlap:
            continue
        label = int(labels[query])
        # A new id is always one that nobody has; transformers counts on from the fused id instead,
        # so that two segments can get one id. It fuses nothing unless it is asked to.
        number = shared.get(label) or max((each.id for each in segments), default=0) + 1
        if subtask == "panoptic" and label in fused:
            shared[label] = number
        ids[place] = number
        segments.append(Segment(number, label, round(float(scores[query]), _SCORE_DIGITS)))
    return SegmentMap(ids[owner], tuple(segments))


def _divided(
    family: Family,
    mask_logits: NDArray[np.float32],
    scores: NDArray[np.float32],
    size: tuple[int, int],
    mask_threshold: float,
) -> tuple[NDArray[np.int32], list[int]]:
    """Return which query owns each pixel, and the size of each query's own mask in pixels."""
    owner = np.zeros(size, np.int32)
    best = np.full(size, -np.inf, np.float32)
    larger = np.empty(size, np.bool_)
    own_areas = []
    for place, (mask, score) in enumerate(zip(mask_logits, scores, strict=True)):
        weighed = _resize(_sigmoid(_own_size(family, mask)), size) * score
        own_areas.append(int(np.count_nonzero(weighed >= mask_threshold)))
        np.greater(weighed, best, out=larger)
        owner[larger] = place
        np.maximum(best, weighed, out=best)
    return owner, own_areas


def _painted(
    family: Family,
    probabilities: NDArray[np.float32],
    mask_logits: NDArray[np.float32],
    size: tuple[int, int],
    threshold: float,
) -> SegmentMap:
    """Return the best pairs of query and class, later ones over earlier ones."""
    queries, classes = probabilities.shape[0], probabilities.shape[1] - 1
    pairs = np.nan_to_num(probabilities[:, :-1]).reshape(-1)
    rows, columns = (
        _nearest(length, count)
        for length, count in zip(size, _grid(family, mask_logits), strict=True)
    )
    ids = np.zeros(size, np.int32)
    segments: list[Segment] = []
    for pair in largest_first(pairs, min(queries, len(pairs))):
        if pairs[pair] < threshold:  # the mask's share can only lower it
            continue
        query, label = divmod(pair, classes)
        mask = _own_size(family, mask_logits[query])
        inside = mask > 0
        count = np.float32(np.count_nonzero(inside))
        share = np.sum(_sigmoid(mask[inside]), dtype=np.float32) / (count + np.float32(1e-6))
        score = float(pairs[pair] * share)
        shown = inside[rows[:, None], columns]
        if score < threshold or not shown.any():
            continue
        segments.append(Segment(len(segments) + 1, label, round(score, _SCORE_DIGITS)))
        ids[shown] = segments[-1].id
    return SegmentMap(ids, tuple(segments))


def _grid(family: Family, mask_logits: NDArray[np.float32]) -> tuple[int, int]:
    if family == "mask2former":
        return _MASK2FORMER_SIZE
    return (mask_logits.shape[1], mask_logits.shape[2])


def _own_size(family: Family, mask: NDArray[np.float32]) -> NDArray[np.float32]:
    return _resize(mask, _MASK2FORMER_SIZE) if family == "mask2former" else mask


def _resize(mask: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Resize bilinearly, between pixel centres and without a filter, as PyTorch does."""
    if mask.shape == size:
        return mask
    resized = cv2.resize(
        np.ascontiguousarray(mask), (size[1], size[0]), interpolation=cv2.INTER_LINEAR
    )
    return np.asarray(resized, np.float32)


def _nearest(length: int, count: int) -> NDArray[np.intp]:
    """Return which of ``count`` values each of ``length`` places takes, as PyTorch's ``nearest``."""
    step = np.float32(count) / np.float32(length)
    places = (np.arange(length, dtype=np.float32) * step).astype(np.intp)
    return np.minimum(places, count - 1)


def _sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):  # of the exponential of what is as good as 0 anyway
        return np.reciprocal(np.float32(1) + np.exp(-logits))


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    with np.errstate(invalid="ignore"):  # a model may say infinity
        raised = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares: NDArray[np.float32] = raised / raised.sum(axis=1, keepdims=True)
    return shares
