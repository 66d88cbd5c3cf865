"""``streamseg segment PICTURE``: a still through the same engine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

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
    Refine,
    Strength,
    Subject,
    Threads,
    Threshold,
)
from streamseg.cli.report import print_json, print_notices
from streamseg.config import load_config

__all__ = ["segment"]


def segment(
    picture: Annotated[str, typer.Argument(metavar="PICTURE", help="A PNG, JPEG, WebP ... file.")],
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", help="Where to write; PICTURE_mask.png beside it if unset."),
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
) -> None:
    """Find the people in a picture and write the mask, white where they are; or apply an effect.

    **Examples**

        streamseg segment portrait.jpg

        streamseg segment portrait.jpg -o cutout.png --effect cutout
    """
    from streamseg.cli.running import run_async
    from streamseg.session.files import run_file

    source = Path(picture)
    name = "mask" if effect is None and config is None else effect
    target = output or str(source.with_name(f"{source.stem}_{name or 'out'}.png"))
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
    statistics = run_async(run_file(picture, target, settings))
    if as_json:
        print_json({"status": "ok", "input": picture, "output": target, **statistics.to_json()})
    else:
        typer.echo(target)
        print_notices(statistics.notices)
