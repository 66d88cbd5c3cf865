"""``streamseg live SOURCE``: a live stream through the pipeline, until it ends or Ctrl-C."""

from __future__ import annotations

import asyncio
import signal
import sys
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Annotated, Any

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
from streamseg.cli.report import print_json
from streamseg.cli.status import LiveStatus, print_live_summary
from streamseg.config import LiveConfig, SinkConfig, load_live_config
from streamseg.errors import ConfigError
from streamseg.redact import redacted_url

if TYPE_CHECKING:
    from streamseg.session.live import LiveSession
    from streamseg.telemetry import PipelineStatistics

__all__ = ["live"]

_INPUT, _OUTPUT, _FLOW, _TOLD = "Input", "Output", "While the model is busy", "Told"


_ENDING = (signal.SIGINT, signal.SIGTERM)


def live(
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="[SOURCE]",
            help="camera:0, a device, a URL, screen:, test:, or a file; camera:0 if left out.",
        ),
    ] = None,
    sink: Annotated[
        list[str] | None,
        typer.Option(
            "--sink",
            "-s",
            help="display, virtual-camera, mjpeg://127.0.0.1:8090, a URL, a file to record, or "
            "null. May be given several times; display if left out.",
            rich_help_panel=_OUTPUT,
        ),
    ] = None,
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
    when_busy: Annotated[
        str | None,
        typer.Option(
            help="drop: the newest frame is segmented next, the others are dropped. reuse: every "
            "frame is shown, with the newest mask.",
            rich_help_panel=_FLOW,
        ),
    ] = None,
    max_mask_age: Annotated[
        float | None,
        typer.Option(help="reuse: how old a mask may be, in seconds.", rich_help_panel=_FLOW),
    ] = None,
    on_missing_mask: Annotated[
        str | None,
        typer.Option(
            help="What is shown of a frame without a mask: hide, pass, or drop.",
            rich_help_panel=_FLOW,
        ),
    ] = None,
    model: ModelName = None,
    workers: Workers = None,
    threads: Threads = None,
    width: Annotated[
        int | None, typer.Option(help="Width to ask the camera for.", rich_help_panel=_INPUT)
    ] = None,
    height: Annotated[
        int | None, typer.Option(help="Height to ask the camera for.", rich_help_panel=_INPUT)
    ] = None,
    fps: Annotated[
        float | None, typer.Option(help="Frames a second likewise.", rich_help_panel=_INPUT)
    ] = None,
    mirror: Annotated[
        bool, typer.Option("--mirror", help="Mirror the camera.", rich_help_panel=_INPUT)
    ] = False,
    loop: Annotated[
        bool, typer.Option("--loop", help="Play a file again and again.", rich_help_panel=_INPUT)
    ] = False,
    no_audio: Annotated[
        bool, typer.Option("--no-audio", help="Leave the sound out.", rich_help_panel=_OUTPUT)
    ] = False,
    duration: Annotated[
        str | None,
        typer.Option(help="Stop after this time: seconds or 1:02:03.", rich_help_panel=_INPUT),
    ] = None,
    segment: Annotated[
        str | None,
        typer.Option(
            help="Begin a new recording after this time: seconds, 10m, or 1h.",
            rich_help_panel=_OUTPUT,
        ),
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option(
            help="Video encoder of recordings and streams, by FFmpeg's name.",
            rich_help_panel=_OUTPUT,
        ),
    ] = None,
    overwrite: Overwrite = False,
    stats: Annotated[
        str | None,
        typer.Option(
            help="Write a JSON line of statistics each second to this file; - for standard output.",
            rich_help_panel=_TOLD,
        ),
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option(help="Let Prometheus ask at this host:port.", rich_help_panel=_TOLD),
    ] = None,
    config: ConfigFile = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Process a live stream. The newest frame is always the next one segmented.

    Until there is a mask the whole picture is hidden. Ctrl-C ends the stream and completes
    recordings; SIGHUP reads the configuration again.

    **Examples**

        streamseg live camera:0 --effect blur

        streamseg live camera:0 --effect replace --background beach.jpg --sink virtual-camera

        streamseg live camera:0 --effect blur --sink display --sink record.mp4

        streamseg live rtsp://camera.local/stream --effect pixelate --subject --sink out.mkv

        streamseg live --config configs/webcam-blur.toml
    """
    from streamseg.cli.running import run_async

    given: dict[str, Any] = {
        "source.uri": source,
        "source.width": width,
        "source.height": height,
        "source.fps": fps,
        "source.mirror": True if mirror else None,
        "source.loop": True if loop else None,
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
        "flow.when_busy": when_busy,
        "flow.max_mask_age_s": max_mask_age,
        "flow.on_missing_mask": on_missing_mask,
        "telemetry.stats": stats,
        "telemetry.metrics": metrics,
    }
    if sink:
        given["sink"] = [{"uri": uri} for uri in sink]
    of_sinks = {
        "segment_s": parse_seconds("--segment", segment),
        "encoder": encoder,
        "overwrite": True if overwrite else None,
        "audio": False if no_audio else None,
    }
    seconds = parse_seconds("--duration", duration)
    if seconds == 0:
        raise ConfigError("--duration is 0: expected more, or leave it out to go on until Ctrl-C")

    def read() -> LiveConfig:
        return _with_sinks(load_live_config(config, given), of_sinks)

    settings = read()
    quiet = quiet or as_json or (settings.telemetry.stats == "-")
    statistics = run_async(
        _run(settings, read if config is not None else None, seconds, quiet=quiet)
    )
    if as_json:
        print_json(
            {"status": "ok", "source": redacted_url(settings.source.uri), **statistics.to_json()}
        )
    elif not quiet:
        print_live_summary(statistics, name=settings.source.uri)


def _with_sinks(config: LiveConfig, options: dict[str, Any]) -> LiveConfig:
    """Return the configuration with options applied to all its sinks; a window if it has none."""
    given = {key: value for key, value in options.items() if value is not None}
    sinks = config.sink or (SinkConfig(uri="display"),)
    return config.model_copy(
        update={"sink": tuple(item.model_copy(update=given) for item in sinks)}
    )


async def _run(
    settings: LiveConfig,
    reread: Any,
    seconds: float | None,
    *,
    quiet: bool,
) -> PipelineStatistics:
    from streamseg.session.live import LiveSession

    async with AsyncExitStack() as stack:
        with DownloadBar(settings.model.name, quiet=quiet) as bar:
            session = await stack.enter_async_context(
                LiveSession(settings, reread=reread, on_download=bar.show)
            )
        _obey_signals(session)
        timer = None
        if seconds is not None:
            timer = asyncio.get_running_loop().call_later(seconds, session.stop)
        try:
            async with LiveStatus(session.pipeline.statistics, quiet=quiet):
                return await session.run()
        finally:
            if timer is not None:
                timer.cancel()
            _ignore_signals()


def _obey_signals(session: LiveSession) -> None:
    """Let the first Ctrl-C or SIGTERM end the stream, a second one cancel; SIGHUP reloads."""
    if sys.platform == "win32":
        return
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None
    asked = False

    def end() -> None:
        nonlocal asked
        if asked:
            task.cancel()
        asked = True
        session.stop()

    for number in _ENDING:
        loop.add_signal_handler(number, end)
    loop.add_signal_handler(signal.SIGHUP, session.ask, "reload")


def _ignore_signals() -> None:
    """Bear what comes while everything is closed already: closing takes less than two seconds.

    A signal that meets a half-closed event loop is told as an error of Python's own.
    """
    for number in _ENDING:
        signal.signal(number, signal.SIG_IGN)
