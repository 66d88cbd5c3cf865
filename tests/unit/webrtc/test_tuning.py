"""What is changed of aiortc: encoders, packet order, decoding, session descriptions."""

from __future__ import annotations

import logging
import threading
from fractions import Fraction
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import aioice
import aiortc
import av
import numpy as np
import pytest
from aiortc import RTCRtpReceiver
from aiortc.codecs import depayload
from aiortc.rtcsctptransport import RTCSctpTransport
from aiortc.rtp import RtpPacket

from streamseg.errors import ConfigError
from streamseg.frames import luma_plane
from streamseg.webrtc.peer_options import IceServer, PeerOptions
from streamseg.webrtc.peer_sdp import for_aiortc, usable_candidate, with_bitrate
from streamseg.webrtc.tuning import TunedConnection, tune
from streamseg.webrtc.tuning_decoding import VideoInlet, is_keyframe
from streamseg.webrtc.tuning_encoding import H264Video, Rates, Timeline, Vp8Video
from streamseg.webrtc.tuning_needed import NEEDED, check_inside
from streamseg.webrtc.tuning_packets import IncomingFrame, PacketBuffer, RepeatedNack
from streamseg.webrtc.tuning_private import (
    check_parts,
    check_version,
    private_name,
    replace_private,
)
from streamseg.webrtc.tuning_receiving import BoundedRouter, TunedReceiver
from streamseg.webrtc.tuning_sctp import BoundedSctp
from streamseg.webrtc.tuning_sending import TunedSender
from tests.support.webrtc_peers import picture, read_number
from tests.support.webrtc_transports import Clock

RATES = Rates(start=1_000_000, minimum=250_000, maximum=4_000_000)
ENCODERS = {"H264": H264Video, "VP8": Vp8Video}


def packet(number: int, timestamp: int, *, marker: bool = False, data: bytes = b"x") -> RtpPacket:
    made = RtpPacket(sequence_number=number & 0xFFFF, timestamp=timestamp, marker=int(marker))
    made._data = data  # type: ignore[attr-defined]
    return made


def put_all(buffer: PacketBuffer, packets: list[RtpPacket]) -> list[bytes]:
    frames: list[IncomingFrame] = []
    for one in packets:
        _, frame = buffer.add(one)
        if frame is not None:
            frames += [frame, *frame.following]
    return [frame.data for frame in frames]


# -- packets ---------------------------------------------------------------------------------


def test_a_frame_is_complete_at_its_marker() -> None:
    buffer = PacketBuffer(patience_s=1)
    assert buffer.add(packet(65535, 0, data=b"a")) == (False, None)
    _, frame = buffer.add(packet(0, 0, marker=True, data=b"b"))
    assert frame is not None
    assert (frame.data, frame.timestamp, frame.after_loss) == (b"ab", 0, False)


def test_a_frame_without_a_marker_ends_with_the_next() -> None:
    buffer = PacketBuffer(patience_s=1)
    packets = [packet(1, 0, data=b"a"), packet(2, 9, data=b"b"), packet(3, 18, data=b"c")]
    assert put_all(buffer, packets) == [b"a", b"b"]


