"""VideoEffect: what all effects share, above all failing closed.

An effect that gets no mask shows nothing of the scene. "No mask" is: no segmentation, no mask of
the subject's labels in it, a mask without pixels, or one with values that are not numbers. A mask
that is 0 everywhere is an answer, "nobody is there": for the background that is the whole picture,
for ``on="subject"`` nothing.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import av.error
import cv2
import numpy as np

from streamseg.abc import Effect
from streamseg.effects.formats import Working
from streamseg.effects.graph import FilterGraph, Port
from streamseg.effects.merge import MaskedMerge
from streamseg.effects.options import (
    EffectOptions,
    MaskOptions,
    SideOptions,
    StrengthOptions,
    resolve_subject,
)
from streamseg.effects.planes import Scratch, new_picture, set_colour
from streamseg.effects.shaping import shape_mask
from streamseg.effects.spread import enlarge_picture, masked_blur, small_picture
from streamseg.errors import ConfigError, EffectError, StreamsegError
from streamseg.frames import Colour

if TYPE_CHECKING:
    from collections.abc import Sequence

    import av
    from numpy.typing import NDArray

    from streamseg.frames import Frame
    from streamseg.segmentation import Segmentation

__all__ = [
    "HIDING_STRENGTH",
    "MaskedEffect",
    "StrengthEffect",
    "VideoEffect",
    "blurred_whole",
    "grid_for",
    "kept_picture",
    "subject_mask",
    "usable_mask",
]

HIDING_STRENGTH = 100.0
"""Where nothing of the scene may be recognised, whatever strength was asked for."""


class VideoEffect(Effect):
    """An effect that can be built by name.

    Attributes:
        options_type: The frozen dataclass of its options.
        output_has_alpha: Whether its pictures have an alpha plane.
        needs: What of a model's answer it works with: ``masks``, ``scores`` or ``nothing``.
    """

    options_type: ClassVar[type[EffectOptions]] = EffectOptions
    output_has_alpha: ClassVar[bool] = False
    needs: ClassVar[Literal["masks", "scores", "nothing"]] = "masks"

    def wanted_labels(self, model_labels: Sequence[str]) -> tuple[str, ...]:
        """Return the labels whose masks this effect needs.

        Raises:
            ConfigError: If the model cannot give them.
        """
        return ()

    def output_format(self, pixel_format: str) -> str:
        """Return the pixel format of the output for frames of this format."""
        return pixel_format

    def apply(self, frame: Frame, segmentation: Segmentation | None) -> Frame:
        """Return the altered picture; see ``streamseg.abc.Effect.apply``."""
        try:
            video = self._render(frame, segmentation)
        except StreamsegError:
            raise
        except (av.error.FFmpegError, cv2.error, ValueError, MemoryError) as exc:
            name = type(self).__name__
            raise EffectError(f"{name} failed on {frame!r}: {exc}") from exc
        return frame if video is frame.video else frame.with_video(video)

    @abstractmethod
    def _render(self, frame: Frame, segmentation: Segmentation | None) -> av.VideoFrame:
        """Return the new picture, or the frame's own if nothing changes."""


