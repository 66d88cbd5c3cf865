"""Pipeline: Source -> Segmenter -> MaskFilter* -> Effect -> Sink(s).

It knows the protocols of ``abc.py`` and no concrete class. Its tasks work hand in hand, so that
decoding, the model, the effect and encoding overlap while every frame keeps its place:

    read:    source.receive() -> FlowLimiter, which has the frame segmented, or not
    segment: one short task for each frame in the model
    shape:   takes the frames in order from the limiter -> mask filters and effect, in a thread
    outlet:  one for each sink, with a queue

What happens while the model is busy is the ``FlowLimit``'s matter (``flow.py``): a file job waits,
and when the sinks are slow the source waits; a live stream goes on without waiting for anybody.
Packets of side streams go from the source to the sinks directly: nothing is done to them.
"""

from __future__ import annotations

import logging
from collections import Counter
from contextlib import AsyncExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, NoReturn, Self

import anyio
import anyio.to_thread

from streamseg.errors import ConfigError, StreamsegError
from streamseg.flow import FlowCounts, FlowLimit, FlowLimiter
from streamseg.pipeline.iteration import PictureIterator
from streamseg.pipeline.outlet import Outlet, Picture
from streamseg.pipeline.shaping import Shaper
from streamseg.references import References
from streamseg.telemetry import RECENT_S, LoopLagMonitor, PipelineStatistics, StageTimer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import TracebackType

    from anyio.abc import TaskGroup

    from streamseg.abc import Effect, MaskFilter, MaskMotion, Segmenter, Sink, Source
    from streamseg.flow import Ticket
    from streamseg.frames import Frame, StreamInfo
    from streamseg.telemetry import StageTimes

__all__ = ["Pipeline"]

_log = logging.getLogger(__name__)

_STAGES = ("read", "segment", "model", "effect", "write", "total")
_COMPLETE_S = 10.0  # how long sinks of a live stream that failed may take to complete
_LAST_ANSWER_S = 5.0  # how long a model that is replaced may take for the frames that it has


