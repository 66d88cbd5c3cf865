"""The objects of two outputs, one beside the other.

A detector returns its best objects in the order of their scores. Of two with all but the same score
either may come first, and at the end of the list either may be left out: that is no difference.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

__all__ = ["are_objects", "paired_objects"]

# Features are of the order of 1: two rows that are farther apart are not the same object.
_SAME_OBJECT = 0.1
_CLASS_WEIGHT = 10.0  # objects of different classes never are


def are_objects(outputs: Sequence[Tensor]) -> bool:
    """Whether outputs are boxes [1, N, 4], (score, class) [1, N, 2] and masks [1, N, H, W]."""
    shapes = [tuple(each.shape) for each in outputs]
    if [len(shape) for shape in shapes] != [3, 3, 4]:
        return False
    counts = {shape[:2] for shape in shapes}
    return len(counts) == 1 and shapes[0][2] == 4 and shapes[1][2] == 2 and shapes[0][1] > 0


def paired_objects(
    results: Sequence[Tensor], exact: Sequence[Tensor], tolerance: float
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Return both outputs with the rows of the same objects in the same places.

    An object's row goes with the one of the same class whose box, score and mask are nearest. Rows
    whose score is about that of the last one are left out where the other side has none like them.

    Args:
        results: Of the program, see ``are_objects``.
        exact: Of the module, of the same shapes.
        tolerance: How far apart two scores may be, as a share of the largest.
    """
    apart = torch.cdist(_features(exact), _features(results), p=1)
    scores = exact[1][0, :, 0]
    slack = 2 * tolerance * float(scores.abs().max())
    last = max(float(scores.min()), float(results[1][0, :, 0].min())) + slack
    ours: list[int] = []
    theirs: list[int] = []
    for row in range(len(scores)):
        nearest = int(apart[row].argmin())
        if not float(apart[row, nearest]) <= _SAME_OBJECT and float(scores[row]) <= last:
            continue  # it is beyond the end of the other's list
        apart[:, nearest] = torch.inf
        ours.append(nearest)
        theirs.append(row)
    return tuple(each[:, ours] for each in results), tuple(each[:, theirs] for each in exact)


def _features(output: Sequence[Tensor]) -> Tensor:
    """Return (N, F): what tells an object from another."""
    boxes, rows, masks = (each[0].float() for each in output)
    size = boxes.abs().max().clamp(min=1.0)
    level = masks.abs().max().clamp(min=1e-6)
    mean = masks.flatten(1).mean(1, keepdim=True) / level
    return torch.cat([boxes / size, rows[:, :1], rows[:, 1:] * _CLASS_WEIGHT, mean], dim=1)
