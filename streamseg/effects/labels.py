"""LabelsEffect: what a classifier says of the picture, written into it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from streamseg.effects.base import HIDING_STRENGTH, VideoEffect, blurred_whole, kept_picture
from streamseg.effects.blur import blur_sigma
from streamseg.effects.formats import Working
from streamseg.effects.graph import FilterGraph
from streamseg.effects.legend import display_name
from streamseg.effects.options import (
    EffectOptions,
    check_choice,
    check_labels,
    check_number,
    resolve_subject,
)
from streamseg.effects.panel import Panel, PanelLine
from streamseg.errors import ConfigError

if TYPE_CHECKING:
    import av

    from streamseg.frames import Frame
    from streamseg.segmentation import Segmentation

__all__ = ["LabelsEffect", "LabelsOptions"]

_CORNERS = ("top-left", "top-right", "bottom-left", "bottom-right")
_KEPT = 0.7  # of what was said before: figures that jump cannot be read


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelsOptions(EffectOptions):
    """Options of ``labels``.

    Attributes:
        subject: Labels to look for. Empty: all.
        top: How many labels are shown at most, 1 to 10.
        least: Probability, 0 to 1, below which a label is not shown.
        corner: Where: ``top-left``, ``top-right``, ``bottom-left`` or ``bottom-right``.
    """

    subject: tuple[str, ...] = ()
    top: int = 3
    least: float = 0.0
    corner: str = "top-left"

    def _check(self) -> None:
        object.__setattr__(self, "subject", check_labels("subject", self.subject))
        number: Any = self.top
        if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= 10:
            raise ConfigError(f"top must be a whole number from 1 to 10, got {number!r}")
        check_number("least", self.least, 0.0, 1.0, open_ends=False)
        check_choice("corner", self.corner, _CORNERS)


class LabelsEffect(VideoEffect):
    """Writes the most probable labels of the picture into a corner, with their probabilities.

    Probabilities are averaged over the last answers. It hides nothing where there is an answer;
    without one the picture is fully blurred.

    Args:
        options: See ``LabelsOptions``.
    """

    options_type: ClassVar[type[EffectOptions]] = LabelsOptions
    needs: ClassVar[Literal["masks", "scores", "nothing"]] = "scores"

    def __init__(self, options: LabelsOptions) -> None:
        self._options = options
        self._working = Working(coloured=True)
        self._panel = Panel(options.corner)
        self._copy = FilterGraph([("copy", "")])
        self._hidden: av.VideoFrame | None = None
        self._index: int | None = None
        self._scores: dict[str, float] = {}  # bounded by the model's labels
        self._lines: tuple[PanelLine, ...] = ()

    def wanted_labels(self, model_labels: Sequence[str]) -> tuple[str, ...]:
        """Return the labels to look for; none means all.

        Raises:
            ConfigError: If the model does not know one.
        """
        subject = self._options.subject
        return resolve_subject(subject, model_labels) if subject else ()

    def output_format(self, pixel_format: str) -> str:
        """Return the working format."""
        return self._working.target(pixel_format)

    def close(self) -> None:
        """Release the graph and forget what was said."""
        self._working.close()
        self._copy.close()
        self._panel.close()
        self._hidden = None
        self._index = None
        self._scores = {}

    def _render(self, frame: Frame, segmentation: Segmentation | None) -> av.VideoFrame:
        video = self._working.convert(frame.video)
        if segmentation is None or not segmentation.scores:
            out = self._hidden = kept_picture(self._hidden, video)
            blurred_whole(video, out, blur_sigma(HIDING_STRENGTH, video.width, video.height))
            return self._copy.process(out)
        if segmentation.index != self._index:
            self._take(segmentation)
        if not self._lines:
            return video
        copy = self._copy.process(video)
        self._panel.draw(copy, self._lines)
        return copy

    def _take(self, segmentation: Segmentation) -> None:
        labels = self.wanted_labels(segmentation.labels) or segmentation.labels
        new = {
            label: segmentation.scores[label] for label in labels if label in segmentation.scores
        }
        begins = self._index is None or segmentation.index < self._index
        kept = 0.0 if begins or new.keys() != self._scores.keys() else _KEPT
        self._scores = {
            label: score + (self._scores.get(label, 0.0) - score) * kept
            for label, score in new.items()
        }
        self._index = segmentation.index
        best = sorted(self._scores.items(), key=lambda item: -item[1])[: self._options.top]
        self._lines = tuple(
            PanelLine(display_name(label), share=round(score, 2), note=f"{score:.0%}")
            for label, score in best
            if score >= self._options.least
        )
