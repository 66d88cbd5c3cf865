"""StreamSource through everything that happens to a connection; the senders are real."""

from __future__ import annotations

import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import anyio
import av
import pytest

from streamseg.errors import SourceReadError
from streamseg.frames import Frame
from streamseg.sources.reconnect import Reconnect
from streamseg.sources.stream import StreamSource
from tests.support.clips import make_clip, read_frame_number
from tests.support.programs import needs_program
from tests.support.servers import Chunk, Peer, Server, chunks_of, free_port
from tests.support.source_factories import FRAMES, RATE, Media, pushed

pytestmark = [pytest.mark.integration, pytest.mark.anyio, pytest.mark.timeout(30)]

SOON = Reconnect(first_delay_s=0.05, max_delay_s=0.2, give_up_after_s=10)


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Media:
    return Media(tmp_path_factory.mktemp("media"))


@pytest.fixture
def nothing_left() -> Iterator[None]:
    """Fail a test that leaves a thread to itself for longer than FFmpeg's timeouts."""
    before = set(threading.enumerate())
    yield
    for thread in set(threading.enumerate()) - before:
        if thread.name.startswith("streamseg"):
            thread.join(3)
            assert not thread.is_alive()


def play(chunks: list[Chunk]) -> Callable[[Peer], None]:
    def script(peer: Peer) -> None:
        peer.accept()
        peer.play(chunks)
        peer.stall()

    return script


def check_order(frames: list[Frame]) -> None:
    assert all(a.index < b.index for a, b in pairwise(frames))
    assert all(a.pts < b.pts for a, b in pairwise(frames))  # type: ignore[operator]


def longest_gap(frames: list[Frame]) -> tuple[Frame, Frame]:
    return max(pairwise(frames), key=lambda pair: pair[1].pts - pair[0].pts)  # type: ignore[operator]


def check_gap(frames: list[Frame]) -> None:
    """The gap in the pictures' time is as long as the gap on the clock."""
    a, b = longest_gap(frames)
    assert a.pts_s is not None
    assert b.pts_s is not None
    # The new connection may have sent some at once, of which the newest was received.
    tolerance_s = 0.02 + (b.index - a.index - 1) / RATE
    assert b.pts_s - a.pts_s == pytest.approx(b.captured_s - a.captured_s, abs=tolerance_s)


async def receive(source: StreamSource, count: int) -> list[Frame]:
    return [await source.receive() for _ in range(count)]


def listens(port: int) -> bool:
    return f":{port:04X} 00000000:0000 0A" in Path("/proc/net/tcp").read_text()


async def drain(source: StreamSource, frames: list[Frame]) -> None:
    """Receive until that raises."""
    while True:
        frames.append(await source.receive())


# ---- a server that dies ----


@pytest.mark.parametrize("scheme", ["http", "tcp"])
async def test_the_picture_resumes_when_the_server_is_back(
    media: Media, scheme: str, nothing_left: None
) -> None:
    with Server(play(media.chunks), http=scheme == "http") as server:
        async with StreamSource(server.url(scheme), reconnect=SOON) as source:
            frames = await receive(source, 10)
            server.kill()
            await anyio.sleep(0.5)  # is the length of the gap
            server.start()
            while source.statistics().reconnects == 0:
                frames.append(await source.receive())
            frames += await receive(source, 5)
            statistics, notices = source.statistics(), source.notices

    check_order(frames)
    check_gap(frames)
    assert statistics.reconnects == 1
    assert statistics.delivered == len(frames)
    a, b = longest_gap(frames)
    gap_s = b.captured_s - a.captured_s
    assert 0.5 < gap_s < 2
    assert not [n for n in notices if "jumped" in n]
    assert [n for n in notices if "made again" in n and f"{gap_s:.1f} s" in n]