class MaskedEffect(VideoEffect):
    """An effect that lays an altered picture over the frame, by the subject's mask.

    Args:
        options: The checked options.
        coloured: True if it adds colours to grey pictures.
        chroma_only: True if it leaves luma as it is.
        opaque: True if nothing of the frame may remain where the effect applies fully.
    """

    options_type: ClassVar[type[EffectOptions]] = SideOptions

    def __init__(
        self,
        options: SideOptions,
        *,
        coloured: bool = False,
        chroma_only: bool = False,
        opaque: bool = True,
    ) -> None:
        self._options = options
        self._working = Working(coloured=coloured)
        self._merge = MaskedMerge(chroma_only=chroma_only, opaque=opaque)
        self._overlay: av.VideoFrame | None = None
        self._scratch = Scratch()
        self._copy = FilterGraph([("copy", "")])

    def wanted_labels(self, model_labels: Sequence[str]) -> tuple[str, ...]:
        """Return the subject's labels."""
        return resolve_subject(self._options.subject, model_labels)

    def output_format(self, pixel_format: str) -> str:
        """Return the working format."""
        return self._working.target(pixel_format)

    def close(self) -> None:
        """Release graphs and pictures that are kept."""
        self._working.close()
        self._merge.close()
        self._copy.close()
        self._overlay = None
        self._scratch.clear()

    def _render(self, frame: Frame, segmentation: Segmentation | None) -> av.VideoFrame:
        video = self._working.convert(frame.video)
        mask = subject_mask(segmentation, self._options)
        if mask is None:
            return self._copy.process(self._hide(video, frame))
        amount = mask if self._options.on == "subject" else np.subtract(np.float32(1.0), mask)
        if not amount.any():
            return video
        overlay = self._altered(video, amount, frame)
        return self._merge.merge(video, overlay, self._merged_amount(amount))

    def _merged_amount(self, amount: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return how much of the altered picture shows, from where the effect applies."""
        return amount

    @abstractmethod
    def _altered(
        self, video: av.VideoFrame, amount: NDArray[np.float32], frame: Frame
    ) -> av.VideoFrame:
        """Return the picture to lay over; it is not handed out, so it may be kept and reused."""

    @abstractmethod
    def _hide(self, video: av.VideoFrame, frame: Frame) -> av.VideoFrame:
        """Return a picture in which nothing of the scene can be recognised; it may be kept."""

    def _overlay_like(self, video: av.VideoFrame) -> av.VideoFrame:
        """Return a picture to draw the overlay in; the same one as long as nothing changes."""
        self._overlay = kept_picture(self._overlay, video)
        return self._overlay


class StrengthEffect(MaskedEffect):
    """An effect with a strength; 0 switches it off altogether, with or without a mask.

    Args:
        options: The checked options.
        chroma_only: As for ``MaskedEffect``.
        opaque: As for ``MaskedEffect``.
    """

    options_type: ClassVar[type[EffectOptions]] = StrengthOptions

    def __init__(
        self, options: StrengthOptions, *, chroma_only: bool = False, opaque: bool = True
    ) -> None:
        super().__init__(options, chroma_only=chroma_only, opaque=opaque)
        self._strength = options.strength

    def _render(self, frame: Frame, segmentation: Segmentation | None) -> av.VideoFrame:
        if self._strength == 0:
            return self._working.convert(frame.video)
        return super()._render(frame, segmentation)


def kept_picture(kept: av.VideoFrame | None, like: av.VideoFrame) -> av.VideoFrame:
    """Return a picture to draw in, tagged like another: the one kept, as long as it fits."""
    if kept is None or Port.of(kept) != Port.of(like):
        kept = new_picture(like)
    set_colour(kept, Colour.of(like))
    return kept


def subject_mask(
    segmentation: Segmentation | None, options: MaskOptions
) -> NDArray[np.float32] | None:
    """Return the shaped mask of the subject, (H, W) float32 in [0, 1], or None if there is none."""
    if segmentation is None:
        return None
    try:
        labels = resolve_subject(options.subject, tuple(segmentation.masks))
    except ConfigError:
        return None
    mask = segmentation.mask_of(labels)
    if not usable_mask(mask):
        return None
    return shape_mask(mask, options.threshold, options.feather)


def usable_mask(mask: NDArray[np.float32]) -> bool:
    """Return whether a mask says anything: it has pixels, and all of them are numbers."""
    return mask.ndim == 2 and mask.size > 0 and bool(np.isfinite(mask.sum()))


def grid_for(video: av.VideoFrame, sigma_px: float) -> tuple[int, int, float]:
    """Return width and height of the small picture for a blur, and its sigma there.

    The picture is halved until sigma is between 1 and 2: a Gaussian of that size leaves
    nothing that the small grid could not hold, so enlarging shows no blocks.
    """
    width, height, sigma = video.width, video.height, sigma_px
    while sigma >= 2.0 and min(width, height) > 2:
        width, height, sigma = (width + 1) // 2, (height + 1) // 2, sigma / 2
    return width, height, sigma


def blurred_whole(
    video: av.VideoFrame,
    out: av.VideoFrame,
    sigma_px: float,
    colour: tuple[int, int, int] | None = None,
    share: float = 0.0,
) -> None:
    """Blur all of a picture into another.

    Args:
        video: Planar YUV or grey.
        out: Of the same size and format, written.
        sigma_px: Sigma of the Gaussian in pixels.
        colour: Y, U and V samples to mix in.
        share: How much of them, 0 to 1.
    """
    width, height, sigma = grid_for(video, sigma_px)
    picture: Any = masked_blur(small_picture(video, width, height), None, max(sigma, 0.3))
    if colour is not None:
        flat = np.asarray(colour[: picture.shape[2]], np.float32)
        picture = picture + (flat - picture) * np.float32(share)
    enlarge_picture(picture, out)
