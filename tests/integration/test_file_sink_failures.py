"""FileSink when things go wrong: full disks, kills, cancellation, races, permissions, leaks."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
import resource
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from streamseg.errors import SinkOpenError, SinkWriteError
from streamseg.frames import Frame
from streamseg.sinks import FileSink, MaskSink
from streamseg.sinks import movie as movie_module
from tests.support.clips import draw_frame, make_clip
from tests.unit.sinks.helpers import (
    closing,
    info_of,
    leftovers,
    listing,
    make_frame,
    play,
    read,
    write,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.anyio, pytest.mark.integration]

ROOT = Path(__file__).parents[2]


def noise(number: int, size: int = 320) -> Frame:
    frame = make_frame(number, width=size, height=size)
    for plane in frame.video.planes:
        plane.update(os.urandom(plane.buffer_size))
    return frame


def run(code: str) -> subprocess.CompletedProcess[str]:
    """Run Python code with the tests' modules in another process."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HOME": "/nonexistent"}
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True, text=True, timeout=60, env=environment, check=False,
    )  # fmt: skip


PREAMBLE = """
import asyncio, os, signal, sys
from pathlib import Path
from streamseg.sinks import FileSink
from tests.unit.sinks.helpers import info_of, make_frame
from streamseg.errors import *
"""


# --- targets ----------------------------------------------------------------------------------


async def test_existing_file_is_refused_and_stays(tmp_path: Path) -> None:
    target = tmp_path / "out.mp4"
    target.write_bytes(b"old")
    async with closing(FileSink(target)) as sink:
        with pytest.raises(SinkOpenError, match="exists; use --overwrite"):
            await sink.open(info_of())
    assert target.read_bytes() == b"old"


@pytest.mark.parametrize("name", ["out.mp4", "out.png", "masks.jsonl"])
async def test_older_file_stays_until_the_new_one_is_whole(tmp_path: Path, name: str) -> None:
    target = tmp_path / name
    target.write_bytes(b"old")
    target.chmod(0o640)
    make = MaskSink if name.endswith("jsonl") else FileSink
    async with closing(make(target, overwrite=True)) as sink:
        await sink.open(info_of())
        await sink.send(make_frame(0))
        await asyncio.sleep(0.05)
        assert target.read_bytes() == b"old"
        await sink.finish()
        await sink.commit()
    assert target.read_bytes() != b"old"
    assert target.stat().st_mode & 0o777 == 0o640
    assert leftovers(tmp_path) == []


async def test_a_file_made_meanwhile_is_not_lost(tmp_path: Path) -> None:
    target = tmp_path / "out.mp4"
    async with closing(FileSink(target)) as sink:
        await sink.open(info_of())
        await sink.send(make_frame(0))
        target.write_bytes(b"somebody else")
        await sink.finish()
        with pytest.raises(SinkWriteError, match="made by somebody else"):
            await sink.commit()
    assert target.read_bytes() == b"somebody else"
    assert listing(tmp_path) == ["out.mp4"]


async def test_two_writers_of_one_target_do_not_touch_each_other(tmp_path: Path) -> None:
    target = tmp_path / "out.mp4"
    async with (
        closing(FileSink(target, overwrite=True)) as one,
        closing(FileSink(target, overwrite=True)) as two,
    ):
        await one.open(info_of())
        await two.open(info_of())
        for number in range(5):
            await one.send(make_frame(number))
            await two.send(make_frame(number))
        await two.send(make_frame(5))
        await one.finish()
        await two.finish()
        await one.commit()
        assert len(read(target).times) == 5
        await two.commit()
        assert len(read(target).times) == 6
    assert listing(tmp_path) == ["out.mp4"]


async def test_targets_that_cannot_be(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mp4", frames=2).path
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "link.mp4").symlink_to(clip)
    os.mkfifo(tmp_path / "pipe.mp4")
    cases = [
        (tmp_path / "none" / "out.mp4", "does not exist"),
        (tmp_path / "folder.mp4", "is a directory"),
        (tmp_path / "pipe.mp4", "not a regular file"),
        (clip, "is a file that is being read"),
        (tmp_path / "link.mp4", "is a file that is being read"),
    ]
    for path, message in cases:
        async with closing(FileSink(path, overwrite=True)) as sink:
            with pytest.raises(SinkOpenError, match=message):
                await sink.open(info_of(files=[str(clip)]))


