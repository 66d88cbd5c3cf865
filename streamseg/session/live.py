"""LiveSession: a live stream under control.

It makes the pipeline that a ``LiveConfig`` describes, runs it with what looks on (metrics, lines of
statistics), and carries out what the user asks for in the meantime, from the keyboard, from Python,
or by a changed configuration. Nothing of that stops the output.
"""

from __future__ import annotations

import datetime
import logging
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import anyio
import anyio.to_thread

from streamseg.effects.registry import create_effect
from streamseg.errors import ConfigError, StreamsegError
from streamseg.flow import FlowLimit
from streamseg.masks.motion import MotionCompensation
from streamseg.models.card import people_labels
from streamseg.monitoring.prometheus import MetricsServer
from streamseg.monitoring.text import overlay_text
from streamseg.monitoring.writer import StatisticsWriter
from streamseg.pipeline import Pipeline
from streamseg.runtime.segmenter import ModelSegmenter
from streamseg.session.parts import NO_EFFECT, mask_filters, segmenter_for, wanted_by
from streamseg.session.places import make_sink, make_source
from streamseg.sinks.file import FileSink

if TYPE_CHECKING:
    from types import TracebackType

    from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

    from streamseg.abc import Sink, Source
    from streamseg.commands import Command
    from streamseg.config import LiveConfig
    from streamseg.effects.base import VideoEffect
    from streamseg.telemetry import PipelineStatistics

__all__ = ["LiveSession"]

_log = logging.getLogger(__name__)

