"""Fields of displacement between two pictures: estimated, chained, checked, applied to masks.

A field is (h, w, 2) float32 in pixels of the small luma that it was estimated on: what is seen at
the point p of the later picture was at ``p + field[p]`` in the earlier one. Masks are looked up
backwards through it, so that they have no holes.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import av
import cv2
import numpy as np

from streamseg.frames import luma_bits, luma_plane

if TYPE_CHECKING:
    from collections.abc import Sequence

    import av
    from numpy.typing import NDArray

__all__ = ["Estimator", "Warp", "chain", "small_luma", "trusted"]

_PATCH = 8
_STRIDE = 6

# A patch and its neighbours: below that the pyramid has no level to begin with.
_MIN_SIDE = 16

# Of the 8-bit luma: differences this small (a deviation of two levels) are noise, not motion.
_NOISE = np.float32(5.0)
_EXPLAINED = np.float32(0.8)
_WINDOW = (7, 7)


def small_luma(video: av.VideoFrame, size: int) -> NDArray[np.uint8] | None:
    """Return the luma of a picture, scaled down.

    Args:
        video: Any picture; planar YUV, NV12 and its relatives, and grey have a luma to look at.
        size: Pixels of the long side; a smaller picture stays as it is.

    Returns:
        (h, w) uint8, its own memory; None for other formats and for pictures of fewer than 16
        pixels on a side once they are scaled.
    """
    name = video.format.name
    if not name.startswith(("yuv4", "yuvj4", "yuva4", "gray", "nv1", "nv2", "p01")):
        return None
    if name.endswith(("be", "f32le", "f16le")):
        return None
    luma = luma_plane(video)
    rows, columns = luma.shape
    scale = min(1.0, size / max(rows, columns))
    height, width = round(rows * scale), round(columns * scale)
    if min(height, width) < _MIN_SIDE:
        return None
    small = _shrink(luma, width, height)
    if small.dtype != np.uint8:
        return (small >> (luma_bits(video) - 8)).astype(np.uint8)
    return small if small is not luma else small.copy()


class Estimator:
    """Dense optical flow between two small lumas: DIS, down to its finest scale.

    Source:
        Kroeger, Timofte, Dai, Van Gool: "Fast Optical Flow using Dense Inverse Search", ECCV 2016,
        arXiv:1603.03590; OpenCV's implementation, which takes the mean off each patch, so that
        changes of brightness are no motion.
    """

    def __init__(self) -> None:
        self._dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
        self._dis.setFinestScale(0)
        self._dis.setPatchSize(_PATCH)
        self._dis.setPatchStride(_STRIDE)

    def __call__(self, later: NDArray[np.uint8], earlier: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the field from the later picture to the earlier one, both (h, w)."""
        field = self._dis.calc(later, earlier, None)
        return np.asarray(field, np.float32)


