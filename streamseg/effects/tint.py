"""TintEffect: every class in its colour, laid over the picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from streamseg.effects.base import HIDING_STRENGTH, VideoEffect, blurred_whole, kept_picture
from streamseg.effects.blur import blur_sigma
from streamseg.effects.colours import class_colour, parse_colour, yuv_samples
from streamseg.effects.formats import Working
from streamseg.effects.graph import FilterGraph
from streamseg.effects.merge import MaskedMerge
from streamseg.effects.options import (
    EffectOptions,
    MaskOptions,
    check_number,
    resolve_subject,
)
from streamseg.effects.planes import bit_depth, fill
from streamseg.effects.shaping import shape_mask
from streamseg.effects.spread import enlarge_picture, masked_blur
from streamseg.errors import ConfigError
from streamseg.frames import Colour

if TYPE_CHECKING:
    from collections.abc import Sequence

    import av
    from numpy.typing import NDArray

    from streamseg.frames import Frame
    from streamseg.segmentation import Segmentation

__all__ = ["TintEffect", "TintOptions"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TintOptions(MaskOptions):
    """Options of ``tint``.

    Attributes:
        subject: Labels to tint. Empty: all but the background.
        strength: Opacity of the colour, 0 to 100.
        colours: Label -> colour (a name or ``#rrggbb``) instead of the palette's.
    """

    strength: float = 50.0
    colours: Mapping[str, str] = field(default_factory=dict)

    def _check(self) -> None:
        MaskOptions._check(self)
        check_number("strength", self.strength, 0.0, 100.0, open_ends=False)
        given: Any = self.colours
        if not isinstance(given, Mapping):
            raise ConfigError(f"colours must map labels to colours, got {given!r}")
        for label, colour in given.items():
            if not isinstance(colour, str):
                raise ConfigError(f"colours: {label} must have a colour, got {colour!r}")
            parse_colour(colour)


class TintEffect(VideoEffect):
    """Lays the classes' colours over the picture, with soft edges.

    Classes that nobody sees leave the picture as it is. It is not an effect for privacy, yet
    without any mask the picture is fully blurred and tinted in one colour. Masks are used where
    there are any, the class map otherwise.

    Args:
        options: See ``TintOptions``.
    """

    options_type: ClassVar[type[EffectOptions]] = TintOptions

    def __init__(self, options: TintOptions) -> None:
        self._options = options
        self._opacity = options.strength / 100.0
        self._working = Working(coloured=True)
        self._merge = MaskedMerge()
        self._overlay: av.VideoFrame | None = None
        self._copy = FilterGraph([("copy", "")])

    def wanted_labels(self, model_labels: Sequence[str]) -> tuple[str, ...]:
        """Return the labels to tint: those asked for, or all but the background."""
        if self._options.subject:
            return resolve_subject(self._options.subject, model_labels)
        return tuple(label for label in model_labels if label.upper() != "BACKGROUND")

    def output_format(self, pixel_format: str) -> str:
        """Return the working format."""
        return self._working.target(pixel_format)

    def close(self) -> None:
        """Release graphs and pictures that are kept."""
        self._working.close()
        self._merge.close()
        self._copy.close()
        self._overlay = None

    def _render(self, frame: Frame, segmentation: Segmentation | None) -> av.VideoFrame:
        video = self._working.convert(frame.video)
        if self._opacity == 0.0:
            return video
        masks = None if segmentation is None else self._masks(segmentation)
        if segmentation is None or masks is None:
            sigma = blur_sigma(HIDING_STRENGTH, video.width, video.height)
            overlay = self._overlay = kept_picture(self._overlay, video)
            blurred_whole(video, overlay, sigma, self._samples("", 0, video), self._opacity)
            return self._copy.process(overlay)
        if not masks:
            return video
        total: NDArray[np.float32] = np.add.reduce(list(masks.values()))
        overlay = self._paint(video, segmentation.labels, masks, total)
        amount = np.minimum(total, np.float32(1.0)) * np.float32(self._opacity)
        return self._merge.merge(video, overlay, amount)

    def _masks(self, segmentation: Segmentation) -> dict[str, NDArray[np.float32]] | None:
        """Return the shaped masks of the classes that are there; None if nothing is known."""
        labels = self.wanted_labels(segmentation.labels)
        given: Mapping[str, NDArray[np.float32]] = {
            label: segmentation.masks[label] for label in labels if label in segmentation.masks
        }
        if not given:
            if segmentation.class_map is None or segmentation.class_map.size == 0:
                return None
            present = set(np.unique(segmentation.class_map).tolist())
            given = {
                label: (segmentation.class_map == number).astype(np.float32)
                for number, label in enumerate(segmentation.labels)
                if number in present and label in labels
            }
        shaped = {}
        for label, mask in given.items():
            peak = float(mask.max(initial=-1.0))
            if not 0.0 <= peak < np.inf or not np.isfinite(mask.sum()):
                return None
            if peak > 0.0:
                soft = shape_mask(mask, self._options.threshold, self._options.feather)
                if soft.any():
                    shaped[label] = soft
        return shaped

    def _paint(
        self,
        video: av.VideoFrame,
        labels: tuple[str, ...],
        masks: Mapping[str, NDArray[np.float32]],
        total: NDArray[np.float32],
    ) -> av.VideoFrame:
        """Return a picture of the classes' colours, spread a little beyond their masks."""
        out = self._overlay = kept_picture(self._overlay, video)
        samples = {
            label: self._samples(label, labels.index(label) if label in labels else 0, video)
            for label in masks
        }
        if len(masks) == 1:
            fill(out, next(iter(samples.values())))
            return out
        picture = np.zeros((*total.shape, 3), np.float32)
        for label, mask in masks.items():
            for channel, sample in enumerate(samples[label]):
                picture[:, :, channel] += mask * np.float32(sample)
        picture /= np.maximum(total, np.float32(1e-6))[:, :, None]
        weight = np.minimum(total, np.float32(1.0))
        enlarge_picture(masked_blur(picture, weight, 1.0), out)
        return out

    def _samples(self, label: str, index: int, video: av.VideoFrame) -> tuple[int, int, int]:
        chosen = self._options.colours.get(label)
        rgb = parse_colour(chosen) if chosen is not None else class_colour(label, index)
        colour = Colour.of(video).resolved(video.height, video.format.name)
        return yuv_samples(rgb, colour, bit_depth(video))
