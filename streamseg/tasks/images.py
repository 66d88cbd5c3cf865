"""Pictures from wherever they are: files, URLs, strings, arrays, Pillow and PyAV."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, Union

# Before cv2: the other way round, FFmpeg's x11grab crashes the process.
import av
import cv2
import numpy as np
from anyio import to_thread

from streamseg.errors import InvalidUserInputError
from streamseg.picture_files import MAX_PIXELS, check_size, decode, from_pillow
from streamseg.tasks.fitting import content_box, fit
from streamseg.tasks.reading import read_source

if TYPE_CHECKING:
    from collections.abc import Callable

    import PIL.Image
    from numpy.typing import NDArray

__all__ = ["MAX_PIXELS", "ImageSource", "Picture", "content_box", "fit", "load_image"]

# In quotes is what is not imported at run time.
ImageSource: TypeAlias = Union[
    str, os.PathLike[str], bytes, "PIL.Image.Image", "NDArray[np.uint8]", av.VideoFrame
]
"""What ``load_image`` takes."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Picture:
    """A decoded picture.

    Attributes:
        pixels: (H, W, 3) uint8 RGB, C-contiguous. It may be the caller's own array: nobody writes
            into it.
    """

    pixels: NDArray[np.uint8]

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) in pixels."""
        return (self.pixels.shape[0], self.pixels.shape[1])

    def __repr__(self) -> str:
        return f"Picture({self.size[0]}x{self.size[1]})"


async def load_image(
    source: ImageSource, *, max_pixels: int = MAX_PIXELS, timeout_s: float = 30.0
) -> Picture:
    """Return a picture, whatever it is given as.

    Orientation by EXIF is applied, transparency is ignored, 16-bit samples become 8-bit ones, CMYK
    and palettes become RGB. Of an animation or a file of several pages the first picture is taken.

    Args:
        source: A path, a ``file://``, ``http(s)://`` or ``data:`` URI, base64, the bytes of an
            encoded picture, a Pillow image, an ``av.VideoFrame`` (converted with its own colour
            matrix and range, turned only by whoever decoded it), or an array of uint8: (H, W, 3)
            RGB, (H, W, 4) RGBA, (H, W) or (H, W, 1) grey.
        max_pixels: How many pixels it may have; what has more is not decoded.
        timeout_s: How long a URL may take, in seconds.

    Raises:
        FileReadFailedError: If it cannot be fetched, read or decoded.
        InvalidUserInputError: If it is of another type, has no pixels, or too many.
    """
    if isinstance(source, np.ndarray):
        pixels = _from_array(source, max_pixels)
        if pixels is not None:
            return Picture(pixels)
        return Picture(await _in_thread(_converted, source))
    if isinstance(source, av.VideoFrame):
        check_size(source.height, source.width, max_pixels, "the frame")
        return Picture(await _in_thread(_from_frame, source))
    if isinstance(source, bytes | bytearray | memoryview):
        data = bytes(source)
        return Picture(await _in_thread(decode, data, "the given bytes", max_pixels))
    if isinstance(source, str | os.PathLike):
        data, name = await read_source(source, timeout_s=timeout_s)
        return Picture(await _in_thread(decode, data, name, max_pixels))
    if _is_pillow(source):
        return Picture(await _in_thread(from_pillow, source, max_pixels))
    raise InvalidUserInputError(
        f"{type(source).__name__} is no picture: expected a path, a URL, base64, bytes, a Pillow "
        "image, an av.VideoFrame or a uint8 array (H, W, 3)"
    )


async def _in_thread(function: Callable[..., NDArray[np.uint8]], *args: Any) -> NDArray[np.uint8]:
    # Left to itself when it is cancelled: a large picture takes seconds, and nothing comes of it.
    return await to_thread.run_sync(function, *args, abandon_on_cancel=True)


def _is_pillow(source: Any) -> bool:
    from PIL.Image import Image

    return isinstance(source, Image)


def _from_array(source: NDArray[Any], max_pixels: int) -> NDArray[np.uint8] | None:
    """Check an array; return it where nothing has to be done."""
    shape = source.shape
    if (
        source.dtype != np.uint8
        or len(shape) not in (2, 3)
        or shape[2:] not in ((), (1,), (3,), (4,))
    ):
        raise InvalidUserInputError(
            f"an array of {list(shape)} {source.dtype} is no picture: expected uint8 (H, W, 3) RGB"
        )
    check_size(shape[0], shape[1], max_pixels, "the array")
    if shape[2:] == (3,) and source.flags.c_contiguous:
        return source
    return None


def _converted(source: NDArray[np.uint8]) -> NDArray[np.uint8]:
    source = np.ascontiguousarray(source)
    if source.ndim == 3 and source.shape[2] == 3:
        return source
    if source.ndim == 3 and source.shape[2] == 4:
        return np.ascontiguousarray(source[:, :, :3])
    return np.asarray(cv2.cvtColor(source, cv2.COLOR_GRAY2RGB), np.uint8)


def _from_frame(video: av.VideoFrame) -> NDArray[np.uint8]:
    from streamseg.runtime.preprocess import Preprocessor

    return np.ascontiguousarray(Preprocessor((video.height, video.width), "centre")(video))
