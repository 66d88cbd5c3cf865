"""The largest values in the order in which PyTorch's ``topk(sorted=False)`` leaves them on a CPU.

transformers paints the instances of a picture one over the other in that order, so it decides what
is seen where two of them overlap. PyTorch uses ``std::partial_sort`` where few of many values are
wanted, which sorts them, and ``std::nth_element`` otherwise, which leaves them as its partitioning
happened to: here as in GNU's library, which PyTorch's packages for Linux are built with.

Source: PyTorch, ``aten/src/ATen/native/TopKImpl.h``; ISO C++, [alg.nth.element]; D. R. Musser,
"Introspective Sorting and Selection Algorithms", 1997.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["largest_first"]

_SORTS_FROM = 64  # values for each one that is wanted
_INSERTED_BELOW = 4


def largest_first(values: NDArray[np.float32], count: int) -> list[int]:
    """Return the indices of the largest values.

    Args:
        values: (N,) float32.
        count: How many, 1 to N.

    Returns:
        ``count`` indices; from the largest value to the smallest only if there are at least 64
        times as many values.
    """
    if count * _SORTS_FROM <= len(values):
        return [int(index) for index in np.argsort(-values, kind="stable")[:count]]
    keys: list[float] = values.tolist()
    order = list(range(len(keys)))
    _select(keys, order, count - 1)
    return order[:count]


def _select(keys: list[float], order: list[int], place: int) -> None:
    """Partition until ``order[place]`` is where sorting would put it."""
    first, last = 0, len(order)
    rounds_left = 2 * (len(order).bit_length() - 1)
    while last - first >= _INSERTED_BELOW:
        if rounds_left == 0:
            # Values made to defeat the pivots; the library takes a heap then, in another order.
            order[first:last] = sorted(order[first:last], key=lambda index: -keys[index])
            return
        rounds_left -= 1
        cut = _partition(keys, order, first, last)
        if cut <= place:
            first = cut
        else:
            last = cut
    order[first:last] = sorted(order[first:last], key=lambda index: -keys[index])


def _partition(keys: list[float], order: list[int], first: int, last: int) -> int:
    """Part a range at the median of three of its values; return where the smaller ones begin."""
    three = (first + 1, first + (last - first) // 2, last - 1)
    middle = _median_of(keys, order, three)
    order[first], order[middle] = order[middle], order[first]
    pivot = keys[order[first]]
    left, right = first + 1, last
    while True:
        while keys[order[left]] > pivot:
            left += 1
        right -= 1
        while pivot > keys[order[right]]:
            right -= 1
        if left >= right:
            return left
        order[left], order[right] = order[right], order[left]
        left += 1


def _median_of(keys: list[float], order: list[int], places: tuple[int, int, int]) -> int:
    a, b, c = places
    x, y, z = (keys[order[place]] for place in places)
    if x > y:
        if y > z:
            return b
        return c if x > z else a
    if x > z:
        return a
    return c if y > z else b
