from __future__ import annotations

import json
import logging
import os
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import pytest

from streamseg.errors import ConfigError
from streamseg.monitoring.writer import StatisticsWriter
from streamseg.telemetry import PipelineStatistics
from tests.unit.monitoring.examples import running

pytestmark = pytest.mark.anyio


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def writers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "statistics"]


async def until_ended() -> None:
    """Wait for the thread, which has nothing left to do but to end."""
    with anyio.fail_after(5):
        while writers():
            await anyio.sleep(0.005)


async def until_lines(path: Path, count: int) -> None:
    with anyio.fail_after(5):
        while len(lines_of(path)) < count:
            await anyio.sleep(0.005)


async def test_lines_come_while_it_runs_and_one_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "stats.jsonl"
    made = 0

    def statistics() -> PipelineStatistics:
        nonlocal made
        made += 1
        return PipelineStatistics(frames_in=made, elapsed_s=made / 10)

    started = datetime.now(UTC)
    async with StatisticsWriter(target, statistics, interval_s=0.01):
        await until_lines(target, 3)  # each is in the file before the next is made: flushed
    lines = lines_of(target)

    assert len(lines) == made
    assert [line["frames_in"] for line in lines] == list(range(1, made + 1))
    assert lines[-1]["elapsed_s"] == pytest.approx(made / 10)
    times = [datetime.fromisoformat(line["time"]) for line in lines]
    assert times == sorted(times)
    assert (times[0] - started).total_seconds() > -0.01
    assert all(line["time"].endswith("Z") for line in lines)
    await until_ended()


async def test_a_line_has_everything(tmp_path: Path) -> None:
    target = tmp_path / "stats.jsonl"
    async with StatisticsWriter(target, running):
        pass
    (*_, line) = lines_of(target)
    del line["time"]
    expected = json.loads(json.dumps(running().to_json()))
    for changing in ("recent", "recent_fps", "stages"):
        expected.pop(changing)
        line.pop(changing)
    assert line == expected
    assert "geheim" not in target.read_text()


async def test_lines_are_added_to_what_is_there(tmp_path: Path) -> None:
    target = tmp_path / "stats.jsonl"
    for _ in range(2):
        before = len(lines_of(target)) if target.exists() else 0
        async with StatisticsWriter(target, PipelineStatistics, interval_s=60):
            await until_lines(target, before + 1)
    assert len(lines_of(target)) == 4


async def test_standard_output(capfd: pytest.CaptureFixture[str]) -> None:
    async with StatisticsWriter("-", running, interval_s=60):
        pass
    assert json.loads(capfd.readouterr().out.splitlines()[-1])["frames_in"] == 2_200
    os.fstat(1)  # still open


@pytest.mark.parametrize("name", ["missing/stats.jsonl", "."])
async def test_a_target_that_cannot_be_opened_is_told(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"cannot write statistics to .*; name a file") as caught:
        async with StatisticsWriter(tmp_path / name, running):
            pytest.fail("it opened")
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("interval_s", [0, -1])
def test_an_interval_that_is_none_is_told(interval_s: float) -> None:
    with pytest.raises(ConfigError, match="interval"):
        StatisticsWriter("-", running, interval_s=interval_s)


async def test_a_full_disk_is_told_once_and_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    asked = 0

    def statistics() -> PipelineStatistics:
        nonlocal asked
        asked += 1
        return running()

    async with StatisticsWriter("/dev/full", statistics, interval_s=0.001) as writer:
        with anyio.fail_after(5):
            while not caplog.records:
                await anyio.sleep(0.001)
        if writer._task is not None:
            await writer._task  # it ends by itself: nothing more is made
        seen = asked
    assert asked <= seen + 1
    assert [record.getMessage() for record in caplog.records] == [
        "statistics are no longer written"
    ]
    assert vars(caplog.records[0])["error"] == "No space left on device"
    await until_ended()


async def test_a_reader_that_goes_away_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    async with StatisticsWriter(pipe, running, interval_s=0.001):
        os.close(reader)
        with anyio.fail_after(5):
            while not caplog.records:
                await anyio.sleep(0.001)
    assert len(caplog.records) == 1
    assert vars(caplog.records[0])["error"] == "Broken pipe"


async def test_a_reader_that_takes_nothing_holds_up_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        async with StatisticsWriter(pipe, running, interval_s=0.001) as writer:
            with anyio.fail_after(10):
                while not writer.skipped:
                    await anyio.sleep(0.001)
            assert len(writers()) == 1
            closing = time.monotonic()
        assert time.monotonic() - closing < 1.9
        assert [record.getMessage() for record in caplog.records] == [
            "statistics have gaps: the target was too slow"
        ]
    finally:
        os.close(reader)  # which ends the thread that was left behind
    await until_ended()


async def test_opening_a_pipe_that_nobody_reads_can_be_cancelled(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with anyio.move_on_after(0.05) as scope:
        async with StatisticsWriter(pipe, running):
            pytest.fail("it opened")
    assert scope.cancelled_caught
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    await until_ended()
    os.close(reader)


async def test_closing_twice_and_before_opening_does_nothing(tmp_path: Path) -> None:
    writer = StatisticsWriter(tmp_path / "stats.jsonl", running)
    await writer.aclose()
    async with writer:
        pass
    written = (tmp_path / "stats.jsonl").read_bytes()
    await writer.aclose()
    assert (tmp_path / "stats.jsonl").read_bytes() == written


async def test_statistics_that_fail_end_the_writer_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def statistics() -> PipelineStatistics:
        raise RuntimeError("broke")

    caplog.set_level(logging.INFO)
    async with StatisticsWriter(tmp_path / "stats.jsonl", statistics, interval_s=0.001):
        with anyio.fail_after(5):
            while not caplog.records:
                await anyio.sleep(0.001)
    assert [record.getMessage() for record in caplog.records] == ["monitoring stopped"]
    assert vars(caplog.records[0])["error"] == "RuntimeError: broke"
    await until_ended()
