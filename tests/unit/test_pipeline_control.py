"""What may be done with a pipeline while it runs."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import anyio
import pytest

from streamseg.engine import Pipeline
from streamseg.errors import ModelError, SinkWriteError, SourceReadError
from streamseg.flow import FlowLimit
from streamseg.frames import Frame, StreamInfo
from streamseg.segmentation import Segmentation
from tests.unit.fakes import FakeEffect, FakeFilter, FakeSegmenter, FakeSink, FakeSource, make_frame

pytestmark = pytest.mark.anyio

STEP_S = 0.005


class Ticking(FakeSource):
    """A camera of 200 frames a second that never ends by itself."""

    def __init__(self) -> None:
        super().__init__(10**9)

    async def open(self) -> StreamInfo:
        return StreamInfo("ticking", 32, 16, "yuv420p", Fraction(1, 30), live=True)

    async def receive(self) -> Frame:
        await anyio.sleep(STEP_S)
        frame = make_frame(self.delivered)
        self.delivered += 1
        return frame


class Named(FakeEffect):
    """Leaves its name in the time stamps' unit, where a test can read it from the picture."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def apply(self, frame: Frame, segmentation: Segmentation | None) -> Frame:
        super().apply(frame, segmentation)
        return frame.with_video(make_frame(0, width=self.size, height=self.size).video)


def live(
    sink: FakeSink, *more: FakeSink, effect: FakeEffect | None = None, when_busy: str = "drop"
) -> Pipeline:
    return Pipeline(
        Ticking(),
        segmenter=FakeSegmenter(),
        effect=effect,
        sinks=[sink, *more],
        limit=FlowLimit(when_busy),  # type: ignore[arg-type]
    )


async def frames_of(sink: FakeSink, count: int) -> list[Frame]:
    wanted = len(sink.frames) + count
    while len(sink.frames) < wanted:
        await anyio.sleep(STEP_S)
    return sink.frames[-count:]


async def test_stop_completes_the_sinks_as_the_end_of_the_stream_would() -> None:
    sink = FakeSink()
    async with live(sink) as pipeline, anyio.create_task_group() as group:
        group.start_soon(pipeline.run)
        await frames_of(sink, 5)
        pipeline.stop()

    assert sink.log[-3:] == ["sink finished", "sink committed", "sink closed"]
    assert pipeline.statistics().in_flight == 0


async def test_the_effect_changes_without_a_gap_and_the_old_one_is_closed() -> None:
    sink, old, new = FakeSink(), Named(8), Named(24)
    async with live(sink, effect=old) as pipeline, anyio.create_task_group() as group:
        group.start_soon(pipeline.run)
        await frames_of(sink, 5)
        pipeline.effect = new
        await frames_of(sink, 5)
        pipeline.effect = None
        await frames_of(sink, 5)
        pipeline.stop()

    widths = [frame.width for frame in sink.frames]
    assert widths == sorted(widths, key=[8, 24, 32].index)
    assert set(widths) == {8, 24, 32}
    assert old.closed
    assert new.closed
    assert [frame.index for frame in sink.frames] == list(range(len(sink.frames)))


async def test_paused_the_last_picture_goes_on_with_new_time_stamps() -> None:
    sink = FakeSink()
    async with live(sink) as pipeline, anyio.create_task_group() as group:
        group.start_soon(pipeline.run)
        await frames_of(sink, 5)
        pipeline.paused = True
        paused = await frames_of(sink, 6)
        pipeline.paused = False
        await frames_of(sink, 5)
        pipeline.stop()

    held = {frame.video.planes[0].buffer_ptr for frame in paused[1:]}
    assert len(held) == 1, "another picture was shown"
    pts = [frame.pts for frame in sink.frames]
    assert all(a is not None and b is not None and a < b for a, b in pairwise(pts))
    assert pipeline.statistics().dropped["paused"] >= 5


async def test_a_snapshot_is_the_picture_that_was_shown() -> None:
    sink = FakeSink()
    async with live(sink, effect=Named(24)) as pipeline, anyio.create_task_group() as group:
        group.start_soon(pipeline.run)
        with anyio.fail_after(5):
            frame = await pipeline.snapshot()
        pipeline.stop()

    assert frame.width == 24


async def test_another_model_takes_over_when_it_is_loaded() -> None:
    class Loading(FakeSegmenter):
        async def open(self) -> None:
            await anyio.sleep(10 * STEP_S)
            await super().open()

    sink, new = FakeSink(), Loading()
    async with live(sink) as pipeline, anyio.create_task_group() as group:
        old = pipeline.segmenter
        assert isinstance(old, FakeSegmenter)
        group.start_soon(pipeline.run)
        await frames_of(sink, 5)
        await pipeline.use_segmenter(new)
        assert pipeline.segmenter is new
        assert old.log[-1] == "segmenter closed"
        await frames_of(sink, 5)
        pipeline.stop()

    assert new.most_at_once >= 1
    masks = [s is None for s in sink.segmentations]
    assert not any(masks[3:]), "frames went out without a mask while the models changed"
    assert [frame.index for frame in sink.frames] == list(range(len(sink.frames)))
    assert new.log[-1] == "segmenter closed"


