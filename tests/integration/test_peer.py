"""Calls between Peer and other implementations: aiortc as it comes, libwebrtc, Chromium."""

from __future__ import annotations

import asyncio
import contextlib
import json
import statistics
import time
from fractions import Fraction

import anyio
import av
import numpy as np
import pytest

from streamseg.frames import Frame, StreamInfo
from streamseg.webrtc.peer import Peer, PeerOptions
from tests.support.webrtc_peers import (
    HERE,
    NumberedTrack,
    Stock,
    Wrtc,
    chromium,
    picture,
    read_number,
    use_loopback,
)

pytestmark = [pytest.mark.integration, pytest.mark.anyio, pytest.mark.timeout(60)]

INFO = StreamInfo("test", 320, 240, "yuv420p", Fraction(1, 90_000), live=True)


@pytest.fixture(autouse=True)
def _loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    use_loopback(monkeypatch)


async def echo(peer: Peer) -> None:
    """Send back what comes, until cancelled or at its end."""
    with contextlib.suppress(anyio.EndOfStream):
        while True:
            await peer.sink.send(await peer.source.receive())


def opus(count: int) -> list[bytes]:
    """Return real Opus packets of 20 ms."""
    encoder = av.CodecContext.create("libopus", "w")
    assert isinstance(encoder, av.AudioCodecContext)
    encoder.sample_rate, encoder.format, encoder.layout = 48_000, "s16", "stereo"
    packets: list[bytes] = []
    noise = np.random.default_rng(1)
    while len(packets) < count:
        samples = noise.integers(-8000, 8000, (1, 1920), dtype=np.int16)
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="stereo")
        frame.sample_rate = 48_000
        packets += [bytes(packet) for packet in encoder.encode(frame)]
    return packets[:count]


@pytest.mark.parametrize("codec", ["H264", "VP8"])
async def test_both_ways_with_aiortc(codec: str) -> None:
    track = NumberedTrack((640, 360))
    options = PeerOptions(prefer=codec)  # type: ignore[arg-type]
    async with Stock(send=track) as other, Peer(options, name="a") as peer:
        await other.take_answer(await peer.accept(await other.offer(), sends=True, receives=True))
        info = await peer.source.open()
        assert (info.width, info.height, info.time_base) == (640, 360, Fraction(1, 90_000))
        assert info.live
        await peer.sink.open(info)
        arrived: list[tuple[int, int]] = []
        returned: list[int | None] = []

        async def look() -> None:
            while True:
                video = await other.tracks["video"].recv()
                assert isinstance(video, av.VideoFrame)
                returned.append(read_number(video))

        task = asyncio.create_task(look())
        for _ in range(20):
            frame = await peer.source.receive()
            number = read_number(frame.video)
            assert number is not None
            assert frame.pts is not None
            arrived.append((number, frame.pts))
            await peer.sink.send(frame)
        task.cancel()
        await asyncio.wait([task])
        assert None not in returned
        assert len(returned) >= 15
        assert returned == sorted(returned)  # type: ignore[type-var]
        # The time stamps are the sender's: 3000 for each of its pictures, whichever arrived.
        first = arrived[0]
        # (aiortc's encoder is one off at times.)
        wanted = [3000 * (number - first[0]) for number, _ in arrived]
        assert [pts - first[1] for _, pts in arrived] == pytest.approx(wanted, abs=2)
        assert peer.statistics().codec == codec
        sent = peer.sink.statistics()
        assert sent.written + sum(sent.dropped.values()) == sent.accepted == 20
        # One may be at the encoder still.
        assert sent.written - 1 <= peer.statistics().frames_encoded <= sent.written


async def test_a_picture_does_not_wait_for_the_next_one() -> None:
    rate = 10.0
    track = NumberedTrack(rate=rate)
    async with Stock(send=track) as other, Peer(PeerOptions(), name="a") as peer:
        await other.take_answer(await peer.accept(await other.offer(), sends=False, receives=True))
        await peer.source.open()
        late: list[float] = []
        for _ in range(12):
            frame = await peer.source.receive()
            number = read_number(frame.video)
            assert number is not None
            assert track._begun_s is not None
            late.append(time.monotonic() - track._begun_s - number / rate)
    # Without a look at the marker it is there when the next one begins: 100 ms later.
    assert statistics.median(late) < 0.07


