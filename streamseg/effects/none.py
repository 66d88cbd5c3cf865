"""NoEffect: the picture as it came."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from streamseg.effects.base import VideoEffect
from streamseg.effects.options import EffectOptions, check_labels, resolve_subject

if TYPE_CHECKING:
    from collections.abc import Sequence

    import av

    from streamseg.frames import Frame
    from streamseg.segmentation import Segmentation

__all__ = ["NoEffect", "NoOptions"]


@dataclass(frozen=True, kw_only=True, slots=True)
class NoOptions(EffectOptions):
    """Options of ``none``.

    Attributes:
        subject: Labels whose masks are wanted besides the picture, where masks are written.
    """

    subject: tuple[str, ...] = ()

    def _check(self) -> None:
        object.__setattr__(self, "subject", check_labels("subject", self.subject))


class NoEffect(VideoEffect):
    """Returns every frame untouched, with or without a mask: the one effect that hides nothing.

    Args:
        options: See ``NoOptions``.
    """

    options_type: ClassVar[type[EffectOptions]] = NoOptions
    needs: ClassVar[Literal["masks", "scores", "nothing"]] = "nothing"

    def __init__(self, options: NoOptions | None = None) -> None:
        self._options = options or NoOptions()

    def wanted_labels(self, model_labels: Sequence[str]) -> tuple[str, ...]:
        """Return the labels that were asked for; none need be.

        Raises:
            ConfigError: If the model does not know one.
        """
        subject = self._options.subject
        return resolve_subject(subject, model_labels) if subject else ()

    def _render(self, frame: Frame, segmentation: Segmentation | None) -> av.VideoFrame:
        return frame.video
