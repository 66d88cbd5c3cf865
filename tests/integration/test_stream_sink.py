"""StreamSink against real peers: FFmpeg, sockets, an HTTP server; alive, dead, deaf and rude."""

from __future__ import annotations

import gc
import socket
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
import av
import numpy as np
import psutil
import pytest

from streamseg.errors import SinkOpenError, SinkWriteError
from streamseg.frames import Frame
from streamseg.sinks import connection as connection_module
from streamseg.sinks.stream import StreamSink
from tests.support.clips import draw_frame, make_clip, read_frame_number
from tests.support.programs import needs_program
from tests.support.servers import free_port
from tests.support.sink_factories import Held, TcpReceiver, ffmpeg_listener, wait_for
from tests.unit.sinks.helpers import closing, events, info_from, info_of, play, read

if TYPE_CHECKING:
    from collections.abc import Iterator


pytestmark = [pytest.mark.anyio, pytest.mark.integration]

ROOT = Path(__file__).parents[2]
MS = Fraction(1, 1000)
INFO = info_of(width=320, height=180, time_base=MS, rate=Fraction(30))


def _frame(number: int) -> Frame:
    video = draw_frame(number)
    video.pts, video.time_base = 5_000_000 + number * 33, MS
    return Frame(video, number, 0.0)


def _noise(number: int) -> Frame:
    samples = np.random.default_rng(number).integers(0, 255, (270, 320), np.uint8)
    video = av.VideoFrame.from_ndarray(samples, format="yuv420p")
    video.pts, video.time_base = number * 33, MS
    return Frame(video, number, 0.0)


def _free_udp_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(autouse=True)
def _nothing_stays() -> Iterator[None]:
    before = Held.now()
    yield
    gc.collect()
    assert not Held.now().holds_more_than(before)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clips") / "live.mkv"
    make_clip(path, frames=60, start_s=500, audio_tracks=1, audio_s=2.4)
    return path


# --- what arrives -------------------------------------------------------------------------------


@needs_program("ffmpeg")
@pytest.mark.parametrize("scheme", ["rtmp", "rtsp", "tcp", "udp", "http", "srt"])
async def test_pictures_and_sound_arrive_in_time(tmp_path: Path, clip: Path, scheme: str) -> None:
    port = _free_udp_port() if scheme in {"udp", "srt"} else free_port()
    out = tmp_path / "got.mkv"
    with ffmpeg_listener(scheme, port, out) as (url, process):
        async with closing(StreamSink(url)) as sink:
            with av.open(str(clip)) as container:
                await sink.open(info_from(container, "live"))
                for event in events(container):
                    if isinstance(event, list):
                        await sink.send_packets(event)
                        continue
                    await sink.send(event)
                    # Datagrams that come faster than they are read are lost.
                    await anyio.sleep(0.01 if scheme in {"udp", "srt"} else 0)
                await sink.finish()
                await sink.commit()
            assert "secret" not in repr(sink)
            statistics = sink.statistics()
        process.wait(10)
    assert (statistics.accepted, statistics.written, statistics.dropped) == (60, 60, {})
    result = read(out)
    with av.open(str(out)) as container:
        numbers = [read_frame_number(frame) for frame in container.decode(video=0)]
    # What SRT's receiver still holds when the connection ends is lost in FFmpeg.
    least = 50 if scheme == "srt" else 60
    assert numbers == list(range(len(numbers)))
    assert len(numbers) >= least
    assert result.codecs == ["h264", "aac"]
    assert abs(result.side_times[1][0] - result.times[0]) < Fraction(1, 30)
    spacing = [b - a for a, b in zip(result.times, result.times[1:], strict=False)]
    assert all(abs(step - Fraction(1, 25)) <= 2 * MS for step in spacing)
    if least == 60:
        assert len(result.payloads[1]) >= len(read(clip).payloads[1]) - 3


@needs_program("ffmpeg")
@pytest.mark.parametrize(
    ("scheme", "name", "codec", "words"),
    [
        ("tcp", "in.mkv", "libopus", "does not hold opus"),
        ("rtmp", "in.mkv", "libopus", "does not hold opus"),
        # AAC from MPEG-TS: its parameters are in every packet, and nowhere else.
        ("rtmp", "in.ts", "aac", "AAC without its header"),
        ("rtsp", "in.ts", "aac", "AAC without its header"),
    ],
)
async def test_sound_that_does_not_fit_is_converted_with_a_notice(
    tmp_path: Path, scheme: str, name: str, codec: str, words: str
) -> None:
    make_clip(tmp_path / name, frames=50, audio_tracks=1, audio_codec=codec)
    with ffmpeg_listener(scheme, free_port(), tmp_path / "got.mkv") as (url, process):
        async with closing(StreamSink(url)) as sink:
            await play(tmp_path / name, sink)
            assert any("is converted to aac" in line and words in line for line in sink.notices)
        assert sink.statistics().written == 50
        process.wait(10)
    result = read(tmp_path / "got.mkv")
    assert result.codecs == ["h264", "aac"]
    assert abs(result.side_times[1][-1] - result.times[-1]) < Fraction(1, 10)


