from __future__ import annotations

import threading

import anyio
import anyio.to_thread
import pytest

from streamseg.sources.newest import Newest

pytestmark = pytest.mark.anyio


async def test_a_newer_item_takes_the_place_of_the_oldest() -> None:
    items: Newest[int] = Newest()
    assert [items.put(number) for number in range(3)] == [0, 1, 1]

    assert await items.get() == 2


async def test_as_many_wait_as_it_is_made_for() -> None:
    items: Newest[int] = Newest(2)
    assert [items.put(number) for number in range(4)] == [0, 0, 1, 1]

    assert [await items.get(), await items.get()] == [2, 3]


async def test_what_waits_comes_before_the_end() -> None:
    items: Newest[int] = Newest()
    items.put(1)
    items.end()

    assert items.put(2) == 1
    assert await items.get() == 1
    for _ in range(2):
        with pytest.raises(anyio.EndOfStream):
            await items.get()


async def test_an_error_is_raised_every_time() -> None:
    items: Newest[int] = Newest()
    items.end(ValueError("broken"))

    for _ in range(2):
        with pytest.raises(ValueError, match="broken"):
            await items.get()


async def test_closing_lets_go_of_what_waits_and_wakes_who_waits() -> None:
    items: Newest[int] = Newest()
    items.put(1)
    assert items.close() == 1
    with pytest.raises(anyio.EndOfStream):
        await items.get()


async def test_every_item_of_a_thread_is_received_or_counted() -> None:
    items: Newest[int] = Newest()
    superseded: list[int] = []

    def work() -> None:
        superseded.extend(items.put(number) for number in range(2000))
        items.end()

    thread = threading.Thread(target=work)
    thread.start()
    received: list[int] = []
    try:
        while True:
            received.append(await items.get())
    except anyio.EndOfStream:
        pass
    await anyio.to_thread.run_sync(thread.join, 2)

    assert received == sorted(received)
    assert received[-1] == 1999
    assert len(received) + sum(superseded) == 2000


async def test_a_cancelled_get_loses_nothing() -> None:
    items: Newest[int] = Newest()
    with anyio.move_on_after(0):
        await items.get()
    items.put(7)

    assert await items.get() == 7
