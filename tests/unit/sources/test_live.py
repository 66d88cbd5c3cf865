"""LiveSource over a device that does as it is told."""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import count, pairwise
from typing import Any

import anyio
import av
import pytest

from streamseg.errors import ConfigError, SourceOpenError, SourceReadError
from streamseg.frames import StreamInfo
from streamseg.sources import capture
from streamseg.sources.live import Grabber, LiveSource, Reconnect

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(20)]

SOON = Reconnect(first_delay_s=0.001, max_delay_s=0.01, give_up_after_s=5)
RATE = 25


class Device:
    """What all grabbers of a source share: a script for each connection, and what happened.

    A step of a script is a picture's number, an error to raise, a function to call, or None for
    the end. Pictures come as soon as they are asked for.
    """

    def __init__(self, *scripts: list[Any]) -> None:
        self.scripts = list(scripts)
        self.opened = 0
        self.closed = 0
        self.interrupted = 0
        self.threads: list[set[int]] = []

    def __call__(self) -> ScriptedGrabber:
        number = min(len(self.threads), len(self.scripts) - 1)
        self.threads.append(set())
        return ScriptedGrabber(self, iter(self.scripts[number]), self.threads[-1])


class ScriptedGrabber(Grabber):
    name = "device"

    def __init__(self, device: Device, steps: Iterator[Any], threads: set[int]) -> None:
        self.device = device
        self.steps = steps
        self.threads = threads
        self.lost = 0

    def open(self) -> StreamInfo:
        self.threads.add(threading.get_ident())
        self.device.opened += 1
        return StreamInfo("device", 32, 16, "yuv420p", Fraction(1, RATE))

    def grab(self) -> av.VideoFrame | None:
        self.threads.add(threading.get_ident())
        for step in self.steps:
            if isinstance(step, BaseException):
                raise step
            if step is None:
                return None
            if callable(step):
                step()
                continue
            return picture(step)
        raise SourceReadError("device: the script is over")

    def take_lost(self) -> int:
        lost, self.lost = self.lost, 0
        return lost

    def close(self) -> None:
        self.threads.add(threading.get_ident())
        self.device.closed += 1

    def interrupt(self) -> None:
        self.device.interrupted += 1


def picture(number: int | None, *, width: int = 32, height: int = 16) -> av.VideoFrame:
    video = av.VideoFrame(width, height, "yuv420p")
    if number is not None:
        video.pts, video.time_base = number, Fraction(1, RATE)
    return video


def live(device: Device, **options: Any) -> LiveSource:
    settings = {"name": "device", "reconnect": None, "stall_s": None} | options
    return LiveSource(device, **settings)


def pause(seconds: float = 0.005) -> Callable[[], None]:
    return lambda: time.sleep(seconds)


def slowly(numbers: Any) -> Iterator[Any]:
    for number in numbers:
        yield number
        yield pause()


async def all_of(source: LiveSource) -> list[int]:
    indices = []
    while True:
        try:
            indices.append((await source.receive()).index)
        except anyio.EndOfStream:
            return indices


async def test_the_newest_frame_is_received_and_the_others_are_counted() -> None:
    grabbed = threading.Event()
    device = Device([0, 1, 2, 3, 4, grabbed.set, None])
    async with live(device) as source:
        assert await anyio.to_thread.run_sync(grabbed.wait, 5)
        frame = await source.receive()
        with pytest.raises(anyio.EndOfStream):
            await source.receive()
        statistics = source.statistics()

    assert frame.index == 4
    assert frame.pts == 4 * 90_000 // RATE
    assert statistics.delivered == 1
    assert statistics.dropped == {"superseded": 4}
    assert statistics.captured == 5


async def test_more_frames_may_wait_if_asked_for() -> None:
    grabbed = threading.Event()
    async with live(Device([0, 1, 2, 3, grabbed.set, None]), max_waiting=2) as source:
        assert await anyio.to_thread.run_sync(grabbed.wait, 5)
        assert await all_of(source) == [2, 3]


async def test_a_frame_that_waits_at_closing_is_counted() -> None:
    grabbed, go_on = threading.Event(), threading.Event()
    device = Device([0, 1, grabbed.set, lambda: go_on.wait(5)])
    source = live(device)
    async with source:
        assert await anyio.to_thread.run_sync(grabbed.wait, 5)
        go_on.set()
    assert source.statistics().dropped == {"superseded": 1, "closed": 1}
    assert source.statistics().captured == 2


