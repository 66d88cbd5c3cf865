"""GrayscaleEffect: the background without colour."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from streamseg.effects.base import HIDING_STRENGTH, StrengthEffect, blurred_whole
from streamseg.effects.blur import blur_sigma
from streamseg.effects.options import EffectOptions, StrengthOptions
from streamseg.effects.planes import neutral_levels, planes_of

if TYPE_CHECKING:
    import av
    from numpy.typing import NDArray

    from streamseg.frames import Frame

__all__ = ["GrayscaleEffect", "GrayscaleOptions"]


@dataclass(frozen=True, kw_only=True, slots=True)
class GrayscaleOptions(StrengthOptions):
    """Options of ``grayscale``; ``strength`` is how much of the colour goes, all by default."""

    strength: float = 100.0


class GrayscaleEffect(StrengthEffect):
    """Takes the colour out of the background, or of the subject; luma stays as it is.

    It hides nothing where there is a mask. Without one the picture is grey and fully blurred;
    ``strength`` 0 switches the effect off altogether.

    Args:
        options: See ``GrayscaleOptions``.
    """

    options_type: ClassVar[type[EffectOptions]] = GrayscaleOptions

    def __init__(self, options: GrayscaleOptions) -> None:
        super().__init__(options, chroma_only=True)
        self._share = options.strength / 100.0

    def _merged_amount(self, amount: NDArray[np.float32]) -> NDArray[np.float32]:
        return amount * np.float32(self._share)

    def _altered(
        self, video: av.VideoFrame, amount: NDArray[np.float32], frame: Frame
    ) -> av.VideoFrame:
        out = self._overlay_like(video)
        self._grey(out)
        return out

    def _hide(self, video: av.VideoFrame, frame: Frame) -> av.VideoFrame:
        out = self._overlay_like(video)
        blurred_whole(video, out, blur_sigma(HIDING_STRENGTH, video.width, video.height))
        self._grey(out)
        return out

    def _grey(self, video: av.VideoFrame) -> None:
        level = neutral_levels(video)[1]
        for plane in planes_of(video)[1:]:
            plane[:] = level