@needs_program("ffmpeg")
async def test_an_ffmpeg_server_may_be_killed_and_started_again(media: Media) -> None:
    port = free_port()
    command = ["ffmpeg", "-loglevel", "error", "-nostdin", "-re", "-stream_loop", "-1"]
    command += ["-i", str(media.transport_stream), "-c", "copy", "-f", "mpegts"]
    command += [f"tcp://127.0.0.1:{port}?listen=1"]

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(command, stderr=subprocess.DEVNULL)

    server = start()
    try:
        # It listens as soon as the kernel says so, and accepts one connection only.
        while not listens(port):
            await anyio.sleep(0.01)
        async with StreamSource(f"tcp://127.0.0.1:{port}", reconnect=SOON) as source:
            frames = await receive(source, 10)
            server.kill()
            server.wait(5)
            server = start()
            with anyio.fail_after(10):
                while source.statistics().reconnects == 0:
                    frames.append(await source.receive())
            frames += await receive(source, 5)
    finally:
        server.kill()
        server.wait(5)
    check_order(frames)
    check_gap(frames)


@needs_program("ffmpeg")
async def test_an_rtmp_sender_that_states_a_length_may_come_again(tmp_path: Path) -> None:
    """It begins at 0 again: what it sends is not a part of a file that was seen already."""
    clip = make_clip(tmp_path / "long.mp4", frames=250, rate=RATE).path
    url = f"rtmp://127.0.0.1:{free_port()}/live/key"
    with pushed(clip, url, format_name="flv", loop=False) as sender:
        async with StreamSource(url, options={"listen": "1"}, reconnect=SOON) as source:
            frames = await receive(source, 40)
            await anyio.run_process(["pkill", "-KILL", "-P", str(sender.pid)])
            with anyio.fail_after(8):
                while source.statistics().reconnects == 0:
                    frames.append(await source.receive())
                frames += await receive(source, 5)
    check_order(frames)
    assert max(read_frame_number(frame.video) for frame in frames[-5:]) < 40


async def test_sound_stays_with_the_picture_through_a_reconnect(media: Media) -> None:
    """Each packet's, and each picture's, time in the clip is known by what is in it."""
    sound: dict[bytes, Fraction] = {}
    seen: Counter[bytes] = Counter()
    with av.open(str(media.transport_stream)) as clip:
        begin = None
        for packet in clip.demux(video=0, audio=0):
            if packet.stream.type == "audio" and packet.pts is not None:
                # Packets of silence are all alike and tell nothing.
                seen[bytes(packet)] += 1
                sound[bytes(packet)] = packet.pts * packet.time_base
            elif packet.pts is not None and begin is None:
                begin = packet.pts * packet.time_base
    assert begin is not None
    picture_moves: list[float] = []
    sound_moves: list[float] = []
    stamps: list[int] = []

    with Server(play(media.chunks)) as server:
        async with StreamSource(server.url("http"), reconnect=SOON) as source:
            info = await source.open()
            (stream,) = info.side_streams
            for reconnects in range(2):
                number = 0
                while number < FRAMES // 2 or source.statistics().reconnects < reconnects:
                    frame = await source.receive()
                    assert frame.pts_s is not None
                    number = read_frame_number(frame.video)
                    picture_moves.append(frame.pts_s - float(begin + Fraction(number, RATE)))
                    for packet in source.take_packets():
                        assert packet.stream is stream
                        moment = float(packet.pts * packet.time_base)
                        stamps.append(packet.dts)
                        if seen[bytes(packet)] == 1:
                            sound_moves.append(moment - float(sound[bytes(packet)]))
                server.kill()
                server.start()

    assert all(a < b for a, b in pairwise(stamps))
    moves = sorted({round(move, 3) for move in picture_moves})
    assert len(moves) == 2, moves
    for move in sound_moves:
        assert min(abs(move - other) for other in moves) < 0.002
    for other in moves:
        assert sum(abs(move - other) < 0.002 for move in sound_moves) > 5


