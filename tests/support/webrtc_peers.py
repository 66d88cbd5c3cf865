"""Other WebRTC endpoints to talk to: libwebrtc under node, Chromium, aiortc as it comes."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import fcntl
import gc
import json
import os
import shutil
import subprocess
import tempfile
import time
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import numpy as np
import psutil
from aiohttp import web
from aiortc import MediaStreamTrack, RTCConfiguration, RTCPeerConnection, RTCSessionDescription

from streamseg.frames import luma_plane

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    import pytest

HERE = Path(__file__).parent / "webrtc"
CACHE = Path(__file__).parents[2] / ".cache" / "test-webrtc"
CHROMIUM = (
    "chromium --headless --no-sandbox --disable-gpu --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync "
    "--disable-dev-shm-usage --use-fake-ui-for-media-stream --use-fake-device-for-media-stream "
    "--allow-loopback-in-peer-connection --autoplay-policy=no-user-gesture-required "
    "--disable-background-timer-throttling --disable-renderer-backgrounding"
).split()


def use_loopback(patch: pytest.MonkeyPatch) -> None:
    """Have aioice use 127.0.0.1, and nothing else: it leaves that out by itself."""
    patch.setattr("aioice.ice.get_host_addresses", lambda use_ipv4, use_ipv6: ["127.0.0.1"])


def only_loopback(sdp: str) -> str:
    """Leave out the candidates of other addresses of this machine."""
    kept = [
        line
        for line in sdp.split("\r\n")
        if not line.startswith("a=candidate:") or line.split()[4] == "127.0.0.1"
    ]
    return "\r\n".join(kept)


# -- the number of a picture as a bar code ---------------------------------------------------


def bar_code(number: int) -> int:
    low = number & 0xFFF
    return (low << 4) | (((low >> 8) ^ (low >> 4) ^ low ^ 0x5) & 0xF)


def picture(width: int, height: int, number: int) -> av.VideoFrame:
    """A picture with detail that moves, and its number in the upper eighth."""
    y, x = np.mgrid[0:height, 0:width]
    luma = (60 + (((x + 3 * number) ^ (y + number)) & 127)).astype(np.uint8)
    bits = bar_code(number)
    for cell in range(16):
        value = 235 if bits >> (15 - cell) & 1 else 16
        luma[: height // 8, cell * width // 16 : (cell + 1) * width // 16] = value
    video = av.VideoFrame(width, height, "yuv420p")
    luma_plane(video)[:] = luma
    for plane in video.planes[1:]:
        plane.update(bytes([128]) * plane.buffer_size)
    video.pts, video.time_base = number * 3000, Fraction(1, 90_000)
    return video


def read_number(video: av.VideoFrame) -> int | None:
    """Return the number of a picture, None where it cannot be read."""
    luma = luma_plane(video)
    row = luma[video.height // 16]
    bits = 0
    for cell in range(16):
        bits = bits << 1 | int(row[int((cell + 0.5) * video.width / 16)] > 125)
    return bits >> 4 if bar_code(bits >> 4) == bits else None


# -- aiortc as it comes ----------------------------------------------------------------------


class NumberedTrack(MediaStreamTrack):
    """Sends numbered pictures in real time."""

    kind = "video"

    def __init__(self, size: tuple[int, int] = (320, 240), rate: float = 30.0) -> None:
        super().__init__()
        self.size = size
        self.number = 0
        self._rate = rate
        self._begun_s: float | None = None

    async def recv(self) -> av.VideoFrame:
        if self._begun_s is None:
            self._begun_s = time.monotonic()
        due_s = self._begun_s + self.number / self._rate
        await asyncio.sleep(max(0.0, due_s - time.monotonic()))
        video = picture(*self.size, self.number)
        video.pts = int(self.number * 90_000 / self._rate)
        self.number += 1
        return video


class Stock:
    """A connection of aiortc without any of our changes."""

    def __init__(
        self,
        *,
        send: MediaStreamTrack | None = None,
        audio: MediaStreamTrack | None = None,
        receive: bool = True,
        data: bool = False,
    ) -> None:
        self.connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self.tracks: dict[str, MediaStreamTrack] = {}
        self.said: list[str] = []
        self.channel = self.connection.createDataChannel("control") if data else None
        if self.channel is not None:
            self.channel.on("message", self.said.append)
        self.connection.on("track", lambda track: self.tracks.update({track.kind: track}))
        direction = ("sendrecv" if receive else "sendonly") if send else "recvonly"
        self.connection.addTransceiver(send or "video", direction=direction)
        if audio is not None:
            self.connection.addTransceiver(audio, direction=direction)

    async def offer(self) -> str:
        await self.connection.setLocalDescription(await self.connection.createOffer())
        return str(self.connection.localDescription.sdp)

    async def take_answer(self, sdp: str) -> None:
        await self.connection.setRemoteDescription(RTCSessionDescription(sdp, "answer"))

    async def aclose(self) -> None:
        ice = [one.transport.transport._connection for one in self.connection.getReceivers()]
        await self.connection.close()
        # Closed while connecting, aioice begins with these checks a little later, and never ends.
        await asyncio.sleep(0.05)
        for connection in ice:
            if connection._query_consent_task is not None:
                connection._query_consent_task.cancel()

    async def __aenter__(self) -> Stock:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()


# -- libwebrtc under node --------------------------------------------------------------------


def node_modules() -> Path:
    """Return the folder of libwebrtc for node, installed once from the npm registry."""
    wanted = (HERE / "package-lock.json").read_bytes()
    installed = CACHE / "package-lock.json"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:  # two test runs at a time install one after another
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = CACHE / "node_modules" / ".done"
        if not done.exists() or not installed.exists() or installed.read_bytes() != wanted:
            for name in ("package.json", "package-lock.json"):
                shutil.copy(HERE / name, CACHE / name)
            subprocess.run(
                ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"],
                cwd=CACHE,
                check=True,
                capture_output=True,
                timeout=110,
            )
            done.touch()
    return CACHE / "node_modules"


class Wrtc:
    """A process with a connection of libwebrtc; see ``webrtc/peer.js``.

    Attributes:
        frames: Pictures that it received: number, milliseconds since it sent that, width, height.
        said: Messages it got over the data channel.
        audio: Samples of sound it received.
    """

    def __init__(self, **options: Any) -> None:
        self.options = options
        self.frames: list[tuple[int | None, float | None, int, int]] = []
        self.said: list[str] = []
        self.errors: list[str] = []
        self.audio = 0
        self.states: list[str] = []
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self._offer: asyncio.Future[str] | None = None
        self._changed = asyncio.Event()

    async def offer(self) -> str:
        self._offer = asyncio.get_running_loop().create_future()
        self._process = await asyncio.create_subprocess_exec(
            "node",
            str(HERE / "peer.js"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "NODE_PATH": str(node_modules())},
            limit=1 << 20,
        )
        self._reader = asyncio.create_task(self._read())
        self.tell(start=self.options)
        return only_loopback(await asyncio.wait_for(self._offer, 15))

    def tell(self, **message: Any) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message).encode() + b"\n")

    async def take_answer(self, sdp: str) -> None:
        self.tell(answer=sdp)

    async def until(self, condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
        """Wait until something is true of what it reported."""
        async with asyncio.timeout(timeout_s):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    @property
    def numbers(self) -> list[int]:
        return [number for number, *_ in self.frames if number is not None]

    @property
    def latencies(self) -> list[float]:
        return [latency for _, latency, *_ in self.frames if latency is not None]

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()

    async def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        assert self._offer is not None
        while line := await self._process.stdout.readline():
            message = json.loads(line)
            if "offer" in message and not self._offer.done():
                self._offer.set_result(message["offer"])
            self.frames += [tuple(frame) for frame in message.get("frames", ())]
            self.audio = message.get("audio", self.audio)
            for key, values in (
                ("said", self.said),
                ("state", self.states),
                ("error", self.errors),
            ):
                if key in message:
                    values.append(message[key])
            self._changed.set()

    async def __aenter__(self) -> Wrtc:
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
        if self._reader is not None:
            await self._reader
        # asyncio closes a process's pipes when it is next at it.
        await asyncio.sleep(0)


# -- Chromium --------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def chromium(
    answer: Callable[[str], Any], *, script: str | None = None, flags: tuple[str, ...] = ()
) -> AsyncIterator[list[dict[str, Any]]]:
    """Run Chromium on a page that offers a call; yields what the page reports, as it comes.

    Args:
        answer: Awaited with the page's offer; returns the answer.
        script: The page's script; ``webrtc/page.js`` by default.
        flags: Further flags.
    """
    reports: list[dict[str, Any]] = []

    async def page(request: web.Request) -> web.Response:
        return web.Response(
            text="<!doctype html><script src=/page.js></script>", content_type="text/html"
        )

    async def code(request: web.Request) -> web.Response:
        text = script or (HERE / "page.js").read_text()
        return web.Response(text=text, content_type="text/javascript")

    async def offer(request: web.Request) -> web.Response:
        return web.Response(text=await answer(await request.text()))

    async def report(request: web.Request) -> web.Response:
        reports.append(await request.json())
        return web.Response()

    application = web.Application()
    application.add_routes(
        [
            web.get("/", page),
            web.get("/page.js", code),
            web.post("/offer", offer),
            web.post("/report", report),
        ]
    )
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    folder = tempfile.mkdtemp(prefix="chromium-")
    process = await asyncio.create_subprocess_exec(
        *CHROMIUM,
        *flags,
        f"--user-data-dir={folder}",
        f"http://127.0.0.1:{port}/",
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        yield reports
    finally:
        children = (
            psutil.Process(process.pid).children(recursive=True)
            if process.returncode is None
            else []
        )
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        await process.wait()
        await runner.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


# -- what is left ----------------------------------------------------------------------------


def descriptors() -> int:
    """How many descriptors this process has open."""
    return len(os.listdir("/proc/self/fd"))


def resident_mb() -> float:
    """Resident memory of this process in MB, without what the allocator keeps for later."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    return psutil.Process().memory_info().rss / 1e6
