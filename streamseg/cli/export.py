"""``streamseg export``: models of other formats become programs that streamseg runs."""

from __future__ import annotations

import re
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape

from streamseg.cli.options import Json, Overwrite, Quiet
from streamseg.cli.report import print_json, print_notices
from streamseg.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from streamseg.convert import ExportReport

__all__ = ["app"]

_MAX_SIDE_PX = 4096
# Below this an int8 program is worth a second look.
_LOW_IOU = 0.9

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
    Path | None, typer.Option(help="A picture to compare the program with the original on.")
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
    with _exporting(output, overwrite, quiet, as_json) as (step, done):
        from streamseg.convert.pictures import export_on_pictures, read_picture
        from streamseg.convert.tflite import export_tflite, load_tflite, to_module

        graph = load_tflite(file)
        card = graph.card(output.stem)
        if pictures is None:
            sample = read_picture(picture, card, graph.input_size) if picture else None
            done(export_tflite(file, output, card=card, picture=sample, on_step=step))
            return
        if graph.quantised:
            raise ConfigError(f"{file} is quantised already: leave --int8 out")
        done(
            export_on_pictures(
                to_module(graph),
                graph.input_shape,
                output,
                card,
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
    with _exporting(output, overwrite, quiet, as_json) as (step, done):
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
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Export a segmentation model of transformers.

    **Example**

        streamseg export transformers ./my-segformer -o segformer.pte
    """
    input_size = _parse_size(size)
    with _exporting(output, overwrite, quiet, as_json) as (step, done):
        from streamseg.convert.transformers_models import export_transformers

        done(export_transformers(model, output, size=input_size, subtasks=task, on_step=step))


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
    with _exporting(output, overwrite, quiet, as_json) as (step, done):
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


@contextmanager
def _exporting(
    output: Path, overwrite: bool, quiet: bool, as_json: bool
) -> Iterator[tuple[Callable[[str], None], Callable[[ExportReport], None]]]:
    """Check the target, run the block quietly, then print the report that it hands over."""
    from streamseg.cli.quiet import quiet_work

    if output.suffix.lower() != ".pte":
        raise ConfigError(f"--output is {output}: expected a name that ends with .pte")
    if not output.parent.is_dir():
        raise ConfigError(f"--output is {output}: there is no such folder; make it first")
    for path in (output, output.with_suffix(".toml")):
        if path.exists() and not overwrite:
            raise ConfigError(f"{path} exists: give another --output, or --overwrite")
    reports: list[ExportReport] = []
    with quiet_work("loading PyTorch", quiet=quiet or as_json) as step:
        yield step, reports.append
    for report in reports:
        if as_json:
            print_json({"status": "ok", **report.to_json()})
        elif not quiet:
            _print(report)
        if not as_json:
            print_notices(_notices(report))


def _print(report: ExportReport) -> None:
    console = Console(highlight=False, soft_wrap=True, emoji=False)
    kind = "int8" if report.quantized else "float32"
    console.print(
        f"[bold]{escape(str(report.path))}[/]: {decimal(report.size_bytes)}, {kind}, "
        f"input {_shape(report.input_shape)}, "
        f"output {', '.join(map(_shape, report.output_shapes))}, in {report.export_s:.0f} s"
    )
    if report.card_path is not None:
        console.print(f"card: {escape(str(report.card_path))}")
    console.print(
        f"compared with PyTorch on {report.compared_with}: "
        f"largest difference {report.max_abs_difference:.2g}"
    )
    if report.agreement is not None:
        against = " with float32" if report.quantized else ""
        console.print(f"agreement{against}: {report.agreement.in_words}")
    console.print(f"one run: {report.run_ms:.1f} ms")
    if report.outside:
        console.print(
            f"{report.delegates} XNNPACK delegates; not in them: {', '.join(report.outside)}"
        )


def _notices(report: ExportReport) -> Sequence[str]:
    notices = list(report.notices)
    agreement = report.agreement
    if report.quantized and agreement is not None:
        worth = agreement.share if agreement.iou is None else agreement.iou
        if worth < _LOW_IOU:
            notices.append(
                f"int8 says the same as float32 to {worth:.0%} only: "
                "calibrate with more pictures of the kind that it will see"
            )
    return notices


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


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
