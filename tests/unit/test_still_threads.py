"""Work in threads that ends soon when nobody wants it any more."""

from __future__ import annotations

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
