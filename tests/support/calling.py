"""A caller without a browser: camera to ``/offer``, processed picture back, data channel.

    python -m tests.support.calling URL

calls until it is killed, and prints a line when the first picture has come back.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any, Self

import aiohttp
import anyio
import av
import numpy as np
from aiortc import MediaStreamTrack, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError
from numpy.typing import NDArray

SAMPLE = Path(__file__).parents[1] / "media" / "sample.mp4"


def sample_pictures(count: int = 50) -> list[av.VideoFrame]:
    """The first pictures of a real clip with a person in a room, 640x360."""
    with av.open(str(SAMPLE)) as container:
        frames = []
        for frame in container.decode(video=0):
            frames.append(frame.reformat(640, 360, "yuv420p"))
            if len(frames) == count:
                break
    return frames


class Camera(MediaStreamTrack):
    """Plays pictures again and again."""

    kind = "video"

    def __init__(self, pictures: list[av.VideoFrame], fps: float = 25.0) -> None:
        super().__init__()
        self._pictures = pictures
        self._fps = fps
        self._number = 0
        self._started_s = time.monotonic()

    async def recv(self) -> av.VideoFrame:
        due = self._started_s + self._number / self._fps
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        picture = self._pictures[self._number % len(self._pictures)]
        frame = av.VideoFrame.from_ndarray(picture.to_ndarray(), "yuv420p")
        frame.pts = round(self._number * 90_000 / self._fps)
        frame.time_base = Fraction(1, 90_000)
        self._number += 1
        return frame


class Caller:
    """One call; ``async with`` makes and ends it."""

    def __init__(
        self, url: str, *, pictures: list[av.VideoFrame] | None = None, **request: Any
    ) -> None:
        self.url = url
        self.request = request
        self.frames = 0
        self.on_frame: Callable[[av.VideoFrame], None] | None = None
        self.said: list[dict[str, Any]] = []
        self.session = ""
        self.first = asyncio.Event()
        self.opened = asyncio.Event()
        self.ended = asyncio.Event()
        self._pump: asyncio.Task[None] | None = None
        self._heard = asyncio.Event()
        self.pc = RTCPeerConnection()
        self.pc.addTrack(Camera(pictures or sample_pictures()))
        self.channel = self.pc.createDataChannel("control")
        self.channel.on("open", self.opened.set)
        self.channel.on("message", self._hear)
        self.pc.on("track", self._take)
        self.pc.on("connectionstatechange", self._look)

    async def __aenter__(self) -> Self:
        await self.pc.setLocalDescription(await self.pc.createOffer())
        body = {"sdp": self.pc.localDescription.sdp, "type": "offer", **self.request}
        async with (
            aiohttp.ClientSession() as client,
            client.post(f"{self.url}/offer", json=body) as response,
        ):
            answer = await response.json()
            assert response.status == 200, answer
        self.session = answer["session"]
        await self.pc.setRemoteDescription(RTCSessionDescription(answer["sdp"], answer["type"]))
        return self

    async def __aexit__(self, *args: object) -> None:
        with anyio.CancelScope(shield=True):
            await self.pc.close()
            if self._pump is not None:
                self._pump.cancel()
                await asyncio.wait([self._pump])

    async def ask(self, message: Any) -> dict[str, Any]:
        """Send a message and return the answer; figures that come by themselves are none."""
        await asyncio.wait_for(self.opened.wait(), 10)
        before = len(self._answers)
        self.channel.send(json.dumps(message))
        with anyio.fail_after(10):
            while len(self._answers) == before:
                self._heard.clear()
                await self._heard.wait()
        return self._answers[before]

    async def figures(self) -> dict[str, Any]:
        """Return the next figures that come by themselves."""
        before = len(self.said) - len(self._answers)
        with anyio.fail_after(10):
            while len(self.said) - len(self._answers) == before:
                self._heard.clear()
                await self._heard.wait()
        return [each for each in self.said if "statistics" in each][-1]["statistics"]

    async def next_frames(self, count: int) -> list[NDArray[np.uint8]]:
        """Return the next pictures, RGB."""
        found: list[NDArray[np.uint8]] = []
        done = asyncio.Event()

        def take(frame: av.VideoFrame) -> None:
            if len(found) < count:
                found.append(frame.to_ndarray(format="rgb24"))
            if len(found) == count:
                done.set()

        self.on_frame = take
        await asyncio.wait_for(done.wait(), 15)
        self.on_frame = None
        return found

    @property
    def _answers(self) -> list[dict[str, Any]]:
        return [each for each in self.said if "statistics" not in each]

    def _hear(self, text: str) -> None:
        self.said.append(json.loads(text))
        self._heard.set()

    def _look(self) -> None:
        if self.pc.connectionState in ("closed", "failed"):
            self.ended.set()

    def _take(self, track: MediaStreamTrack) -> None:
        if track.kind == "video":
            self._pump = asyncio.create_task(self._receive(track))

    async def _receive(self, track: MediaStreamTrack) -> None:
        try:
            while True:
                frame = await track.recv()
                assert isinstance(frame, av.VideoFrame)
                self.frames += 1
                self.first.set()
                if self.on_frame is not None:
                    self.on_frame(frame)
        except MediaStreamError:
            self.ended.set()


async def _call(url: str) -> None:
    async with Caller(url) as caller:
        await caller.first.wait()
        print("first", flush=True)
        await caller.ended.wait()


if __name__ == "__main__":
    asyncio.run(_call(sys.argv[1]))
