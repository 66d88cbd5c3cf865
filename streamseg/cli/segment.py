"""``streamseg segment PICTURE...``: the masks of still pictures, or an effect on them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer

from streamseg.cli.options import (
    Background,
    ConfigFile,
    Contours,
    EffectName,
    Feather,
    Fit,
    Json,
    Legend,
    ModelName,
    Overwrite,
    Quiet,
    Refine,
    Strength,
    Subject,
    Threads,
    Threshold,
    parse_classes,
    scenario_values,
)
from streamseg.cli.stills import PICTURES, PictureProgress, print_stills
from streamseg.config import load_config
from streamseg.errors import ConfigError

__all__ = ["segment"]

_RESULT = "Result"
_SUFFIXES = {"npz": (".npz",), "json": (".json",), "coco": (".json",)}


def segment(
    pictures: Annotated[
        list[str],
        typer.Argument(metavar="PICTURE...", help=PICTURES),
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
            "for numpy. json: a record of each class, object or segment. coco: annotations of all "
            "pictures in one file.",
            rich_help_panel=_RESULT,
        ),
    ] = "png",
    classes: Annotated[
        str | None,
        typer.Option(
            help="Which classes, separated by commas: person,dog; all for all of them. If unset, "
            "what the effect means by its subject, which is people; in npz, json and coco "
            "everything but the background.",
            rich_help_panel=_RESULT,
        ),
    ] = None,
    effect: EffectName = None,
    strength: Strength = None,
    background: Background = None,
    fit: Fit = None,
    subject: Subject = False,
    legend: Legend = False,
    contours: Contours = None,
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
    from streamseg.session.still_effects import PICTURE_ENDINGS
    from streamseg.session.stills import segment_pictures

    wanted = _classes(classes)
    applied = form == "png" and wanted != ("all",)
    options: dict[str, Any] = {
        "effect": effect,
        "strength": strength,
        "background": background,
        "fit": fit,
        "subject": subject,
        "threshold": threshold,
        "feather": feather,
        "contours": contours,
        "legend": legend,
    }
    if not applied:
        _refuse({**options, "refine": refine}, form)
    if config is None and effect is None:
        options["effect"] = "mask"
    settings = load_config(
        config,
        {
            **scenario_values(
                model=model,
                threads=threads,
                refine=refine,
                classes=classes if applied else None,
                **options,
            ),
            "mask.smoothing": 0.0,  # there is no frame before
            "output.overwrite": True if overwrite else None,
        },
    )
    plan = plan_results(
        pictures,
        output,
        f"_{settings.effect.name if applied else 'mask'}.png"
        if form == "png"
        else f"_masks.{form}",
        suffixes=_SUFFIXES.get(form) or (PICTURE_ENDINGS if applied else (".png",)),
        single="annotations.json" if form == "coco" else None,
    )
    with PictureProgress(len(plan.items), quiet=quiet or as_json) as progress:
        report = run_async(
            segment_pictures(
                plan,
                settings,
                form=form,
                classes=None if applied else wanted,
                on_done=progress.done,
                on_progress=progress.downloaded,
            )
        )
    print_stills(report, plan, as_json=as_json, quiet=quiet)


def _classes(text: str | None) -> tuple[str, ...]:
    wanted = tuple(parse_classes(text) or ())
    if "all" in map(str.lower, wanted):
        if len(wanted) > 1:
            raise ConfigError(f"--classes is {text!r}: all stands for itself")
        return ("all",)
    return wanted


def _refuse(options: dict[str, Any], form: str) -> None:
    """Refuse what would do nothing: only effects look at these options."""
    given = [
        f"--{name}"
        for name, value in options.items()
        if value is not None and (value is not False or name == "refine")
    ]
    if given:
        written = (
            "--classes all writes the index of each pixel's class"
            if form == "png"
            else f"--format {form} writes what the model finds"
        )
        raise ConfigError(
            f"{', '.join(given)} would do nothing: {written}, without an effect; leave it out"
        )
