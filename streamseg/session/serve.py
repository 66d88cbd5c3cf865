"""The server's composition: configuration, shared model, sessions, and the rooms it fills itself."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import time
from collections import Counter
from contextlib import AsyncExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Self

import anyio
import anyio.to_thread

from streamseg.abc import Resource
from streamseg.config import EffectConfig
from streamseg.effects.registry import create_effect
from streamseg.errors import ConfigError, SourceOpenError, StreamsegError
from streamseg.redact import redacted_url
from streamseg.runtime.sharing import SharedModel
from streamseg.session.memory import MemoryKeeper
from streamseg.session.parts import (
    NO_EFFECT,
    check_effect,
    obtain_configured,
    segmenter_for,
)
from streamseg.session.places import make_source
from streamseg.session.processing import SessionPipeline, make_effect
from streamseg.session.serve_config import server_options
from streamseg.session.serve_metrics import merge_statistics, render_server
from streamseg.session.turns import labels_for
from streamseg.telemetry import LoopLagMonitor, PipelineStatistics
from streamseg.webrtc.choices import servable_effects, with_files
from streamseg.webrtc.server import Server

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from streamseg.abc import Sink, Source
    from streamseg.models.card import Model
    from streamseg.session.serve_config import RoomConfig, ServeConfig
    from streamseg.webrtc.processing import SessionRequest
    from streamseg.webrtc.sessions import PeerFactory

__all__ = ["ServeSession", "run_server"]

_log = logging.getLogger(__name__)


class ServeSession(Resource):
    """A server with its model, from its configuration to its end.

    ``async with ServeSession(config) as session:`` listens; ``run`` fills the rooms that have a
    source, and goes on until it is cancelled or ``stop`` is called.

    Args:
        config: What to do.
        make_peer: Makes connections; for tests.
        on_download: Called on the event loop with the share of the model's download that is done,
            0 to 1; nobody is let in before the model is here.
    """

    def __init__(
        self,
        config: ServeConfig,
        *,
        make_peer: PeerFactory | None = None,
        on_download: Callable[[float], None] | None = None,
    ) -> None:
        self.config = config.model_copy(update={"effect": _with_files(config.effect)})
        self._on_download = on_download
        self._make_peer = make_peer
        self._stack = AsyncExitStack()
        self._stopped = anyio.Event()
        self._server: Server | None = None
        self._model: SharedModel | None = None
        self._lag = LoopLagMonitor()
        self._memory = MemoryKeeper()
        self._started_s = time.monotonic()
        self._running: set[SessionPipeline] = set()  # bounded by the cap on sessions
        self._ended = PipelineStatistics()
        self._adaptations: Counter[str] = Counter()  # of those that have ended

    @property
    def server(self) -> Server:
        """The server; the session must be open."""
        if self._server is None:
            raise anyio.ClosedResourceError
        return self._server

    @property
    def model(self) -> SharedModel:
        """The model of all sessions; the session must be open."""
        if self._model is None:
            raise anyio.ClosedResourceError
        return self._model

    async def __aenter__(self) -> Self:
        """Check everything, fetch the model where that is needed, begin to load it, and listen.

        Raises:
            ConfigError: If a value is wrong, the model is not one for the effect, or the address
                cannot be listened on.
            ModelError: If there is no such model, or it cannot be fetched.
        """
        options = await anyio.to_thread.run_sync(server_options, self.config)
        found = await obtain_configured(self.config, self._on_download)
        model = await anyio.to_thread.run_sync(self._make_model, found)
        try:
            self._model = await self._stack.enter_async_context(model)
            await self._stack.enter_async_context(self._lag)
            await self._stack.enter_async_context(self._memory)
            self._server = await self._stack.enter_async_context(
                Server(
                    options,
                    start_session=self._start,
                    metrics=self._metrics,
                    not_ready=lambda: model.not_ready,
                    make_peer=self._make_peer,
                )
            )
        except BaseException:
            await self.aclose()
            raise
        return self

    def _make_model(self, model: Model) -> SharedModel:
        config = self.config
        name = config.effect.name
        if name not in servable_effects():
            raise ConfigError(
                f"effect {name!r} cannot be served: expected one of {', '.join(servable_effects())}"
            )
        effect = create_effect(name, config.effect.options)
        check_effect(name, effect, model.card)
        # Also those of people: with these every effect that is about people can follow.
        labels = labels_for(None if name == NO_EFFECT else effect)
        return SharedModel(segmenter_for(config, labels, attempts=1, model=model).pool)

    async def aclose(self) -> None:
        """End all calls and close everything."""
        self._server = None
        with anyio.CancelScope(shield=True):
            await self._stack.aclose()
        self._model = None

    def stop(self) -> None:
        """Let ``run`` end."""
        self._stopped.set()

    async def run(self) -> None:
        """Serve until ``stop``.

        Raises:
            StreamsegError: If the model cannot be used, or a room's source cannot be opened. One
                that fails later leaves its room empty, and a line in the log.
        """
        errors: list[StreamsegError] = []
        async with anyio.create_task_group() as group:

            async def guarded(work: Awaitable[None]) -> None:
                try:
                    await work
                except StreamsegError as exc:
                    errors.append(exc)
                    self.stop()

            group.start_soon(guarded, self.model.wait_loaded())
            for room in self.config.room:
                group.start_soon(guarded, self._fill(room))
            await self._stopped.wait()
            group.cancel_scope.cancel()
        if errors:
            raise errors[0] from errors[0].__cause__

    async def _fill(self, room: RoomConfig) -> None:
        source = await anyio.to_thread.run_sync(make_source, room.source)
        try:
            await self.server.fill_room(room.name, source)
        except (SourceOpenError, ConfigError):
            raise
        except StreamsegError as exc:
            _log.error("room %s is empty: %s", room.name, exc)
        else:
            _log.warning("room %s is empty: its source has ended", room.name)

    async def _start(
        self, source: Source, sinks: Sequence[Sink], request: SessionRequest
    ) -> SessionPipeline:
        choice = request.effect
        name = self.config.effect.name if choice is None else choice.name
        effect = await make_effect(self.config, self.model, choice)
        return SessionPipeline(
            self.config, self.model, source, sinks, (name, effect), running=self._count
        )

    # -- statistics --------------------------------------------------------------------------

    def statistics(self) -> PipelineStatistics:
        """Return the counters of all sessions together, those that have ended included."""
        model = self.model
        total = merge_statistics((self._ended, *(each.statistics() for each in self._running)))
        return replace(
            total,
            elapsed_s=time.monotonic() - self._started_s,
            loop_lag=self._lag.times(),
            worker_restarts=model.pool.statistics().restarts,
            settings={
                "model": redacted_url(self.config.model.name),
                "effect": self.config.effect.name,
            },
        )

    @contextmanager
    def _count(self, pipeline: SessionPipeline) -> Iterator[None]:
        """Have a pipeline in the statistics while it runs, and its counters afterwards."""
        self._running.add(pipeline)
        try:
            yield
        finally:
            self._running.discard(pipeline)
            last = replace(pipeline.statistics(), queues={})
            self._ended = merge_statistics((self._ended, last))
            self._adaptations.update(pipeline.adaptations)
            self._memory.session_ended()

    async def _metrics(self, accept: str) -> tuple[str, bytes]:
        server = self.server
        adaptations = self._adaptations.copy()
        for pipeline in self._running:
            adaptations.update(pipeline.adaptations)
        return await render_server(
            self.statistics(), server.counts(), server.rooms, accept, adaptations=adaptations
        )


def _with_files(effect: EffectConfig) -> EffectConfig:
    return EffectConfig(name=effect.name, **with_files(effect.name, effect.options))


async def run_server(
    config: ServeConfig,
    *,
    on_ready: Callable[[ServeSession], None] | None = None,
    on_download: Callable[[float], None] | None = None,
) -> None:
    """Serve until SIGINT or SIGTERM, then end all calls.

    Args:
        config: What to do.
        on_ready: Called when it listens.
        on_download: Called with the share of the model's download that is done, 0 to 1.

    Raises:
        StreamsegError: If it cannot be started, the model cannot be used, or a room's source
            cannot be opened.
    """
    loop = asyncio.get_running_loop()
    async with ServeSession(config, on_download=on_download) as session:
        if sys.platform != "win32":
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, session.stop)
        if on_ready is not None:
            on_ready(session)
        await session.run()
