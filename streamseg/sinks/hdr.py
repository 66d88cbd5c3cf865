"""HDR10 metadata: the mastering display and the light levels that frames carry.

FFmpeg hands these from a decoder to an encoder through a context field that PyAV does not show, so
they are read from the first frame and given to the encoder as options.

Source: SMPTE ST 2086 (mastering display), CTA-861.3 (content light level); the layout of FFmpeg's
``AVMasteringDisplayMetadata`` and ``AVContentLightMetadata``.
"""

from __future__ import annotations

import struct
from fractions import Fraction
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    import av

__all__ = ["add_hdr_options"]

_CHROMATICITY_STEPS = 50_000  # of 1.0
_LUMINANCE_STEPS = 10_000  # of 1 candela per square metre
_OPTION = {
    "libx265": ("x265-params", "master-display", "max-cll"),
    "libx264": ("x264-params", "mastering-display", "cll"),
}


def add_hdr_options(options: dict[str, str], encoder: str, frame: av.VideoFrame) -> None:
    """Add what the frame says of its mastering to the encoder's options.

    Args:
        options: The encoder's, changed in place; what the user set there wins.
        encoder: FFmpeg's name; others than libx264 and libx265 are left alone.
        frame: The first picture.
    """
    if encoder not in _OPTION:
        return
    name, display_key, light_key = _OPTION[encoder]
    params = [options[name]] if options.get(name) else []
    side_data: Iterable[Any] = frame.side_data  # PyAV's stubs say that it yields names
    for data in side_data:
        kind, raw = data.type.name, bytes(data)
        if kind == "MASTERING_DISPLAY_METADATA" and len(raw) >= 88:
            if (text := _display(raw)) and display_key not in options.get(name, ""):
                params.append(f"{display_key}={text}")
        elif kind == "CONTENT_LIGHT_LEVEL" and len(raw) >= 8:
            maximum, average = struct.unpack_from("=2I", raw)
            if light_key not in options.get(name, ""):
                params.append(f"{light_key}={maximum},{average}")
    if params:
        options[name] = ":".join(params)


def _display(raw: bytes) -> str | None:
    numbers = struct.unpack_from("=22i", raw)
    if not (numbers[20] and numbers[21]):
        return None
    pairs = zip(numbers[0:20:2], numbers[1:20:2], strict=True)
    values = [Fraction(n, d) if d else Fraction(0) for n, d in pairs]
    red_x, red_y, green_x, green_y, blue_x, blue_y, white_x, white_y = (
        round(value * _CHROMATICITY_STEPS) for value in values[:8]
    )
    darkest, brightest = (round(value * _LUMINANCE_STEPS) for value in values[8:])
    return (
        f"G({green_x},{green_y})B({blue_x},{blue_y})R({red_x},{red_y})"
        f"WP({white_x},{white_y})L({brightest},{darkest})"
    )
