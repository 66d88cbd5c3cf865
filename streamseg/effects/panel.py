"""Panel: lines of text with colour swatches or bars, drawn into a picture's own samples.

The panel is set in type once (Pillow's own typeface) and kept; into a picture only its rectangle is
blended, plane by plane, so that everything else stays as it was.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import av
import cv2
import numpy as np

from streamseg.effects.colours import RGB, yuv_arrays
from streamseg.effects.graph import Port
from streamseg.effects.planes import bit_depth, planes_of
from streamseg.frames import Colour

if TYPE_CHECKING:
    import av
    from numpy.typing import NDArray

__all__ = ["Panel", "PanelLine"]

_GROUND = (18, 18, 20, 190)
_TEXT = (255, 255, 255, 255)
_RIM = (150, 150, 150, 255)  # dark colours would not be seen on the ground
_BAR = (255, 255, 255, 60)
_SMALLEST_PX = 48  # pictures with a shorter side than this have no room for letters
_ALIGN = 4  # the coarsest chroma: one sample for 4 pixels
_MAX_LETTERS = 40
_NOTED = 9.0  # least width of a line with a note, in letters' heights, so that it seldom changes


@dataclass(frozen=True, slots=True)
class PanelLine:
    """One line.

    Attributes:
        text: What it says; what is beyond 40 letters is left out.
        colour: Of a square before it; None for none.
        share: Length of a bar behind it, 0 to 1; None for none.
        note: A word at its other end.
    """

    text: str
    colour: RGB | None = None
    share: float | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class _Drawn:
    """A panel as planes of one format: values and opacities, (h, w) float32 each."""

    values: tuple[NDArray[np.float32], ...]
    opacities: tuple[NDArray[np.float32], ...]
    left: int
    top: int


class Panel:
    """Draws lines of text into a corner of pictures.

    Args:
        corner: ``top-left``, ``top-right``, ``bottom-left`` or ``bottom-right``.
    """

    def __init__(self, corner: str = "bottom-left") -> None:
        self._corner = corner
        self._drawn: _Drawn | None = None
        self._key: tuple[tuple[PanelLine, ...], Port] | None = None

    def draw(self, video: av.VideoFrame, lines: tuple[PanelLine, ...]) -> None:
        """Write the lines into a picture; as many as there is room for.

        Args:
            video: Planar YUV, ours to write into.
            lines: From the top down. None draws nothing.
        """
        if not lines or min(video.width, video.height) < _SMALLEST_PX:
            return
        key = (lines, Port.of(video))
        if self._drawn is None or key != self._key:
            self._drawn, self._key = self._render(video, lines), key
        drawn = self._drawn
        luma = planes_of(video)[0].shape
        for plane, values, opacity in zip(
            planes_of(video), drawn.values, drawn.opacities, strict=True
        ):
            top = drawn.top * plane.shape[0] // luma[0]
            left = drawn.left * plane.shape[1] // luma[1]
            part = plane[top : top + values.shape[0], left : left + values.shape[1]]
            values, opacity = values[: part.shape[0], : part.shape[1]], opacity[: part.shape[0]]
            mixed = part + (values - part) * opacity[:, : part.shape[1]]
            part[:] = mixed + np.float32(0.5)

    def close(self) -> None:
        """Let go of what is kept."""
        self._drawn = self._key = None

    def _render(self, video: av.VideoFrame, lines: tuple[PanelLine, ...]) -> _Drawn:
        picture = _typeset(lines, video.width, video.height)
        rows, columns = picture.shape[:2]
        colour = Colour.of(video).resolved(video.height, video.format.name)
        values = yuv_arrays(picture[:, :, :3], colour, bit_depth(video))
        opacity = picture[:, :, 3].astype(np.float32) / np.float32(255)
        gap = _aligned(min(video.width, video.height) // 40)
        left = gap if self._corner.endswith("left") else video.width - columns - gap
        top = gap if self._corner.startswith("top") else video.height - rows - gap
        left, top = max(0, left // _ALIGN * _ALIGN), max(0, top // _ALIGN * _ALIGN)
        planes = planes_of(video)
        parts: list[tuple[NDArray[np.float32], NDArray[np.float32]]] = []
        for plane, value in zip(planes, values, strict=True):
            down = round(video.height / plane.shape[0])
            across = round(video.width / plane.shape[1])
            parts.append(_shrunk(value, opacity, columns // across, rows // down))
        return _Drawn(tuple(v for v, _ in parts), tuple(o for _, o in parts), left, top)


def _shrunk(
    value: NDArray[np.float32], opacity: NDArray[np.float32], columns: int, rows: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return values and opacities at a plane's resolution, the values weighted by opacity."""
    if value.shape == (rows, columns):
        return value, opacity
    size = (columns, rows)
    share: NDArray[Any] = cv2.resize(opacity, size, interpolation=cv2.INTER_AREA)
    mean: NDArray[Any] = cv2.resize(value * opacity, size, interpolation=cv2.INTER_AREA)
    share, mean = share.reshape(rows, columns), mean.reshape(rows, columns)
    return mean / np.maximum(share, np.float32(1e-6)), share


