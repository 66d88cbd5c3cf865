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

    An object's row goes with the one of the same class whose box, score and mask are nearest. One
    that the other list does not have is left out if its score is about that of the other's last
    one: there that list ended. If one is missing for no such reason both are returned as they came,
    so that the difference shows.

    Args:
        results: Of the program, see ``are_objects``.
        exact: Of the module, of the same shapes.
        tolerance: How far apart two scores may be, as a share of the largest.
    """
    apart = torch.cdist(_features(exact, exact), _features(results, exact), p=1)
    # Those that are nearest to each other first, whatever their order in the lists.
    pairs: list[tuple[int, int]] = []
    order = apart.min(dim=1).values.argsort().tolist()
    for row in order:
        nearest = int(apart[row].argmin())
        if float(apart[row, nearest]) <= _SAME_OBJECT:
            apart[:, nearest] = torch.inf
            pairs.append((nearest, row))
    ours, theirs = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    scores = results[1][0, :, 0], exact[1][0, :, 0]
    slack = 2 * tolerance * float(scores[1].abs().max())
    explained = all(
        bool((_without(mine, paired) <= float(other.min()) + slack).all())
        for mine, other, paired in ((*scores, ours), (*scores[::-1], theirs))
    )
    if not pairs or not explained:
        return tuple(results), tuple(exact)
    return tuple(each[:, ours] for each in results), tuple(each[:, theirs] for each in exact)


def _without(scores: Tensor, paired: Sequence[int]) -> Tensor:
    left = torch.ones(len(scores), dtype=torch.bool)
    left[list(paired)] = False
    return scores[left]


def _features(output: Sequence[Tensor], exact: Sequence[Tensor]) -> Tensor:
    """Return (N, F): what tells an object from another, in the measure of the exact ones."""
    boxes, rows, masks = (each[0].float() for each in output)
    size = exact[0].abs().max().clamp(min=1.0)
    level = exact[2].abs().max().clamp(min=1e-6)
    mean = masks.flatten(1).mean(1, keepdim=True) / level
    return torch.cat([boxes / size, rows[:, :1], rows[:, 1:] * _CLASS_WEIGHT, mean], dim=1)
