"""Work in threads that ends soon when nobody wants it any more."""

from __future__ import annotations

import asyncio
import importlib.util
import io
import os
import threading
import time
from itertools import pairwise
from pathlib import Path
from typing import NoReturn

import anyio
import pytest

from streamseg.session.still_files import ResultWriter
from streamseg.tasks import threads
from streamseg.tasks.threads import Check, Watched, in_thread

pytestmark = pytest.mark.anyio


async def cancelled_after(work, begun: threading.Event) -> float:
    """Cancel work as soon as it has begun; return how long its caller was held up, in seconds."""
    left = anyio.Event()

    async def call() -> None:
        try:
            await in_thread(work)
        finally:
            left.set()

    async with anyio.create_task_group() as group:
        group.start_soon(call)
        assert await anyio.to_thread.run_sync(begun.wait, 10)
        started = time.monotonic()
        group.cancel_scope.cancel()
    assert left.is_set()
    return time.monotonic() - started


async def test_results_and_errors_are_the_works_own() -> None:
    assert await in_thread(lambda check: 7) == 7

    def fail(check: Check) -> NoReturn:
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        await in_thread(fail)


async def test_nobody_waits_for_a_long_call_of_a_library() -> None:
    begun, over = threading.Event(), threading.Event()

    def work(check: Check) -> None:
        begun.set()
        over.wait(30)

    assert await cancelled_after(work, begun) < 2
    over.set()


async def test_threads_that_were_left_behind_are_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(threads, "_places", threads._Places(2))
    begun, over = threading.Semaphore(0), threading.Event()
    done: list[int] = []

    def work(check: Check) -> None:
        begun.release()
        over.wait(30)

    async def call(number: int) -> None:
        await in_thread(lambda check: done.append(number))

    try:
        async with anyio.create_task_group() as group:
            for _ in range(2):
                group.start_soon(in_thread, work)
            for _ in range(2):
                assert await anyio.to_thread.run_sync(lambda: begun.acquire(timeout=10))
            group.cancel_scope.cancel()
        # Both threads are at work still: whoever comes waits, and may be cancelled.
        with anyio.move_on_after(0.1) as scope:
            await call(1)
        assert scope.cancelled_caught
        async with anyio.create_task_group() as group:
            for number in (2, 3, 4):
                group.start_soon(call, number)
            await anyio.wait_all_tasks_blocked()
            assert done == []
            over.set()
            # Of another event loop too.
            await anyio.to_thread.run_sync(asyncio.run, call(5))
        assert sorted(done) == [2, 3, 4, 5]
    finally:
        over.set()


async def test_a_place_that_nobody_takes_any_more_is_free() -> None:
    places = threads._Places(1)
    for cancelled_first in (True, False):
        await places.take()
        waiting = asyncio.ensure_future(places.take())
        await anyio.wait_all_tasks_blocked()
        if cancelled_first:
            waiting.cancel()
            places.release()
        else:  # handed over, but the loop has not told it yet
            places.release()
            waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert not places._waiting
        with anyio.fail_after(5):
            await places.take()
        places.release()


async def test_a_file_that_nobody_wants_is_gone_before_the_caller_is(tmp_path: Path) -> None:
    begun = threading.Event()
    target = tmp_path / "endless.npz"
    target.write_bytes(b"before")

    def fill(file: Watched) -> NoReturn:
        while True:
            file.write(os.urandom(1 << 12))
            begun.set()

    def work(check: Check) -> None:
        ResultWriter(overwrite=True, protected=()).write(target, fill, check)

    assert await cancelled_after(work, begun) < 2
    assert os.listdir(tmp_path) == [target.name]
    assert target.read_bytes() == b"before"


async def test_a_large_array_is_handed_on_in_pieces() -> None:
    asked = []
    out = io.BytesIO()
    data = bytes(range(256)) * (5 << 12)  # 5 MiB

    assert Watched(out, lambda: asked.append(out.tell())).write(data) == len(data)

    assert out.getvalue() == data
    assert max(after - before for before, after in pairwise(asked)) <= 1 << 20


async def test_a_large_file_is_synced_where_there_is_no_fdatasync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "fdatasync")  # as on macOS
    spec = importlib.util.spec_from_file_location("threads_of_macos", threads.__file__)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "_SYNC_BYTES", 1000)
    path = tmp_path / "a.bin"
    with path.open("wb") as file:
        module.Watched(file, lambda: None, fd=file.fileno()).write(bytes(2000))
        assert path.stat().st_size == 2000  # before it is closed