class Pipeline:
    """Runs frames from a source through a model and an effect into sinks.

    ``async with`` opens everything and closes everything; ``run`` does the work::

        async with Pipeline(source, segmenter=..., effect=..., sinks=[...]) as pipeline:
            statistics = await pipeline.run()

    or the pictures are taken in a loop, with or without sinks beside it::

        async with Pipeline(source, segmenter=..., effect=...) as pipeline:
            async for frame, segmentation in pipeline:
                ...

    Leaving the block without a completed ``run`` abandons what the sinks wrote.

    While it runs, ``effect`` may be set, ``use_segmenter`` changes the model, ``paused`` holds the
    picture, ``snapshot`` returns it, and ``stop`` ends the stream as if its source had ended.

    Args:
        source: Where frames come from.
        segmenter: The model; None runs without one (then there are no masks).
        mask_filters: Applied to each segmentation, in this order.
        effect: Makes the picture to show; None passes pictures through.
        sinks: Where pictures go.
        limit: What happens while the model is busy; ``FlowLimit()`` waits and drops nothing.
        motion: With ``reuse``: moves an older mask to the frame that it is shown with.
        on_progress: Called on the event loop after every frame that was handed to the sinks.
    """

    def __init__(
        self,
        source: Source,
        *,
        segmenter: Segmenter | None = None,
        mask_filters: Sequence[MaskFilter] = (),
        effect: Effect | None = None,
        sinks: Sequence[Sink] = (),
        limit: FlowLimit | None = None,
        motion: MaskMotion | None = None,
        on_progress: Callable[[Pipeline], None] | None = None,
    ) -> None:
        self.source = source
        self.sinks = tuple(sinks)
        self.limit = limit or FlowLimit()
        self.paused = False
        self.frames_in = 0
        self.frames_out = 0
        self._model = None if segmenter is None else _Model(segmenter)
        self._retired_restarts = 0
        self._shaper = Shaper(mask_filters, motion, effect)
        self._on_progress = on_progress
        self._stack = AsyncExitStack()
        self._background: TaskGroup | None = None
        self._iterator: PictureIterator | None = None
        self._info: StreamInfo | None = None
        self._limiter: FlowLimiter | None = None
        self._models: TaskGroup | None = None
        self._reading: anyio.CancelScope | None = None
        self._stopped = False
        self.outlets: list[Outlet] = []
        self._latest: Picture | None = None
        self._lag = LoopLagMonitor()
        self.settings: dict[str, str] = {}
        """What is in use, for statistics: names of model and effect, kept by whoever knows them."""
        self._references = References()
        self._shown = anyio.Event()
        self._timers = {stage: StageTimer() for stage in _STAGES}
        self._started_s = 0.0
        self._ended_s: float | None = None
        self._first_frame_s: float | None = None

    @property
    def info(self) -> StreamInfo:
        """What is known of the stream; the pipeline must be open."""
        if self._info is None:
            raise anyio.ClosedResourceError
        return self._info

    # -- control while running ---------------------------------------------------------------

    @property
    def effect(self) -> Effect | None:
        """The effect; setting it changes the picture from the next frame on."""
        return self._shaper.effect

    @effect.setter
    def effect(self, effect: Effect | None) -> None:
        self._shaper.effect = effect

    @property
    def mask_filters(self) -> tuple[MaskFilter, ...]:
        """The mask filters; setting them changes the masks from the next frame on."""
        return self._shaper.mask_filters

    @mask_filters.setter
    def mask_filters(self, mask_filters: Sequence[MaskFilter]) -> None:
        self._shaper.mask_filters = tuple(mask_filters)

    @property
    def segmenter(self) -> Segmenter | None:
        """The model in use."""
        return None if self._model is None else self._model.segmenter

    async def use_segmenter(self, segmenter: Segmenter) -> None:
        """Change the model: the old one works until the new one is loaded, and is then closed.

        Raises:
            ModelError: If the new one cannot be used; the old one goes on.
        """
        new = _Model(segmenter)
        try:
            await segmenter.open()
        except BaseException:
            with anyio.CancelScope(shield=True):
                await segmenter.aclose()
            raise
        new.loaded = True
        self._stack.push_async_callback(segmenter.aclose)
        old, self._model = self._model, new
        if self._limiter is not None:
            self._limiter.segmenting = True
            self._limiter.model_ready(segmenter.workers)
        if old is not None:
            self._retired_restarts += old.segmenter.restarts
            with anyio.move_on_after(_LAST_ANSWER_S):
                await old.idle()
            await old.segmenter.aclose()

    def stop(self) -> None:
        """End the stream as if its source had ended; sinks complete what they have."""
        self._stopped = True
        if self._reading is not None:
            self._reading.cancel()

    async def snapshot(self) -> Frame:
        """Return the picture that was shown last, waiting for the first one."""
        while self._latest is None:
            await self._shown.wait()
        return self._latest.frame

    # -- life --------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        # For what runs beside the block's own code; everything opened is closed after its tasks.
        self._background = anyio.create_task_group()
        await self._background.__aenter__()
        try:
            await self._open()
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._close()

    async def _open(self) -> None:
        parts = (self.source, self.segmenter, *self.sinks)
        for part in parts:
            if part is not None:
                self._stack.push_async_callback(part.aclose)

        async def open_ends() -> None:
            self._info = await self.source.open()
            for sink in self.sinks:
                await sink.open(self._info)

        # Importing and loading the model takes longest: the ends open meanwhile, and a target that
        # cannot be written is told at once. What fails first decides.
        # A live stream does not wait for the model at all: its viewers see hidden frames until then.
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(open_ends)
                if not self.limit.live:
                    group.start_soon(self._load)
        except BaseExceptionGroup as exc:
            _reraise(exc)

    async def _close(self) -> None:
        self._info = None
        try:
            if self._background is not None:
                self._background.cancel_scope.cancel()
                await self._background.__aexit__(None, None, None)
        finally:
            # Closing waits for threads that end by themselves: it must not be cut short.
            with anyio.CancelScope(shield=True):
                await self._stack.aclose()

    # -- work --------------------------------------------------------------------------------

    async def run(self) -> PipelineStatistics:
        """Process the whole stream, complete the sinks, and return the statistics.

        Raises:
            ConfigError: If there is no sink.
            StreamsegError: If a part fails; the sinks then keep nothing. In a live stream they keep
                what they have; and when a sink fails the others go on, and its error is raised at
                the end.
        """
        if self._info is None:
            raise anyio.ClosedResourceError
        if not self.sinks:
            raise ConfigError("a pipeline needs at least one sink, got none")
        self._started_s = anyio.current_time()
        self._ended_s = None
        self._limiter = FlowLimiter(
            self.limit, start=self._start, segmenting=self._model is not None
        )
        self.outlets = [
            Outlet(
                sink,
                live=self.limit.live,
                on_sent=self._on_sent,
                on_failed=self._on_failed,
                timer=self._timers["write"],
            )
            for sink in self.sinks
        ]
        try:
            try:
                async with self._lag:
                    await self._run_tasks(self._limiter)
            except* StreamsegError:
                # What a live stream had until then is kept: nobody can play it again.
                if self.limit.live:
                    with anyio.move_on_after(_COMPLETE_S):
                        await self._complete_sinks()
                raise
            await self._complete_sinks()
        except BaseExceptionGroup as exc:
            _reraise(exc)
        finally:
            self._ended_s = anyio.current_time()
            self._shaper.close()
        return self.statistics()

    def __aiter__(self) -> PictureIterator:
        """Run, and give each picture with its masks to the loop."""
        if self._info is None or self._background is None:
            raise anyio.ClosedResourceError
        iterator = PictureIterator()
        self.sinks = (*self.sinks, iterator)
        self._stack.push_async_callback(iterator.aclose)
        self._background.start_soon(self._run_for, iterator)
        return iterator

    async def _run_for(self, iterator: PictureIterator) -> None:
        try:
            await self.run()
        except Exception as exc:
            iterator.end(exc)
        else:
            iterator.end()

    async def _run_tasks(self, limiter: FlowLimiter) -> None:
        async with anyio.create_task_group() as outlets:
            for outlet in self.outlets:
                outlets.start_soon(outlet.run)
            async with anyio.create_task_group() as models:
                self._models = models
                models.start_soon(self._load)
                async with anyio.create_task_group() as group:
                    group.start_soon(self._read, limiter)
                    group.start_soon(self._shape, limiter)
                models.cancel_scope.cancel()  # a live stream does not wait for its last mask
            for outlet in self.outlets:
                outlet.end()

    async def _complete_sinks(self) -> None:
        whole = [outlet for outlet in self.outlets if outlet.error is None]
        for outlet in whole:
            await outlet.sink.finish()
        # All results are whole: from here on it is a matter of renaming, not to be cut short.
        with anyio.CancelScope(shield=True):
            for outlet in whole:
                await outlet.sink.commit()
        for outlet in self.outlets:
            if outlet.error is not None:
                raise outlet.error

    async def _load(self) -> None:
        model = self._model
        if model is None:
            return
        if not model.loaded:
            await model.segmenter.open()
            model.loaded = True
        if self._limiter is not None and model is self._model:
            self._limiter.model_ready(model.segmenter.workers)

    async def _read(self, limiter: FlowLimiter) -> None:
        try:
            with anyio.CancelScope() as self._reading:
                while not self._stopped:
                    await limiter.place()
                    with self._timers["read"].measure():
                        frame = await self.source.receive()
                    self.frames_in += 1
                    if self.paused:
                        limiter.leave_out("paused")
                        self._repeat(frame)
                    else:
                        limiter.arrived(frame)
                    self._forward_packets()
        except anyio.EndOfStream:
            self._forward_packets()
        if self._stopped:
            limiter.abandon("stopped")
        limiter.ended()

    def _forward_packets(self) -> None:
        packets = self.source.take_packets()
        if packets:
            for outlet in self.outlets:
                outlet.put_packets(packets)

    def _start(self, ticket: Ticket) -> None:
        assert self._models is not None
        self._models.start_soon(self._segment, ticket)

    async def _segment(self, ticket: Ticket) -> None:
        limiter, model = self._limiter, self._model
        assert limiter is not None
        assert model is not None
        try:
            with self._timers["segment"].measure(), model.working():
                segmentation = await model.segmenter.segment(ticket.frame)
        except (StreamsegError, anyio.ClosedResourceError) as exc:
            if self.limit.live and not model.failing:
                _log.warning("frame %d was not segmented: %s", ticket.frame.index, exc)
            model.failing = True
            limiter.failed(ticket, exc)
        else:
            if model.failing:
                _log.warning("frame %d was segmented again", ticket.frame.index)
            model.failing = False
            self._timers["model"].add(segmentation.model_ms)
            limiter.answered(ticket, segmentation)

    async def _shape(self, limiter: FlowLimiter) -> None:
        while True:
            try:
                ticket = await limiter.next()
            except anyio.EndOfStream:
                return
            frame, segmentation = ticket.frame, ticket.segmentation
            if not self._shaper.idle:
                with self._timers["effect"].measure():
                    frame, segmentation = await anyio.to_thread.run_sync(self._shaper.apply, ticket)
                if segmentation is None and ticket.segmentation is not None:
                    limiter.counts.reused -= 1
                    limiter.counts.hidden += 1
            self._show(Picture(frame, segmentation, ticket))
            if self.limit.live:
                self._delivered(ticket)

    def _show(self, picture: Picture) -> None:
        if self._latest is None:
            self._shown.set()
        self._latest = picture
        for outlet in self.outlets:
            outlet.put(picture)

    def _repeat(self, frame: Frame) -> None:
        """Show the last picture again at this frame's time: the output has no gap."""
        latest = self._latest
        if latest is None:
            return
        again = Picture(
            frame.with_video(self._references.of(latest.frame.video)), latest.segmentation
        )
        for outlet in self.outlets:
            outlet.put(again)

    def _on_sent(self, picture: Picture) -> None:
        ticket = picture.ticket
        if ticket is None:
            return
        ticket.handed_on += 1
        if self.limit.live:
            if ticket.handed_on == 1:
                self._measure_total(ticket)
        elif ticket.handed_on == len(self.outlets):
            self._measure_total(ticket)
            self._delivered(ticket)

    def _on_failed(self) -> None:
        if all(outlet.error is not None for outlet in self.outlets):
            self.stop()

    def _measure_total(self, ticket: Ticket) -> None:
        now = anyio.current_time()
        self._timers["total"].add((now - ticket.frame.captured_s) * 1e3)
        if self._first_frame_s is None:
            self._first_frame_s = now - self._started_s

    def _delivered(self, ticket: Ticket) -> None:
        assert self._limiter is not None
        self._limiter.done(ticket)
        self.frames_out += 1
        if self._on_progress is not None:
            self._on_progress(self)

    # -- statistics --------------------------------------------------------------------------

    def window(self, seconds: float) -> dict[str, StageTimes]:
        """Return the times of each stage in the last seconds, see ``StageTimer.window``."""
        return {stage: timer.window(seconds) for stage, timer in self._timers.items()}

    def statistics(self) -> PipelineStatistics:
        """Return the counters of this moment; never waits."""
        captured = self.source.statistics()
        counts, queues = FlowCounts(), {}
        if self._limiter is not None:
            counts = self._limiter.counts
            queues = self._limiter.depths
        dropped = Counter(captured.dropped)
        dropped.update(counts.dropped)
        names = self._sink_names()
        sinks = {}
        for sink in self.sinks:
            sinks[names[sink]] = sink.statistics()
        for outlet in self.outlets:
            name = names[outlet.sink]
            queues[name] = len(outlet)
            both = Counter(sinks[name].dropped) + outlet.dropped
            sinks[name] = replace(sinks[name], dropped=dict(both))
        ended = self._ended_s
        if ended is None:
            ended = anyio.current_time() if self._started_s else 0.0
        parts: tuple[Source | Sink, ...] = (self.source, *self.sinks)
        restarts = self.segmenter.restarts if self.segmenter is not None else 0
        return PipelineStatistics(
            frames_in=captured.captured,
            frames_out=self.frames_out,
            dropped=dict(dropped),
            hidden=counts.hidden,
            reused=counts.reused,
            elapsed_s=ended - self._started_s if self._started_s else 0.0,
            first_frame_s=self._first_frame_s,
            stages={stage: timer.times() for stage, timer in self._timers.items()},
            recent=self.window(RECENT_S) if self.limit.live else {},
            loop_lag=self._lag.times(),
            queues=queues,
            reconnects=captured.reconnects,
            sinks=sinks,
            sink_bytes={
                name: sink.bytes_written for name, sink in sinks.items() if sink.bytes_written
            },
            settings=self.settings,
            worker_restarts=restarts + self._retired_restarts,
            notices=tuple(notice for part in parts for notice in part.notices),
        )

    def _sink_names(self) -> dict[Sink, str]:
        """Return a name for each sink, different ones for two of a kind."""
        names: dict[Sink, str] = {}
        for sink in self.sinks:
            name = sink.name or type(sink).__name__
            alike = sum(other.partition(" #")[0] == name for other in names.values())
            names[sink] = f"{name} #{alike + 1}" if alike else name
        return names


class _Model:
    """A segmenter in use, and how many frames it has right now."""

    def __init__(self, segmenter: Segmenter) -> None:
        self.segmenter = segmenter
        self.loaded = False
        self.failing = False
        self._working = 0
        self._idle = anyio.Event()

    @contextmanager
    def working(self) -> Iterator[None]:
        """Count a frame for as long as the block takes."""
        self._working += 1
        try:
            yield
        finally:
            self._working -= 1
            if not self._working:
                self._idle.set()
                self._idle = anyio.Event()

    async def idle(self) -> None:
        """Wait until it has no frame."""
        if self._working:
            await self._idle.wait()


def _reraise(group: BaseExceptionGroup[BaseException]) -> NoReturn:
    """Raise what a task group failed of: an expected error if there is one, else the first."""
    leaves = _leaves(group)
    leaf = next((leaf for leaf in leaves if isinstance(leaf, StreamsegError)), leaves[0])
    raise leaf from leaf.__cause__


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    found: list[BaseException] = []
    for exc in group.exceptions:
        found.extend(_leaves(exc) if isinstance(exc, BaseExceptionGroup) else [exc])
    return found
