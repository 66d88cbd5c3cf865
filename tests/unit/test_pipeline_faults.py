"""What live pipelines do when parts fail, hang, or are asked for something at a bad moment."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import anyio
import pytest

from streamseg.abc import MaskMotion
from streamseg.engine import Pipeline
from streamseg.errors import ModelError, SinkWriteError, SourceReadError
from streamseg.flow import FlowLimit
from streamseg.frames import Frame
from streamseg.segmentation import Segmentation
from tests.unit.fakes import FakeEffect, FakeSegmenter, FakeSink
from tests.unit.test_pipeline_control import STEP_S, Named, Ticking, frames_of, live

pytestmark = pytest.mark.anyio


class Slow(FakeSegmenter):
    """Takes four frames' time."""

    async def segment(self, frame: Frame) -> Segmentation:
        await anyio.sleep(4 * STEP_S)
        return await super().segment(frame)


class Hanging(FakeSegmenter):
    """Never answers after the tenth frame."""

    async def segment(self, frame: Frame) -> Segmentation:
        if frame.index > 10:
            await anyio.sleep_forever()
        return await super().segment(frame)


class Ending(Ticking):
    """Ends after thirty frames, or fails."""

    failure: Exception = anyio.EndOfStream()

    async def receive(self) -> Frame:
        if self.delivered == 30:
            raise self.failure
        return await super().receive()


def hidden(sink: FakeSink) -> list[int]:
    pairs = zip(sink.frames, sink.segmentations, strict=True)
    return [frame.index for frame, segmentation in pairs if segmentation is None]


def of_the_effect(frame: Frame) -> bool:
    return frame.video.format.name == "gray"


# -- pausing ---------------------------------------------------------------------------------


@pytest.mark.parametrize("when_busy", ["drop", "reuse", "wait"])
async def test_pausing_with_frames_in_the_model_never_goes_back_in_time(when_busy: str) -> None:
    sink = FakeSink()
    pipeline = Pipeline(
        Ticking(),
        segmenter=Slow(),
        effect=FakeEffect(),
        sinks=[sink],
        limit=FlowLimit(when_busy),  # type: ignore[arg-type]
    )
    async with pipeline, anyio.create_task_group() as group:
        group.start_soon(pipeline.run)
        for _ in range(4):
            await frames_of(sink, 7)
            pipeline.paused = True
            await frames_of(sink, 7)
            pipeline.paused = False
        pipeline.stop()

    pts = [frame.pts for frame in sink.frames]
    assert all(a is not None and b is not None and a < b for a, b in pairwise(pts)), pts
    statistics = pipeline.statistics()
    assert statistics.dropped["paused"] >= 20
    assert statistics.in_flight == 0


async def test_a_held_picture_does_not_outlive_its_effect() -> None:
    sink = FakeSink()
    async with live(sink) as pipeline, anyio.create_task_group() as group:
        group.start_soon(pipeline.run)
        await frames_of(sink, 5)
        pipeline.paused = True
        await frames_of(sink, 5)
        pipeline.effect = Named(24)
        await frames_of(sink, 3)
        held = await frames_of(sink, 5)
        pipeline.stop()

    assert {frame.width for frame in held} == {24}, "what is to be hidden is still shown"
    assert len({frame.video.planes[0].buffer_ptr for frame in held}) == 1


async def test_a_paused_file_job_with_a_slow_sink_piles_nothing_up() -> None:
    class Stuck(FakeSink):
        async def send(self, frame: Frame, segmentation: Segmentation | None = None) -> None:
            if pipeline.paused:
                await anyio.sleep(10 * STEP_S)
            await super().send(frame, segmentation)

    sink = Stuck()
    pipeline = Pipeline(Ticking(), sinks=[sink], limit=FlowLimit(max_in_flight=2))
    waiting = []
    async with pipeline, anyio.create_task_group() as group:
        group.start_soon(pipeline.run)
        await frames_of(sink, 3)
        pipeline.paused = True
        for _ in range(40):
            await anyio.sleep(STEP_S)
            waiting.append(len(pipeline.outlets[0]))
        pipeline.paused = False
        pipeline.stop()

    assert max(waiting) <= 2, waiting