async def test_lost_pictures_are_counted_and_leave_a_gap() -> None:
    device = Device([])
    grabber = ScriptedGrabber(device, iter(slowly([0, 1, None])), set())
    grabber.lost = 3
    source = LiveSource(lambda: grabber, name="device", reconnect=None, stall_s=None, max_waiting=9)
    async with source:
        assert await all_of(source) == [3, 4]
        assert source.statistics().captured == 5
        assert source.statistics().dropped == {"undecodable": 3}
        assert "damaged pictures that could not be decoded: 3" in source.notices


async def test_each_grabber_lives_in_one_thread() -> None:
    gone = SourceReadError("device: gone")
    device = Device([0, gone], [0, gone], [SourceOpenError("device: absent")])
    plan = Reconnect(first_delay_s=0.001, give_up_after_s=0.05)
    async with live(device, reconnect=plan) as source:
        with pytest.raises(SourceReadError):
            await receive_into([], source)
    assert device.opened == device.closed == len(device.threads)
    assert all(len(threads) == 1 for threads in device.threads)
    assert threading.get_ident() not in set().union(*device.threads)


async def test_a_device_that_comes_back_is_used_again(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "streamseg")
    gone = SourceReadError("device: unplugged")
    absent = SourceOpenError("device: there is no such device")
    device = Device([*slowly([100, 101]), gone], [absent], [absent], [*slowly([0, 1]), None])
    async with live(device, reconnect=SOON, max_waiting=9) as source:
        frames = []
        with pytest.raises(anyio.EndOfStream):
            await receive_into(frames, source)
        statistics, notices = source.statistics(), source.notices

    assert [frame.index for frame in frames] == [0, 1, 2, 3]
    assert all(a.pts < b.pts for a, b in pairwise(frames))
    assert statistics.reconnects == 1
    assert len(notices) == 1
    assert "the gap was 0." in notices[0]
    assert [record.message.partition(":")[2][:13] for record in caplog.records] == [
        " opened",
        " device: unpl",
        " reconnected ",
    ]


async def receive_into(frames: list[Any], source: LiveSource) -> None:
    while True:
        frames.append(await source.receive())


async def test_a_first_failure_is_not_tried_again() -> None:
    device = Device([SourceReadError("device: broken from the start")], [0, None])
    with pytest.raises(SourceOpenError, match="broken from the start"):
        await live(device, reconnect=SOON).open()
    assert device.opened == device.closed == 1


async def test_a_stream_without_a_picture_cannot_be_opened() -> None:
    with pytest.raises(SourceOpenError, match="there was no picture"):
        await live(Device([None])).open()


async def test_a_foreign_error_becomes_ours_without_credentials() -> None:
    device = Device([0, RuntimeError("cannot read rtsp://alice:s3cret@host/x")])
    async with live(device) as source:
        await source.receive()
        for _ in range(2):
            with pytest.raises(SourceReadError, match=r"RuntimeError: .*\*\*\*@host") as caught:
                await source.receive()
    assert "s3cret" not in str(caught.value)


async def test_giving_up_tells_the_last_failure() -> None:
    absent = SourceOpenError("device: there is no such device")
    plan = Reconnect(first_delay_s=0.005, max_delay_s=0.01, give_up_after_s=0.05)
    device = Device([0, SourceReadError("device: unplugged")], [absent])
    async with live(device, reconnect=plan) as source:
        await source.receive()
        with pytest.raises(SourceReadError, match=r"again for 0\.05 s; .*: there is no such"):
            await source.receive()
        assert source.statistics().reconnects == 0
    assert device.opened > 2


async def test_a_device_that_hangs_is_left_behind_and_replaced() -> None:
    release = threading.Event()
    device = Device([0, lambda: release.wait(10), 99], [*slowly(range(50)), None])
    async with live(device, reconnect=SOON, stall_s=0.05, max_waiting=99) as source:
        begin_s = time.monotonic()
        frames = [await source.receive() for _ in range(5)]
        assert time.monotonic() - begin_s < 2
        assert source.statistics().reconnects == 1
        assert device.interrupted == 1
        assert device.closed == 0
        # When its call returns at last, the picture is not ours any more, and it closes itself.
        release.set()
        with anyio.fail_after(5):
            while device.closed == 0:
                await anyio.sleep(0.001)
            indices = [*(frame.index for frame in frames), *await all_of(source)]
    assert indices == list(range(51))


