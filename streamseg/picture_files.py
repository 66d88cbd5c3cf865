"""Encoded pictures and Pillow images as RGB; what comes from outside is taken for hostile."""

from __future__ import annotations

import io
import threading
import warnings
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from streamseg.errors import FileReadFailedError, InvalidUserInputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["MAX_PIXELS", "check_size", "decode", "from_pillow", "picture_suffixes"]

MAX_PIXELS = 64_000_000
"""How many pixels a picture may have, if nothing else is said: 192 MB of RGB."""

# OpenCV's coordinates are 16 bits wide.
_MAX_SIDE_PX = 32_766

# Not all that Pillow knows: some formats start other programs, most are nobody's pictures.
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000")

# Always of floats, which are refused.
_NEVER_READ = frozenset({".pfm"})

# Warnings are switched off for the whole process, so by one thread at a time and only while a
# header is read.
_quiet = threading.Lock()


def check_size(height: int, width: int, max_pixels: int, name: str = "the picture") -> None:
    """Refuse sizes that no model can be given.

    Raises:
        InvalidUserInputError: If there are no pixels, or too many.
    """
    if height < 1 or width < 1:
        raise InvalidUserInputError(f"{name}: has no pixels, its size is {width}x{height}")
    if height * width > max_pixels or max(height, width) > _MAX_SIDE_PX:
        raise InvalidUserInputError(
            f"{name}: is too large with {width}x{height} pixels, expected at most {max_pixels} "
            f"in all and {_MAX_SIDE_PX} a side: make it smaller"
        )


@cache
def picture_suffixes() -> frozenset[str]:
    """Return what the names of pictures that can be decoded end with: ``.jpg``, in small letters."""
    formats = _formats()
    known = Image.registered_extensions().items()
    return frozenset(suffix for suffix, kind in known if kind in formats) - _NEVER_READ


def decode(data: bytes, name: str, max_pixels: int, *, alpha: bool = False) -> NDArray[np.uint8]:
    """Decode the first picture of a file.

    Args:
        data: The file.
        name: For messages.
        max_pixels: A header that promises more is refused before anything is decoded.
        alpha: Whether transparency is kept, where the picture has it, instead of ignored.

    Returns:
        (H, W, 3) uint8 RGB, upright; (H, W, 4) RGBA with ``alpha``.

    Raises:
        FileReadFailedError: If it is no picture, or damaged.
        InvalidUserInputError: If it has too many pixels.
    """
    if not data:
        raise FileReadFailedError(f"{name}: is empty, no picture")
    try:
        image = _opened(data)
    except UnidentifiedImageError as exc:
        raise FileReadFailedError(
            f"{name}: is no picture that can be read, expected JPEG, PNG, WebP, GIF, BMP, TIFF, "
            "PPM, AVIF or JPEG 2000"
        ) from exc
    except Image.DecompressionBombError as exc:  # Pillow's own limit, for all formats
        raise InvalidUserInputError(
            f"{name}: is too large, Pillow decodes at most {2 * (Image.MAX_IMAGE_PIXELS or 0)} "
            "pixels whatever the limit: make it smaller"
        ) from exc
    except Exception as exc:  # a damaged file can make a decoder raise anything
        raise FileReadFailedError(f"{name}: the picture is damaged: {_text(exc)}") from exc
    with image:
        return from_pillow(image, max_pixels, name, alpha=alpha)


def from_pillow(
    image: Image.Image, max_pixels: int, name: str = "the picture", *, alpha: bool = False
) -> NDArray[np.uint8]:
    """Return a Pillow image's current picture: (H, W, 3) uint8 RGB, turned as its EXIF says.

    With ``alpha`` it is (H, W, 4) RGBA where it has transparency.

    Raises:
        FileReadFailedError: If it is damaged; Pillow decodes when the samples are asked for.
        InvalidUserInputError: If it has no pixels, too many, or samples without a known range.
    """
    check_size(image.height, image.width, max_pixels, name)
    try:
        return _upright_rgb(image, alpha)
    except InvalidUserInputError as exc:
        raise InvalidUserInputError(f"{name}: {exc}") from exc
    except Exception as exc:  # a damaged file can make a decoder raise anything
        raise FileReadFailedError(f"{name}: the picture is damaged: {_text(exc)}") from exc


def _upright_rgb(image: Image.Image, alpha: bool) -> NDArray[np.uint8]:
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        # ``convert`` would cut off everything above 255.
        grey = (np.asarray(image) >> 8).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode in ("I", "F"):
        raise InvalidUserInputError(
            f"samples of 32 bits (mode {image.mode}) have no agreed range; convert it to 8 bits"
        )
    if alpha and image.has_transparency_data:
        return np.array(image.convert("RGBA"), np.uint8)
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # or Pillow warns
    return np.array(image.convert("RGB"), np.uint8)


def _opened(data: bytes) -> Image.Image:
    """Open an encoded picture; only its header is read."""
    with _quiet, warnings.catch_warnings():
        # Pillow warns above its own limit of pixels, where ours is lower, and of broken EXIF.
        warnings.simplefilter("ignore")
        image = Image.open(io.BytesIO(data), formats=_formats())
        if "exif" in image.info:  # without, some formats are decoded to look for it
            image.getexif()
    return image


@cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)  # some builds lack some


def _text(exc: Exception) -> str:
    return " ".join(str(exc).split())[:200] or type(exc).__name__
