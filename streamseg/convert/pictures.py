"""Pictures that a model is calibrated and compared with."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

from streamseg.errors import FileReadFailedError, InvalidUserInputError, ModelError
from streamseg.picture_files import MAX_PIXELS, decode, picture_suffixes

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from streamseg.models.card import Card

__all__ = ["MAX_PICTURES", "read_calibration", "read_picture"]

_log = logging.getLogger(__name__)

MAX_PICTURES = 100
"""So many pictures of a folder are used for calibration, evenly spread over their names."""

_MAX_FILE_BYTES = 256 << 20
_MAX_BYTES = 1 << 30  # of all pictures together, in memory
_GREY = 0.5


def read_calibration(
    paths: Sequence[Path], card: Card, size: tuple[int, int]
) -> tuple[list[Tensor], list[str]]:
    """Read pictures to calibrate with.

    Args:
        paths: Pictures, and folders of pictures; of a folder at most ``MAX_PICTURES``.
        card: How the model wants its pictures.
        size: (H, W) of the model's input in pixels.

    Returns:
        float32 [1, 3, H, W] of each picture; and a line for each that could not be read.

    Raises:
        ModelError: If there is no picture at all.
    """
    pictures: list[Tensor] = []
    notices = []
    most = max(1, _MAX_BYTES // (3 * 4 * size[0] * size[1]))
    for path in (found for given in paths for found in _find(given)):
        if len(pictures) == most:
            notices.append(f"only {most} pictures of this size are calibrated with")
            break
        try:
            pictures.append(read_picture(path, card, size))
        except ModelError as error:
            _log.debug("picture left out", extra={"picture": str(path), "reason": str(error)})
            notices.append(f"left out of the calibration: {error}")
    if not pictures:
        given = ", ".join(map(str, paths)) or "nothing"
        raise ModelError(
            f"int8 needs pictures to calibrate with, but {given} has none that can be read: "
            "give a folder of typical pictures"
        )
    return pictures, notices


def read_picture(path: Path, card: Card, size: tuple[int, int]) -> Tensor:
    """Read a picture as a model takes it.

    Args:
        path: A PNG, JPEG, WebP ... file; its EXIF orientation is applied.
        card: Resampling, letterbox and normalisation. ``lanczos`` is taken as ``bicubic``, and
            ``corner`` as ``centre``: close enough to measure ranges and to compare with.
        size: (H, W) of the model's input in pixels.

    Returns:
        float32 [1, 3, H, W].

    Raises:
        ModelError: If it is no picture, or has over ``MAX_PIXELS`` pixels.
    """
    picture = torch.from_numpy(_decode(path)).permute(2, 0, 1)[None].float() / 255
    if card.letterbox:
        picture = _letterbox(picture, card, size)
    else:
        picture = _resize(picture, card, size)
    mean = torch.tensor(card.mean).reshape(1, 3, 1, 1)
    std = torch.tensor(card.std).reshape(1, 3, 1, 1)
    return ((picture - mean) / std).contiguous()


def _find(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = sorted(each for each in path.iterdir() if each.suffix.lower() in picture_suffixes())
    if len(found) > MAX_PICTURES:
        places = np.linspace(0, len(found) - 1, MAX_PICTURES).round().astype(int)
        found = [found[place] for place in places]
    return found


def _decode(path: Path) -> NDArray[np.uint8]:
    try:
        if not path.is_file():  # a pipe would never end
            why = "it is a folder" if path.is_dir() else "no such file"
            raise ModelError(f"{path}: cannot be read: {why}; check the path")
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise ModelError(f"{path}: over {_MAX_FILE_BYTES} bytes, too long for a picture")
        return decode(path.read_bytes(), str(path), MAX_PIXELS)
    except OSError as exc:
        raise ModelError(f"{path}: cannot be read: {exc.strerror}") from exc
    except (FileReadFailedError, InvalidUserInputError) as exc:
        raise ModelError(str(exc)) from exc


def _resize(picture: Tensor, card: Card, size: tuple[int, int]) -> Tensor:
    if card.resample == "nearest":
        return functional.interpolate(picture, size, mode="nearest-exact")
    mode = "bilinear" if card.resample == "bilinear" else "bicubic"
    resized = functional.interpolate(picture, size, mode=mode, antialias=card.antialias)
    return resized.clamp(0, 1)  # bicubic overshoots


def _letterbox(picture: Tensor, card: Card, size: tuple[int, int]) -> Tensor:
    height, width = picture.shape[2:]
    scale = min(size[0] / height, size[1] / width)
    inside = (max(1, round(height * scale)), max(1, round(width * scale)))
    top, left = (size[0] - inside[0]) // 2, (size[1] - inside[1]) // 2
    result = torch.full((1, 3, *size), _GREY)
    result[:, :, top : top + inside[0], left : left + inside[1]] = _resize(picture, card, inside)
    return result
