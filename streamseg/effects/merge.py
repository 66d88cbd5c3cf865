"""MaskedMerge: two pictures of one format into one, by a mask of any size.

libavfilter's ``maskedmerge`` wants the mask as a third picture of the same format. Its planes are
enlarged from the small mask into a picture that is kept and used again; only what the filter
returns leaves the effect. For 8 bits, 4:2:0, 1080p the merge takes 0.34 ms (SIMD) and the mask
0.5 ms; above 8 bits the filter is plain C, 5 ms.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import av
import cv2
import numpy as np

from streamseg.effects.graph import FilterGraph, Port
from streamseg.effects.planes import (
    Scratch,
    bit_depth,
    copy_planes,
    enlarge,
    new_picture,
    planes_of,
    set_colour,
)
from streamseg.frames import Colour

if TYPE_CHECKING:
    import av
    from numpy.typing import NDArray

__all__ = ["MaskedMerge", "quantise"]


def quantise(mask: NDArray[np.float32], bits: int) -> NDArray[Any]:
    """Return a mask in [0, 1] as integers from 0 to ``2**bits - 1``, uint8 or uint16, rounded."""
    if bits == 8:
        levels: NDArray[Any] = cv2.convertScaleAbs(mask, alpha=255.0)
        return levels.reshape(mask.shape)
    return (mask * np.float32((1 << bits) - 1) + np.float32(0.5)).astype(np.uint16)


def _is_half(plane: NDArray[Any], of: NDArray[Any]) -> bool:
    return (2 * plane.shape[0], 2 * plane.shape[1]) == of.shape


class MaskedMerge:
    """Lays one picture over another where a mask says so.

    Args:
        chroma_only: Leave luma as it is; the overlay's luma is then not read.
        opaque: Whether nothing at all of the base may remain under a full mask. Without it one
            level of 255 does where samples differ by more than half the scale, and the merge is
            0.6 ms faster at 1080p.
    """

    def __init__(self, *, chroma_only: bool = False, opaque: bool = True) -> None:
        self._opaque = opaque
        self._graph = FilterGraph([("maskedmerge", f"planes={6 if chroma_only else 7}")])
        self._first = 1 if chroma_only else 0
        self._mask: av.VideoFrame | None = None
        self._port: Port | None = None
        self._scratch = Scratch()

    def merge(
        self, base: av.VideoFrame, overlay: av.VideoFrame, amount: NDArray[np.float32]
    ) -> av.VideoFrame:
        """Return the base with the overlay on it.

        Args:
            base: Planar YUV or grey; kept bit by bit where the amount is 0.
            overlay: Of the same size, format and colour; kept bit by bit where the amount
                is 1 if the merge is opaque.
            amount: (h, w) float32 in [0, 1], of any size, stretched over the picture.

        Returns:
            A new picture, or ``base`` itself where the amount is 0 everywhere.

        Raises:
            EffectError: If FFmpeg refuses the pictures.
        """
        bits = bit_depth(base)
        levels = quantise(amount, bits)
        if not levels.any() or self._first >= len(base.planes):
            return base
        mask = self._mask_picture(base)
        views = planes_of(mask)
        full = (1 << bits) - 1
        for number in range(self._first, len(views)):
            if number == 2 and views[2].shape == views[1].shape:
                np.copyto(views[2], views[1])
            elif number == 1 and self._first == 0 and _is_half(views[1], views[0]):
                # The mean of the four samples above it, at a third of what scaling takes
                enlarge(views[0], views[1])
            else:
                enlarge(levels, views[number])
        out = self._graph.process(base, overlay, mask)
        if self._opaque:
            self._restore(out, overlay, views, full)
        set_colour(out, Colour.of(base))
        return out

    def _restore(
        self, out: av.VideoFrame, overlay: av.VideoFrame, masks: list[NDArray[Any]], full: int
    ) -> None:
        # maskedmerge divides by 2**bits: where samples differ by more than half the scale one
        # level of the base remains even under a full mask, enough to make the room visible again.
        above = planes_of(overlay)
        for number, plane in enumerate(planes_of(out)):
            if number >= self._first:
                covered = self._scratch.array(number, plane.shape, np.bool_)
                np.equal(masks[number], full, out=covered)
                cv2.copyTo(above[number], covered.view(np.uint8), plane)

    def close(self) -> None:
        """Release the graph and the mask picture."""
        self._graph.close()
        self._mask = self._port = None
        self._scratch.clear()

    def _mask_picture(self, like: av.VideoFrame) -> av.VideoFrame:
        port = Port.of(like)
        if self._mask is None or port != self._port:
            self._mask, self._port = new_picture(like), port
            copy_planes(like, self._mask)
        return self._mask
