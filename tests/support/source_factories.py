"""Every Source, ready to be made, for the suite that all of them must pass.

A new kind of source is added to `CASES`.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from streamseg.abc import Source
from streamseg.sources import FileSource
from streamseg.sources.camera import CameraSource
from streamseg.sources.paced import PacedSource
from streamseg.sources.screen import ScreenSource
from streamseg.sources.stream import StreamSource
from streamseg.sources.synthetic import TestSource
from tests.support.clips import make_clip
from tests.support.fake_camera import FakeCamera
from tests.support.servers import Chunk, Server, chunks_of, free_port, serve_folder

__all__ = ["CASES", "Case", "Media", "pushed", "virtual_screen"]

FRAMES, RATE = 20, 25


@dataclass
class Media:
    """What there is to be read or sent; made when first asked for, ended with ``stack``."""

    folder: Path
    stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    @cached_property
    def display(self) -> str:
        return self.stack.enter_context(virtual_screen())

    @cached_property
    def movie(self) -> Path:
        return make_clip(
            self.folder / "movie.mp4", frames=FRAMES, rate=RATE, audio_tracks=1, faststart=True
        ).path

    @cached_property
    def transport_stream(self) -> Path:
        return make_clip(
            self.folder / "clip.ts", frames=FRAMES, rate=RATE, audio_tracks=1, b_frames=0
        ).path

    @cached_property
    def chunks(self) -> list[Chunk]:
        return chunks_of(self.transport_stream, "mpegts")


@dataclass(frozen=True)
class Case:
    """A source and what it needs around it.

    Attributes:
        make: Makes the source; what it needs is there until the context ends.
        frames: How many frames there are; None where it never ends.
        live: Whether frames may be dropped.
        needs: Programs without which it cannot be tested.
    """

    make: Callable[[Media], AbstractContextManager[Source]]
    frames: int | None = None
    live: bool = True
    needs: tuple[str, ...] = ()


@contextlib.contextmanager
def _file(media: Media) -> Iterator[Source]:
    yield FileSource(media.movie)


@contextlib.contextmanager
def _paced(media: Media) -> Iterator[Source]:
    yield PacedSource(media.movie)


@contextlib.contextmanager
def _paced_loop(media: Media) -> Iterator[Source]:
    yield PacedSource(media.transport_stream, loop=True)


@contextlib.contextmanager
def _pattern(media: Media) -> Iterator[Source]:
    yield TestSource(320, 180, 60, duration_s=0.5)


@contextlib.contextmanager
def _http_file(media: Media) -> Iterator[Source]:
    with serve_folder(media.movie.parent) as url:
        yield StreamSource(f"{url}/{media.movie.name}")


@contextlib.contextmanager
def _served(media: Media, scheme: str) -> Iterator[Source]:
    chunks = media.chunks
    with Server(
        lambda peer: (peer.accept(), peer.play_for_ever(chunks)), http=scheme == "http"
    ) as server:
        yield StreamSource(server.url(scheme))


@contextlib.contextmanager
def _http(media: Media) -> Iterator[Source]:
    with _served(media, "http") as source:
        yield source


@contextlib.contextmanager
def _tcp(media: Media) -> Iterator[Source]:
    with _served(media, "tcp") as source:
        yield source


@contextlib.contextmanager
def _pipe(media: Media) -> Iterator[Source]:
    out, into = os.pipe()
    data = media.transport_stream.read_bytes()

    def write() -> None:
        with contextlib.suppress(BrokenPipeError), os.fdopen(into, "wb") as pipe:
            pipe.write(data)

    writer = threading.Thread(target=write, name="test-writer")
    writer.start()
    try:
        yield StreamSource(f"pipe:{out}")
    finally:
        os.close(out)
        writer.join(5)


@contextlib.contextmanager
def pushed(
    clip: Path, url: str, *, format_name: str, loop: bool = True
) -> Iterator[subprocess.Popen[bytes]]:
    """Send a clip with the ``ffmpeg`` program, trying until somebody listens.

    Args:
        clip: An MP4: RTSP wants the parameters of the sound before the sound.
        url: Where to.
        format_name: FFmpeg's name of the muxer.
        loop: Whether the clip is sent again and again; if not, 10 s of it, and that is said.
    """
    # A length that it was told, FFmpeg tells the other side.
    repeat, limit = ("-stream_loop -1", "") if loop else ("", "-t 10")
    command = (
        f"ffmpeg -loglevel error -nostdin -re {repeat} -i {clip} -c copy {limit} "
        f"-f {format_name} {shlex.quote(url)}"
    )
    process = subprocess.Popen(
        ["sh", "-c", f"while ! {command}; do sleep 0.05; done"],
        stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
        process_group=0,
    )
    try:
        yield process
    finally:
        os.killpg(process.pid, 9)
        process.wait(5)


@contextlib.contextmanager
def _rtsp(media: Media) -> Iterator[Source]:
    url = f"rtsp://127.0.0.1:{free_port()}/live"
    with pushed(media.movie, url, format_name="rtsp"):
        yield StreamSource(url, options={"rtsp_flags": "listen"})


@contextlib.contextmanager
def virtual_screen(width: int = 320, height: int = 240) -> Iterator[str]:
    """Start an X server without a screen; the value is its display."""
    ready, into = os.pipe()
    process = subprocess.Popen(
        ["Xvfb", "-displayfd", str(into), "-screen", "0", f"{width}x{height}x24", "-noreset"],
        pass_fds=[into],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(into)
    try:
        with os.fdopen(ready) as pipe:
            yield f":{pipe.readline().strip()}.0"
    finally:
        process.terminate()
        process.wait(5)


@contextlib.contextmanager
def _screen(media: Media) -> Iterator[Source]:
    yield ScreenSource(media.display, fps=30)


@contextlib.contextmanager
def _camera_bgr(media: Media) -> Iterator[Source]:
    yield CameraSource(0, open_capture=FakeCamera("bgr").open)


@contextlib.contextmanager
def _camera_jpeg(media: Media) -> Iterator[Source]:
    yield CameraSource(0, mirror=True, open_capture=FakeCamera("mjpg").open)


CASES: dict[str, Case] = {
    "file": Case(_file, frames=FRAMES, live=False),
    "paced": Case(_paced, frames=FRAMES),
    "paced-loop": Case(_paced_loop),
    "test": Case(_pattern, frames=30),
    "http-file": Case(_http_file, frames=FRAMES),
    "http": Case(_http),
    "tcp": Case(_tcp),
    "pipe": Case(_pipe, frames=FRAMES),
    "rtsp": Case(_rtsp, needs=("ffmpeg",)),
    "screen": Case(_screen, needs=("Xvfb",)),
    "camera-bgr": Case(_camera_bgr),
    "camera-jpeg": Case(_camera_jpeg),
}
