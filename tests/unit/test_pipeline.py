from __future__ import annotations

import anyio
import pytest

from streamseg.engine import Pipeline
from streamseg.errors import ConfigError, ModelError, SinkOpenError, SinkWriteError
from streamseg.flow import FlowLimit
from streamseg.frames import StreamInfo
from tests.unit.fakes import FakeEffect, FakeFilter, FakeSegmenter, FakeSink, FakeSource, Log

pytestmark = pytest.mark.anyio


async def test_every_frame_comes_out_once_in_order_with_its_own_masks() -> None:
    # The model answers later frames sooner: order must not come from luck.
    segmenter = FakeSegmenter(delay=lambda index: 40 - 7 * (index % 6))
    mask_filter, effect, sink = FakeFilter(), FakeEffect(), FakeSink()
    async with Pipeline(
        FakeSource(50),
        segmenter=segmenter,
        mask_filters=[mask_filter],
        effect=effect,
        sinks=[sink],
    ) as pipeline:
        statistics = await pipeline.run()

    pairs = [(index, index) for index in range(50)]
    assert mask_filter.seen == pairs
    assert effect.seen == pairs
    assert [frame.index for frame in sink.frames] == list(range(50))
    assert [s.index for s in sink.segmentations if s is not None] == list(range(50))
    assert [frame.pts for frame in sink.frames] == list(range(50))
    assert {frame.width for frame in sink.frames} == {8}
    assert statistics.frames_in == statistics.frames_out == 50
    assert statistics.dropped == {}
    assert statistics.first_frame_s is not None
    assert effect.closed


async def test_side_packets_reach_every_sink_complete_and_in_order() -> None:
    sinks = [FakeSink(), FakeSink()]
    async with Pipeline(FakeSource(20), sinks=sinks) as pipeline:
        await pipeline.run()

    for sink in sinks:
        assert sink.packets == [f"packet {number}" for number in range(20)]


async def test_frames_in_flight_are_bounded_while_a_sink_is_stuck() -> None:
    gate = anyio.Event()
    source, sink, segmenter = FakeSource(100), FakeSink(gate=gate), FakeSegmenter()
    async with Pipeline(
        source, segmenter=segmenter, sinks=[sink], limit=FlowLimit(max_in_flight=6)
    ) as pipeline:
        async with anyio.create_task_group() as group:
            group.start_soon(pipeline.run)
            await anyio.sleep(0.1)
            waiting = source.delivered
            await anyio.sleep(0.05)
            assert source.delivered == waiting
            gate.set()

    assert waiting == 6
    assert len(sink.frames) == 100


async def test_parts_are_opened_first_and_closed_last_in_reverse() -> None:
    log = Log()
    pipeline = Pipeline(
        FakeSource(1, log=log), segmenter=FakeSegmenter(log=log), sinks=[FakeSink(log=log)]
    )
    async with pipeline:
        await pipeline.run()

    assert sorted(log[:3]) == ["segmenter opened", "sink opened", "source opened"]
    assert log.index("source opened") < log.index("sink opened")
    assert log[3:] == [
        "sink finished",
        "sink committed",
        "sink closed",
        "segmenter closed",
        "source closed",
    ]


async def test_a_model_that_does_not_load_is_the_error_and_nothing_stays_open() -> None:
    log = Log()
    pipeline = Pipeline(
        FakeSource(1, log=log),
        segmenter=FakeSegmenter(log=log, open_error=ModelError("bad model")),
        sinks=[FakeSink(log=log)],
    )
    with pytest.raises(ModelError, match="bad model"):
        async with pipeline:
            pass

    assert "sink finished" not in log
    assert {"sink closed", "segmenter closed", "source closed"} <= set(log)


async def test_a_target_that_cannot_be_written_is_told_before_the_model_is_there() -> None:
    class Refusing(FakeSink):
        async def open(self, info: StreamInfo) -> None:
            raise SinkOpenError("it exists")

    class Slow(FakeSegmenter):
        async def open(self) -> None:
            await anyio.sleep(60)

    pipeline = Pipeline(FakeSource(1), segmenter=Slow(), sinks=[Refusing()])
    with anyio.fail_after(5), pytest.raises(SinkOpenError, match="it exists"):
        async with pipeline:
            pass


