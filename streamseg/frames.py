"""Frame and StreamInfo: what travels through a pipeline, and what is known of where it came from.

A frame stays an ``av.VideoFrame`` in the pixel format that it was decoded to, from the source to
the sink; numpy views of its planes are made where somebody needs them and never own the memory.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import av
    from av.stream import Stream
    from numpy.typing import NDArray

__all__ = ["Colour", "Frame", "StreamInfo", "luma_plane", "plane_view"]


@dataclass(frozen=True, slots=True)
class Frame:
    """One picture with its place in the stream.

    Attributes:
        video: The picture. Whoever holds a ``Frame`` may read it, nobody may write into it.
        index: Counts from 0 for each source; a gap means that frames were dropped.
        captured_s: When the source had the frame, in seconds of ``time.monotonic``.
    """

    video: av.VideoFrame
    index: int
    captured_s: float

    @property
    def width(self) -> int:
        """Width in pixels."""
        return self.video.width

    @property
    def height(self) -> int:
        """Height in pixels."""
        return self.video.height

    @property
    def pixel_format(self) -> str:
        """FFmpeg's name of the pixel format, for example ``yuv420p``."""
        return self.video.format.name

    @property
    def pts(self) -> int | None:
        """Presentation time stamp in units of ``time_base``, as the source had it."""
        return self.video.pts

    @property
    def time_base(self) -> Fraction:
        """Seconds per unit of ``pts``."""
        base = self.video.time_base
        return base if base is not None else Fraction(1, 1_000_000)

    @property
    def pts_s(self) -> float | None:
        """Presentation time in seconds."""
        return None if self.pts is None else float(self.pts * self.time_base)

    def with_video(self, video: av.VideoFrame) -> Frame:
        """Return this frame with another picture, which takes over the time stamps.

        Args:
            video: The new picture, of any size and pixel format.
        """
        video.pts = self.video.pts
        video.time_base = self.time_base
        if self.video.duration:
            video.duration = self.video.duration
        return replace(self, video=video)

    def __repr__(self) -> str:
        return (
            f"Frame(index={self.index}, {self.width}x{self.height} {self.pixel_format}, "
            f"pts={self.pts}*{self.time_base})"
        )


@dataclass(frozen=True, slots=True)
class Colour:
    """How samples map to light, as FFmpeg's enumerations (ISO/IEC 23091-2 code points).

    Attributes:
        space: Matrix coefficients; 1 BT.709, 5 and 6 BT.601, 9 BT.2020, 2 unknown, 0 RGB.
        range: 1 limited, 2 full, 0 unknown.
        primaries: 1 BT.709, 5 and 6 BT.601, 9 BT.2020, 2 unknown.
        transfer: 1 BT.709, 16 PQ, 18 HLG, 2 unknown.
    """

    space: int = 2
    range: int = 0
    primaries: int = 2
    transfer: int = 2

    @staticmethod
    def of(video: Any) -> Colour:
        """Read the colour description of an ``av.VideoFrame`` or a video codec context."""
        return Colour(
            space=int(video.colorspace),
            range=int(video.color_range),
            primaries=int(video.color_primaries),
            transfer=int(video.color_trc),
        )

    def resolved(self, height: int, pixel_format: str) -> Colour:
        """Return this with matrix and range filled in where the stream does not say.

        Args:
            height: Height of the picture in pixels: by custom BT.709 above 576 lines, BT.601 below.
            pixel_format: FFmpeg's name; the ``yuvj`` formats are full range by definition.
        """
        space = self.space
        if space in (2, 3):
            space = 1 if height > 576 else 6
        full = pixel_format.startswith("yuvj")
        return replace(self, space=space, range=2 if full else (self.range or 1))


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """What a source knows of its stream once it is open.

    Attributes:
        name: For messages: the path or URL as given, without credentials, printable.
        files: Real paths of the files that are read; no sink may write to one of them.
        width: Width in pixels of the frames that the source delivers, rotation applied.
        height: Height in pixels, rotation applied.
        pixel_format: FFmpeg's name of the frames' pixel format.
        time_base: Seconds per unit of pts.
        average_rate: Frames per second, None where the stream does not say.
        live: True where frames cannot wait (camera, network), False for files.
        frame_count: Number of frames to expect, None where unknown; an estimate, for progress.
        duration_s: Length in seconds, None where unknown.
        sample_aspect_ratio: Width to height of one sample; 1 for square pixels.
        colour: The stream's colour description.
        side_streams: Audio, subtitle, data and attachment streams whose packets come with the
            frames; they belong to the source and are valid while it is open, and not shown in the
            repr: looking at one after that ends the process.
        metadata: The container's tags.
        video_metadata: The video stream's tags (language, title).
        chapters: As ``av`` gives them: dicts of id, start, end, time_base, metadata.
    """

    name: str
    width: int
    height: int
    pixel_format: str
    time_base: Fraction
    average_rate: Fraction | None = None
    live: bool = False
    frame_count: int | None = None
    duration_s: float | None = None
    sample_aspect_ratio: Fraction = Fraction(1)
    colour: Colour = Colour()
    side_streams: Sequence[Stream] = field(default=(), repr=False)
    metadata: Mapping[str, str] = field(default_factory=dict)
    video_metadata: Mapping[str, str] = field(default_factory=dict)
    chapters: Sequence[Any] = ()
    files: Sequence[str] = ()


def plane_view(video: av.VideoFrame, plane: int) -> NDArray[Any]:
    """Return one plane as a view without its padding.

    Args:
        video: A frame of a planar format with 8 bits, or 9 to 16 bits in two bytes, a sample.
        plane: Index of the plane: 0 luma, 1 and 2 chroma, 3 alpha.

    Returns:
        (H, W) uint8 or uint16, sharing the frame's memory; rows are ``line_size`` bytes apart.
    """
    source = video.planes[plane]
    wide = video.format.components[0].bits > 8
    dtype = np.dtype("<u2") if wide else np.dtype(np.uint8)
    # The stubs do not say that a plane is a buffer.
    rows: NDArray[Any] = np.frombuffer(source, dtype=np.uint8)  # type: ignore[call-overload]
    rows = rows[: source.height * source.line_size].reshape(source.height, source.line_size)
    return rows.view(dtype)[:, : source.width]


def luma_plane(video: av.VideoFrame) -> NDArray[Any]:
    """Return the luma plane of a planar YUV or grey frame: (H, W) uint8 or uint16, a view."""
    return plane_view(video, 0)


def luma_bits(video: av.VideoFrame) -> int:
    """Return how many bits the values of ``luma_plane`` span: 8 for 0 to 255.

    P010 and its like have their 10 or 12 bits at the upper end of 16, the planar formats at the
    lower one.
    """
    return 16 if video.format.name.startswith("p01") else int(video.format.components[0].bits)
