"""Pipeline: Source -> Segmenter -> MaskFilter* -> Effect -> Sink(s).

It knows the protocols of ``abc.py`` and no concrete class. Three tasks work hand in hand, so that
decoding, the model, the effect and encoding overlap while every frame keeps its place:

    read:   source.receive() -> starts the segmentation of the frame -> queue
    shape:  waits for that segmentation -> mask filters and effect, in a thread -> queue
    write:  hands the picture to every sink

No more than ``max_in_flight`` frames are between the source and the sinks, which bounds the queues;
when the sinks are slow, the source waits.
Packets of side streams go from the source to the sinks directly: nothing is done to them.
"""

from __future__ import annotations

import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn, Self

import anyio
import anyio.to_thread

from streamseg.errors import ConfigError, StreamsegError
from streamseg.telemetry import PipelineStatistics, StageTimer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from anyio.abc import TaskGroup
    from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

    from streamseg.abc import Effect, MaskFilter, Segmenter, Sink, Source
    from streamseg.frames import Frame, StreamInfo
    from streamseg.segmentation import Segmentation

__all__ = ["Pipeline"]

_STAGES = ("read", "segment", "model", "effect", "write", "total")


@dataclass(slots=True, eq=False)
class _Job:
    """A frame on its way through; ``segmented`` is set when ``segmentation`` is there."""

    frame: Frame
    segmented: anyio.Event
    segmentation: Segmentation | None = None


