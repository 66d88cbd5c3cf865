"""Contours: outlines of masks, drawn into a picture's own samples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import av
import cv2
import numpy as np

from streamseg.effects.planes import bit_depth, planes_of

if TYPE_CHECKING:
    import av
    from numpy.typing import NDArray

__all__ = ["draw_outline", "outline_width"]

_FINE_PX = 960  # long side of the grid that outlines are followed on
_SHIFT = 4  # points are given to OpenCV in sixteenths of a pixel
_STEP, _LONG = 3, 60
_OUTSIDE = 4.0  # how far beyond the border a line goes on, in widths


def outline_width(percent: float, width: int, height: int) -> float:
    """Return a line's width in pixels from its percentage of the shorter side; 1 at least."""
    return max(1.0, percent / 100.0 * min(width, height))


def draw_outline(
    video: av.VideoFrame,
    mask: NDArray[np.float32],
    samples: tuple[int, int, int],
    width_px: float,
) -> None:
    """Draw the line where a mask is one half.

    Where the mask goes on to the picture's border the line ends there and does not follow it.
    Lines are smooth in 8 bits; OpenCV has no others for more.

    Args:
        video: Planar YUV, ours to write into.
        mask: (H, W) float32 in [0, 1], of any size, stretched over the picture.
        samples: Y, U and V of the line.
        width_px: Its width in luma pixels.
    """
    lines = _outlines(mask, video.width, video.height, width_px)
    if not lines:
        return
    smooth = cv2.LINE_AA if bit_depth(video) == 8 else cv2.LINE_8
    for plane, sample in zip(planes_of(video), samples, strict=True):
        across, down = video.width / plane.shape[1], video.height / plane.shape[0]
        scale = np.array([across, down], np.float32)
        points = [
            np.rint(((line + np.float32(0.5)) / scale - np.float32(0.5)) * (1 << _SHIFT)).astype(
                np.int32
            )
            for line in lines
        ]
        thickness = max(1, round(width_px / max(across, down)))
        cv2.polylines(plane, points, True, sample, thickness, smooth, _SHIFT)


def _outlines(
    mask: NDArray[np.float32], width: int, height: int, width_px: float
) -> list[NDArray[np.float32]]:
    """Return closed lines as (N, 1, 2) float32 points in luma pixels, x before y."""
    rows, columns = mask.shape
    inside = np.argwhere((mask >= 0.5).any(axis=1)), np.argwhere((mask >= 0.5).any(axis=0))
    if not inside[0].size:
        return []
    top, bottom = max(0, int(inside[0][0, 0]) - 2), min(rows, int(inside[0][-1, 0]) + 3)
    left, right = max(0, int(inside[1][0, 0]) - 2), min(columns, int(inside[1][-1, 0]) + 3)
    times = max(1, min(8, round(min(max(width, height), _FINE_PX) / max(rows, columns))))
    part = np.ascontiguousarray(mask[top:bottom, left:right])
    size = ((right - left) * times, (bottom - top) * times)
    fine = cv2.resize(part, size, interpolation=cv2.INTER_CUBIC) if times > 1 else part
    filled = (np.asarray(fine).reshape(size[1], size[0]) >= 0.5).astype(np.uint8)
    found, _ = cv2.findContours(filled, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    least = 3.0 * width_px * columns * times / width  # shorter ones are specks
    ends = np.array([columns * times - 1, rows * times - 1], np.float32)
    lines: list[NDArray[np.float32]] = []
    for contour in found:
        if len(contour) < max(4.0, least):
            continue
        # Every third point of a grid as fine as this is enough, and each costs a line.
        points: NDArray[Any] = contour[:: _STEP if len(contour) > _LONG else 1].astype(np.float32)
        points += np.array([left * times, top * times], np.float32)
        at_start, at_end = points <= 0, points >= ends
        points = (points + np.float32(0.5)) * np.array(
            [width / (columns * times), height / (rows * times)], np.float32
        ) - np.float32(0.5)
        points[at_start] -= np.float32(_OUTSIDE * width_px)
        points[at_end] += np.float32(_OUTSIDE * width_px)
        lines.append(points)
    return lines