# What the key "e" goes through. A room that is hidden is not shown for want of a finger's care:
# from an effect that hides it, only others that do come next.
_HIDING = ("blur", "replace", "pixelate")
_SHOWING = ("none", "tint", "grayscale")
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
    ) -> None:
        self.config = config
        self.effect_name = config.effect.name
        self._reread = reread
        self._source = source
        self._sinks = sinks
        self._snapshots = snapshots
        self._on_progress = on_progress
        self._stack = AsyncExitStack()
        self._pipeline: Pipeline | None = None
        self._asked: MemoryObjectSendStream[str] | None = None
        self._changing = anyio.Lock()
        self._effect: VideoEffect | None = None

    @property
    def pipeline(self) -> Pipeline:
        """The pipeline; the session must be open."""
        if self._pipeline is None:
            raise anyio.ClosedResourceError
        return self._pipeline

    async def __aenter__(self) -> Self:
        # Reads cards, backgrounds and device lists.
        pipeline = await anyio.to_thread.run_sync(self._make_pipeline)
        if isinstance(pipeline.segmenter, ModelSegmenter):
            pipeline.segmenter.pool.prepare()  # loads while the source opens
        try:
            await self._stack.enter_async_context(pipeline)
            self._pipeline = pipeline
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
        error: StreamsegError | None = None
        self._asked, to_do = anyio.create_memory_object_stream[str](_ASKED_FOR)
        async with anyio.create_task_group() as group, self._asked:
            group.start_soon(self._obey, to_do)
            try:
                await pipeline.run()
            except StreamsegError as exc:  # the group would wrap it
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
        if self._asked is None:
            raise anyio.ClosedResourceError
        try:
            self._asked.send_nowait(command)
        except (anyio.WouldBlock, anyio.ClosedResourceError, anyio.BrokenResourceError):
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
            ConfigError: If there is no such effect or option, or another one cannot replace the
                present one in mid-stream; the present one stays.
        """
        async with self._changing:
            if name == "cutout" and self.effect_name != "cutout":
                raise ConfigError(
                    "effect 'cutout' has alpha, which a running output cannot take on: "
                    "start with it instead"
                )
            effect = await anyio.to_thread.run_sync(create_effect, name, dict(options or {}))
            await self._ensure_labels(effect, name)
            self._effect = effect
            self.pipeline.effect = None if name == NO_EFFECT else effect
            self.effect_name = name
            self._tell_settings()
            _log.info("effect is %s", name)

    async def set_model(self, name: str) -> None:
        """Change the model; the present one works until the new one is loaded.

        Raises:
            ModelError: If it cannot be used; the present one stays.
        """
        async with self._changing:
            config = self.config.model_copy(
                update={"model": self.config.model.model_copy(update={"name": name})}
            )
            segmenter = segmenter_for(config, _labels_for(self._effect), attempts=1)
            await self.pipeline.use_segmenter(segmenter)
            self.config = config
            self._tell_settings()
            _log.info("model is %s", name)

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
        await anyio.to_thread.run_sync(create_effect, new.effect.name, new.effect.options)
        old = self.config
        for table in ("source", "sink", "flow", "telemetry"):
            if getattr(new, table) != getattr(old, table):
                _log.warning("[%s] has changed: it takes effect at the next start", table)
        if new.model != old.model:
            self.config = old.model_copy(update={"model": new.model})
            try:
                await self.set_model(new.model.name)
            except BaseException:
                self.config = old
                raise
        if new.mask != old.mask:
            self.pipeline.mask_filters = tuple(mask_filters(new.mask))
        if new.effect != old.effect:
            await self.set_effect(new.effect.name, new.effect.options)
        self.config = self.config.model_copy(update={"mask": new.mask, "effect": new.effect})
        _log.info("configuration read again")

    # -- inside ------------------------------------------------------------------------------

    def _make_pipeline(self) -> Pipeline:
        config = self.config
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
        if config.effect.name != NO_EFFECT:
            segmenter = segmenter_for(config, _labels_for(effect), attempts=1)
        flow = config.flow
        reuse = flow.when_busy == "reuse"
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
            motion=MotionCompensation() if reuse and flow.motion else None,
            on_progress=self._on_progress,
        )

    def _tell_settings(self) -> None:
        self.pipeline.settings = {"model": self.config.model.name, "effect": self.effect_name}

    async def _obey(self, to_do: MemoryObjectReceiveStream[str]) -> None:
        async with to_do:
            async for command in to_do:
                try:
                    await self._carry_out(command)
                except StreamsegError as exc:
                    _log.error("%s: %s", command, exc)

    async def _carry_out(self, command: str) -> None:
        if command == "pause":
            self.pause(not self.pipeline.paused)
        elif command == "next-effect":
            await self._next_effect()
        elif command == "show-mask":
            if self.effect_name == "mask":
                await self.set_effect(self.config.effect.name, self.config.effect.options)
            else:
                await self.set_effect("mask")
        elif command == "snapshot":
            await self.snapshot()
        elif command == "reload":
            await self.reload()

    async def _next_effect(self) -> None:
        configured = self.config.effect.name
        ring = list(_HIDING if configured not in (*_SHOWING, "mask") else (*_SHOWING, *_HIDING))
        if configured not in ring:
            ring.insert(0, configured)
        here = ring.index(self.effect_name) if self.effect_name in ring else -1
        name = ring[(here + 1) % len(ring)]
        await self.set_effect(name, self.config.effect.options if name == configured else {})

    async def _ensure_labels(self, effect: VideoEffect, name: str) -> None:
        """Load the model anew if the effect needs masks that it does not return now."""
        if name == NO_EFFECT:
            return
        segmenter: Any = self.pipeline.segmenter
        if segmenter is not None:
            if not segmenter.labels:  # still loading, for another effect
                return
            wanted = set(_labels_for(effect)(segmenter.pool.labels))
            if wanted <= set(segmenter.labels):
                return
        await self.pipeline.use_segmenter(
            segmenter_for(self.config, _labels_for(effect), attempts=1)
        )

    def _overlay(self) -> str:
        return overlay_text(self.pipeline.statistics())


def _labels_for(effect: VideoEffect | None) -> Callable[[tuple[str, ...]], tuple[str, ...]]:
    """Return which labels a live model returns: the effect's, and those of people.

    With these every effect that is about people can follow without loading the model again.
    """

    def choose(labels: tuple[str, ...]) -> tuple[str, ...]:
        wanted = () if effect is None else tuple(wanted_by(effect)(labels))
        people = tuple(people_labels(labels) or labels)
        return tuple(dict.fromkeys((*wanted, *people)))

    return choose
