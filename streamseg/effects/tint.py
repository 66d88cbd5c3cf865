"""TintEffect: every class in its colour, laid over the picture, with outlines and a legend."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from streamseg.effects.base import HIDING_STRENGTH, VideoEffect, blurred_whole, kept_picture
from streamseg.effects.blur import blur_sigma
from streamseg.effects.colours import RGB, parse_colour, yuv_samples
from streamseg.effects.contours import draw_outline, outline_width
from streamseg.effects.formats import Working
from streamseg.effects.graph import FilterGraph
from streamseg.effects.legend import Legend
from streamseg.effects.merge import MaskedMerge
from streamseg.effects.options import (
    EffectOptions,
    MaskOptions,
    check_number,
    check_switch,
    resolve_subject,
)
from streamseg.effects.palette import distinct_colour, palette
from streamseg.effects.planes import bit_depth, fill, shrink
from streamseg.effects.regions import Region, class_masks, split_by_instance
from streamseg.effects.spread import enlarge_picture, masked_blur
from streamseg.errors import ConfigError
from streamseg.frames import Colour
from streamseg.masks.tracking import InstanceTracker

if TYPE_CHECKING:
    from collections.abc import Sequence

    import av
    from numpy.typing import NDArray

    from streamseg.frames import Frame
    from streamseg.segmentation import Segmentation

__all__ = ["TintEffect", "TintOptions"]

_ONE_BY_ONE = 4  # regions; more are painted together, which costs as much as so many merges
_PAINTED_PX = 320  # long side of that painting


@dataclass(frozen=True, kw_only=True, slots=True)
class TintOptions(MaskOptions):
    """Options of ``tint``.

    Attributes:
        subject: Labels to tint. Empty: all but the background.
        strength: Opacity of the colour, 0 to 100.
        colours: Label -> colour (a name or ``#rrggbb``) instead of the palette's.
        contours: Width of the outlines as a percentage, 0 to 5, of the picture's shorter side;
            0 draws none.
        legend: Whether a legend says which colour is what: of the chosen labels, or of those
            that are seen.
        objects: Whether each object of an instance model has a colour of its own.
    """

    strength: float = 50.0
    colours: Mapping[str, str] = field(default_factory=dict)
    contours: float = 0.0
    legend: bool = False
    objects: bool = True

    def _check(self) -> None:
        MaskOptions._check(self)
        check_number("strength", self.strength, 0.0, 100.0, open_ends=False)
        check_number("contours", self.contours, 0.0, 5.0, open_ends=False)
        check_switch("legend", self.legend)
        check_switch("objects", self.objects)
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
    there are any, the class map otherwise. Objects of an instance model have a colour each, which
    they keep from frame to frame.

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
        self._legend = Legend() if options.legend else None
        self._tracker = InstanceTracker()
        # The model's labels, their colours, and those of them that were chosen by the user.
        self._palette: tuple[tuple[str, ...], dict[str, RGB], frozenset[str]] = (
            (),
            {},
            frozenset(),
        )

    def wanted_labels(self, model_labels: Sequence[str]) -> tuple[str, ...]:
        """Return the labels to tint: those asked for, or all but the background."""
        if self._options.colours:
            resolve_subject(tuple(self._options.colours), model_labels, option="colours")
        return self._wanted(model_labels)

    def _wanted(self, model_labels: Sequence[str]) -> tuple[str, ...]:
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
        self._tracker.reset()
        if self._legend is not None:
            self._legend.close()

    def _render(self, frame: Frame, segmentation: Segmentation | None) -> av.VideoFrame:
        video = self._working.convert(frame.video)
        if self._opacity == 0.0 and not self._options.contours and self._legend is None:
            return video
        regions = None if segmentation is None else self._regions(segmentation, frame.index)
        if regions is None:
            sigma = blur_sigma(HIDING_STRENGTH, video.width, video.height)
            overlay = self._overlay = kept_picture(self._overlay, video)
            samples = self._samples(distinct_colour(0), video)
            blurred_whole(video, overlay, sigma, samples, self._opacity)
            return self._copy.process(overlay)
        out = video
        if regions and self._opacity > 0.0:
            out = self._tint(video, regions)
        return self._annotate(video, out, regions, frame.index)

    def _tint(self, video: av.VideoFrame, regions: Sequence[Region]) -> av.VideoFrame:
        """Return the picture with the regions' colours on it."""
        samples = [self._samples(region.rgb, video) for region in regions]
        overlay = self._overlay = kept_picture(self._overlay, video)
        if len(regions) <= _ONE_BY_ONE:
            for region, levels in zip(regions, samples, strict=True):
                fill(overlay, levels)
                video = self._merge.merge(video, overlay, region.mask * np.float32(self._opacity))
            return video
        total = _total(regions)
        _paint(overlay, regions, samples, total)
        amount = np.minimum(total, np.float32(1.0)) * np.float32(self._opacity)
        return self._merge.merge(video, overlay, amount)

    def _regions(self, segmentation: Segmentation, index: int) -> list[Region] | None:
        """Return what is to be coloured; None if nothing is known."""
        labels = self._wanted(segmentation.labels)
        masks = class_masks(segmentation, labels, self._options)
        if masks is None:
            return None
        self._choose_colours(segmentation.labels)
        if not (self._options.objects and segmentation.instances):
            return [
                Region(label, label, self._palette[1][label], mask) for label, mask in masks.items()
            ]
        numbers = self._tracker.assign(segmentation.instances, index)
        regions = []
        for label, mask in masks.items():
            own = [
                (instance, number)
                for instance, number in zip(segmentation.instances, numbers, strict=True)
                if instance.label == label
            ]
            if not own:  # smoothing shows it a little longer than the model does
                regions.append(Region(label, label, self._palette[1][label], mask))
                continue
            parts = split_by_instance(mask, [instance for instance, _ in own])
            chosen = self._palette[1][label] if label in self._palette[2] else None
            regions += [
                Region(f"{label} {number + 1}", label, chosen or distinct_colour(number), part)
                for (_, number), part in zip(own, parts, strict=True)
            ]
        return regions

    def _choose_colours(self, model_labels: tuple[str, ...]) -> None:
        """Have the colours of a model's labels at hand; computed when the model changes."""
        if self._palette[0] == model_labels:
            return
        colours = dict(zip(model_labels, palette(model_labels), strict=True))
        own = set()
        for name, colour in self._options.colours.items():
            try:
                (label,) = resolve_subject((name,), model_labels)
            except ConfigError:  # was told when the model was loaded
                continue
            colours[label] = parse_colour(colour)
            own.add(label)
        self._palette = (model_labels, colours, frozenset(own))

    def _annotate(
        self, video: av.VideoFrame, out: av.VideoFrame, regions: Sequence[Region], index: int
    ) -> av.VideoFrame:
        """Draw outlines and legend; into a copy where the picture is not ours yet."""
        entries: tuple[tuple[str, RGB], ...] = ()
        if self._legend is not None:
            if self._options.subject and all(region.name == region.label for region in regions):
                labels = self._wanted(self._palette[0])
                entries = tuple((label, self._palette[1][label]) for label in labels)
            else:
                entries = self._legend.entries(regions, index)
        if not entries and not (regions and self._options.contours):
            return out
        if out is video:
            out = self._copy.process(video)
        if self._options.contours:
            width = outline_width(self._options.contours, out.width, out.height)
            for region in regions:
                draw_outline(out, region.mask, self._samples(region.rgb, out), width)
        if self._legend is not None:
            self._legend.draw(out, entries)
        return out

    def _samples(self, rgb: RGB, video: av.VideoFrame) -> tuple[int, int, int]:
        colour = Colour.of(video).resolved(video.height, video.format.name)
        return yuv_samples(rgb, colour, bit_depth(video))


def _total(regions: Sequence[Region]) -> NDArray[np.float32]:
    total: NDArray[np.float32] = np.add.reduce([region.mask for region in regions])
    return total


def _paint(
    out: av.VideoFrame,
    regions: Sequence[Region],
    samples: Sequence[tuple[int, int, int]],
    total: NDArray[np.float32],
) -> None:
    """Draw the regions' colours into a picture, spread a little beyond their masks."""
    rows, columns = total.shape
    scale = min(1.0, _PAINTED_PX / max(rows, columns))
    rows, columns = max(1, round(rows * scale)), max(1, round(columns * scale))
    weight = shrink(total, columns, rows)
    picture = np.zeros((3, rows, columns), np.float32)
    for region, levels in zip(regions, samples, strict=True):
        mask = shrink(region.mask, columns, rows)
        for channel, level in enumerate(levels):
            picture[channel] += mask * np.float32(level)
    picture /= np.maximum(weight, np.float32(1e-6))
    spread = masked_blur(picture.transpose(1, 2, 0), np.minimum(weight, np.float32(1.0)), 1.0)
    enlarge_picture(spread, out)
