"""Connections: makes the sessions that offers ask for, and does their work."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, TypeVar

import anyio

from streamseg.errors import StreamsegError
from streamseg.webrtc.control import Control
from streamseg.webrtc.processing import SessionRequest
from streamseg.webrtc.rooms import RoomSink
from streamseg.webrtc.tuning_gathering import address_towards

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from streamseg.abc import Source
    from streamseg.webrtc.choices import EffectChoice, Menu
    from streamseg.webrtc.peer import Peer
    from streamseg.webrtc.processing import Processing, SessionFactory
    from streamseg.webrtc.rooms import Room, Rooms
    from streamseg.webrtc.sessions import PeerFactory, Session, Sessions
    from streamseg.webrtc.uploads import Uploads

__all__ = ["Connections"]

_log = logging.getLogger(__name__)

T = TypeVar("T")


class Connections:
    """Makes sessions from offers.

    Each method admits, answers the offer and starts the session's work; whatever goes wrong or is
    cancelled on the way ends the session again.

    Args:
        sessions: Where they are kept.
        rooms: Where publishers and viewers meet.
        uploads: Backgrounds that may be named.
        make_peer: Makes a connection.
        start_session: Makes the processing.
        menu: The effects that senders may choose from.
    """

    def __init__(
        self,
        sessions: Sessions,
        rooms: Rooms,
        uploads: Uploads,
        *,
        make_peer: PeerFactory,
        start_session: SessionFactory,
        menu: Menu,
    ) -> None:
        self._sessions = sessions
        self._rooms = rooms
        self._uploads = uploads
        self._make_peer = make_peer
        self._start_session = start_session
        self._menu = menu

    async def call(
        self, offer: str, effect: EffectChoice | None, address: str
    ) -> tuple[Session, str]:
        """Answer an offer of a camera whose processed picture goes back.

        Raises:
            SignalError: If the offer cannot be used.
            Refusal: If there is no room for it.
            StreamsegError: If the effect cannot be made.
        """
        session = self._sessions.admit("call", address)

        async def prepare(peer: Peer) -> tuple[str, Processing]:
            answer = await peer.accept(offer, sends=True, receives=True, data=True)
            if peer.audio is not None:
                peer.sink.play(peer.audio)
            request = SessionRequest(session.name, effect)
            return answer, await self._start_session(peer.source, [peer.sink], request)

        answer, processing = await self._prepare(session, prepare)
        self._sessions.start(session, self._serve_call(session, processing))
        return session, answer

    async def publish(self, room: str, offer: str, address: str) -> tuple[Session, str]:
        """Answer an offer of a camera for a room; raises as ``call`` does."""
        session = self._sessions.admit("publisher", address)

        async def prepare(peer: Peer) -> tuple[str, Processing]:
            session.room = self._rooms.publish(room, session)
            answer = await peer.accept(offer, sends=False, receives=True)
            request = SessionRequest(session.name)
            sinks = [RoomSink(session.room)]
            return answer, await self._start_session(peer.source, sinks, request)

        answer, processing = await self._prepare(session, prepare)
        self._sessions.start(session, self._process(session, processing))
        return session, answer

    async def watch(self, room: str, offer: str, address: str) -> tuple[Session, str]:
        """Answer an offer to watch a room; raises as ``call`` does."""
        session = self._sessions.admit("viewer", address)

        async def prepare(peer: Peer) -> tuple[str, Room]:
            session.room = self._rooms.watch(room, session)
            answer = await peer.accept(offer, sends=True, receives=False)
            await session.room.welcome(session)
            return answer, session.room

        answer, watched = await self._prepare(session, prepare)
        self._sessions.start(session, self._serve_viewer(session, watched))
        return session, answer

    async def fill(self, room: str, source: Source) -> None:
        """Put a source of this machine into a room, until it ends.

        Raises:
            Refusal: If the room is taken or the server is full.
            StreamsegError: If the source fails for good.
        """
        session = self._sessions.admit("source", "")
        failure: list[StreamsegError] = []

        async def work() -> None:
            assert session.room is not None
            request = SessionRequest(session.name)
            try:
                processing = await self._start_session(source, [RoomSink(session.room)], request)
                await processing.run()
            except StreamsegError as exc:
                failure.append(exc)  # told by whoever asked for this source

        try:
            session.room = self._rooms.publish(room, session)
            self._sessions.start(session, work())
            assert session.task is not None
            await asyncio.wait([session.task])
        finally:
            await self._sessions.end(session)
        if failure:
            raise failure[0] from failure[0].__cause__

    def leave(self, session: Session) -> None:
        """Let a session that has ended out of its room."""
        if session.room is not None:
            self._rooms.leave(session.room, session)

    async def _prepare(
        self, session: Session, prepare: Callable[[Peer], Awaitable[tuple[str, T]]]
    ) -> tuple[str, T]:
        try:
            peer = session.peer = self._make_peer(name=session.name)
            # A caller on this machine may have no other address than the loopback one, and some
            # callers try the first address only.
            peer.near = address_towards(session.address)
            return await prepare(peer)
        except BaseException:
            await self._sessions.end(session)
            raise

    async def _serve_call(self, session: Session, processing: Processing) -> None:
        peer = session.peer
        assert peer is not None
        control = Control(peer, processing, self._uploads, menu=self._menu)
        peer.on_message = control.receive
        async with anyio.create_task_group() as group:
            group.start_soon(control.run)
            group.start_soon(control.tell_figures)
            await self._process(session, processing)
            group.cancel_scope.cancel()

    async def _process(self, session: Session, processing: Processing) -> None:
        """Run the processing until it or the connection ends."""
        peer = session.peer
        assert peer is not None
        async with anyio.create_task_group() as group:

            async def stop_with_peer() -> None:
                await peer.closed.wait()
                group.cancel_scope.cancel()

            group.start_soon(stop_with_peer)
            try:
                await processing.run()
            except StreamsegError as exc:
                if not peer.reason:  # else that is why; being closed takes a moment longer
                    reason = str(exc).removeprefix(f"{session.name}: ")
                    _log.warning("%s failed: %s", session.name, reason)
            except anyio.ClosedResourceError:
                pass  # its source or sink: the connection has ended, and the peer knows why
            group.cancel_scope.cancel()

    async def _serve_viewer(self, session: Session, room: Room) -> None:
        peer = session.peer
        assert peer is not None
        async with anyio.create_task_group() as group:
            for event in (peer.closed, room.ended):

                async def stop_with(event: anyio.Event = event) -> None:
                    await event.wait()
                    group.cancel_scope.cancel()

                group.start_soon(stop_with)
