"""LiveSession: a live stream under control.

It makes the pipeline that a ``LiveConfig`` describes, runs it with what looks on (metrics, lines of
statistics), and carries out what the user asks for in the meantime, from the keyboard, from Python,
or by a changed configuration. Nothing of that stops the output.
"""

from __future__ import annotations

import asyncio
import datetime
import logging
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import anyio
import anyio.to_thread

from streamseg.effects.registry import create_effect
from streamseg.engine import Pipeline
from streamseg.errors import ConfigError, StreamsegError
from streamseg.flow import FlowLimit
from streamseg.masks.motion import MotionCompensation
from streamseg.monitoring.prometheus import MetricsServer
from streamseg.monitoring.text import overlay_text
from streamseg.monitoring.writer import StatisticsWriter
from streamseg.redact import redacted_url
from streamseg.runtime.segmenter import ModelSegmenter
from streamseg.session.memory import MemoryTrimmer
from streamseg.session.parts import (
    NO_EFFECT,
    check_effect,
    mask_filters,
    obtain_configured,
    segmenter_for,
)
from streamseg.session.places import check_targets, make_sink, make_source
from streamseg.session.shown import shown_model
from streamseg.session.turns import Look, labels_for, mask_look, next_look
from streamseg.sinks.file import FileSink

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

    from streamseg.abc import Sink, Source
    from streamseg.commands import Command
    from streamseg.config import LiveConfig
    from streamseg.effects.base import VideoEffect
    from streamseg.models.card import Model
    from streamseg.telemetry import PipelineStatistics

__all__ = ["LiveSession"]

_log = logging.getLogger(__name__)

_ASKED_FOR = 16  # keys pressed faster than they can be obeyed; more are ignored


