"""Pictures that a model is calibrated and compared with, and the export that uses them."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

from streamseg.convert._lowering import no_step
from streamseg.convert.export import ExportReport, export_module
from streamseg.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor, nn

    from streamseg.convert._lowering import Delegate
    from streamseg.models.card import Card

__all__ = ["MAX_PICTURES", "export_on_pictures", "read_calibration", "read_picture"]

_log = logging.getLogger(__name__)

MAX_PICTURES = 100
"""So many pictures of a folder are used for calibration, evenly spread over their names."""

_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm"}
_MAX_PIXELS = 100_000_000
_MAX_BYTES = 1 << 30  # of all pictures together, in memory
_GREY = 0.5


def export_on_pictures(
    module: nn.Module,
    input_shape: tuple[int, ...],
    pte_path: str | Path,
    card: Card,
    *,
    calibrate: Sequence[Path] | None = None,
    picture: Path | None = None,
    write_card: bool = True,
    tolerance: float = 1e-3,
    delegate: Delegate = "whole",
    on_step: Callable[[str], None] | None = None,
) -> ExportReport:
    """Do what ``export_module`` does, with pictures from files.

    Args:
        module: See ``export_module``.
        input_shape: (1, 3, H, W).
        pte_path: Where the program goes.
        card: How pictures are given to the model.
        calibrate: Pictures and folders of pictures to calibrate an int8 program with.
        picture: A picture to compare the program on.
        write_card: Whether the card is written too.
        tolerance: See ``export_module``.
        delegate: See ``export_module``.
        on_step: See ``export_module``.

    Raises:
        ModelError: See ``export_module``; or a picture cannot be read.
    """
    tensors, notices = None, list[str]()
    if calibrate is not None or picture is not None:
        if len(input_shape) != 4 or input_shape[:2] != (1, 3):
            raise ModelError(
                f"the model's input is {list(input_shape)}, pictures need [1, 3, height, width]: "
                "export it in float32 and without a picture"
            )
        size = (input_shape[2], input_shape[3])
        if calibrate is not None:
            (on_step or no_step)("reading pictures")
            tensors, notices = read_calibration(calibrate, card, size)
    report = export_module(
        module,
        input_shape,
        pte_path,
        tolerance=tolerance,
        card=card if write_card else None,
        delegate=delegate,
        quantize=tensors,
        picture=read_picture(picture, card, size) if picture is not None else None,
        on_step=on_step,
    )
    return dataclasses.replace(report, notices=(*report.notices, *notices))


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
        ModelError: If it is no picture, or has over 100 million pixels.
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
    found = sorted(each for each in path.iterdir() if each.suffix.lower() in _SUFFIXES)
    if len(found) > MAX_PICTURES:
        places = np.linspace(0, len(found) - 1, MAX_PICTURES).round().astype(int)
        found = [found[place] for place in places]
    return found


# Not all that Pillow knows: some formats start other programs.
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000")


def _decode(path: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    from PIL import Image, ImageOps

    Image.init()
    formats = [name for name in _FORMATS if name in Image.OPEN]  # some builds lack some
    try:
        with Image.open(path, formats=formats) as image:
            if image.width * image.height > _MAX_PIXELS:
                raise ModelError(
                    f"{path}: {image.width}x{image.height} is over {_MAX_PIXELS} pixels: "
                    "use a smaller picture"
                )
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith("I;16"):
                # ``convert`` would cut off everything above 255.
                return np.repeat((np.asarray(upright) >> 8).astype(np.uint8)[..., None], 3, axis=2)
            return np.array(upright.convert("RGB"))
    # Pillow's readers raise SyntaxError, ValueError and more for damaged files.
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "no picture"
        raise ModelError(f"{path}: cannot be read: {reason}") from error


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
