"""Palettes: which colour stands for which class, and for which of several objects."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from streamseg.effects.colours import RGB, class_colour
from streamseg.models.labels import VOC_LABELS

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["distinct_colour", "palette"]

_GOLDEN_ANGLE = math.pi * (3.0 - math.sqrt(5.0))
_FIRST_HUE = 3.2  # teal: the first class is often the person
# One after the other, so that neighbours differ in more than their hue.
_TONES = ((0.74, 0.135), (0.56, 0.17), (0.86, 0.10))
_BACKGROUND = "BACKGROUND"


def palette(labels: Sequence[str]) -> tuple[RGB, ...]:
    """Return a colour for each of a model's labels.

    The classes of PASCAL VOC have the colours of that data set, which people know from its masks,
    and a selfie model's person is teal. All others get ``distinct_colour``, the background not
    counted.

    Args:
        labels: All labels of the model, in its order.
    """
    if _is_voc(labels) or "SELFIE" in labels:
        return tuple(class_colour(label, index) for index, label in enumerate(labels))
    colours = []
    used = 0
    for label in labels:
        colours.append(distinct_colour(used))
        used += label.upper() != _BACKGROUND
    return tuple(colours)


def distinct_colour(index: int) -> RGB:
    """Return a colour that differs well from those of other small indices.

    Hues are a golden angle apart, so that any number of them is spread evenly, and lightness and
    chroma alternate. In OKLCH, where equal steps look equal (Ottosson, "A perceptual color space
    for image processing", 2020).

    Args:
        index: 0 or more.
    """
    lightness, chroma = _TONES[index % len(_TONES)]
    hue = _FIRST_HUE + index * _GOLDEN_ANGLE
    while True:
        linear = _linear_rgb(lightness, chroma * math.cos(hue), chroma * math.sin(hue))
        if all(0.0 <= value <= 1.0 for value in linear) or chroma < 0.01:
            break
        chroma *= 0.9  # screens do not have it as vivid
    red, green, blue = (round(255 * _encoded(value)) for value in linear)
    return red, green, blue


def _is_voc(labels: Sequence[str]) -> bool:
    plain = tuple("".join(filter(str.isalnum, label.upper())) for label in labels)
    return len(plain) == len(VOC_LABELS) and plain[1:20] == VOC_LABELS[1:20]


def _linear_rgb(lightness: float, a: float, b: float) -> tuple[float, float, float]:
    """Return linear sRGB of a colour in Oklab."""
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    return (
        4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short,
        -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short,
        -0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short,
    )


def _encoded(value: float) -> float:
    """Return the sRGB code value, 0 to 1, of a linear one (IEC 61966-2-1)."""
    value = min(1.0, max(0.0, value))
    return 12.92 * value if value <= 0.0031308 else 1.055 * value ** (1.0 / 2.4) - 0.055
