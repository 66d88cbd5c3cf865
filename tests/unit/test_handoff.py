from __future__ import annotations

import threading

import anyio
import pytest

from streamseg.handoff import FromThread, ToThread

pytestmark = pytest.mark.anyio


async def test_items_of_a_thread_arrive_in_order_and_then_it_ends() -> None:
    items: FromThread[int] = FromThread(2)

    def work() -> None:
        for number in range(100):
            assert items.put(number)
        items.end()

    thread = threading.Thread(target=work)
    thread.start()
    received = [await items.get() for _ in range(100)]

    assert received == list(range(100))
    for _ in range(2):
        with pytest.raises(anyio.EndOfStream):
            await items.get()
    thread.join(1)
    assert not thread.is_alive()


async def test_an_error_of_the_thread_comes_after_its_items() -> None:
    items: FromThread[int] = FromThread(4)
    items.put(1)
    items.end(ValueError("broken"))

    assert await items.get() == 1
    with pytest.raises(ValueError, match="broken"):
        await items.get()


async def test_closing_frees_a_thread_that_waits_for_room() -> None:
    items: FromThread[int] = FromThread(1)
    outcome: list[bool] = []

    def work() -> None:
        outcome.append(items.put(1))
        outcome.append(items.put(2))

    thread = threading.Thread(target=work)
    thread.start()
    while not outcome:
        await anyio.sleep(0.001)
    items.close()
    await anyio.to_thread.run_sync(thread.join, 2)

    assert outcome == [True, False]


async def test_a_cancelled_get_loses_nothing() -> None:
    items: FromThread[int] = FromThread(1)
    with anyio.move_on_after(0.01):
        await items.get()
    items.put(7)

    assert await items.get() == 7


async def test_the_loop_waits_while_the_thread_is_behind() -> None:
    items: ToThread[int] = ToThread(2)
    taken: list[int] = []
    go = threading.Event()

    def work() -> None:
        go.wait(5)
        while (item := items.get()) is not None:
            taken.append(item)

    thread = threading.Thread(target=work)
    thread.start()
    assert await items.put(0)
    assert await items.put(1)
    with anyio.move_on_after(0.02) as scope:
        await items.put(2)
    assert scope.cancelled_caught
    go.set()
    for number in range(2, 50):
        assert await items.put(number)
    items.end()
    await anyio.to_thread.run_sync(thread.join, 2)

    assert taken == list(range(50))


async def test_abandoning_stops_both_sides() -> None:
    items: ToThread[int] = ToThread(1)
    assert await items.put(1)

    async with anyio.create_task_group() as group:

        async def blocked() -> None:
            assert await items.put(2) is False

        group.start_soon(blocked)
        await anyio.sleep(0.01)
        items.abandon()

    assert items.get() is None