async def test_encoder_holds_nothing_back_and_repeats_its_headers() -> None:
    with TcpReceiver() as receiver:
        async with closing(StreamSink(receiver.url, bitrate="1M")) as sink:
            await sink.open(INFO)
            for number in range(100):
                await sink.send(_frame(number))
            while sink.statistics().written < 100:
                await anyio.sleep(0.01)
            await sink.finish()
        data = bytes(receiver.streams[0])
    # Sequence parameter sets: at 0, and every two seconds or sooner.
    assert data.count(b"\0\0\0\1\x67") >= 2
    assert receiver.numbers(0) == list(range(100))


async def test_alpha_is_refused_not_dropped() -> None:
    # Without its alpha a cut-out picture shows the room that was cut out.
    with TcpReceiver() as receiver:
        async with closing(StreamSink(receiver.url)) as sink:
            await sink.open(INFO)
            video = draw_frame(0, pixel_format="yuva420p")

            async def send() -> None:
                await sink.send(_frame(0).with_video(video))
                await sink.finish()

            with pytest.raises(SinkWriteError, match="alpha channel"):
                await send()
    assert not receiver.streams or not receiver.streams[0] or receiver.numbers(0) == []


# --- breaks -------------------------------------------------------------------------------------


async def test_broken_connection_is_made_again_and_losses_are_counted() -> None:
    first = TcpReceiver()
    async with closing(StreamSink(first.url)) as sink:
        await sink.open(INFO)
        number = 0
        while len(first.streams) == 0 or len(first.streams[0]) < 20_000:
            await sink.send(_frame(number))
            number += 1
            await anyio.sleep(0.01)
        first.close()
        while "disconnected" not in sink.statistics().dropped:
            await sink.send(_frame(number))
            number += 1
            await anyio.sleep(0.01)
        with TcpReceiver(port=first.port) as second:
            while not second.streams or len(second.streams[0]) < 20_000:
                await sink.send(_frame(number))
                number += 1
                await anyio.sleep(0.01)
            await sink.finish()
    statistics = sink.statistics()
    assert statistics.reconnects == 1
    assert statistics.accepted == number
    assert statistics.written + statistics.dropped["disconnected"] == number
    assert set(statistics.dropped) == {"disconnected"}
    before, after = first.numbers(0), second.numbers(0)
    assert before == list(range(len(before)))
    assert after == list(range(after[0], number))  # a keyframe first: all can be decoded
    assert after[0] > before[-1]


@needs_program("ffmpeg")
async def test_killed_rtmp_server_is_found_again(tmp_path: Path) -> None:
    port = free_port()
    number = 0
    with ffmpeg_listener("rtmp", port, tmp_path / "a.flv") as (url, process):
        sink = StreamSink(url)
        await sink.open(INFO)
        while sink.statistics().written < 40:
            await sink.send(_frame(number))
            number += 1
        process.kill()
    async with closing(sink):
        while not sink.statistics().dropped:
            await sink.send(_frame(number))
            number += 1
            await anyio.sleep(0.01)
        with ffmpeg_listener("rtmp", port, tmp_path / "b.mkv") as (_, process):
            before = sink.statistics().written
            while sink.statistics().written < before + 60:
                await sink.send(_frame(number))
                number += 1
                await anyio.sleep(0.01)
            await sink.finish()
            process.wait(10)
        statistics = sink.statistics()
    assert statistics.reconnects >= 1
    assert statistics.accepted == number == statistics.written + sum(statistics.dropped.values())
    with av.open(str(tmp_path / "b.mkv")) as container:
        numbers = [read_frame_number(frame) for frame in container.decode(video=0)]
    assert numbers == list(range(number - len(numbers), number))
    assert len(numbers) >= 60


async def test_peer_that_stops_reading_is_a_break(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "_STALL_S", 0.5)
    with TcpReceiver(reads=False) as receiver:
        async with closing(StreamSink(receiver.url, bitrate="50M")) as sink:
            await sink.open(INFO)
            number = 0
            while not sink.statistics().dropped.get("disconnected"):
                assert number < 4000
                await sink.send(_noise(number))
                number += 1
            while len(receiver.streams) < 2:
                await sink.send(_noise(number))
                number += 1
                await anyio.sleep(0.01)


async def test_closing_while_the_peer_reads_nothing_takes_no_time() -> None:
    with TcpReceiver(reads=False) as receiver:
        async with closing(StreamSink(receiver.url, bitrate="50M")) as sink:
            await sink.open(INFO)
            with anyio.move_on_after(1.5) as scope:
                for number in range(4000):
                    await sink.send(_noise(number))
            assert scope.cancelled_caught  # send waits: the window is full
            start = time.perf_counter()
        assert time.perf_counter() - start < 2
    statistics = sink.statistics()
    assert statistics.accepted == statistics.written + sum(statistics.dropped.values())