# -- masks -----------------------------------------------------------------------------------


async def test_masks_of_another_frame_are_never_shown() -> None:
    class Stale(FakeSegmenter):
        async def segment(self, frame: Frame) -> Segmentation:
            return replace(await super().segment(frame), index=0)

    sink = FakeSink()
    pipeline = Pipeline(
        Ticking(), segmenter=Stale(), effect=FakeEffect(), sinks=[sink], limit=FlowLimit("drop")
    )
    async with pipeline:
        with anyio.fail_after(5), pytest.raises(RuntimeError, match="masks of frame 0 for frame"):
            await pipeline.run()

    assert all(mask is None or mask.index == frame.index for frame, mask in _shown(sink))


async def test_filters_see_every_answer_of_another_model() -> None:
    # Two models may answer for frames of the same index: of two runs, of two sources.
    from streamseg.engine.shaping import Shaper
    from streamseg.flow import Ticket
    from tests.unit.fakes import FakeFilter, make_frame

    shaper, frame = Shaper([FakeFilter()], None, None), make_frame(3)
    for label in ("SELFIE", "PERSON"):
        answer = Segmentation(3, (label,))
        ticket = Ticket(frame, segmentation=answer, made_for=frame)
        assert shaper.apply(ticket)[1] is answer


@pytest.mark.parametrize("on_missing", ["hide", "pass", "drop"])
async def test_a_mask_from_before_a_cut_counts_as_none(on_missing: str) -> None:
    class Cut(MaskMotion):
        def apply(
            self, made_for: Frame, frame: Frame, segmentation: Segmentation
        ) -> Segmentation | None:
            return None if made_for.index != frame.index else segmentation

    sink = FakeSink()
    pipeline = Pipeline(
        Ticking(),
        segmenter=Slow(),
        effect=FakeEffect(),
        sinks=[sink],
        motion=Cut(),
        limit=FlowLimit("reuse", on_missing_mask=on_missing),  # type: ignore[arg-type]
    )
    async with pipeline, anyio.create_task_group() as group:
        group.start_soon(pipeline.run)
        await anyio.sleep(60 * STEP_S)
        pipeline.stop()

    statistics = pipeline.statistics()
    assert statistics.in_flight == 0
    assert statistics.reused == 0
    if on_missing == "drop":
        assert sink.frames == []
        assert statistics.dropped["no mask"] > 5
    elif on_missing == "pass":
        assert len(sink.frames) > 5
        assert not any(of_the_effect(frame) for frame in sink.frames)
        assert statistics.hidden == 0
    else:
        assert len(hidden(sink)) > 5
        assert all(of_the_effect(frame) for frame in sink.frames)
        assert statistics.hidden >= len(hidden(sink))  # the sink may have been busy


def _shown(sink: FakeSink) -> list[tuple[Frame, Segmentation | None]]:
    return list(zip(sink.frames, sink.segmentations, strict=True))


# -- ends ------------------------------------------------------------------------------------


async def test_a_stream_that_ends_while_the_model_hangs_does_not_wait_for_it() -> None:
    sink = FakeSink()
    async with Pipeline(
        Ending(), segmenter=Hanging(), sinks=[sink], limit=FlowLimit("drop")
    ) as pipeline:
        with anyio.fail_after(3):
            statistics = await pipeline.run()

    assert statistics.in_flight == 0
    assert statistics.dropped["model stalled"] == 1
    assert "sink committed" in sink.log


async def test_stop_ends_a_stream_that_has_ended_and_waits_for_its_model() -> None:
    sink = FakeSink()
    pipeline = Pipeline(Ending(), segmenter=Hanging(), sinks=[sink], limit=FlowLimit("drop"))
    async with pipeline, anyio.create_task_group() as group:
        group.start_soon(pipeline.run)
        await anyio.sleep(45 * STEP_S)
        with anyio.fail_after(0.5):
            pipeline.stop()
            while "sink committed" not in sink.log:
                await anyio.sleep(STEP_S)

    assert pipeline.statistics().in_flight == 0


