"""A peer that sends what no browser does, and an encoder that fails: the call ends or goes on."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import time
from collections.abc import AsyncIterator
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
from aiortc.rtcsctptransport import DataChunk
from aiortc.rtp import RtpPacket

from streamseg.frames import Frame, StreamInfo
from streamseg.webrtc.peer import Peer, PeerOptions
from streamseg.webrtc.tuning_receiving import BoundedRouter
from streamseg.webrtc.tuning_sctp import BoundedSctp
from tests.support.webrtc_peers import NumberedTrack, Stock, picture, read_number, use_loopback

pytestmark = [pytest.mark.integration, pytest.mark.anyio, pytest.mark.timeout(30)]

INFO = StreamInfo("test", 160, 120, "yuv420p", Fraction(1, 90_000), live=True)


@pytest.fixture(autouse=True)
def _loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    use_loopback(monkeypatch)
    # Reports come every 0.5 to 1.5 s; here every 0.05 s.
    monkeypatch.setattr(
        "aiortc.rtcrtpreceiver.random", SimpleNamespace(random=lambda: -0.45), raising=True
    )


class Call:
    """Our peer, and an aiortc that is connected to it; whatever ran is gone when it is closed."""

    def __init__(self) -> None:
        self.other = Stock(send=NumberedTrack((160, 120)), data=True)
        self.peer = Peer(PeerOptions(), name="a")
        self.number = 0

    @property
    def sctp(self) -> BoundedSctp:
        assert self.peer._connection is not None
        sctp = self.peer._connection.sctp
        assert isinstance(sctp, BoundedSctp)
        return sctp

    @property
    def router(self) -> BoundedRouter:
        router = self.peer._media.receivers()[0].transport._rtp_router
        assert isinstance(router, BoundedRouter)
        return router

    @property
    def theirs(self) -> Any:
        """The other side's transport."""
        return self.other.connection.getReceivers()[0].transport

    async def show(self, count: int) -> None:
        for _ in range(count):
            await self.peer.sink.send(Frame(picture(160, 120, self.number), self.number, 0.0))
            self.number += 1
            await asyncio.sleep(0.03)

    async def still_goes(self) -> None:
        async with asyncio.timeout(5):
            for _ in range(5):
                await self.peer.source.receive()
        assert not self.peer.closed.is_set()


class NeverSet(asyncio.Event):
    def set(self) -> None:
        pass


@contextlib.asynccontextmanager
async def connected() -> AsyncIterator[Call]:
    """A call that stands; nothing of it may be left after it, within two seconds."""
    tasks = asyncio.all_tasks()
    call = Call()
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(call.other.aclose)
        offer = await call.other.offer()
        stack.push_async_callback(call.peer.aclose)
        answer = await call.peer.accept(offer, sends=True, receives=True, data=True)
        await call.other.take_answer(answer)
        await call.peer.source.open()
        await call.peer.sink.open(INFO)
        yield call
        began_s = time.monotonic()
        await call.peer.aclose()
        assert time.monotonic() - began_s < 2
    with anyio.move_on_after(2):
        while asyncio.all_tasks() - tasks:
            await asyncio.sleep(0.01)
    assert not asyncio.all_tasks() - tasks


async def test_hundreds_of_streams_leave_nothing() -> None:
    async with connected() as call:
        for ssrc in range(300):
            packet = RtpPacket(payload_type=call_payload(call), ssrc=ssrc + 1, payload=b"\x10x")
            await call.theirs._send_rtp(packet.serialize())
        async with asyncio.timeout(5):
            while call.router.refused < 250:
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)  # two reports
        receiver: Any = call.peer._media.receivers()[0]
        assert len(call.router.ssrc_table) <= 8
        assert len(receiver._RTCRtpReceiver__remote_streams) <= 8
        assert len(receiver._RTCRtpReceiver__active_ssrc) <= 8
        assert not receiver.tasks[0].done()
        await call.still_goes()


def call_payload(call: Call) -> int:
    video = next(t for t in call.other.connection.getTransceivers() if t.kind == "video")
    return int(video._codecs[0].payloadType)