class Pipeline:
    """Runs frames from a source through a model and an effect into sinks; nothing is dropped.

    ``async with`` opens everything and closes everything; ``run`` does the work::

        async with Pipeline(source, segmenter=..., effect=..., sinks=[...]) as pipeline:
            statistics = await pipeline.run()

    Leaving the block without a completed ``run`` abandons what the sinks wrote.

    Args:
        source: Where frames come from.
        segmenter: The model; None runs without one (then there are no masks).
        mask_filters: Applied to each segmentation, in this order.
        effect: Makes the picture to show; None passes pictures through.
        sinks: Where pictures go, at least one.
        max_in_flight: How many frames may be between the source and the sinks.
        on_progress: Called on the event loop after every frame that was handed to the sinks.
    """

    def __init__(
        self,
        source: Source,
        *,
        segmenter: Segmenter | None = None,
        mask_filters: Sequence[MaskFilter] = (),
        effect: Effect | None = None,
        sinks: Sequence[Sink],
        max_in_flight: int = 6,
        on_progress: Callable[[Pipeline], None] | None = None,
    ) -> None:
        if not sinks:
            raise ConfigError("a pipeline needs at least one sink, got none")
        if max_in_flight < 1:
            raise ConfigError(f"max_in_flight is {max_in_flight}, expected at least 1")
        self.source = source
        self.segmenter = segmenter
        self.mask_filters = tuple(mask_filters)
        self.effect = effect
        self.sinks = tuple(sinks)
        self._max_in_flight = max_in_flight
        self._places = anyio.Semaphore(max_in_flight)
        self._on_progress = on_progress
        self._stack = AsyncExitStack()
        self._info: StreamInfo | None = None
        self._timers = {stage: StageTimer() for stage in _STAGES}
        self._started_s = 0.0
        self._ended_s: float | None = None
        self._first_frame_s: float | None = None
        self.frames_in = 0
        self.frames_out = 0

    @property
    def info(self) -> StreamInfo:
        """What is known of the stream; the pipeline must be open."""
        if self._info is None:
            raise anyio.ClosedResourceError
        return self._info

    async def __aenter__(self) -> Self:
        try:
            await self._open()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._info = None
        # Closing waits for threads that end by themselves: it must not be cut short.
        with anyio.CancelScope(shield=True):
            await self._stack.aclose()

    async def run(self) -> PipelineStatistics:
        """Process the whole stream, complete the sinks, and return the statistics.

        Raises:
            StreamsegError: If a part fails; the sinks then keep nothing.
        """
        if self._info is None:
            raise anyio.ClosedResourceError
        self._started_s = time.monotonic()
        self._ended_s = None
        self._places = anyio.Semaphore(self._max_in_flight)
        shaped_in, shaped_out = anyio.create_memory_object_stream[_Job](self._max_in_flight)
        ready_in, ready_out = anyio.create_memory_object_stream[_Job](self._max_in_flight)
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._read, group, shaped_in)
                group.start_soon(self._shape, shaped_out, ready_in)
                group.start_soon(self._write, ready_out)
            for sink in self.sinks:
                await sink.finish()
            # All results are whole: from here on it is a matter of renaming, not to be cut short.
            with anyio.CancelScope(shield=True):
                for sink in self.sinks:
                    await sink.commit()
        except BaseExceptionGroup as exc:
            _reraise(exc)
        finally:
            self._ended_s = time.monotonic()
            if self.effect is not None:
                self.effect.close()
        return self.statistics()

    def statistics(self) -> PipelineStatistics:
        """Return the counters of this moment; never waits."""
        dropped: dict[str, int] = {}
        parts: tuple[Source | Sink, ...] = (self.source, *self.sinks)
        for part in parts:
            for cause, count in part.statistics().dropped.items():
                dropped[cause] = dropped.get(cause, 0) + count
        ended = time.monotonic() if self._ended_s is None else self._ended_s
        return PipelineStatistics(
            frames_in=self.frames_in,
            frames_out=self.frames_out,
            dropped=dropped,
            elapsed_s=ended - self._started_s if self._started_s else 0.0,
            first_frame_s=self._first_frame_s,
            stages={stage: timer.times() for stage, timer in self._timers.items()},
            worker_restarts=self.segmenter.restarts if self.segmenter is not None else 0,
            notices=tuple(notice for part in parts for notice in part.notices),
        )

    async def _open(self) -> None:
        for part in (self.source, self.segmenter, *self.sinks):
            if part is not None:
                self._stack.push_async_callback(part.aclose)

        async def open_ends() -> None:
            self._info = await self.source.open()
            for sink in self.sinks:
                await sink.open(self._info)

        # Importing and loading the model takes longest: the ends open meanwhile, and a target that
        # cannot be written is told at once. What fails first decides.
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(open_ends)
                if self.segmenter is not None:
                    group.start_soon(self.segmenter.open)
        except BaseExceptionGroup as exc:
            _reraise(exc)

    async def _read(self, group: TaskGroup, shaped: MemoryObjectSendStream[_Job]) -> None:
        async with shaped:
            while True:
                await self._places.acquire()
                try:
                    with self._timers["read"].measure():
                        frame = await self.source.receive()
                except anyio.EndOfStream:
                    await self._forward_packets()
                    return
                self.frames_in += 1
                job = _Job(frame, anyio.Event())
                group.start_soon(self._segment, job)
                await self._forward_packets()
                await shaped.send(job)

    async def _forward_packets(self) -> None:
        packets = self.source.take_packets()
        if packets:
            for sink in self.sinks:
                await sink.send_packets(packets)

    async def _segment(self, job: _Job) -> None:
        if self.segmenter is not None:
            with self._timers["segment"].measure():
                job.segmentation = await self.segmenter.segment(job.frame)
            self._timers["model"].add(job.segmentation.model_ms)
        job.segmented.set()

    async def _shape(
        self,
        shaped: MemoryObjectReceiveStream[_Job],
        ready: MemoryObjectSendStream[_Job],
    ) -> None:
        async with shaped, ready:
            async for job in shaped:
                await job.segmented.wait()
                if self.effect is not None or self.mask_filters:
                    await anyio.to_thread.run_sync(self._apply, job)
                await ready.send(job)

    def _apply(self, job: _Job) -> None:
        with self._timers["effect"].measure():
            if job.segmentation is not None:
                for mask_filter in self.mask_filters:
                    job.segmentation = mask_filter.apply(job.frame, job.segmentation)
            if self.effect is not None:
                job.frame = self.effect.apply(job.frame, job.segmentation)

    async def _write(self, ready: MemoryObjectReceiveStream[_Job]) -> None:
        async with ready:
            async for job in ready:
                with self._timers["write"].measure():
                    for sink in self.sinks:
                        await sink.send(job.frame, job.segmentation)
                self._places.release()
                now = time.monotonic()
                self._timers["total"].add((now - job.frame.captured_s) * 1e3)
                if self._first_frame_s is None:
                    self._first_frame_s = now - self._started_s
                self.frames_out += 1
                if self._on_progress is not None:
                    self._on_progress(self)


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
