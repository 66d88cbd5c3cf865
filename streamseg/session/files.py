"""Composition root: a configuration becomes a pipeline of concrete parts.

Nothing below this knows which source, model, effect or sink it works with.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio.to_thread

from streamseg.config import Config, load_config
from streamseg.effects.registry import create_effect
from streamseg.errors import ConfigError
from streamseg.masks.refinement import EdgeRefinement
from streamseg.masks.smoothing import TemporalSmoothing
from streamseg.models.card import people_labels
from streamseg.models.registry import find_model
from streamseg.pipeline import Pipeline
from streamseg.runtime.pool import WorkerPool
from streamseg.runtime.segmenter import ModelSegmenter
from streamseg.sinks.file import FileSink
from streamseg.sinks.masks import MaskSink
from streamseg.sources.file import FileSource

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from streamseg.abc import MaskFilter, Sink
    from streamseg.effects.base import VideoEffect
    from streamseg.telemetry import PipelineStatistics

__all__ = ["file_pipeline", "load_segmenter", "process_file", "run_file"]

_NO_EFFECT = "none"


def load_segmenter(
    model: str | Path = "selfie",
    *,
    workers: int = 1,
    threads: int = 0,
    timeout_s: float = 30.0,
    labels: Any = "people",
) -> ModelSegmenter:
    """Return a segmenter for a model; nothing is started before it is opened.

    Args:
        model: A bundled model's name, or the path of a .pte.
        workers: Number of model processes.
        threads: Threads of each; 0 chooses by the model's input size.
        timeout_s: A frame that takes longer has its process killed and is tried again.
        labels: Whose masks are wanted; see ``WorkerPool``.

    Raises:
        ModelError: If there is no such model.
    """
    pool = WorkerPool(
        find_model(model),
        workers=workers,
        threads=threads or None,
        timeout_s=timeout_s,
        labels=labels,
    )
    return ModelSegmenter(pool)


def file_pipeline(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    config: Config,
    *,
    on_progress: Callable[[Pipeline], None] | None = None,
) -> Pipeline:
    """Return the pipeline of a file job, not yet open. Reads cards and backgrounds: it may block.

    Args:
        source: The file to read.
        target: The file to write.
        config: What to do.
        on_progress: Called after every frame.

    Raises:
        ConfigError: If an option of the effect is wrong.
        ModelError: If there is no such model.
    """
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
    segmenter: ModelSegmenter | None = None
    mask_filters: list[MaskFilter] = []
    if config.effect.name != _NO_EFFECT or output.masks is not None:
        segmenter = load_segmenter(
            config.model.name,
            workers=config.model.workers,
            threads=config.model.threads,
            timeout_s=config.model.timeout_s,
            labels=_wanted_by(effect, masks=output.masks is not None),
        )
        if config.mask.smoothing > 0:
            mask_filters.append(TemporalSmoothing(ratio=config.mask.smoothing))
        if config.mask.refine:
            mask_filters.append(EdgeRefinement())
    return Pipeline(
        FileSource(
            source,
            start_s=config.source.start_s,
            duration_s=config.source.duration_s,
            rate=config.source.rate,
        ),
        segmenter=segmenter,
        mask_filters=mask_filters,
        effect=None if config.effect.name == _NO_EFFECT else effect,
        sinks=sinks,
        on_progress=on_progress,
    )


async def run_file(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    config: Config | None = None,
    *,
    on_progress: Callable[[Pipeline], None] | None = None,
) -> PipelineStatistics:
    """Process one file and return the statistics; see ``process_file``."""

    def make() -> Pipeline:
        return file_pipeline(source, target, config or Config(), on_progress=on_progress)

    async with await anyio.to_thread.run_sync(make) as pipeline:
        return await pipeline.run()


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
        model: A bundled model's name, or the path of a .pte.
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


def _wanted_by(effect: VideoEffect, *, masks: bool) -> Callable[[tuple[str, ...]], Sequence[str]]:
    """Return which of a model's labels the effect, and the mask output beside it, need."""

    def choose(labels: tuple[str, ...]) -> Sequence[str]:
        wanted = tuple(effect.wanted_labels(labels))
        if not wanted and masks:
            wanted = people_labels(labels) or labels
        return wanted

    return choose
