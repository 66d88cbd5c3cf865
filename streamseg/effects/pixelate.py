"""PixelateEffect: the background in large squares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from streamseg.effects.base import HIDING_STRENGTH, StrengthEffect
from streamseg.effects.options import EffectOptions, StrengthOptions
from streamseg.effects.planes import Scratch, planes_of
from streamseg.effects.spread import masked_blur, small_picture, weight_outside

if TYPE_CHECKING:
    import av
    from numpy.typing import NDArray

    from streamseg.frames import Frame

__all__ = ["PixelateEffect", "PixelateOptions", "block_size"]

_CELL = 8


def block_size(strength: float, width: int, height: int) -> int:
    """Return the side of a square in luma pixels: a multiple of 8, 1 to 8 % of the shorter side."""
    side = min(width, height) * (0.01 + 0.07 * strength / 100.0)
    return max(_CELL, round(side / _CELL) * _CELL)


@dataclass(frozen=True, kw_only=True, slots=True)
class PixelateOptions(StrengthOptions):
    """Options of ``pixelate``; ``strength`` 50 makes squares of 4.5 % of the shorter side."""


class PixelateEffect(StrengthEffect):
    """Shows the background, or the subject, as squares of one colour.

    The squares start at the picture's upper left corner, alike in luma and chroma. A square's
    colour is the mean of what the effect is applied to in it, so the subject does not mix in.
    Without a mask the whole picture is pixelated at full strength,
    whatever ``strength`` is; only 0 switches the effect off altogether.

    Args:
        options: See ``PixelateOptions``.
    """

    options_type: ClassVar[type[EffectOptions]] = PixelateOptions

    def _altered(
        self, video: av.VideoFrame, amount: NDArray[np.float32], frame: Frame
    ) -> av.VideoFrame:
        return self._squares(video, amount, self._strength)

    def _squares(
        self, video: av.VideoFrame, amount: NDArray[np.float32] | None, strength: float
    ) -> av.VideoFrame:
        out = self._overlay_like(video)
        _draw_squares(video, amount, strength, out, self._scratch)
        return out

    def _hide(self, video: av.VideoFrame, frame: Frame) -> av.VideoFrame:
        return self._squares(video, None, HIDING_STRENGTH)


def _draw_squares(
    video: av.VideoFrame,
    amount: NDArray[np.float32] | None,
    strength: float,
    out: av.VideoFrame,
    scratch: Scratch,
) -> None:
    """Draw the picture as squares into ``out``."""
    side = block_size(strength, video.width, video.height)
    # Cells of 8 pixels are the unit: the picture is shrunk to them, then summed up to squares
    columns, rows = -(-video.width // _CELL), -(-video.height // _CELL)
    cells = small_picture(video, columns, rows, scratch)
    if amount is None:
        weight: NDArray[np.float32] = np.ones((rows, columns), np.float32)
    else:
        weight = weight_outside(amount, columns, rows)
    count = cells.shape[2]
    stack: NDArray[Any] = np.empty((rows, columns, count + 1), np.float32)
    np.multiply(cells, weight[:, :, None], out=stack[:, :, :count])
    stack[:, :, count] = weight
    step = side // _CELL
    stack = np.add.reduceat(stack, np.arange(0, rows, step), axis=0)
    stack = np.add.reduceat(stack, np.arange(0, columns, step), axis=1)
    share = stack[:, :, count]
    mean = stack[:, :, :count] / np.maximum(share, np.float32(1e-6))[:, :, None]
    # Squares that lie under the other side altogether take their neighbours' colour
    near = masked_blur(mean, np.minimum(share, np.float32(1.0)), 1.0)
    mean = np.where(share[:, :, None] > 1e-3, mean, near) + np.float32(0.5)
    for number, plane in enumerate(planes_of(out)):
        wide = side // _parts(video.width, plane.shape[1])
        high = side // _parts(video.height, plane.shape[0])
        values = mean[:, :, number].astype(plane.dtype)
        lines = np.repeat(values, wide, axis=1)[:, : plane.shape[1]]
        for row, line in enumerate(lines):
            plane[row * high : (row + 1) * high] = line


def _parts(luma: int, plane: int) -> int:
    """Return how many luma samples one sample of a plane stands for: 1, 2 or 4."""
    return next(part for part in (1, 2, 4) if -(-luma // part) == plane)
