"""One suite for every Sink: what ``streamseg.abc.Sink`` promises, kept by each of them.

``tests/support/sink_factories.py`` says which sinks there are.
"""

from __future__ import annotations

import gc
import threading
import time
from typing import TYPE_CHECKING

import anyio
import numpy as np
import pytest

from streamseg.segmentation import Segmentation
from streamseg.sinks.threaded import ThreadedSink
from tests.support.programs import require
from tests.support.sink_factories import CASES, Case, Held
from tests.unit.sinks.helpers import closing, info_of, make_frame

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from streamseg.abc import Sink
    from streamseg.frames import Frame

pytestmark = [pytest.mark.anyio, pytest.mark.integration]

SIZE = (128, 96)
INFO = info_of(width=SIZE[0], height=SIZE[1])


def _frame(number: int) -> Frame:
    return make_frame(number, width=SIZE[0], height=SIZE[1])


def _masks(number: int) -> Segmentation:
    return Segmentation(
        index=number,
        labels=("background", "person"),
        masks={"person": np.full((12, 16), 0.7, np.float32)},
    )


@pytest.fixture(params=CASES, ids=lambda case: case.name)
def case(request: pytest.FixtureRequest) -> Case:
    chosen: Case = request.param
    require(*chosen.needs)
    return chosen


@pytest.fixture
def sink(case: Case, tmp_path: Path) -> Iterator[Sink]:
    gc.collect()
    with case.make(tmp_path) as made:
        before = Held.now()
        yield made
        gc.collect()
        # A thread of FFmpeg's, or a socket of a peer that noticed the end, goes a moment later.
        deadline = time.monotonic() + 3
        while more := Held.now().holds_more_than(before):
            assert time.monotonic() < deadline, f"left behind: {more}"
            time.sleep(0.01)


async def _send(sink: Sink, numbers: range) -> None:
    for number in numbers:
        await sink.send(_frame(number), _masks(number))


def _adds_up(sink: Sink) -> None:
    statistics = sink.statistics()
    assert statistics.written + sum(statistics.dropped.values()) == statistics.accepted
    assert all(count > 0 for count in statistics.dropped.values())


async def test_whole_stream_is_written_and_counted(case: Case, sink: Sink) -> None:
    assert sink.statistics().accepted == 0
    async with closing(sink):
        await sink.open(INFO)
        await _send(sink, range(40))
        await sink.send_packets([])
        await sink.finish()
        await sink.commit()
        statistics = sink.statistics()
        assert statistics.accepted == 40
        if case.keeps_all:
            assert (statistics.written, dict(statistics.dropped)) == (40, {})
    _adds_up(sink)
    assert all("\n" not in line for line in sink.notices)


async def test_nothing_is_taken_before_it_is_open(sink: Sink) -> None:
    async with closing(sink):
        for call in (sink.send(_frame(0)), sink.finish(), sink.commit()):
            with pytest.raises(anyio.ClosedResourceError):
                await call


async def test_nothing_is_taken_after_finish(sink: Sink) -> None:
    async with closing(sink):
        await sink.open(INFO)
        await _send(sink, range(2))
        await sink.finish()
        with pytest.raises(anyio.ClosedResourceError):
            await sink.send(_frame(2), _masks(2))
        with pytest.raises(anyio.ClosedResourceError):
            await sink.finish()
        await sink.commit()
        await sink.commit()
    _adds_up(sink)


async def test_nothing_is_taken_after_closing(sink: Sink) -> None:
    async with closing(sink):
        await sink.open(INFO)
        await _send(sink, range(2))
    for call in (sink.send(_frame(2), _masks(2)), sink.finish(), sink.commit()):
        with pytest.raises(anyio.ClosedResourceError):
            await call
    _adds_up(sink)


async def test_closing_twice_and_closing_what_was_never_open(sink: Sink) -> None:
    await sink.aclose()
    await sink.aclose()
    assert sink.statistics().accepted == 0


async def test_opening_twice_is_an_error(sink: Sink) -> None:
    async with closing(sink):
        await sink.open(INFO)
        with pytest.raises(RuntimeError):
            await sink.open(INFO)
        await _send(sink, range(1))
        await sink.finish()


async def test_closing_in_the_middle_is_quick_and_counts(sink: Sink) -> None:
    async with closing(sink):
        await sink.open(INFO)
        await _send(sink, range(20))
        start = time.perf_counter()
    assert time.perf_counter() - start < 2
    assert sink.statistics().accepted == 20
    _adds_up(sink)


async def test_closing_ends_a_send_that_waits(
    case: Case, sink: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not case.threaded:
        pytest.skip("send never waits")
    release, ended = _stuck(sink, monkeypatch), anyio.Event()

    async def send_on() -> None:
        with pytest.raises(anyio.ClosedResourceError):
            await _send(sink, range(100))
        ended.set()

    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            await sink.open(INFO)
            group.start_soon(send_on)
            await anyio.wait_all_tasks_blocked()
            release.set()
            await sink.aclose()
            await ended.wait()
    _adds_up(sink)


async def test_send_that_waits_can_be_cancelled(
    case: Case, sink: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not case.threaded:
        pytest.skip("send never waits")
    release = _stuck(sink, monkeypatch)
    async with closing(sink):
        await sink.open(INFO)
        with anyio.move_on_after(0.2) as scope:
            await _send(sink, range(100))
        assert scope.cancelled_caught
        taken = sink.statistics().accepted
        assert 0 < taken < 100
        release.set()
        # A cancelled send has not taken its picture: it may be sent again.
        await _send(sink, range(taken, taken + 3))
        await sink.finish()
        assert sink.statistics().accepted == taken + 3
        await sink.commit()
    _adds_up(sink)


def _stuck(sink: Sink, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Have the writer wait in its first picture until the event is set."""
    assert isinstance(sink, ThreadedSink)
    release = threading.Event()
    make = sink._make_writer

    def slow_writer() -> object:
        writer = make()
        write = writer.write

        def slow(frame: Frame, segmentation: Segmentation | None) -> None:
            release.wait(10)
            write(frame, segmentation)

        monkeypatch.setattr(writer, "write", slow)
        return writer

    monkeypatch.setattr(sink, "_make_writer", slow_writer)
    return release
