"""``streamseg run IN OUT``: one file through the pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from streamseg.cli.download_bar import DownloadBar
from streamseg.cli.options import (
    Background,
    Classes,
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
    Workers,
    parse_seconds,
    scenario_values,
)
from streamseg.cli.report import FileProgress, print_json, print_summary
from streamseg.config import load_config

if TYPE_CHECKING:
    from streamseg.config import Config
    from streamseg.telemetry import PipelineStatistics

__all__ = ["run"]

_INPUT, _OUTPUT, _MASKS, _MODEL = "Input", "Output", "Masks", "Model"


def run(
    source: Annotated[
        str, typer.Argument(metavar="IN", help="A video, a picture, or pictures: in_%05d.png.")
    ],
    target: Annotated[
        str, typer.Argument(metavar="OUT", help="The file to write; its extension decides how.")
    ],
    effect: EffectName = None,
    classes: Classes = None,
    contours: Contours = None,
    legend: Legend = False,
    strength: Strength = None,
    background: Background = None,
    fit: Fit = None,
    subject: Subject = False,
    threshold: Threshold = None,
    feather: Feather = None,
    refine: Refine = None,
    smoothing: Annotated[
        float | None,
        typer.Option(help="Steadiness of uncertain pixels, 0 to 1.", rich_help_panel=_MASKS),
    ] = None,
    masks: Annotated[
        str | None,
        typer.Option(
            help="Write the masks as well: a video, mask_%05d.png, or masks.jsonl.",
            rich_help_panel=_MASKS,
        ),
    ] = None,
    model: ModelName = None,
    workers: Workers = None,
    threads: Threads = None,
    timeout: Annotated[
        float | None,
        typer.Option(
            help="Seconds after which a model that hangs is killed.", rich_help_panel=_MODEL
        ),
    ] = None,
    start: Annotated[
        str | None,
        typer.Option(help="Where to begin: seconds or 1:02:03.5.", rich_help_panel=_INPUT),
    ] = None,
    duration: Annotated[
        str | None, typer.Option(help="How much to take.", rich_help_panel=_INPUT)
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(help="Pictures a second of numbered pictures.", rich_help_panel=_INPUT),
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option(
            help="Video encoder, by FFmpeg's name; libx264 by default.", rich_help_panel=_OUTPUT
        ),
    ] = None,
    crf: Annotated[
        int | None, typer.Option(help="Quality, lower is better.", rich_help_panel=_OUTPUT)
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="The encoder's speed preset.", rich_help_panel=_OUTPUT)
    ] = None,
    no_audio: Annotated[
        bool, typer.Option("--no-audio", help="Leave the sound out.", rich_help_panel=_OUTPUT)
    ] = False,
    overwrite: Overwrite = False,
    config: ConfigFile = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Process a video file: every frame, its time stamp, and all sound are kept.

    **Examples**

        streamseg run talk.mp4 blurred.mp4

        streamseg run talk.mp4 beach.mp4 --effect replace --background beach.jpg

        streamseg run street.mov anonymous.mp4 --effect pixelate --subject

        streamseg run talk.mp4 cutout.webm --effect cutout

        streamseg run talk.mp4 out.mp4 --effect none --masks masks.jsonl

        streamseg run park.mp4 dogs.mp4 --model deeplab-v3-resnet50 --effect tint --classes dog
    """
    from streamseg.cli.running import run_async

    settings = load_config(
        config,
        {
            **scenario_values(
                model=model,
                workers=workers,
                threads=threads,
                refine=refine,
                effect=effect,
                classes=classes,
                contours=contours,
                legend=legend,
                strength=strength,
                background=background,
                fit=fit,
                subject=subject,
                threshold=threshold,
                feather=feather,
            ),
            "source.start_s": parse_seconds("--start", start),
            "source.duration_s": parse_seconds("--duration", duration),
            "source.rate": rate,
            "model.timeout_s": timeout,
            "mask.smoothing": smoothing,
            "output.encoder": encoder,
            "output.crf": crf,
            "output.preset": preset,
            "output.audio": False if no_audio else None,
            "output.overwrite": True if overwrite else None,
            "output.masks": masks,
        },
    )
    statistics = run_async(_run(source, target, settings, quiet=quiet or as_json))
    if as_json:
        print_json({"status": "ok", "input": source, "output": target, **statistics.to_json()})
    elif not quiet:
        print_summary(target, statistics)


async def _run(source: str, target: str, settings: Config, *, quiet: bool) -> PipelineStatistics:
    from streamseg.session.files import needs_model, run_file
    from streamseg.session.parts import obtain_configured

    model = None
    if needs_model(settings):
        with DownloadBar(settings.model.name, quiet=quiet) as bar:
            model = await obtain_configured(settings, bar.show)
    with FileProgress(Path(target).name, quiet=quiet) as progress:
        return await run_file(source, target, settings, model=model, on_progress=progress.update)
