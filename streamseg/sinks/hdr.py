"""HDR10 metadata: the mastering display and the light levels that frames carry.

FFmpeg hands these from a decoder to an encoder through a context field that PyAV does not show, so
they are read from the first frame and given to the encoder as options.

Source: SMPTE ST 2086 (mastering display), CTA-861.3 (content light level); the layout of FFmpeg's
``AVMasteringDisplayMetadata`` and ``AVContentLightMetadata``.
"""

from __future__ import annotations

import struct
from fractions import Fraction
from typing import TYPE_CHECKING

from streamseg.side_data import safe_side_data

if TYPE_CHECKING:
    import av

__all__ = ["add_hdr_options"]

_TRANSFERS = (16, 18)  # PQ, HLG: others have no such metadata
_CHROMATICITY_STEPS = 50_000  # of 1.0
_LUMINANCE_STEPS = 10_000  # of 1 candela per square metre
_OPTION = {
    "libx265": ("x265-params", "master-display", "max-cll"),
    "libx264": ("x264-params", "mastering-display", "cll"),
}


def add_hdr_options(
    options: dict[str, str], encoder: str, frame: av.VideoFrame, transfer: int
) -> None:
    """Add what the frame says of its mastering to the encoder's options.

    Args:
        options: The encoder's, changed in place; what the user set there wins.
        encoder: FFmpeg's name; others than libx264 and libx265 are left alone.
        frame: The first picture.
        transfer: The transfer function that is written.
    """
    if encoder not in _OPTION or transfer not in _TRANSFERS:
        return
    name, display_key, light_key = _OPTION[encoder]
    params = [options[name]] if options.get(name) else []
    side_data = safe_side_data(frame, ("MASTERING_DISPLAY_METADATA", "CONTENT_LIGHT_LEVEL"))
    display = side_data.get("MASTERING_DISPLAY_METADATA", b"")
    light = side_data.get("CONTENT_LIGHT_LEVEL", b"")
    if len(display) >= 88 and display_key not in options.get(name, ""):
        if text := _display(display):
            params.append(f"{display_key}={text}")
    if len(light) >= 8 and light_key not in options.get(name, ""):
        maximum, average = struct.unpack_from("=2I", light)
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
