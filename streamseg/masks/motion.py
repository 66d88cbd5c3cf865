"""MotionCompensation: a mask of an earlier frame, moved to the frame that it is shown with."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from typing import TYPE_CHECKING

import av
import cv2
import numpy as np

from streamseg.abc import MaskMotion
from streamseg.errors import ConfigError
from streamseg.frames import luma_plane
from streamseg.masks.displacement import Estimator, Warp, chain, small_luma, trusted
from streamseg.masks.smoothing import SceneCutDetector

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from streamseg.frames import Frame
    from streamseg.segmentation import Segmentation

__all__ = ["MotionCompensation"]

# Two seconds at 30 frames a second, one at 60; what is remembered of a frame is under 200 KB.
_MAX_LAG = 60

# Pixels of the small luma; a tenth of a pixel of a 256-pixel mask is not to be seen.
_STILL = 0.05


@dataclass(slots=True)
class _Seen:
    """What is kept of a frame: its small luma, and the displacement to the frame before it."""

    index: int
    luma: NDArray[np.uint8]
    motion: NDArray[np.float32] | None = None


class MotionCompensation(MaskMotion):
    """Moves a mask from the frame that it was made for to a later one.

    The displacement from each frame to the one before is estimated on small lumas, once, and the
    estimates are chained back to the frame that the mask belongs to. So every frame costs the same
    however old its mask is, and motion too far to be found in one step is followed in small ones.
    Where the displacement does not explain how the picture changed, the mask stays as it is; all of
    it does in formats without a luma plane, and if it is older than 60 frames. A mask from before a
    scene cut is of no use.

    The figures are in ``docs/decisions/0006-motion.md``.

    Args:
        size: Long side of the small luma in pixels, 32 to 640. The time that it takes grows with
            the square.
        follow: Whether masks are moved; else only scene cuts are looked for.

    Raises:
        ConfigError: If the size is out of bounds.
    """

    def __init__(self, *, size: int = 160, follow: bool = True) -> None:
        if isinstance(size, bool) or not isinstance(size, int) or not 32 <= size <= 640:
            raise ConfigError(f"size must be a whole number from 32 to 640, got {size!r}")
        self._size = size
        self._follow = follow
        self._estimate = Estimator()
        self._warp = Warp()
        self._cuts = SceneCutDetector()
        # In the order of the stream; bounded by _MAX_LAG, and by the age of the newest mask.
        self._seen: deque[_Seen] = deque()
        self._scene_begin = 0
        self._index: int | None = None  # of the last frame
        # Index of the mask's frame, index of the frame shown last, displacement between them.
        self._total: tuple[int, int, NDArray[np.float32]] | None = None

    def apply(
        self, made_for: Frame, frame: Frame, segmentation: Segmentation
    ) -> Segmentation | None:
        """Return the masks as they are in a later frame. To be called for each frame, in order.

        Args:
            made_for: The frame that the masks belong to; ``frame`` itself or an earlier one.
            frame: The frame to show; may be given again with a newer mask.
            segmentation: The masks; not written into.

        Returns:
            The segmentation with all masks, those of objects and the class map moved, its index as
            it was; the given one where there is nothing to move or no telling where to. None where
            the scene has been cut since then: the mask is of another picture.
        """
        luma = self._look_at(made_for, frame)
        if made_for.index < self._scene_begin:
            return None
        if luma is None or made_for.index >= frame.index or not self._follow:
            return segmentation
        total = self._displacement(made_for, frame.index)
        if total is None:
            return segmentation
        field = trusted(total, luma, self._seen[0].luma)
        if float(np.abs(field).max()) < _STILL:
            return segmentation
        return self._moved(segmentation, field)

    def _moved(self, segmentation: Segmentation, field: NDArray[np.float32]) -> Segmentation:
        """Return the segmentation with everything moved in it that is anywhere.

        Boxes of objects stay: they tell which object is which, and not where it is.
        """
        masks, instances = dict(segmentation.masks), segmentation.instances
        there = [label for label, mask in masks.items() if mask.any()]
        planes = [masks[label] for label in there] + [each.mask for each in instances]
        class_map = segmentation.class_map
        if class_map is None:
            moved = self._warp(planes, field) if planes else []
        else:
            *moved, class_map = self._warp([*planes, class_map], field)
        masks |= zip(there, moved[: len(there)], strict=True)
        return replace(
            segmentation,
            masks=masks,
            class_map=class_map,
            instances=tuple(
                replace(each, mask=mask)
                for each, mask in zip(instances, moved[len(there) :], strict=True)
            ),
        )

    def reset(self) -> None:
        """Forget all frames, for another stream or another place in this one."""
        self._forget()
        self._cuts.reset()
        self._scene_begin = 0
        self._index = None

    def _look_at(self, made_for: Frame, frame: Frame) -> NDArray[np.uint8] | None:
        """Remember this frame and return its small luma, None if it has none to work with."""
        if self._index is not None and frame.index < self._index:
            self.reset()
        elif self._seen and frame.index == self._index:
            return self._seen[-1].luma
        luma = small_luma(frame.video, self._size)
        before = self._index
        if made_for.index < frame.index and (before is None or before < made_for.index):
            # Frames without a mask, which are not seen here, came between.
            self._look_for_cut(made_for, small_luma(made_for.video, self._size))
        self._look_for_cut(frame, luma)
        self._index = frame.index
        if luma is None:
            self._forget()
            return None
        if self._seen and self._seen[-1].luma.shape != luma.shape:
            self._forget()
        self._seen.append(_Seen(frame.index, luma))
        while self._seen[0].index < frame.index - _MAX_LAG:
            self._seen.popleft()
        return luma

    def _look_for_cut(self, frame: Frame, luma: NDArray[np.uint8] | None) -> None:
        """Begin another scene if this frame does; its small luma is enough to tell."""
        if luma is None:
            luma = _bytes_of(frame.video)
        picture = av.VideoFrame(luma.shape[1], luma.shape[0], "gray")
        luma_plane(picture)[:] = luma
        if self._cuts.is_cut(picture):
            self._forget()
            self._scene_begin = frame.index

    def _displacement(self, made_for: Frame, index: int) -> NDArray[np.float32] | None:
        """Return the field from the last frame to the mask's, None if there is no way back."""
        if made_for.index < index - _MAX_LAG:
            return None
        while self._seen[0].index < made_for.index:
            self._seen.popleft()
        if self._seen[0].index != made_for.index:
            luma = small_luma(made_for.video, self._size)
            if luma is None or luma.shape != self._seen[0].luma.shape:
                return None
            self._seen[0].motion = None
            self._seen.appendleft(_Seen(made_for.index, luma))
        total, begin = None, 1
        if self._total is not None and len(self._seen) > 2:
            from_index, to_index, known = self._total
            if (from_index, to_index) == (made_for.index, self._seen[-2].index):
                total, begin = known, len(self._seen) - 1
        for before, seen in islice(pairwise(self._seen), begin - 1, None):
            if seen.motion is None:
                seen.motion = self._estimate(seen.luma, before.luma)
            total = seen.motion if total is None else chain(seen.motion, total)
        if total is not None:
            self._total = (made_for.index, index, total)
        return total

    def _forget(self) -> None:
        self._seen.clear()
        self._total = None


def _bytes_of(video: av.VideoFrame) -> NDArray[np.uint8]:
    """Return a small picture of a format without a luma plane: what its bytes are on average."""
    plane, kind = video.planes[0], video.format
    one = kind.components[0].bits
    bits = kind.padded_bits_per_pixel if len(video.planes) == 1 else 8 if one <= 8 else 16
    rows = np.frombuffer(plane, np.uint8)  # type: ignore[call-overload]
    rows = rows[: plane.height * plane.line_size].reshape(plane.height, plane.line_size)
    step = max(1, plane.height // 144)
    sparse = np.ascontiguousarray(rows[::step, : plane.width * bits // 8])
    small = cv2.resize(sparse, (64, 36), interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.uint8)
