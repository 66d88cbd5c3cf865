"""Sessions: everybody who is connected, how many that may be, and how each of them ends.

A session is admitted before anything is made for it, so that the caps hold while a hundred offers
are answered at once. It has one task; whatever ends the task ends the connection.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

import anyio

from streamseg.abc import Resource
from streamseg.errors import StreamsegError
from streamseg.webrtc.refusal import Refusal
from streamseg.webrtc.shared_encoding import EncodingCounts

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from streamseg.webrtc.peer import Peer
    from streamseg.webrtc.rooms import Room

__all__ = ["Kind", "PeerFactory", "Session", "SessionCounts", "Sessions"]

_log = logging.getLogger(__name__)

Kind = Literal["call", "publisher", "viewer", "source"]

_END_S = 3.0  # a peer closes within two
_FULL_RETRY_S = 10
_PENDING_RETRY_S = 5


class PeerFactory(Protocol):
    """Makes a connection; ``Peer`` itself with its options."""

    def __call__(self, *, name: str) -> Peer:
        """Return a connection that is not made yet."""


@dataclass(slots=True, eq=False)
class Session:
    """Somebody who is connected, or about to be.

    Attributes:
        name: For logs: tells sessions apart and nothing else.
        kind: ``call``: picture in and processed picture back. ``publisher`` and ``viewer`` of a
            room. ``source``: a source of this machine that fills a room.
        address: Who it is, for counting; never logged.
        id: What the session is known by outside; whoever knows it may end it.
        etag: Of its ICE session.
        peer: The connection, once there is one.
        room: The room that it is in.
        task: What works for it.
        closing: Whether its connection is being closed.
    """

    name: str
    kind: Kind
    address: str
    id: str = field(default_factory=lambda: secrets.token_urlsafe(24), repr=False)
    etag: str = field(default_factory=lambda: f'"{secrets.token_hex(8)}"', repr=False)
    peer: Peer | None = None
    room: Room | None = None
    task: asyncio.Task[None] | None = field(default=None, repr=False)
    closing: bool = False

    @property
    def sink(self) -> Any:
        """The connection's sink, for rooms."""
        assert self.peer is not None
        return self.peer.sink

    @property
    def publishes(self) -> Room | None:
        """The room that it fills."""
        room = self.room
        return room if room is not None and room.publisher is self else None

    @property
    def pending(self) -> bool:
        """Whether its connection is not standing yet."""
        return self.kind != "source" and (self.peer is None or not self.peer.connected.is_set())


@dataclass(frozen=True, slots=True)
class SessionCounts:
    """How many sessions there are now, and were so far.

    Attributes:
        calls: Now.
        publishers: Now, sources of this machine included.
        viewers: Now.
        pending: Those of them whose connection is not standing yet.
        admitted: So far.
        refused: So far.
        encoding: What was encoded for the viewers of all rooms.
    """

    calls: int = 0
    publishers: int = 0
    viewers: int = 0
    pending: int = 0
    admitted: int = 0
    refused: int = 0
    encoding: EncodingCounts = field(default_factory=EncodingCounts)


