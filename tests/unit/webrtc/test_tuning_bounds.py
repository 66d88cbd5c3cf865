"""What the other side may have sent, kept, decoded: bounds that aiortc does not have."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from aiortc.rtp import RTCP_RTPFB_NACK, RtcpRtpfbPacket, RtpPacket

from streamseg.frames import luma_plane
from streamseg.webrtc.peer_sink import OutgoingVideo
from streamseg.webrtc.peer_source import PeerSource
from streamseg.webrtc.shared_encoding import SharedEncoding
from streamseg.webrtc.tuning_decoding import Allowance, VideoInlet
from streamseg.webrtc.tuning_encoding import H264Video, Rates, Vp8Video
from streamseg.webrtc.tuning_receiving import BoundedRouter, TunedReceiver
from streamseg.webrtc.tuning_sending import Repeats, TunedSender
from tests.support.webrtc_peers import picture
from tests.support.webrtc_transports import Clock, make_transport
from tests.unit.webrtc.test_tuning import encoded

pytestmark = pytest.mark.anyio

RATES = Rates(start=1_000_000, minimum=50_000, maximum=4_000_000)


# -- packets that are sent again -------------------------------------------------------------


class Sender(TunedSender):
    """Has sent this many packets of 1200 bytes; notes what it sends again."""

    def __init__(self, count: int, clock: Clock) -> None:
        transport = make_transport()
        super().__init__("video", transport, RATES)
        self.again: list[bytes] = []
        self.repeats = Repeats(clock)

        async def send(data: bytes) -> None:
            self.again.append(data)

        transport._send_rtp = send  # type: ignore[method-assign]
        history = self._RTCRtpSender__rtp_history  # type: ignore[attr-defined]
        for number in range(count):
            packet = RtpPacket(sequence_number=number, payload=bytes(1200))
            history[number % 128] = packet
        self._RTCRtpSender__octet_count = 1200 * count  # type: ignore[attr-defined]

    async def hear(self, numbers: list[int]) -> None:
        await self._handle_rtcp_packet(
            RtcpRtpfbPacket(fmt=RTCP_RTPFB_NACK, ssrc=1, media_ssrc=2, lost=numbers)
        )


async def test_a_packet_that_is_asked_for_a_thousand_times_is_sent_again_once() -> None:
    sender = Sender(200, Clock())
    await sender.hear([183 + n % 17 for n in range(5000)])
    assert len(sender.again) == 17
    numbers = [int.from_bytes(data[2:4], "big") for data in sender.again]
    assert numbers == [183 + n for n in range(17)]  # as they were asked for
    assert sender.repeats.refused == 5000 - 17


async def test_requests_without_end_have_half_of_what_is_sent_again_at_most() -> None:
    clock = Clock()
    sender = Sender(200, clock)
    for _ in range(100):  # 2.5 s of asking for everything that is kept
        await sender.hear(list(range(72, 200)))
        clock.now += 0.025
    assert 128 <= len(sender.again) <= 200_000 // 1200
    sender.again.clear()
    sender._RTCRtpSender__octet_count += 100 * 1200  # type: ignore[attr-defined]
    await sender.hear(list(range(72, 200)))
    assert 40 <= len(sender.again) <= 50


async def test_what_is_lost_again_is_sent_again() -> None:
    clock = Clock()
    sender = Sender(200, clock)
    for _ in range(5):
        await sender.hear([150, 20, 199, 65_000])  # two of them were kept
        clock.now += 0.03
    assert len(sender.again) == 10
    assert sender.repeats.refused == 10


# -- streams ---------------------------------------------------------------------------------


def test_few_streams_are_taken_over_a_transport() -> None:
    router = BoundedRouter()
    receiver: Any = object()
    router.register_receiver(receiver, ssrcs=[7], payload_types=[96], mid="0")
    taken = [
        router.route_rtp(RtpPacket(payload_type=96, ssrc=ssrc)) is receiver for ssrc in range(400)
    ]
    assert taken == [ssrc < 8 for ssrc in range(400)]
    assert router.refused == 392
    assert len(router.ssrc_table) == 8
    assert router.route_rtp(RtpPacket(payload_type=96, ssrc=7)) is receiver


async def test_a_stream_that_fell_silent_gives_its_place_to_a_new_one() -> None:
    clock = Clock()
    router = BoundedRouter(clock)
    receiver = TunedReceiver("video", make_transport(), make_inlet())
    router.register_receiver(receiver, ssrcs=[], payload_types=[96], mid="0")
    kept = receiver._RTCRtpReceiver__remote_streams  # type: ignore[attr-defined]

    def comes(ssrc: int, payload_type: int = 96) -> bool:
        packet = RtpPacket(payload_type=payload_type, ssrc=ssrc)
        taken = router.route_rtp(packet) is receiver
        if taken:
            kept[ssrc] = True  # as the receiver does
        return taken

    assert all(comes(ssrc) for ssrc in range(8))
    assert not comes(8)
    clock.now += 1.5
    assert all(comes(ssrc) for ssrc in range(1, 8))
    clock.now += 1.0
    assert not comes(8, payload_type=5)  # nobody's: it takes nobody's place
    assert 0 in router.ssrc_table
    assert comes(8)
    assert set(router.ssrc_table) == set(kept) == set(range(1, 9))
    clock.now += 0.9
    assert not comes(9)  # the others have been silent for long, but one was just replaced
    clock.now += 0.2
    assert comes(9)
    assert len(router.ssrc_table) == len(kept) == 8


# -- decoding --------------------------------------------------------------------------------


def make_inlet() -> VideoInlet:
    return VideoInlet(lambda video, _: None, lambda _: None, 10**6)


def test_pixels_a_second_are_bounded_and_the_rest_is_counted() -> None:
    clock = Clock()
    allowance = Allowance(1000, clock)
    decoded = 0
    for _ in range(10 * 240):  # ten seconds of 240 pictures of the largest size
        clock.now += 1 / 240
        if not allowance.exhausted:
            allowance.spend(1000)
            decoded += 1
    assert 10 * 72 <= decoded <= 11 * 72 + 1
    for size, rate in ((1000, 60), (250, 240), (1, 240)):
        allowance = Allowance(1000, clock)
        for _ in range(30 * rate):
            clock.now += 1 / rate
            assert not allowance.exhausted
            allowance.spend(size)


@pytest.mark.parametrize("make", [H264Video, Vp8Video])
def test_a_sender_of_too_many_pictures_is_decoded_again_from_a_keyframe(make: Any) -> None:
    clock = Clock()
    shown: list[int | None] = []
    inlet = VideoInlet(lambda video, _: shown.append(video.pts), lambda _: None, 4096, clock=clock)
    key, *rest = encoded(make.codec, 2)
    frames = [key, *(rest * 99)]
    for frame in frames:
        inlet._take(make.codec, frame)
    assert len(shown) == 73
    assert inlet.dropped == {"too many pixels": 27}
    clock.now += 0.6
    inlet._take(make.codec, rest[0])
    assert inlet.dropped["no keyframe"] == 1
    assert inlet.ask.is_set()
    inlet._take(make.codec, key)
    assert len(shown) == 74


# -- pictures --------------------------------------------------------------------------------


def test_pictures_that_the_encoder_leaves_out_are_counted_and_not_as_sent() -> None:
    track, encoder = OutgoingVideo(), Vp8Video(Rates(50_000, 50_000, 50_000))
    track.start(encoder)
    clock = Clock()
    encoder._clock = clock
    random = np.random.default_rng(3)
    shown = 0
    for number in range(60):
        video = picture(320, 240, number)
        luma_plane(video)[:] = random.integers(0, 255, (240, 320), dtype=np.uint8)
        track.put(video)
        taken: Any = track._take()
        track._taken += 1
        payloads, _ = encoder.encode(taken)
        shown += bool(payloads)
        clock.now += 1 / 30
    assert shown < 50  # or this tests nothing
    assert track.written == encoder.frames == shown
    assert track.dropped == {"encoder over bitrate": 60 - shown}


async def test_a_room_counts_the_pictures_that_its_encoder_leaves_out() -> None:
    encoding = SharedEncoding()
    viewer = encoding.join("VP8", Rates(50_000, 50_000, 50_000), lambda: None)
    random = np.random.default_rng(3)
    try:
        for number in range(30):
            video = picture(320, 240, number)
            luma_plane(video)[:] = random.integers(0, 255, (240, 320), dtype=np.uint8)
            encoding.put(video)
            async with asyncio.timeout(10):
                while _done(encoding) <= number:
                    await asyncio.sleep(0.001)
        got = sum(viewer.take() is not None for _ in range(30))
        counts = encoding.counts()
        assert got < 25
        assert counts.encoded == got
        assert counts.dropped == {"encoder over bitrate": 30 - got}
    finally:
        await encoding.aclose()


def _done(encoding: SharedEncoding) -> int:
    counts = encoding.counts()
    return counts.encoded + counts.dropped.get("encoder over bitrate", 0)


def make_source() -> PeerSource:
    return PeerSource("a", timeout_s=1, reason=lambda: "it was so", dropped=dict)


async def test_a_picture_that_comes_after_the_end_is_counted_and_not_kept() -> None:
    source = make_source()
    source.bind()
    source.put(picture(64, 64, 0), 1.0)
    await source.open()
    await source.aclose()
    source.put(picture(64, 64, 1), 2.0)
    assert source._newest is None
    assert source.statistics().dropped == {"closed": 2}


async def test_what_waits_when_a_connection_ends_is_received_or_let_go() -> None:
    source = make_source()
    source.bind()
    source.put(picture(64, 64, 0), 1.0)
    await source.open()
    source.end()
    assert (await source.receive()).index == 0
    source = make_source()
    source.bind()
    source.put(picture(64, 64, 0), 1.0)
    await source.open()
    source.end()
    source.release()
    assert source._newest is None
    assert source.statistics().dropped == {"closed": 1}