async def test_a_source_that_fails_loses_no_picture_that_was_under_way() -> None:
    class Careful(FakeSink):
        live_capacity = 30

        async def send(self, frame: Frame, segmentation: Segmentation | None = None) -> None:
            await anyio.sleep(2 * STEP_S)  # so that half of them wait in the queue
            await super().send(frame, segmentation)

    source, sink = Ending(), Careful()
    source.failure = SourceReadError("unplugged")
    async with Pipeline(source, sinks=[sink], limit=FlowLimit("drop")) as pipeline:
        with pytest.raises(SourceReadError, match="unplugged"):
            await pipeline.run()

    assert [frame.index for frame in sink.frames] == list(range(30))
    assert pipeline.statistics().in_flight == 0
    assert "sink committed" in sink.log


async def test_a_live_sink_that_cannot_finish_leaves_the_others_complete() -> None:
    bad, good = FakeSink(finish_error=SinkWriteError("disk full")), FakeSink()
    async with live(bad, good) as pipeline:

        async def meanwhile() -> None:
            await frames_of(good, 5)
            pipeline.stop()

        async with anyio.create_task_group() as group:
            group.start_soon(meanwhile)
            with pytest.raises(SinkWriteError, match="disk full"):
                await pipeline.run()

    assert "sink committed" in good.log
    assert "sink committed" not in bad.log


async def test_two_runs_at_once_are_refused() -> None:
    async with live(FakeSink()) as pipeline, anyio.create_task_group() as group:
        group.start_soon(pipeline.run)
        await anyio.sleep(STEP_S)
        with pytest.raises(anyio.BusyResourceError):
            await pipeline.run()
        pipeline.stop()


# -- models ----------------------------------------------------------------------------------


class Loading(FakeSegmenter):
    """Loads until it is closed, and says then that it could not."""

    def __init__(self) -> None:
        super().__init__()
        self.closed = anyio.Event()

    async def open(self) -> None:
        await self.closed.wait()
        raise anyio.ClosedResourceError

    async def aclose(self) -> None:
        await super().aclose()
        self.closed.set()


async def test_a_model_that_is_replaced_while_it_loads_is_no_error() -> None:
    sink = FakeSink()
    first, second = Loading(), FakeSegmenter()
    async with Pipeline(
        Ticking(), segmenter=first, sinks=[sink], limit=FlowLimit("drop")
    ) as pipeline:
        async with anyio.create_task_group() as group:
            group.start_soon(pipeline.run)
            await frames_of(sink, 3)
            await pipeline.use_segmenter(second)
            assert first.log == ["segmenter closed"]
            await frames_of(sink, 10)
            pipeline.stop()

    assert sink.segmentations[-1] is not None


async def test_a_model_that_loads_while_the_pipeline_closes_is_closed_too() -> None:
    late = Loading()

    async def change(pipeline: Pipeline) -> None:
        with pytest.raises(anyio.ClosedResourceError):
            await pipeline.use_segmenter(late)

    async with anyio.create_task_group() as group:
        async with live(FakeSink()) as pipeline:
            group.start_soon(change, pipeline)
            await anyio.sleep(STEP_S)
        with anyio.fail_after(2):
            await late.closed.wait()

    another = FakeSegmenter()
    with pytest.raises(anyio.ClosedResourceError):
        await pipeline.use_segmenter(another)
    assert another.log == ["segmenter closed"]


async def test_models_that_were_replaced_are_let_go() -> None:
    sink = FakeSink()
    async with live(sink) as pipeline, anyio.create_task_group() as group:
        group.start_soon(pipeline.run)
        used = [FakeSegmenter() for _ in range(3)]
        for segmenter in used:
            await pipeline.use_segmenter(segmenter)
            await frames_of(sink, 3)
        pipeline.stop()

    assert [segmenter.log.count("segmenter closed") for segmenter in used] == [1, 1, 1]


async def test_a_model_that_fails_to_load_ends_a_live_run_with_its_error() -> None:
    pipeline = Pipeline(
        Ticking(),
        segmenter=FakeSegmenter(open_error=ModelError("damaged")),
        sinks=[FakeSink()],
        limit=FlowLimit("drop"),
    )
    async with pipeline:
        with anyio.fail_after(3), pytest.raises(ModelError, match="damaged"):
            await pipeline.run()
