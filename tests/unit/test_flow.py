"""Backpressure with a clock of our own: the real pipeline, cameras and models that sleep."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction

import anyio
import av
import pytest

from streamseg.abc import Segmenter, Sink, SinkStatistics, Source, SourceStatistics
from streamseg.engine import Pipeline
from streamseg.errors import ConfigError, WorkerDiedError
from streamseg.flow import FlowCounts, FlowLimit, FlowLimiter, Ticket
from streamseg.frames import Frame, StreamInfo
from streamseg.segmentation import Segmentation
from streamseg.telemetry import PipelineStatistics
from tests.unit.virtual_time import run_in_virtual_time

FRAME_S = 1 / 30
PICTURE = av.VideoFrame(16, 16, "yuv420p")
SLACK_S = 1e-6


class Camera(Source):
    """30 frames a second, whoever listens."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.delivered = 0

    async def open(self) -> StreamInfo:
        self.started_s = anyio.current_time()
        return StreamInfo("camera", 16, 16, "yuv420p", Fraction(1, 90000), live=True)

    async def receive(self) -> Frame:
        if self.delivered == self.count:
            raise anyio.EndOfStream
        due = self.started_s + self.delivered * FRAME_S
        await anyio.sleep_until(due)
        # What a camera does: a frame that nobody fetched in time is gone; here none must be.
        assert anyio.current_time() - due < SLACK_S, "the pipeline kept the camera waiting"
        frame = Frame(PICTURE, self.delivered, anyio.current_time())
        self.delivered += 1
        return frame

    def statistics(self) -> SourceStatistics:
        return SourceStatistics(delivered=self.delivered)

    async def aclose(self) -> None:
        pass


class Model(Segmenter):
    """Takes as long as ``seconds`` says for each frame, ``workers`` at once, others waiting."""

    def __init__(
        self,
        seconds: float | Callable[[int], float],
        workers: int = 1,
        *,
        loads_s: float = 0.0,
        fails: Callable[[int], bool] = lambda _: False,
    ) -> None:
        self._seconds = seconds if callable(seconds) else lambda _: seconds
        self._workers = workers
        self._free = anyio.CapacityLimiter(workers)
        self._loads_s = loads_s
        self._fails = fails
        self.given: list[int] = []

    @property
    def workers(self) -> int:
        return self._workers

    async def open(self) -> None:
        await anyio.sleep(self._loads_s)

    async def segment(self, frame: Frame) -> Segmentation:
        self.given.append(frame.index)
        async with self._free:
            await anyio.sleep(self._seconds(frame.index))
        if self._fails(frame.index):
            raise WorkerDiedError(f"frame {frame.index}")
        return Segmentation(frame.index, ("SELFIE",))

    async def aclose(self) -> None:
        pass


@dataclass
class Shown:
    index: int
    mask: int | None
    """Which frame the mask was made for."""
    at_s: float
    age_s: float


@dataclass(eq=False)
class Viewer(Sink):
    shown: list[Shown] = field(default_factory=list)
    takes_s: float = 0.0

    async def open(self, info: StreamInfo) -> None:
        pass

    async def send(self, frame: Frame, segmentation: Segmentation | None = None) -> None:
        now = anyio.current_time()
        mask = None if segmentation is None else segmentation.index
        self.shown.append(Shown(frame.index, mask, now, now - frame.captured_s))
        if self.takes_s:
            await anyio.sleep(self.takes_s)

    async def finish(self) -> None:
        pass

    async def commit(self) -> None:
        pass

    async def aclose(self) -> None:
        pass

    def statistics(self) -> SinkStatistics:
        return SinkStatistics(len(self.shown), len(self.shown))


