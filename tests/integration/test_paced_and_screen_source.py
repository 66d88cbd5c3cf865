"""PacedSource over real files, ScreenSource over a real X server."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest

from streamseg.errors import ConfigError, SourceOpenError
from streamseg.frames import Frame
from streamseg.sources.live import LiveSource
from streamseg.sources.paced import PacedSource
from streamseg.sources.screen import ScreenSource
from tests.support.clips import make_clip, read_frame_number
from tests.support.programs import require
from tests.support.source_factories import virtual_screen

pytestmark = [pytest.mark.integration, pytest.mark.anyio, pytest.mark.timeout(30)]


async def drain(source: LiveSource, frames: list[Frame], packets: list[Any] | None = None) -> None:
    """Receive until that raises."""
    while True:
        frames.append(await source.receive())
        if packets is not None:
            packets += source.take_packets()


# ---- a recording as a camera ----


async def test_a_recording_is_played_in_its_own_rhythm(tmp_path: Path) -> None:
    times = [Fraction(n, 100) for n in (0, 4, 8, 30, 34, 50)]
    clip = make_clip(tmp_path / "clip.mkv", frames=6, times=times, b_frames=0)
    frames: list[Frame] = []
    async with PacedSource(clip.path) as source:
        info = await source.open()
        with pytest.raises(anyio.EndOfStream):
            await drain(source, frames)
    assert info.live
    assert [read_frame_number(frame.video) for frame in frames] == list(range(6))
    assert [frame.pts for frame in frames] == [round(time * 90_000) for time in times]
    for frame, moment in zip(frames, times, strict=True):
        assert frame.captured_s - frames[0].captured_s == pytest.approx(float(moment), abs=0.06)


async def test_a_loop_goes_on_in_time_picture_and_sound(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", frames=10, rate=25, audio_tracks=1)
    frames: list[Frame] = []
    packets: list[Any] = []
    async with PacedSource(clip.path, loop=True) as source:
        info = await source.open()
        with anyio.move_on_after(1.1):
            await drain(source, frames, packets)
        statistics = source.statistics()
        assert info.duration_s is info.frame_count is None
        assert all(packet.stream is info.side_streams[0] for packet in packets)
        ends = [(packet.pts + packet.duration) * packet.time_base for packet in packets]
        stamps = [packet.dts for packet in packets]

    assert frames[-1].index > 20
    assert statistics.reconnects == 0
    assert all(frame.pts == frame.index * 3600 for frame in frames)
    assert all(read_frame_number(frame.video) == frame.index % 10 for frame in frames)
    assert all(a < b for a, b in pairwise(stamps))
    # Sound is as long as the pictures: none of the rounds was left out.
    assert float(ends[-1]) == pytest.approx(frames[-1].pts_s, abs=0.4)
    assert len(packets) == pytest.approx(float(ends[-1]) * 48_000 / 1024, rel=0.15)


async def test_a_slow_consumer_gets_the_newest_frame(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", frames=20, rate=50)
    ages_s = []
    async with PacedSource(clip.path) as source:
        frames = []
        try:
            while True:
                frames.append(await source.receive())
                ages_s.append(time.monotonic() - frames[-1].captured_s)
                await anyio.sleep(0.07)
        except anyio.EndOfStream:
            pass
        statistics = source.statistics()
    assert statistics.captured == 20
    assert statistics.dropped["superseded"] > 5
    # Of a queue each would be 50 ms older than the one before. One may be late: the machine is.
    assert sorted(ages_s)[len(ages_s) // 2] < 0.04
    assert max(ages_s) < 0.2


async def test_without_side_streams_there_are_no_packets(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", frames=5, audio_tracks=1)
    packets: list[Any] = []
    async with PacedSource(clip.path, side_streams=False) as source:
        info = await source.open()
        with pytest.raises(anyio.EndOfStream):
            await drain(source, [], packets)
    assert not info.side_streams
    assert not packets


async def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SourceOpenError, match="no such file"):
        await PacedSource(tmp_path / "none.mp4").open()


# ---- a screen ----


@pytest.fixture(scope="module")
def display() -> Iterator[str]:
    require("Xvfb", "xsetroot")
    with virtual_screen(320, 240) as display:
        yield display


async def paint(display: str, colour: str) -> None:
    await anyio.run_process(["xsetroot", "-display", display, "-solid", colour])


async def test_the_screen_is_seen_as_it_is(display: str) -> None:
    await paint(display, "#2060c0")
    async with ScreenSource(display, fps=30) as source:
        info = await source.open()
        blue = (await source.receive()).video.to_ndarray(format="rgb24")
        await paint(display, "#c06020")
        with anyio.fail_after(5):
            while True:
                frame = await source.receive()
                red = frame.video.to_ndarray(format="rgb24")
                if red[0, 0, 0] > 128:
                    break
    assert (info.width, info.height) == (320, 240)
    assert info.live
    # The pointer is in the middle, and is part of the picture.
    assert np.all(blue[:, :100] == (0x20, 0x60, 0xC0))
    assert np.all(red[:, :100] == (0xC0, 0x60, 0x20))


async def test_a_region_of_the_screen(display: str) -> None:
    source = ScreenSource.parse(f"screen:{display}+10,20,160x120", fps=50)
    async with source:
        info = await source.open()
        frame = await source.receive()
    assert (info.width, info.height) == (frame.width, frame.height) == (160, 120)
    assert info.average_rate == 50


@pytest.mark.parametrize("where", ["+200,0,160x120", "+0,0,640x480"])
async def test_a_region_outside_of_the_screen(display: str, where: str) -> None:
    with pytest.raises(SourceOpenError, match="is not inside it"):
        await ScreenSource.parse(f"screen:{display}{where}").open()


async def test_a_display_that_is_not_there() -> None:
    with pytest.raises(SourceOpenError, match=r"screen::77 .* no such X display; check DISPLAY"):
        await ScreenSource(":77").open()


def test_screens_are_named_by_display_and_region(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISPLAY", ":5")
    assert "screen::5'" in repr(ScreenSource.parse("screen:"))
    assert "screen::1.0'" in repr(ScreenSource.parse("screen::1.0+10,20,640x360"))
    assert "screen:host:2'" in repr(ScreenSource.parse("screen:host:2"))
    for wrong in ("screen::0+1,2", "screen::0+1,2,3", "screens:", "screen::0+a,b,3x4"):
        with pytest.raises(ConfigError, match="expected screen:"):
            ScreenSource.parse(wrong)
    with pytest.raises(ConfigError, match="region"):
        ScreenSource.parse("screen:+1,2,0x5")
    with pytest.raises(ConfigError, match="fps"):
        ScreenSource(fps=0)


def test_a_program_that_imported_opencv_first_is_told_and_does_not_crash() -> None:
    program = (
        "import cv2, anyio\n"
        "from streamseg.sources.screen import ScreenSource\n"
        "from streamseg.errors import SourceOpenError\n"
        "async def main():\n"
        "    try:\n"
        "        async with ScreenSource(':99'):\n"
        "            pass\n"
        "    except SourceOpenError as exc:\n"
        "        print(exc)\n"
        "anyio.run(main)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30
    )
    assert result.returncode == 0, result.stderr
    assert "cv2 was imported before av" in result.stdout