class Sessions(Resource):
    """All sessions.

    Args:
        max_sessions: Calls, publishers and sources at once.
        max_viewers: Viewers at once.
        max_pending_per_address: Sessions of one address that are not connected yet.
        on_end: Called once for each session that has ended.
    """

    def __init__(
        self,
        *,
        max_sessions: int,
        max_viewers: int,
        max_pending_per_address: int,
        on_end: Callable[[Session], None],
    ) -> None:
        self._max_sessions = max_sessions
        self._max_viewers = max_viewers
        self._max_pending = max_pending_per_address
        self._on_end = on_end
        self._sessions: dict[str, Session] = {}  # bounded by the caps
        self._number = 0
        self._refused = 0
        self._encoding = EncodingCounts()  # of rooms that are gone
        self._closing = False

    def admit(self, kind: Kind, address: str) -> Session:
        """Return a new session; ``start`` or ``end`` must follow.

        Raises:
            Refusal: 503 if there are too many already, or the server is stopping.
        """
        try:
            self._check(kind, address)
        except Refusal:
            self._refused += 1
            raise
        self._number += 1
        session = Session(f"{kind} {self._number}", kind, address)
        self._sessions[session.id] = session
        return session

    def _check(self, kind: Kind, address: str) -> None:
        if self._closing:
            raise _busy("the server is stopping", _FULL_RETRY_S)
        viewers = sum(session.kind == "viewer" for session in self._sessions.values())
        if kind == "viewer" and viewers >= self._max_viewers:
            raise _busy("the server has as many viewers as it may have", _FULL_RETRY_S)
        if kind != "viewer" and len(self._sessions) - viewers >= self._max_sessions:
            raise _busy("the server is full", _FULL_RETRY_S)
        pending = sum(
            session.pending and session.address == address for session in self._sessions.values()
        )
        if pending >= self._max_pending:
            raise _busy("too many connections of this address are being made", _PENDING_RETRY_S)

    def find(self, identity: str, kinds: Sequence[Kind]) -> Session:
        """Return a session by its id.

        Raises:
            Refusal: 404 if there is none of these kinds.
        """
        session = self._sessions.get(identity)
        if session is None or session.closing or session.kind not in kinds:
            raise Refusal(404, "there is no such session: it may have ended already")
        return session

    def start(self, session: Session, work: Coroutine[Any, Any, None]) -> None:
        """Run a session's work; when it ends, so does the session."""
        if self._closing or session.id not in self._sessions:
            work.close()
            raise _busy("the server is stopping", _FULL_RETRY_S)
        session.task = asyncio.create_task(self._run(session, work), name=session.name)

    async def _run(self, session: Session, work: Coroutine[Any, Any, None]) -> None:
        _log.info("%s begins", session.name)
        try:
            await work
        except StreamsegError as exc:
            _log.warning("%s failed: %s", session.name, exc)
        except Exception as exc:
            _log.exception("%s failed: %s", session.name, type(exc).__name__)
        finally:
            work.close()
            with anyio.CancelScope(shield=True):
                await self._close(session)

    async def end(self, session: Session) -> None:
        """End a session and wait until its connection is closed."""
        task = session.task
        with anyio.CancelScope(shield=True):
            if task is not None:
                if not session.closing:
                    task.cancel()
                await asyncio.wait([task], timeout=_END_S)
            # A task that was cancelled before its first step has closed nothing.
            await self._close(session)

    async def _close(self, session: Session) -> None:
        if session.closing:
            return
        session.closing = True
        peer = session.peer
        try:
            if peer is not None:
                await peer.aclose()
        except Exception as exc:
            _log.exception("%s did not close well: %s", session.name, type(exc).__name__)
        finally:
            del self._sessions[session.id]
            self._on_end(session)
            if session.publishes is not None:
                self._encoding += session.publishes.encoding.counts()
            reason = peer.reason if peer is not None else ""
            _log.info("%s has ended%s", session.name, f": {reason}" if reason else "")

    def counts(self) -> SessionCounts:
        """Return how many there are."""
        sessions = self._sessions.values()
        kinds = [session.kind for session in sessions]
        return SessionCounts(
            calls=kinds.count("call"),
            publishers=kinds.count("publisher") + kinds.count("source"),
            viewers=kinds.count("viewer"),
            pending=sum(session.pending for session in sessions),
            admitted=self._number,
            refused=self._refused,
            encoding=sum(
                (each.publishes.encoding.counts() for each in sessions if each.publishes),
                self._encoding,
            ),
        )

    async def aclose(self) -> None:
        """Admit nobody any more, and end all sessions at once."""
        self._closing = True
        with anyio.CancelScope(shield=True):
            await asyncio.gather(*(self.end(session) for session in list(self._sessions.values())))


def _busy(reason: str, retry_s: int) -> Refusal:
    return Refusal(503, f"{reason}; try again later", headers={"Retry-After": str(retry_s)})
