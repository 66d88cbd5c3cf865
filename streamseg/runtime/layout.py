"""How a slot of shared memory is divided; parent and child compute it from the same facts.

Standard library and numpy only: this module is imported in the model process.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["SlotLayout", "SlotViews"]

_ALIGNMENT = 64  # one cache line: parent and child never share one between two regions


@dataclass(frozen=True, slots=True)
class SlotLayout:
    """The regions of one slot.

    Attributes:
        input_size: (H, W) of the RGB picture that the model wants, in pixels.
        output_size: (H, W) of the model's maps.
        mask_classes: Class indices whose probability maps the child writes, in this order.
        class_map: Whether the child also writes the most probable class of each pixel.
        wide_classes: Whether the class map is int32 (over 256 classes) instead of uint8.
    """

    input_size: tuple[int, int]
    output_size: tuple[int, int]
    mask_classes: tuple[int, ...]
    class_map: bool
    wide_classes: bool

    @property
    def _shapes(self) -> tuple[tuple[tuple[int, ...], Any], ...]:
        height, width = self.output_size
        return (
            ((*self.input_size, 3), np.uint8),
            ((len(self.mask_classes), height, width), np.float32),
            (
                (height, width) if self.class_map else (0, 0),
                np.int32 if self.wide_classes else np.uint8,
            ),
        )

    @property
    def slot_bytes(self) -> int:
        """Size of one slot in bytes."""
        return sum(
            _aligned(math.prod(shape) * np.dtype(dtype).itemsize) for shape, dtype in self._shapes
        )

    def views(self, buffer: Any, slot: int) -> SlotViews:
        """Return the arrays of one slot, all sharing ``buffer``.

        Args:
            buffer: The whole shared memory.
            slot: Index of the slot.
        """
        arrays: list[NDArray[Any]] = []
        offset = slot * self.slot_bytes
        for shape, dtype in self._shapes:
            arrays.append(np.ndarray(shape, dtype, buffer=buffer, offset=offset))
            offset += _aligned(math.prod(shape) * np.dtype(dtype).itemsize)
        return SlotViews(*arrays)

    def to_json(self) -> dict[str, Any]:
        """Return plain values that ``from_json`` takes back."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> SlotLayout:
        """Make a layout from what ``to_json`` returned."""
        return cls(
            input_size=(values["input_size"][0], values["input_size"][1]),
            output_size=(values["output_size"][0], values["output_size"][1]),
            mask_classes=tuple(values["mask_classes"]),
            class_map=values["class_map"],
            wide_classes=values["wide_classes"],
        )


@dataclass(frozen=True, slots=True)
class SlotViews:
    """Arrays over one slot: ``pixels`` (H, W, 3) uint8 RGB, ``masks`` (K, H, W) float32, map."""

    pixels: NDArray[np.uint8]
    masks: NDArray[np.float32]
    class_map: NDArray[Any]


def _aligned(size: int) -> int:
    return -(-max(size, 1) // _ALIGNMENT) * _ALIGNMENT
