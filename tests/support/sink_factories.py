"""Every Sink, ready to be made, for the suite that all of them must pass; and peers to stream to.

A new kind of sink is added to `CASES`.
"""

from __future__ import annotations

import contextlib
import io
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import av
from pyvirtualcam import camera

from streamseg.sinks import FileSink, MaskSink, NullSink
from streamseg.sinks.display import DisplaySink
from streamseg.sinks.mjpeg import MjpegSink
from streamseg.sinks.recording import RecordingSink
from streamseg.sinks.stream import StreamSink
from streamseg.sinks.virtual_camera import VirtualCameraSink
from tests.support.clips import read_frame_number
from tests.support.source_factories import virtual_screen

if TYPE_CHECKING:
    from streamseg.abc import Sink

__all__ = ["CASES", "Case", "Held", "TcpReceiver", "ffmpeg_listener", "wait_for"]


def wait_for(true: Callable[[], bool], what: str, timeout_s: float = 10) -> None:
    """Wait for something outside this process, which sets no event."""
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline, f"{what}: not within {timeout_s} s"
        time.sleep(0.01)


def _children() -> Iterator[int]:
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):  # a thread that has just ended
            yield from map(int, (task / "children").read_text().split())


@dataclass(frozen=True)
class Held:
    """What this process holds; FFmpeg's own threads are not counted, they end a moment later."""

    children: frozenset[int]
    threads: int
    files: int

    @staticmethod
    def now() -> Held:
        return Held(
            frozenset(_children()),
            threading.active_count(),
            len(os.listdir("/proc/self/fd")),
        )

    def holds_more_than(self, before: Held) -> str:
        """What there is more, in words; nothing if there is not."""
        more = []
        if self.children - before.children:
            more.append(f"children {set(self.children - before.children)}")
        if self.threads > before.threads:
            more.append(f"threads {[thread.name for thread in threading.enumerate()]}")
        if self.files > before.files:
            more.append(f"{self.files - before.files} files")
        return ", ".join(more)


