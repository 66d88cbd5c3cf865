"""ReplaceEffect: another background: a colour, a picture or a looping video."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from streamseg.effects.background import open_background
from streamseg.effects.base import MaskedEffect
from streamseg.effects.colours import is_colour
from streamseg.effects.options import EffectOptions, SideOptions, check_choice
from streamseg.errors import ConfigError

if TYPE_CHECKING:
    import av
    from numpy.typing import NDArray

    from streamseg.frames import Frame

__all__ = ["ReplaceEffect", "ReplaceOptions"]

_CHOKE = 1.5


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplaceOptions(SideOptions):
    """Options of ``replace``.

    Attributes:
        background: A colour (name or ``#rrggbb``), or the path of a picture or a video;
            a ``Path`` is never taken for a colour.
        fit: ``cover`` fills the frame and cuts what is too much, ``contain`` shows all on black.
    """

    background: str | os.PathLike[str] = "chroma-green"
    fit: str = "cover"

    def _check(self) -> None:
        SideOptions._check(self)
        given = self.background
        value = os.fspath(given) if isinstance(given, os.PathLike) else given
        if not isinstance(value, str) or not value.strip():
            raise ConfigError(
                f"background must be a colour or the path of a picture or a video, got {given!r}"
            )
        if value is not given and is_colour(value):
            value = os.path.join(os.curdir, value)
        object.__setattr__(self, "background", value)
        check_choice("fit", self.fit, ("cover", "contain"))


class ReplaceEffect(MaskedEffect):
    """Puts the subject before another background, or something else in the subject's place.

    A pixel on the edge still holds the old background's colour. So the new one reaches a little
    into the soft edge: half of what was subject there at half coverage. Without a mask only the
    new background shows.

    Args:
        options: See ``ReplaceOptions``.

    Raises:
        ConfigError: If the background cannot be read.
    """

    options_type: ClassVar[type[EffectOptions]] = ReplaceOptions

    def __init__(self, options: ReplaceOptions) -> None:
        super().__init__(options, coloured=True)
        self._background = open_background(os.fspath(options.background), options.fit)

    def close(self) -> None:
        """Release the background's file, graphs and pictures."""
        super().close()
        self._background.close()

    def _merged_amount(self, amount: NDArray[np.float32]) -> NDArray[np.float32]:
        if self._options.on == "subject":
            return amount
        choked: NDArray[np.float32] = np.minimum(amount * np.float32(_CHOKE), np.float32(1.0))
        return choked

    def _altered(
        self, video: av.VideoFrame, amount: NDArray[np.float32], frame: Frame
    ) -> av.VideoFrame:
        time_s = frame.pts_s
        return self._background.picture(video, frame.captured_s if time_s is None else time_s)

    def _hide(self, video: av.VideoFrame, frame: Frame) -> av.VideoFrame:
        return self._altered(video, np.ones((1, 1), np.float32), frame)
