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
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Self

import anyio
import anyio.to_thread

from streamseg.engine.groups import reraise
from streamseg.engine.iteration import PictureIterator
from streamseg.engine.models import Models
from streamseg.engine.outlet import Outlet, Picture
from streamseg.engine.records import Records
from streamseg.engine.shaping import Shaper
from streamseg.errors import ConfigError, StreamsegError
from streamseg.flow import FlowLimit, FlowLimiter
from streamseg.references import References

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from types import TracebackType

    from anyio.abc import TaskGroup

    from streamseg.abc import Effect, MaskFilter, MaskMotion, Segmenter, Sink, Source
    from streamseg.flow import Ticket
    from streamseg.frames import Frame, StreamInfo
    from streamseg.telemetry import PipelineStatistics, StageTimes

__all__ = ["Pipeline"]

_log = logging.getLogger(__name__)

_COMPLETE_S = 10.0  # how long sinks of a live stream that failed may take to complete


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
        self._records = records = Records()
        self._models = Models(
            segmenter,
            live=self.limit.live,
            segment_timer=records.timers["segment"],
            model_timer=records.timers["model"],
        )
        self._shaper = Shaper(mask_filters, motion, effect)
        self._on_progress = on_progress
        self._stack = AsyncExitStack()
        self._background: TaskGroup | None = None
        self._info: StreamInfo | None = None
        self._limiter: FlowLimiter | None = None
        self._segmenting: TaskGroup | None = None
        self._reading: anyio.CancelScope | None = None
        self._stopped = False
        self._running = False
        self._held = False
        self._source_error: StreamsegError | None = None
        self.outlets: list[Outlet] = []
        self._latest: Picture | None = None
        self._latest_effect: Effect | None = None
        self._references = References()
        self._shown = anyio.Event()

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
        return self._models.segmenter

    async def use_segmenter(self, segmenter: Segmenter) -> None:
        """Change the model: the old one works until the new one is loaded, and is then closed.

        Raises:
            ModelError: If the new one cannot be used; the old one goes on.
            anyio.ClosedResourceError: If the pipeline is closed, or is being closed meanwhile.
        """
        await self._models.use(segmenter)

    def stop(self) -> None:
        """End the stream as if its source had ended; sinks complete what they have."""
        self._stopped = True
        if self._reading is not None:
            self._reading.cancel()
        if self._limiter is not None:
            self._limiter.abandon("stopped")

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
        self._stack.push_async_callback(self.source.aclose)
        self._stack.push_async_callback(self._models.aclose)
        for sink in self.sinks:
            self._stack.push_async_callback(sink.aclose)

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
                    group.start_soon(self._models.load)
        except BaseExceptionGroup as exc:
            reraise(exc)

    async def _close(self) -> None:
        self._info = None
        self._models.refuse()
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
        if self._running:
            raise anyio.BusyResourceError("running")
        if not self.sinks:
            raise ConfigError("a pipeline needs at least one sink, got none")
        self._running = True
        self._records.begin()
        self._limiter = self._models.limiter = FlowLimiter(
            self.limit, start=self._start, segmenting=self.segmenter is not None
        )
        self.outlets = [
            Outlet(
                sink,
                live=self.limit.live,
                on_sent=self._on_sent,
                on_failed=self._on_failed,
                timer=self._records.timers["write"],
            )
            for sink in self.sinks
        ]
        try:
            try:
                async with self._records.lag:
                    await self._run_tasks(self._limiter)
            except* StreamsegError:
                # What a live stream had until then is kept: nobody can play it again.
                if self.limit.live:
                    with anyio.move_on_after(_COMPLETE_S):
                        await self._complete_sinks()
                raise
            await self._complete_sinks()
        except BaseExceptionGroup as exc:
            reraise(exc)
        finally:
            self._running = False
            self._records.end()
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
                self._segmenting = models
                models.start_soon(self._models.load)
                async with anyio.create_task_group() as group:
                    group.start_soon(self._read, limiter)
                    group.start_soon(self._shape, limiter)
                models.cancel_scope.cancel()  # a live stream does not wait for its last mask
            for outlet in self.outlets:
                outlet.end()

    async def _complete_sinks(self) -> None:
        for outlet in self.outlets:
            if outlet.error is None:
                await self._complete(outlet, outlet.sink.finish)
        # All results are whole: from here on it is a matter of renaming, not to be cut short.
        with anyio.CancelScope(shield=True):
            for outlet in self.outlets:
                if outlet.error is None:
                    await self._complete(outlet, outlet.sink.commit)
        errors = (self._source_error, *(outlet.error for outlet in self.outlets))
        for error in errors:
            if error is not None:
                raise error

    async def _complete(self, outlet: Outlet, step: Callable[[], Awaitable[None]]) -> None:
        """Take a step to completion; where one live sink fails the others complete theirs."""
        try:
            await step()
        except StreamsegError as exc:
            if not self.limit.live:
                raise
            outlet.error = exc

    async def _read(self, limiter: FlowLimiter) -> None:
        try:
            with anyio.CancelScope() as self._reading:
                while not self._stopped:
                    await limiter.place()
                    with self._records.timers["read"].measure():
                        frame = await self.source.receive()
                    if self.paused:
                        self._hold(limiter, frame)
                    else:
                        self._held = False
                        limiter.arrived(frame)
                    self._forward_packets()
        except anyio.EndOfStream:
            self._forward_packets()
        except StreamsegError as exc:
            if not self.limit.live:
                raise
            # What a live stream had until then is shown and kept: nobody can play it again.
            self._source_error = exc
            self._forward_packets()
        if self._stopped:
            limiter.abandon("stopped")
        limiter.ended()
        if self.limit.live:
            # Nothing else ends the wait for a model that hangs, now that no frames come.
            assert self._segmenting is not None
            self._segmenting.start_soon(self._wait_no_longer, limiter)

    @staticmethod
    async def _wait_no_longer(limiter: FlowLimiter) -> None:
        await anyio.sleep(limiter.patience_s)
        limiter.abandon("model stalled")

    def _forward_packets(self) -> None:
        packets = self.source.take_packets()
        if packets:
            for outlet in self.outlets:
                outlet.put_packets(packets)

    def _start(self, ticket: Ticket) -> None:
        assert self._segmenting is not None
        self._segmenting.start_soon(self._models.segment, ticket)

    async def _shape(self, limiter: FlowLimiter) -> None:
        while True:
            try:
                ticket = await limiter.next()
            except anyio.EndOfStream:
                return
            frame, segmentation = ticket.frame, ticket.segmentation
            if not self._shaper.idle:
                with self._records.timers["effect"].measure():
                    frame, segmentation = await anyio.to_thread.run_sync(self._shaper.apply, ticket)
                if segmentation is None and ticket.segmentation is not None:
                    if not limiter.unmask(ticket):
                        continue
                    if ticket.raw:
                        frame = ticket.frame
            self._show(Picture(frame, segmentation, ticket), self._shaper.shown)
            if self.limit.live:
                self._delivered(ticket)

    def _show(self, picture: Picture, effect: Effect | None) -> None:
        if self._latest is None:
            self._shown.set()
        self._latest, self._latest_effect = picture, effect
        for outlet in self.outlets:
            outlet.put(picture)

    def _hold(self, limiter: FlowLimiter, frame: Frame) -> None:
        """Show the last picture again at this frame's time: the output has no gap."""
        if not self._held:
            self._held = True
            if self.limit.live:
                limiter.abandon("paused")
        latest = self._latest
        if latest is not None and self._latest_effect is not self._shaper.effect:
            # What another effect is to hide must not stay to be seen.
            limiter.arrived(frame)
            return
        limiter.leave_out("paused")
        # Not before what is under way: time stamps never go back.
        behind = not self.limit.live and any(map(len, self.outlets))
        if latest is None or limiter.in_flight or behind:
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
                self._records.shown(ticket)
        elif ticket.handed_on == len(self.outlets):
            self._records.shown(ticket)
            self._delivered(ticket)

    def _on_failed(self, failed: Outlet) -> None:
        if all(outlet.error is not None for outlet in self.outlets):
            self.stop()  # the error is the run's
        else:
            _log.error("output failed, the others go on: %s", failed.error)

    def _delivered(self, ticket: Ticket) -> None:
        assert self._limiter is not None
        self._limiter.done(ticket)
        self._records.frames_out += 1
        if self._on_progress is not None:
            self._on_progress(self)

    # -- statistics --------------------------------------------------------------------------

    @property
    def frames_out(self) -> int:
        """Frames that were handed to the sinks so far."""
        return self._records.frames_out

    @property
    def settings(self) -> dict[str, str]:
        """What is in use, for statistics: names of model and effect, set by whoever knows them."""
        return self._records.settings

    @settings.setter
    def settings(self, settings: dict[str, str]) -> None:
        self._records.settings = settings

    def window(self, seconds: float) -> dict[str, StageTimes]:
        """Return the times of each stage in the last seconds, see ``StageTimer.window``."""
        return self._records.window(seconds)

    def statistics(self) -> PipelineStatistics:
        """Return the counters of this moment; never waits."""
        return self._records.statistics(
            self.source,
            self._limiter,
            self.sinks,
            self.outlets,
            restarts=self._models.restarts,
            recent=self.limit.live,
        )
