"""What a sink must never do: crash on odd input, harm files that are read, or leave half a result."""

from __future__ import annotations

import errno
import gc
import os
import struct
import subprocess
import sys
import threading
import time
import zlib
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import av
import pytest

from streamseg.errors import SinkOpenError, SinkWriteError
from streamseg.side_data import safe_side_data
from streamseg.sinks import FileSink, MaskSink
from streamseg.sinks import images as images_module
from tests.support.clips import make_clip
from tests.unit.sinks.helpers import (
    closing,
    events,
    info_from,
    info_of,
    leftovers,
    listing,
    make_frame,
    play,
    read,
    write,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from streamseg.abc import Sink

pytestmark = [pytest.mark.anyio, pytest.mark.integration]

ROOT = Path(__file__).parents[2]


# --- finish and commit -------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["out.mp4", "out.png", "p_%d.png", "m.jsonl", "m.mkv"])
async def test_finish_leaves_the_target_commit_replaces_it(tmp_path: Path, name: str) -> None:
    target = tmp_path / (name % 0 if "%" in name else name)
    target.write_bytes(b"old")
    make: Any = MaskSink if name.startswith("m") else FileSink
    async with closing(make(tmp_path / name, overwrite=True)) as sink:
        await sink.open(info_of())
        with pytest.raises(anyio.ClosedResourceError):
            await sink.commit()
        await sink.send(make_frame(0))
        await sink.finish()
        assert target.read_bytes() == b"old"
        with pytest.raises(anyio.ClosedResourceError):
            await sink.send(make_frame(1))
        await sink.commit()
        await sink.commit()
        assert target.read_bytes() != b"old"
    await sink.commit()
    assert listing(tmp_path) == [target.name]


@pytest.mark.parametrize("name", ["out.mp4", "out.png", "p_%d.png", "m.jsonl"])
async def test_closing_after_finish_abandons(tmp_path: Path, name: str) -> None:
    target = tmp_path / (name % 0 if "%" in name else name)
    target.write_bytes(b"old")
    threads = threading.active_count()
    make: Any = MaskSink if name.startswith("m") else FileSink
    async with closing(make(tmp_path / name, overwrite=True)) as sink:
        await sink.open(info_of())
        await sink.send(make_frame(0))
        await sink.finish()
    with pytest.raises(anyio.ClosedResourceError):
        await sink.commit()
    assert target.read_bytes() == b"old"
    assert listing(tmp_path) == [target.name]
    assert threading.active_count() <= threads


# --- files that are read -----------------------------------------------------------------------


def _contents(folder: Path, names: Iterable[str]) -> list[bytes]:
    return [(folder / name).read_bytes() for name in names]


async def _refused(sink: Sink, info: Any) -> str:
    async with closing(sink):
        with pytest.raises(SinkOpenError) as caught:
            await sink.open(info)
    return str(caught.value)


@pytest.mark.parametrize("link", ["itself", "hard", "symbolic"])
async def test_the_sources_file_is_known_by_identity_not_by_name(tmp_path: Path, link: str) -> None:
    source = tmp_path / "shot\u202f1.mp4"
    make_clip(source, frames=2)
    before = source.read_bytes()
    target = source if link == "itself" else tmp_path / "other.mp4"
    if link == "hard":
        os.link(source, target)
    elif link == "symbolic":
        target.symlink_to(source)
    info = info_of(name="shot\ufffd1.mp4", files=[str(source)])
    for make in (FileSink, MaskSink):
        message = await _refused(make(target, overwrite=True), info)
        assert "file that is being read" in message
        assert message.isprintable()
    assert source.read_bytes() == before


@pytest.mark.parametrize("name", ["bg.mp4", "bg.mkv", "bg.png", "bg_%d.png", "bg.jsonl"])
async def test_protected_files_are_not_overwritten(tmp_path: Path, name: str) -> None:
    file = tmp_path / (name.replace("%d", "7"))
    file.write_bytes(b"background")
    make: Any = MaskSink if name.endswith("jsonl") else FileSink
    sink = make(tmp_path / name, overwrite=True, protected=[file])
    assert "file that is being read" in await _refused(sink, info_of())
    sink = MaskSink(tmp_path / name, overwrite=True, protected=[file])
    assert "file that is being read" in await _refused(sink, info_of())
    assert file.read_bytes() == b"background"
    async with closing(make(tmp_path / f"other_{name}", protected=[file])) as neighbour:
        await write(neighbour, [make_frame(0)])


async def test_a_sequence_does_not_overwrite_the_pictures_it_is_made_of(tmp_path: Path) -> None:
    files = []
    for number in range(3):
        files.append(str(tmp_path / f"in_{number:03d}.png"))
        (tmp_path / f"in_{number:03d}.png").write_bytes(b"in")
    (tmp_path / "out_001.png").symlink_to(files[1])
    info = info_of(name="in_%03d.png", files=files)
    for pattern in ("in_%03d.png", "out_%03d.png"):
        sink = FileSink(tmp_path / pattern, overwrite=True)
        assert "file that is being read" in await _refused(sink, info)
    # Other names of the same folder are free: %d never writes in_000.png.
    async with closing(FileSink(tmp_path / "in_%d.png")) as free:
        await write(free, [make_frame(0)], info)
    assert _contents(tmp_path, files) == [b"in"] * 3


# --- pictures ----------------------------------------------------------------------------------


def _old_sequence(folder: Path) -> dict[str, bytes]:
    for number in range(5):
        (folder / f"o_{number:05d}.png").write_bytes(b"old %d" % number)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


async def _replace(folder: Path) -> None:
    async with closing(FileSink(folder / "o_%05d.png", overwrite=True)) as sink:
        await write(sink, [make_frame(i) for i in range(5)])


async def test_a_folder_in_the_way_leaves_the_older_pictures(tmp_path: Path) -> None:
    before = _old_sequence(tmp_path)
    (tmp_path / "o_00003.png").unlink()
    (tmp_path / "o_00003.png").mkdir()
    with pytest.raises(SinkWriteError, match=r"o_00003\.png is a directory"):
        await _replace(tmp_path)
    assert listing(tmp_path) == sorted(before)
    for name, content in before.items():
        assert name == "o_00003.png" or (tmp_path / name).read_bytes() == content


async def test_a_failing_move_brings_the_older_pictures_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = _old_sequence(tmp_path)
    original = images_module.move

    def fail(source: Path, place: Path, *, overwrite: bool) -> None:
        if place.name == "o_00003.png" and source.parent.suffix == ".part":
            raise OSError(errno.EIO, "Input/output error")
        original(source, place, overwrite=overwrite)

    monkeypatch.setattr(images_module, "move", fail)
    with pytest.raises(SinkWriteError, match="Input/output error"):
        await _replace(tmp_path)
    assert listing(tmp_path) == sorted(before)
    assert _contents(tmp_path, before) == list(before.values())


async def test_pictures_are_replaced_with_their_rights_and_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = _old_sequence(tmp_path)
    (tmp_path / "o_00002.png").chmod(0o600)
    synced: list[Path] = []
    monkeypatch.setattr(images_module, "sync_folder", synced.append)
    await _replace(tmp_path)
    assert listing(tmp_path) == sorted(before)
    assert all((tmp_path / name).read_bytes() != content for name, content in before.items())
    assert (tmp_path / "o_00002.png").stat().st_mode & 0o777 == 0o600
    assert synced == [tmp_path]


@pytest.mark.parametrize("damage", [b"", b"\x89PNG\r\n\x1a\nbroken"])
async def test_a_damaged_picture_is_found_by_finish(tmp_path: Path, damage: bytes) -> None:
    async with closing(FileSink(tmp_path / "p_%d.png")) as sink:
        await sink.open(info_of())
        for number in range(3):
            await sink.send(make_frame(number))
        while sink.statistics().written < 3:
            await anyio.sleep(0.01)
        (folder,) = leftovers(tmp_path)
        (tmp_path / folder / "p_2.png").write_bytes(damage)
        with pytest.raises(SinkWriteError, match=r"empty or missing|cannot be read back"):
            await sink.finish()
    assert listing(tmp_path) == []


@pytest.mark.parametrize(
    "name", ["p_%5d.png", "p_%+d.png", "p_%00d.png", "p_%0999d.png", "%d%d.png"]
)
async def test_only_usual_numbers_in_names(tmp_path: Path, name: str) -> None:
    message = await _refused(FileSink(tmp_path / name), info_of())
    assert "%d or such as %05d" in message
    assert listing(tmp_path) == []


# --- side data of frames -----------------------------------------------------------------------


def _png(path: Path) -> Path:
    """A picture of 16x16 with a colour profile, whose name is metadata of the side data."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        check = zlib.crc32(kind + body)
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", check)

    rows = b"".join(b"\0" + bytes([row * 10, 99, 200]) * 16 for row in range(16))
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 16, 16, 8, 2, 0, 0, 0))
        + chunk(b"iCCP", b"a profile\0\0" + zlib.compress(bytes(200)))
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )
    return path


def _jpeg(path: Path) -> Path:
    """A picture of 16x16 that EXIF says to turn."""
    context: Any = av.CodecContext.create("mjpeg", "w")
    context.width, context.height, context.pix_fmt = 16, 16, "yuvj420p"
    context.time_base = Fraction(1, 25)
    frame = make_frame(0, 0, width=16, height=16, pixel_format="yuvj420p").video
    data = b"".join(bytes(p) for p in [*context.encode(frame), *context.encode(None)])
    entry = struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0)
    tiff = b"II*\0" + struct.pack("<IH", 8, 1) + entry + struct.pack("<I", 0)
    exif = b"Exif\0\0" + tiff
    segment = b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif
    path.write_bytes(data[:2] + segment + data[2:])
    return path


@pytest.mark.parametrize("kind", ["png", "jpg"])
@pytest.mark.parametrize("transfer", [2, 16])
def test_pictures_with_odd_side_data_become_videos(
    tmp_path: Path, kind: str, transfer: int
) -> None:
    """In a process of its own: reading side data by PyAV ends the process."""
    source = _png(tmp_path / "in.png") if kind == "png" else _jpeg(tmp_path / "in.jpg")
    code = f"""
import asyncio, gc, av
from streamseg.frames import Frame
from streamseg.sinks import FileSink
from tests.unit.sinks.helpers import info_of
async def main():
    with av.open({str(source)!r}) as container:
        video = next(container.decode(video=0))
    video.color_trc = {transfer}
    async with FileSink({str(tmp_path / "out.mp4")!r}) as sink:
        await sink.open(info_of(width=16, height=16))
        await sink.send(Frame(video, 0, 0.0))
        await sink.finish()
        await sink.commit()
    del video
    gc.collect()
asyncio.run(main())
gc.collect()
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert len(read(tmp_path / "out.mp4").decoded) == 1


def test_safe_side_data_leaves_out_what_was_not_asked_for(tmp_path: Path) -> None:
    with av.open(str(_png(tmp_path / "in.png"))) as container:
        png = next(container.decode(video=0))
    assert safe_side_data(png) == {}
    with av.open(str(_jpeg(tmp_path / "in.jpg"))) as container:
        jpeg = next(container.decode(video=0))
    found = safe_side_data(jpeg)
    assert set(found) == {"DISPLAYMATRIX"}
    assert len(found["DISPLAYMATRIX"]) == 36
    assert safe_side_data(jpeg, ["CONTENT_LIGHT_LEVEL"]) == {}
    del png, jpeg
    gc.collect()


def test_a_picture_does_not_stay_in_memory_when_its_side_data_was_read(tmp_path: Path) -> None:
    with av.open(str(_jpeg(tmp_path / "in.jpg"))) as container:
        jpeg = next(container.decode(video=0))
    gc.collect()
    gc.disable()
    try:
        assert set(safe_side_data(jpeg)) == {"DISPLAYMATRIX"}
        assert gc.collect() == 0  # nothing was left for it to find
    finally:
        gc.enable()
    del jpeg
    gc.collect()


# --- converted sound and subtitles -------------------------------------------------------------


async def _play_damaged(source: Path, target: Path, kind: str, numbers: set[int]) -> FileSink:
    sink = FileSink(target)
    seen = 0
    async with closing(sink):
        with av.open(str(source)) as container:
            await sink.open(info_from(container, str(source)))
            for event in events(container):
                if not isinstance(event, list):
                    await sink.send(event)
                    continue
                packet = event[0]
                if packet.stream.type == kind:
                    if seen in numbers:
                        bad = av.Packet(b"\xff" * packet.size)
                        bad.stream, bad.pts, bad.dts = packet.stream, packet.pts, packet.dts
                        bad.time_base, bad.duration = packet.time_base, packet.duration
                        packet = bad
                    seen += 1
                await sink.send_packets([packet])
            await sink.finish()
            await sink.commit()
    return sink


@pytest.mark.parametrize("numbers", [{0}, {10}, {10, 11, 30}, "last"])
async def test_damaged_sound_does_not_cost_the_file(tmp_path: Path, numbers: Any) -> None:
    clip = make_clip(tmp_path / "in.mp4", frames=50, audio_tracks=1)
    if numbers == "last":
        with av.open(str(clip.path)) as container:
            numbers = {sum(bool(p.size) for p in container.demux(audio=0)) - 1}
    sink = await _play_damaged(clip.path, tmp_path / "out.webm", "audio", numbers)
    lines = [line for line in sink.notices if "damaged packets" in line]
    assert len(lines) == 1, sink.notices
    after = read(tmp_path / "out.webm")
    assert len(after.times) == 50
    assert after.side_times[1][-1] > 1.5


async def test_sound_without_times_follows_on(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mp4", frames=50, audio_tracks=1)
    sink = FileSink(tmp_path / "out.webm")
    seen = 0
    async with closing(sink):
        with av.open(str(clip.path)) as container:
            await sink.open(info_from(container, str(clip.path)))
            for event in events(container):
                if isinstance(event, list):
                    seen += 1
                    if seen > 5:
                        event[0].pts = None
                    await sink.send_packets(event)
                else:
                    await sink.send(event)
            await sink.finish()
            await sink.commit()
    assert read(tmp_path / "out.webm").side_times[1][-1] > 1.5


# --- cancelling --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def long_sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("long") / "long.mp4"
    return make_clip(path, frames=5, audio_tracks=1, audio_s=600).path


@pytest.mark.parametrize("at_once", [True, False])
async def test_cancelling_while_sound_is_converted(
    tmp_path: Path, long_sound: Path, at_once: bool
) -> None:
    sink = FileSink(tmp_path / "out.webm")
    threads = threading.active_count()
    with anyio.move_on_after(0.5) as scope:
        async with closing(sink):
            with av.open(str(long_sound)) as container:
                await sink.open(info_from(container, "long"))
                packets: list[Any] = []
                for event in events(container):
                    if isinstance(event, list):
                        packets += event
                    else:
                        await sink.send(event)
                for some in [packets] if at_once else [[packet] for packet in packets]:
                    await sink.send_packets(some)
                await sink.finish()
    assert scope.cancelled_caught
    assert leftovers(tmp_path) == []
    assert threading.active_count() <= threads


async def test_a_thread_that_does_not_end_loses_its_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from streamseg.sinks import movie as movie_module

    release = threading.Event()
    monkeypatch.setattr(movie_module.MovieWriter, "_check_change", lambda *_: release.wait(10))
    sink = FileSink(tmp_path / "out.mp4")
    try:
        async with closing(sink):
            await sink.open(info_of())
            for number in range(3):
                await sink.send(make_frame(number))
            await anyio.sleep(0.2)
            assert len(leftovers(tmp_path)) == 1
            start = time.perf_counter()
        assert time.perf_counter() - start < 2.5
        assert listing(tmp_path) == []
    finally:
        release.set()


# --- messages ----------------------------------------------------------------------------------


async def test_names_with_line_ends_make_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "a\nb"
    folder.mkdir()
    for name in ("x\ny.mp4", "x\ny.png", "x\ny_%d.png", "x\ny.jsonl"):
        (folder / name.replace("%d", "0")).write_bytes(b"old")
        message = await _refused(MaskSink(folder / name), info_of())
        assert message.isprintable()
        assert "exists" in message
    for name in ("x\ny.xyz", "none\n/x.mp4"):
        for make in (FileSink, MaskSink):
            message = await _refused(make(folder / name), info_of())
            assert message.isprintable()


async def test_a_clip_still_plays_through(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mp4", frames=10, audio_tracks=1, subtitle_tracks=1)
    async with closing(FileSink(tmp_path / "out.mp4")) as sink:
        await play(clip.path, sink)
    assert len(read(tmp_path / "out.mp4").times) == 10
