"""File jobs: a configuration becomes a pipeline from one file to another."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread

from streamseg.config import Config, load_config
from streamseg.errors import ConfigError
from streamseg.session.parts import (
    NO_EFFECT,
    check_effect,
    mask_filters,
    obtain_configured,
    segmenter_for,
    wanted_by,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from streamseg.abc import MaskFilter, Sink
    from streamseg.engine import Pipeline
    from streamseg.models.card import Model
    from streamseg.runtime.segmenter import ModelSegmenter
    from streamseg.telemetry import PipelineStatistics

__all__ = ["file_pipeline", "process_file", "run_file"]


def file_pipeline(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    config: Config,
    *,
    segmenter: ModelSegmenter | None = None,
    on_progress: Callable[[Pipeline], None] | None = None,
) -> Pipeline:
    """Return the pipeline of a file job, not yet open. Reads cards and backgrounds: it may block.

    Args:
        source: The file to read.
        target: The file to write.
        config: What to do.
        segmenter: Of this configuration, where one has been prepared; not yet open.
        on_progress: Called after every frame.

    Raises:
        ConfigError: If an option of the effect is wrong, or the model is not one for it.
        ModelError: If there is no such model here.
    """
    # What decodes and draws takes as long to import as a prepared model process takes to start.
    from streamseg.effects.registry import create_effect
    from streamseg.engine import Pipeline
    from streamseg.sinks.file import FileSink
    from streamseg.sinks.masks import MaskSink
    from streamseg.sources.file import FileSource

    effect = create_effect(config.effect.name, config.effect.options)
    output = config.output
    # What the job reads besides its source must not be written to, either.
    background = config.effect.options.get("background")
    protected = [os.fspath(background)] if background is not None else []
    sinks: list[Sink] = [
        FileSink(
            target,
            encoder=output.encoder,
            crf=output.crf,
            preset=output.preset,
            audio=output.audio,
            overwrite=output.overwrite,
            protected=protected,
        )
    ]
    if output.masks is not None:
        if os.path.realpath(output.masks) == os.path.realpath(target):
            raise ConfigError(f"{output.masks}: masks and video cannot go to the same file")
        sinks.append(MaskSink(output.masks, overwrite=output.overwrite, protected=protected))
    filters: list[MaskFilter] = []
    if needs_model(config):
        masks = output.masks is not None
        wanted = wanted_by(effect, masks=masks)
        segmenter = segmenter or segmenter_for(config, wanted)
        check_effect(config.effect.name, effect, segmenter.pool.model.card, masks=masks)
        segmenter.want(wanted)
        filters = mask_filters(config.mask)
    return Pipeline(
        FileSource(
            source,
            start_s=config.source.start_s,
            duration_s=config.source.duration_s,
            rate=config.source.rate,
        ),
        segmenter=segmenter,
        mask_filters=filters,
        effect=None if config.effect.name == NO_EFFECT else effect,
        sinks=sinks,
        on_progress=on_progress,
    )


async def run_file(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    config: Config | None = None,
    *,
    model: Model | None = None,
    on_progress: Callable[[Pipeline], None] | None = None,
    on_download: Callable[[float], None] | None = None,
) -> PipelineStatistics:
    """Process one file and return the statistics; see ``process_file``.

    Args:
        source: The file to read.
        target: The file to write.
        config: What to do.
        model: The configured model, where it was obtained already.
        on_progress: Called after every frame.
        on_download: Called with the share of the model's download that is done, 0 to 1.

    Raises:
        StreamsegError: If anything fails; the target is then as it was before.
    """
    settings = config or Config()
    # The model process starts while the rest is imported, read and checked.
    segmenter: ModelSegmenter | None = None
    if needs_model(settings):
        model = model or await obtain_configured(settings, on_download)
        segmenter = segmenter_for(settings, "people", model=model)
        segmenter.pool.prepare()

    def make() -> Pipeline:
        return file_pipeline(source, target, settings, segmenter=segmenter, on_progress=on_progress)

    try:
        pipeline = await anyio.to_thread.run_sync(make)
    except BaseException:
        if segmenter is not None:
            with anyio.CancelScope(shield=True):
                await segmenter.aclose()
        raise
    async with pipeline:
        return await pipeline.run()


def needs_model(config: Config) -> bool:
    """Return whether a file job needs masks at all."""
    return config.effect.name != NO_EFFECT or config.output.masks is not None


def process_file(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    effect: str | None = None,
    model: str | os.PathLike[str] | None = None,
    overwrite: bool | None = None,
    config: str | os.PathLike[str] | None = None,
    **effect_options: Any,
) -> PipelineStatistics:
    """Process one file and wait for it; not to be called from an event loop (use ``run_file``).

    Args:
        source: Any video file, picture, or numbered sequence of pictures.
        target: The file to write; its extension chooses the container.
        effect: Name of an effect; ``blur`` if neither this nor the configuration says.
        model: A model's name, or the path or address of a .pte; fetched where that is needed.
        overwrite: Whether an existing target is replaced.
        config: Path of a configuration; the other arguments override it.
        **effect_options: Options of the effect, for example ``strength=80``.

    Returns:
        What was done: frames in and out, times, notices.

    Raises:
        StreamsegError: If anything fails; the target is then as it was before.
    """
    overrides: dict[str, Any] = {
        "effect.name": effect,
        "model.name": None if model is None else str(model),
        "output.overwrite": overwrite,
    }
    overrides |= {f"effect.{name}": value for name, value in effect_options.items()}
    settings = load_config(None if config is None else Path(config), overrides)
    return anyio.run(run_file, source, target, settings)