async def test_a_slow_consumer_gets_the_newest() -> None:
    track = NumberedTrack()
    async with Stock(send=track) as other, Peer(PeerOptions(), name="a") as peer:
        await other.take_answer(await peer.accept(await other.offer(), sends=False, receives=True))
        await peer.source.open()
        ages: list[float] = []
        for _ in range(25):
            frame = await peer.source.receive()
            number = read_number(frame.video)
            assert number is not None
            assert track._begun_s is not None
            ages.append(time.monotonic() - track._begun_s - number / 30)
            await asyncio.sleep(0.12)
        counted = peer.source.statistics()
    # Of a backlog they would grow by 90 ms each, 0.9 s from the one half's middle to the other's.
    assert statistics.median(ages[15:]) - statistics.median(ages[:10]) < 0.3
    assert counted.dropped["superseded"] > 40
    assert frame.index < counted.captured <= frame.index + 8  # the last wait, and some


async def test_a_slow_viewer_is_sent_the_newest() -> None:
    async with Stock() as other, Peer(PeerOptions(), name="a") as peer:
        await other.take_answer(await peer.accept(await other.offer(), sends=True, receives=False))
        await peer.sink.open(INFO)
        await peer.connected.wait()
        for number in range(100):  # faster than any encoder
            await peer.sink.send(Frame(picture(640, 360, number), number, 0.0))
        counted = peer.sink.statistics()
        assert counted.accepted == 100
        assert counted.dropped["superseded"] > 5
        numbers = [-1]
        while numbers[-1] < 99:
            back = await asyncio.wait_for(other.tracks["video"].recv(), 2)  # type: ignore[attr-defined]
            numbers.append(read_number(back) or 0)
            if len(numbers) > 3:
                await peer.sink.send(Frame(picture(640, 360, 99), 99, 0.0))
        assert numbers == sorted(numbers)


async def test_every_picture_is_accounted_for_when_the_connection_ends() -> None:
    async with Stock() as other, Peer(PeerOptions(), name="a") as peer:
        await other.take_answer(await peer.accept(await other.offer(), sends=True, receives=False))
        await peer.sink.open(INFO)
        for number in range(3):  # before it stands
            await peer.sink.send(Frame(picture(640, 360, number), number, 0.0))
        await peer.connected.wait()
        for number in range(20):
            await peer.sink.send(Frame(picture(640, 360, number), number, 0.0))
        peer.sink.end()
        counted = peer.sink.statistics()
    assert counted.accepted == 23 == counted.written + sum(counted.dropped.values())
    assert counted.dropped["not connected"] == 1  # the one that waited for the encoder


async def test_a_watch_that_fails_ends_its_connection(caplog: pytest.LogCaptureFixture) -> None:
    async with Stock() as other, Peer(PeerOptions(), name="a") as peer:
        answer = await peer.accept(await other.offer(), sends=True, receives=False)
        connection = peer._connection
        assert connection is not None

        async def fail() -> None:
            raise ArithmeticError

        connection.getStats = fail  # type: ignore[assignment,method-assign]
        await other.take_answer(answer)
        with anyio.fail_after(10):
            await peer.closed.wait()
    assert peer.reason == "watching it failed"
    assert "watching failed: ArithmeticError" in caplog.text


async def test_sound_passes_untouched() -> None:
    packets = opus(60)
    async with Peer(PeerOptions(), name="a") as caller, Peer(PeerOptions(), name="b") as peer:
        offer = await caller.offer(sends=True, receives=True)
        await caller.take_answer(await peer.accept(offer, sends=True, receives=True))
        await caller.connected.wait()
        await peer.connected.wait()
        assert peer.audio is not None
        assert caller.audio is not None
        peer.sink.play(peer.audio)
        back: list[tuple[bytes, int]] = []
        complete = asyncio.Event()

        def take(data: bytes, pts: int) -> None:
            back.append((data, pts))
            if len(back) == len(packets):
                complete.set()

        caller.audio.listen(take)
        await asyncio.sleep(0.05)  # both have told their transports that they receive
        assert caller.sink.audio is not None
        for index, packet in enumerate(packets):
            caller.sink.audio.put(packet, 960 * index)
            await asyncio.sleep(0.002)
        await asyncio.wait_for(complete.wait(), 5)
        assert [data for data, _ in back] == packets
        assert [pts for _, pts in back] == [960 * index for index in range(len(packets))]


async def test_another_viewer_hears_it_too() -> None:
    packets = opus(20)
    async with (
        Peer(PeerOptions(), name="speaker") as speaker,
        Peer(PeerOptions(), name="room") as room,
        Peer(PeerOptions(), name="server") as server,
        Peer(PeerOptions(), name="viewer") as viewer,
    ):
        await speaker.take_answer(
            await room.accept(
                await speaker.offer(sends=True, receives=False), sends=False, receives=True
            )
        )
        await viewer.take_answer(
            await server.accept(
                await viewer.offer(sends=False, receives=True), sends=True, receives=False
            )
        )
        for one in (speaker, room, server, viewer):
            await one.connected.wait()
        assert room.audio is not None
        assert viewer.audio is not None
        server.sink.play(room.audio)
        heard: list[bytes] = []
        viewer.audio.listen(lambda data, pts: heard.append(data))
        await asyncio.sleep(0.05)
        assert speaker.sink.audio is not None
        for index, packet in enumerate(packets):
            speaker.sink.audio.put(packet, 960 * index)
            await asyncio.sleep(0.002)
        with anyio.fail_after(5):
            while len(heard) < len(packets):
                await asyncio.sleep(0.01)
        assert heard == packets