@pytest.mark.parametrize("order", [(0, 2, 1, 3), (0, 3, 2, 1), (0, 1, 1, 2, 0, 3)])
def test_packets_are_put_in_order(order: tuple[int, ...]) -> None:
    data = [b"a", b"b", b"c", b"d"]
    packets = [packet(70 + n, 9 * (n // 2), marker=bool(n % 2), data=data[n]) for n in range(4)]
    assert put_all(PacketBuffer(patience_s=1), [packets[n] for n in order]) == [b"ab", b"cd"]


def test_frames_that_waited_for_one_packet_come_together() -> None:
    buffer = PacketBuffer(patience_s=1)
    packets = [packet(n, 9 * n, marker=True, data=bytes([n])) for n in range(6)]
    assert put_all(buffer, [packets[0], *packets[2:]]) == [b"\0"]
    assert put_all(buffer, [packets[1]]) == [b"\1", b"\2", b"\3", b"\4", b"\5"]


def test_a_lost_packet_is_given_up_in_time() -> None:
    clock = Clock()
    skipped: list[int] = []
    buffer = PacketBuffer(patience_s=0.3, clock=clock, skipped=lambda: skipped.append(1))
    buffer.add(packet(0, 0, marker=True))
    found: list[IncomingFrame] = []
    asked = []
    for number in range(2, 20):
        clock.now += 0.03
        wants_keyframe, frame = buffer.add(packet(number, 9 * number, marker=True))
        asked.append(wants_keyframe)
        if frame is not None:
            found += [frame, *frame.following]
    assert sum(asked) == 1
    assert skipped == [1]
    assert found[0].after_loss
    assert not any(frame.after_loss for frame in found[1:])
    assert [frame.timestamp for frame in found][-1] == 9 * 19
    assert buffer.lost == 1


def test_a_sender_that_begins_anew_is_followed() -> None:
    buffer = PacketBuffer(patience_s=1)
    put_all(buffer, [packet(n, n, marker=True) for n in range(40_000, 40_010)])
    assert len(put_all(buffer, [packet(n, n, marker=True) for n in range(3, 13)])) == 10
    assert len(put_all(buffer, [packet(n, n, marker=True) for n in range(60_000, 60_010)])) == 10


def test_memory_of_packets_is_bounded() -> None:
    buffer = PacketBuffer(patience_s=1e9)
    buffer.add(packet(0, 0))
    for number in range(2, 5000):
        buffer.add(packet(number, number // 700))
        assert len(buffer._later) + len(buffer._parts) <= 1100


def test_padding_is_no_frame() -> None:
    buffer = PacketBuffer(patience_s=1)
    packets = [
        packet(1, 0, marker=True, data=b"a"),
        packet(2, 0, data=b""),
        packet(3, 0, data=b""),
        packet(4, 9, marker=True, data=b"b"),
    ]
    assert put_all(buffer, packets) == [b"a", b"b"]


def test_sound_is_not_held_back() -> None:
    clock = Clock()
    buffer = PacketBuffer(patience_s=0.06, each=True, clock=clock)
    assert put_all(buffer, [packet(1, 0), packet(2, 960)]) == [b"x", b"x"]
    clock.now += 0.02
    assert put_all(buffer, [packet(4, 2880, data=b"4")]) == []
    clock.now += 0.1
    assert put_all(buffer, [packet(5, 3840, data=b"5")]) == [b"4", b"5"]


def test_missing_packets_are_asked_for_again() -> None:
    clock = Clock()
    nack = RepeatedNack(clock)
    assert not nack.add(packet(1, 0))
    assert nack.add(packet(3, 0))
    assert not nack.add(packet(4, 0))
    clock.now += 0.1
    assert nack.add(packet(5, 0))
    clock.now += 0.1
    assert not nack.add(packet(2, 0))
    assert nack.add(packet(8, 0))
    nack.forget()
    clock.now += 0.1
    assert not nack.add(packet(9, 0))


# -- encoders --------------------------------------------------------------------------------


def reassembled(codec: str, payloads: list[bytes]) -> bytes:
    kind = SimpleNamespace(name=codec)
    return b"".join(depayload(kind, payload) for payload in payloads)  # type: ignore[arg-type]


@pytest.mark.parametrize("codec", ENCODERS)
def test_what_is_encoded_can_be_decoded(codec: str) -> None:
    encoder = ENCODERS[codec](RATES)
    seen: list[int | None] = []
    arrived: list[tuple[int | None, float]] = []
    inlet = VideoInlet(
        lambda video, at_s: (seen.append(read_number(video)), arrived.append((video.pts, at_s))),  # type: ignore[arg-type]
        lambda reason: seen.append(None),
        max_pixels=10**6,
    )
    for number in range(6):
        payloads, pts = encoder.encode(picture(322, 242, number))
        assert pts == 3000 * number
        assert max(map(len, payloads)) <= 1300
        data = reassembled(codec, payloads)
        assert is_keyframe(codec, data) == (number == 0)
        inlet._take(codec, IncomingFrame(data, pts, arrived_s=number, after_loss=False))
    assert seen == list(range(6))
    assert arrived == [(3000 * n, n) for n in range(6)]
    assert (encoder.size, encoder.frames, encoder.keyframes) == ((322, 242), 6, 1)
    assert encoder.encode_ms is not None


@pytest.mark.parametrize("codec", ENCODERS)
def test_many_who_ask_get_one_keyframe(codec: str) -> None:
    clock = Clock()
    encoder = ENCODERS[codec](RATES, clock=clock)
    keys: list[float] = []
    for number in range(60):
        before = encoder.keyframes
        encoder.encode(picture(64, 64, number), True)
        if encoder.keyframes > before:
            keys.append(clock.now)
        clock.now += 1 / 30
    assert 3 <= len(keys) <= 4
    assert all(later - sooner >= 0.5 for sooner, later in pairwise(keys))
    # One that was asked for too early is made up for.
    clock.now += 1
    encoder.encode(picture(64, 64, 60), True)
    encoder.encode(picture(64, 64, 61), True)
    before = encoder.keyframes
    clock.now += 0.6
    encoder.encode(picture(64, 64, 62))
    assert encoder.keyframes == before + 1


@pytest.mark.parametrize("codec", ENCODERS)
def test_small_changes_of_the_bitrate_make_no_keyframe(codec: str) -> None:
    clock = Clock()
    encoder = ENCODERS[codec](RATES, clock=clock)
    for number in range(40):
        encoder.target_bitrate = 1_000_000 + 150_000 * (-1) ** number
        encoder.encode(picture(64, 64, number))
        clock.now += 0.1
    assert encoder.keyframes == 1
    encoder.target_bitrate = 1
    assert encoder.target_bitrate == RATES.minimum
    encoder.target_bitrate = 10**9
    assert encoder.target_bitrate == RATES.maximum


@pytest.mark.parametrize("codec", ENCODERS)
def test_the_bitrate_is_kept_and_lowered(codec: str) -> None:
    clock = Clock()
    encoder = ENCODERS[codec](RATES, clock=clock)
    blocks = np.random.default_rng(5).integers(40, 215, (45, 100), dtype=np.uint8)
    noise = np.kron(blocks, np.ones((8, 8), np.uint8))

    def rate(begin: int, end: int) -> float:
        size = 0
        for number in range(begin, end):
            video = picture(640, 360, number)
            luma_plane(video)[:] = noise[:, (11 * number) % 160 : (11 * number) % 160 + 640]
            payloads, _ = encoder.encode(video)
            size += sum(map(len, payloads))
            clock.now += 1 / 30
        return 8 * size * 30 / (end - begin)

    rate(0, 30)
    assert rate(30, 90) == pytest.approx(1_000_000, rel=0.35)
    encoder.target_bitrate = 400_000
    rate(90, 150)
    assert rate(150, 210) == pytest.approx(400_000, rel=0.35)


@pytest.mark.parametrize("codec", ENCODERS)
@pytest.mark.parametrize("kind", ["bgr24", "yuvj420p", "nv12", "yuv444p", "odd"])
def test_pictures_of_all_kinds_are_sent(codec: str, kind: str) -> None:
    encoder = ENCODERS[codec](RATES)
    video = picture(320, 240, 77)
    video = video.reformat(319, 239) if kind == "odd" else video.reformat(format=kind)
    video.pts, video.time_base = 7, Fraction(1, 25)
    payloads, pts = encoder.encode(video)
    decoder = av.CodecContext.create("h264" if codec == "H264" else "libvpx", "r")
    (result,) = [
        *decoder.decode(av.Packet(reassembled(codec, payloads))),  # type: ignore[attr-defined]
        *(decoder.decode(None) if codec == "H264" else ()),  # type: ignore[attr-defined]
    ]
    assert read_number(result) == 77
    assert pts == 0
    assert result.width == (318 if kind == "odd" else 320)
    # Limited range: white is 235.
    cells = luma_plane(result)[15, result.width // 32 :: result.width // 16]
    assert 225 <= int(cells.max()) <= 240


def test_time_stamps_only_grow() -> None:
    line = Timeline(3000, 900_000)
    values = [line.map(raw) for raw in (5000, 8000, 8000, 2000, 5000, 10**9, 10**9 + 3000)]
    assert values[0] == 0
    assert all(later > sooner for sooner, later in pairwise(values))
    assert values == [0, 3000, 6000, 9000, 12000, 15000, 18000]


# -- decoding --------------------------------------------------------------------------------


def encoded(codec: str, count: int, size: tuple[int, int] = (64, 64)) -> list[IncomingFrame]:
    encoder = ENCODERS[codec](RATES)
    return [
        IncomingFrame(
            reassembled(codec, encoder.encode(picture(*size, number))[0]),
            3000 * number,
            arrived_s=0.0,
            after_loss=False,
        )
        for number in range(count)
    ]


@pytest.mark.parametrize("codec", ENCODERS)
def test_nothing_is_shown_before_a_keyframe_after_loss(codec: str) -> None:
    shown: list[int | None] = []
    inlet = VideoInlet(lambda video, _: shown.append(video.pts), lambda _: None, 10**6)
    frames = encoded(codec, 4)
    inlet._take(codec, frames[1])
    assert inlet.ask.is_set()
    assert shown == []
    for frame in frames:
        frame.after_loss = frame is frames[3]
        inlet._take(codec, frame)
    assert len(shown) == 3
    assert inlet.dropped == {"no keyframe": 2}


@pytest.mark.parametrize("codec", ENCODERS)
def test_damage_is_counted_and_a_keyframe_asked_for(codec: str) -> None:
    inlet = VideoInlet(lambda video, _: None, lambda _: None, 10**6)
    frames = encoded(codec, 2)
    inlet._take(codec, frames[0])
    damaged = b"\x00\x00\x00\x01\x65" + bytes(40) if codec == "H264" else b"\x00" + bytes(40)
    inlet._take(codec, IncomingFrame(damaged, 1, arrived_s=0.0, after_loss=False))
    assert inlet.dropped == {"damaged": 1}
    assert inlet.ask.is_set()


def test_the_backlog_of_a_decoder_is_bounded() -> None:
    inlet = VideoInlet(lambda video, _: None, lambda _: None, 10**6)
    codec: Any = SimpleNamespace(name="VP8")
    for _ in range(100):
        (frame,) = encoded("VP8", 1)
        inlet.put((codec, frame))
        assert len(inlet._frames) <= 30
    assert inlet.dropped["decoder busy"] >= 60
    assert inlet.ask.is_set()
    inlet.stop()
    inlet.put((codec, frame))
    assert not inlet._frames
    thread = threading.Thread(target=inlet.get)
    thread.start()
    thread.join(2)
    assert not thread.is_alive()
    assert inlet.finished.is_set()


@pytest.mark.parametrize("codec", ENCODERS)
def test_a_picture_that_is_too_large_is_refused(codec: str) -> None:
    shown: list[object] = []
    reasons: list[str] = []
    inlet = VideoInlet(lambda video, _: shown.append(video), reasons.append, 64 * 64)
    inlet._take(codec, encoded(codec, 1, (64, 80))[0])
    assert shown == []
    assert reasons == ["pictures of 64x80 are over 4096 pixels"]


# -- descriptions, options, versions ---------------------------------------------------------


def test_what_aiortc_cannot_use_is_left_out() -> None:
    sdp = (
        "v=0\r\na=sendonly\r\nm=video 9 X 96\r\n"
        "a=candidate:1 1 udp 1 1b2c.local 9 typ host\r\n"
        "a=candidate:1 1 tcp 1 127.0.0.1 9 typ host\r\n"
        "a=candidate:1 1 UDP 1 127.0.0.1 9 typ host\r\n"
        "a=end-of-candidates\r\nm=audio 9 X 1\r\na=recvonly\r\n"
    )
    assert for_aiortc(sdp).split("\r\n") == [
        "v=0",
        "m=video 9 X 96",
        "a=candidate:1 1 UDP 1 127.0.0.1 9 typ host",
        "a=sendonly",
        "m=audio 9 X 1",
        "a=recvonly",
        "",
    ]
    assert not usable_candidate("candidate:1 1 udp 1")


def test_the_answer_tells_a_bitrate_for_each_codec() -> None:
    sdp = (
        "v=0\r\nm=audio 9 X 111\r\na=rtpmap:111 opus/48000/2\r\na=fmtp:111 x=1\r\n"
        "m=video 9 X 96 97 98\r\na=rtpmap:96 VP8/90000\r\na=rtpmap:97 rtx/90000\r\n"
        "a=fmtp:97 apt=96\r\na=rtpmap:98 H264/90000\r\na=fmtp:98 packetization-mode=1\r\n"
    )
    wish = "x-google-start-bitrate=2500;x-google-max-bitrate=6000"
    lines = [
        line for line in with_bitrate(sdp, 2_500_000, 6_000_000).split("\r\n") if "fmtp" in line
    ]
    assert lines == [
        "a=fmtp:111 x=1",
        f"a=fmtp:96 {wish}",
        "a=fmtp:97 apt=96",
        f"a=fmtp:98 packetization-mode=1;{wish}",
    ]


@pytest.mark.parametrize(
    "wrong",
    [
        {"prefer": "AV1"},
        {"bitrate": 100},
        {"max_bitrate": 1_000_000},
        {"media_timeout_s": 0},
        {"handshake_timeout_s": -1},
        {"max_pixels": 0},
    ],
)
def test_wrong_options(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"expected"):
        PeerOptions(**wrong)


def test_a_credential_is_not_shown() -> None:
    server = IceServer(("turn:host:3478",), username="me", credential="geheim")
    assert "geheim" not in repr(PeerOptions(ice_servers=(server,)))


def test_another_aiortc_is_refused() -> None:
    check_version(aiortc.__version__)
    with pytest.raises(ConfigError, match="pip install"):
        check_version("1.17.0")
    with pytest.raises(ConfigError, match=r"aioice 0\.14\.0 .*pip install 'aioice==0\.13\.\*'"):
        check_version("0.14.0", "aioice")
    with pytest.raises(ConfigError, match=r"no object\.nothing"):
        replace_private(object(), object, "nothing", 1)


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (RTCSctpTransport, "_receive_sack_chunk"),
        (RTCRtpReceiver, "_RTCRtpReceiver__stop_decoder"),
        (aioice.Connection, "check_incoming"),
    ],
)
def test_a_method_that_would_not_be_overridden_is_noticed(
    owner: type, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(owner, name)
    check_inside.cache_clear()
    with pytest.raises(ConfigError, match="has no"):
        tune()
    monkeypatch.undo()
    tune()


def test_attributes_are_looked_for_without_an_instance() -> None:
    check_parts(aioice.Connection, ["_queue"])
    with pytest.raises(ConfigError, match=r"this aioice has no Connection\._rows, .*aioice==0\.13"):
        check_parts(aioice.Connection, ["_queue", "_rows"])


@pytest.mark.parametrize(
    "own", [TunedConnection, TunedReceiver, TunedSender, BoundedSctp, BoundedRouter], ids=str
)
def test_everything_that_is_overridden_is_looked_for(own: type) -> None:
    (stock,) = (each for each in own.__mro__ if each in NEEDED)
    looked_for = {private_name(stock, n[2:]) if n[:2] == "__" else n for n in NEEDED[stock]}
    hooks = {name for name in vars(own) if name.startswith("_") and not name.endswith("__")}
    assert {name for name in hooks if hasattr(stock, name)} <= looked_for
    # Those of two underscores are aiortc's by their name.
    assert {name for name in hooks if name.startswith(f"_{stock.__name__}__")} <= looked_for


def test_addresses_are_logged_for_debugging_only(caplog: pytest.LogCaptureFixture) -> None:
    tune()
    tune()
    logger = logging.getLogger("aioice.ice")
    with caplog.at_level(logging.INFO):
        logger.info("Check (127.0.0.1, 9)")
        logger.warning("trouble")
    assert [record.message for record in caplog.records] == ["trouble"]
    with caplog.at_level(logging.DEBUG):
        logger.info("Check (127.0.0.1, 9)")
    assert caplog.records[-1].levelno == logging.DEBUG
