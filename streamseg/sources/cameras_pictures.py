"""What a camera delivers, as 4:2:0 frames: motion JPEG, packed YUV, planar YUV, or BGR.

Taken raw where the back end allows it: OpenCV's own way goes over BGR. That costs packed YUV 6 ms
at 1080p instead of 0.3. Motion JPEG takes 8 ms either way; raw, it keeps its full range, and its
colour is not converted twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import av
import av.error
import numpy as np
from av.filter import Graph

from streamseg.frames import Colour

if TYPE_CHECKING:
    from av.filter.context import FilterContext
    from av.video.codeccontext import VideoCodecContext
    from numpy.typing import NDArray

__all__ = ["CameraPictures", "UnknownLayoutError"]

_PACKED = {"YUYV": "yuyv422", "YUY2": "yuyv422", "UYVY": "uyvy422", "YVYU": "yvyu422"}
_PLANAR = {"NV12": "nv12", "NV21": "nv21", "YU12": "yuv420p", "I420": "yuv420p"}
_MATRIX = {1: "bt709", 6: "bt601"}
_BT601, _LIMITED, _FULL = 6, 1, 2


class UnknownLayoutError(ValueError):
    """An array is none of the layouts that are known."""


@dataclass(frozen=True, slots=True)
class _Layout:
    pixel_format: str
    width: int
    height: int
    full_range: bool


class CameraPictures:
    """Turns the arrays of a capture into frames.

    Args:
        mirror: Whether left and right change places.
    """

    def __init__(self, *, mirror: bool = False) -> None:
        self._mirror = mirror
        self._decoder: VideoCodecContext | None = None
        self._layout: _Layout | None = None
        self._ends: tuple[Graph, FilterContext, FilterContext] | None = None

    def convert(
        self, data: NDArray[np.uint8], four_letters: str, width: int, height: int
    ) -> av.VideoFrame | None:
        """Return the picture in ``yuv420p``, tagged with its matrix and range.

        Motion JPEG stays BT.601 in full range, YUV in limited range, as the USB video class says;
        BGR becomes BT.709 above 576 lines and BT.601 below, limited range.

        Args:
            data: (H, W, 3) BGR, (H, W, 2) packed YUV, (H * 3/2, W) planar YUV, (H, W) grey, or the
                bytes of one JPEG or of a packed picture in one row or column; uint8.
            four_letters: The format that the camera was set to, as far as known.
            width: That the camera was set to, in pixels.
            height: In pixels.

        Returns:
            None if it is a JPEG that cannot be decoded.

        Raises:
            UnknownLayoutError: If the array is none of these.
        """
        if _is_jpeg(data):
            decoded = self._decode(data)
            return None if decoded is None else self._finish(decoded, full_range=True)
        return self._finish(_frame_of(data, four_letters, width, height), full_range=False)

    def _decode(self, data: NDArray[np.uint8]) -> av.VideoFrame | None:
        if self._decoder is None:
            self._decoder = av.CodecContext.create("mjpeg", "r")
            self._decoder.thread_count = 1  # threads would hold pictures back
        try:
            frames = self._decoder.decode(av.Packet(data.tobytes()))
        except av.error.FFmpegError:
            self._decoder = None
            return None
        return frames[-1] if frames else None

    def _finish(self, video: av.VideoFrame, *, full_range: bool) -> av.VideoFrame:
        layout = _Layout(video.format.name, video.width, video.height, full_range)
        if layout != self._layout:
            self._ends = self._build(layout, Colour.of(video))
            self._layout = layout
        if self._ends is not None:
            _, source, sink = self._ends
            source.push(video)
            result = sink.pull()
            assert isinstance(result, av.VideoFrame)
            video = result
        video.colorspace = _matrix_of(layout)
        video.color_range = _FULL if full_range else _LIMITED
        return video

    def _build(
        self, layout: _Layout, own: Colour
    ) -> tuple[Graph, FilterContext, FilterContext] | None:
        if layout.pixel_format == "yuv420p" and not self._mirror:
            return None
        graph = Graph()
        graph.threads = 1
        matrix = _MATRIX[_matrix_of(layout)]
        is_bgr = layout.pixel_format == "bgr24"
        wide = layout.full_range or is_bgr or layout.pixel_format == "gray"
        options = (
            f"in_range={'full' if wide else 'limited'}:flags=bicubic:"
            f"out_range={'full' if layout.full_range else 'limited'}:out_color_matrix={matrix}"
        )
        if not is_bgr:
            options += f":in_color_matrix={matrix}"
        nodes = [
            graph.add(
                "buffer",
                f"video_size={layout.width}x{layout.height}:pix_fmt={layout.pixel_format}:"
                f"time_base=1/1:colorspace={own.space}:range={own.range}",
            ),
            graph.add("scale", options),
            graph.add("format", "pix_fmts=yuv420p"),
        ]
        if self._mirror:
            nodes.append(graph.add("hflip"))
        nodes.append(graph.add("buffersink"))
        graph.link_nodes(*nodes).configure()
        return graph, nodes[0], nodes[-1]


def _is_jpeg(data: NDArray[np.uint8]) -> bool:
    flat = data.ndim == 1 or (data.ndim == 2 and 1 in data.shape)
    return flat and data.size > 4 and bytes(data.reshape(-1)[:2].tobytes()) == b"\xff\xd8"


def _frame_of(data: NDArray[np.uint8], four_letters: str, width: int, height: int) -> av.VideoFrame:
    if data.dtype == np.uint8 and data.size:
        if data.ndim == 3 and data.shape[2] == 3:
            return _filled(data, "bgr24", data.shape[1], data.shape[0])
        packed = _PACKED.get(four_letters)
        if data.ndim == 3 and data.shape[2] == 2:
            return _filled(data, packed or "yuyv422", data.shape[1], data.shape[0])
        planar = _PLANAR.get(four_letters)
        if planar and data.size == width * height * 3 // 2:
            return av.VideoFrame.from_ndarray(data.reshape(height * 3 // 2, width), format=planar)
        if packed and data.size == width * height * 2:
            return _filled(data, packed, width, height)
        if data.ndim == 2 and data.shape == (height, width):
            return _filled(data, "gray", width, height)
    raise UnknownLayoutError(f"shape {data.shape} {data.dtype}, format '{four_letters}'")


def _filled(data: NDArray[Any], pixel_format: str, width: int, height: int) -> av.VideoFrame:
    """A frame of one plane with these samples."""
    video = av.VideoFrame(width, height, pixel_format)
    plane = video.planes[0]
    # The stubs do not say that a plane is a buffer.
    rows: NDArray[np.uint8] = np.frombuffer(plane, np.uint8)  # type: ignore[call-overload]
    rows = rows[: height * plane.line_size].reshape(height, plane.line_size)
    row_size = data.size // height
    rows[:, :row_size] = data.reshape(height, row_size)
    return video


def _matrix_of(layout: _Layout) -> int:
    # YUV and JPEG of cameras are BT.601 whatever their size; from BGR, the custom for its size.
    if layout.pixel_format == "bgr24":
        return Colour().resolved(layout.height, "yuv420p").space
    return _BT601