def run(
    model: Model, limit: FlowLimit, *, frames: int = 10_000, viewer: Viewer | None = None
) -> tuple[list[Shown], PipelineStatistics]:
    viewer = viewer or Viewer()

    async def work() -> PipelineStatistics:
        async with Pipeline(
            Camera(frames), segmenter=model, sinks=[viewer], limit=limit
        ) as pipeline:
            return await pipeline.run()

    statistics = run_in_virtual_time(work())
    assert statistics.frames_in == frames
    assert statistics.frames_out + sum(statistics.dropped.values()) == frames
    indices = [shown.index for shown in viewer.shown]
    assert indices == sorted(set(indices)), "out of order, or twice"
    return viewer.shown, statistics


def steps(shown: list[Shown]) -> Iterator[float]:
    return (b.at_s - a.at_s for a, b in itertools.pairwise(shown))


CASES = [
    pytest.param(ms / 1e3, workers, id=f"{ms}ms-{workers}")
    for ms in (10, 50, 300, 2000)
    for workers in (1, 2)
]


@pytest.mark.parametrize(("model_s", "workers"), CASES)
def test_drop_is_never_later_than_one_model_and_two_frames(model_s: float, workers: int) -> None:
    shown, statistics = run(Model(model_s, workers), FlowLimit("drop"))

    with_mask = [item for item in shown if item.mask is not None]
    assert all(item.mask == item.index for item in with_mask)
    assert max(item.age_s for item in shown) <= model_s + 2 * FRAME_S
    tenth = len(with_mask) // 10
    first, last = with_mask[:tenth], with_mask[-tenth:]
    assert max(i.age_s for i in last) <= max(i.age_s for i in first) + SLACK_S
    assert set(statistics.dropped) <= {"model busy", "stream ended"}
    assert statistics.dropped.get("stream ended", 0) <= 1
    # As many frames as this many models can do: dropping is no excuse for being idle.
    duration_s = 10_000 * FRAME_S
    possible = min(10_000.0, workers * duration_s / (model_s + FRAME_S))
    assert len(with_mask) >= 0.98 * possible - workers


@pytest.mark.parametrize(("model_s", "workers"), CASES)
def test_drop_segments_the_newest_frame_next(model_s: float, workers: int) -> None:
    model = Model(model_s, workers)
    shown, _ = run(model, FlowLimit("drop"), frames=1000)

    # When the model has answered, the frame that it gets next is not older than one frame time.
    by_index = {item.index: item for item in shown}
    freed = sorted(by_index[index].at_s for index in model.given if index in by_index)
    for index in model.given[workers + 2 :]:
        captured_s = by_index[index].at_s - by_index[index].age_s
        before = [at_s for at_s in freed if at_s >= captured_s - SLACK_S]
        assert min(before) - captured_s <= max(FRAME_S, model_s) + SLACK_S


@pytest.mark.parametrize(("model_s", "workers"), CASES)
def test_reuse_keeps_every_frame_and_the_rate(model_s: float, workers: int) -> None:
    limit = FlowLimit("reuse", max_mask_age_s=1.0)
    shown, statistics = run(Model(model_s, workers), limit, frames=3000)

    assert len(shown) == 3000
    assert statistics.dropped == {}
    assert max(item.age_s for item in shown) <= FRAME_S + SLACK_S
    # Even: no picture is held back so long that two come at once.
    assert max(steps(shown[10:])) < 1.5 * FRAME_S
    ages = [(item.index - item.mask) * FRAME_S for item in shown if item.mask is not None]
    assert all(0 <= age <= 1.0 + SLACK_S for age in ages)
    assert bool(ages) == (model_s < 1.0)
    if 2 * model_s + FRAME_S < 1.0:
        hidden = [item.index for item in shown if item.mask is None]
        assert hidden == list(range(len(hidden))), "hidden although there was a mask"
        assert len(hidden) * FRAME_S <= model_s + 2 * FRAME_S


def test_reuse_waits_for_a_fast_models_own_mask() -> None:
    shown, _ = run(Model(0.010), FlowLimit("reuse"), frames=300)
    assert [item.mask for item in shown[5:]] == list(range(5, 300))
    assert max(item.age_s for item in shown[5:]) == pytest.approx(0.010, abs=1e-6)


