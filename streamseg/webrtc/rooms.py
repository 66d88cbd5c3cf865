"""Rooms: one publisher each, and any number of viewers up to a cap.

Every viewer has a connection of its own; what they see is encoded once for all who have the same
codec (``shared_encoding.py``).
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections import Counter
from typing import TYPE_CHECKING, Any, Protocol

import anyio

from streamseg.abc import Sink, SinkStatistics
from streamseg.errors import StreamsegError
from streamseg.webrtc.peer_sink import PeerSink
from streamseg.webrtc.refusal import Refusal
from streamseg.webrtc.shared_encoding import SharedEncoding

if TYPE_CHECKING:
    from collections.abc import Sequence

    from streamseg.frames import Frame, StreamInfo
    from streamseg.segmentation import Segmentation

__all__ = ["Publisher", "Room", "RoomSink", "Rooms", "Viewer", "check_room_name"]

_log = logging.getLogger(__name__)

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_RETRY_S = 2


class _Speaker(Protocol):
    """A connection whose sound can be relayed."""

    @property
    def audio(self) -> Any: ...


class _ViewerSink(Protocol):
    async def open(self, info: StreamInfo) -> None: ...

    async def send(self, frame: Frame, segmentation: Segmentation | None = None) -> None: ...

    async def send_packets(self, packets: Sequence[Any]) -> None: ...

    def play(self, audio: Any) -> None: ...


class Publisher(Protocol):
    """Who fills a room: a session; without a peer it is a source of this machine."""

    @property
    def peer(self) -> _Speaker | None:
        """Its connection."""


class Viewer(Protocol):
    """Who watches a room: a session with a peer that sends."""

    @property
    def sink(self) -> _ViewerSink:
        """Where its pictures go."""


def check_room_name(name: str) -> str:
    """Return a room's name if it is one.

    Raises:
        Refusal: 404 if it is none.
    """
    if _NAME.fullmatch(name) is None:
        raise Refusal(404, "there is no such room: names have 1 to 64 of A-Z a-z 0-9 _ -")
    return name


class Room:
    """A publisher and those who watch it. It exists as long as its publisher is there.

    Attributes:
        name: Of the room.
        publisher: Who fills it.
        info: What its pictures are like, None before that is known.
        viewers: In the order they came, and whether they can be sent pictures yet.
        encoding: What encodes for them.
        ended: Set when the publisher has gone.
    """

    def __init__(self, name: str, publisher: Publisher) -> None:
        self.name = name
        self.publisher = publisher
        self.info: StreamInfo | None = None
        self.viewers: dict[Viewer, bool] = {}  # bounded by Rooms
        self.encoding = SharedEncoding()
        # Those who came before there was anything to see; some of the viewers.
        self._welcomed: dict[Viewer, None] = {}
        self.ended = anyio.Event()

    async def begin(self, info: StreamInfo) -> None:
        """Say what the pictures are like; those who wait already are told."""
        self.info = info
        welcomed, self._welcomed = self._welcomed, {}
        for viewer in welcomed:
            await self._open(viewer, info)

    async def welcome(self, viewer: Viewer) -> None:
        """Let a viewer who has joined have what there is."""
        audio = self.publisher.peer.audio if self.publisher.peer is not None else None
        if audio is not None:
            viewer.sink.play(audio)
        if self.info is not None:
            await self._open(viewer, self.info)
        else:
            self._welcomed[viewer] = None

    def forget(self, viewer: Viewer) -> None:
        """Let a viewer go, if it is one; its connection is not the room's business."""
        self.viewers.pop(viewer, None)
        self._welcomed.pop(viewer, None)

    async def _open(self, viewer: Viewer, info: StreamInfo) -> None:
        if viewer not in self.viewers:
            return
        try:
            await viewer.sink.open(info)
        except (StreamsegError, anyio.ClosedResourceError):
            self.viewers.pop(viewer, None)  # has gone; its session ends by itself
        else:
            if viewer in self.viewers:
                self.viewers[viewer] = True
                if isinstance(viewer.sink, PeerSink):
                    viewer.sink.share(self.encoding)

    @property
    def watching(self) -> list[Viewer]:
        """Those who can be sent pictures."""
        return [viewer for viewer, opened in self.viewers.items() if opened]


