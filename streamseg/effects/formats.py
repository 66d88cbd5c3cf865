"""Working formats: which pixel format an effect works in and therefore returns.

| the frame has | the effect works in |
|---|---|
| planar YUV or grey, 8 to 16 bits, little endian (also yuvj) | the same; samples stay as they are |
| the same with alpha (yuva) | without alpha; samples stay as they are where it is opaque |
| nv12, nv21, p010, p016, yuyv422, big endian ... | the planar YUV of the same depth, 4:2:0 or finer |
| RGB of any kind, palettes | yuv420p (8 bits) or yuv420p10le, BT.709, limited range |
| black and white, grey with alpha | gray; grey becomes 4:2:0 where an effect brings colours |

RGB becomes 4:2:0 because every player and encoder takes that.

Where alpha is dropped the picture is laid over black: what nobody could see before stays unseen.
``cutout`` keeps alpha instead, multiplied with its own.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import av
import numpy as np

from streamseg.effects.graph import FilterGraph
from streamseg.effects.planes import (
    bit_depth,
    copy_planes,
    neutral_levels,
    new_picture,
    planes_of,
    set_colour,
)
from streamseg.errors import EffectError
from streamseg.frames import Colour

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["PREMULTIPLIED", "Working", "alpha_format", "has_alpha", "working_format"]

_PLANAR = re.compile(r"yuvj?4(?:10|11|20|22|40|44)p(?:(?:9|10|12|14|16)le)?")
_GREY = re.compile(r"gray(?:(?:9|10|12|14|16)le)?")
_ALPHA = re.compile(r"yuva(4(?:20|22|44)p(?:(?:9|10|12|16)le)?)")
PREMULTIPLIED = {
    False: [("format", "gbrap"), ("premultiply", "inplace=1")],
    True: [("format", "gbrap16le"), ("premultiply", "inplace=1")],
}
"""More than 8 bits -> the filters that multiply a picture with its alpha, in RGB."""

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


def has_alpha(video: av.VideoFrame) -> bool:
    """Return whether a picture may be transparent somewhere; palettes may."""
    return video.format.name == "pal8" or any(part.is_alpha for part in video.format.components)


class Working:
    """Brings pictures into their working format, keeping the graph that this takes.

    Args:
        coloured: True where the effect adds colours, so that grey does not do.
        alpha: True where the effect keeps alpha: pictures are not laid over black, and come in a
            format that has a twin with alpha.
    """

    def __init__(self, *, coloured: bool = False, alpha: bool = False) -> None:
        self.coloured = coloured
        self._alpha = alpha
        self._graphs: dict[tuple[tuple[str, str], ...], FilterGraph] = {}

    def target(self, pixel_format: str) -> str:
        """Return the format that ``convert`` gives for a picture of this one."""
        wanted = working_format(pixel_format, coloured=self.coloured)
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
        if not self._alpha and has_alpha(video):
            return self._flatten(video, wanted)
        if plain.replace("yuva", "yuv") == wanted:
            # Same samples, another name: swscale would warn of yuvj and may shift its range
            return _relabel(video, wanted)
        if _GREY.fullmatch(name) and name.replace("gray", "yuv420p") == wanted:
            return _add_chroma(video, wanted)
        return self._scale(video, wanted)

    def close(self) -> None:
        """Release the conversion graphs."""
        for graph in self._graphs.values():
            graph.close()
        self._graphs.clear()

    def _scale(
        self, video: av.VideoFrame, wanted: str, before: Sequence[tuple[str, str]] = ()
    ) -> av.VideoFrame:
        name = video.format.name
        from_rgb = video.format.is_rgb or name.startswith(("pal", "rgb", "bgr", "xyz"))
        if name.startswith("yuvj"):
            video = _relabel(video, name.replace("yuvj", "yuv"))
        colours = ":out_color_matrix=bt709:out_range=tv" if from_rgb else ""
        out = self._filter(
            video, *before, ("scale", "flags=bilinear+accurate_rnd" + colours), ("format", wanted)
        )
        colour = Colour.of(video)
        set_colour(out, replace(colour, space=1, range=1) if from_rgb else colour)
        return out

    def _flatten(self, video: av.VideoFrame, wanted: str) -> av.VideoFrame:
        """Return a picture with alpha laid over black, in its working format."""
        name = video.format.name
        if name.startswith("ya"):
            return self.convert(_grey_over_black(video))
        if video.format.is_rgb or name == "pal8":
            deep = video.format.components[0].bits > 8
            return self._scale(video, wanted, PREMULTIPLIED[deep])
        if not _ALPHA.fullmatch(name):
            video = self._filter(video, ("format", alpha_format(wanted)))
        flat = _over_black(video)
        return flat if flat.format.name == wanted else self._scale(flat, wanted)

    def _filter(self, video: av.VideoFrame, *chain: tuple[str, str]) -> av.VideoFrame:
        if chain not in self._graphs:
            self._graphs[chain] = FilterGraph(chain)
        return self._graphs[chain].process(video)


def _over_black(video: av.VideoFrame) -> av.VideoFrame:
    """Lay planar YUV with alpha over black; samples of opaque pixels stay as they are."""
    out = new_picture(video, video.format.name.replace("yuva", "yuv"))
    *colours, alpha = planes_of(video)
    peak = (1 << bit_depth(video)) - 1
    if alpha.min() == peak:
        copy_planes(video, out)
        return out
    for plane, target, black in zip(colours, planes_of(out), neutral_levels(out), strict=True):
        share = _mean_over(alpha, plane.shape) / np.float32(peak)
        target[:] = (plane - np.float32(black)) * share + np.float32(black + 0.5)
    return out


def _mean_over(alpha: NDArray[Any], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return the mean of the pixels that each sample of a plane stands for: (H, W) float32."""
    if alpha.shape == shape:
        return alpha.astype(np.float32)
    (high, wide), (rows, columns) = alpha.shape, shape
    down, across = -(-high // rows), -(-wide // columns)
    beyond = (0, rows * down - high), (0, columns * across - wide)
    blocks = np.pad(alpha, beyond, mode="edge").reshape(rows, down, columns, across)
    mean: NDArray[np.float32] = blocks.mean(axis=(1, 3), dtype=np.float32)
    return mean


def _grey_over_black(video: av.VideoFrame) -> av.VideoFrame:
    """Lay grey with alpha (``ya8``, ``ya16``), whose samples lie side by side, over black."""
    name, source = video.format.name, video.planes[0]
    out = new_picture(video, "gray" if name == "ya8" else "gray16le")
    kind = np.dtype("u1" if name == "ya8" else ">u2" if name.endswith("be") else "<u2")
    # The stubs do not say that a plane is a buffer.
    data: NDArray[Any] = np.frombuffer(source, np.uint8)  # type: ignore[call-overload]
    pairs = data[: source.height * source.line_size].reshape(source.height, -1).view(kind)
    grey, alpha = pairs[:, 0 : 2 * video.width : 2], pairs[:, 1 : 2 * video.width : 2]
    share = alpha.astype(np.float32) / np.float32(np.iinfo(kind).max)
    black = np.float32(neutral_levels(out)[0])
    planes_of(out)[0][:] = (grey - black) * share + black + np.float32(0.5)
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
