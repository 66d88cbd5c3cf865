"""From the frames' pixel format to the encoder's: choice, colour, and the conversion itself.

The conversion is an FFmpeg filter graph, and so is "no conversion": PyAV's ``encode`` writes into
the frame that it is given (time stamps), and the picture type that a decoder left in a frame forces
the encoder's decisions. A frame may be in the hands of other sinks in other threads at that moment,
and PyAV cannot copy one, but a graph of ``buffer`` and ``buffersink`` alone gives a new frame that
refers to the same memory, in 6 microseconds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import av
import av.error
from av.codec.codec import PixFmtLoss, find_best_pix_fmt_of_list
from av.filter import Graph
from av.video.format import VideoFormat

from streamseg.frames import Colour, plane_view

if TYPE_CHECKING:
    from av.filter.context import FilterContext

__all__ = [
    "Conform",
    "Picture",
    "can_pad",
    "choose_format",
    "describe_loss",
    "has_alpha",
    "output_colour",
    "software_formats",
]

_HARDWARE = frozenset(
    "cuda vaapi qsv d3d11 d3d11va_vld d3d12 videotoolbox_vld vulkan amf drm_prime mediacodec "
    "dxva2_vld opencl vdpau".split()
)
_PLAYABLE = ("yuv420p", "yuv420p10le")
_FOR_PLAYERS = frozenset({"h264", "hevc", "vp8", "vp9", "av1", "mpeg4", "mpeg2video", "flv1"})
_MATRIX = {1: "bt709", 4: "fcc", 5: "bt601", 6: "bt601", 7: "smpte240m", 9: "bt2020", 10: "bt2020"}


@dataclass(frozen=True, slots=True)
class Picture:
    """What an encoder gets.

    Attributes:
        pixel_format: FFmpeg's name.
        width: In pixels, with padding.
        height: In pixels, with padding.
        pad_right: Columns that repeat the last one.
        pad_bottom: Rows that repeat the last one.
        colour: How the samples are to be read.
    """

    pixel_format: str
    width: int
    height: int
    pad_right: int
    pad_bottom: int
    colour: Colour


def has_alpha(pixel_format: str) -> bool:
    """Return whether pictures of this format have an alpha channel (palettes do not count)."""
    video_format = VideoFormat(pixel_format)
    return not video_format.has_palette and any(c.is_alpha for c in video_format.components)


def software_formats(codec: av.Codec) -> list[str]:
    """Return the pixel formats in memory that an encoder takes; empty where it does not say."""
    return [f.name for f in codec.video_formats or () if f.name not in _HARDWARE]


def choose_format(source: str, codec: av.Codec) -> tuple[str, PixFmtLoss]:
    """Return the pixel format to encode in, and what it loses.

    A format that the encoder takes is left alone. RGB, grey and palette pictures become 4:2:0 in
    the codecs that players decode in hardware; anything else becomes what is closest.

    Args:
        source: The frames' pixel format.
        codec: The encoder.
    """
    allowed = software_formats(codec)
    if not allowed:
        return source, PixFmtLoss.NONE
    found = VideoFormat(source)
    alpha = has_alpha(source)
    if codec.canonical_name in _FOR_PLAYERS and not alpha:
        if found.is_rgb or found.has_palette or source.startswith(("gray", "mono", "ya")):
            allowed = [name for name in _PLAYABLE if name in allowed] or allowed
        else:
            allowed = [name for name in allowed if not VideoFormat(name).is_rgb] or allowed
    if codec.canonical_name == "mjpeg":
        # JPEG is full range by definition; the others are refused as non-standard.
        allowed = [name for name in allowed if name.startswith("yuvj")] or allowed
        source = source.replace("yuv4", "yuvj4") if f"yuvj{source[3:]}" in allowed else source
    if not alpha:
        allowed = [name for name in allowed if not has_alpha(name)] or allowed
    if source in allowed:
        return source, PixFmtLoss.NONE
    plain = source.replace("yuvj", "yuv")
    if plain in allowed:
        return plain, PixFmtLoss.NONE  # the range goes into the colour description instead
    best, found_loss = find_best_pix_fmt_of_list(allowed, source, alpha)
    loss = PixFmtLoss(found_loss)
    if source.startswith("gray"):
        loss &= PixFmtLoss.DEPTH  # there is no colour to lose
    return (best.name if best is not None else allowed[0]), loss


def describe_loss(loss: PixFmtLoss) -> str:
    """Return in words what a conversion loses, empty where that is nothing that can be seen."""
    names = {
        PixFmtLoss.RESOLUTION: "colour is kept at a lower resolution",
        PixFmtLoss.DEPTH: "bit depth is reduced",
        PixFmtLoss.ALPHA: "alpha is lost",
        PixFmtLoss.COLORQUANT: "the number of colours is reduced",
        PixFmtLoss.CHROMA: "colour is lost",
    }
    return ", ".join(text for flag, text in names.items() if loss & flag)


def output_colour(frame: av.VideoFrame, stream: Colour, target: str) -> Colour:
    """Return the colour description of the encoded pictures.

    YUV keeps what it says, also where it says nothing. RGB becomes BT.709 above 576 lines and
    BT.601 below, limited range. Grey keeps its range, full where it does not say.

    Args:
        frame: A picture before conversion.
        stream: What the stream says where the frame does not.
        target: The pixel format to encode in.
    """
    own = Colour.of(frame)
    own = Colour(
        space=stream.space if own.space == 2 else own.space,
        range=own.range or stream.range,
        primaries=stream.primaries if own.primaries == 2 else own.primaries,
        transfer=stream.transfer if own.transfer == 2 else own.transfer,
    )
    name = frame.format.name
    to_rgb = VideoFormat(target).is_rgb or VideoFormat(target).has_palette
    if to_rgb:
        return replace(own, space=0, range=2)
    if target.startswith("yuvj"):
        own = replace(own, range=2) if _is_yuv(name) else own
    if name.startswith("yuvj"):
        return replace(own, range=2)
    if name.startswith(("gray", "ya", "mono")):
        return replace(own, range=own.range or 2)
    if not _is_yuv(name):
        large = frame.height > 576
        matrix = 1 if large else 6
        return Colour(
            space=matrix,
            range=2 if target.startswith("yuvj") else 1,
            primaries=matrix if own.primaries == 2 else own.primaries,
            transfer=matrix if own.transfer == 2 else own.transfer,
        )
    return own


def _is_yuv(name: str) -> bool:
    video_format = VideoFormat(name)
    if video_format.is_rgb or video_format.has_palette or video_format.is_bayer:
        return False
    return any(c.is_chroma for c in video_format.components)


def can_pad(pixel_format: str) -> bool:
    """Return whether pictures of this format can be padded: one component in each plane."""
    video_format = VideoFormat(pixel_format)
    planes = [component.plane for component in video_format.components]
    return not video_format.has_palette and len(set(planes)) == len(planes)


def _padded(video: av.VideoFrame, picture: Picture) -> av.VideoFrame:
    """Return the picture with its last column and row repeated.

    FFmpeg's ``pad`` rounds an odd 4:2:0 picture down to whole chroma samples first, and so loses
    the very column that padding is to save.
    """
    larger = av.VideoFrame(picture.width, picture.height, picture.pixel_format)
    for index in range(len(video.planes)):
        old, new = plane_view(video, index), plane_view(larger, index)
        height, width = old.shape
        new[:height, :width] = old
        new[:height, width:] = old[:, -1:]
        new[height:] = new[height - 1]
    return larger


class Conform:
    """Gives frames of any size and format as new frames that an encoder may have for itself.

    Args:
        picture: What comes out, always.
    """

    def __init__(self, picture: Picture) -> None:
        self._picture = picture
        self._graph: tuple[tuple[object, ...], Graph, FilterContext, FilterContext] | None = None

    def apply(self, frame: av.VideoFrame) -> av.VideoFrame:
        """Return the picture converted, or another reference to it; the frame is not changed."""
        colour = Colour.of(frame)
        key = (frame.width, frame.height, frame.format.name, colour.space, colour.range)
        if self._graph is None or self._graph[0] != key:
            self._graph = (key, *self._build(frame, colour))
        _, _, source, sink = self._graph
        source.push(frame)
        result = sink.pull()
        assert isinstance(result, av.VideoFrame)
        if self._picture.pad_right or self._picture.pad_bottom:
            result = _padded(result, self._picture)
        result.pict_type = 0  # a decoder's I, P or B would force the encoder's hand
        return result

    def _build(
        self, frame: av.VideoFrame, colour: Colour
    ) -> tuple[Graph, FilterContext, FilterContext]:
        picture = self._picture
        graph = Graph()
        graph.threads = 1  # the encoder has the cores
        name = frame.format.name
        yuv = _is_yuv(name)
        space = colour.space if yuv or colour.space in (0, 2) else 2
        source = last = graph.add(
            "buffer",
            f"video_size={frame.width}x{frame.height}:pix_fmt={name}:time_base=1/1:"
            f"pixel_aspect=1/1:colorspace={space}:range={colour.range}",
        )

        def chain(filter_name: str, arguments: str) -> None:
            nonlocal last
            node = graph.add(filter_name, arguments)
            last.link_to(node)
            last = node

        width = picture.width - picture.pad_right
        height = picture.height - picture.pad_bottom
        if (frame.width, frame.height, name) != (width, height, picture.pixel_format):
            chain("scale", self._scale(frame, colour, width, height))
            chain("format", f"pix_fmts={picture.pixel_format}")
        sink = graph.add("buffersink")
        last.link_to(sink)
        graph.configure()
        return graph, source, sink

    def _scale(self, frame: av.VideoFrame, colour: Colour, width: int, height: int) -> str:
        """The arguments of a conversion that changes the format and nothing else it need not."""
        name = frame.format.name
        known = colour.resolved(frame.height, name)
        yuv, target = _is_yuv(name), self._picture
        grey = name.startswith(("gray", "ya", "mono"))
        in_range = known.range if yuv else (colour.range or 2) if grey else 2
        out_range = target.colour.range or in_range
        in_matrix = _MATRIX.get(known.space if yuv else target.colour.space)
        if yuv and not VideoFormat(target.pixel_format).is_rgb:
            out_matrix = in_matrix
        else:
            out_matrix = _MATRIX.get(target.colour.space)
        options = [
            f"w={width}:h={height}:flags=bicubic+accurate_rnd+full_chroma_int",
            f"in_range={'full' if in_range == 2 else 'limited'}",
            f"out_range={'full' if out_range == 2 else 'limited'}",
        ]
        if in_matrix is not None:
            options.append(f"in_color_matrix={in_matrix}")
        if out_matrix is not None:
            options.append(f"out_color_matrix={out_matrix}")
        return ":".join(options)