async def test_hanging_threads_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture, "_GRACE_S", 0.01)
    release = threading.Event()
    device = Device([0, lambda: release.wait(10)])
    plan = Reconnect(first_delay_s=0.001, max_delay_s=0.001, give_up_after_s=0.5)
    try:
        async with live(device, reconnect=plan, stall_s=0.01) as source:
            with anyio.fail_after(5), pytest.raises(SourceReadError, match="could not be made"):
                await receive_into([], source)
            assert device.opened == 3
    finally:
        release.set()


@pytest.mark.parametrize("during", ["open", "grab"])
async def test_closing_leaves_a_hanging_device_to_its_thread(during: str) -> None:
    release, reached = threading.Event(), threading.Event()

    def hang() -> None:
        reached.set()
        release.wait(10)

    device = Device([hang, 0] if during == "open" else [0, hang])
    source = live(device)
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as group:
            group.start_soon(receive_into, [], await opened(source, group, during))
            assert await anyio.to_thread.run_sync(reached.wait, 5)
            begin_s = time.monotonic()
            scope.cancel()
    await source.aclose()
    assert time.monotonic() - begin_s < 2
    assert device.closed == 0
    release.set()
    with anyio.fail_after(5):
        while device.closed == 0:
            await anyio.sleep(0.001)


async def opened(source: LiveSource, group: Any, during: str) -> LiveSource:
    if during == "open":
        group.start_soon(source.open)
    else:
        await source.open()
    return source


async def test_closing_while_waiting_to_reconnect_is_immediate() -> None:
    plan = Reconnect(first_delay_s=60, max_delay_s=60)
    async with live(Device([0, SourceReadError("gone")]), reconnect=plan) as source:
        await source.receive()
        await anyio.sleep(0.02)
        begin_s = time.monotonic()
    assert time.monotonic() - begin_s < 0.3


async def test_pictures_of_another_size_and_format_are_fitted() -> None:
    def script() -> Iterator[Any]:
        yield picture(0)
        yield picture(1, width=64, height=48)
        other = av.VideoFrame(32, 16, "rgb24")
        other.pts, other.time_base = 2, Fraction(1, RATE)
        yield other

    class Given(ScriptedGrabber):
        def grab(self) -> av.VideoFrame | None:
            return next(self.steps, None)

    source = LiveSource(
        lambda: Given(Device([]), script(), set()),
        name="device", reconnect=None, stall_s=None, max_waiting=9,
    )  # fmt: skip
    async with source:
        frames: list[Any] = []
        with pytest.raises(anyio.EndOfStream):
            await receive_into(frames, source)
        notices = source.notices
    assert {(f.width, f.height, f.pixel_format) for f in frames} == {(32, 16, "yuv420p")}
    assert [frame.pts for frame in frames] == [0, 3600, 7200]
    assert len(notices) == 2


async def test_pictures_without_time_stamps_are_timed_by_their_capture() -> None:
    class Untimed(ScriptedGrabber):
        def grab(self) -> av.VideoFrame | None:
            time.sleep(0.01)
            number = next(self.steps, None)
            return None if number is None else picture(None)

    source = LiveSource(
        lambda: Untimed(Device([]), iter(range(6)), set()),
        name="device", reconnect=None, stall_s=None, max_waiting=9,
    )  # fmt: skip
    async with source:
        frames: list[Any] = []
        with pytest.raises(anyio.EndOfStream):
            await receive_into(frames, source)
    begin_s = frames[0].captured_s
    for frame in frames:
        assert frame.pts_s == pytest.approx(frame.captured_s - begin_s, abs=0.0001)


async def test_notices_of_reconnects_are_bounded() -> None:
    rounds = count()
    device = Device([0, SourceReadError("gone")])
    plan = Reconnect(first_delay_s=0, give_up_after_s=None)
    async with live(device, reconnect=plan) as source:
        while source.statistics().reconnects < 40:
            await source.receive()
            next(rounds)
        assert 0 < len(source.notices) <= 25


async def test_a_forgotten_source_warns_and_stops_its_threads() -> None:
    device = Device([*slowly(range(10_000))])
    source = live(device)
    source.itself = source  # type: ignore[attr-defined]  # so that only the collector ends it
    await source.open()
    del source
    with pytest.warns(ResourceWarning, match="unclosed LiveSource"):
        gc.collect()
    with anyio.fail_after(5):
        while device.closed == 0:
            await anyio.sleep(0.001)


@pytest.mark.parametrize("options", [{"stall_s": 0}, {"stall_s": -1}, {"max_waiting": 0}])
def test_wrong_numbers_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        live(Device([]), **options)