async def test_a_report_that_cannot_be_written_does_not_end_reporting() -> None:
    async with connected() as call:
        receiver: Any = call.peer._media.receivers()[0]
        streams = receiver._RTCRtpReceiver__remote_streams
        async with asyncio.timeout(5):
            while not streams:
                await asyncio.sleep(0.01)
        for stream in streams.values():
            stream._jitter_q4 = 1 << 40  # as of time stamps that leap to and fro
        await asyncio.sleep(0.1)
        assert not receiver.tasks[0].done()
        for stream in streams.values():
            stream._jitter_q4 = 0
        await call.still_goes()


async def test_a_part_that_does_not_stop_keeps_no_other_from_it() -> None:
    async with connected() as call:
        for receiver in call.peer._media.receivers():
            # As aiortc leaves it when a task of its ends with an error: closing waits for ever.
            receiver._RTCRtpReceiver__rtcp_exited = NeverSet()  # type: ignore[attr-defined]


async def test_a_message_without_an_end_ends_the_data_channel_alone() -> None:
    async with connected() as call:
        theirs: Any = call.other.connection.sctp
        async with asyncio.timeout(5):
            while theirs.state != "connected" or not call.sctp._data_channels:
                await asyncio.sleep(0.01)
        for number in range(2000):
            chunk = DataChunk(flags=2 if not number else 0)
            chunk.tsn = theirs._local_tsn + number
            chunk.stream_id, chunk.protocol, chunk.user_data = 0, 51, bytes(1000)
            with contextlib.suppress(ConnectionError):
                await theirs._send_chunk(chunk)
            if not number % 20:
                await asyncio.sleep(0)
        async with asyncio.timeout(5):
            while not call.sctp.trouble:
                await asyncio.sleep(0.01)
        assert not call.sctp._inbound_streams
        assert call.sctp.state == "closed"
        await call.still_goes()


async def test_datagrams_of_a_stranger_end_nothing() -> None:
    unheard: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: unheard.append(context))
    async with connected() as call:
        connection = call.peer._media.receivers()[0].transport.transport._connection
        address = connection._protocols[0].transport.get_extra_info("sockname")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            # A STUN request whose PRIORITY has one byte.
            short = struct.pack("!HHI12sHHI", 1, 8, 0x2112A442, bytes(12), 0x24, 1, 0)
            for data in (b"", b"\x80", b"\x16\xfe\xfd", short, bytes(1400), b""):
                stranger.sendto(data, address)
        async with asyncio.timeout(5):
            while call.peer._link.dropped < 2:
                await asyncio.sleep(0.01)
        await call.still_goes()
    assert unheard == []


async def test_a_picture_that_cannot_be_encoded_is_counted_and_the_next_one_goes_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with connected() as call:
        async with asyncio.timeout(10):
            while "video" not in call.other.tracks or call.peer.sink.video is None:
                await asyncio.sleep(0.01)
            await call.peer.connected.wait()
            await call.show(3)
            encoder: Any = call.peer.sink.video._encoder
            compress = encoder.compress

            def fail_once(*args: Any) -> Any:
                encoder.compress = compress
                raise ValueError("no")

            encoder.compress = fail_once
            await call.show(2)
            last = call.number
            await call.show(5)
            track: Any = call.other.tracks["video"]
            while (read_number(await track.recv()) or 0) < last:
                pass
        statistics = call.peer.sink.statistics()
        assert statistics.dropped["failed"] == 1
        assert statistics.written + sum(statistics.dropped.values()) == statistics.accepted
        assert [r for r in caplog.records if "encoded" in r.getMessage()]


async def test_an_encoder_that_always_fails_ends_the_call() -> None:
    async with connected() as call:
        async with asyncio.timeout(10):
            await call.peer.connected.wait()
            await call.show(2)
            assert call.peer.sink.video is not None
            encoder: Any = call.peer.sink.video._encoder

            def fail(*args: Any) -> Any:
                raise ValueError("no")

            encoder.compress = fail
            with contextlib.suppress(anyio.ClosedResourceError):
                while True:
                    await call.show(1)
            await call.peer.closed.wait()
        assert call.peer.reason == "pictures cannot be encoded: ValueError"
