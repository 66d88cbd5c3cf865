"""GStreamer as the other end of a connection; see ``webrtc/gstreamer_peer.py``."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from pathlib import Path
from typing import Any, Self

import av
import numpy as np

from tests.support.programs import lack, require

__all__ = ["HEIGHT", "WIDTH", "GStreamer"]

WIDTH, HEIGHT = 640, 360
_SCRIPT = Path(__file__).parent / "webrtc" / "gstreamer_peer.py"
# Not the one of these tests: PyGObject is the distribution's.
_PYTHON = "/usr/bin/python3"


class GStreamer:
    """A process with a connection of webrtcbin that offers H.264 and nothing else.

    Args:
        pictures: A file of what it sends, I420 of 640x360; nothing where it is None.
        receives: Whether it takes video.
        control: Whether it opens a data channel.

    Attributes:
        states: Those of the connection, in their order.
        said: What came over the data channel.
        frames: How many pictures came.
    """

    def __init__(
        self, *, pictures: Path | None = None, receives: bool = False, control: bool = False
    ) -> None:
        self._start = {
            "pictures": str(pictures) if pictures else None,
            "receives": receives,
            "control": control,
        }
        self.states: list[str] = []
        self.said: list[dict[str, Any]] = []
        self.frames = 0
        self._errors: list[str] = []
        self._offer: str | None = None
        self._missing: str | None = None
        self._opened = False
        self._wanted: list[av.VideoFrame] | None = None
        self._count = 0
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()

    async def offer(self) -> str:
        """Return the offer, with all candidates.

        Where there is no GStreamer, the test skips; in CI it fails.
        """
        require(_PYTHON)
        # A Python of another place must not lend the system's its modules.
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
        self._process = await asyncio.create_subprocess_exec(
            _PYTHON,
            str(_SCRIPT),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=environment,
            limit=1 << 20,
        )
        self._reader = asyncio.create_task(self._read())
        self._tell(start=self._start)
        await self.until(lambda: self._offer is not None or self._missing is not None, 20)
        if self._missing is not None:
            lack(f"WebRTC of GStreamer is not installed: {self._missing}")
        assert self._offer is not None
        return self._offer

    def take_answer(self, sdp: str) -> None:
        self._tell(answer=sdp)

    async def next_frames(self, count: int) -> list[av.VideoFrame]:
        """Return so many pictures from now on."""
        found: list[av.VideoFrame] = []
        self._wanted, self._count = found, count
        await self.until(lambda: len(found) == count)
        self._wanted = None
        return found

    async def ask(self, **message: Any) -> dict[str, Any]:
        """Send a message and return the answer; figures that come by themselves are none."""
        await self.until(lambda: self._opened)
        before = len(self._answers)
        self._tell(say=json.dumps(message))
        await self.until(lambda: len(self._answers) > before)
        return self._answers[before]

    async def figures(self) -> dict[str, Any]:
        """Return figures that came by themselves, or wait for the first of them."""
        await self.until(lambda: any("statistics" in each for each in self.said))
        return [each for each in self.said if "statistics" in each][-1]["statistics"]

    async def until(self, condition: Any, timeout_s: float = 10.0) -> None:
        """Wait until something is true of what it reported."""
        try:
            async with asyncio.timeout(timeout_s):
                while not condition():
                    assert not self._errors, self._errors
                    assert self._reader is not None
                    assert not self._reader.done(), "the process has ended"
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            told = f"states {self.states}, {self.frames} pictures, said {self.said}"
            raise AssertionError(f"it does not come to that: {told}") from None

    @property
    def _answers(self) -> list[dict[str, Any]]:
        return [each for each in self.said if "statistics" not in each]

    def _tell(self, **message: Any) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message).encode() + b"\n")

    async def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            message = json.loads(line)
            if "picture" in message:
                data = await self._process.stdout.readexactly(message["picture"])
                self._take(data)
            elif "state" in message:
                self.states.append(message["state"])
            elif "said" in message:
                self.said.append(json.loads(message["said"]))
            elif "error" in message:
                self._errors.append(message["error"])
            self._offer = message.get("offer", self._offer)
            self._missing = message.get("missing", self._missing)
            self._opened = message.get("opened", self._opened)
            self._changed.set()
        self._changed.set()

    def _take(self, data: bytes) -> None:
        self.frames += 1
        if self._wanted is None or len(self._wanted) == self._count:
            return
        assert len(data) == WIDTH * HEIGHT * 3 // 2
        samples = np.frombuffer(data, np.uint8).reshape(HEIGHT * 3 // 2, WIDTH)
        self._wanted.append(av.VideoFrame.from_ndarray(samples, "yuv420p"))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
        if self._reader is not None:
            await asyncio.wait([self._reader])
        # asyncio closes a process's pipes when it is next at it.
        await asyncio.sleep(0)
