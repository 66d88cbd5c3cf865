"""BlurEffect: the background out of focus.

The background's colours are gathered without the subject's on a small picture, so that there is no
halo; only the merge happens at full size. At 1080p, 4:2:0, one thread: about 2.4 ms of CPU a
frame, where ``split, scale, avgblur, scale, maskedmerge`` in one filter graph takes 1.9 ms and
smears the subject's colours around it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from streamseg.effects.base import HIDING_STRENGTH, StrengthEffect, blurred_whole, grid_for
from streamseg.effects.options import EffectOptions, StrengthOptions
from streamseg.effects.spread import enlarge_picture, masked_blur, small_picture, weight_outside

if TYPE_CHECKING:
    import av
    import numpy as np
    from numpy.typing import NDArray

    from streamseg.frames import Frame

__all__ = ["BlurEffect", "BlurOptions", "blur_sigma"]


def blur_sigma(strength: float, width: int, height: int) -> float:
    """Return the Gaussian's sigma in pixels: 0.3 % of the shorter side, up to 5 % at 100."""
    return min(width, height) * (0.003 + 0.047 * strength / 100.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class BlurOptions(StrengthOptions):
    """Options of ``blur``; ``strength`` 50 hides faces and screens at a usual call's size."""


class BlurEffect(StrengthEffect):
    """Blurs the background, or the subject.

    Without a mask the whole picture is blurred at full strength,
    whatever ``strength`` is; only 0 switches the effect off altogether.

    Args:
        options: See ``BlurOptions``.
    """

    options_type: ClassVar[type[EffectOptions]] = BlurOptions

    def __init__(self, options: BlurOptions) -> None:
        # What it lays over is the same scene: one level of it left under the blur tells nothing.
        super().__init__(options, opaque=False)

    def _altered(
        self, video: av.VideoFrame, amount: NDArray[np.float32], frame: Frame
    ) -> av.VideoFrame:
        sigma_px = blur_sigma(self._strength, video.width, video.height)
        width, height, sigma = grid_for(video, sigma_px)
        picture = small_picture(video, width, height, self._scratch)
        weight = weight_outside(amount, width, height)
        out = self._overlay_like(video)
        enlarge_picture(masked_blur(picture, weight, max(sigma, 0.3)), out)
        return out

    def _hide(self, video: av.VideoFrame, frame: Frame) -> av.VideoFrame:
        out = self._overlay_like(video)
        blurred_whole(video, out, blur_sigma(HIDING_STRENGTH, video.width, video.height))
        return out