def _aligned(length: float) -> int:
    return -(-round(length) // _ALIGN) * _ALIGN


def _typeset(lines: tuple[PanelLine, ...], width: int, height: int) -> NDArray[np.uint8]:
    """Return the panel as (h, w, 4) uint8 RGBA, no larger than the picture, h and w aligned."""
    from PIL import Image, ImageDraw, ImageFont

    short = min(width, height)
    letter = max(9, round(short * 0.03))
    font: Any = ImageFont.load_default(letter)
    step, pad = round(letter * 1.5), round(letter * 0.6)
    room = max(1, (height - 2 * pad) // step)
    shown = [(line, line.text[:_MAX_LETTERS]) for line in lines[:room]]
    widest = max(
        max(font.getlength(text), _NOTED * letter * bool(line.note)) + font.getlength(line.note)
        for line, text in shown
    )
    square = round(letter * 0.9)
    indent = square + pad if any(line.colour is not None for line, _ in shown) else 0
    columns = min(_aligned(widest + indent + 2 * pad), width // _ALIGN * _ALIGN)
    rows = min(_aligned(len(shown) * step + pad), height // _ALIGN * _ALIGN)
    image = Image.new("RGBA", (columns, rows), (*_GROUND[:3], 0))
    draw = ImageDraw.Draw(image)
    draw.rounded_rectangle((0, 0, columns - 1, rows - 1), radius=pad * 0.8, fill=_GROUND)
    for number, (line, text) in enumerate(shown):
        top = pad // 2 + number * step
        if line.share is not None:
            length = (columns - pad) * min(1.0, max(0.0, line.share))
            if length >= 2:
                bar = _mixed(_GROUND, _BAR)
                box = (pad / 2, top + 1, pad / 2 + length, top + step - 2)
                draw.rounded_rectangle(box, radius=pad * 0.5, fill=bar)
        middle = top + step / 2
        if line.colour is not None:
            swatch = (pad, middle - square / 2, pad + square, middle + square / 2)
            draw.rounded_rectangle(swatch, radius=2, fill=(*line.colour, 255), outline=_RIM)
        draw.text((pad + indent, middle), text, font=font, fill=_TEXT, anchor="lm")
        if line.note:
            place = (columns - pad, middle)
            draw.text(place, line.note, font=font, fill=_TEXT, anchor="rm")
    return np.asarray(image, np.uint8)


def _mixed(ground: tuple[int, ...], over: tuple[int, ...]) -> tuple[int, ...]:
    """Return a colour laid over the ground: Pillow's drawing replaces what is there."""
    share = over[3] / 255
    red, green, blue = (
        round(low + (high - low) * share) for low, high in zip(ground[:3], over[:3], strict=True)
    )
    return red, green, blue, max(ground[3], over[3])
