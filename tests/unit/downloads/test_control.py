from __future__ import annotations

import anyio
import pytest

from streamseg.downloads.control import DownloadControl

pytestmark = pytest.mark.anyio


async def test_progress_never_falls_and_comes_in_thousandths() -> None:
    control = DownloadControl()
    seen: list[float] = []
    with control.running(seen.append):
        for received in range(0, 100_001, 7):
            control.report(received, 100_000)
        control.report(10, 100_000)  # it had to start again
        control.report(500, None)
        assert control.received_bytes == 500
        control.report_done()
        control.report_done()

    assert seen == sorted(set(seen))
    assert 500 < len(seen) <= 1001
    assert seen[-2] < 1.0 == seen[-1] == control.progress


async def test_cancelling_ends_the_work_without_an_exception() -> None:
    control = DownloadControl()
    ended = False
    with anyio.fail_after(2):
        with control.running(None):
            control.cancel()
            await anyio.sleep_forever()
        ended = True
    assert ended


async def test_cancelling_before_the_work_begins_ends_it_too() -> None:
    control = DownloadControl()
    control.cancel()
    with anyio.fail_after(2), control.running(None):
        await anyio.sleep_forever()
    with anyio.fail_after(2), control.running(None):  # the next one is not affected
        await anyio.lowlevel.checkpoint()
        control.report_done()
    assert control.progress == 1.0


async def test_cancelling_ends_a_pause() -> None:
    control = DownloadControl()
    control.pause()
    with anyio.fail_after(2), control.running(None):
        control.cancel()
        await control.wait_resumed()
        pytest.fail("it went on")


async def test_pausing_and_resuming() -> None:
    control = DownloadControl()
    told: list[bool] = []
    await control.wait_resumed()
    control.pause()
    control.pause()
    with control.listening(told.append):
        async with anyio.create_task_group() as group:
            group.start_soon(control.wait_resumed)
            await anyio.wait_all_tasks_blocked()
            assert control.is_paused
            control.resume()
            control.resume()
        control.pause()
    control.resume()
    assert told == [True, False, True]
    assert not control.is_paused


async def test_an_error_is_not_swallowed() -> None:
    control = DownloadControl()
    with pytest.raises(RuntimeError, match="mine"), control.running(None):
        raise RuntimeError("mine")
