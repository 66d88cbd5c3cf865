"""RecordingSink with real encoders, files, full disks and killed processes."""

from __future__ import annotations

import ctypes
import itertools
import os
import random
import signal
import struct
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import av
import numpy as np
import pytest

from streamseg.errors import SinkOpenError, SinkWriteError
from streamseg.frames import Frame
from streamseg.sinks.recording import RecordingSink
from tests.support.clips import make_clip, read_frame_number
from tests.unit.sinks.helpers import (
    Read,
    closing,
    events,
    info_from,
    info_of,
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
MICRO = Fraction(1, 1_000_000)


def _uneven(count: int, seed: int = 1) -> list[Fraction]:
    """Times of a camera that drops pictures: in microseconds, never even."""
    choose = random.Random(seed)
    times = [Fraction(0)]
    while len(times) < count:
        times.append(times[-1] + choose.choice([33_333, 33_401, 40_007, 66_667, 21_111]) * MICRO)
    return times


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven seconds that begin at 1000 s, with uneven times and a tone."""
    path = tmp_path_factory.mktemp("clips") / "live.mp4"
    times = _uneven(180)
    make_clip(
        path,
        frames=180,
        times=times,
        time_base=MICRO,
        start_s=1000,
        audio_tracks=1,
        audio_s=float(times[-1]),
    )
    return path


def _sound(source: Read) -> list[tuple[str, Fraction]]:
    """The packets from the first picture on, with their times after it; priming lies before."""
    start = source.times[0]
    both = zip(source.payloads[1], source.side_times[1], strict=True)
    return [(payload, time - start) for payload, time in both if time >= start]


def _numbers(path: Path) -> list[int]:
    with av.open(str(path)) as container:
        return [read_frame_number(frame) for frame in container.decode(video=0)]


def _boxes(path: Path) -> list[str]:
    data, at, names = path.read_bytes(), 0, []
    while at < len(data) - 8:
        size, name = struct.unpack_from(">I4s", data, at)
        if size == 1:
            size = struct.unpack_from(">Q", data, at + 8)[0]
        names.append(name.decode())
        at += size or len(data)
    return names


# --- what is in the file ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["r.mp4", "r.mov", "r.mkv", "r.ts", "r.flv", "r.webm"])
async def test_every_picture_keeps_its_time_and_sound_is_untouched(
    tmp_path: Path, clip: Path, name: str
) -> None:
    source = read(clip)
    async with closing(RecordingSink(tmp_path / name)) as sink:
        await play(clip, sink)
        statistics = sink.statistics()
    assert (statistics.accepted, statistics.written, statistics.dropped) == (180, 180, {})
    result = read(tmp_path / name)
    assert _numbers(tmp_path / name) == list(range(180))
    tick = {"mp4": MICRO, "mov": MICRO, "ts": Fraction(1, 90_000)}.get(name[2:], Fraction(1, 1000))
    want = [time - source.times[0] for time in source.times]
    got = [time - result.times[0] for time in result.times]
    assert max(abs(a - b) for a, b in zip(got, want, strict=True)) <= (tick if tick > MICRO else 0)
    if name == "r.webm":
        assert any("converted to opus" in line for line in sink.notices)
        return
    sound = _sound(source)
    if name != "r.ts":  # which puts a header before each packet
        assert result.payloads[1] == [payload for payload, _ in sound]
    for got_s, (_, want_s) in zip(result.side_times[1], sound, strict=True):
        assert abs((got_s - result.times[0]) - want_s) <= Fraction(1, 1000)


async def test_finished_mp4_is_an_ordinary_seekable_file(tmp_path: Path, clip: Path) -> None:
    async with closing(RecordingSink(tmp_path / "r.mp4")) as sink:
        await play(clip, sink)
    assert _boxes(tmp_path / "r.mp4") == ["ftyp", "free", "mdat", "moov"]
    with av.open(str(tmp_path / "r.mp4")) as container:
        video = container.streams.video[0]
        assert video.frames == 180
        container.seek(5_000_000)
        frame = next(container.decode(video))
        assert 2.9 <= float(frame.pts * frame.time_base) <= 5
        keys = [float(p.pts * p.time_base) for p in container.demux(video) if p.is_keyframe]
        assert all(b - a <= 2.1 for a, b in itertools.pairwise(keys))


async def test_sound_long_before_its_picture_is_interleaved_in_time(
    tmp_path: Path, clip: Path
) -> None:
    with av.open(str(clip)) as container:
        info = info_from(container, "live")
        all_events = list(events(container))
        packets = [packet for event in all_events if isinstance(event, list) for packet in event]
        frames = [event for event in all_events if isinstance(event, Frame)]
        async with closing(RecordingSink(tmp_path / "r.mkv")) as sink:
            await sink.open(info)
            at = 0
            for frame in frames:
                # Two seconds ahead.
                while at < len(packets) and packets[at].pts * packets[at].time_base <= (
                    frame.pts * frame.time_base + 2
                ):
                    await sink.send_packets([packets[at]])
                    at += 1
                await sink.send(frame)
            await sink.finish()
    newest = Fraction(0)
    with av.open(str(tmp_path / "r.mkv")) as container:
        for packet in container.demux():
            if packet.size:
                time = packet.pts * packet.time_base
                assert time >= newest - Fraction(1, 2)
                newest = max(newest, time)
    assert read(tmp_path / "r.mkv").payloads[1] == [payload for payload, _ in _sound(read(clip))]


@pytest.mark.parametrize("name", ["r.mp4", "r.mov"])
async def test_aac_of_a_transport_stream_plays_also_before_the_end(
    tmp_path: Path, name: str
) -> None:
    source = tmp_path / "in.ts"
    make_clip(source, frames=100, audio_tracks=1)
    with av.open(str(source)) as container:
        async with closing(RecordingSink(tmp_path / name)) as sink:
            await sink.open(info_from(container, "live"))
            for event in events(container):
                if isinstance(event, list):
                    await sink.send_packets(event)
                else:
                    await sink.send(event)
            while sink.statistics().written < 90:
                await anyio.sleep(0.01)
            cut_off = tmp_path / f"cut_{name}"
            cut_off.write_bytes((tmp_path / name).read_bytes())
            await sink.finish()
    for path, least_s in ((cut_off, 2.5), (tmp_path / name, 3.8)):
        with av.open(str(path)) as container:
            decoded = list(container.decode(audio=0))
        assert sum(frame.samples for frame in decoded) / 48_000 > least_s


@pytest.mark.parametrize("name", ["r.mp4", "r.mkv"])
async def test_segments_split_pictures_and_sound_without_loss(
    tmp_path: Path, clip: Path, name: str
) -> None:
    async with closing(RecordingSink(tmp_path / name, segment_s=2)) as sink:
        await play(clip, sink)
        statistics = sink.statistics()
    assert statistics.written == 180
    source = read(clip)
    suffix = name[1:]
    parts = listing(tmp_path)
    assert parts == [f"r_{number:03d}{suffix}" for number in range(len(parts))]
    assert len(parts) == 4
    numbers: list[int] = []
    sound: list[str] = []
    for part in parts:
        result = read(tmp_path / part)
        numbers += _numbers(tmp_path / part)
        sound += result.payloads[1]
        with av.open(str(tmp_path / part)) as container:
            first = next(p for p in container.demux(video=0))
            assert first.is_keyframe
        assert abs(result.times[0]) <= Fraction(1, 1000)
        assert 0 <= result.side_times[1][0] < Fraction(1, 30)
        assert result.side_times[1][-1] < result.times[-1] + Fraction(1, 8)
    assert numbers == list(range(180))
    assert sound == [payload for payload, _ in _sound(source)]


async def test_sound_that_is_late_goes_into_the_file_of_its_time(
    tmp_path: Path, clip: Path
) -> None:
    with av.open(str(clip)) as container:
        info = info_from(container, "live")
        all_events = list(events(container))
        packets = [packet for event in all_events if isinstance(event, list) for packet in event]
        async with closing(RecordingSink(tmp_path / "r.mp4", segment_s=2)) as sink:
            await sink.open(info)
            at = 0
            for event in all_events:
                if isinstance(event, list):
                    continue
                await sink.send(event)
                while at < len(packets) and packets[at].pts * packets[at].time_base <= (
                    event.pts * event.time_base - Fraction(1, 2)
                ):
                    await sink.send_packets([packets[at]])
                    at += 1
            await sink.send_packets(packets[at:])
            await sink.finish()
    sound = [p for part in listing(tmp_path) for p in read(tmp_path / part).payloads[1]]
    assert sound == [payload for payload, _ in _sound(read(clip))]
    assert not any("left out" in line for line in sink.notices)


# --- what may happen to it ----------------------------------------------------------------------

_RECORD = """
import sys, anyio
sys.path.insert(0, {root!r})
from fractions import Fraction
from streamseg.frames import Frame
from streamseg.sinks.recording import RecordingSink
from tests.support.clips import draw_frame
from tests.unit.sinks.helpers import info_of

async def main():
    base = Fraction(1, 1000)
    sink = RecordingSink({path!r})
    await sink.open(info_of(width=320, height=180, time_base=base, rate=Fraction(30)))
    for number in range(4000):
        video = draw_frame(number)
        video.pts, video.time_base = number * 33, base
        await sink.send(Frame(video, number, 0.0))
        print(number, flush=True)

anyio.run(main)
"""


@pytest.mark.parametrize("name", ["r.mp4", "r.mov", "r.mkv", "r.ts"])
def test_killed_recording_plays_up_to_its_last_second(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    code = _RECORD.format(root=str(ROOT), path=str(path))
    last = -1
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            last = int(line)
            if last == 137:
                process.send_signal(signal.SIGKILL)
        process.wait(timeout=10)
    assert process.returncode == -signal.SIGKILL
    assert last >= 137
    result = read(path)
    numbers = _numbers(path)
    assert numbers == list(range(len(numbers)))
    assert last * 0.033 - float(result.times[-1] - result.times[0]) < 1.5
    assert listing(tmp_path) == [name]


@pytest.mark.parametrize("name", ["r.mp4", "r.mkv"])
async def test_closing_without_finish_keeps_what_was_recorded(tmp_path: Path, name: str) -> None:
    async with closing(RecordingSink(tmp_path / name)) as sink:
        await sink.open(info_of())
        for number in range(40):
            await sink.send(make_frame(number))
    statistics = sink.statistics()
    assert statistics.accepted == 40
    assert statistics.written + statistics.dropped.get("abandoned", 0) == 40
    assert statistics.written >= 36
    assert len(read(tmp_path / name).decoded) == statistics.written
    assert listing(tmp_path) == [name]


async def test_pictures_after_gaps_keep_their_times_beside_sound(tmp_path: Path) -> None:
    """Where sound, and not the picture after the gap, is what ends a fragment of the MP4."""
    choose = random.Random(7)
    clip = make_clip(tmp_path / "in.mp4", frames=250, audio_tracks=1).path
    sent: list[Fraction] = []
    with av.open(str(clip)) as container:
        async with closing(RecordingSink(tmp_path / "r.mp4")) as sink:
            await sink.open(info_from(container, "in"))
            left = 0
            for event in events(container):
                if isinstance(event, list):
                    await sink.send_packets(event)
                elif left:
                    left -= 1
                else:
                    left = choose.choice([0, 0, 1, 4, 8])
                    assert event.pts is not None
                    sent.append(event.pts * event.time_base)
                    await sink.send(event)
            await sink.finish()
            await sink.commit()
    assert read(tmp_path / "r.mp4").decoded == sent


async def test_cancelled_while_sending_keeps_what_was_recorded(tmp_path: Path) -> None:
    frames = [make_frame(number, width=640, height=480) for number in range(50)]
    with anyio.move_on_after(10) as scope:
        async with RecordingSink(tmp_path / "r.mp4", preset="veryslow") as sink:
            await sink.open(info_of(width=640, height=480))
            for number, frame in enumerate(frames):
                if number == 30:
                    scope.cancel()
                await sink.send(frame)
    assert scope.cancelled_caught
    assert len(read(tmp_path / "r.mp4").decoded) == sink.statistics().written >= 20


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


def _noise(number: int) -> Frame:
    samples = np.random.default_rng(number).integers(0, 255, (480, 320), np.uint8)
    video = av.VideoFrame.from_ndarray(samples, format="yuv420p")
    video.pts, video.time_base = number * 33, Fraction(1, 1000)
    return Frame(video, number, 0.0)


@pytest.mark.parametrize("name", ["r.mp4", "r.mkv", "r.ts"])
async def test_full_disk_is_one_line_and_leaves_a_file_that_plays(
    small_disk: Path, name: str
) -> None:
    # About 2 KB a picture: the disk is full after a hundred of them.
    async with closing(RecordingSink(small_disk / name, crf=44)) as sink:
        await sink.open(info_of(width=320, height=320, time_base=Fraction(1, 1000)))

        async def fill() -> None:
            for number in range(600):
                await sink.send(_noise(number))

        with pytest.raises(SinkWriteError, match="No space left on device; free some") as caught:
            await fill()
    assert "\n" not in str(caught.value)
    result = read(small_disk / name)
    assert len(result.decoded) == len(result.times) >= 15
    statistics = sink.statistics()
    assert statistics.accepted == statistics.written + statistics.dropped["abandoned"]
    assert listing(small_disk) == [name]


async def test_disk_that_fills_up_at_the_very_end_leaves_a_file_that_plays(
    small_disk: Path,
) -> None:
    async with closing(RecordingSink(small_disk / "r.mp4")) as sink:
        await sink.open(info_of())
        for number in range(200):
            await sink.send(make_frame(number))
        while sink.statistics().written < 180:
            await anyio.sleep(0.01)
        filler = small_disk / "filler"
        with filler.open("wb", buffering=0) as file:
            while os.statvfs(small_disk).f_bavail:
                file.write(bytes(os.statvfs(small_disk).f_bsize))
        with pytest.raises(SinkWriteError, match="No space left"):
            await sink.finish()
    assert len(read(small_disk / "r.mp4").decoded) >= 150


async def test_older_file_stays_until_there_are_pictures_of_the_new_one(tmp_path: Path) -> None:
    target = tmp_path / "r.mp4"
    target.write_bytes(b"old")
    target.chmod(0o640)
    async with closing(RecordingSink(target, overwrite=True)) as sink:
        await sink.open(info_of())
        await sink.send(make_frame(0))
        assert target.read_bytes() == b"old"
        number = 1
        while target.read_bytes() == b"old":
            assert number < 500
            await sink.send(make_frame(number))
            number += 1
        assert len(read(target).decoded) > 0
        await sink.finish()
    assert listing(tmp_path) == ["r.mp4"]
    assert target.stat().st_mode & 0o777 == 0o640


async def test_recording_without_pictures_leaves_the_older_file_and_nothing_else(
    tmp_path: Path,
) -> None:
    (tmp_path / "r.mp4").write_bytes(b"old")
    for name in ("r.mp4", "new.mp4"):
        async with closing(RecordingSink(tmp_path / name, overwrite=True)) as sink:
            await sink.open(info_of())
            with pytest.raises(SinkWriteError, match="no frames"):
                await sink.finish()
    assert listing(tmp_path) == ["r.mp4"]
    assert (tmp_path / "r.mp4").read_bytes() == b"old"


async def test_file_is_there_from_the_beginning(tmp_path: Path) -> None:
    async with closing(RecordingSink(tmp_path / "r.mp4")) as sink:
        await sink.open(info_of())
        assert listing(tmp_path) == ["r.mp4"]
        other = RecordingSink(tmp_path / "r.mp4")
        async with closing(other):
            with pytest.raises(SinkOpenError, match="exists; use --overwrite"):
                await other.open(info_of())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("r.avi", "could not be played after a crash; use one of .mp4"),
        ("r.gif", "could not be played after a crash"),
        ("r.png", "could not be played after a crash"),
        ("r.xyz", "unknown extension"),
        ("no/r.mp4", "does not exist; make it first"),
    ],
)
async def test_what_cannot_be_recorded_is_refused(tmp_path: Path, name: str, message: str) -> None:
    async with closing(RecordingSink(tmp_path / name)) as sink:
        with pytest.raises(SinkOpenError, match=message):
            await sink.open(info_of())
    assert listing(tmp_path) == []


async def test_segments_of_an_earlier_recording_are_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "r_004.mp4").write_bytes(b"old")
    async with closing(RecordingSink(tmp_path / "r.mp4", segment_s=60)) as sink:
        with pytest.raises(SinkOpenError, match=r"r_004.mp4: it exists"):
            await sink.open(info_of())
    assert listing(tmp_path) == ["r_004.mp4"]


async def test_source_file_is_never_recorded_over(tmp_path: Path, clip: Path) -> None:
    target = tmp_path / "in.mp4"
    os.link(clip, target)
    info: Any = info_of(files=[str(clip)])
    async with closing(RecordingSink(target, overwrite=True)) as sink:
        with pytest.raises(SinkOpenError, match="being read"):
            await sink.open(info)


async def test_alpha_that_comes_later_is_refused_not_dropped(tmp_path: Path) -> None:
    async with closing(RecordingSink(tmp_path / "r.mp4")) as sink:
        frames = [make_frame(0), make_frame(1, pixel_format="yuva420p")]
        with pytest.raises(SinkWriteError, match="alpha channel"):
            await write(sink, frames)
    assert len(read(tmp_path / "r.mp4").decoded) == 1


async def test_gap_of_minutes_is_kept(tmp_path: Path) -> None:
    frames = [make_frame(n, pts=n * 512 + (12_800 * 600 if n >= 10 else 0)) for n in range(20)]
    async with closing(RecordingSink(tmp_path / "r.mp4")) as sink:
        await write(sink, frames)
    result = read(tmp_path / "r.mp4")
    assert result.times[10] - result.times[9] == 600 + Fraction(512, 12_800)