def chain(later: NDArray[np.float32], earlier: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the field that goes through ``later`` first and through ``earlier`` then.

    Args:
        later: (h, w, 2), from the last picture to the one between.
        earlier: (h, w, 2), from the one between to the first.
    """
    out: NDArray[np.float32] = later + _sampled(earlier, later)
    return out


def trusted(
    field: NDArray[np.float32], later: NDArray[np.uint8], earlier: NDArray[np.uint8]
) -> NDArray[np.float32]:
    """Return the field, 0 where it does not explain how the picture changed.

    It does where the variance of the difference of the two pictures, in a window, falls to 80 % and
    by more than noise once the earlier one is moved. The variance does not see brightness.

    Args:
        field: (h, w, 2).
        later: (h, w), the picture that the field is of.
        earlier: (h, w), the picture that it points into.
    """
    # At half the size: windows of this width need no finer samples.
    rows, columns = later.shape
    half = (columns // 2, rows // 2)
    now = cv2.resize(later, half, interpolation=cv2.INTER_LINEAR).astype(np.float32)
    before = cv2.resize(earlier, half, interpolation=cv2.INTER_LINEAR).astype(np.float32)
    coarse = cv2.resize(field, half, interpolation=cv2.INTER_LINEAR)
    coarse = _times(coarse, half[0] / columns, half[1] / rows)
    moved = _variance(now - _sampled(before, coarse))
    still = _variance(now - before)
    good = (moved < still * _EXPLAINED - _NOISE).astype(np.float32)
    # Full trust where half of the window is good; a soft rim, lest the mask be torn at it.
    share = np.minimum(_mean(good) * np.float32(2.0), np.float32(1.0))
    share = cv2.resize(share, (columns, rows), interpolation=cv2.INTER_LINEAR)
    return np.asarray(cv2.multiply(field, cv2.merge([share, share])), np.float32)


class Warp:
    """Looks masks up through a field; keeps its working memory for the next frame."""

    def __init__(self) -> None:
        self._where: NDArray[np.float32] = np.empty((0, 0, 2), np.float32)

    def __call__(self, planes: Sequence[NDArray[Any]], field: NDArray[np.float32]) -> list[Any]:
        """Return masks of the earlier picture as the later one has them.

        Args:
            planes: (H, W) each, of any sizes, that cover the same picture as the field: float32
                is interpolated, of integers the nearest is taken.
            field: (h, w, 2).

        Returns:
            A new array for each, of its size and type. What comes in from outside the picture is
            what was at its edge.
        """
        out = []
        size: tuple[int, ...] | None = None
        for plane in planes:
            if plane.shape != size:
                size = plane.shape
                where = self._scaled(field, *plane.shape)
            # OpenCV does not remap 32-bit integers; class indices are exact as float32.
            source = plane.astype(np.float32) if plane.dtype == np.int32 else plane
            how = cv2.INTER_LINEAR if plane.dtype == np.float32 else cv2.INTER_NEAREST
            moved = cv2.remap(source, where, None, how, borderMode=cv2.BORDER_REPLICATE)
            out.append(moved.reshape(plane.shape).astype(plane.dtype, copy=False))
        return out

    def _scaled(self, field: NDArray[np.float32], rows: int, columns: int) -> NDArray[np.float32]:
        """Return the points that a field points to, in pixels of a mask of this size."""
        height, width = field.shape[:2]
        if self._where.shape[:2] != (rows, columns):
            self._where = np.empty((rows, columns, 2), np.float32)
        scaled = _times(field, columns / width, rows / height)
        cv2.resize(scaled, (columns, rows), self._where, interpolation=cv2.INTER_LINEAR)
        return np.add(self._where, _points(rows, columns), out=self._where)


def _sampled(plane: NDArray[np.float32], field: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the values of a plane of the field's size at the points that the field points to."""
    where = field + _points(*field.shape[:2])
    out = cv2.remap(plane, where, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(out, np.float32)


def _times(field: NDArray[np.float32], across: float, down: float) -> NDArray[np.float32]:
    """Return a field in other units. Whole rows at a time: numpy is slow along an axis of two."""
    rows, columns = field.shape[:2]
    scale = np.tile(np.array([across, down], np.float32), columns)
    out: NDArray[np.float32] = field.reshape(rows, 2 * columns) * scale
    return out.reshape(rows, columns, 2)


def _variance(plane: NDArray[np.float32]) -> NDArray[np.float32]:
    mean = _mean(plane)
    return _mean(plane * plane) - mean * mean


def _mean(plane: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(cv2.blur(plane, _WINDOW), np.float32)


@lru_cache(maxsize=4)
def _points(rows: int, columns: int) -> NDArray[np.float32]:
    """Return the (x, y) of every pixel: (rows, columns, 2); shared, not to be written into."""
    across, down = np.arange(columns, dtype=np.float32), np.arange(rows, dtype=np.float32)
    points = np.stack(np.meshgrid(across, down), axis=-1)
    points.flags.writeable = False
    return points


def _shrink(plane: NDArray[Any], width: int, height: int) -> NDArray[Any]:
    """Scale a plane down, halving first: bilinear by two is the mean of four samples."""
    rows, columns = plane.shape
    while rows >= 2 * height and columns >= 2 * width:
        rows, columns = (rows + 1) // 2, (columns + 1) // 2
        plane = cv2.resize(plane, (columns, rows), interpolation=cv2.INTER_LINEAR)
    if (rows, columns) != (height, width):
        plane = cv2.resize(plane, (width, height), interpolation=cv2.INTER_LINEAR)
    return plane