async def test_it_gives_up_in_the_end_and_says_why(media: Media) -> None:
    plan = Reconnect(first_delay_s=0.05, max_delay_s=0.1, give_up_after_s=0.4)
    with Server(play(media.chunks)) as server:
        async with StreamSource(server.url("http"), reconnect=plan) as source:
            await receive(source, 3)
            server.kill()
            begin_s = time.monotonic()
            with anyio.fail_after(5), pytest.raises(SourceReadError) as caught:
                await drain(source, [])
            assert 0.35 < time.monotonic() - begin_s < 1.5
            with pytest.raises(SourceReadError):
                await source.receive()
    message = str(caught.value)
    assert "could not be made again for 0.4 s" in message
    assert "refused" in message
    assert "\n" not in message


async def test_without_a_plan_a_break_is_an_error(media: Media) -> None:
    with Server(play(media.chunks)) as server:
        async with StreamSource(server.url("http"), reconnect=None) as source:
            await receive(source, 3)
            server.kill()
            with anyio.fail_after(5), pytest.raises(SourceReadError, match="connection ended"):
                await drain(source, [])
            statistics = source.statistics()
    assert statistics.reconnects == 0


async def test_a_file_on_a_server_goes_on_where_it_stopped(media: Media) -> None:
    data = media.movie.read_bytes()
    requests: list[str] = []

    def script(peer: Peer) -> None:
        asked = peer.headers.get("range", "bytes=0-")
        requests.append(asked)
        begin = int(asked.removeprefix("bytes=").partition("-")[0])
        peer.respond(
            "206 Partial Content",
            f"Content-Length: {len(data) - begin}",
            f"Content-Range: bytes {begin}-{len(data) - 1}/{len(data)}",
            "Accept-Ranges: bytes",
        )
        end = len(data) * 2 // 3 if peer.number == 0 else len(data)
        peer.send(data[begin:end])

    with Server(script) as server:
        async with StreamSource(server.url("http"), reconnect=SOON) as source:
            frames: list[Frame] = []
            with anyio.fail_after(10), pytest.raises(anyio.EndOfStream):
                await drain(source, frames)
            statistics = source.statistics()
    check_order(frames)
    numbers = [read_frame_number(frame.video) for frame in frames]
    assert all(a < b for a, b in pairwise(numbers))
    assert numbers[0] == 0
    assert numbers[-1] == FRAMES - 1
    assert statistics.reconnects == 1


# ---- a server that is there, but ... ----


async def test_a_sender_that_stalls_is_connected_to_again(media: Media, nothing_left: None) -> None:
    def script(peer: Peer) -> None:
        peer.accept()
        peer.play(media.chunks, until_s=0.5 if peer.number == 0 else None)
        peer.stall()

    with Server(script) as server:
        source = StreamSource(server.url("http"), read_timeout_s=0.4, reconnect=SOON)
        async with source:
            frames = await receive(source, 5)
            with anyio.fail_after(5):
                while source.statistics().reconnects == 0:
                    frames.append(await source.receive())
            frames += await receive(source, 5)
    check_order(frames)
    check_gap(frames)
    assert server.accepted == 2


async def test_data_without_pictures_counts_as_a_stall(media: Media) -> None:
    """Sound goes on, the camera behind it does not."""
    sound_only = chunks_of(media.transport_stream, "mpegts", only="audio", offset_s=0.6)

    def script(peer: Peer) -> None:
        peer.accept()
        peer.play(media.chunks, until_s=0.5)
        for _ in range(20):
            peer.play(sound_only)

    with Server(script) as server:
        source = StreamSource(server.url("http"), read_timeout_s=0.3, reconnect=SOON)
        async with source:
            frames = await receive(source, 5)
            with anyio.fail_after(5):
                while source.statistics().reconnects == 0:
                    frames.append(await source.receive())
    check_order(frames)


