"""One encoder for many viewers: who gets what, and at what bitrate."""

from __future__ import annotations

import asyncio
import logging
from itertools import pairwise
from typing import Any

import av
import pytest
from aiortc.codecs import depayload

from streamseg.webrtc.encoding_layer import Layer, Subscription
from streamseg.webrtc.shared_encoding import EncodingCounts, SharedEncoding
from streamseg.webrtc.tuning_encoding import EncodedPicture, H264Video, Rates, make_encoder
from streamseg.webrtc.viewer_bitrates import ViewerBitrate, share_out
from tests.support.webrtc_peers import picture, read_number
from tests.support.webrtc_transports import Clock

RATES = Rates(start=1_000_000, minimum=250_000, maximum=4_000_000)
MB = 1_000_000


# -- who shares an encoder -------------------------------------------------------------------


def settled(said: list[int | None], *, seconds: float = 60.0) -> tuple[Any, Any, list[bool]]:
    """What is decided when everybody says the same for long enough."""
    viewers = [ViewerBitrate(0.0, bitrate) for bitrate in said]
    main: int | None = None
    low: int | None = None
    for tick in range(int(seconds)):
        main, low = share_out(viewers, float(tick))
    return main, low, [viewer.low for viewer in viewers]


@pytest.mark.parametrize(
    ("said", "main", "low", "at_low"),
    [
        ([], None, None, []),
        ([None, None], None, None, [False, False]),
        ([3 * MB], 3 * MB, None, [False]),
        ([3 * MB, 2 * MB], 2 * MB, None, [False, False]),  # the lowest of those alike
        ([4 * MB, 2 * MB], 2 * MB, None, [False, False]),  # half is still alike
        ([4 * MB, 1 * MB], 4 * MB, 1 * MB, [False, True]),
        ([4 * MB, 3 * MB, 1 * MB, MB // 2], 3 * MB, MB // 2, [False, False, True, True]),
        ([4 * MB, None, 3 * MB], 3 * MB, None, [False, False, False]),
    ],
)
def test_who_can_take_much_less_has_an_encoder_of_its_own(
    said: list[int | None], main: int | None, low: int | None, at_low: list[bool]
) -> None:
    assert settled(said) == (main, low, at_low)


def test_who_is_alone_has_what_it_asks_for_at_once() -> None:
    viewer = ViewerBitrate(0.0)
    for now, bitrate in enumerate([300_000, 4 * MB, MB]):
        viewer.bitrate = bitrate
        assert share_out([viewer], 0.1 * now) == (bitrate, None)


def test_a_newcomer_whose_estimate_begins_low_pulls_nobody_down() -> None:
    old, new = ViewerBitrate(0.0, 3 * MB), ViewerBitrate(100.0, 300_000)
    assert share_out([old, new], 101.0) == (3 * MB, None)
    new.bitrate = 3 * MB  # it has grown by the time it counts
    for second in range(60):
        assert share_out([old, new], 106.5 + second) == (3 * MB, None)
    assert not new.low


@pytest.mark.parametrize(
    ("sent", "at_low"), [(None, True), (2.5 * MB, True), (0.9 * MB, False), (0.0, False)]
)
def test_who_can_take_what_is_really_sent_stays(sent: float | None, at_low: bool) -> None:
    viewers = [ViewerBitrate(0.0, 3 * MB), ViewerBitrate(0.0, MB)]
    for tick in range(60):
        main, _ = share_out(viewers, float(tick), sent=sent)
    assert viewers[1].low == at_low
    assert main == (3 * MB if at_low else 3 * MB // 2)
    for tick in range(60, 120):  # the pictures become easy
        share_out(viewers, float(tick), sent=0.6 * MB)
    assert not viewers[1].low


def test_a_dip_changes_nobodys_encoder_and_halves_the_bitrate_at_most() -> None:
    viewers = [ViewerBitrate(0.0, 4 * MB) for _ in range(3)]
    changes = 0
    for tick in range(400):  # a dip of 1.5 s in every 4 s
        now = 10 + 0.25 * tick
        viewers[0].bitrate = MB // 2 if now % 4 < 1.5 else 4 * MB
        before = viewers[0].low
        main, low = share_out(viewers, now)
        changes += viewers[0].low != before
        assert main is not None
        assert main >= 2 * MB
        assert low is None
    assert changes == 0


def test_a_viewer_at_the_limit_does_not_change_to_and_fro() -> None:
    viewers = [ViewerBitrate(0.0, 4 * MB), ViewerBitrate(0.0)]
    changes = 0
    for tick in range(2000):  # ten minutes between 0.45 and 0.6 of the best
        now = 10 + 0.3 * tick
        viewers[1].bitrate = int(4 * MB * (0.45 if tick // 40 % 2 else 0.6))
        before = viewers[1].low
        share_out(viewers, now)
        changes += viewers[1].low != before
    assert changes == 1
    assert viewers[1].low
    viewers[1].bitrate = 3 * MB
    for tick in range(30):
        share_out(viewers, 700 + 0.3 * tick)
    assert not viewers[1].low


def test_when_only_the_low_ones_are_left_they_are_the_main_ones() -> None:
    viewers = [ViewerBitrate(0.0, 4 * MB), ViewerBitrate(0.0, MB)]
    for tick in range(10):
        share_out(viewers, float(tick))
    assert viewers[1].low
    assert share_out(viewers[1:], 11.0) == (MB, None)
    assert not viewers[1].low


# -- a viewer's queue ------------------------------------------------------------------------


def encoded(number: int, *, keyframe: bool = False) -> EncodedPicture:
    return EncodedPicture(b"x", 3000 * number, keyframe, (64, 64))


@pytest.mark.anyio
async def test_a_queue_that_overflows_begins_anew_with_a_keyframe_once_it_is_read() -> None:
    layer = Layer(H264Video(RATES))
    viewer, other = (Subscription("H264", RATES, lambda: None) for _ in range(2))
    for one in (viewer, other):
        layer.join(one)
    layer._key_wanted = False
    received = []
    for number in range(200):
        for one in (viewer, other):
            one.put(encoded(number, keyframe=number == 0))
        received.append(other.take())
        assert len(viewer._queue) <= 30
        assert not layer._key_wanted  # nobody reads: it would be for nothing
    assert [got.pts for got in received if got is not None] == [3000 * n for n in range(200)]
    assert viewer.dropped == {"viewer busy": 30, "no keyframe": 170}
    assert not other.dropped
    assert viewer.take() is None
    assert layer._key_wanted
    viewer.put(encoded(200))
    assert viewer.take() is None
    viewer.put(encoded(201, keyframe=True))
    viewer.put(encoded(202))
    assert [one.pts for one in (viewer.take(), viewer.take()) if one] == [3000 * 201, 3000 * 202]
    assert viewer.dropped["no keyframe"] == 171


# -- a room's encoders -----------------------------------------------------------------------


class Viewer:
    """Decodes what it gets, as its connection packs it."""

    def __init__(self, encoding: SharedEncoding, codec: str) -> None:
        self.ready = asyncio.Event()
        self.encoding = encoding
        self.codec = codec
        self.packer = make_encoder(codec, RATES)
        self.subscription = encoding.join(codec, RATES, self.ready.set)
        self.decoder: Any = av.CodecContext.create("h264" if codec == "H264" else "libvpx", "r")
        self.decoder.flags |= av.codec.context.Flags.low_delay
        self.numbers: list[int | None] = []
        self.times: list[int] = []
        self.keyframes: list[int] = []

    def read(self) -> None:
        while (one := self.subscription.take()) is not None:
            payloads, pts = self.packer.pack(one)
            kind: Any = type("Codec", (), {"name": self.codec})
            data = b"".join(depayload(kind, payload) for payload in payloads)
            if one.keyframe:
                self.keyframes.append(len(self.numbers))
            self.numbers += [read_number(video) for video in self.decoder.decode(av.Packet(data))]
            self.times.append(pts)
        self.ready.clear()


class Room:
    """Feeds pictures, one when the last one is encoded."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.encoding = SharedEncoding(clock=self.clock)
        self.viewers: list[Viewer] = []
        self.number = 0

    def join(self, codec: str = "H264") -> Viewer:
        viewer = Viewer(self.encoding, codec)
        self.viewers.append(viewer)
        for layer in self.encoding._layers.values():
            layer.encoder._clock = self.clock
        return viewer

    async def show(self, count: int, *, read: bool = True) -> None:
        for _ in range(count):
            before = self.encoding.counts()
            self.encoding.put(picture(128, 96, self.number))
            layers = self.encoding.counts().encoders
            for layer in self.encoding._layers.values():
                layer.encoder._clock = self.clock
            async with asyncio.timeout(10):
                # Each encoder's thread wakes its viewers; a layer without any encodes nothing.
                while self.encoding.counts().encoded < before.encoded + layers:
                    await asyncio.sleep(0.001)
            for viewer in self.viewers if read else ():
                viewer.read()
            self.number += 1
            self.clock.now += 1 / 30


@pytest.fixture
async def room() -> Any:
    room = Room()
    yield room
    await room.encoding.aclose()
    assert room.encoding.counts().encoders == 0
    assert not [task for task in asyncio.all_tasks() if "Layer" in repr(task)]


pytestmark = pytest.mark.anyio


async def test_eight_viewers_of_two_codecs_have_two_encoders(room: Room) -> None:
    viewers = [room.join(codec) for codec in ("H264", "VP8") * 4]
    await room.show(20)
    counts = room.encoding.counts()
    assert counts == EncodingCounts(encoders=2, encoded=40, keyframes=2)
    for viewer in viewers:
        assert viewer.numbers == list(range(20))
        assert viewer.times == [3000 * n for n in range(20)]
        assert viewer.keyframes == [0]


@pytest.mark.parametrize("codec", ["H264", "VP8"])
async def test_a_newcomer_has_a_picture_at_once(room: Room, codec: str) -> None:
    first = room.join(codec)
    await room.show(5)
    # The keyframe was made just now: the newcomer has it, and all since, without another one.
    second = room.join(codec)
    second.read()
    assert second.numbers == [0, 1, 2, 3, 4]
    await room.show(25)
    assert room.encoding.counts().keyframes == 1
    # It is long ago: there is one more, for all who come now.
    others = [room.join(codec) for _ in range(3)]
    await room.show(10)
    assert room.encoding.counts().keyframes == 2
    for viewer in others:
        assert viewer.numbers == list(range(30, 40))
        assert viewer.times[0] == 0
    assert first.numbers == second.numbers == list(range(40))


async def test_all_who_lose_pictures_get_one_keyframe_in_half_a_second(room: Room) -> None:
    viewers = [room.join() for _ in range(6)]
    for _ in range(90):  # three seconds, in which everybody asks all the time
        await room.show(1)
        for viewer in viewers:
            room.encoding.ask_keyframe(viewer.subscription)
    keyframes = viewers[0].keyframes
    assert 5 <= len(keyframes) <= 7
    assert all(after - before >= 15 for before, after in pairwise(keyframes))
    assert all(viewer.numbers == list(range(90)) for viewer in viewers)


async def test_who_asks_for_keyframes_without_end_does_not_get_them_all(room: Room) -> None:
    greedy, other = room.join(), room.join()
    for _ in range(300):  # ten seconds
        await room.show(1)
        room.encoding.ask_keyframe(greedy.subscription)
    assert 8 <= len(other.keyframes) <= 12  # of the 20 that an encoder makes at most
    before = len(other.keyframes)
    room.encoding.ask_keyframe(other.subscription)  # it has asked for none so far
    await room.show(16)
    assert len(other.keyframes) > before
    assert other.numbers == list(range(316))


async def test_who_does_not_read_harms_nobody_and_comes_back_with_a_keyframe(room: Room) -> None:
    stuck, *others = (room.join() for _ in range(3))
    await room.show(5)
    room.viewers.remove(stuck)
    await room.show(60)
    assert room.encoding.counts().keyframes == 1
    assert all(viewer.numbers == list(range(65)) for viewer in others)
    stuck.read()
    room.viewers.append(stuck)
    await room.show(5)
    assert room.encoding.counts().keyframes == 2
    assert stuck.numbers == [*range(5), *range(65, 70)]
    assert room.encoding.counts().dropped == {"viewer busy": 30, "no keyframe": 30}
    room.encoding.leave(stuck.subscription)
    assert room.encoding.counts().dropped == {"viewer busy": 30, "no keyframe": 30}


async def test_who_is_far_below_changes_its_encoder_without_a_gap(room: Room) -> None:
    good, poor = room.join(), room.join()
    room.clock.now += 7
    for bitrate, at_once in ((400_000, 200), (3 * MB, 250)):
        for _ in range(at_once):
            for layer in room.encoding._layers.values():
                layer.bitrate = 3 * MB  # of these pictures it makes hardly anything
            room.encoding.hear_bitrate(good.subscription, 3 * MB)
            room.encoding.hear_bitrate(poor.subscription, bitrate)
            await room.show(1)
        if bitrate < MB:
            assert room.encoding.counts().encoders == 2
            assert poor.subscription.layer is not good.subscription.layer
            assert poor.subscription.layer is not None
            assert poor.subscription.layer.encoder.target_bitrate == 400_000
            assert good.subscription.layer is not None
            assert good.subscription.layer.encoder.target_bitrate == 3 * MB
    assert room.encoding.counts().encoders == 1  # it has come back, and nobody is left there
    assert good.numbers == list(range(450))
    # At a change a picture may come twice; none is left out, and its time goes on without a jump.
    assert sorted({number for number in poor.numbers if number is not None}) == list(range(450))
    assert all(later > sooner for sooner, later in pairwise(poor.times))
    assert poor.times[-1] == 3000 * 449
    # There, back, and x264 takes no higher bitrate than it was made with.
    assert len(poor.keyframes) <= 4


async def test_an_encoder_ends_with_its_last_viewer_and_a_room_with_all(room: Room) -> None:
    viewers = [room.join("H264"), room.join("VP8")]
    await room.show(2)
    room.encoding.leave(viewers[1].subscription)
    room.encoding.leave(viewers[1].subscription)
    room.viewers.pop()
    assert room.encoding.counts().encoders == 1
    await room.show(2)
    assert room.encoding.counts().encoded == 6
    await room.encoding.aclose()
    late = room.encoding.join("H264", RATES, lambda: None)
    room.encoding.put(picture(64, 64, 0))
    assert late.take() is None
    assert room.encoding.counts() == EncodingCounts(encoded=6, keyframes=2)


async def test_a_picture_that_cannot_be_encoded_is_counted_and_the_next_one_goes_out(
    room: Room, caplog: pytest.LogCaptureFixture
) -> None:
    viewer = room.join()
    await room.show(3)
    layer = viewer.subscription.layer
    assert layer is not None
    compress = layer.encoder.compress

    def fail(*args: Any) -> Any:
        raise av.error.InvalidDataError(1, "no")

    layer.encoder.compress = fail  # type: ignore[method-assign]
    with caplog.at_level(logging.ERROR):
        for _ in range(2):
            room.encoding.put(picture(128, 96, 0))
            failed = layer.failed
            async with asyncio.timeout(10):
                while layer.failed == failed:
                    await asyncio.sleep(0.001)
    layer.encoder.compress = compress  # type: ignore[method-assign]
    room.number = 10
    await room.show(3)
    assert viewer.numbers == [0, 1, 2, 10, 11, 12]
    assert room.encoding.counts().dropped == {"failed": 2}
    assert len(caplog.records) == 1
