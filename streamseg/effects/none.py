"""NoEffect: the picture as it came."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from streamseg.effects.base import VideoEffect
from streamseg.effects.options import EffectOptions

if TYPE_CHECKING:
    import av

    from streamseg.frames import Frame
    from streamseg.segmentation import Segmentation

__all__ = ["NoEffect", "NoOptions"]


@dataclass(frozen=True, kw_only=True, slots=True)
class NoOptions(EffectOptions):
    """``none`` has no options."""


class NoEffect(VideoEffect):
    """Returns every frame untouched, with or without a mask: the one effect that hides nothing.

    Args:
        options: There are none.
    """

    options_type: ClassVar[type[EffectOptions]] = NoOptions

    def __init__(self, options: NoOptions | None = None) -> None:
        pass

    def _render(self, frame: Frame, segmentation: Segmentation | None) -> av.VideoFrame:
        return frame.video