class LiveSession:
    """A live pipeline, from its configuration to its end.

    Example::

        async with LiveSession(config) as session:
            statistics = await session.run()

    The methods that change something may be called while it runs, from the event loop.

    Args:
        config: What to do.
        reread: Returns the configuration anew, for ``reload``; called in a thread.
        source: A source to use instead of the one that the configuration names.
        sinks: Sinks to use besides those that it names.
        snapshots: Folder for pictures kept with ``snapshot``.
        on_progress: Called on the event loop after every frame that was delivered.
        on_download: Called likewise with the share of a model's download that is done, 0 to 1;
            nothing is shown before the first model is here.
    """

    def __init__(
        self,
        config: LiveConfig,
        *,
        reread: Callable[[], LiveConfig] | None = None,
        source: Source | None = None,
        sinks: tuple[Sink, ...] = (),
        snapshots: Path = Path(),
        on_progress: Callable[[Pipeline], None] | None = None,
        on_download: Callable[[float], None] | None = None,
    ) -> None:
        self.config = config
        self._model: Model | None = None  # known once it is needed
        self._look = Look(config.effect.name, config.effect.options)
        self._before_mask: Look | None = None  # while the mask is looked at
        self._alpha = config.effect.name == "cutout"  # the sinks can take it
        self._reread = reread
        self._source = source
        self._sinks = sinks
        self._snapshots = snapshots
        self._on_progress = on_progress
        self._on_download = on_download
        self._stack = AsyncExitStack()
        self._pipeline: Pipeline | None = None
        # Keys may be pressed as soon as a window is there, before anything runs.
        self._asked: asyncio.Queue[str] = asyncio.Queue(_ASKED_FOR)
        self._changing = anyio.Lock()
        self._effect: VideoEffect | None = None

    @property
    def effect_name(self) -> str:
        """The effect in use."""
        return self._look.name

    @property
    def pipeline(self) -> Pipeline:
        """The pipeline; the session must be open."""
        if self._pipeline is None:
            raise anyio.ClosedResourceError
        return self._pipeline

    async def __aenter__(self) -> Self:
        if self.config.effect.name != NO_EFFECT:
            self._model = await obtain_configured(self.config, self._on_download)
        # Reads cards, backgrounds and device lists.
        pipeline = await anyio.to_thread.run_sync(self._make_pipeline)
        if isinstance(pipeline.segmenter, ModelSegmenter):
            pipeline.segmenter.pool.prepare()  # loads while the source opens
        self._pipeline = pipeline
        try:
            await self._stack.enter_async_context(pipeline)
            await self._stack.enter_async_context(MemoryTrimmer())
            self._tell_settings()
            telemetry = self.config.telemetry
            if telemetry.metrics is not None:
                server = MetricsServer(telemetry.metrics, pipeline.statistics)
                await self._stack.enter_async_context(server)
            if telemetry.stats is not None:
                writer = StatisticsWriter(
                    telemetry.stats, pipeline.statistics, interval_s=telemetry.interval_s
                )
                await self._stack.enter_async_context(writer)
        except BaseException:
            self._pipeline = None
            await self._stack.aclose()  # its parts shield themselves
            raise
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._pipeline = None
        await self._stack.aclose()

    async def run(self) -> PipelineStatistics:
        """Run until the stream ends or ``stop`` is called; complete the sinks.

        Raises:
            StreamsegError: If a part fails for good.
        """
        pipeline = self.pipeline
        error: Exception | None = None
        async with anyio.create_task_group() as group:
            group.start_soon(self._obey)
            try:
                await pipeline.run()
            except Exception as exc:  # the group would wrap it
                error = exc
            group.cancel_scope.cancel()
        if error is not None:
            raise error from error.__cause__
        return pipeline.statistics()

    # -- what may be asked for while it runs -------------------------------------------------

    def ask(self, command: Command | str) -> None:
        """Have a command carried out soon; see ``Command``. ``reload`` reads the configuration."""
        if command == "quit":
            self.stop()
            return
        try:
            self._asked.put_nowait(command)
        except asyncio.QueueFull:
            _log.warning("%s was ignored: too much is asked for at once", command)

    def stop(self) -> None:
        """End the stream; what the sinks have is completed."""
        if self._pipeline is not None:
            self._pipeline.stop()

    def pause(self, paused: bool = True) -> None:
        """Hold the picture, or go on."""
        self.pipeline.paused = paused
        _log.info("paused" if paused else "resumed")

    async def set_effect(self, name: str, options: Mapping[str, Any] | None = None) -> None:
        """Change the effect from the next frame on.

        Raises:
            ConfigError: If there is no such effect or option, the model is not one for it, or it
                cannot replace the present one in mid-stream; the present one stays.
        """
        look = Look(name, dict(options or {}))
        async with self._changing:
            effect = await self._make_effect(look)
            if name != NO_EFFECT:
                check_effect(name, effect, (await self._model_of(self.config)).card)
            await self._ensure_labels(effect, look)
            self._use(effect, look)

    async def set_model(self, name: str) -> None:
        """Change the model; the present one works until the new one is fetched and loaded.

        Raises:
            ConfigError: If it is not one for the effect; the present one stays.
            ModelError: If it cannot be used; likewise.
        """
        async with self._changing:
            model = self.config.model.model_copy(update={"name": name})
            config = self.config.model_copy(update={"model": model})
            found = await self._model_of(config)
            if self._effect is not None:
                check_effect(self.effect_name, self._effect, found.card)
            await self._load(config, found, self._effect)
            self.config = config
            self._tell_settings()

    async def snapshot(self) -> Path:
        """Keep the picture that was shown last as a PNG, and return its path.

        Raises:
            SinkError: If it cannot be written.
        """
        frame = await self.pipeline.snapshot()
        stamp = datetime.datetime.now().strftime("%Y-%m-%d %H.%M.%S.%f")[:-3]
        path = self._snapshots / f"streamseg {stamp}.png"
        async with FileSink(path) as sink:
            await sink.open(self.pipeline.info)
            await sink.send(frame)
            await sink.finish()
            await sink.commit()
        _log.warning("kept %s", path)
        return path

    async def reload(self) -> None:
        """Read the configuration again and apply what can change while running.

        Model, masks and effect can; a changed source, sink, flow or telemetry waits for the next
        start, which one line in the log says.

        Raises:
            ConfigError: If it is wrong; everything stays as it is.
            ModelError: If the model cannot be used; likewise.
        """
        if self._reread is None:
            raise ConfigError("there is no configuration file to read again: start with --config")
        new = await anyio.to_thread.run_sync(self._reread)
        async with self._changing:
            await self._apply(new)

    # -- inside ------------------------------------------------------------------------------

    async def _apply(self, new: LiveConfig) -> None:
        old = self.config
        look = Look(new.effect.name, new.effect.options)
        effect = await self._make_effect(look)
        filters = mask_filters(new.mask)
        next_effect = effect if new.effect != old.effect else self._effect
        name = look.name if next_effect is effect else self.effect_name
        if new.model != old.model or name != NO_EFFECT:
            found = await self._model_of(new)
            if next_effect is not None:
                check_effect(name, next_effect, found.card)
        if new.model != old.model:
            await self._load(new, found, next_effect)
        elif next_effect is effect:
            await self._ensure_labels(effect, look)
        # From here on nothing can fail: all of it changes, or nothing does.
        if new.mask != old.mask:
            self.pipeline.mask_filters = tuple(filters)
        if next_effect is effect:
            self._use(effect, look)
        self.config = old.model_copy(
            update={"model": new.model, "mask": new.mask, "effect": new.effect}
        )
        self._tell_settings()
        for table in ("source", "sink", "flow", "telemetry"):
            if getattr(new, table) != getattr(old, table):
                _log.warning("[%s] has changed: it takes effect at the next start", table)
        _log.info("configuration read again")

    async def _make_effect(self, look: Look) -> VideoEffect:
        if look.name == "cutout" and not self._alpha:
            raise ConfigError(
                "effect 'cutout' has alpha, which a running output cannot take on: "
                "start with it instead"
            )
        return await anyio.to_thread.run_sync(create_effect, look.name, look.options)

    def _use(self, effect: VideoEffect, look: Look) -> None:
        self._effect, self._look, self._before_mask = effect, look, None
        self.pipeline.effect = None if look.name == NO_EFFECT else effect
        self._tell_settings()
        _log.info("effect is %s", look.name)

    def _make_pipeline(self) -> Pipeline:
        config = self.config
        check_targets(config)
        effect = self._effect = create_effect(config.effect.name, config.effect.options)
        source = self._source or make_source(config.source)
        background = config.effect.options.get("background")
        sinks = [
            make_sink(
                sink,
                on_command=self.ask,
                overlay=self._overlay,
                protected=() if background is None else (str(background),),
            )
            for sink in config.sink
        ]
        segmenter: ModelSegmenter | None = None
        if self._model is not None:
            check_effect(config.effect.name, effect, self._model.card)
            segmenter = _segmenter(config, self._model, effect)
        flow = config.flow
        return Pipeline(
            source,
            segmenter=segmenter,
            mask_filters=mask_filters(config.mask),
            effect=None if config.effect.name == NO_EFFECT else effect,
            sinks=[*sinks, *self._sinks],
            limit=FlowLimit(
                flow.when_busy,
                max_mask_age_s=flow.max_mask_age_s,
                on_missing_mask=flow.on_missing_mask,
            ),
            # Without motion, too, a mask from before a scene cut must not be used.
            motion=MotionCompensation(follow=flow.motion) if flow.when_busy == "reuse" else None,
            on_progress=self._on_progress,
        )

    def _tell_settings(self) -> None:
        name = shown_model(self.config.model.name)
        self.pipeline.settings = {"model": name, "effect": self.effect_name}

    async def _obey(self) -> None:
        while True:
            command = await self._asked.get()
            try:
                await self._carry_out(command)
            except StreamsegError as exc:
                _log.error("%s: %s", command, exc)
            except Exception as exc:  # a key must not end what runs
                _log.error("%s: %s: %s", command, type(exc).__name__, exc)
                _log.debug("it failed here:", exc_info=exc)

    async def _carry_out(self, command: str) -> None:
        if command == "pause":
            self.pause(not self.pipeline.paused)
        elif command == "next-effect":
            model = self._model
            look = next_look(
                self._before_mask or self._look,
                self.config.effect,
                classifies=model is not None and model.card.task == "classification",
            )
            await self.set_effect(*look)
        elif command == "show-mask":
            await self._show_mask()
        elif command == "snapshot" and not self.pipeline.frames_out:
            _log.warning("there is no picture to keep yet")
        elif command == "snapshot":
            await self.snapshot()
        elif command == "reload":
            await self.reload()

    async def _show_mask(self) -> None:
        if self._before_mask is not None:
            await self.set_effect(*self._before_mask)
        elif self.effect_name != "mask":
            before = self._look
            await self.set_effect(*mask_look(before))
            self._before_mask = before

    async def _ensure_labels(self, effect: VideoEffect, look: Look) -> None:
        """Load the model anew if the effect needs masks that it does not return now."""
        if look.name == NO_EFFECT:
            return
        segmenter = self.pipeline.segmenter
        if isinstance(segmenter, ModelSegmenter):
            pool = segmenter.pool
            if not pool.labels:  # it still loads
                segmenter.want(labels_for(self._effect, effect, strict=False))
                return
            if effect.needs == "scores":
                return
            if set(labels_for(effect)(pool.labels)) <= set(segmenter.labels):
                return
        await self._load(self.config, await self._model_of(self.config), self._effect, effect)

    async def _model_of(self, config: LiveConfig) -> Model:
        """Return the model of a configuration; the present one where it is of the same name."""
        if self._model is not None and config.model.name == self.config.model.name:
            return self._model
        return await obtain_configured(config, self._on_download)

    async def _load(self, config: LiveConfig, model: Model, *effects: VideoEffect | None) -> None:
        """Change the model to this one, with the masks that these effects need."""
        await self.pipeline.use_segmenter(_segmenter(config, model, *effects))
        self._model = model
        _log.info("model is %s", redacted_url(config.model.name))

    def _overlay(self) -> str:
        return overlay_text(self.pipeline.statistics())


def _segmenter(config: LiveConfig, model: Model, *effects: VideoEffect | None) -> ModelSegmenter:
    # What waits for its own mask may wait for another process, too; a live picture is too old then.
    attempts = 3 if config.flow.when_busy == "wait" else 1
    return segmenter_for(config, labels_for(*effects), attempts=attempts, model=model)
