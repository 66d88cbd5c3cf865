"""What every Source must do, over every Source there is."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Iterator
from itertools import pairwise

import anyio
import pytest

from streamseg.abc import Source
from streamseg.frames import Frame
from tests.support.programs import require
from tests.support.source_factories import CASES, Case, Media

pytestmark = [pytest.mark.integration, pytest.mark.anyio, pytest.mark.timeout(30)]

SOME = 8
"""As many frames are read of a source that never ends."""
ENDING = [name for name, case in CASES.items() if case.frames is not None]


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Media]:
    media = Media(tmp_path_factory.mktemp("media"))
    with media.stack:
        yield media


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    case = CASES[request.param]
    require(*case.needs)
    return case


@pytest.fixture
def source(case: Case, media: Media) -> Iterator[Source]:
    with case.make(media) as source:
        yield source


async def read(source: Source, count: int | None) -> list[Frame]:
    """Receive so many frames, or all to the end."""
    frames: list[Frame] = []
    while count is None or len(frames) < count:
        try:
            frames.append(await source.receive())
        except anyio.EndOfStream:
            break
        source.take_packets()
    return frames


async def test_frames_are_in_order_and_as_announced(case: Case, source: Source) -> None:
    async with source:
        info = await source.open()
        frames = await read(source, None if case.frames else SOME)

        assert len(frames) >= min(SOME, case.frames or SOME)
        assert all(a.index < b.index for a, b in pairwise(frames))
        stamps = [frame.pts for frame in frames]
        assert None not in stamps
        assert all(a < b for a, b in pairwise(stamps))  # type: ignore[operator]
        assert all(a.captured_s <= b.captured_s for a, b in pairwise(frames))
        assert {(f.width, f.height, f.pixel_format, f.time_base) for f in frames} == {
            (info.width, info.height, info.pixel_format, info.time_base)
        }
        assert info.live == case.live
        assert source.statistics().delivered == len(frames)
        if not case.live:
            assert [frame.index for frame in frames] == list(range(len(frames)))


@pytest.mark.parametrize("case", ENDING, indirect=True)
async def test_the_end_is_told_every_time_and_everything_is_counted(
    case: Case, source: Source
) -> None:
    async with source:
        frames = await read(source, None)
        for _ in range(3):
            with pytest.raises(anyio.EndOfStream):
                await source.receive()
        statistics = source.statistics()

    assert statistics.captured == case.frames
    assert statistics.delivered == len(frames)
    assert frames[-1].index == statistics.captured - 1


async def test_nothing_is_received_before_opening(source: Source) -> None:
    with pytest.raises(anyio.ClosedResourceError):
        await source.receive()
    await source.aclose()


async def test_nothing_is_received_after_closing(source: Source) -> None:
    async with source:
        await source.receive()
    for _ in range(2):
        with pytest.raises(anyio.ClosedResourceError):
            await source.receive()
    with pytest.raises(anyio.ClosedResourceError):
        await source.open()


async def test_opening_and_closing_may_be_done_twice(source: Source) -> None:
    info = await source.open()
    assert await source.open() is info
    await source.aclose()
    begin_s = time.monotonic()
    await source.aclose()
    assert time.monotonic() - begin_s < 0.5


async def test_closing_ends_who_waits(case: Case, source: Source) -> None:
    outcome: list[type[Exception]] = []
    first = anyio.Event()

    async def receive() -> None:
        try:
            while True:
                await source.receive()
                first.set()
        except (anyio.ClosedResourceError, anyio.EndOfStream) as error:
            outcome.append(type(error))

    async with source, anyio.create_task_group() as group:
        group.start_soon(receive)
        await first.wait()
        begin_s = time.monotonic()
        await source.aclose()
    assert time.monotonic() - begin_s < 2
    expected = {anyio.ClosedResourceError} | ({anyio.EndOfStream} if case.frames else set())
    assert len(outcome) == 1
    assert outcome[0] in expected


async def test_a_cancelled_receive_loses_no_frame(case: Case, source: Source) -> None:
    frames: list[Frame] = []
    cancelled = 0
    async with source:
        while len(frames) < (case.frames or SOME):
            # Shorter, and longer, than a frame takes: cancelled at every point of the wait.
            with anyio.move_on_after(0.002 * (cancelled % 3)) as scope:
                try:
                    frames.append(await source.receive())
                except anyio.EndOfStream:
                    break
            cancelled += scope.cancelled_caught
        statistics = source.statistics()

    assert cancelled > 0
    assert statistics.delivered == len(frames)
    # Every frame up to the last received one is either delivered or counted.
    assert statistics.captured >= frames[-1].index + 1
    if not case.live:
        assert [frame.index for frame in frames] == list(range(len(frames)))


async def test_what_was_not_received_is_counted(case: Case, source: Source) -> None:
    async with source:
        first = await source.receive()
        await anyio.sleep(0.15)  # the time in which a live source goes on without us
        second = await source.receive()
    statistics = source.statistics()

    assert statistics.delivered == 2
    assert statistics.captured >= second.index + 1
    assert sum(statistics.dropped.values()) >= second.index - first.index - 1
    assert set(statistics.dropped) <= {"superseded", "closed"}
    if case.live:
        assert second.index > first.index + 1


async def test_a_cancelled_open_ends_soon(source: Source) -> None:
    begin_s = time.monotonic()
    with anyio.move_on_after(0):
        await source.open()
    await source.aclose()

    assert time.monotonic() - begin_s < 2
    with pytest.raises(anyio.ClosedResourceError):
        await source.receive()


async def test_nothing_is_left_behind(source: Source) -> None:
    gc.collect()
    threads, descriptors = set(threading.enumerate()), _descriptors()
    async with source:
        await source.receive()
    gc.collect()
    deadline_s = time.monotonic() + 2
    while (left := _threads() - threads) or _descriptors() > descriptors:
        assert time.monotonic() < deadline_s, (left, descriptors, _descriptors())
        await anyio.sleep(0.01)


def _threads() -> set[threading.Thread]:
    return {t for t in threading.enumerate() if t.name.startswith("streamseg")}


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))
