"""A call on a machine that is short of processor time: smaller and fewer pictures, not later ones."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import av
import numpy as np
import pytest
from aiortc import MediaStreamTrack

from streamseg.frames import luma_plane
from tests.support import calling
from tests.support.calling import Caller, sample_pictures
from tests.support.serving import Serving
from tests.support.webrtc_peers import bar_code, read_number

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

FPS = 25
COUNT = 100
BOUND_MS = 1000.0


def encoded_pictures(width: int, height: int) -> list[bytes]:
    """Numbered pictures of a real clip as H.264: a camera that costs the machine nothing."""
    encoder = av.CodecContext.create("libx264", "w")
    assert isinstance(encoder, av.VideoCodecContext)
    encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuv420p"
    encoder.time_base, encoder.framerate = Fraction(1, 90_000), Fraction(FPS)
    encoder.bit_rate, encoder.gop_size, encoder.profile = 2_500_000, FPS, "Baseline"
    encoder.options = {"preset": "superfast", "tune": "zerolatency"}
    pictures = [each.reformat(width, height) for each in sample_pictures(50)]
    found = []
    for number in range(COUNT):
        video = av.VideoFrame.from_ndarray(pictures[number % 50].to_ndarray(), "yuv420p")
        luma = luma_plane(video)
        for cell in range(16):
            value = 235 if bar_code(number) >> (15 - cell) & 1 else 16
            luma[: height // 8, cell * width // 16 : (cell + 1) * width // 16] = value
        video.pts, video.time_base = 3600 * number, Fraction(1, 90_000)
        found += [bytes(packet) for packet in encoder.encode(video)]
    assert len(found) == COUNT
    return found


class EncodedCamera(MediaStreamTrack):
    """Plays encoded pictures again and again, in real time."""

    kind = "video"

    def __init__(self, packets: Any) -> None:
        super().__init__()
        self.packets = packets
        self.sent_s: list[float] = []

    async def recv(self) -> Any:
        number = len(self.sent_s)
        begun_s = self.sent_s[0] if self.sent_s else time.monotonic()
        await asyncio.sleep(max(0.0, begun_s + number / FPS - time.monotonic()))
        packet = av.Packet(self.packets[number % COUNT])
        packet.pts, packet.time_base = 3600 * number, Fraction(1, 90_000)
        self.sent_s.append(time.monotonic())
        return packet


class Call:
    """What comes back of a call: when, how old, how large."""

    def __init__(self, caller: Caller, camera: EncodedCamera) -> None:
        self.caller = caller
        self.camera = camera
        self.pictures: list[tuple[float, float, int]] = []  # when, age in ms, lines
        self._starts: list[int] = []
        caller.on_frame = self._take

    def _take(self, video: av.VideoFrame) -> None:
        assert video.pts is not None
        if len(self._starts) < 15:  # while the numbers can be read
            number = read_number(video)
            if number is not None:
                newest = len(self.camera.sent_s) - 1
                number += (newest - number) // COUNT * COUNT
                self._starts.append(video.pts - 3600 * number)
            return
        number = round((video.pts - float(np.median(self._starts))) / 3600)
        now = time.monotonic()
        age_ms = 1e3 * (now - self.camera.sent_s[number])
        self.pictures.append((now, age_ms, video.height))

    async def numbered(self) -> None:
        assert await self.caller.ask({"bypass": True})
        await until(lambda: len(self._starts) == 15)
        assert await self.caller.ask({"bypass": False})

    def ages(self, seconds: float) -> np.ndarray[Any, Any]:
        """Of the last seconds."""
        since = time.monotonic() - seconds
        return np.array([age for at, age, _ in self.pictures if at > since])

    async def adapted(self, condition: Callable[[dict[str, Any]], bool], seconds: float) -> Any:
        with anyio.fail_after(seconds):
            while not condition(adapted := (await self.caller.figures())["adapted"]):
                pass
        return adapted


async def until(condition: Callable[[], bool], seconds: float = 15.0) -> None:
    with anyio.fail_after(seconds):
        while not condition():
            await anyio.sleep(0.02)


@asynccontextmanager
async def calls(patch: pytest.MonkeyPatch, *options: str) -> AsyncIterator[Call]:
    cameras: list[EncodedCamera] = []

    def make(packets: Any) -> EncodedCamera:
        cameras.append(EncodedCamera(packets))
        return cameras[-1]

    patch.setattr(calling, "Camera", make)
    packets: Any = await anyio.to_thread.run_sync(encoded_pictures, 1280, 720)
    server = Serving("--effect", "blur", *options)
    await anyio.to_thread.run_sync(server.start)
    try:
        async with Caller(server.url, pictures=packets) as caller:
            await asyncio.wait_for(caller.first.wait(), 20)
            yield Call(caller, cameras[0])
    finally:
        await anyio.to_thread.run_sync(server.stop)
    assert server.said == []


class Load:
    """Processes that do nothing but take processor time."""

    def __init__(self) -> None:
        self.processes: list[subprocess.Popen[bytes]] = []

    def more(self) -> None:
        for _ in range(2):
            self.processes.append(subprocess.Popen([sys.executable, "-c", "while True: pass"]))

    def end(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
        self.processes.clear()


@contextmanager
def load() -> Iterator[Load]:
    load = Load()
    try:
        yield load
    finally:
        load.end()


@pytest.mark.timeout(115)
@pytest.mark.slow
async def test_pictures_become_smaller_or_fewer_but_not_late(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with calls(monkeypatch) as call:
        await call.numbered()
        await call.adapted(lambda now: len(call.pictures) > 2 * FPS, 15)
        with load() as busy:
            busy.more()
            for attempt in range(4):  # with more processors than two it takes more
                try:
                    await call.adapted(lambda now: now["scale"] < 1 or now["fps"] < 30, 10)
                    break
                except TimeoutError:
                    assert attempt < 3
                    busy.more()
            await anyio.sleep(3)
            first = call.ages(3)
            await anyio.sleep(3)
            last = call.ages(3)
            # Old pictures would be older and older; these are as many as can be done, and fresh.
            assert np.percentile(first, 95) < BOUND_MS
            assert np.percentile(last, 95) < BOUND_MS
            assert np.median(last) < 2 * np.median(first) + 100
            assert 3 * 3 < len(last) <= 3 * (FPS + 2)
        lowest = (await call.caller.figures())["adapted"]
        print(f"{np.median(first):.0f} ms and {np.median(last):.0f} ms old under load, {lowest}")
        higher = await call.adapted(
            lambda now: (now["scale"], now["fps"]) > (lowest["scale"], lowest["fps"]), 45
        )
        print(f"then {higher}, {np.median(call.ages(1)):.0f} ms old")
        assert np.median(call.ages(1)) < np.median(first) + 50


async def test_it_can_be_turned_off(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = tmp_path / "serve.toml"
    config.write_text("[webrtc]\nadapt = false\n")
    async with calls(monkeypatch, "--config", str(config)) as call:
        assert (await call.caller.figures())["adapted"] is None
