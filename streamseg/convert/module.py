"""A user's own module, made by a function of theirs, as an ExecuTorch program.

The function is imported from the user's environment and run: it is their code, with all that it
may do. Nothing of the kind happens with files from outside.
"""

from __future__ import annotations

import dataclasses
import importlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from streamseg.convert._comparison import run_eager
from streamseg.convert._lowering import first_line, no_step
from streamseg.convert.cards import minimal_card
from streamseg.convert.on_pictures import export_on_pictures
from streamseg.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from streamseg.convert.export import ExportReport
    from streamseg.models.card import Card

__all__ = ["export_function", "load_function"]


def export_function(
    reference: str,
    pte_path: str | Path,
    *,
    input_shape: tuple[int, ...] | None = None,
    card: Card | None = None,
    calibrate: Sequence[Path] | None = None,
    picture: Path | None = None,
    on_step: Callable[[str], None] | None = None,
) -> ExportReport:
    """Export the module that a function returns.

    Args:
        reference: ``package.module:function``; the function takes no arguments.
        pte_path: Where the program goes.
        input_shape: NCHW; (1, 3) and the card's input size where it is not given.
        card: Written beside the program. Without one it is a card that says the task only, where
            the outputs tell it.
        calibrate: Pictures, or folders of pictures, to calibrate an int8 program with.
        picture: A picture to compare the program on, instead of streamseg's own.
        on_step: Called with a few words for each step.

    Raises:
        ModelError: If the function cannot be imported, fails, or returns no module; or no shape
            is known; or see ``export_module``.
    """
    if input_shape is None:
        if card is None or card.input_size is None:
            raise ModelError(
                f"the input's shape of {reference} is not known: give it, such as 1x3x224x224, "
                "or a card with input_size"
            )
        input_shape = (1, 3, *card.input_size)
    (on_step or no_step)(f"calling {reference}")
    module, path = load_function(reference), Path(pte_path)
    notices: tuple[str, ...] = ()
    if card is None:
        shapes = [tuple(each.shape) for each in run_eager(module, torch.rand(input_shape))]
        card = minimal_card(path.stem, shapes)
        notices = (
            f"{path.with_suffix('.toml')} has no labels and no normalisation: give a card that has"
            if card is not None
            else f"{path} has no card, and its outputs do not tell its task: give one",
        )
    report = export_on_pictures(
        module,
        input_shape,
        path,
        card,
        calibrate=calibrate,
        picture=picture,
        delegate="any",
        on_step=on_step,
    )
    return dataclasses.replace(report, notices=(*report.notices, *notices))


def load_function(reference: str) -> nn.Module:
    """Import a function, call it, and return its module in evaluation mode.

    The working directory is searched too, as ``python -m`` does.

    Args:
        reference: ``package.module:function``.

    Raises:
        ModelError: If it cannot be imported, fails, or returns no module.
    """
    where, _, name = reference.partition(":")
    if not where or not name or not all(part.isidentifier() for part in where.split(".")):
        raise ModelError(
            f"{reference!r} names no function: expected package.module:function, "
            "such as mymodels.road:build"
        )
    folder = os.getcwd()
    if folder not in sys.path and "" not in sys.path:
        sys.path.insert(0, folder)
    importlib.invalidate_caches()
    try:
        function: object = importlib.import_module(where)
        for part in name.split("."):
            function = getattr(function, part)
        module = function() if callable(function) else function
    except (Exception, SystemExit) as error:
        raise ModelError(
            f"{reference} failed: {type(error).__name__}: {first_line(error)}: "
            "run it by itself to see where"
        ) from error
    if not isinstance(module, nn.Module):
        raise ModelError(
            f"{reference} returned {type(module).__name__}, expected a torch.nn.Module"
        )
    return module.eval()
