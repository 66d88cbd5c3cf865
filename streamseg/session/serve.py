"""The server's composition: configuration, shared model, sessions, and the rooms it fills itself."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import time
from collections import Counter
from contextlib import AsyncExitStack, closing, contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Self

import anyio
import anyio.to_thread

from streamseg.abc import Resource
from streamseg.config import EffectConfig
from streamseg.effects.registry import create_effect
from streamseg.errors import ConfigError, SourceOpenError, StreamsegError
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
from streamseg.session.shown import shown_model
from streamseg.session.turns import labels_for
from streamseg.sources.reconnect import Backoff, Reconnect
from streamseg.telemetry import LoopLagMonitor, PipelineStatistics
from streamseg.webrtc.choices import servable_effects, with_files
from streamseg.webrtc.server import Server

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from streamseg.abc import Sink, Source
    from streamseg.models.card import Card, Model
    from streamseg.session.serve_config import RoomConfig, ServeConfig
    from streamseg.webrtc.processing import SessionRequest
    from streamseg.webrtc.sessions import PeerFactory

__all__ = ["ServeSession", "run_server"]

_log = logging.getLogger(__name__)

_FILL_AGAIN = Reconnect(first_delay_s=2.0, max_delay_s=60.0, give_up_after_s=None)
_FILLED_S = 60.0  # a source that was there for so long did not fail to come


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
        options = replace(options, able=_effects_for(found.card, self.config.effect.name))
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
                    on_session_end=self._memory.session_ended,
                )
            )
        except BaseException:
            await self.aclose()
            raise
        if not (options.loopback or options.tokens):
            _log.warning(
                "whoever reaches this server can use it: no token is configured (see --token-file)"
            )
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
            StreamsegError: If the model cannot be used, or the source of the only room cannot be
                opened. One of several, or one that fails later, leaves its room empty, with a line
                in the log, and is tried again.
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
        """Keep a room filled until its source has ended."""
        # At first. What was just written on a command line is wrong rather than away for a while.
        final = (ConfigError, SourceOpenError) if len(self.config.room) == 1 else (ConfigError,)
        waits: Backoff | None = None
        while True:
            began_s = time.monotonic()
            try:
                source = await anyio.to_thread.run_sync(make_source, room.source)
                await self.server.fill_room(room.name, source)
            except StreamsegError as exc:
                if waits is None and isinstance(exc, final):
                    raise
                reason = str(exc)
            else:
                _log.warning("room %s is empty: its source has ended", room.name)
                return
            now_s = time.monotonic()
            if waits is None or now_s - began_s > _FILLED_S:
                waits = Backoff(_FILL_AGAIN, now_s)
            delay_s = waits.next_delay_s(now_s) or 0.0
            _log.warning("room %s is empty: %s; trying again in %.0f s", room.name, reason, delay_s)
            await anyio.sleep(delay_s)

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
                "model": shown_model(self.config.model.name),
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

    async def _metrics(self, accept: str) -> tuple[str, bytes]:
        server = self.server
        adaptations = self._adaptations.copy()
        for pipeline in self._running:
            adaptations.update(pipeline.adaptations)
        return await render_server(
            self.statistics(), server.counts(), server.rooms, accept, adaptations=adaptations
        )


def _effects_for(card: Card, own: str) -> tuple[str, ...]:
    """Return the effects that a model can do without further options, and the operator's own."""
    able = [own]
    for name in servable_effects():
        with suppress(ConfigError), closing(create_effect(name)) as effect:
            check_effect(name, effect, card)
            able.append(name)
    return tuple(dict.fromkeys(able))


def _with_files(effect: EffectConfig) -> EffectConfig:
    return EffectConfig(name=effect.name, **with_files(effect.name, effect.options))


async def run_server(
    config: ServeConfig,
    *,
    on_ready: Callable[[ServeSession], None] | None = None,
    on_download: Callable[[float], None] | None = None,
    on_cancel: Callable[[int], None] | None = None,
) -> None:
    """Serve until SIGINT or SIGTERM, then end all calls; a second signal does not wait for them.

    Args:
        config: What to do.
        on_ready: Called when it listens.
        on_download: Called with the share of the model's download that is done, 0 to 1.
        on_cancel: Called with the number of the signal that does not wait.

    Raises:
        StreamsegError: If it cannot be started, the model cannot be used, or the source of the only
            room cannot be opened.
    """
    async with ServeSession(config, on_download=on_download) as session:
        _obey_signals(session.stop, on_cancel)
        if on_ready is not None:
            on_ready(session)
        await session.run()


def _obey_signals(stop: Callable[[], None], on_cancel: Callable[[int], None] | None) -> None:
    """Let the first Ctrl-C or SIGTERM end the server, and every other one cancel."""
    if sys.platform == "win32":
        return
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None
    asked = False

    def end(number: int) -> None:
        nonlocal asked
        if asked:
            if on_cancel is not None:
                on_cancel(number)
            task.cancel()
        asked = True
        stop()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, end, number)
