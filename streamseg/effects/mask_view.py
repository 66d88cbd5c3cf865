"""MaskViewEffect: the mask itself as a grey picture, for mask videos and keyers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import av
import numpy as np

from streamseg.effects.base import VideoEffect, subject_mask
from streamseg.effects.graph import FilterGraph
from streamseg.effects.options import EffectOptions, MaskOptions, resolve_subject
from streamseg.effects.planes import enlarge, fill, planes_of, set_colour
from streamseg.frames import Colour

if TYPE_CHECKING:
    from collections.abc import Sequence

    from streamseg.frames import Frame
    from streamseg.segmentation import Segmentation

__all__ = ["MaskViewEffect", "MaskViewOptions"]


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskViewOptions(MaskOptions):
    """Options of ``mask``."""


class MaskViewEffect(VideoEffect):
    """Shows the subject white, the rest black, in 8-bit grey of full range.

    Without a mask the picture is black.

    Args:
        options: See ``MaskViewOptions``.
    """

    options_type: ClassVar[type[EffectOptions]] = MaskViewOptions

    def __init__(self, options: MaskViewOptions) -> None:
        self._options = options
        self._picture: av.VideoFrame | None = None
        self._copy = FilterGraph([("copy", "")])

    def wanted_labels(self, model_labels: Sequence[str]) -> tuple[str, ...]:
        """Return the subject's labels."""
        return resolve_subject(self._options.subject, model_labels)

    def output_format(self, pixel_format: str) -> str:
        """Return ``gray``."""
        return "gray"

    def close(self) -> None:
        """Release the graph and the picture that is kept."""
        self._copy.close()
        self._picture = None

    def _render(self, frame: Frame, segmentation: Segmentation | None) -> av.VideoFrame:
        out = self._picture
        if out is None or (out.width, out.height) != (frame.width, frame.height):
            out = self._picture = av.VideoFrame(frame.width, frame.height, "gray")
            set_colour(out, Colour(range=2))
        fill(out, (0,))
        mask = subject_mask(segmentation, self._options)
        if mask is not None:
            small = mask * np.float32(255) + np.float32(0.5)
            enlarge(small.astype(np.uint8), planes_of(out)[0])
        return self._copy.process(out)
