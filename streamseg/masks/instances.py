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
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["FoundInstance", "SelectionRule", "check_instance_shapes", "select_instances"]

_FLAT = np.float32(60.0)  # exp(-60) is nothing, exp(60) still fits in float32


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
        class_index: The index of the class.
        score: In [0, 1].
        box: (x0, y0, x1, y1) in pixels of the model's input, cut at its borders, x0 < x1, y0 < y1.
        logits: (H, W) float32 over the whole input, a view of the model's output.
        input_size: (height, width) of the model's input in pixels.
    """

    row: int
    label: str
    class_index: int
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


def select_instances(
    outputs: Sequence[NDArray[np.float32]],
    rule: SelectionRule,
    labels: Sequence[str],
    input_size: tuple[int, int],
) -> list[FoundInstance]:
    """Return the objects that count, the surest first.

    Rows below the confidence, with a score or a box that is no number, or with a box without area
    are left out. Of the rest, boxes are suppressed class by class (greedy non-maximum suppression:
    Neubeck and Van Gool, "Efficient Non-Maximum Suppression", ICPR 2006), and the best remain.

    Args:
        outputs: The three outputs, float32.
        rule: How they are chosen.
        labels: The model's labels, by class index.
        input_size: (height, width) of the model's input in pixels.

    Raises:
        InvalidModelOutputError: If the outputs have other shapes, or a class has no label.
    """
    check_instance_shapes([output.shape for output in outputs])
    boxes, classes = _cut(outputs[0][0], input_size), outputs[1][0]
    scores: NDArray[np.float32] = np.nan_to_num(classes[:, 0], nan=-1.0)
    sized = np.isfinite(boxes).all(axis=1)
    sized &= (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    rows = np.flatnonzero(sized & (scores >= rule.confidence))
    rows = rows[np.argsort(-scores[rows], kind="stable")]
    numbers = _class_indices(classes[rows, 1], labels)
    if rule.suppress and len(rows) > 1:
        kept = _unsuppressed(boxes[rows], scores[rows], numbers, rule.iou)
        rows, numbers = rows[kept], numbers[kept]
    return [
        FoundInstance(
            row=int(row),
            label=labels[number],
            class_index=int(number),
            score=min(1.0, float(scores[row])),
            box=tuple(boxes[row].tolist()),
            logits=outputs[2][0, row],
            input_size=input_size,
        )
        for row, number in zip(
            rows[: rule.max_instances], numbers[: rule.max_instances], strict=True
        )
    ]


def _cut(boxes: NDArray[np.float32], input_size: tuple[int, int]) -> NDArray[np.float32]:
    height, width = input_size
    cut: NDArray[np.float32] = np.clip(
        boxes, np.float32(0.0), np.array([width, height, width, height], np.float32)
    )
    return cut


def _class_indices(values: NDArray[np.float32], labels: Sequence[str]) -> NDArray[np.intp]:
    numbers = np.rint(np.nan_to_num(values, nan=-1.0)).astype(np.intp)
    wrong = numbers[(numbers < 0) | (numbers >= len(labels))]
    if wrong.size:
        raise InvalidModelOutputError(
            f"the model returned class {wrong[0]}, but its card has {len(labels)} labels: "
            "correct the card"
        )
    return numbers


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
