"""Rooms with many viewers: one encoder for all of them, over real connections.

    python -m tests.integration.webrtc.test_rooms_encoding URL CODEC...

watches a room once for each codec, with aiortc as it comes, and prints what each viewer saw as JSON
when it is told to end.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from fractions import Fraction
from itertools import pairwise
from typing import Any

import aiohttp
import anyio
import av
import numpy as np
import psutil
import pytest
from aiortc import RTCRtpSender
from aiortc.mediastreams import MediaStreamError

from streamseg.abc import Sink, Source, SourceStatistics
from streamseg.engine import Pipeline
from streamseg.flow import FlowLimit
from streamseg.frames import Frame, StreamInfo, luma_plane
from streamseg.webrtc.client import WhepSource
from streamseg.webrtc.peer_sink import PeerSink
from streamseg.webrtc.processing import SessionRequest
from streamseg.webrtc.rooms import Room
from streamseg.webrtc.server import Server
from streamseg.webrtc.server_options import ServerOptions
from streamseg.webrtc.tuning_encoding import H264Video, Vp8Video
from tests.support.serving import Serving
from tests.support.webrtc_peers import Stock, Wrtc, bar_code, descriptors, picture, read_number

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

BASE = Fraction(1, 90_000)


class Numbers(Source):
    """Numbered pictures in real time."""

    def __init__(self, width: int, height: int, fps: float) -> None:
        self.size = (width, height)
        self.fps = fps
        self.sent_s: dict[int, float] = {}
        self._drawn = [luma_plane(picture(width, height, 16 * n)).copy() for n in range(8)]
        self._number = 0
        self._begun_s = 0.0

    async def open(self) -> StreamInfo:
        self._begun_s = time.monotonic()
        return StreamInfo("numbers", *self.size, "yuv420p", BASE, live=True)

    async def receive(self) -> Frame:
        self._number += 1
        due_s = self._begun_s + self._number / self.fps
        await asyncio.sleep(max(0.0, due_s - time.monotonic()))
        video = self._draw(self._number % 4096)
        video.pts, video.time_base = int(self._number * 90_000 / self.fps), BASE
        self.sent_s[self._number] = time.monotonic()
        return Frame(video, self._number, time.monotonic())

    def _draw(self, number: int) -> av.VideoFrame:
        width, height = self.size
        video = av.VideoFrame(width, height, "yuv420p")
        luma = luma_plane(video)
        luma[:] = self._drawn[number % 8]
        for cell in range(16):
            value = 235 if bar_code(number) >> (15 - cell) & 1 else 16
            luma[: height // 8, cell * width // 16 : (cell + 1) * width // 16] = value
        for plane in video.planes[1:]:
            plane.update(bytes([128]) * plane.buffer_size)
        return video

    def statistics(self) -> SourceStatistics:
        return SourceStatistics(delivered=self._number)

    async def aclose(self) -> None:
        self._number = 0


class Plain:
    """Processing that does nothing to the pictures."""

    def __init__(self, source: Source, sinks: Sequence[Sink]) -> None:
        self.pipeline = Pipeline(source, sinks=sinks, limit=FlowLimit("drop"))

    async def run(self) -> None:
        async with self.pipeline as pipeline:
            await pipeline.run()

    async def control(self, change: Any) -> None:
        raise NotImplementedError

    def statistics(self) -> Any:
        return self.pipeline.statistics()


async def start(source: Source, sinks: Sequence[Sink], request: SessionRequest) -> Any:
    return Plain(source, sinks)


class House:
    """A server with one room, ``lobby``, that is filled with numbered pictures."""

    def __init__(self, source: Numbers) -> None:
        self.source = source
        options = ServerOptions(port=0, offers_per_minute=10_000, max_pending_per_address=64)
        self.server = Server(options, start_session=start)

    @property
    def url(self) -> str:
        return f"{self.server.url}/whep/lobby"

    @property
    def room(self) -> Room:
        return self.server._rooms._rooms["lobby"]

    @asynccontextmanager
    async def open(self) -> AsyncIterator[House]:
        async with self.server, anyio.create_task_group() as group:
            group.start_soon(self.server.fill_room, "lobby", self.source)
            await until(lambda: self.server.rooms == 1)
            yield self
            group.cancel_scope.cancel()


async def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    with anyio.fail_after(seconds):
        while not condition():
            await anyio.sleep(0.02)


# -- viewers in a process of their own -------------------------------------------------------


class Viewers:
    """A process with viewers, one for each codec named."""

    def __init__(self, url: str, *codecs: str) -> None:
        self.arguments = [url, *codecs]
        self.process: asyncio.subprocess.Process | None = None
        self.seen: list[list[tuple[int, float]]] = []

    async def __aenter__(self) -> Viewers:
        """Return when all have their first picture."""
        self.process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", __name__, *self.arguments),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=1 << 24,
        )
        assert self.process.stdout is not None
        line = await asyncio.wait_for(self.process.stdout.readline(), 40)
        assert line == b"watching\n"
        return self

    async def end(self) -> list[list[tuple[int, float]]]:
        """End them; return number and time of each picture, for each viewer."""
        assert self.process is not None
        out, _ = await asyncio.wait_for(self.process.communicate(b"\n"), 15)
        self.seen = json.loads(out)
        return self.seen

    async def __aexit__(self, *exc: object) -> None:
        assert self.process is not None
        if self.process.returncode is None:
            self.process.kill()
            await self.process.communicate()

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)


async def watch(url: str, codec: str, client: aiohttp.ClientSession, viewer: Stock) -> list[Any]:
    kinds = RTCRtpSender.getCapabilities("video").codecs
    (transceiver,) = viewer.connection.getTransceivers()
    transceiver.setCodecPreferences([kind for kind in kinds if kind.name == codec])
    seen: list[Any] = []
    async with client.post(
        url, data=await viewer.offer(), headers={"Content-Type": "application/sdp"}
    ) as response:
        assert response.status == 201, await response.text()
        await viewer.take_answer(await response.text())
    return seen


async def read(viewer: Stock, seen: list[Any]) -> None:
    try:
        while True:
            video = await viewer.tracks["video"].recv()
            seen.append((read_number(video), time.monotonic()))  # type: ignore[arg-type]
    except MediaStreamError:
        return


async def main(url: str, *codecs: str) -> None:
    viewers = [Stock() for _ in codecs]
    async with aiohttp.ClientSession() as client, anyio.create_task_group() as group:
        seen = [
            await watch(url, codec, client, viewer)
            for codec, viewer in zip(codecs, viewers, strict=True)
        ]
        for viewer, numbers in zip(viewers, seen, strict=True):
            group.start_soon(read, viewer, numbers)
        await until(lambda: all(seen), 30)
        print("watching", flush=True)
        await anyio.to_thread.run_sync(sys.stdin.readline)
        print(json.dumps(seen), flush=True)
        for viewer in viewers:
            await viewer.aclose()
        group.cancel_scope.cancel()


# -- tests -----------------------------------------------------------------------------------


@pytest.fixture
def encodes(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts pictures that are encoded, by codec."""
    counts: Counter[str] = Counter()
    for kind in (H264Video, Vp8Video):
        compress = kind.compress

        def counted(self: Any, *args: Any, compress: Any = compress) -> Any:
            counts[self.codec] += 1
            return compress(self, *args)

        monkeypatch.setattr(kind, "compress", counted)
    return counts