async def test_messages() -> None:
    async with Stock(data=True) as other, Peer(PeerOptions(), name="a") as peer:
        got: list[str] = []
        come = asyncio.Event()

        def take(text: str) -> None:
            got.append(text)
            come.set()

        peer.on_message = take
        peer.send_message("nobody is there yet")
        answer = await peer.accept(await other.offer(), sends=True, receives=False, data=True)
        assert other.channel is not None
        opened = asyncio.Event()
        other.channel.on("open", opened.set)
        await other.take_answer(answer)
        await asyncio.wait_for(opened.wait(), 5)
        other.channel.send(b"bytes")
        other.channel.send("x" * 4097)
        other.channel.send("hello")
        await asyncio.wait_for(come.wait(), 5)
        assert got == ["hello"]
        for number in range(200):
            other.channel.send(f"flood {number}")
        peer.send_message("back")
        with anyio.fail_after(5):
            while not other.said:
                await asyncio.sleep(0.01)
        assert other.said == ["back"]
        await asyncio.sleep(0.2)
        assert 20 <= len(got) <= 60
        with pytest.raises(ValueError, match="4096"):
            peer.send_message("x" * 4097)


async def test_libwebrtc_720p_both_ways() -> None:
    async with (
        Wrtc(size=[1280, 720], audio=True, data=True) as other,
        Peer(PeerOptions(), name="a") as peer,
    ):
        offer = await other.offer()
        answer = await peer.accept(offer, sends=True, receives=True, data=True)
        begun_s = time.monotonic()
        await other.take_answer(answer)
        info = await peer.source.open()
        assert time.monotonic() - begun_s < 2
        assert (info.width, info.height) == (1280, 720)
        await peer.sink.open(info)
        peer.sink.play(peer.audio)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(echo(peer))
            await other.until(lambda: len(other.frames) >= 90, 20)
            assert {frame[2:] for frame in other.frames} == {(1280, 720)}
            read = other.numbers
            assert len(read) > 0.95 * len(other.frames)
            assert read == sorted(read)
            other.tell(size=[640, 480])
            await other.until(lambda: other.frames[-1][2:] == (640, 480), 20)
            await other.until(lambda: other.audio > 24_000, 20)
            stats = peer.statistics()
            assert stats.codec == "VP8"
            assert stats.size == (640, 480)
            assert stats.bitrate_in > 500_000
            assert stats.rtt_ms is not None
            task.cancel()
        other.tell(close=True)
        await asyncio.wait_for(peer.closed.wait(), 8)


@pytest.mark.browser
async def test_chromium_h264_both_ways() -> None:
    script = (
        f"window.parameters = {json.dumps({'resize': [640, 480], 'resizeAfter': 2500})};"
        + (HERE / "page.js").read_text()
    )
    async with Peer(PeerOptions(), name="a") as peer:

        async def answer(offer: str) -> str:
            return await peer.accept(offer, sends=True, receives=True)

        async with chromium(answer, script=script) as reports, asyncio.TaskGroup() as group:
            await asyncio.wait_for(peer.connected.wait(), 20)
            info = await peer.source.open()
            assert info.width >= 640
            assert info.width * 9 == info.height * 16
            await peer.sink.open(info)
            task = group.create_task(echo(peer))
            frames: list[list[float]] = []
            with anyio.fail_after(25):
                while not frames or frames[-1][2:] != [640, 480]:
                    await asyncio.sleep(0.1)
                    frames = [frame for report in reports for frame in report.get("frames", ())]
                    assert not [report for report in reports if "error" in report]
            task.cancel()
        latencies = [frame[1] for frame in frames if frame[1] is not None]
        assert len(latencies) > 0.9 * len(frames)
        assert statistics.median(latencies[len(latencies) // 2 :]) < 500
        assert peer.statistics().codec == "H264"
        killed_s = time.monotonic()
        await asyncio.wait_for(peer.closed.wait(), 10)
        assert time.monotonic() - killed_s < 10
        with contextlib.suppress(anyio.EndOfStream):
            while True:
                await peer.source.receive()
        with pytest.raises(anyio.EndOfStream):
            await peer.source.receive()
