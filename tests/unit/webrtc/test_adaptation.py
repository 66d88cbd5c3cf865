"""Fewer pixels or frames when the processor is short: when, how far, and back again."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Any

import anyio
import av
import pytest

from streamseg.frames import Colour, Frame
from streamseg.telemetry import StageTimes
from streamseg.webrtc.adaptation import FULL, Adaptation, Level, Load
from streamseg.webrtc.adapting_source import AdaptingSource, EncodingSink, Usage, usage
from streamseg.webrtc.peer_sink import PeerSink
from streamseg.webrtc.rooms import RoomSink
from tests.support.webrtc_transports import Clock
from tests.unit.fakes import FakeSink, FakeSource

# -- deciding --------------------------------------------------------------------------------

EASY = Load(30, 0.0, 8, 3, 5)
PIXELS = Load(30, 0.25, 12, 12, 18)  # too slow by the pixel
MODEL = Load(30, 0.45, 60, 2, 3)  # too slow by the frame
BURST = Load(30, 0.2, 8, 3, 5)  # lost without work: a network that delivers in bursts
ENCODER = Load(30, 0.0, 8, 15, 25)  # over the frame's time, though nothing is lost yet


def after(loads: Sequence[tuple[Load, int]]) -> list[Level]:
    """The levels after each stretch of seconds."""
    adaptation = Adaptation()
    levels = []
    for load, seconds in loads:
        for _ in range(seconds):
            adaptation.observe(load)
        levels.append(adaptation.level)
    return levels


@pytest.mark.parametrize(
    ("loads", "levels"),
    [
        ([(EASY, 600)], [FULL]),
        ([(BURST, 600)], [FULL]),
        ([(PIXELS, 3)], [FULL]),  # it begins, and models load
        ([(EASY, 10), (PIXELS, 2), (EASY, 10)], [FULL, FULL, FULL]),  # not for a moment
        ([(EASY, 10), (PIXELS, 3)], [FULL, Level(0.75)]),
        ([(EASY, 10), (ENCODER, 3)], [FULL, Level(0.75)]),
        ([(EASY, 10), (PIXELS, 8)], [FULL, Level(0.5)]),
        ([(EASY, 10), (PIXELS, 13)], [FULL, Level(0.5, 20)]),
        ([(EASY, 10), (PIXELS, 60)], [FULL, Level(0.5, 15)]),  # and no further
        # What the model costs does not become less with the pixels.
        ([(EASY, 10), (MODEL, 2)], [FULL, Level(1.0, 20)]),
        ([(EASY, 10), (MODEL, 6)], [FULL, Level(1.0, 15)]),
        # 15 a second come anyway: fewer frames would be no help.
        ([(EASY, 10), (Load(15, 0.3, 80, 2, 3), 60)], [FULL, Level(0.5)]),
        ([(EASY, 10), (Load(25, 0.3, 20, 20, 20), 60)], [FULL, Level(0.5, 15)]),
        # And back, a step at a time, after a while of room.
        ([(EASY, 10), (PIXELS, 3), (Load(30, 0, 8, 2, 3), 9)], [FULL, Level(0.75), Level(0.75)]),
        ([(EASY, 10), (PIXELS, 3), (Load(30, 0, 8, 2, 3), 10)], [FULL, Level(0.75), FULL]),
        # Not where the larger picture would not fit again.
        ([(EASY, 10), (PIXELS, 3), (Load(30, 0, 8, 7, 9), 60)], [FULL, Level(0.75), Level(0.75)]),
        ([(EASY, 10), (MODEL, 2), (Load(30, 0, 45, 2, 3), 60)], [FULL, *[Level(1.0, 20)] * 2]),
        # Nothing comes: nothing is known.
        ([(EASY, 10), (Load(0), 60), (EASY, 10)], [FULL, FULL, FULL]),
    ],
)
def test_levels(loads: Sequence[tuple[Load, int]], levels: Sequence[Level]) -> None:
    assert after(loads) == levels


@dataclass
class Machine:
    """A processor of which a session has a share, and what its frames cost there."""

    share: float = 1.0
    model_ms: float = 4.0
    picture_ms: float = 9.0  # effect and encoder, full size
    fps: float = 30.0
    noise: float = 0.0

    def run(self, level: Level, chance: random.Random) -> Load:
        swing = 1 + self.noise * (2 * chance.random() - 1)
        share = self.share * swing
        model_ms, picture_ms = self.model_ms / share, self.picture_ms * level.scale**2 / share
        wanted = min(self.fps, level.fps)
        possible = min(1000 / model_ms, 1000 / picture_ms)
        lost = max(0.0, 1 - possible / wanted)
        return Load(self.fps, lost, model_ms, picture_ms / 3, 2 * picture_ms / 3)


def live(machine: Machine, adaptation: Adaptation, seconds: int, seed: int) -> list[Level]:
    chance = random.Random(seed)
    levels = []
    for _ in range(seconds):
        adaptation.observe(machine.run(adaptation.level, chance))
        levels.append(adaptation.level)
    return levels


def changes(levels: Sequence[Level]) -> int:
    return sum(one != other for one, other in pairwise(levels))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("noise", [0.0, 0.3])
@pytest.mark.parametrize("model_ms", [4.0, 20.0, 60.0, 200.0])
@pytest.mark.parametrize("share", [1.0, 0.5, 0.3, 0.22, 0.15, 0.08])
def test_it_settles_wherever_the_limit_is(
    share: float, model_ms: float, noise: float, seed: int
) -> None:
    adaptation = Adaptation()
    machine = Machine(share=share, model_ms=model_ms, noise=noise)
    live(machine, adaptation, 60, seed)
    levels = live(machine, adaptation, 1200, seed + 100)
    # A try now and then: at most one step up and its regret in a minute.
    assert changes(levels) <= 2 * 1200 / 60
    for one, other in pairwise(levels):
        assert abs(one.scale - other.scale) <= 0.25
        assert one.scale == other.scale or one.fps == other.fps  # one thing at a time
    fits = machine.run(levels[-1], random.Random(0))
    lowest = Level(0.5, 15)
    assert fits.lost < 0.35 or levels[-1] == lowest or max(model_ms / share, 1) > 66


@pytest.mark.parametrize(
    ("model_ms", "lowest"), [(4.0, Level(0.5)), (9.0, Level(0.5, 15)), (22.0, Level(0.5, 15))]
)
def test_it_recovers_when_the_load_ends(model_ms: float, lowest: Level) -> None:
    adaptation = Adaptation()
    machine = Machine(model_ms=model_ms, noise=0.1)
    assert set(live(machine, adaptation, 30, 1)) == {FULL}
    machine.share = 0.15
    loaded = live(machine, adaptation, 30, 2)
    assert loaded[-1] == lowest
    assert next(n for n, level in enumerate(loaded) if level != FULL) <= 4
    machine.share = 1.0
    assert live(machine, adaptation, 60, 3)[-1] == FULL
    assert adaptation.steps["up"] == adaptation.steps["down"] == changes([FULL, *loaded])


def test_a_step_up_that_was_too_much_is_tried_again_later_and_later() -> None:
    """A machine whose load cannot be foretold: easy while small, too much at full size."""
    adaptation = Adaptation()
    ups = []
    for second in range(1000):
        load = Load(30, 0.3, 20, 20, 20) if adaptation.level == FULL else Load(30, 0, 5, 2, 2)
        before = adaptation.steps["up"]
        adaptation.observe(load)
        if adaptation.steps["up"] > before:
            ups.append(second)
    waits = [later - sooner for sooner, later in pairwise(ups)]
    assert waits[0] < 30
    assert min(waits[3:]) > 60


# -- carrying it out -------------------------------------------------------------------------


class Timed(FakeSource):
    """Frames at their times, of a size."""

    def __init__(self, count: int, clock: Clock, *, fps: float = 30, size: Any = (64, 368)) -> None:
        super().__init__(count)
        self.clock = clock
        self.fps = fps
        self.size = size

    async def receive(self) -> Frame:
        frame = await super().receive()
        self.clock.now += 1 / self.fps
        video = av.VideoFrame(*self.size, "yuv420p")
        video.colorspace, video.color_range = 1, 2
        video.pts, video.time_base = int(frame.index * 90_000 / self.fps), Fraction(1, 90_000)
        return Frame(video, frame.index, self.clock.now)


class Fixed(Adaptation):
    def __init__(self, level: Level) -> None:
        super().__init__()
        self.level = level
        self.seen: list[Load] = []

    def observe(self, load: Load) -> bool:
        self.seen.append(load)
        return False


async def received(source: AdaptingSource) -> list[Frame]:
    frames = []
    await source.open()
    while True:
        try:
            frames.append(await source.receive())
        except anyio.EndOfStream:
            return frames


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("fps", "most", "expected"),
    [
        (30, 30, 300),
        (60, 30, 309),
        (30, 20, 200),
        (30, 15, 150),
        (25, 20, 200),
        (24, 15, 150),
        (15, 20, 150),
        (20, 20, 200),
    ],
)
async def test_as_many_frames_as_allowed_evenly(fps: float, most: int, expected: int) -> None:
    clock = Clock()
    source = AdaptingSource(Timed(int(10 * fps), clock, fps=fps), Usage, clock=clock)
    source.adaptation = Fixed(Level(1.0, most))
    frames = await received(source)
    assert len(frames) == pytest.approx(expected, abs=2)
    times = [frame.pts_s or 0.0 for frame in frames]
    gaps = [later - sooner for sooner, later in pairwise(times)]
    assert max(gaps) <= 2.01 / min(fps, most) - 0.5 / fps + 1e-6
    statistics = source.statistics()
    assert statistics.delivered == len(frames)
    assert statistics.captured == 10 * fps
    left_out = int(10 * fps) - len(frames)
    assert statistics.dropped == ({"adapted": left_out} if left_out else {})


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("size", "scale", "expected"),
    [
        ((1280, 720), 1.0, (1280, 720)),
        ((1280, 720), 0.75, (960, 540)),
        ((1280, 720), 0.5, (640, 360)),
        ((641, 363), 0.5, (320, 182)),
        ((160, 120), 0.75, (120, 90)),
        ((160, 120), 0.5, (160, 120)),  # small enough
    ],
)
async def test_smaller_pictures_are_the_same_ones(size: Any, scale: float, expected: Any) -> None:
    clock = Clock()
    source = AdaptingSource(Timed(2, clock, size=size), Usage, clock=clock)
    source.adaptation = Fixed(Level(scale))
    frames = await received(source)
    assert [frame.index for frame in frames] == [0, 1]
    for frame in frames:
        assert (frame.width, frame.height) == expected
        assert frame.pts == 3000 * frame.index
        assert frame.time_base == Fraction(1, 90_000)
        assert Colour.of(frame.video) == Colour(1, 2)
    assert source.settings == {"scale": f"{scale:g}", "fps": "30"}


@pytest.mark.anyio
async def test_a_frame_that_nobody_waits_for_any_more_is_counted() -> None:
    clock = Clock()
    inner = Timed(5, clock, size=(1280, 720))
    source = AdaptingSource(inner, Usage, clock=clock)
    source.adaptation = Fixed(Level(0.5))
    await source.open()
    await source.receive()
    receive = inner.receive
    with anyio.CancelScope() as scope:

        async def last() -> Frame:
            frame = await receive()
            scope.cancel()
            return frame

        inner.receive = last  # type: ignore[method-assign]
        await source.receive()
    assert source.statistics().captured == 2
    assert source.statistics().dropped == {"adapted": 1}


class Stamped(Timed):
    """Frames with time stamps of their own, in seconds."""

    def __init__(self, count: int, clock: Clock, fps: float, stamp: Callable[[int], float]) -> None:
        super().__init__(count, clock, fps=fps)
        self.stamp = stamp

    async def receive(self) -> Frame:
        frame = await super().receive()
        frame.video.pts = round(90_000 * self.stamp(frame.index))
        return frame


@pytest.mark.anyio
@pytest.mark.parametrize("fps", [60.0, 120.0, 240.0])
async def test_thirty_frames_a_second_at_most(fps: float) -> None:
    clock = Clock()
    source = AdaptingSource(Timed(int(10 * fps), clock, fps=fps), Usage, clock=clock)
    frames = await received(source)
    assert 300 <= len(frames) <= 310
    assert source.statistics().dropped == {"adapted": 10 * fps - len(frames)}
    gaps = [after.pts - before.pts for before, after in pairwise(frames)]  # type: ignore[operator]
    assert max(gaps) <= 90_000 / 30 + 90_000 / fps


@pytest.mark.anyio
@pytest.mark.parametrize("fps", [29.97, 30.0, 30.5])
async def test_none_is_left_out_of_a_camera_whose_times_swing(fps: float) -> None:
    clock, chance = Clock(), random.Random(7)
    stamps = [n / fps + chance.uniform(-0.015, 0.015) for n in range(3000)]
    source = AdaptingSource(Stamped(3000, clock, fps, stamps.__getitem__), Usage, clock=clock)
    assert len(await received(source)) == 3000


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("stamp", "least", "most"),
    [
        (lambda n: 5.0 * n, 8, 12),  # leaps
        (lambda n: 5.0 * (n % 2), 8, 12),
        (lambda n: 7.0, 8, 12),  # stands still
        (lambda n: n / 120 + 3600 * (n > 600), 300, 312),  # begins anew
    ],
)
async def test_time_stamps_let_nobody_have_more_and_stop_nobody_for_ever(
    stamp: Callable[[int], float], least: int, most: int
) -> None:
    clock = Clock()
    source = AdaptingSource(Stamped(1200, clock, 120, stamp), Usage, clock=clock)
    assert least <= len(await received(source)) <= most


@pytest.mark.anyio
async def test_it_looks_once_a_second_at_what_came_and_what_was_shown() -> None:
    clock = Clock()
    source = AdaptingSource(
        Timed(300, clock),
        lambda: Usage(int(10 * (clock.now - 100)), 20, 5, 6),  # ten a second are shown
        clock=clock,
    )
    source.adaptation = fixed = Fixed(Level(1.0, 20))
    await received(source)
    assert len(fixed.seen) == 9
    for load in fixed.seen:
        assert load.arrived_fps == pytest.approx(30, rel=0.05)
        assert load.lost == pytest.approx(0.5, abs=0.06)
        assert (load.segment_ms, load.picture_ms) == (20, 11)


@pytest.mark.anyio
async def test_time_stamps_that_begin_anew_hold_nothing_up() -> None:
    clock = Clock()
    inner = Timed(60, clock)
    receive = inner.receive

    async def jumping() -> Frame:
        frame = await receive()
        if frame.index >= 30:
            frame.video.pts -= 900_000
        return frame

    inner.receive = jumping  # type: ignore[method-assign]
    source = AdaptingSource(inner, Usage, clock=clock)
    source.adaptation = Fixed(Level(1.0, 15))
    assert len(await received(source)) == pytest.approx(30, abs=2)


@pytest.mark.anyio
async def test_packets_and_the_end_are_the_sources() -> None:
    clock = Clock()
    inner = Timed(3, clock)
    source = AdaptingSource(inner, Usage, clock=clock)
    await source.open()
    await source.receive()
    assert source.take_packets() == ["packet 0"]
    assert source.notices == inner.notices
    await source.aclose()
    assert inner.log == ["source opened", "source closed"]


class SlowEncoder(FakeSink):
    def encoding(self) -> tuple[int, float | None]:
        return 7, 12.5


def test_usage_is_what_reached_the_encoder() -> None:
    times = {"segment": StageTimes(count=4, sum_ms=80), "effect": StageTimes(count=4, sum_ms=12)}
    sinks = [SlowEncoder(), FakeSink()]
    assert usage(90, times, sinks) == Usage(83, 20.0, 3.0, 12.5)
    assert usage(90, times, []) == Usage(90, 20.0, 3.0, 0.0)


def test_connections_and_rooms_tell_of_their_encoders() -> None:
    assert issubclass(PeerSink, EncodingSink)
    assert issubclass(RoomSink, EncodingSink)
    assert PeerSink("call 1").encoding() == (0, None)
