"""Parts of a pipeline that do as they are told."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import anyio
import av
import numpy as np

from streamseg.abc import (
    Effect,
    MaskFilter,
    Segmenter,
    Sink,
    SinkStatistics,
    Source,
    SourceStatistics,
)
from streamseg.frames import Frame, StreamInfo
from streamseg.segmentation import Segmentation

TIME_BASE = Fraction(1, 30)


def make_frame(index: int, *, width: int = 32, height: int = 16) -> Frame:
    video = av.VideoFrame(width, height, "yuv420p")
    video.pts, video.time_base = index, TIME_BASE
    return Frame(video, index, time.monotonic())


class Log(list[str]):
    """What happened, in order."""


class FakeSource(Source):
    def __init__(self, count: int, *, log: Log | None = None, fails_at: int | None = None) -> None:
        self.count = count
        self.fails_at = fails_at
        self.log = log if log is not None else Log()
        self.delivered = 0
        self.error: Exception = RuntimeError("source broke")
        self.packets: list[Any] = []

    async def open(self) -> StreamInfo:
        self.log.append("source opened")
        return StreamInfo("fake", 32, 16, "yuv420p", TIME_BASE, frame_count=self.count)

    async def receive(self) -> Frame:
        await anyio.lowlevel.checkpoint()
        if self.delivered == self.fails_at:
            raise self.error
        if self.delivered == self.count:
            raise anyio.EndOfStream
        frame = make_frame(self.delivered)
        self.packets.append(f"packet {self.delivered}")
        self.delivered += 1
        return frame

    def take_packets(self) -> list[Any]:
        packets, self.packets = self.packets, []
        return packets

    def statistics(self) -> SourceStatistics:
        return SourceStatistics(delivered=self.delivered)

    async def aclose(self) -> None:
        self.log.append("source closed")


class FakeSegmenter(Segmenter):
    """Answers after as many turns of the loop as ``delay`` says for that frame."""

    def __init__(
        self,
        *,
        delay: Callable[[int], int] = lambda _: 0,
        log: Log | None = None,
        fails_at: int | None = None,
        error: Exception | None = None,
        open_error: Exception | None = None,
    ) -> None:
        self.delay = delay
        self.log = log if log is not None else Log()
        self.fails_at = fails_at
        self.error = error or RuntimeError("model broke")
        self.open_error = open_error
        self.at_once = 0
        self.most_at_once = 0

    async def open(self) -> None:
        self.log.append("segmenter opened")
        if self.open_error is not None:
            raise self.open_error

    async def segment(self, frame: Frame) -> Segmentation:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        for _ in range(self.delay(frame.index)):
            await anyio.lowlevel.checkpoint()
        self.at_once -= 1
        if frame.index == self.fails_at:
            raise self.error
        mask = np.full((4, 4), frame.index % 2, np.float32)
        return Segmentation(frame.index, ("SELFIE",), masks={"SELFIE": mask}, model_ms=1.0)

    async def aclose(self) -> None:
        self.log.append("segmenter closed")


class FakeFilter(MaskFilter):
    def __init__(self) -> None:
        self.seen: list[tuple[int, int]] = []

    def apply(self, frame: Frame, segmentation: Segmentation) -> Segmentation:
        self.seen.append((frame.index, segmentation.index))
        return segmentation


class FakeEffect(Effect):
    def __init__(self, *, fails_at: int | None = None) -> None:
        self.fails_at = fails_at
        self.seen: list[tuple[int, int | None]] = []
        self.closed = False

    def apply(self, frame: Frame, segmentation: Segmentation | None) -> Frame:
        if frame.index == self.fails_at:
            raise RuntimeError("effect broke")
        self.seen.append((frame.index, segmentation.index if segmentation else None))
        return frame.with_video(av.VideoFrame(8, 8, "gray"))

    def close(self) -> None:
        self.closed = True


class FakeSink(Sink):
    def __init__(
        self,
        *,
        log: Log | None = None,
        fails_at: int | None = None,
        gate: anyio.Event | None = None,
        finish_error: Exception | None = None,
    ) -> None:
        self.log = log if log is not None else Log()
        self.fails_at = fails_at
        self.gate = gate
        self.finish_error = finish_error
        self.frames: list[Frame] = []
        self.segmentations: list[Segmentation | None] = []
        self.packets: list[Any] = []

    async def open(self, info: StreamInfo) -> None:
        self.log.append("sink opened")

    async def send(self, frame: Frame, segmentation: Segmentation | None = None) -> None:
        if self.gate is not None:
            await self.gate.wait()
        if frame.index == self.fails_at:
            raise RuntimeError("sink broke")
        self.frames.append(frame)
        self.segmentations.append(segmentation)

    async def send_packets(self, packets: Sequence[Any]) -> None:
        self.packets += packets

    async def finish(self) -> None:
        self.log.append("sink finished")
        if self.finish_error is not None:
            raise self.finish_error

    async def commit(self) -> None:
        self.log.append("sink committed")

    async def aclose(self) -> None:
        self.log.append("sink closed")

    def statistics(self) -> SinkStatistics:
        return SinkStatistics(len(self.frames), len(self.frames))