def test_reuse_goes_on_when_a_fast_model_becomes_slow() -> None:
    model = Model(lambda index: 0.010 if index < 100 else 0.100)
    shown, statistics = run(model, FlowLimit("reuse"), frames=300)
    assert statistics.dropped == {}
    # The frame that waited in vain and the next one come together, and a viewer takes the newest.
    assert len(shown) >= 299
    assert max(item.age_s for item in shown) <= FRAME_S + SLACK_S


@pytest.mark.parametrize("workers", [1, 2])
def test_wait_drops_nothing_and_never_mixes_masks(workers: int) -> None:
    source = Camera(200)
    model, viewer = Model(lambda index: 0.01 * (1 + index % 5), workers), Viewer()

    async def work() -> PipelineStatistics:
        # A source that can wait, as a file can.
        source.started_s = -1e9
        async with Pipeline(source, segmenter=model, sinks=[viewer]) as pipeline:
            source.started_s = anyio.current_time() + 1e9
            return await pipeline.run()

    source.receive = _without_clock(source)  # type: ignore[method-assign]
    statistics = run_in_virtual_time(work())
    assert [(item.index, item.mask) for item in viewer.shown] == [(n, n) for n in range(200)]
    assert statistics.dropped == {}


def _without_clock(source: Camera) -> Callable[[], object]:
    async def receive() -> Frame:
        await anyio.lowlevel.checkpoint()
        if source.delivered == source.count:
            raise anyio.EndOfStream
        frame = Frame(PICTURE, source.delivered, anyio.current_time())
        source.delivered += 1
        return frame

    return receive


# -- frames without a mask ------------------------------------------------------------------


@pytest.mark.parametrize("when_busy", ["drop", "reuse"])
def test_nobody_waits_for_a_model_that_loads(when_busy: str) -> None:
    model = Model(0.02, loads_s=2.0)
    shown, statistics = run(model, FlowLimit(when_busy), frames=150)  # type: ignore[arg-type]

    hidden = [item for item in shown if item.mask is None]
    assert [item.index for item in hidden] == list(range(len(hidden)))
    assert 2.0 <= len(hidden) * FRAME_S <= 2.0 + 0.02 + 3 * FRAME_S
    assert max(item.age_s for item in hidden) <= SLACK_S
    assert statistics.dropped == {}


@pytest.mark.parametrize("when_busy", ["drop", "reuse"])
@pytest.mark.parametrize("on_missing", ["hide", "pass", "drop"])
def test_frames_without_a_mask_go_as_the_policy_says(when_busy: str, on_missing: str) -> None:
    limit = FlowLimit(when_busy, on_missing_mask=on_missing)  # type: ignore[arg-type]

    async def work() -> tuple[list[Ticket], FlowCounts]:
        limiter = FlowLimiter(limit, start=lambda ticket: None)
        shown = []
        for index in range(3):
            limiter.arrived(Frame(PICTURE, index, anyio.current_time()))
            with anyio.move_on_after(0.001):
                shown.append(await limiter.next())
                limiter.done(shown[-1])
        return shown, limiter.counts

    shown, counts = run_in_virtual_time(work())
    assert (
        [ticket.hidden for ticket in shown] == [True] * 3
        if on_missing == "hide"
        else not any(ticket.hidden for ticket in shown)
    )
    assert all(ticket.raw == (on_missing == "pass") for ticket in shown)
    assert len(shown) == (0 if on_missing == "drop" else 3)
    assert counts.dropped == ({"no mask": 3} if on_missing == "drop" else {})
    assert counts.hidden == (3 if on_missing == "hide" else 0)


