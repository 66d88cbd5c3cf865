from __future__ import annotations

import io
import logging
import re
import sys
import threading

import anyio
import pytest
from rich.console import Console

from streamseg.cli.status import LiveStatus, print_live_summary
from streamseg.telemetry import PipelineStatistics
from tests.unit.monitoring.examples import running


def terminal(width: int = 200) -> tuple[Console, io.StringIO]:
    written = io.StringIO()
    console = Console(
        file=written,
        force_terminal=True,
        width=width,
        color_system=None,
        soft_wrap=True,
        _environ={},
    )
    return console, written


def shown_in(written: io.StringIO) -> list[str]:
    """What was drawn, each state of the line once."""
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", written.getvalue())
    lines = [line for line in re.split(r"[\r\n]+", plain) if line]
    return [line for n, line in enumerate(lines) if n == 0 or line != lines[n - 1]]


async def until(text: str, written: io.StringIO) -> None:
    with anyio.fail_after(5):
        while text not in written.getvalue():
            await anyio.sleep(0.01)


@pytest.mark.anyio
async def test_the_line_shows_the_newest_statistics_and_goes_away() -> None:
    console, written = terminal()
    now = PipelineStatistics()
    threads = threading.active_count()
    async with LiveStatus(lambda: now, console=console):
        await until("waiting for the first frame", written)
        now = running()
        await until("dropped 38", written)
    assert shown_in(written)[0] == "live: waiting for the first frame"
    assert "| dropped 38 (model busy 30, source busy 8) | blur | rec 00:01:12" in written.getvalue()
    assert written.getvalue().endswith("\x1b[1A\x1b[2K"), "the line is erased"
    assert sys.stderr is sys.__stderr__ or "FileProxy" not in type(sys.stderr).__name__
    with anyio.fail_after(5):
        while threading.active_count() > threads:
            await anyio.sleep(0.01)


@pytest.mark.anyio
async def test_a_narrow_terminal_gets_one_line_all_the_same() -> None:
    console, written = terminal(width=40)
    async with LiveStatus(running, console=console):
        await until("live", written)
    drawn = [line for line in shown_in(written) if line.startswith("live")]
    assert drawn
    assert all(len(line) <= 40 for line in shown_in(written))
    assert drawn[-1].endswith("…")


@pytest.mark.anyio
async def test_log_lines_come_above_it() -> None:
    console, written = terminal()
    async with LiveStatus(running, console=console):
        await until("dropped", written)
        print("connection lost [bold]url=x[/]", file=sys.stderr)
    lines = shown_in(written)
    assert "connection lost [bold]url=x[/]" in lines
    assert lines.index("connection lost [bold]url=x[/]") < len(lines) - 1


@pytest.mark.anyio
async def test_standard_output_stays_where_it_was_sent(
    capsys: pytest.CaptureFixture[str],
) -> None:
    console, written = terminal()
    async with LiveStatus(running, console=console):
        await until("dropped", written)
        print("for a pipe")
    assert capsys.readouterr().out == "for a pipe\n"
    assert "for a pipe" not in written.getvalue()


@pytest.mark.anyio
@pytest.mark.parametrize("quiet", [True, False])
async def test_nothing_is_drawn_where_nobody_looks(quiet: bool) -> None:
    console, written = terminal()
    if not quiet:
        console = Console(file=written)
    asked = 0

    def statistics() -> PipelineStatistics:
        nonlocal asked
        asked += 1
        return running()

    async with LiveStatus(statistics, console=console, quiet=quiet):
        await anyio.sleep(0.3)  # longer than it takes to draw: what must not come has no event
    assert written.getvalue() == ""
    assert asked == 0


@pytest.mark.anyio
async def test_without_a_terminal_the_log_has_an_event_now_and_then(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamseg.cli.status._LOGGED_S", 0.01)
    caplog.set_level(logging.INFO)
    async with LiveStatus(running, console=Console(file=io.StringIO())):
        with anyio.fail_after(5):
            while not caplog.records:
                await anyio.sleep(0.005)
    fields = vars(caplog.records[0])
    assert caplog.records[0].getMessage() == "live"
    assert (fields["captured"], fields["delivered"], fields["dropped"]) == (2_200, 2_160, 38)


@pytest.mark.anyio
async def test_recorded_bits_a_second_are_those_of_the_last_seconds() -> None:
    console, written = terminal()
    elapsed_s = 100.0

    def statistics() -> PipelineStatistics:
        nonlocal elapsed_s
        elapsed_s += 1.0  # a second from line to line
        size = {"a.mp4": int(elapsed_s * 300_000), "b.mp4": 1_000_000}
        return PipelineStatistics(
            frames_out=1, elapsed_s=elapsed_s, first_frame_s=0.5, sink_bytes=size
        )

    async with LiveStatus(statistics, console=console):
        await until("2.4 Mbit/s", written)


@pytest.mark.anyio
async def test_no_time_between_two_lines_is_no_rate() -> None:
    console, written = terminal()
    async with LiveStatus(running, console=console):
        await until("Mbit/s", written)
    assert "rec 00:01:12 0.0 Mbit/s" in written.getvalue()


def test_summary_tells_everything(capsys: pytest.CaptureFixture[str]) -> None:
    print_live_summary(running(), name="rtsp://me:geheim@cam/1 [x]")
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0] == (
        "rtsp://***@cam/1 [x]: 2200 frames captured, 2160 delivered, "
        "dropped 38 (model busy 30, source busy 8), 00:01:13, 29.6 fps"
    )
    assert lines[1:6] == [
        "in flight when it ended: 2",
        "hidden for want of a mask: 5",
        "shown with an earlier mask: 7",
        "source reconnected: 2",
        "model processes restarted: 1",
    ]
    assert lines[6].split() == ["stage", *("p50 ms p95 ms p99 ms max ms".split())]
    assert lines[7].split() == ["total", "34.0", "40.3", "40.9", "41.0"]
    assert [line.split()[0] for line in lines[8:10]] == ["model", "loop"], "no row for no times"
    assert lines[11].split()[:5] == ["display", "2160", "2150", "10", "(display"]
    assert lines[12].split()[-4:] == ["21.6", "0,", "4", "reconnects"]
    assert "geheim" not in out
    assert err == "note: the source has no sound\n"


def test_summary_of_nothing_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    print_live_summary(PipelineStatistics())
    out, err = capsys.readouterr()
    assert out == "live: 0 frames captured, 0 delivered, dropped 0, 00:00:00, 0.0 fps\n"
    assert err == ""
