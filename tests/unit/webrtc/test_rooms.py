from __future__ import annotations

import gc
import io
import weakref
from dataclasses import replace
from typing import Any

import anyio
import av
import pytest

from streamseg.errors import SinkWriteError
from streamseg.webrtc.refusal import Refusal
from streamseg.webrtc.rooms import Rooms, RoomSink, check_room_name
from tests.unit.fakes import FakeSource, make_frame
from tests.unit.webrtc.fakes import FakePeer

pytestmark = pytest.mark.anyio


class Member:
    def __init__(self) -> None:
        self.peer: Any = FakePeer(name="viewer")
        self.sink: Any = self.peer.sink


def make_rooms(most: int = 8) -> Rooms:
    return Rooms(max_viewers=most, max_viewers_in_all=most + 1)


async def test_every_viewer_gets_the_same_picture_not_a_copy() -> None:
    rooms = make_rooms()
    room = rooms.publish("lobby", Member())
    sink = RoomSink(room)
    viewers = [Member() for _ in range(3)]
    for viewer in viewers[:2]:
        await rooms.watch("lobby", viewer).welcome(viewer)
    await sink.open(await FakeSource(0).open())
    await rooms.watch("lobby", viewers[2]).welcome(viewers[2])
    frame = make_frame(0)
    await sink.send(frame)
    for viewer in viewers:
        assert viewer.sink.log == ["sink opened"]
        assert viewer.sink.frames == [frame]
        assert viewer.sink.frames[0].video is frame.video
        assert viewer.sink.playing is room.publisher.peer.audio
    assert sink.statistics().written == 1
    await sink.send_packets(["sound"])
    assert viewers[1].sink.packets == ["sound"]


async def test_a_viewer_who_is_still_being_answered_is_sent_nothing_and_stays() -> None:
    rooms = make_rooms()
    room = rooms.publish("lobby", Member())
    sink = RoomSink(room)
    await sink.open(await FakeSource(0).open())
    viewer = Member()

    async def not_open(*args: Any) -> None:
        raise anyio.ClosedResourceError

    send, viewer.sink.send = viewer.sink.send, not_open
    assert rooms.watch("lobby", viewer) is room
    await sink.send(make_frame(0))
    viewer.sink.send = send
    await room.welcome(viewer)
    await sink.send(make_frame(1))
    assert [frame.index for frame in viewer.sink.frames] == [1]


@pytest.mark.parametrize(("codec", "told"), [("aac", True), ("libopus", False), (None, False)])
async def test_sound_that_is_left_out_is_told(
    codec: str | None, told: bool, caplog: pytest.LogCaptureFixture
) -> None:
    info = await FakeSource(0).open()
    with av.open(io.BytesIO(), "w", format="matroska") as container:
        if codec is not None:
            info = replace(info, side_streams=(container.add_stream(codec, rate=48_000),))
        sink = RoomSink(make_rooms().publish("lobby", Member()))
        await sink.open(info)
    assert len(sink.notices) == told
    assert ("room lobby: the sound is not Opus" in caplog.text) == told


async def test_pictures_nobody_sees_are_counted() -> None:
    rooms = make_rooms()
    sink = RoomSink(rooms.publish("lobby", Member()))
    with pytest.raises(anyio.ClosedResourceError):
        await sink.send(make_frame(0))
    await sink.open(await FakeSource(0).open())
    await sink.send(make_frame(0))
    assert sink.statistics().dropped == {"no viewer": 1}
    await sink.finish()
    await sink.commit()
    with pytest.raises(anyio.ClosedResourceError):
        await sink.send(make_frame(1))


@pytest.mark.parametrize("error", [SinkWriteError("gone"), anyio.ClosedResourceError()])
async def test_a_viewer_who_has_gone_takes_nothing_from_the_others(error: Exception) -> None:
    rooms = make_rooms()
    room = rooms.publish("lobby", Member())
    sink = RoomSink(room)
    await sink.open(await FakeSource(0).open())
    gone, there = Member(), Member()

    async def fail(*args: Any) -> None:
        raise error

    gone.sink.send = fail
    for viewer in (gone, there):
        await rooms.watch("lobby", viewer).welcome(viewer)
    await sink.send(make_frame(0))
    await sink.send(make_frame(1))
    assert [frame.index for frame in there.sink.frames] == [0, 1]
    assert list(room.viewers) == [there]


async def test_one_publisher_and_so_many_viewers() -> None:
    rooms = make_rooms(most=2)
    first = Member()
    room = rooms.publish("lobby", first)
    with pytest.raises(Refusal) as caught:
        rooms.publish("lobby", Member())
    assert caught.value.status == 409
    for _ in range(2):
        rooms.watch("lobby", Member())
    with pytest.raises(Refusal) as caught:
        rooms.watch("lobby", Member())
    assert caught.value.status == 503
    assert "Retry-After" in caught.value.headers
    rooms.publish("other", Member())
    rooms.watch("other", Member())
    with pytest.raises(Refusal):  # three in all
        rooms.watch("other", Member())
    rooms.leave(room, next(iter(room.viewers)))
    rooms.watch("lobby", Member())


async def test_a_room_with_nothing_to_see_yet_keeps_nobody_who_has_gone() -> None:
    rooms = make_rooms()
    room = rooms.publish("lobby", Member())
    for _ in range(50):  # they come, are welcomed, see nothing, and go
        viewer = Member()
        assert rooms.watch("lobby", viewer) is room
        await room.welcome(viewer)
        rooms.leave(room, viewer)
    gone = weakref.ref(viewer)
    stayed = Member()
    rooms.watch("lobby", stayed)
    await room.welcome(stayed)
    del viewer
    gc.collect()
    assert gone() is None
    await RoomSink(room).open(await FakeSource(1).open())
    assert room.watching == [stayed]


async def test_a_room_goes_with_its_publisher() -> None:
    rooms = make_rooms()
    with pytest.raises(Refusal) as caught:
        rooms.watch("lobby", Member())
    assert caught.value.status == 409
    assert "Retry-After" in caught.value.headers
    publisher, viewer = Member(), Member()
    room = rooms.publish("lobby", publisher)
    rooms.watch("lobby", viewer)
    rooms.leave(room, viewer)
    assert not room.ended.is_set()
    rooms.leave(room, publisher)
    assert room.ended.is_set()
    assert len(rooms) == 0
    again = rooms.publish("lobby", Member())
    rooms.leave(room, publisher)  # late: not the new one's room
    assert not again.ended.is_set()
    assert len(rooms) == 1


@pytest.mark.parametrize("name", ["", "a b", "../etc", "ä", "x" * 65, "a/b", "a\n"])
async def test_what_is_no_room(name: str) -> None:
    with pytest.raises(Refusal) as caught:
        check_room_name(name)
    assert caught.value.status == 404
    assert check_room_name("lobby-1_A") == "lobby-1_A"