async def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real.mp4").write_bytes(b"old")
    (tmp_path / "link.mp4").symlink_to("real.mp4")
    async with closing(FileSink(tmp_path / "link.mp4", overwrite=True)) as sink:
        await write(sink, [make_frame(0)])
    assert (tmp_path / "link.mp4").is_symlink()
    assert len(read(tmp_path / "real.mp4").times) == 1


@pytest.mark.parametrize(
    "name", ["a b.mp4", "ä%d.mp4", "colon:x.mp4", "-dash.mp4", "x" * 250 + ".mp4", "q'\"[*].mkv"]
)
async def test_odd_names(tmp_path: Path, name: str) -> None:
    async with closing(FileSink(tmp_path / name)) as sink:
        await write(sink, [make_frame(i) for i in range(3)])
    assert listing(tmp_path) == [name]
    with (tmp_path / name).open("rb") as file:
        assert len(file.read()) > 500


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become nobody")
def test_folder_without_permission_is_refused(tmp_path: Path) -> None:
    for folder in [tmp_path, *tmp_path.parents]:
        if folder.stat().st_uid == os.geteuid() and folder != folder.parent:
            folder.chmod(folder.stat().st_mode | 0o055)
    tmp_path.chmod(0o555)
    done = run(
        PREAMBLE
        + f"""
async def main(path):
    sink = FileSink(path)
    try:
        await sink.open(info_of())
    except SinkOpenError as exc:
        print(exc)
    await sink.aclose()
asyncio.run(main("/nonexistent/out.mp4"))  # imports what nobody may not read
os.setgroups([]); os.setgid(65534); os.setuid(65534)
asyncio.run(main({str(tmp_path / "out.mp4")!r}))
"""
    )
    assert "no permission to write in the folder" in done.stdout, done.stderr
    assert listing(tmp_path) == []


# --- disks ------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"none", bytes(folder), b"tmpfs", 0, b"size=256k") != 0:
        pytest.skip(f"a tmpfs cannot be mounted: {os.strerror(ctypes.get_errno())}")
    yield folder
    libc.umount2(bytes(folder), 2)


@pytest.mark.parametrize("name", ["out.mp4", "out.mkv", "out.ts", "p_%d.png"])
async def test_full_disk_is_one_line_and_leaves_the_older_file(small_disk: Path, name: str) -> None:
    await _fill(small_disk, name, "No space left on device; free some space")


@pytest.mark.parametrize("name", ["out.mp4", "out.mkv", "out.ts"])
async def test_file_size_limit_is_one_line_and_leaves_the_older_file(
    tmp_path: Path, name: str
) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, before[1]))
    try:
        await _fill(tmp_path, name, "File too large")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


async def _fill(folder: Path, name: str, message: str) -> None:
    target = folder / name
    if "%" not in name:
        target.write_bytes(b"old")
    async with closing(FileSink(target, overwrite=True)) as sink:
        await sink.open(info_of(width=320, height=320))

        async def fill() -> None:
            for number in range(200):
                await sink.send(noise(number))
            await sink.finish()
            await sink.commit()

        with pytest.raises(SinkWriteError, match=message) as caught:
            await fill()
        assert "\n" not in str(caught.value)
        for _ in range(2):
            with pytest.raises(SinkWriteError, match=message):
                await sink.send(noise(0))
    if "%" not in name:
        assert target.read_bytes() == b"old"
    assert leftovers(folder) == []


async def test_disk_that_fills_up_at_the_very_end(small_disk: Path) -> None:
    """The index of an MP4 is what does not fit any more."""
    async with closing(FileSink(small_disk / "out.mp4", preset="ultrafast")) as sink:
        await sink.open(info_of(width=16, height=16))
        frame = make_frame(0, width=16, height=16)
        for number in range(1_500):
            video = frame.video.reformat(format="yuv422p").reformat(format="yuv420p")
            video.pts, video.time_base = number * 512, frame.time_base
            await sink.send(Frame(video, number, 0.0))
        filler = small_disk / "filler"
        with filler.open("wb", buffering=0) as file:
            while True:
                try:
                    if not file.write(b"x" * 4096):
                        break
                except OSError:
                    break
        with pytest.raises(SinkWriteError, match="No space left"):
            await sink.finish()
    assert listing(small_disk) == ["filler"]


