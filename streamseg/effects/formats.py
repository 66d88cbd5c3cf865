"""Working formats: which pixel format an effect works in and therefore returns.

| the frame has | the effect works in |
|---|---|
| planar YUV or grey, 8 to 16 bits, little endian (also yuvj) | the same; samples stay as they are |
| the same with alpha (yuva) | without alpha; ``cutout`` multiplies its own with it |
| nv12, nv21, p010, p016, yuyv422, big endian ... | the planar YUV of the same depth, 4:2:0 or finer |
| RGB of any kind, palettes | yuv420p (8 bits) or yuv420p10le, BT.709, limited range |
| black and white, grey with alpha | gray; grey becomes 4:2:0 where an effect brings colours |

RGB becomes 4:2:0 because every player and encoder takes that.
"""

from __future__ import annotations

import re
from dataclasses import replace

import av
import numpy as np

from streamseg.effects.graph import FilterGraph
from streamseg.effects.planes import copy_planes, new_picture, planes_of, set_colour
from streamseg.errors import EffectError
from streamseg.frames import Colour

__all__ = ["Working", "alpha_format", "working_format"]

_PLANAR = re.compile(r"yuvj?4(?:10|11|20|22|40|44)p(?:(?:9|10|12|14|16)le)?")
_GREY = re.compile(r"gray(?:(?:9|10|12|14|16)le)?")
_ALPHA = re.compile(r"yuva(4(?:20|22|44)p(?:(?:9|10|12|16)le)?)")
_PLANAR_ALPHA = frozenset(
    [f"yuva{s}p" for s in (420, 422, 444)]
    + [f"yuva{s}p{b}le" for s in (420, 422, 444) for b in (9, 10, 16)]
    + [f"yuva{s}p12le" for s in (422, 444)]
)


def working_format(pixel_format: str, *, coloured: bool = False) -> str:
    """Return the pixel format that frames of this format are worked on in.

    Args:
        pixel_format: FFmpeg's name.
        coloured: True where the effect adds colours, so that grey does not do.

    Raises:
        EffectError: If FFmpeg does not know the format or it has no samples (hardware frames).
    """
    if _PLANAR.fullmatch(pixel_format):
        return pixel_format
    if match := _ALPHA.fullmatch(pixel_format):
        return f"yuv{match[1]}"
    if _GREY.fullmatch(pixel_format):
        return pixel_format.replace("gray", "yuv420p") if coloured else pixel_format
    try:
        known = av.VideoFormat(pixel_format)
    except ValueError as exc:
        raise EffectError(f"pixel format {pixel_format!r} is not known to FFmpeg") from exc
    if not known.components:
        raise EffectError(f"pixel format {pixel_format!r} has no samples to work on")
    bits = max(part.bits for part in known.components)
    depth = "" if bits <= 8 else f"p{10 if bits <= 10 else 12 if bits <= 12 else 16}le"
    if pixel_format.startswith(("mono", "ya", "gray")):
        return "yuv420" + (depth or "p") if coloured else "gray" + depth.removeprefix("p")
    if known.is_rgb or pixel_format.startswith(("pal", "bgr", "rgb", "xyz", "bayer")):
        return "yuv420p" if bits <= 8 else "yuv420p10le"
    wide = {"nv16", "nv20le", "p210le", "p212le", "p216le", "yuyv422", "uyvy422", "yvyu422"}
    full = {"nv24", "nv42", "p410le", "p412le", "p416le", "vuyx", "xv30le", "xv36le"}
    kept = re.match(r"yuva?(4\d\d)p", pixel_format)  # big endian and other odd ones
    layout = kept[1] if kept else "422" if pixel_format in wide or pixel_format[:2] == "y2" else ""
    layout = layout or ("444" if pixel_format in full else "420")
    return f"yuv{layout}" + (depth or "p")


def alpha_format(pixel_format: str) -> str:
    """Return the planar format with alpha for a working format.

    FFmpeg has no alpha for 4:1:0, 4:1:1, 4:4:0, for 14 bits and for 12 bits of 4:2:0: the next
    format that keeps all samples is taken, or 10 bits where there is none.
    """
    layout = pixel_format.replace("yuvj", "yuv").removeprefix("yuv")
    layout = layout.replace("440", "444").replace("410", "420").replace("411", "422")
    wanted = f"yuva{layout}"
    return wanted if wanted in _PLANAR_ALPHA else re.sub(r"p\d+le", "p10le", wanted)


class Working:
    """Brings pictures into their working format, keeping the graph that this takes.

    Args:
        coloured: True where the effect adds colours, so that grey does not do.
        pixel_format: Always this format instead of the table's.
    """

    def __init__(self, *, coloured: bool = False, alpha: bool = False) -> None:
        self._coloured = coloured
        self._alpha = alpha
        self._graph: FilterGraph | None = None
        self._key: tuple[str, str] = ("", "")

    def target(self, pixel_format: str) -> str:
        """Return the format that ``convert`` gives for a picture of this one."""
        wanted = working_format(pixel_format, coloured=self._coloured)
        return alpha_format(wanted).replace("yuva", "yuv") if self._alpha else wanted

    def convert(self, video: av.VideoFrame) -> av.VideoFrame:
        """Return the picture in its working format: itself where it already is.

        Raises:
            EffectError: If it cannot be converted.
        """
        name = video.format.name
        wanted = self.target(name)
        plain = name.replace("yuvj", "yuv")
        if wanted == name:
            return video
        if plain.replace("yuva", "yuv") == wanted:
            # Same samples, another name: swscale would warn of yuvj and may shift its range
            return _relabel(video, wanted)
        if _GREY.fullmatch(name) and name.replace("gray", "yuv420p") == wanted:
            return _add_chroma(video, wanted)
        return self._scale(video, wanted)

    def close(self) -> None:
        """Release the conversion graph."""
        if self._graph is not None:
            self._graph.close()
            self._graph = None

    def _scale(self, video: av.VideoFrame, wanted: str) -> av.VideoFrame:
        name = video.format.name
        from_rgb = video.format.is_rgb or name.startswith(("pal", "rgb", "bgr", "xyz"))
        if name.startswith("yuvj"):
            video = _relabel(video, name.replace("yuvj", "yuv"))
        key = (name, wanted)
        if self._graph is None or key != self._key:
            colours = ":out_color_matrix=bt709:out_range=tv" if from_rgb else ""
            self._graph = FilterGraph(
                [("scale", "flags=bilinear+accurate_rnd" + colours), ("format", wanted)]
            )
            self._key = key
        out = self._graph.process(video)
        colour = Colour.of(video)
        set_colour(out, replace(colour, space=1, range=1) if from_rgb else colour)
        return out


def _relabel(video: av.VideoFrame, pixel_format: str) -> av.VideoFrame:
    """Copy the colour planes into a picture of a format with the same samples."""
    out = new_picture(video, pixel_format)
    if video.format.name.startswith("yuvj"):
        out.color_range = 2
    copy_planes(video, out)
    return out


def _add_chroma(video: av.VideoFrame, pixel_format: str) -> av.VideoFrame:
    """Make 4:2:0 of grey; swscale would take the luma for full range whatever its tag says."""
    out = new_picture(video, pixel_format)
    out.color_range = int(video.color_range) or 2
    planes = planes_of(out)
    np.copyto(planes[0], planes_of(video)[0])
    for plane in planes[1:]:
        plane[:] = 1 << (out.format.components[0].bits - 1)
    return out
