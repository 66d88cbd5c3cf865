"""From a frame to the model's RGB picture, and from the model's masks back onto the frame's grid.

Two conventions of sampling are in use. Most pipelines let a model pixel cover its share of the
picture: one swscale call does that, 0.9 ms at 1080p. MediaPipe instead takes the picture's value
at the point ``i * width / model_width``, interpolated, with no low-pass filter (its
``image_to_tensor`` warps corner onto corner), and its models are so sensitive to this that with any
swscale filter their masks reach an IoU of 0.80 to 0.95 with its own on moving people, with its
sampling 0.99 and better. Converting the whole picture to RGB and sampling that costs no more than
the one call (0.8 ms).

Masks of such a model lie by half a step off the usual grid, three pixels at 1080p; ``to_centres``
puts them right.

PyAV's ``reformat`` changes the colour tags of the frame that it reads while it works, so nobody
else may look at a frame that is on its way to the model; the pipeline segments a frame before it
hands it to anyone.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Literal

import av
import cv2
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter

from streamseg.frames import Colour

if TYPE_CHECKING:
    import av
    from numpy.typing import NDArray

__all__ = ["Preprocessor", "to_centres"]

# FFmpeg's matrix code points, as the constants that swscale takes.
_MATRIX = {
    1: Colorspace.ITU709,
    4: Colorspace.FCC,
    5: Colorspace.ITU601,
    6: Colorspace.SMPTE170M,
    7: Colorspace.SMPTE240M,
    9: Colorspace.BT2020,
    10: Colorspace.BT2020,
}


class Preprocessor:
    """Scales frames to one size and converts them to RGB. May be called from any thread.

    Args:
        size: (H, W) in pixels. The picture is stretched, not letterboxed: the models' own
            pipelines do so.
        sampling: ``centre`` or ``corner``, as in the model's card.
    """

    def __init__(self, size: tuple[int, int], sampling: Literal["centre", "corner"]) -> None:
        self._height, self._width = size
        self._corner = sampling == "corner"
        self._local = threading.local()  # a swscale context serves one thread at a time

    def __call__(self, video: av.VideoFrame) -> NDArray[np.uint8]:
        """Return the picture: (H, W, 3) uint8 RGB, full range."""
        if not self._corner:
            rgb = self._to_rgb(video, self._width, self._height, Interpolation.BILINEAR)
            return np.ascontiguousarray(rgb)
        # Same size in and out, so POINT only means that chroma is not interpolated.
        rgb = self._to_rgb(video, video.width, video.height, Interpolation.POINT)
        steps = np.array(
            [[video.width / self._width, 0, 0], [0, video.height / self._height, 0]], np.float32
        )
        sampled: NDArray[np.uint8] = cv2.warpAffine(
            rgb, steps, (self._width, self._height), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        )
        return sampled

    def _to_rgb(
        self, video: av.VideoFrame, width: int, height: int, interpolation: Interpolation
    ) -> NDArray[np.uint8]:
        colour = Colour.of(video).resolved(video.height, video.format.name)
        reformatter: VideoReformatter | None = getattr(self._local, "reformatter", None)
        if reformatter is None:
            reformatter = self._local.reformatter = VideoReformatter()
        rgb = reformatter.reformat(
            video,
            width=width,
            height=height,
            format="rgb24",
            src_colorspace=_MATRIX.get(colour.space),
            src_color_range=None if video.format.is_rgb else colour.range,
            dst_color_range=ColorRange.JPEG,
            interpolation=interpolation,
            threads=1,  # a second thread costs more than it brings
        )
        plane = rgb.planes[0]
        # The stubs do not say that a plane is a buffer.
        rows: NDArray[np.uint8] = np.frombuffer(plane, np.uint8)  # type: ignore[call-overload]
        rows = rows[: height * plane.line_size].reshape(height, plane.line_size)
        return rows[:, : width * 3].reshape(height, width, 3)


def to_centres(mask: NDArray[np.float32], picture_size: tuple[int, int]) -> NDArray[np.float32]:
    """Resample a mask from corner sampling onto the usual grid of pixel centres.

    Args:
        mask: (H, W) float32; sample i lies at the picture's point ``i * width / W``.
        picture_size: (height, width) of the picture in pixels.

    Returns:
        (H, W) float32; sample i lies at ``(i + 0.5) * width / W - 0.5``.
    """
    rows, columns = mask.shape
    right = 0.5 - 0.5 * columns / picture_size[1]
    down = 0.5 - 0.5 * rows / picture_size[0]
    if min(right, down) < 0.0:  # a picture smaller than the mask
        moved: NDArray[np.float32] = cv2.warpAffine(
            mask,
            np.array([[1, 0, right], [0, 1, down]], np.float32),
            (columns, rows),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )
        return moved
    # By less than one sample everywhere: two taps each way, in half the time of the warp.
    filtered = cv2.sepFilter2D(
        mask,
        -1,
        np.array([1.0 - right, right], np.float32),
        np.array([1.0 - down, down], np.float32),
        anchor=(0, 0),
        borderType=cv2.BORDER_REPLICATE,
    )
    return np.asarray(filtered, np.float32).reshape(rows, columns)
