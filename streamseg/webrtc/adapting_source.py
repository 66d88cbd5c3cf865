"""AdaptingSource: a source whose frames become smaller and fewer when the processor is short.

Here, before the model looks at the picture, a smaller one saves most: model input, masks, effect and
encoder all cost less. Making it smaller takes half a millisecond at 720p.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import anyio.to_thread
from av.video.reformatter import Interpolation, VideoReformatter

from streamseg.abc import Source, SourceStatistics
from streamseg.webrtc.adaptation import FULL, Adaptation, Load

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Any

    from streamseg.abc import Sink
    from streamseg.frames import Frame, StreamInfo
    from streamseg.telemetry import StageTimes

__all__ = ["AdaptingSource", "EncodingSink", "Usage", "usage"]

_LOOK_S = 1.0
_LEAST_PX = 90  # pictures of fewer lines are not made smaller: they cost nothing
_EARLY = 0.25  # of a frame's time: as much sooner than due a frame may come
_JUMP_S = 1.0  # a time stamp that is further off is a new beginning; there is one a second at most
# Clocks differ: of a camera that is a little faster than its 30 a second none is to be left out.
_FASTER = 1.03


@dataclass(frozen=True, slots=True)
class Usage:
    """What a session's pipeline has shown so far, and what a frame takes it now.

    Attributes:
        shown: Pictures that were encoded, or soon will be.
        segment_ms: See `Load`.
        effect_ms: Likewise.
        encode_ms: Likewise.
    """

    shown: int = 0
    segment_ms: float = 0.0
    effect_ms: float = 0.0
    encode_ms: float = 0.0


@runtime_checkable
class EncodingSink(Protocol):
    """A sink that encodes beside the pipeline, and can be too slow without its noticing."""

    def encoding(self) -> tuple[int, float | None]:
        """Return how many pictures were superseded, and what the last ones took, ms each."""


def usage(shown: int, recent: Mapping[str, StageTimes], sinks: Iterable[Sink]) -> Usage:
    """Return the usage of a pipeline.

    Args:
        shown: Pictures that its sinks took so far.
        recent: Times of its stages in the last second.
        sinks: Where its pictures go; those that encode by themselves are asked.
    """
    encode_ms = 0.0
    for sink in sinks:
        if isinstance(sink, EncodingSink):
            superseded, ms = sink.encoding()
            shown -= superseded
            encode_ms = max(encode_ms, ms or 0.0)
    return Usage(shown, recent["segment"].mean_ms, recent["effect"].mean_ms, encode_ms)


class AdaptingSource(Source):
    """Passes a source's frames on, as many and as large as the processor can do.

    It looks once a second, when a frame comes. Frames that are left out, to save work or because
    more than 30 a second come, are counted as ``adapted``.

    Args:
        source: Whose frames; it is closed with this.
        usage: Returns what the pipeline does with them.
        adapt: Whether it takes steps at all; if not, 30 a second in their full size are passed on.
        clock: Seconds that only grow.

    Attributes:
        adaptation: What decides.
    """

    def __init__(
        self,
        source: Source,
        usage: Callable[[], Usage],
        *,
        adapt: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._adapts = adapt
        self.adaptation = Adaptation()
        self._source = source
        self._usage = usage
        self._clock = clock
        self._reformatter = VideoReformatter()
        self._left_out = 0
        self._due_s: float | None = None
        self._jumped_s = -1e9
        self._passed_s = clock()
        self._looked_s: float | None = None
        self._captured = 0
        self._shown = 0

    @property
    def settings(self) -> dict[str, str]:
        """What is in force, for statistics."""
        level = self.adaptation.level
        return {"scale": f"{level.scale:g}", "fps": str(level.fps)}

    async def open(self) -> StreamInfo:
        """Open the source; its size is the full one."""
        return await self._source.open()

    async def receive(self) -> Frame:
        """Return the next frame that is to be worked on; raises as the source does."""
        while True:
            frame = await self._source.receive()
            if self._adapts:
                self._look()
            if self._is_due(frame):
                break
            self._left_out += 1
        scale = self.adaptation.level.scale
        if scale == FULL.scale or frame.height * scale < _LEAST_PX:
            return frame
        try:
            return await anyio.to_thread.run_sync(self._scaled, frame, scale)
        except BaseException:  # cancelled meanwhile: nobody gets this frame
            self._left_out += 1
            raise

    def take_packets(self) -> list[Any]:
        """Return the side streams' packets: none is left out."""
        return self._source.take_packets()

    @property
    def notices(self) -> Sequence[str]:
        """What the user should know of the stream."""
        return self._source.notices

    async def aclose(self) -> None:
        """Close the source."""
        await self._source.aclose()

    def statistics(self) -> SourceStatistics:
        """Return the counters of this moment."""
        inner = self._source.statistics()
        if not self._left_out:
            return inner
        dropped = Counter(inner.dropped) + Counter(adapted=self._left_out)
        return SourceStatistics(inner.delivered - self._left_out, dict(dropped), inner.reconnects)

    def _is_due(self, frame: Frame) -> bool:
        fps: float = self.adaptation.level.fps
        if fps == FULL.fps:
            fps *= _FASTER
        at_s = frame.captured_s if frame.pts_s is None else frame.pts_s
        now = self._clock()
        if self._due_s is None:
            self._due_s = at_s
        elif abs(at_s - self._due_s) > _JUMP_S or now - self._passed_s > _JUMP_S:
            # Time stamps are the sender's: who leaps with each frame does not have all taken, and
            # who stands still is not stopped for ever.
            if now - self._jumped_s < _JUMP_S:
                return False
            self._jumped_s, self._due_s = now, at_s
        if at_s < self._due_s - _EARLY / fps:
            return False
        self._passed_s = now
        self._due_s = max(self._due_s, at_s - 1 / fps) + 1 / fps
        return True

    def _scaled(self, frame: Frame, scale: float) -> Frame:
        width, height = (
            max(2, round(side * scale / 2) * 2) for side in (frame.width, frame.height)
        )
        small = self._reformatter.reformat(
            frame.video, width=width, height=height, interpolation=Interpolation.FAST_BILINEAR
        )
        return frame.with_video(small)

    def _look(self) -> None:
        now = self._clock()
        since_s = None if self._looked_s is None else now - self._looked_s
        if since_s is not None and since_s < _LOOK_S:
            return
        self._looked_s = now
        captured, usage = self._source.statistics().captured, self._usage()
        arrived, shown = captured - self._captured, usage.shown - self._shown
        self._captured, self._shown = captured, usage.shown
        if since_s is None:
            return
        wanted = min(float(arrived), self.adaptation.level.fps * since_s)
        self.adaptation.observe(
            Load(
                arrived_fps=arrived / since_s,
                lost=min(1.0, max(0.0, 1 - shown / wanted)) if wanted else 0.0,
                segment_ms=usage.segment_ms,
                effect_ms=usage.effect_ms,
                encode_ms=usage.encode_ms,
            )
        )
