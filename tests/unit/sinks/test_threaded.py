from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from streamseg.errors import SinkOpenError, SinkWriteError
from streamseg.sinks import NullSink
from streamseg.sinks.threaded import ThreadedSink
from tests.unit.sinks.helpers import info_of, make_frame

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.anyio


class FakeWriter:
    """Calls what the test gives it, and notes what was called."""

    def __init__(self, **actions: Callable[..., Any]) -> None:
        self.written = 0
        self.notices: list[str] = []
        self.calls: list[str] = []
        self.stopped = threading.Event()
        self._actions = actions

    def _do(self, name: str, *arguments: Any) -> None:
        self.calls.append(name)
        if name in self._actions:
            self._actions[name](*arguments)

    def open(self, info: Any) -> None:
        self._do("open")

    def write(self, frame: Any, segmentation: Any) -> None:
        self._do("write", frame)
        self.written += 1

    def write_packets(self, packets: Any) -> None:
        self._do("packets", packets)

    def finish(self) -> None:
        self._do("finish")

    def commit(self) -> None:
        self._do("commit")

    def abort(self) -> None:
        self._do("abort")

    def stop(self) -> None:
        self.stopped.set()

    def discard(self) -> None:
        self.calls.append("discard")


class FakeSink(ThreadedSink):
    def __init__(self, writer: FakeWriter) -> None:
        super().__init__("fake")
        self.writer = writer

    def _make_writer(self) -> FakeWriter:
        return self.writer


def fail(error: Exception) -> Callable[..., None]:
    def action(*_: Any) -> None:
        raise error

    return action


async def test_calls_come_in_order_in_one_thread() -> None:
    threads = set()
    writer = FakeWriter(write=lambda _: threads.add(threading.get_ident()))
    async with FakeSink(writer) as sink:
        await sink.open(info_of())
        await sink.send(make_frame(0))
        await sink.send_packets(["p"])
        await sink.send_packets([])
        await sink.send(make_frame(1))
        await sink.finish()
        await sink.commit()
    assert writer.calls == ["open", "write", "packets", "write", "finish", "commit", "abort"]
    assert len(threads) == 1
    assert threading.get_ident() not in threads
    assert (sink.statistics().accepted, sink.statistics().written) == (2, 2)


async def test_error_of_open_is_raised_by_open_and_ends_the_thread() -> None:
    writer = FakeWriter(open=fail(SinkOpenError("no")))
    sink = FakeSink(writer)
    with pytest.raises(SinkOpenError, match="no"):
        await sink.open(info_of())
    assert writer.calls == ["open", "abort"]
    await sink.aclose()


async def test_error_in_the_thread_is_raised_by_the_next_calls() -> None:
    writer = FakeWriter(write=fail(RuntimeError("boom")))
    async with FakeSink(writer) as sink:
        await sink.open(info_of())

        async def send_many() -> None:
            for number in range(100):
                await sink.send(make_frame(number))
                await asyncio.sleep(0)

        with pytest.raises(SinkWriteError, match="RuntimeError: boom") as caught:
            await send_many()
        assert isinstance(caught.value.__cause__, RuntimeError)
        for call in (sink.send(make_frame(0)), sink.send_packets(["p"]), sink.finish()):
            with pytest.raises(SinkWriteError, match="boom"):
                await call
    assert "finish" not in writer.calls


async def test_a_full_queue_makes_send_wait_and_closing_wakes_it() -> None:
    release = threading.Event()
    writer = FakeWriter(write=lambda _: release.wait(5))
    sink = FakeSink(writer)
    await sink.open(info_of())
    sent = 0
    with anyio.move_on_after(0.1):
        for number in range(20):
            await sink.send(make_frame(number))
            sent += 1
    assert sent == 5, "one at work, four waiting"
    closed = False

    async def wait_in_send() -> None:
        nonlocal closed
        with pytest.raises(anyio.ClosedResourceError):
            await sink.send(make_frame(99))
        closed = True

    async with anyio.create_task_group() as group:
        group.start_soon(wait_in_send)
        await anyio.wait_all_tasks_blocked()
        release.set()
        await sink.aclose()
    assert closed


async def test_closing_does_not_wait_for_a_thread_that_hangs() -> None:
    release = threading.Event()
    writer = FakeWriter(write=lambda _: release.wait(10))
    sink = FakeSink(writer)
    await sink.open(info_of())
    await sink.send(make_frame(0))
    start = time.perf_counter()
    await sink.aclose()
    assert time.perf_counter() - start < 2
    assert writer.stopped.is_set()
    release.set()


@pytest.mark.parametrize("stage", ["open", "write", "finish"])
async def test_cancelling_a_stage_stops_the_writer(stage: str) -> None:
    reached = threading.Event()
    writer = FakeWriter()

    def hold(*_: Any) -> None:
        reached.set()
        writer.stopped.wait(5)

    writer._actions[stage] = hold
    sink = FakeSink(writer)
    async with anyio.create_task_group() as group:

        async def use() -> None:
            try:
                await sink.open(info_of())
                for number in range(20):
                    await sink.send(make_frame(number))
                await sink.finish()
                await sink.commit()
            finally:
                await sink.aclose()

        group.start_soon(use)
        while not reached.is_set():
            await asyncio.sleep(0.001)
        start = time.perf_counter()
        group.cancel_scope.cancel()
    assert time.perf_counter() - start < 1
    assert writer.calls[-1] == "abort"


async def test_null_sink_counts() -> None:
    async with NullSink() as sink:
        with pytest.raises(anyio.ClosedResourceError):
            await sink.send(make_frame(0))
        await sink.open(info_of())
        await sink.send(make_frame(0))
        await sink.finish()
        await sink.commit()
        with pytest.raises(anyio.ClosedResourceError):
            await sink.send(make_frame(0))
    assert sink.statistics().written == 1
