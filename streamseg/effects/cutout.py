"""CutoutEffect: the subject alone, on transparency."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import av
import cv2
import numpy as np

from streamseg.effects.base import VideoEffect, subject_mask
from streamseg.effects.formats import Working, alpha_format
from streamseg.effects.graph import FilterGraph, Port
from streamseg.effects.merge import quantise
from streamseg.effects.options import EffectOptions, SideOptions, resolve_subject
from streamseg.effects.planes import (
    Scratch,
    bit_depth,
    enlarge,
    fill,
    neutral_levels,
    new_picture,
    planes_of,
    set_colour,
)
from streamseg.frames import Colour

if TYPE_CHECKING:
    from collections.abc import Sequence

    import av
    from numpy.typing import NDArray

    from streamseg.frames import Frame
    from streamseg.segmentation import Segmentation

__all__ = ["CutoutEffect", "CutoutOptions"]


@dataclass(frozen=True, kw_only=True, slots=True)
class CutoutOptions(SideOptions):
    """Options of ``cutout``; with ``on="subject"`` the subject is what is cut away."""


class CutoutEffect(VideoEffect):
    """Makes the background transparent (straight alpha).

    Samples under zero alpha are black: a player that ignores alpha does not show the room. A
    picture with an alpha of its own keeps it, multiplied. Without a mask all is transparent.

    Args:
        options: See ``CutoutOptions``.
    """

    options_type: ClassVar[type[EffectOptions]] = CutoutOptions
    output_has_alpha: ClassVar[bool] = True

    def __init__(self, options: CutoutOptions) -> None:
        self._options = options
        self._working = Working(coloured=True, alpha=True)
        self._own_alpha = FilterGraph([("format", "yuva444p"), ("extractplanes", "a")])
        self._copy = FilterGraph([("copy", "")])
        self._picture: av.VideoFrame | None = None
        self._scratch = Scratch()

    def wanted_labels(self, model_labels: Sequence[str]) -> tuple[str, ...]:
        """Return the subject's labels."""
        return resolve_subject(self._options.subject, model_labels)

    def output_format(self, pixel_format: str) -> str:
        """Return the planar format with alpha and the input's subsampling."""
        return alpha_format(self._working.target(pixel_format))

    def close(self) -> None:
        """Release graphs."""
        self._working.close()
        self._own_alpha.close()
        self._copy.close()
        self._picture = None
        self._scratch.clear()

    def _render(self, frame: Frame, segmentation: Segmentation | None) -> av.VideoFrame:
        video = self._working.convert(frame.video)
        out = new_picture(video, alpha_format(video.format.name))
        if self._picture is None or Port.of(out) != Port.of(self._picture):
            self._picture = out
        set_colour(self._picture, Colour.of(video))
        self._draw(frame.video, video, self._picture, segmentation)
        # The copy comes from the filter's pool of memory; a picture of our own would be new pages
        return self._copy.process(self._picture)

    def _draw(
        self,
        original: av.VideoFrame,
        video: av.VideoFrame,
        out: av.VideoFrame,
        segmentation: Segmentation | None,
    ) -> None:
        """Write the colours that show, and the alpha, into ``out``."""
        fill(out, (*neutral_levels(video), 0))
        mask = subject_mask(segmentation, self._options)
        if mask is None:
            return
        if self._options.on == "subject":
            mask = np.subtract(np.float32(1.0), mask)
        levels = quantise(mask, bit_depth(video))
        *targets, alpha = planes_of(out)
        enlarge(levels, alpha)
        self._keep_own_alpha(original, alpha)
        visible = self._scratch.array("shown", alpha.shape, np.bool_)
        shown = np.not_equal(alpha, 0, out=visible).view(np.uint8)
        for source, target in zip(planes_of(video), targets, strict=True):
            if target.shape != shown.shape:
                shown_here = self._chroma_shown(shown, target.shape)
            else:
                shown_here = shown
            cv2.copyTo(source, shown_here.reshape(target.shape), target)

    def _chroma_shown(self, shown: NDArray[np.uint8], shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """Return where any of a chroma sample's pixels is visible: (H, W) uint8, 0 or 1."""
        step_y, step_x = -(-shown.shape[0] // shape[0]), -(-shown.shape[1] // shape[1])
        out: NDArray[np.uint8] = self._scratch.array("chroma", shape, np.uint8)
        out[:] = shown[::step_y, ::step_x]
        for y in range(step_y):
            for x in range(step_x):
                part = shown[y::step_y, x::step_x]
                region = out[: part.shape[0], : part.shape[1]]
                np.bitwise_or(region, part, out=region)
        return out

    def _keep_own_alpha(self, video: av.VideoFrame, alpha: NDArray[Any]) -> None:
        if any(part.is_alpha for part in video.format.components):
            own = planes_of(self._own_alpha.process(video))[0]
            cv2.multiply(
                alpha,
                own.astype(alpha.dtype),
                dst=alpha,
                scale=1.0 / 255.0,
                dtype=cv2.CV_8U if alpha.dtype == np.uint8 else cv2.CV_16U,
            )
