"""Colours: names and hexadecimal values, their YUV samples, and the palette of classes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from streamseg.effects.options import nearest
from streamseg.errors import ConfigError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from streamseg.frames import Colour

__all__ = [
    "COLOUR_NAMES",
    "RGB",
    "class_colour",
    "is_colour",
    "parse_colour",
    "yuv_arrays",
    "yuv_samples",
]

RGB = tuple[int, int, int]
"""Red, green and blue, 0 to 255 each."""

COLOUR_NAMES = {
    "black": "#000000",
    "white": "#ffffff",
    "gray": "#808080",
    "grey": "#808080",
    "silver": "#c0c0c0",
    "red": "#ff0000",
    "green": "#008000",
    "lime": "#00ff00",
    "blue": "#0000ff",
    "navy": "#000080",
    "yellow": "#ffff00",
    "orange": "#ffa500",
    "purple": "#800080",
    "magenta": "#ff00ff",
    "pink": "#ffc0cb",
    "cyan": "#00ffff",
    "teal": "#008080",
    "olive": "#808000",
    "maroon": "#800000",
    "brown": "#a52a2a",
    "beige": "#f5f5dc",
    "chroma-green": "#00b140",
    "chroma-blue": "#0047bb",
}
"""CSS names, and the usual colours of green and blue screens."""

_SELFIE: RGB = (38, 166, 154)

# Luma weights of red and blue by matrix number (ISO/IEC 23091-2, table 4)
_WEIGHTS = {
    1: (0.2126, 0.0722),
    4: (0.30, 0.11),
    7: (0.212, 0.087),
    9: (0.2627, 0.0593),
    10: (0.2627, 0.0593),
}


def is_colour(text: str) -> bool:
    """Return whether ``parse_colour`` would take this."""
    try:
        parse_colour(text)
    except ConfigError:
        return False
    return True


def parse_colour(text: str) -> RGB:
    """Return the red, green and blue, 0 to 255, of a colour.

    Args:
        text: A name of ``COLOUR_NAMES``, ``#rgb`` or ``#rrggbb``; case does not matter.

    Raises:
        ConfigError: If it is neither.
    """
    value = COLOUR_NAMES.get(text.strip().lower(), text.strip())
    digits = value.removeprefix("#")
    if value.startswith("#") and len(digits) in (3, 6):
        if len(digits) == 3:
            digits = "".join(digit * 2 for digit in digits)
        try:
            red, green, blue = bytes.fromhex(digits)
        except ValueError:
            pass
        else:
            return red, green, blue
    hint = "" if value.startswith("#") else nearest(value, tuple(COLOUR_NAMES))
    raise ConfigError(f"colour must be a name or #rrggbb, got {text!r}{hint}")


def yuv_samples(rgb: RGB, colour: Colour, bits: int) -> RGB:
    """Return Y, U and V of a colour (ITU-T H.273, equations 26 to 40).

    Args:
        rgb: 0 to 255 each.
        colour: With matrix and range filled in (``Colour.resolved``).
        bits: Bits of a sample.
    """
    red, green, blue = (value / 255.0 for value in rgb)
    kr, kb = _WEIGHTS.get(colour.space, (0.299, 0.114))
    luma = kr * red + (1.0 - kr - kb) * green + kb * blue
    chroma = (blue - luma) / (2.0 - 2.0 * kb), (red - luma) / (2.0 - 2.0 * kr)
    peak = (1 << bits) - 1
    if colour.range == 2:
        samples = (luma * peak, *(c * peak + (1 << (bits - 1)) for c in chroma))
    else:
        unit = 1 << (bits - 8)
        samples = ((16 + 219 * luma) * unit, *((128 + 224 * c) * unit for c in chroma))
    y, u, v = (min(peak, max(0, round(sample))) for sample in samples)
    return y, u, v


def yuv_arrays(
    rgb: NDArray[np.uint8], colour: Colour, bits: int
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Return Y, U and V of a picture, not rounded; see ``yuv_samples``.

    Args:
        rgb: (H, W, 3) uint8.
        colour: With matrix and range filled in.
        bits: Bits of a sample.

    Returns:
        (H, W) float32 each.
    """
    red, green, blue = (rgb[:, :, part].astype(np.float32) / np.float32(255) for part in range(3))
    kr, kb = _WEIGHTS.get(colour.space, (0.299, 0.114))
    luma = np.float32(kr) * red + np.float32(1.0 - kr - kb) * green + np.float32(kb) * blue
    first = (blue - luma) / np.float32(2.0 - 2.0 * kb)
    second = (red - luma) / np.float32(2.0 - 2.0 * kr)
    middle = np.float32(1 << (bits - 1))
    if colour.range == 2:
        peak = np.float32((1 << bits) - 1)
        return luma * peak, first * peak + middle, second * peak + middle
    unit = np.float32(1 << (bits - 8))
    chroma = np.float32(224) * unit
    luma = (np.float32(16) + np.float32(219) * luma) * unit
    return luma, first * chroma + middle, second * chroma + middle


def class_colour(label: str, index: int) -> RGB:
    """Return the colour of a class.

    Args:
        label: Its name.
        index: Its place among the model's labels.

    Returns:
        For SELFIE a calm teal; otherwise entry ``index`` of the palette of PASCAL VOC (the
        development kit's ``VOCcolormap``: the index's bits, taken in threes, fill red, green and
        blue from the highest bit down). Entry 0 is black there: that becomes the teal as well.
    """
    if label == "SELFIE" or index == 0:
        return _SELFIE
    channels = [0, 0, 0]
    for shift in range(8):
        for channel in range(3):
            channels[channel] |= (index >> (3 * shift + channel) & 1) << (7 - shift)
    return channels[0], channels[1], channels[2]