@pytest.mark.parametrize("stage", ["source", "model", "effect", "sink"])
async def test_a_stage_that_dies_midway_ends_the_run_with_its_own_error(stage: str) -> None:
    log = Log()

    def at(name: str) -> int | None:
        return 7 if name == stage else None

    pipeline = Pipeline(
        FakeSource(20, log=log, fails_at=at("source")),
        segmenter=FakeSegmenter(log=log, fails_at=at("model")),
        effect=FakeEffect(fails_at=at("effect")),
        sinks=[FakeSink(log=log, fails_at=at("sink"))],
    )
    with pytest.raises(RuntimeError, match=f"{stage} broke"):
        async with pipeline:
            await pipeline.run()

    assert "sink finished" not in log
    assert log[-3:] == ["sink closed", "segmenter closed", "source closed"]


async def test_an_expected_error_is_preferred_to_its_consequences() -> None:
    class Both(FakeSegmenter):
        async def segment(self, frame):  # type: ignore[no-untyped-def]
            if frame.index == 2:
                raise ModelError("the cause")
            if frame.index == 3:
                raise RuntimeError("a consequence")
            return await super().segment(frame)

    async with Pipeline(FakeSource(9), segmenter=Both(), sinks=[FakeSink()]) as pipeline:
        with pytest.raises(ModelError, match="the cause"):
            await pipeline.run()


async def test_a_sink_that_cannot_finish_fails_the_run() -> None:
    sink = FakeSink(finish_error=SinkWriteError("disk full"))
    async with Pipeline(FakeSource(3), sinks=[sink]) as pipeline:
        with pytest.raises(SinkWriteError, match="disk full"):
            await pipeline.run()


async def test_of_several_sinks_either_all_keep_their_result_or_none() -> None:
    log = Log()
    bad = FakeSink(finish_error=SinkWriteError("disk full"))
    async with Pipeline(FakeSource(3), sinks=[FakeSink(log=log), bad]) as pipeline:
        with pytest.raises(SinkWriteError, match="disk full"):
            await pipeline.run()

    assert "sink committed" not in log


async def test_the_cause_of_an_error_is_kept() -> None:
    error = ModelError("ours")
    error.__cause__ = OSError("theirs")
    async with Pipeline(
        FakeSource(3), segmenter=FakeSegmenter(fails_at=1, error=error), sinks=[FakeSink()]
    ) as pipeline:
        with pytest.raises(ModelError) as caught:
            await pipeline.run()

    assert isinstance(caught.value.__cause__, OSError)


@pytest.mark.parametrize("after", [0, 1, 3, 10, 30])
async def test_cancelling_at_any_moment_closes_everything(after: int) -> None:
    log = Log()
    gate = anyio.Event()
    pipeline = Pipeline(
        FakeSource(1000, log=log),
        segmenter=FakeSegmenter(log=log, delay=lambda _: 3),
        effect=FakeEffect(),
        sinks=[FakeSink(log=log, gate=gate if after == 30 else None)],
    )
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:

            async def work() -> None:
                async with pipeline:
                    await pipeline.run()

            group.start_soon(work)
            for _ in range(after):
                await anyio.lowlevel.checkpoint()
            group.cancel_scope.cancel()

    assert "sink finished" not in log
    if "source opened" in log:
        assert log.count("source closed") == 1
    for part in ("segmenter", "sink"):
        if f"{part} opened" in log:
            assert log.count(f"{part} closed") == 1


async def test_without_a_model_pictures_pass_and_carry_no_masks() -> None:
    sink = FakeSink()
    async with Pipeline(FakeSource(5), sinks=[sink]) as pipeline:
        await pipeline.run()

    assert sink.segmentations == [None] * 5


async def test_progress_is_told_after_each_frame() -> None:
    counts: list[int] = []
    async with Pipeline(
        FakeSource(4), sinks=[FakeSink()], on_progress=lambda p: counts.append(p.frames_out)
    ) as pipeline:
        await pipeline.run()

    assert counts == [1, 2, 3, 4]


async def test_a_pipeline_that_is_not_open_does_not_run() -> None:
    pipeline = Pipeline(FakeSource(1), sinks=[FakeSink()])
    with pytest.raises(anyio.ClosedResourceError):
        await pipeline.run()


async def test_running_without_sinks_is_an_error() -> None:
    async with Pipeline(FakeSource(1)) as pipeline:
        with pytest.raises(ConfigError, match="at least one sink"):
            await pipeline.run()
