"""Peer: one WebRTC connection, as a source and a sink of a pipeline."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import anyio
from aiortc import RTCSessionDescription
from aiortc.sdp import candidate_from_sdp

from streamseg.abc import Resource
from streamseg.webrtc.audio import AudioRelay
from streamseg.webrtc.errors import SignalError
from streamseg.webrtc.peer_link import Link
from streamseg.webrtc.peer_media import DIRECTIONS, Media
from streamseg.webrtc.peer_messages import Messages
from streamseg.webrtc.peer_options import IceServer, PeerOptions
from streamseg.webrtc.peer_refusal import MisuseError, raise_refusal
from streamseg.webrtc.peer_sdp import for_aiortc, usable_candidate, with_bitrate
from streamseg.webrtc.peer_sink import PeerSink
from streamseg.webrtc.peer_source import PeerSource
from streamseg.webrtc.peer_watch import Watch
from streamseg.webrtc.signals import check_offer
from streamseg.webrtc.statistics import PeerStatistics
from streamseg.webrtc.tuning import TunedConnection
from streamseg.webrtc.tuning_decoding import AudioInlet, VideoInlet

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiortc import RTCDataChannel

__all__ = ["IceServer", "Peer", "PeerOptions", "PeerStatistics"]

_logger = logging.getLogger(__name__)

_CANDIDATES = 40  # that may follow an offer


class Peer(Resource):
    """One connection to a browser or another WebRTC endpoint.

    Either ``accept`` an offer, or make one (``offer``, ``take_answer``); once, and of one loop. The
    source and the sink are there from the beginning and end with the connection::

        async with Peer(PeerOptions(), name="viewer 1") as peer:
            answer = await peer.accept(offer, sends=True, receives=True)
            await peer.closed.wait()

    A connection that does not come about, or over which nothing is heard, closes itself.

    Args:
        options: How it is made and what it may take.
        name: For messages and logs; without addresses.

    Attributes:
        source: What is received.
        sink: What is sent.
        near: Set before signalling to the address of this machine that the other side reaches: it
            is offered first, even if it is the loopback one.
        audio: The sound that comes in, to be played by a sink; None if none was agreed on.
        connected: Set when media can flow.
        closed: Set when it has ended, for whatever reason, and nothing of it is left.
        reason: Why it ended, one line; empty before.
    """

    def __init__(self, options: PeerOptions, *, name: str) -> None:
        self.name = name
        self.options = options
        self.near: str | None = None
        self.audio: AudioRelay | None = None
        self.connected = anyio.Event()
        self.closed = anyio.Event()
        self.reason = ""
        self._media = Media()
        self.sink = PeerSink(name)
        self.source = PeerSource(
            name,
            timeout_s=options.handshake_timeout_s,
            reason=lambda: self.reason,
            dropped=self._media.dropped_before_decoding,
        )
        self._messages = Messages()
        self._link = Link()
        self._connection: TunedConnection | None = None
        self._watch: Watch | None = None
        self._watching: asyncio.Task[None] | None = None
        self._ending: asyncio.Task[None] | None = None
        self._sends = False
        self._receives = False
        self._candidates = 0

    # -- signalling --------------------------------------------------------------------------

    async def accept(self, offer: str, *, sends: bool, receives: bool, data: bool = False) -> str:
        """Answer an offer.

        Args:
            offer: SDP.
            sends: Whether ``sink`` goes out.
            receives: Whether the other side's video becomes ``source``.
            data: Whether its data channel ``control`` is used.

        Returns:
            The answer, complete with candidates.

        Raises:
            SignalError: If the offer cannot be used; the peer is closed then.
        """
        try:
            check_offer(offer, sends=sends, receives=receives)
            connection = self._begin(sends=sends, receives=receives, offers=False)
            if data:
                connection.on("datachannel", self._messages.take)
            else:
                connection.on("datachannel", _refuse_channel)
            await connection.setRemoteDescription(RTCSessionDescription(for_aiortc(offer), "offer"))
            self._agree()
            await connection.setLocalDescription(await connection.createAnswer())
            answer = connection.localDescription.sdp
            self._start_watch(connection)
        except BaseException as exc:
            await self._abandon(exc)
            raise_refusal(exc, "offer")
        if receives:
            answer = with_bitrate(answer, self.options.bitrate, self.options.max_bitrate)
        return answer

    async def offer(self, *, sends: bool, receives: bool) -> str:
        """Make an offer of video and sound; ``take_answer`` follows.

        Returns:
            SDP, complete with candidates.
        """
        try:
            connection = self._begin(sends=sends, receives=receives, offers=True)
            direction = DIRECTIONS[(sends, receives)]
            for kind in ("audio", "video"):
                connection.addTransceiver(kind, direction=direction)
            self._agree()
            await connection.setLocalDescription(await connection.createOffer())
            self._start_watch(connection)
        except BaseException as exc:
            await self._abandon(exc)
            raise
        return str(connection.localDescription.sdp)

    async def take_answer(self, sdp: str) -> None:
        """Take the answer to ``offer``.

        Raises:
            SignalError: If it cannot be used; the peer is closed then.
            anyio.ClosedResourceError: If the peer has ended meanwhile.
        """
        connection = self._connection
        if connection is None:
            raise MisuseError("take_answer() was called without offer()")
        if self._ending is not None:
            raise anyio.ClosedResourceError
        try:
            if not sdp.startswith("v=0") or len(sdp) > 65_536:
                raise SignalError("the answer is no session description")
            await connection.setRemoteDescription(RTCSessionDescription(for_aiortc(sdp), "answer"))
            self._media.check_answer(sends=self._sends, receives=self._receives)
        except BaseException as exc:
            await self._abandon(exc)
            raise_refusal(exc, "answer")

    async def add_candidate(self, candidate: str, mid: str) -> None:
        """Take a candidate that followed the offer (trickle); one that cannot be used is left out.

        Args:
            candidate: ``candidate:...``, as it would be in the offer after ``a=``.
            mid: Of the media section that it is for.

        Raises:
            SignalError: If it is none, or too many came.
        """
        connection = self._connection
        if connection is None or self._ending is not None:
            return
        self._candidates += 1
        if self._candidates > _CANDIDATES:
            raise SignalError(f"over {_CANDIDATES} candidates came", status=422)
        if not usable_candidate(candidate):
            return
        try:
            parsed = candidate_from_sdp(candidate.removeprefix("candidate:"))
            parsed.sdpMid = mid
            await connection.addIceCandidate(parsed)
        except Exception as exc:
            raise_refusal(exc, "candidate")

    # -- messages ----------------------------------------------------------------------------

    @property
    def on_message(self) -> Callable[[str], None] | None:
        """Called with each text of the data channel ``control``: 4 KiB and 20 a second at most."""
        return self._messages.on_message

    @on_message.setter
    def on_message(self, function: Callable[[str], None] | None) -> None:
        self._messages.on_message = function

    def send_message(self, text: str) -> None:
        """Send a text; it is let go where the channel is not there or the other side does not read.

        Raises:
            ValueError: If it is longer than 4 KiB.
        """
        self._messages.send(text)

    # -- the end -----------------------------------------------------------------------------

    async def aclose(self) -> None:
        """End the connection, within two seconds; nothing of it is left."""
        self._end("closed")
        if self._ending is not None:
            with anyio.CancelScope(shield=True):
                await asyncio.shield(self._ending)

    def _end(self, reason: str) -> None:
        """Begin to end it; what waits for the source ends at once."""
        if self._ending is not None or self.closed.is_set():
            return
        self.reason = reason
        self.source.end()
        self.sink.end()
        if self._connection is None and self._watching is None:
            self.closed.set()
            return
        self._ending = asyncio.get_running_loop().create_task(self._tear_down())

    async def _tear_down(self) -> None:
        try:
            if self._watching is not None and self._watching is not asyncio.current_task():
                self._watching.cancel()
                await asyncio.wait([self._watching])
            if self._connection is not None:
                await self._connection.close()
        except Exception:
            _logger.exception("%s: closing failed", self.name)
        finally:
            _logger.debug("%s: ended: %s", self.name, self.reason)
            self.source.release()
            self.closed.set()

    async def _abandon(self, exc: BaseException) -> None:
        with anyio.CancelScope(shield=True):
            self._end(str(exc) if isinstance(exc, SignalError) else "signalling failed")
            await self.aclose()

    # -- making ------------------------------------------------------------------------------

    def _begin(self, *, sends: bool, receives: bool, offers: bool) -> TunedConnection:
        if self._connection is not None:
            raise MisuseError("a Peer makes one connection")
        if self._ending is not None or self.closed.is_set():
            raise anyio.ClosedResourceError
        if not sends and not receives:
            raise MisuseError("sends and receives are both False")
        self._sends, self._receives = sends, receives
        self.source.bind()
        loop = asyncio.get_running_loop()
        connection = TunedConnection(
            self.options,
            video=lambda: VideoInlet(
                self.source.put,
                lambda reason: _call(loop, self._end, reason),
                self.options.max_pixels,
            ),
            audio=lambda: AudioInlet(self._hear),
            failed=self._connecting_failed,
            one_transport=offers,
            near=self.near,
        )
        connection.on("connectionstatechange", self._state_changed)
        self._connection = self._media.connection = connection
        return connection

    def _agree(self) -> None:
        """Say what goes which way."""
        self._media.agree(sends=self._sends, receives=self._receives)
        if self._sends:
            self.sink.video, self.sink.audio = self._media.send(self._encoding_failed)
        if self._receives and self._media.sound_comes:
            self.audio = AudioRelay()

    def _start_watch(self, connection: TunedConnection) -> None:
        for transport in connection.transports:
            self._link.listen(transport)
        watch = self._watch = Watch(
            self.options,
            receives=self._receives,
            link=self._link,
            media_s=self._media.heard_s,
            decoded=self._media.decoded,
            end=self._fail,
        )
        self._watching = asyncio.get_running_loop().create_task(
            watch.run(connection, self.connected)
        )
        self._watching.add_done_callback(self._watch_ended)

    def _watch_ended(self, task: asyncio.Task[None]) -> None:
        """End a connection that nothing looks after any more."""
        if not task.cancelled() and (exc := task.exception()) is not None:
            _logger.error("%s: watching failed: %s", self.name, type(exc).__name__)
            _logger.debug("it failed here:", exc_info=exc)
            self._end("watching it failed")

    # -- what happens ------------------------------------------------------------------------

    def _state_changed(self) -> None:
        state = "closed" if self._connection is None else self._connection.connectionState
        if state == "connected":
            self.connected.set()
        elif state == "failed":
            self._fail("the connection failed")
        elif state == "closed":
            self._end("the other side closed the connection")

    def _connecting_failed(self, exc: Exception) -> None:
        _logger.debug("%s: connecting failed", self.name, exc_info=exc)
        self._fail(f"connecting failed: {type(exc).__name__}")

    def _encoding_failed(self, exc: Exception) -> None:
        self._end(f"pictures cannot be encoded: {type(exc).__name__}")

    def _fail(self, reason: str) -> None:
        """End it; one that never stood, with what is known of the cause."""
        if self._connection is not None and not self.connected.is_set():
            if trouble := self._connection.trouble:
                _logger.warning("%s: %s", self.name, trouble)
            reason = "; ".join(filter(None, [reason, trouble, *self._connection.ice_failures]))
        self._end(reason)

    def _hear(self, data: bytes, pts: int) -> None:
        if self.audio is not None:
            self.audio.deliver(data, pts)

    def statistics(self) -> PeerStatistics:
        """Return what the connection is doing; never waits."""
        return self._media.statistics(self._watch, self.source.size)

    def __repr__(self) -> str:
        return f"<Peer {self.name}>"


def _refuse_channel(channel: RTCDataChannel) -> None:
    channel.close()


def _call(loop: asyncio.AbstractEventLoop, function: Callable[[str], None], text: str) -> None:
    try:
        loop.call_soon_threadsafe(function, text)
    except RuntimeError:  # the loop has ended
        return
