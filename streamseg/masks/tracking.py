"""InstanceTracker: which object of this frame is which of the frames before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from streamseg.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from streamseg.segmentation import FrameInstance

__all__ = ["InstanceTracker", "box_iou"]

Box = tuple[float, float, float, float]

_SAME = 0.2  # least overlap of the boxes of one object in two answers


@dataclass(slots=True)
class _Track:
    label: str
    box: Box
    seen: int


class InstanceTracker:
    """Gives each object a number, and the same one again for as long as it is there.

    An object is the one of the frame before with the same class whose box overlaps its own most.
    Numbers are the smallest that are free; when all are taken, the one that was not seen for
    longest is given anew, and objects beyond that share numbers.

    Args:
        numbers: How many there are, 1 to 1000.
        patience: After how many frames an object that is not seen loses its number.

    Raises:
        ConfigError: If a value is out of bounds.
    """

    def __init__(self, *, numbers: int = 24, patience: int = 45) -> None:
        if not 1 <= numbers <= 1000:
            raise ConfigError(f"numbers must be from 1 to 1000, got {numbers!r}")
        self._numbers = numbers
        self._patience = patience
        self._tracks: dict[int, _Track] = {}  # number -> track, so bounded by the numbers

    def assign(self, instances: Sequence[FrameInstance], index: int) -> list[int]:
        """Return a number for each object, from 0. To be called in the order of the stream.

        Args:
            instances: Those of one frame.
            index: The frame's; one that goes back begins anew.
        """
        newest = max((track.seen for track in self._tracks.values()), default=index)
        if index < newest:
            self.reset()
        self._tracks = {
            number: track
            for number, track in self._tracks.items()
            if index - track.seen <= self._patience
        }
        found = self._matched(instances)
        taken = set(found.values())
        for position in range(len(instances)):
            if position not in found:
                found[position] = self._free(taken, position)
                taken.add(found[position])
        for position, instance in enumerate(instances):
            self._tracks[found[position]] = _Track(instance.label, instance.box, index)
        return [found[position] for position in range(len(instances))]

    def reset(self) -> None:
        """Forget all objects."""
        self._tracks.clear()

    def _matched(self, instances: Sequence[FrameInstance]) -> dict[int, int]:
        """Return position -> number, the best overlaps first, each used once."""
        pairs = [
            (overlap, position, number)
            for position, instance in enumerate(instances)
            for number, track in self._tracks.items()
            if track.label == instance.label
            and (overlap := box_iou(track.box, instance.box)) >= _SAME
        ]
        pairs.sort(key=lambda pair: -pair[0])
        found: dict[int, int] = {}
        taken: set[int] = set()
        for _, position, number in pairs:
            if position not in found and number not in taken:
                found[position] = number
                taken.add(number)
        return found

    def _free(self, taken: set[int], position: int) -> int:
        for number in range(self._numbers):
            if number not in self._tracks and number not in taken:
                return number
        idle = [number for number in self._tracks if number not in taken]
        if idle:
            return min(idle, key=lambda number: self._tracks[number].seen)
        return position % self._numbers


def box_iou(one: Box, other: Box) -> float:
    """Return the intersection of two boxes (x0, y0, x1, y1) over their union, in [0, 1]."""
    wide = min(one[2], other[2]) - max(one[0], other[0])
    high = min(one[3], other[3]) - max(one[1], other[1])
    if wide <= 0.0 or high <= 0.0:
        return 0.0
    shared = wide * high
    total = _area(one) + _area(other) - shared
    return shared / total if total > 0.0 else 0.0


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])
