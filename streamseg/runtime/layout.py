"""How a slot of shared memory is divided; parent and child compute it from the same facts.

Standard library only: this module is imported in the model process, which has no numpy.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Region", "SlotLayout", "SlotViews"]

_ALIGNMENT = 64  # one cache line: parent and child never share one between two regions


_BYTES = {"uint8": 1, "int32": 4, "float32": 4}


class Region(NamedTuple):
    """One array within the shared memory.

    Attributes:
        offset: Where it begins, in bytes.
        shape: Its dimensions; with a 0 among them it has no memory.
        dtype: ``uint8``, ``int32`` or ``float32``.
    """

    offset: int
    shape: tuple[int, ...]
    dtype: str


# Named tuples, for dataclasses would bring ``inspect`` into the model process.
class SlotLayout(NamedTuple):
    """The regions of one slot.

    Attributes:
        input_size: (H, W) of the RGB picture that the model wants, in pixels.
        output_size: (H, W) of the model's maps.
        mask_classes: Class indices whose probability maps the child writes, in this order.
        class_map: Whether the child also writes the most probable class of each pixel.
        wide_classes: Whether the class map is int32 (over 256 classes) instead of uint8.
        raw: Shapes of the outputs that the child writes as the model returned them, as float32.
    """

    input_size: tuple[int, int]
    output_size: tuple[int, int] = (0, 0)
    mask_classes: tuple[int, ...] = ()
    class_map: bool = False
    wide_classes: bool = False
    raw: tuple[tuple[int, ...], ...] = ()

    @property
    def slot_bytes(self) -> int:
        """Size of one slot in bytes."""
        return sum(_aligned(shape, dtype) for shape, dtype in self._arrays())

    def regions(self, slot: int) -> tuple[Region, Region, Region, tuple[Region, ...]]:
        """Return where the pixels, the masks, the class map and the raw outputs of a slot lie.

        Args:
            slot: Index of the slot.
        """
        found = []
        offset = slot * self.slot_bytes
        for shape, dtype in self._arrays():
            found.append(Region(offset, shape, dtype))
            offset += _aligned(shape, dtype)
        pixels, masks, class_map, *raw = found
        return pixels, masks, class_map, tuple(raw)

    def views(self, buffer: Any, slot: int) -> SlotViews:
        """Return the arrays of one slot, all sharing ``buffer``.

        Args:
            buffer: The whole shared memory.
            slot: Index of the slot.
        """
        import numpy as np

        def view(region: Region) -> Any:
            return np.ndarray(region.shape, region.dtype, buffer=buffer, offset=region.offset)

        pixels, masks, class_map, raw = self.regions(slot)
        return SlotViews(view(pixels), view(masks), view(class_map), tuple(map(view, raw)))

    def _arrays(self) -> tuple[tuple[tuple[int, ...], str], ...]:
        height, width = self.output_size
        return (
            ((*self.input_size, 3), "uint8"),
            ((len(self.mask_classes), height, width), "float32"),
            (
                (height, width) if self.class_map else (0, 0),
                "int32" if self.wide_classes else "uint8",
            ),
            *((shape, "float32") for shape in self.raw),
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain values that ``from_json`` takes back."""
        return self._asdict()

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> SlotLayout:
        """Make a layout from what ``to_json`` returned."""
        return cls(
            input_size=(values["input_size"][0], values["input_size"][1]),
            output_size=(values["output_size"][0], values["output_size"][1]),
            mask_classes=tuple(values["mask_classes"]),
            class_map=values["class_map"],
            wide_classes=values["wide_classes"],
            raw=tuple(tuple(shape) for shape in values["raw"]),
        )


class SlotViews(NamedTuple):
    """Arrays over one slot: ``pixels`` (H, W, 3) uint8 RGB, ``masks`` (K, H, W) float32, map, raw."""

    pixels: NDArray[np.uint8]
    masks: NDArray[np.float32]
    class_map: NDArray[Any]
    raw: tuple[NDArray[np.float32], ...]


def _aligned(shape: tuple[int, ...], dtype: str) -> int:
    size = max(1, math.prod(shape) * _BYTES[dtype])
    return -(-size // _ALIGNMENT) * _ALIGNMENT
