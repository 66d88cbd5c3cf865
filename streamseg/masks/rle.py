"""COCO's run-length encoding of binary masks, as JSON-able dictionaries.

Source:
    The COCO API (pycocotools): runs down the columns, beginning with zeros, packed into ASCII.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
from pycocotools import mask as coco

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

__all__ = ["RunLengths", "decode_rle", "encode_rle"]

_MAX_PIXELS = 1 << 28


class RunLengths(TypedDict):
    """One mask: ``size`` is [height, width]; ``counts`` COCO's compressed run lengths."""

    size: list[int]
    counts: str


def encode_rle(mask: NDArray[Any]) -> RunLengths:
    """Encode a binary mask.

    Args:
        mask: (H, W); bool or integers, where everything but 0 is inside, or float32 in [0, 1],
            where everything above 0.5 is.

    Raises:
        ValueError: If it is not two-dimensional or has no pixels.
    """
    if mask.ndim != 2 or mask.size == 0:
        raise ValueError(f"a mask must be (H, W) with pixels in it, got shape {mask.shape}")
    inside = mask > 0.5 if mask.dtype.kind == "f" else mask != 0
    packed = coco.encode(np.asfortranarray(inside, dtype=np.uint8))
    height, width = mask.shape
    return RunLengths(size=[height, width], counts=packed["counts"].decode("ascii"))


def decode_rle(rle: Mapping[str, Any]) -> NDArray[np.uint8]:
    """Decode a mask.

    Args:
        rle: ``{"size": [height, width], "counts": str}``, as of ``encode_rle``.

    Returns:
        (H, W) uint8, 0 or 1.

    Raises:
        ValueError: If it is malformed, its runs do not fill its size, or it has more than 2**28
            pixels. Decoding is done here: pycocotools does not check that the runs fit the size.
    """
    size, counts = rle.get("size"), rle.get("counts")
    if (
        not isinstance(size, list | tuple)
        or len(size) != 2
        or not all(isinstance(side, int) and not isinstance(side, bool) for side in size)
    ):
        raise ValueError(f"size must be [height, width], got {size!r}")
    height, width = size
    if height < 1 or width < 1 or height * width > _MAX_PIXELS:
        raise ValueError(f"size must be of 1 to {_MAX_PIXELS} pixels, got {height}x{width}")
    if not isinstance(counts, str) or not counts:
        raise ValueError("counts must be a string of compressed run lengths")
    runs = _runs(counts)
    total = sum(runs)
    if total != height * width:
        raise ValueError(f"counts fill {total} pixels, size {height}x{width} has {height * width}")
    values = (np.arange(len(runs)) % 2).astype(np.uint8)
    return np.ascontiguousarray(np.repeat(values, runs).reshape(width, height).T)


def _runs(counts: str) -> list[int]:
    """Unpack run lengths: 5 bits a character, the first 32 for more, from the third run on deltas.

    Raises:
        ValueError: If a character or a run is impossible.
    """
    runs: list[int] = []
    value = shift = 0
    for character in counts:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 30:
            raise ValueError(f"counts are malformed at run {len(runs)}: {character!r}")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        run = value + runs[-2] if len(runs) > 2 else value
        if not 0 <= run <= _MAX_PIXELS:
            raise ValueError(f"counts are malformed: run {len(runs)} is {run} pixels long")
        runs.append(run)
        value = shift = 0
    if shift:
        raise ValueError("counts are malformed: they end inside a run")
    return runs