@pytest.mark.parametrize("jump_s", [0.0, 3600.0])
async def test_a_clock_that_jumps_does_not_disturb_the_pts(media: Media, jump_s: float) -> None:
    """At the second round the clock is back at its beginning, or an hour ahead."""
    second_round = chunks_of(media.transport_stream, "mpegts", offset_s=jump_s)

    def script(peer: Peer) -> None:
        peer.accept()
        peer.play(media.chunks)
        peer.play(second_round)
        peer.stall()

    with Server(script) as server:
        async with StreamSource(server.url("http"), reconnect=SOON) as source:
            frames = await receive(source, 1)
            packets = []
            while frames[-1].index < FRAMES + 12:
                frames.append(await source.receive())
                packets += source.take_packets()
            statistics, notices = source.statistics(), source.notices
            base = packets[0].time_base
            times = [packet.pts * base for packet in packets]
    check_order(frames)
    assert statistics.reconnects == 0
    assert "the stream's clock jumped once: the pts go on without it" in notices
    steps = [float(b.pts_s - a.pts_s) for a, b in pairwise(frames)]  # type: ignore[operator]
    assert max(steps) < 0.5
    # Sound goes on as well: no packet is put far from the pictures.
    assert all(0 < b - a < 0.5 for a, b in pairwise(times))
    assert float(times[-1]) == pytest.approx(frames[-1].pts_s, abs=0.5)


async def test_pictures_of_a_new_size_are_fitted_to_the_first(media: Media, tmp_path: Path) -> None:
    make_clip(tmp_path / "large.ts", frames=20, size=(640, 480), b_frames=0, first_number=100)
    large = chunks_of(tmp_path / "large.ts", "mpegts", offset_s=FRAMES / RATE)

    def script(peer: Peer) -> None:
        peer.accept()
        peer.play(media.chunks)
        peer.play(large)
        peer.stall()

    with Server(script) as server:
        async with StreamSource(server.url("http"), reconnect=SOON) as source:
            frames = await receive(source, 1)
            with anyio.fail_after(5):
                while read_frame_number(frames[-1].video) < 105:
                    frames.append(await source.receive())
            notices = source.notices
            statistics = source.statistics()
    check_order(frames)
    assert {(frame.width, frame.height) for frame in frames} == {(320, 180)}
    assert [n for n in notices if "size changes from 320x180 to 640x480" in n]
    assert statistics.reconnects == 0


async def test_pictures_of_a_new_connection_are_fitted_as_well(
    media: Media, tmp_path: Path
) -> None:
    make_clip(tmp_path / "other.ts", frames=20, size=(160, 120), codec="mpeg2video", b_frames=0)
    other = chunks_of(tmp_path / "other.ts", "mpegts")

    def script(peer: Peer) -> None:
        peer.accept()
        peer.play(media.chunks if peer.number == 0 else other, until_s=0.5)

    with Server(script) as server:
        async with StreamSource(server.url("http"), reconnect=SOON) as source:
            frames = await receive(source, 1)
            with anyio.fail_after(5):
                while source.statistics().reconnects == 0:
                    frames.append(await source.receive())
    check_order(frames)
    assert {(frame.width, frame.height, frame.pixel_format) for frame in frames} == {
        (320, 180, "yuv420p")
    }


# ---- leaving it, whatever it is doing ----


def stalled(media: Media) -> Callable[[Peer], None]:
    def script(peer: Peer) -> None:
        peer.accept()
        peer.play(media.chunks, until_s=0.3)
        peer.stall()

    return script


@pytest.mark.parametrize("state", ["opening", "receiving", "stalled", "reconnecting"])
async def test_cancelling_takes_less_than_two_seconds(media: Media, state: str) -> None:
    script = {"opening": Peer.stall, "receiving": play(media.chunks)}.get(state, stalled(media))
    with Server(script) as server:
        source = StreamSource(server.url("http"))
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:

                async def work() -> None:
                    async with source:
                        await source.receive()
                        if state == "reconnecting":
                            server.kill()
                        while True:
                            await source.receive()

                group.start_soon(work)
                await anyio.sleep(0.7)  # by then it is in its state
                begin_s = time.monotonic()
                scope.cancel()
        took_s = time.monotonic() - begin_s
    assert scope.cancel_called
    assert took_s < 2
    with pytest.raises(anyio.ClosedResourceError):
        await source.receive()
