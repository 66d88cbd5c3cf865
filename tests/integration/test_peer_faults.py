"""What goes wrong with a connection: nothing comes, somebody is killed, offers are nonsense."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import threading
import time
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import pytest

from streamseg.errors import SourceOpenError
from streamseg.frames import Frame, StreamInfo
from streamseg.webrtc.errors import SignalError
from streamseg.webrtc.peer import Peer, PeerOptions
from tests.support.webrtc_peers import (
    NumberedTrack,
    Stock,
    Wrtc,
    descriptors,
    picture,
    read_number,
    resident_mb,
    use_loopback,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    import av

pytestmark = [pytest.mark.integration, pytest.mark.anyio, pytest.mark.timeout(90)]

OFFERS = sorted((Path(__file__).parents[1] / "support" / "webrtc" / "offers").glob("*.sdp"))
TEXTS = [path.read_bytes().decode() for path in OFFERS]
INFO = StreamInfo("test", 320, 240, "yuv420p", Fraction(1, 90_000), live=True)


@pytest.fixture(autouse=True)
def _loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    use_loopback(monkeypatch)


def busy_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if "decoder" in thread.name]


async def settled(tasks: int) -> None:
    """Wait until not more than this many tasks are there."""
    with anyio.move_on_after(5):
        while len(asyncio.all_tasks()) > tasks:
            await asyncio.sleep(0.01)
    assert len(asyncio.all_tasks()) <= tasks, asyncio.all_tasks()


async def test_nobody_connects() -> None:
    tasks, before = len(asyncio.all_tasks()), descriptors()
    peer = Peer(PeerOptions(handshake_timeout_s=0.5), name="a")
    async with Stock(send=NumberedTrack()) as other:
        await peer.accept(await other.offer(), sends=True, receives=True)
        begun_s = time.monotonic()
        with pytest.raises(SourceOpenError, match=r"0\.5 s"):
            await peer.source.open()
        await asyncio.wait_for(peer.closed.wait(), 2)
        assert time.monotonic() - begun_s < 1.5
        assert "no connection" in peer.reason
    await settled(tasks)
    assert descriptors() <= before


async def test_connected_and_silent() -> None:
    class Mute(NumberedTrack):
        async def recv(self) -> av.VideoFrame:
            if self.number >= 10:
                await asyncio.Event().wait()
            return await super().recv()

    options = PeerOptions(media_timeout_s=0.6)
    async with Stock(send=Mute()) as other, Peer(options, name="a") as peer:
        await other.take_answer(await peer.accept(await other.offer(), sends=False, receives=True))
        await peer.source.open()
        begun_s = time.monotonic()
        with contextlib.suppress(anyio.EndOfStream):
            while True:
                await peer.source.receive()
        with pytest.raises(anyio.EndOfStream):
            await peer.source.receive()
        assert 0.5 < time.monotonic() - begun_s < 2
        assert peer.reason == "no media came for 0.6 s"


async def test_killed_on_the_other_end() -> None:
    """Both ways of noticing at once: media that stays away, a viewer that is not heard."""
    async with (
        Wrtc(size=[320, 180]) as publisher,
        Wrtc(send=False) as viewer,
        Peer(PeerOptions(), name="publisher") as receiving,
        Peer(PeerOptions(), name="viewer") as sending,
    ):
        await publisher.take_answer(
            await receiving.accept(await publisher.offer(), sends=False, receives=True)
        )
        await viewer.take_answer(
            await sending.accept(await viewer.offer(), sends=True, receives=False)
        )
        await receiving.source.open()
        await sending.sink.open(INFO)
        await asyncio.wait_for(sending.connected.wait(), 5)
        number = 0
        while not viewer.frames:
            await sending.sink.send(Frame(picture(320, 240, number), number, 0.0))
            number += 1
            await asyncio.sleep(0.03)
        publisher.kill()
        viewer.kill()
        begun_s = time.monotonic()
        await asyncio.wait_for(receiving.closed.wait(), 10)
        await asyncio.wait_for(sending.closed.wait(), 10)
        assert time.monotonic() - begun_s < 10
        assert "no media" in receiving.reason
        assert "heard" in sending.reason


async def test_the_other_side_hangs_up() -> None:
    tasks = len(asyncio.all_tasks())
    async with Peer(PeerOptions(), name="a") as peer:
        other = Stock(send=NumberedTrack())
        await other.take_answer(await peer.accept(await other.offer(), sends=True, receives=True))
        await peer.source.open()
        await other.aclose()
        await asyncio.wait_for(peer.closed.wait(), 2)
        assert "other side" in peer.reason
        await settled(tasks)
        assert not busy_threads()


async def _new(peer: Peer, other: Stock) -> None:
    await asyncio.sleep(0)


async def _offered(peer: Peer, other: Stock) -> None:
    await peer.offer(sends=True, receives=True)


async def _answered(peer: Peer, other: Stock) -> None:
    await peer.accept(await other.offer(), sends=True, receives=True)


async def _connecting(peer: Peer, other: Stock) -> None:
    await other.take_answer(await peer.accept(await other.offer(), sends=True, receives=True))


async def _connected(peer: Peer, other: Stock) -> None:
    await _connecting(peer, other)
    await peer.source.open()
    await peer.sink.open(INFO)
    await peer.sink.send(await peer.source.receive())


async def _accepting(peer: Peer, other: Stock) -> None:
    task = asyncio.create_task(peer.accept(await other.offer(), sends=True, receives=True))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])


async def _slow_decoder(peer: Peer, other: Stock) -> None:
    await _connecting(peer, other)
    await peer.source.open()
    inlet = peer._media.inlets()[0]
    decode = inlet._take

    def slowly(codec: str, frame: object) -> None:
        time.sleep(0.3)
        decode(codec, frame)  # type: ignore[arg-type]

    inlet._take = slowly  # type: ignore[assignment]
    with anyio.fail_after(5):
        while len(inlet._frames) < 15:
            await asyncio.sleep(0.01)


STATES = [_new, _offered, _accepting, _answered, _connecting, _connected, _slow_decoder]


@pytest.mark.parametrize("state", STATES)
async def test_closing_from_every_state(state: Callable[[Peer, Stock], object]) -> None:
    tasks, before = len(asyncio.all_tasks()), descriptors()
    peer = Peer(PeerOptions(), name="a")
    async with Stock(send=NumberedTrack()) as other:
        await state(peer, other)  # type: ignore[misc]
        late = 0.0

        async def tick() -> None:
            nonlocal late
            while True:
                begun_s = time.monotonic()
                await asyncio.sleep(0.01)
                late = max(late, time.monotonic() - begun_s - 0.01)

        ticking = asyncio.create_task(tick())
        await asyncio.sleep(0)
        begun_s = time.monotonic()
        await peer.aclose()
        assert time.monotonic() - begun_s < 2
        assert peer.closed.is_set()
        await peer.aclose()
        ticking.cancel()
        assert late < 0.2  # the loop went on
    await settled(tasks)
    assert not busy_threads()
    assert descriptors() <= before


@pytest.mark.slow  # a server's sixty calls are in the default run
async def test_fifty_calls_leave_nothing() -> None:
    track_size = (320, 240)

    async def call() -> None:
        other = Stock(send=NumberedTrack(track_size))
        async with Peer(PeerOptions(), name="a") as peer:
            await other.take_answer(
                await peer.accept(await other.offer(), sends=True, receives=True)
            )
            await peer.sink.open(await peer.source.open())
            for _ in range(3):
                await peer.sink.send(await peer.source.receive())
        await other.aclose()

    for _ in range(10):
        await call()
    tasks = len(asyncio.all_tasks())
    gc.collect()
    threads, before, memory = threading.active_count(), descriptors(), resident_mb()
    for _ in range(50):
        await call()
    gc.collect()
    await settled(tasks)
    assert threading.active_count() <= threads + 1  # the loop's own pool may grow to its size
    assert descriptors() <= before
    assert resident_mb() - memory < 20


async def test_a_large_picture_is_refused() -> None:
    for codec in ("H264", "VP8"):
        options = PeerOptions(max_pixels=320 * 240, prefer=codec)  # type: ignore[arg-type]
        track = NumberedTrack((320, 240))
        async with Stock(send=track) as other, Peer(options, name="a") as peer:
            await other.take_answer(
                await peer.accept(await other.offer(), sends=False, receives=True)
            )
            await peer.source.open()
            track.size = (640, 480)
            await asyncio.wait_for(peer.closed.wait(), 5)
            assert peer.reason == "pictures of 640x480 are over 76800 pixels"


async def test_the_size_changes_on_the_way() -> None:
    for codec in ("H264", "VP8"):
        track = NumberedTrack((320, 240))
        options = PeerOptions(prefer=codec)  # type: ignore[arg-type]
        async with Stock(send=track) as other, Peer(options, name="a") as peer:
            await other.take_answer(
                await peer.accept(await other.offer(), sends=True, receives=True)
            )
            await peer.sink.open(await peer.source.open())
            back: list[tuple[int, int]] = []

            async def look(other: Stock = other, back: list[tuple[int, int]] = back) -> None:
                while True:
                    video = await other.tracks["video"].recv()
                    assert read_number(video) is not None  # type: ignore[arg-type]
                    back.append((video.width, video.height))  # type: ignore[union-attr]

            task = asyncio.create_task(look())
            with anyio.fail_after(5):
                while (640, 360) not in back:
                    if len(back) == 5:
                        track.size = (640, 360)
                    await peer.sink.send(await peer.source.receive())
            task.cancel()
            await asyncio.wait([task])
            assert back[0] == (320, 240)


# -- offers ----------------------------------------------------------------------------------


def mutated(offer: str, chance: random.Random) -> str:
    lines = offer.split("\r\n")
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(lines))
        kind = chance.randrange(9)
        if kind == 0:
            del lines[at]
        elif kind == 1:
            lines.insert(at, lines[chance.randrange(len(lines))])
        elif kind == 2:
            lines[at] = lines[at][: chance.randrange(len(lines[at]) + 1)]
        elif kind == 3:
            other = chance.randrange(len(lines))
            lines[at], lines[other] = lines[other], lines[at]
        elif kind == 4:
            lines[at] = "".join(
                chance.choice("0123456789") if letter.isdigit() else letter for letter in lines[at]
            )
        elif kind == 5:
            name, _, _ = lines[at].partition(":")
            lines[at] = (
                name + ":" + chance.choice(["", "-1", "99999999999", "\u2028", "x y z", "/"])
            )
        elif kind == 6:
            place = chance.randrange(len(lines[at]) + 1)
            lines[at] = lines[at][:place] + chr(chance.randrange(1, 0x250)) + lines[at][place:]
        elif kind == 7:
            lines[at] = lines[at].replace("H264", "H265").replace("VP8", "VP9").replace("opus", "x")
        else:
            lines = lines[: max(1, at)]
        if not lines:
            lines = [""]
    return "\r\n".join(lines)


@pytest.mark.parametrize("offer", TEXTS, ids=[path.stem for path in OFFERS])
async def test_stored_offers_are_answered(offer: str) -> None:
    async with Peer(PeerOptions(), name="a") as peer:
        answer = await peer.accept(offer, sends=True, receives=True)
        assert "x-google-start-bitrate=2500" in answer
        assert "127.0.0.1" in answer


async def test_mutated_offers() -> None:
    assert len(OFFERS) >= 3
    chance = random.Random(4)
    unheard: list[str] = []
    asyncio.get_running_loop().set_exception_handler(
        lambda loop, context: unheard.append(str(context))
    )
    tasks, before = len(asyncio.all_tasks()), descriptors()
    errors: list[SignalError] = []
    answered = 0
    for number in range(500):
        offer = mutated(TEXTS[number % len(TEXTS)], chance)
        async with Peer(PeerOptions(), name="a") as peer:
            try:
                await peer.accept(
                    offer, sends=bool(number & 1), receives=bool(number & 2) or not number & 1
                )
            except SignalError as exc:
                errors.append(exc)
            else:
                answered += 1
                await asyncio.sleep(0)
    await settled(tasks)
    gc.collect()
    assert all(400 <= error.status < 500 for error in errors)
    assert all("\n" not in str(error) and len(str(error)) < 200 for error in errors)
    assert len(errors) > 100
    assert answered > 100
    assert descriptors() <= before
    assert not busy_threads()
    assert unheard == []
    asyncio.get_running_loop().set_exception_handler(None)