# --- kills ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["out.mp4", "p_%03d.png"])
async def test_killed_run_leaves_the_older_file_and_the_next_run_cleans_up(
    tmp_path: Path, name: str
) -> None:
    target = tmp_path / name
    old = tmp_path / (name % 0 if "%" in name else name)
    old.write_bytes(b"old")
    done = run(
        PREAMBLE
        + f"""
async def main():
    sink = FileSink({str(target)!r}, overwrite=True)
    await sink.open(info_of())
    for number in range(30):
        await sink.send(make_frame(number))
    os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
"""
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert old.read_bytes() == b"old"
    assert len(leftovers(tmp_path)) == 1
    async with closing(FileSink(target, overwrite=True)) as sink:
        await write(sink, [make_frame(0)])
    assert listing(tmp_path) == [old.name]
    assert old.read_bytes() != b"old"


async def test_a_living_run_is_not_cleaned_up(tmp_path: Path) -> None:
    async with closing(FileSink(tmp_path / "out.mp4")) as living:
        await living.open(info_of())
        await living.send(make_frame(0))
        async with closing(FileSink(tmp_path / "out.mp4")) as other:
            await other.open(info_of())
            assert len(leftovers(tmp_path)) == 2
        assert len(leftovers(tmp_path)) == 1
        await living.finish()
        await living.commit()
    assert listing(tmp_path) == ["out.mp4"]


# --- ends -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["out.mp4", "out.png", "p_%d.png", "masks.jsonl"])
async def test_stream_without_frames_is_an_error_and_writes_nothing(
    tmp_path: Path, name: str
) -> None:
    make = MaskSink if name.endswith("jsonl") else FileSink
    async with closing(make(tmp_path / name)) as sink:
        await sink.open(info_of())
        with pytest.raises(SinkWriteError, match="no frames"):
            await sink.finish()
    assert listing(tmp_path) == []


async def test_closing_without_finish_leaves_nothing(tmp_path: Path) -> None:
    sink = FileSink(tmp_path / "out.mp4")
    await sink.open(info_of())
    for number in range(20):
        await sink.send(make_frame(number))
    await sink.aclose()
    await sink.aclose()
    assert listing(tmp_path) == []
    numbers = sink.statistics()
    assert numbers.accepted == 20
    assert numbers.written + sum(numbers.dropped.values()) == 20
    for call in (sink.send(make_frame(0)), sink.send_packets([1]), sink.finish()):
        with pytest.raises(anyio.ClosedResourceError):
            await call
    with pytest.raises(anyio.ClosedResourceError):
        await sink.open(info_of())


async def test_use_before_open_and_after_finish(tmp_path: Path) -> None:
    sink = FileSink(tmp_path / "out.mp4")
    with pytest.raises(anyio.ClosedResourceError):
        await sink.send(make_frame(0))
    async with closing(sink):
        await write(sink, [make_frame(0)])
        for call in (sink.send(make_frame(1)), sink.finish()):
            with pytest.raises(anyio.ClosedResourceError):
                await call
    assert len(read(tmp_path / "out.mp4").times) == 1


@pytest.mark.parametrize("encoder", ["libx264", "libx265"])
async def test_closing_is_quick_while_a_slow_encoder_is_busy(tmp_path: Path, encoder: str) -> None:
    sink = FileSink(tmp_path / "out.mp4", encoder=encoder, preset="veryslow", overwrite=True)
    await sink.open(info_of(width=1920, height=1080))
    frame = draw_frame(1, 1920, 1080)
    with anyio.move_on_after(0.5):
        for number in range(100):
            picture = draw_frame(number, 1920, 1080) if number < 3 else frame
            picture.pts = number
            await sink.send(Frame(picture, number, 0.0))
    start = time.perf_counter()
    await sink.aclose()
    assert time.perf_counter() - start < 2
    deadline = time.perf_counter() + 20
    while leftovers(tmp_path) and time.perf_counter() < deadline:
        await asyncio.sleep(0.05)
    assert listing(tmp_path) == []


@pytest.mark.parametrize("delay_s", [0, 0.002, 0.01, 0.03, 0.06, 0.1, 0.2, 0.4])
async def test_cancelling_at_any_moment_leaves_the_older_file(
    tmp_path: Path, delay_s: float
) -> None:
    clip = make_clip(tmp_path / "in.mkv", frames=60, audio_tracks=1)
    target = tmp_path / "out.mp4"
    target.write_bytes(b"old")
    with anyio.move_on_after(delay_s) as scope:
        async with closing(FileSink(target, overwrite=True)) as sink:
            await play(clip.path, sink)
    if scope.cancelled_caught and target.read_bytes() != b"old":
        assert len(read(target).times) == 60  # the rename had happened
    assert leftovers(tmp_path) == []


async def test_cancelling_finish_while_faststart_rewrites(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached, held = threading.Event(), threading.Event()
    original = movie_module.verify

    def slow(*arguments: Any) -> None:
        reached.set()
        held.wait(5)
        original(*arguments)

    monkeypatch.setattr(movie_module, "verify", slow)
    sink = FileSink(tmp_path / "out.mp4")
    await sink.open(info_of())
    await sink.send(make_frame(0))
    with anyio.CancelScope() as scope:

        async def cancel() -> None:
            while not reached.is_set():
                await asyncio.sleep(0.005)
            scope.cancel()
            held.set()

        async with anyio.create_task_group() as group:
            group.start_soon(cancel)
            await sink.finish()
            await sink.commit()
    await sink.aclose()
    assert leftovers(tmp_path) == []


async def test_a_result_that_does_not_verify_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = movie_module.MovieWriter._mux

    def lossy(self: Any, packet: Any) -> None:
        if self.written == 3:
            self.written += 1
            return
        original(self, packet)

    monkeypatch.setattr(movie_module.MovieWriter, "_mux", lossy)
    target = tmp_path / "out.mkv"
    target.write_bytes(b"old")
    async with closing(FileSink(target, overwrite=True)) as sink:
        await sink.open(info_of())
        for number in range(6):
            await sink.send(make_frame(number))
        with pytest.raises(SinkWriteError, match="has 5 frames, 6 were written"):
            await sink.finish()
    assert target.read_bytes() == b"old"


async def test_the_loop_is_never_blocked(tmp_path: Path) -> None:
    worst = 0.0

    async def watch() -> None:
        nonlocal worst
        while True:
            start = time.perf_counter()
            await asyncio.sleep(0.005)
            worst = max(worst, time.perf_counter() - start)

    async with anyio.create_task_group() as group:
        group.start_soon(watch)
        async with closing(FileSink(tmp_path / "out.mp4")) as sink:
            await sink.open(info_of(width=1280, height=720))
            picture = draw_frame(1, 1280, 720)
            for number in range(30):
                frame = Frame(
                    picture.reformat(width=1280, height=720, format="yuv422p"), number, 0.0
                )
                frame.video.pts = number
                await sink.send(frame)
            await sink.finish()
            await sink.commit()
        group.cancel_scope.cancel()
    assert worst < 0.25


async def test_nothing_leaks(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mkv", frames=10, audio_tracks=1, subtitle_tracks=1).path

    async def round_trip(number: int) -> None:
        async with closing(FileSink(tmp_path / f"{number % 3}.mp4", overwrite=True)) as sink:
            await play(clip, sink)
        async with closing(FileSink(tmp_path / f"{number % 3}.webm", overwrite=True)) as sink:
            await sink.open(info_of())
            await sink.send(make_frame(0))
        async with closing(FileSink(tmp_path / "bad.mp4", encoder_options={"warp": "9"})) as sink:
            await sink.open(info_of())
            await sink.send(make_frame(0))
            with pytest.raises(SinkOpenError):
                await sink.finish()

    await round_trip(0)
    gc.collect()
    descriptors, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
    for number in range(5):
        await round_trip(number)
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= descriptors
    assert threading.active_count() <= threads
    assert leftovers(tmp_path) == []


async def test_unclosed_sink_warns_and_cleans_up(tmp_path: Path) -> None:
    sink = FileSink(tmp_path / "out.mp4")
    await sink.open(info_of())
    await sink.send(make_frame(0))
    holder = [sink]
    del sink
    with pytest.warns(ResourceWarning, match="unclosed <FileSink"):
        holder.clear()
    deadline = time.perf_counter() + 5
    while leftovers(tmp_path) and time.perf_counter() < deadline:
        await asyncio.sleep(0.01)
    assert listing(tmp_path) == []