async def test_a_model_that_does_not_load_leaves_the_old_one() -> None:
    sink, bad = FakeSink(), FakeSegmenter(open_error=ModelError("bad"))
    async with live(sink) as pipeline, anyio.create_task_group() as group:
        old = pipeline.segmenter
        group.start_soon(pipeline.run)
        with pytest.raises(ModelError, match="bad"):
            await pipeline.use_segmenter(bad)
        assert pipeline.segmenter is old
        await frames_of(sink, 5)
        pipeline.stop()

    assert bad.log[-1] == "segmenter closed"


async def test_filters_of_masks_work_once_a_mask_and_others_on_every_frame() -> None:
    once, always = FakeFilter(), FakeFilter()
    always.each_frame = True
    sink = FakeSink()
    pipeline = Pipeline(
        Ticking(),
        segmenter=FakeSegmenter(delay=lambda _: 12),
        mask_filters=[once, always],
        sinks=[sink],
        limit=FlowLimit("reuse"),
    )
    async with pipeline, anyio.create_task_group() as group:
        group.start_soon(pipeline.run)
        await frames_of(sink, 20)
        pipeline.stop()

    shown = [
        (frame.index, mask.index)
        for frame, mask in zip(sink.frames, sink.segmentations, strict=True)
        if mask is not None
    ]
    assert always.seen == shown
    assert once.seen == [(index, index) for index in dict.fromkeys(mask for _, mask in shown)]


async def test_a_sink_that_fails_leaves_the_others_and_is_the_error_at_the_end() -> None:
    class Failing(FakeSink):
        async def send(self, frame: Frame, segmentation: Segmentation | None = None) -> None:
            if len(self.frames) == 3:
                raise SinkWriteError("disk full")
            await super().send(frame, segmentation)

    good, bad = FakeSink(), Failing()
    async with live(good, bad) as pipeline:

        async def meanwhile() -> None:
            await frames_of(good, 10)
            assert bad.log[-1] == "sink closed"
            await frames_of(good, 5)
            pipeline.stop()

        async with anyio.create_task_group() as group:
            group.start_soon(meanwhile)
            with pytest.raises(SinkWriteError, match="disk full"):
                await pipeline.run()

    assert len(bad.frames) == 3
    assert "sink committed" in good.log


async def test_a_live_source_that_fails_for_good_leaves_its_recording_complete() -> None:
    class Failing(Ticking):
        async def receive(self) -> Frame:
            if self.delivered == 20:
                raise SourceReadError("unplugged")
            return await super().receive()

    sink = FakeSink()
    async with Pipeline(Failing(), sinks=[sink], limit=FlowLimit("drop")) as pipeline:
        with pytest.raises(SourceReadError, match="unplugged"):
            await pipeline.run()

    assert sink.log[-3:] == ["sink finished", "sink committed", "sink closed"]


async def test_when_every_sink_has_failed_the_run_ends() -> None:
    class Failing(FakeSink):
        async def send(self, frame: Frame, segmentation: Segmentation | None = None) -> None:
            raise SinkWriteError("gone")

    async with live(Failing(), Failing()) as pipeline:
        with anyio.fail_after(5), pytest.raises(SinkWriteError, match="gone"):
            await pipeline.run()


# -- async for -------------------------------------------------------------------------------


async def test_async_for_gives_every_picture_of_a_file_with_its_masks() -> None:
    seen = []
    async with Pipeline(FakeSource(30), segmenter=FakeSegmenter()) as pipeline:
        async for frame, segmentation in pipeline:
            assert segmentation is not None
            seen.append((frame.index, segmentation.index))
            await anyio.lowlevel.checkpoint()

    assert seen == [(n, n) for n in range(30)]
    assert pipeline.frames_out == 30


async def test_leaving_async_for_ends_everything() -> None:
    sink = FakeSink()
    async with live(sink) as pipeline:
        with anyio.fail_after(5):
            async for frame, _ in pipeline:
                if frame.index >= 5:
                    break

    assert sink.log[-1] == "sink closed"
    assert "sink committed" not in sink.log


async def test_an_error_reaches_the_loop() -> None:
    async def watch() -> None:
        async with Pipeline(FakeSource(10, fails_at=4)) as pipeline:
            async for _ in pipeline:
                pass

    with pytest.raises(RuntimeError, match="source broke"):
        await watch()


async def test_a_slow_loop_over_a_live_stream_gets_the_newest_pictures() -> None:
    ages = []
    async with Pipeline(Ticking(), limit=FlowLimit("drop")) as pipeline:
        async for frame, _ in pipeline:
            ages.append(anyio.current_time() - frame.captured_s)
            await anyio.sleep(10 * STEP_S)
            if len(ages) == 8:
                break

    assert max(ages) < 25 * STEP_S