async def test_trying_in_vain_ends_with_one_error() -> None:
    receiver = TcpReceiver()
    async with closing(StreamSink(receiver.url, reconnect_window_s=1)) as sink:
        await sink.open(INFO)
        await sink.send(_frame(0))
        receiver.close()

        async def go_on() -> None:
            for number in range(1, 1000):
                await sink.send(_frame(number))
                await anyio.sleep(0.01)

        start = time.perf_counter()
        with pytest.raises(SinkWriteError, match="refused; is a server listening there") as caught:
            await go_on()
        assert 0.9 < time.perf_counter() - start < 5
    assert "\n" not in str(caught.value)
    statistics = sink.statistics()
    assert statistics.accepted == statistics.written + sum(statistics.dropped.values())


async def test_without_reconnecting_a_break_is_an_error() -> None:
    receiver = TcpReceiver()
    async with closing(StreamSink(receiver.url, reconnect=False)) as sink:
        await sink.open(INFO)
        receiver.close()

        async def go_on() -> None:
            for number in range(1000):
                await sink.send(_frame(number))
                await anyio.sleep(0.01)

        with pytest.raises(SinkWriteError, match="any more"):
            await go_on()


_STREAM = """
import sys, anyio
sys.path.insert(0, {root!r})
from tests.integration.test_stream_sink import INFO, _noise
from streamseg.sinks.stream import StreamSink

async def main():
    sink = StreamSink({url!r}, bitrate="50M")
    await sink.open(INFO)
    for number in range(100_000):
        await sink.send(_noise(number))

anyio.run(main)
"""


@pytest.mark.parametrize("reads", [True, False])
def test_killed_process_leaves_no_relay(reads: bool) -> None:
    with TcpReceiver(reads=reads) as receiver:
        code = _STREAM.format(root=str(ROOT), url=receiver.url)
        with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT) as process:
            wait_for(lambda: bool(receiver.streams), "connection")
            if reads:
                wait_for(lambda: len(receiver.streams[0]) > 100_000, "data")
            (relay,) = psutil.Process(process.pid).children()
            process.kill()
        wait_for(lambda: not relay.is_running(), "end of the relay", 5)


# --- the first connection -----------------------------------------------------------------------


async def _refusal(url: str, **options: float) -> str:
    sink = StreamSink(url, **options)  # type: ignore[arg-type]
    async with closing(sink):
        with pytest.raises(SinkOpenError) as caught:
            await sink.open(INFO)
    message = str(caught.value)
    assert "\n" not in message
    assert "hunter2" not in message + repr(sink) + repr(caught.value.__cause__)
    return message


@pytest.mark.parametrize(
    "url",
    [
        "rtmp://127.0.0.1:{port}/live/hunter2",
        "rtsp://me:hunter2@127.0.0.1:{port}/x",
        "tcp://127.0.0.1:{port}",
        "http://127.0.0.1:{port}/x?token=hunter2",
    ],
)
async def test_refused_connection_is_one_line_without_credentials(url: str) -> None:
    message = await _refusal(url.format(port=free_port()))
    assert "refused; is a server listening there?" in message
    assert "127.0.0.1" in message


async def test_server_that_says_nothing_is_not_waited_for() -> None:
    with TcpReceiver(reads=False) as receiver:
        start = time.perf_counter()
        url = f"rtmp://127.0.0.1:{receiver.port}/live/hunter2"
        assert "no answer within 0.7 s" in await _refusal(url, connect_timeout_s=0.7)
        assert time.perf_counter() - start < 2


async def test_cancelling_while_connecting_takes_no_time() -> None:
    with TcpReceiver(reads=False) as receiver:
        sink = StreamSink(f"rtmp://127.0.0.1:{receiver.port}/live/x")
        async with closing(sink):
            start = time.perf_counter()
            with anyio.move_on_after(0.5) as scope:
                await sink.open(INFO)
            assert scope.cancelled_caught
            assert time.perf_counter() - start < 2


async def test_loop_goes_on_while_the_sink_connects_and_waits() -> None:
    worst = 0.0
    with TcpReceiver(reads=False) as receiver:
        sink = StreamSink(f"rtmp://127.0.0.1:{receiver.port}/live/x", connect_timeout_s=0.5)

        async def tick() -> None:
            nonlocal worst
            while True:
                start = time.perf_counter()
                await anyio.sleep(0.005)
                worst = max(worst, time.perf_counter() - start)

        async with closing(sink), anyio.create_task_group() as group:
            group.start_soon(tick)
            with pytest.raises(SinkOpenError):
                await sink.open(INFO)
            group.cancel_scope.cancel()
    assert worst < 0.2


async def test_unknown_host_is_told_as_such() -> None:
    assert "host's name is not known" in await _refusal("tcp://no-such-host.invalid:9")