class RoomSink(Sink):
    """Has each picture encoded for all viewers of a room; never waits for one of them.

    Args:
        room: The room; pictures sent while nobody watches are counted ``no viewer``.
    """

    live_capacity = 1

    def __init__(self, room: Room) -> None:
        self.name = f"room {room.name}"
        self._room = room
        self._open = False
        self._accepted = 0
        self._written = 0
        self._dropped: Counter[str] = Counter()
        self._notices: list[str] = []

    async def open(self, info: StreamInfo) -> None:
        """Tell the viewers what comes."""
        self._open = True
        sounds = [stream for stream in info.side_streams if stream.type == "audio"]
        if sounds and not any(_is_opus(stream) for stream in sounds):
            notice = f"{self.name}: the sound is not Opus and is left out"
            self._notices.append(notice)
            _log.warning("%s", notice)
        await self._room.begin(info)

    async def send(self, frame: Frame, segmentation: Segmentation | None = None) -> None:
        """Have a picture encoded, and sent to each viewer."""
        if not self._open:
            raise anyio.ClosedResourceError
        self._accepted += 1
        self._room.encoding.put(frame.video)
        reached = 0
        for viewer in self._room.watching:
            try:
                await viewer.sink.send(frame, segmentation)
                reached += 1
            except (StreamsegError, anyio.ClosedResourceError):
                self._room.viewers.pop(viewer, None)
        if reached:
            self._written += 1
        else:
            self._dropped["no viewer"] += 1
        await asyncio.sleep(0)

    async def send_packets(self, packets: Sequence[Any]) -> None:
        """Hand sound to each viewer, who takes it if it is Opus."""
        for viewer in self._room.watching:
            await viewer.sink.send_packets(packets)

    async def finish(self) -> None:
        """Take nothing more."""
        self._open = False

    async def commit(self) -> None:
        """Do nothing: there is nothing that stays."""

    async def aclose(self) -> None:
        """Take nothing more, and end the room's encoders."""
        self._open = False
        await self._room.encoding.aclose()

    @property
    def notices(self) -> Sequence[str]:
        """What the user should know, a line each."""
        return tuple(self._notices)

    def encoding(self) -> tuple[int, float | None]:
        """Return how many pictures an encoder was too slow for, and what the last ones took."""
        return self._room.encoding.load()

    def statistics(self) -> SinkStatistics:
        """Return the counters of this moment."""
        return SinkStatistics(self._accepted, self._written, dict(self._dropped))


def _is_opus(stream: Any) -> bool:
    return stream.codec_context.name in ("opus", "libopus")


class Rooms:
    """All rooms by name.

    Args:
        max_viewers: Of one room.
        max_viewers_in_all: Of all rooms.
    """

    def __init__(self, *, max_viewers: int, max_viewers_in_all: int) -> None:
        self._max_viewers = max_viewers
        self._max_viewers_in_all = max_viewers_in_all
        self._rooms: dict[str, Room] = {}  # bounded by the cap on sessions: each has a publisher

    def __len__(self) -> int:
        return len(self._rooms)

    @property
    def viewers(self) -> int:
        """How many viewers all rooms have."""
        return sum(len(room.viewers) for room in self._rooms.values())

    def publish(self, name: str, publisher: Publisher) -> Room:
        """Open a room.

        Raises:
            Refusal: 409 if it has a publisher.
        """
        if name in self._rooms:
            raise Refusal(
                409, "this room has a publisher already", headers={"Retry-After": str(_RETRY_S)}
            )
        room = self._rooms[name] = Room(name, publisher)
        return room

    def watch(self, name: str, viewer: Viewer) -> Room:
        """Let a viewer into a room.

        Raises:
            Refusal: 409 if nobody publishes there, 503 if it is full.
        """
        room = self._rooms.get(name)
        retry = {"Retry-After": str(_RETRY_S)}
        if room is None:
            raise Refusal(409, "nobody publishes in this room yet", headers=retry)
        if len(room.viewers) >= self._max_viewers or self.viewers >= self._max_viewers_in_all:
            raise Refusal(503, "this room is full; try again later", headers={"Retry-After": "10"})
        room.viewers[viewer] = False
        return room

    def leave(self, room: Room, who: Publisher | Viewer) -> None:
        """Let somebody out; without its publisher the room is closed."""
        room.forget(who)  # type: ignore[arg-type]  # a publisher is in no such place
        if room.publisher is who:
            if self._rooms.get(room.name) is room:
                del self._rooms[room.name]
            room.encoding.close()
            room.ended.set()