def check(seen: list[tuple[int | None, float]], least: int) -> None:
    """Every picture could be decoded and read, in order, and the last ones are all there."""
    numbers = [number for number, _ in seen]
    assert None not in numbers
    assert len(numbers) >= least
    assert all(later > sooner for sooner, later in pairwise(numbers))  # type: ignore[operator]
    last = numbers[-least:]
    assert len(last) >= 0.9 * (last[-1] - last[0] + 1)  # type: ignore[operator]


async def measured(
    encodes: Counter[str], seconds: float, *, loss: bool = False
) -> tuple[float, float, float]:
    """Watch with eight, some of whose pictures may be superseded where ``loss`` says so.

    Return encodes a picture, processor time a picture in ms, and the median age in ms."""
    house = House(Numbers(1280, 720, 15))
    async with house.open(), Viewers(house.url, *["H264"] * 8) as viewers:
        await anyio.sleep(0.5)
        encodes.clear()
        begun, sent = time.process_time(), len(house.source.sent_s)
        await anyio.sleep(seconds)
        pictures = len(house.source.sent_s) - sent
        used_s = time.process_time() - begun
        each = encodes["H264"] / pictures
        for seen in await viewers.end():
            check(seen, 2 if loss else pictures // 2)
        ages = [
            1e3 * (at - house.source.sent_s[number])
            for seen in viewers.seen
            for number, at in seen[-pictures:]
        ]
    return each, 1e3 * used_s / pictures, float(np.median(ages))


async def test_eight_viewers_cost_one_encoder(
    encodes: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        # As if there was nothing to share: each connection encodes for itself.
        patch.setattr(PeerSink, "share", lambda self, encoding: None)
        patch.setattr("streamseg.webrtc.shared_encoding.SharedEncoding.put", lambda *args: None)
        before = await measured(encodes, 2.5, loss=True)
    after = await measured(encodes, 2.5)
    for name, (each, cpu_ms, age_ms) in (("each its own", before), ("shared", after)):
        print(f"{name}: {each:.2f} encodes a picture, {cpu_ms:.1f} ms CPU, {age_ms:.1f} ms old")
    print(f"ratio of processor time: {before[1] / after[1]:.2f}")
    assert after[0] == pytest.approx(1, abs=0.1)
    assert before[0] > 5  # a busy machine supersedes some
    assert before[1] > 1.5 * after[1]


async def test_two_codecs_are_two_encoders_and_who_stops_reading_harms_nobody(
    encodes: Counter[str],
) -> None:
    house = House(Numbers(640, 360, 15))
    async with (
        house.open(),
        Viewers(house.url, *["H264", "VP8"] * 3) as reading,
        Viewers(house.url, "H264", "VP8") as stopping,
    ):
        await anyio.sleep(0.5)
        encodes.clear()
        pictures, keyframes = len(house.source.sent_s), house.room.encoding.counts().keyframes
        stopping.signal(signal.SIGSTOP)
        await anyio.sleep(2)
        pictures = len(house.source.sent_s) - pictures
        assert house.server.counts().encoding.encoders == 2
        assert encodes["H264"] == pytest.approx(pictures, abs=3)
        assert encodes["VP8"] == pytest.approx(pictures, abs=3)
        assert house.room.encoding.counts().keyframes - keyframes <= 2
        for seen in await reading.end():
            check(seen, pictures)
        stopping.signal(signal.SIGCONT)
        back_s = time.monotonic() + 0.5
        await anyio.sleep(2.5)
        for seen in await stopping.end():
            assert sum(at > back_s and number is not None for number, at in seen) > 10


async def test_fifty_viewers_who_come_and_go_leave_nothing(
    encodes: Counter[str], caplog: pytest.LogCaptureFixture
) -> None:
    house = House(Numbers(320, 180, 30))
    async with house.open():

        async def some(count: int) -> None:
            for _ in range(count):
                async with WhepSource(house.url) as viewer:
                    await asyncio.wait_for(viewer.receive(), 10)

        await some(2)
        await until(lambda: house.server.counts().viewers == 0)
        tasks, fds = len(asyncio.all_tasks()), descriptors()
        for count in (3, 7):
            async with anyio.create_task_group() as group:
                for _ in range(5):
                    group.start_soon(some, count)
        await until(lambda: house.server.counts().viewers == 0)
        await until(lambda: len(asyncio.all_tasks()) <= tasks)
        assert descriptors() <= fds
        encoding = house.room.encoding
        assert encoding.counts().encoders == 0
        kept = house.server.counts().encoding
        # Each encoder may have been at a picture when its last viewer went.
        assert sum(encodes.values()) - 50 <= kept.encoded <= sum(encodes.values())
        assert kept.keyframes >= 1
        assert not encoding._viewers
        assert not encoding._ending
        done = sum(encodes.values())
        sent = len(house.source.sent_s)
        await until(lambda: len(house.source.sent_s) > sent + 5)
        assert sum(encodes.values()) == done  # for nobody
        await house.server.aclose()
        assert house.server.counts().encoding == kept
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


@pytest.mark.needs_program("node")
async def test_libwebrtc_viewers_who_come_at_any_time_see_every_picture() -> None:
    house = House(Numbers(640, 360, 30))
    async with house.open(), aiohttp.ClientSession() as client:
        async with AsyncExitStack() as stack:
            viewers: list[Wrtc] = []
            for wait_s in (0.0, 0.1, 0.3, 0.9):
                viewer = await stack.enter_async_context(Wrtc(send=False))
                offer = await viewer.offer()
                await anyio.sleep(wait_s)
                async with client.post(
                    house.url, data=offer, headers={"Content-Type": "application/sdp"}
                ) as response:
                    assert response.status == 201
                    answer = await response.text()
                begun_s = time.monotonic()
                await viewer.take_answer(answer)
                await viewer.until(lambda viewer=viewer: len(viewer.numbers) > 0)
                assert time.monotonic() - begun_s < 2
                viewers.append(viewer)
            last = viewers[-1]
            await last.until(lambda: len(last.numbers) > 60)
            assert house.room.encoding.counts().encoders == 1
            for viewer in viewers:
                check([(number, 0.0) for number in viewer.numbers], 50)
        await until(lambda: house.room.encoding.counts().encoders == 0)


async def test_sigterm_ends_a_server_whose_room_is_watched() -> None:
    server = Serving("--effect", "none", "--source", "test:640x360@25", "--room", "lobby")
    await anyio.to_thread.run_sync(server.start)
    try:
        url = f"{server.url}/whep/lobby"
        async with Viewers(url, "H264", "VP8"), aiohttp.ClientSession() as client:
            async with client.get(f"{server.url}/metrics") as response:
                metrics = (await response.text()).splitlines()
            assert "streamseg_room_encoders 2.0" in metrics
            name = "streamseg_room_pictures_encoded_total "
            (count,) = [line for line in metrics if line.startswith(name)]
            assert float(count.split()[1]) >= 2
            children = psutil.Process(server.pid).children(recursive=True)
            begun = time.monotonic()
            await anyio.to_thread.run_sync(server.stop)
            assert time.monotonic() - begun < 5
    finally:
        await anyio.to_thread.run_sync(server.stop)
    assert server.said == []
    assert not any(child.is_running() for child in children)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
