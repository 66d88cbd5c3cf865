"""Objects out of the outputs of an instance model: which rows count, and what their masks are.

The outputs are those of a card with the task ``instance-segmentation``: boxes [1, N, 4] as
x0, y0, x1, y1 in pixels of the model's input, [1, N, 2] with score and class index, mask logits
[1, N, H, W] over the whole input.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import av  # noqa: F401 - before cv2, see tests/unit/test_imports.py
import cv2
import numpy as np

from streamseg.errors import InvalidModelOutputError

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from numpy.typing import NDArray

__all__ = [
    "FoundInstance",
    "SelectionRule",
    "check_instance_shapes",
    "instance_labels",
    "select_instances",
]

_FLAT = np.float32(60.0)  # exp(-60) is nothing, exp(60) still fits in float32
_ROUNDING = 1e-3  # of a score that is 1, and of a class index


class SelectionRule(Protocol):
    """How objects are chosen; the ``InstanceRule`` of a card is one."""

    @property
    def confidence(self) -> float:
        """Objects with a lower score are left out."""

    @property
    def iou(self) -> float:
        """Of two boxes of one class that overlap by more, the one with the higher score stays."""

    @property
    def max_instances(self) -> int:
        """How many objects are returned at most."""

    @property
    def suppress(self) -> bool:
        """Whether overlapping boxes are looked for at all."""


@dataclass(frozen=True, slots=True, eq=False)
class FoundInstance:
    """One object as the model returned it.

    Attributes:
        row: Its place among the model's rows.
        label: Its class.
        score: In [0, 1].
        box: (x0, y0, x1, y1) in pixels of the model's input, as the model gave it: it may reach
            beyond the picture, but a part of it lies within.
        logits: (H, W) float32 over the whole input, a view of the model's output.
        input_size: (height, width) of the model's input in pixels.
    """

    row: int
    label: str
    score: float
    box: tuple[float, float, float, float]
    logits: NDArray[np.float32]
    input_size: tuple[int, int]

    def box_within(
        self, content: tuple[int, int, int, int] | None = None
    ) -> tuple[float, float, float, float]:
        """Return the box as shares of the picture, in [0, 1].

        Args:
            content: (top, left, bottom, right) of the picture in the model's input, in its pixels;
                None where it fills the input.
        """
        top, left, bottom, right = content or (0, 0, *self.input_size)
        wide, high = max(1, right - left), max(1, bottom - top)
        x0, y0, x1, y1 = self.box
        return (
            _share((x0 - left) / wide),
            _share((y0 - top) / high),
            _share((x1 - left) / wide),
            _share((y1 - top) / high),
        )

    def mask(self) -> NDArray[np.float32]:
        """Return the probability of each pixel of the model's map, 0 outside of the box.

        Pixels that the box touches belong to it.

        Returns:
            (H, W) float32 in [0, 1], new.
        """
        rows, columns = self.logits.shape
        high, wide = self.input_size
        x0, y0, x1, y1 = self.box
        left, right = _span(x0 * columns / wide, x1 * columns / wide, columns)
        top, bottom = _span(y0 * rows / high, y1 * rows / high, rows)
        out = np.zeros((rows, columns), np.float32)
        inside = self.logits[top:bottom, left:right]
        out[top:bottom, left:right] = np.float32(1.0) / (
            np.float32(1.0) + np.exp(-np.clip(inside, -_FLAT, _FLAT))
        )
        return out


def check_instance_shapes(shapes: Sequence[Sequence[int]]) -> tuple[int, int]:
    """Check the shapes of a model's outputs and return the (height, width) of its mask logits.

    Raises:
        InvalidModelOutputError: If they are not those of an instance model.
    """
    given = [tuple(shape) for shape in shapes]
    if len(given) == 3:
        boxes, scores, logits = given
        count = boxes[1] if len(boxes) == 3 else 0
        wanted = ((1, count, 4), (1, count, 2))
        if (boxes, scores) == wanted and len(logits) == 4 and logits[:2] == (1, count):
            return logits[2], logits[3]
    shown = ", ".join(str(list(shape)) for shape in given) or "none"
    raise InvalidModelOutputError(
        f"the model's outputs are {shown}: an instance model has boxes [1, N, 4], scores and "
        "classes [1, N, 2] and mask logits [1, N, H, W]; correct the card's task"
    )


def instance_labels(labels: Sequence[str] | None) -> tuple[str, ...]:
    """Return the labels of an instance model's card.

    Raises:
        InvalidModelOutputError: If it has none: the outputs do not tell how many classes there are.
    """
    if not labels:
        raise InvalidModelOutputError("its card has no labels, which an instance model needs")
    return tuple(labels)


def select_instances(
    outputs: Sequence[NDArray[np.float32]],
    rule: SelectionRule,
    labels: Sequence[str],
    input_size: tuple[int, int],
    *,
    classes: Collection[int] | None = None,
    content: tuple[int, int, int, int] | None = None,
) -> list[FoundInstance]:
    """Return the objects that count, the surest first.

    Rows below the confidence may hold anything. Of the others, those of other classes, and boxes
    without an area in the picture, are left out; then boxes are suppressed class by class (greedy
    non-maximum suppression: Neubeck and Van Gool, "Efficient Non-Maximum Suppression", ICPR 2006),
    and the best ones remain.

    Args:
        outputs: The three outputs, float32.
        rule: How they are chosen.
        labels: The model's labels, by class index.
        input_size: (height, width) of the model's input in pixels.
        classes: Indices of the classes that are looked for; None for all.
        content: (top, left, bottom, right) of the picture in the model's input, in its pixels;
            None where it fills the input.

    Raises:
        InvalidModelOutputError: If the outputs have other shapes, or what counts makes no sense: a
            score, a box or a mask that is no number, a score above 1, a class without a label. An
            object left out without a word might be what somebody wants hidden.
    """
    check_instance_shapes([output.shape for output in outputs])
    boxes, scores, numbers = outputs[0][0], outputs[1][0, :, 0], outputs[1][0, :, 1]
    # Also what is no number, which is then refused.
    rows = np.flatnonzero(~(scores < rule.confidence))
    _check_scores(scores[rows])
    if not np.isfinite(boxes[rows]).all():
        raise InvalidModelOutputError("the model returned a box that is not finite")
    indices = _class_indices(numbers[rows], labels)
    counts = _have_area(boxes[rows], content or (0, 0, *input_size))
    if classes is not None:
        counts &= np.isin(indices, list(classes))
    rows, indices = rows[counts], indices[counts]
    order = np.argsort(-scores[rows], kind="stable")
    rows, indices = rows[order], indices[order]
    if rule.suppress and len(rows) > 1:
        kept = _unsuppressed(boxes[rows], scores[rows], indices, rule.iou)
        rows, indices = rows[kept], indices[kept]
    rows, indices = rows[: rule.max_instances], indices[: rule.max_instances]
    logits = outputs[2][0]
    for row in rows:
        if np.isnan(logits[row]).any():
            raise InvalidModelOutputError(
                "the model returned a mask with values that are no number"
            )
    return [
        FoundInstance(
            row=int(row),
            label=labels[index],
            score=min(1.0, float(scores[row])),
            box=tuple(boxes[row].tolist()),
            logits=logits[row],
            input_size=input_size,
        )
        for row, index in zip(rows, indices, strict=True)
    ]


def _check_scores(scores: NDArray[np.float32]) -> None:
    if not np.isfinite(scores).all():
        raise InvalidModelOutputError("the model returned a score that is not finite")
    if scores.size and scores.max() > 1.0 + _ROUNDING:
        raise InvalidModelOutputError(
            f"the model returned a score of {scores.max():g}, expected at most 1: export it with "
            "probabilities instead of logits"
        )


def _class_indices(values: NDArray[np.float32], labels: Sequence[str]) -> NDArray[np.intp]:
    # Far outside, so that it fits an integer: what is no number is no class either.
    bounded = np.clip(np.nan_to_num(values, nan=-1.0), -1.0, len(labels))
    indices = np.rint(bounded).astype(np.intp)
    wrong = (indices < 0) | (indices >= len(labels)) | ~(np.abs(values - indices) <= _ROUNDING)
    if wrong.any():
        raise InvalidModelOutputError(
            f"the model returned class {values[wrong][0]:g}, but its card has {len(labels)} labels, "
            f"0 to {len(labels) - 1}: correct the card, unless scores and classes are in another "
            "order"
        )
    return indices


def _have_area(boxes: NDArray[np.float32], content: tuple[int, int, int, int]) -> NDArray[np.bool_]:
    """Return which boxes have an area within a part of the input."""
    top, left, bottom, right = content
    low, high = np.array([[left, top] * 2, [right, bottom] * 2], np.float32)
    cut = np.clip(boxes, low, high)
    have: NDArray[np.bool_] = (cut[:, 2] > cut[:, 0]) & (cut[:, 3] > cut[:, 1])
    return have


def _unsuppressed(
    boxes: NDArray[np.float32], scores: NDArray[np.float32], numbers: NDArray[Any], iou: float
) -> NDArray[np.intp]:
    """Return which rows stay, in their order."""
    corners = boxes.astype(np.float64)
    sizes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
    kept = cv2.dnn.NMSBoxesBatched(
        sizes.tolist(), scores.tolist(), [int(number) for number in numbers], -1.0, iou
    )
    order: NDArray[np.intp] = np.sort(np.asarray(kept, np.intp).reshape(-1))
    return order


def _span(low: float, high: float, count: int) -> tuple[int, int]:
    """Return the pixels that a stretch touches; at least one."""
    begin = min(count - 1, max(0, int(np.floor(low))))
    return begin, max(begin + 1, min(count, int(np.ceil(high))))


def _share(value: float) -> float:
    return min(1.0, max(0.0, value))
