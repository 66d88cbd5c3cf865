"""``streamseg export``: models of other formats become programs that streamseg runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from streamseg.cli.exporting import exporting
from streamseg.cli.options import Json, Overwrite, Quiet
from streamseg.errors import ConfigError

__all__ = ["app"]

_MAX_SIDE_PX = 4096

app = typer.Typer(
    help="Export models to .pte: from TensorFlow Lite, torchvision, transformers, or your own.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)

Output = Annotated[
    Path,
    typer.Option("--output", "-o", help="The .pte to write; its card goes beside it, as .toml."),
]
Size = Annotated[
    str | None, typer.Option(metavar="HxW", help="Height and width of the input in pixels.")
]
Int8 = Annotated[
    bool,
    typer.Option("--int8", help="Compute in 8-bit integers: smaller, faster, a little less exact."),
]
Calibrate = Annotated[
    list[Path] | None,
    typer.Option(
        metavar="FOLDER",
        help="Typical pictures for --int8: a folder, or pictures; may be repeated.",
    ),
]
Picture = Annotated[
    Path | None,
    typer.Option(
        help="A picture to compare the program with the original on; a portrait of streamseg's "
        "own if unset."
    ),
]


@app.command("tflite")
def tflite(
    file: Annotated[Path, typer.Argument(metavar="FILE.tflite", help="A TensorFlow Lite model.")],
    output: Output,
    int8: Int8 = False,
    calibrate: Calibrate = None,
    picture: Picture = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Export a TensorFlow Lite model: one picture in, one out.

    **Example**

        streamseg export tflite deeplab.tflite -o deeplab.pte
    """
    pictures = _calibration(int8, calibrate)
    with exporting(output, overwrite, quiet, as_json) as (step, done):
        from streamseg.convert.tflite import export_tflite, load_tflite

        done(
            export_tflite(
                file,
                output,
                card=load_tflite(file).card(output.stem),
                calibrate=pictures,
                picture=picture,
                on_step=step,
            )
        )


@app.command("torchvision")
def torchvision(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Such as deeplabv3_resnet50.")],
    output: Output,
    weights: Annotated[
        Path | None,
        typer.Option(help="The model's weights, a .pth file as torchvision publishes them."),
    ] = None,
    random_weights: Annotated[
        bool,
        typer.Option("--random-weights", help="None: for measurements of speed, says nothing."),
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the random weights.")] = 0,
    size: Size = None,
    int8: Int8 = False,
    calibrate: Calibrate = None,
    picture: Picture = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Export one of torchvision's models with your weights.

    Models: deeplabv3_resnet50, deeplabv3_resnet101, deeplabv3_mobilenet_v3_large,
    lraspp_mobilenet_v3_large, fcn_resnet50, fcn_resnet101, mobilenet_v2, efficientnet_v2_s.

    **Examples**

        streamseg export torchvision deeplabv3_resnet50 --weights deeplab.pth -o deeplab.pte

        streamseg export torchvision lraspp_mobilenet_v3_large --weights lraspp.pth
        --int8 --calibrate pictures -o lraspp.pte
    """
    if random_weights == (weights is not None):
        raise ConfigError(
            f"{name} needs its weights: give --weights FILE.pth (torchvision publishes them), "
            "or --random-weights to measure speed, and not both"
        )
    pictures, input_size = _calibration(int8, calibrate), _parse_size(size)
    with exporting(output, overwrite, quiet, as_json) as (step, done):
        from streamseg.convert.torchvision_models import export_torchvision

        done(
            export_torchvision(
                name,
                output,
                weights=weights,
                random_seed=seed if random_weights else None,
                size=input_size,
                calibrate=pictures,
                picture=picture,
                on_step=step,
            )
        )


@app.command("transformers")
def transformers(
    model: Annotated[
        str, typer.Argument(metavar="DIR_OR_NAME", help="A saved model, or a name on the hub.")
    ],
    output: Output,
    size: Size = None,
    task: Annotated[
        list[str] | None,
        typer.Option(help="What the model is for: panoptic, instance, semantic; may be repeated."),
    ] = None,
    int8: Int8 = False,
    calibrate: Calibrate = None,
    picture: Picture = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Export a segmentation model of transformers.

    **Example**

        streamseg export transformers ./my-segformer -o segformer.pte
    """
    pictures, input_size = _calibration(int8, calibrate), _parse_size(size)
    with exporting(output, overwrite, quiet, as_json) as (step, done):
        from streamseg.convert.transformers_models import export_transformers

        done(
            export_transformers(
                model,
                output,
                size=input_size,
                subtasks=task,
                calibrate=pictures,
                picture=picture,
                on_step=step,
            )
        )


@app.command("module")
def module(
    function: Annotated[
        str,
        typer.Argument(metavar="PACKAGE:FUNCTION", help="Your function; it returns an nn.Module."),
    ],
    output: Output,
    shape: Annotated[
        str | None,
        typer.Option("--input", metavar="1x3xHxW", help="The input's shape; the card's otherwise."),
    ] = None,
    card: Annotated[
        Path | None, typer.Option(metavar="CARD.toml", help="What is to be known of the model.")
    ] = None,
    int8: Int8 = False,
    calibrate: Calibrate = None,
    picture: Picture = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Export a module of your own: imports your function, which runs your code, and calls it.

    **Example**

        streamseg export module mymodels.road:build --input 1x3x256x512 --card road.toml -o road.pte
    """
    pictures, input_shape = _calibration(int8, calibrate), _parse_shape(shape)
    with exporting(output, overwrite, quiet, as_json) as (step, done):
        from streamseg.convert.module import export_function
        from streamseg.models.card import load_card

        done(
            export_function(
                function,
                output,
                input_shape=input_shape,
                card=load_card(card) if card is not None else None,
                calibrate=pictures,
                picture=picture,
                on_step=step,
            )
        )


def _calibration(int8: bool, calibrate: list[Path] | None) -> list[Path] | None:
    if int8 and not calibrate:
        raise ConfigError(
            "--int8 needs pictures to calibrate with: give --calibrate FOLDER "
            "with some typical pictures"
        )
    if calibrate and not int8:
        raise ConfigError("--calibrate is for --int8: give that too, or neither")
    return calibrate if int8 else None


def _parse_size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,5})[xX×](\d{1,5})", text.strip())
    sides = (int(match[1]), int(match[2])) if match else (0, 0)
    if not all(1 <= side <= _MAX_SIDE_PX for side in sides):
        raise ConfigError(
            f"--size is {text!r}: expected height x width up to {_MAX_SIDE_PX}, such as 224x224"
        )
    return sides


def _parse_shape(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    if not re.fullmatch(r"\d{1,5}([xX×]\d{1,5}){1,5}", text.strip()):
        raise ConfigError(f"--input is {text!r}: expected a shape such as 1x3x224x224")
    shape = tuple(map(int, re.split(r"[xX×]", text.strip())))
    if not all(1 <= side <= _MAX_SIDE_PX for side in shape):
        raise ConfigError(f"--input is {text!r}: expected sides from 1 to {_MAX_SIDE_PX}")
    return shape
