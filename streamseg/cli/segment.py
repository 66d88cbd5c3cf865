"""``streamseg segment PICTURE...``: the masks of still pictures, or an effect on them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from streamseg.cli.options import (
    Background,
    ConfigFile,
    EffectName,
    Feather,
    Fit,
    Json,
    ModelName,
    Overwrite,
    Quiet,
    Refine,
    Strength,
    Subject,
    Threads,
    Threshold,
)
from streamseg.cli.stills import PictureProgress, print_stills
from streamseg.config import load_config
from streamseg.errors import ConfigError

__all__ = ["segment"]

_RESULT = "Result"


def segment(
    pictures: Annotated[
        list[str],
        typer.Argument(metavar="PICTURE...", help="Pictures, folders of pictures, or patterns."),
    ],
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            help="A file for one picture, a folder for several; beside each picture if unset.",
            rich_help_panel=_RESULT,
        ),
    ] = None,
    form: Annotated[
        Literal["png", "npz", "json", "coco"],
        typer.Option(
            "--format",
            "-f",
            help="png: the mask; with --classes all the index of each pixel's class. npz: arrays "
            "for numpy. json: a record of each class or object. coco: annotations of all pictures "
            "in one file.",
            rich_help_panel=_RESULT,
        ),
    ] = "png",
    classes: Annotated[
        str | None,
        typer.Option(
            help="Which classes, separated by commas: person,dog; all for all of them. People if "
            "unset.",
            rich_help_panel=_RESULT,
        ),
    ] = None,
    effect: EffectName = None,
    strength: Strength = None,
    background: Background = None,
    fit: Fit = None,
    subject: Subject = False,
    threshold: Threshold = None,
    feather: Feather = None,
    refine: Refine = None,
    model: ModelName = None,
    threads: Threads = None,
    overwrite: Overwrite = False,
    config: ConfigFile = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Find people, or other classes, in pictures and write the masks; or apply an effect.

    A picture that cannot be read is told, and does not stop the others: the exit code is then 1.

    **Examples**

        streamseg segment portrait.jpg

        streamseg segment portrait.jpg -o cutout.png --effect cutout

        streamseg segment holiday/ -o masks/ --model deeplab-v3-resnet50 --classes person,dog

        streamseg segment "shots/*.jpg" -o annotations.json --format coco --model yolo26n-seg
    """
    from streamseg.cli.running import run_async
    from streamseg.session.pictures import plan_results
    from streamseg.session.stills import segment_pictures

    if form != "png" and effect is not None:
        raise ConfigError(f"--format {form} writes masks: leave --effect out, or use --format png")
    name = "mask" if effect is None and config is None else effect
    settings = load_config(
        config,
        {
            "model.name": model,
            "model.threads": threads,
            "mask.smoothing": 0.0,  # there is no frame before
            "mask.refine": refine,
            "effect.name": name,
            "effect.strength": strength,
            "effect.background": background,
            "effect.fit": fit,
            "effect.on": "subject" if subject else None,
            "effect.threshold": threshold,
            "effect.feather": feather,
            "output.overwrite": True if overwrite else None,
        },
    )
    wanted = tuple(part for part in map(str.strip, (classes or "").split(",")) if part)
    if "all" in map(str.lower, wanted):
        if len(wanted) > 1:
            raise ConfigError(f"--classes is {classes!r}: all stands for itself")
        wanted = ("all",)
    ending = f"_{settings.effect.name}.png" if form == "png" else f"_masks.{form}"
    single = None
    if form == "coco":
        single = Path(os.path.expanduser(output or "annotations.json"))
        if single.is_dir():
            single = single / "annotations.json"
    plan = plan_results(pictures, output, ending, single=None if single is None else single.name)
    with PictureProgress(len(plan.items), quiet=quiet or as_json) as progress:
        report = run_async(
            segment_pictures(
                plan,
                settings,
                form=form,
                classes=wanted,
                single=single,
                on_done=progress.done,
                on_progress=progress.downloaded,
            )
        )
    print_stills(report, plan.missing, as_json=as_json, quiet=quiet)
