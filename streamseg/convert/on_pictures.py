"""Export of a module with pictures from files, to calibrate and to compare it with."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from streamseg.convert._lowering import no_step
from streamseg.convert.export import ExportReport, export_module
from streamseg.convert.pictures import read_calibration, read_picture
from streamseg.errors import ModelError
from streamseg.models.card import Card

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from torch import nn

    from streamseg.convert._lowering import Delegate

__all__ = ["export_on_pictures"]


def export_on_pictures(
    module: nn.Module,
    input_shape: tuple[int, ...],
    pte_path: str | Path,
    card: Card | None,
    *,
    calibrate: Sequence[Path] | None = None,
    picture: Path | None = None,
    tolerance: float = 1e-3,
    delegate: Delegate = "whole",
    products_only: bool = False,
    on_step: Callable[[str], None] | None = None,
) -> ExportReport:
    """Do what ``export_module`` does, with pictures from files.

    Args:
        module: See ``export_module``.
        input_shape: (1, 3, H, W).
        pte_path: Where the program goes.
        card: How pictures are given to the model, and what is written beside the program. Without
            one they are RGB in [0, 1].
        calibrate: Pictures and folders of pictures to calibrate an int8 program with.
        picture: A picture to compare the program on, instead of streamseg's own.
        tolerance: See ``export_module``.
        delegate: See ``export_module``.
        products_only: See ``quantize_module``.
        on_step: See ``export_module``.

    Raises:
        ModelError: See ``export_module``; or a picture cannot be read.
    """
    tensors, notices, sample = None, list[str](), None
    if calibrate is not None or picture is not None:
        if len(input_shape) != 4 or input_shape[:2] != (1, 3):
            raise ModelError(
                f"the model's input is {list(input_shape)}, pictures need [1, 3, height, width]: "
                "export it in float32 and without a picture"
            )
        size, given = (input_shape[2], input_shape[3]), card or Card(name="model")
        (on_step or no_step)("reading pictures")
        if picture is not None:
            sample = read_picture(picture, given, size)
        if calibrate is not None:
            tensors, notices = read_calibration(calibrate, given, size)
    report = export_module(
        module,
        input_shape,
        pte_path,
        tolerance=tolerance,
        card=card,
        delegate=delegate,
        quantize=tensors,
        products_only=products_only,
        picture=sample,
        picture_name=picture.name if picture is not None else "",
        on_step=on_step,
    )
    return dataclasses.replace(report, notices=(*report.notices, *notices))