class TcpReceiver:
    """A server of raw TCP: keeps what each connection brought.

    Args:
        reads: Whether it reads at all; one that does not lets the window run full.
        port: 0 for any that is free.
    """

    def __init__(self, *, reads: bool = True, port: int = 0) -> None:
        self.streams: list[bytearray] = []
        self._reads = reads
        self._connections: list[socket.socket] = []
        self._listener = socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if not reads:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._listener.bind(("127.0.0.1", port))
        self._listener.listen()
        self.port: int = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    @property
    def url(self) -> str:
        return f"tcp://127.0.0.1:{self.port}"

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._connections.append(connection)
            self.streams.append(bytearray())
            if self._reads:
                thread = threading.Thread(target=self._read, args=(connection, self.streams[-1]))
                self._threads.append(thread)
                thread.start()

    @staticmethod
    def _read(connection: socket.socket, stream: bytearray) -> None:
        with connection, contextlib.suppress(OSError):
            while data := connection.recv(1 << 16):
                stream += data

    def close(self) -> None:
        """Cut everybody off, as a server does that is killed."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._threads[0].join(5)
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()
        for thread in self._threads:
            thread.join(5)

    def __enter__(self) -> TcpReceiver:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def numbers(self, index: int) -> list[int]:
        """Numbers of the pictures that a connection brought; the last may be cut off."""
        with av.open(io.BytesIO(bytes(self.streams[index])), format="mpegts") as container:
            return [read_frame_number(frame) for frame in container.decode(video=0)]


def _listening(port: int, kind: str) -> bool:
    """Whether somebody listens, without connecting: listeners of FFmpeg take one connection."""
    state = "0A" if kind == "tcp" else "07"
    for table in (f"/proc/net/{kind}", f"/proc/net/{kind}6"):
        for line in Path(table).read_text().splitlines()[1:]:
            local, status = line.split()[1], line.split()[3]
            if local.endswith(f":{port:04X}") and status == state:
                return True
    return False


@contextlib.contextmanager
def ffmpeg_listener(
    scheme: str, port: int, out: Path
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """An FFmpeg that receives one stream and stores it: its URL and its process."""
    arguments, url = {
        "rtmp": (["-listen", "1"], f"rtmp://127.0.0.1:{port}/live/secret"),
        "http": (["-listen", "1"], f"http://127.0.0.1:{port}/in"),
        "rtsp": (["-rtsp_flags", "listen"], f"rtsp://127.0.0.1:{port}/in"),
        "tcp": ([], f"tcp://127.0.0.1:{port}?listen"),
        "udp": ([], f"udp://127.0.0.1:{port}?timeout=1000000"),
        "srt": ([], f"srt://127.0.0.1:{port}?mode=listener"),
    }[scheme]
    command = ["ffmpeg", "-v", "error", "-y", *arguments, "-i", url, "-c", "copy", str(out)]
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        kind = "udp" if scheme in {"udp", "srt"} else "tcp"
        wait_for(lambda: _listening(port, kind), f"ffmpeg listens on {port}")
        yield url.partition("?")[0], process
    finally:
        process.kill()
        process.wait(10)


@dataclass(frozen=True)
class Case:
    """A sink and what it needs around it.

    Attributes:
        name: For the test's name.
        make: Makes the sink, given a folder; what it needs lives as long as the context.
        keeps_all: Whether all pictures that were sent are written, without anybody who looks.
        threaded: Whether it has a bounded queue, so that ``send`` may have to wait.
        needs: Programs without which it cannot be made.
    """

    name: str
    make: Callable[[Path], AbstractContextManager[Sink]]
    keeps_all: bool = True
    threaded: bool = True
    needs: tuple[str, ...] = ()


def _plain(make: Callable[[Path], Sink]) -> Callable[[Path], AbstractContextManager[Sink]]:
    @contextlib.contextmanager
    def wrapped(folder: Path) -> Iterator[Sink]:
        yield make(folder)

    return wrapped


@contextlib.contextmanager
def _tcp(folder: Path) -> Iterator[Sink]:
    with TcpReceiver() as receiver:
        yield StreamSink(receiver.url)


@contextlib.contextmanager
def _udp(folder: Path) -> Iterator[Sink]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        yield StreamSink(f"udp://127.0.0.1:{receiver.getsockname()[1]}")


@contextlib.contextmanager
def _display(folder: Path) -> Iterator[Sink]:
    with virtual_screen() as display, mock.patch.dict(os.environ, {"DISPLAY": display}):
        yield DisplaySink("conformance")


class _NoDevice:
    """A back end of pyvirtualcam without a device."""

    def __init__(self, *, width: int, height: int, fps: float, fourcc: int, device: Any) -> None:
        self._fourcc = fourcc

    def send(self, frame: Any) -> None:
        pass

    def close(self) -> None:
        pass

    def device(self) -> str:
        return "/dev/video9"

    def native_fourcc(self) -> int:
        return self._fourcc


@contextlib.contextmanager
def _virtual_camera(folder: Path) -> Iterator[Sink]:
    with mock.patch.object(camera, "BACKENDS", {"none": _NoDevice}):
        yield VirtualCameraSink()


def _cases() -> list[Case]:
    def recording(name: str, **options: Any) -> Case:
        return Case(
            f"RecordingSink-{name}", _plain(lambda folder: RecordingSink(folder / name, **options))
        )

    return [
        Case("FileSink", _plain(lambda folder: FileSink(folder / "out.mp4"))),
        Case("FileSink-pictures", _plain(lambda folder: FileSink(folder / "p_%03d.png"))),
        Case("MaskSink", _plain(lambda folder: MaskSink(folder / "m.jsonl"))),
        Case("NullSink", _plain(lambda folder: NullSink()), threaded=False),
        recording("r.mp4"),
        recording("r.mkv"),
        recording("s.mp4", segment_s=1),
        Case("StreamSink-tcp", _tcp),
        Case("StreamSink-udp", _udp),
        Case("DisplaySink", _display, needs=("Xvfb",)),
        Case(
            "MjpegSink",
            _plain(lambda folder: MjpegSink("mjpeg://127.0.0.1:0")),
            keeps_all=False,
        ),
        Case("VirtualCameraSink", _virtual_camera),
    ]


CASES = _cases()