@pytest.mark.parametrize("when_busy", ["drop", "reuse"])
def test_without_a_mask_dropping_loses_frames_only_until_there_is_one(when_busy: str) -> None:
    limit = FlowLimit(when_busy, on_missing_mask="drop")  # type: ignore[arg-type]
    shown, statistics = run(Model(0.02, loads_s=1.0), limit, frames=90)
    assert all(item.mask is not None for item in shown)
    assert 30 <= statistics.dropped["no mask"] <= 34
    assert sum(statistics.dropped.values()) == statistics.dropped["no mask"]


def test_a_failing_model_hides_frames_until_it_answers_again() -> None:
    model = Model(0.02, fails=lambda index: 50 <= index < 80)
    shown, statistics = run(model, FlowLimit("drop"), frames=150)

    assert [item.index for item in shown] == list(range(150)), (
        "a failure must not freeze the output"
    )
    missing = [item.index for item in shown if item.mask is None and item.index > 5]
    assert missing == list(range(50, 81))
    assert statistics.dropped == {}


def test_a_model_that_hangs_does_not_freeze_the_picture() -> None:
    model = Model(lambda index: 20.0 if index == 60 else 0.02)
    shown, statistics = run(model, FlowLimit("drop"), frames=900)

    assert max(steps(shown)) <= 1.0 + 3 * FRAME_S
    assert statistics.dropped["model stalled"] == 1
    assert statistics.dropped["model busy"] <= 32
    assert sum(statistics.dropped.values()) <= 33
    hidden = [item.index for item in shown if item.mask is None and item.index > 5]
    assert hidden == list(range(hidden[0], hidden[-1] + 1))
    assert 88 <= hidden[0] <= 93
    assert hidden[-1] * FRAME_S == pytest.approx(60 * FRAME_S + 20, abs=3 * FRAME_S)


def test_masks_that_grow_too_old_are_not_used() -> None:
    model = Model(lambda index: 3.0 if index in (60, 61) else 0.05)
    shown, statistics = run(model, FlowLimit("reuse", max_mask_age_s=0.5), frames=300)

    assert len(shown) == 300
    late = [item.index for item in shown if item.mask is None and item.index > 10]
    assert 60 + 12 <= late[0] <= 60 + 16
    assert late[-1] <= 61 + 90 + 3
    assert statistics.dropped == {}
    ages = [(item.index - item.mask) * FRAME_S for item in shown if item.mask is not None]
    assert max(ages) <= 0.5 + SLACK_S


def test_a_model_that_only_fails_ends_the_pipeline_with_its_error() -> None:
    model = Model(0.02, fails=lambda index: index >= 30)
    with pytest.raises(WorkerDiedError, match=r"frame \d+"):
        run(model, FlowLimit("drop"), frames=3000)
    assert 30 * 30 <= model.given[-1] - 30 <= 32 * 30, "after thirty seconds, not at once"


# -- sinks ----------------------------------------------------------------------------------


def test_a_slow_sink_loses_pictures_and_harms_no_other() -> None:
    slow, quick = Viewer(takes_s=0.5), Viewer()

    async def work() -> dict[str, int]:
        async with Pipeline(
            Camera(300), segmenter=Model(0.01), sinks=[slow, quick], limit=FlowLimit("drop")
        ) as pipeline:
            await pipeline.run()
            return dict(pipeline.outlets[0].dropped)

    dropped = run_in_virtual_time(work())
    assert len(quick.shown) == 300
    assert 18 <= len(slow.shown) <= 25
    assert dropped == {"sink busy": 300 - len(slow.shown)}
    assert max(item.age_s for item in slow.shown) <= 0.5 + 3 * FRAME_S


@pytest.mark.parametrize(
    "wrong",
    [
        {"when_busy": "skip"},
        {"on_missing_mask": "show"},
        {"max_in_flight": 0},
        {"max_mask_age_s": 0.0},
        {"max_mask_age_s": float("nan")},
    ],
)
def test_wrong_limits_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        FlowLimit(**wrong)  # type: ignore[arg-type]
