"""TunedConnection: aiortc's peer connection, made fit for live video.

Everything that changes aiortc is here and in the ``tuning_*`` files beside this: subclasses and
parts of single instances. Nothing of aiortc is changed for others who use it in the same process,
but for its messages: addresses are logged at DEBUG.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import aioice
import aiortc
import aiortc.rtcrtptransceiver
from aiortc import (
    RTCBundlePolicy,
    RTCConfiguration,
    RTCPeerConnection,
    RTCRtpSender,
    RTCRtpTransceiver,
)
from aiortc.rtcdtlstransport import RTCCertificate
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from OpenSSL import SSL

from streamseg.webrtc.tuning_encoding import Rates
from streamseg.webrtc.tuning_gathering import Gathering
from streamseg.webrtc.tuning_needed import check_inside
from streamseg.webrtc.tuning_private import check_version, private_name, replace_private
from streamseg.webrtc.tuning_receiving import BoundedRouter, TunedReceiver
from streamseg.webrtc.tuning_sctp import BoundedSctp
from streamseg.webrtc.tuning_sending import TunedSender

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable

    from aioice import Connection
    from aiortc import RTCDtlsTransport
    from aiortc.mediastreams import MediaStreamTrack

    from streamseg.webrtc.peer_options import PeerOptions
    from streamseg.webrtc.tuning_decoding import AudioInlet, VideoInlet

__all__ = ["TunedConnection", "tune"]

_logger = logging.getLogger(__name__)

# GStreamer and others come with RSA certificates.
_CIPHERS = (
    b"ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-ECDSA-CHACHA20-POLY1305:"
    b"ECDHE-ECDSA-AES128-SHA:ECDHE-ECDSA-AES256-SHA:"
    b"ECDHE-RSA-AES128-GCM-SHA256:ECDHE-RSA-CHACHA20-POLY1305"
)
_CONNECT = private_name(RTCPeerConnection, "connect")
_GATHER = private_name(RTCPeerConnection, "gather")
# RFC 8827, 6.5, asks for P-256; these are what OpenSSL takes, too.
_CURVES = ("secp256r1", "secp384r1", "secp521r1")

# All together are about two seconds.
_HALT_S = 0.5
_PART_S = 0.7  # for a part of closing
_REST_S = 0.25  # for what is left of a transport
_CANCEL_S = 0.2


async def _guarded(closing: Coroutine[Any, Any, None], timeout_s: float = _PART_S) -> None:
    """Wait for a part of closing, but not for ever; a part that fails does not stop the others."""
    try:
        await asyncio.wait_for(closing, timeout_s)
    except Exception:
        _logger.debug("a part of a connection could not be closed", exc_info=True)


async def _cancelled(tasks: Iterable[asyncio.Future[Any]]) -> None:
    """Cancel what still runs, and wait for it, but not for ever."""
    running = {task for task in tasks if not task.done()}
    for task in running:
        task.cancel()
    if running:
        await asyncio.wait(running, timeout=_CANCEL_S)


async def _stop_transport(transport: RTCDtlsTransport) -> None:
    """Stop what is left of a transport, and let go its sockets."""
    await _guarded(transport.stop(), _REST_S)
    await _guarded(transport.transport.stop(), _REST_S)
    for protocol in transport.transport._connection._protocols:
        socket = getattr(protocol, "transport", None)  # it has one when it is connected
        if socket is not None:
            socket.close()


async def _stop_checks(transport: RTCDtlsTransport) -> None:
    # aioice begins with these checks even if it was closed just before, and never ends.
    checks = transport.transport._connection._query_consent_task
    if checks is not None:
        checks.cancel()


class _Quiet(logging.Filter):
    """Logs at DEBUG what aioice logs at INFO: the addresses of both sides."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno == logging.INFO:
            record.levelno, record.levelname = logging.DEBUG, "DEBUG"
            return logging.getLogger(record.name).isEnabledFor(logging.DEBUG)
        return True


_QUIET = _Quiet()


def tune() -> None:
    """Check aiortc and aioice and keep addresses out of its log; may be called any number of times.

    Raises:
        ConfigError: If one is a version that this was not made for.
    """
    check_version(aiortc.__version__)
    check_version(aioice.__version__, "aioice")
    check_inside()
    for name in ("aioice.ice", "aioice.turn", "aioice.mdns"):
        logging.getLogger(name).addFilter(_QUIET)  # a filter that is there is not added again


class _Certificate(RTCCertificate):
    """Our certificate, and what is to be said of the other side's.

    Attributes:
        trouble: Why a handshake with it must fail; empty if no reason is known.
    """

    trouble = ""

    def _create_ssl_context(self, srtp_profiles: Any) -> SSL.Context:
        context = super()._create_ssl_context(srtp_profiles)
        context.set_cipher_list(_CIPHERS)
        # Whose certificate it is is told by its fingerprint, as in aiortc.
        context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, self._look_at)
        return context

    def _look_at(self, connection: SSL.Connection, certificate: Any, *rest: Any) -> bool:
        key = certificate.to_cryptography().public_key()
        if isinstance(key, EllipticCurvePublicKey) and key.curve.name not in _CURVES:
            self.trouble = (
                f"its certificate is on the curve {key.curve.name}, which WebRTC does not have: "
                "give FFmpeg's whip muxer cert_file and key_file with a certificate on P-256"
            )
        return True


class TunedConnection(RTCPeerConnection):
    """A peer connection with our own receivers and senders.

    Args:
        options: Codec, bitrates, ICE servers.
        video: Makes what an incoming video stream is decoded with.
        audio: Makes what takes incoming sound.
        failed: Called if connecting failed with an error, which aiortc would let pass.
        one_transport: Whether an offer of ours puts everything on one transport.
        near: The address of this machine that is offered first; see ``Gathering``.
    """

    def __init__(
        self,
        options: PeerOptions,
        *,
        video: Callable[[], VideoInlet],
        audio: Callable[[], AudioInlet],
        failed: Callable[[Exception], None],
        one_transport: bool = False,
        near: str | None = None,
    ) -> None:
        tune()
        self._options = options
        self._make_video = video
        self._make_audio = audio
        self._failed = failed
        self._closing: asyncio.Future[None] | None = None
        self._connecting: set[asyncio.Task[Any]] = set()  # at most one a description
        self._gathering = Gathering(options.ice_servers, near)
        self._gathered: set[Connection] = set()
        self._certificate = _Certificate.generateCertificate()
        # An empty list means none, since `Gathering` asks them; None would mean a public server.
        super().__init__(
            RTCConfiguration(
                iceServers=[],
                bundlePolicy=(
                    RTCBundlePolicy.MAX_BUNDLE if one_transport else RTCBundlePolicy.BALANCED
                ),
            )
        )
        replace_private(self, RTCPeerConnection, "certificates", [self._certificate])

    @property
    def trouble(self) -> str:
        """Why it must fail, one line; empty if no reason is known."""
        return self._certificate.trouble

    @property
    def ice_failures(self) -> list[str]:
        """What was wrong with STUN and TURN servers, a line each, without credentials."""
        return self._gathering.failures

    @property
    def transports(self) -> set[RTCDtlsTransport]:
        """What is sent and received over."""
        transports = {receiver.transport for receiver in self.getReceivers()}
        if self.sctp is not None:
            transports.add(self.sctp.transport)
        transports.discard(None)  # of a section that was refused half-way
        return transports

    async def close(self) -> None:
        """Close it, within two seconds; nothing is left running or open, whatever goes wrong."""
        if self._closing is None:
            self._closing = asyncio.ensure_future(self._close_all())
        await asyncio.shield(self._closing)

    async def _close_all(self) -> None:
        transports = self.transports
        receivers = [each for each in self.getReceivers() if isinstance(each, TunedReceiver)]
        senders = [each for each in self.getSenders() if isinstance(each, TunedSender)]
        await asyncio.gather(*(_guarded(each.halt(_HALT_S)) for each in receivers))
        await _guarded(super().close())
        # What follows does nothing where the closing above went well.
        tasks = [task for each in receivers for task in each.tasks]
        await _cancelled(tasks + [task for each in senders for task in each.tasks])
        rest = [_guarded(_stop_transport(transport)) for transport in transports]
        if self.sctp is not None:
            rest.insert(0, _guarded(self.sctp.stop(), _REST_S))
        await asyncio.gather(*rest, _guarded(self._gathering.close()))
        await _cancelled(self._connecting)
        await asyncio.gather(*(_guarded(_stop_checks(transport)) for transport in transports))
        self.remove_all_listeners()

    # The names are those that aiortc's own methods are called by from inside.

    async def _RTCPeerConnection__gather(self) -> None:
        for transport in getattr(self, private_name(RTCPeerConnection, "iceTransports")):
            connection = transport._connection
            if connection not in self._gathered:
                self._gathered.add(connection)
                self._gathering.take_over(connection)
        await getattr(super(), _GATHER)()

    async def _RTCPeerConnection__connect(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connecting.add(task)
        try:
            await getattr(super(), _CONNECT)()
        except Exception as exc:
            self._failed(exc)
        finally:
            self._connecting.discard(task)

    def _RTCPeerConnection__createDtlsTransport(self) -> RTCDtlsTransport:
        create = getattr(super(), private_name(RTCPeerConnection, "createDtlsTransport"))
        transport: RTCDtlsTransport = create()
        transport._rtp_router = BoundedRouter()
        return transport

    def _RTCPeerConnection__createSctpTransport(self) -> None:
        getattr(super(), private_name(RTCPeerConnection, "createSctpTransport"))()
        stock = self.sctp
        assert stock is not None
        sctp = BoundedSctp(stock.transport)
        sctp._bundled, sctp.mid = stock._bundled, stock.mid
        sctp.on("datachannel", lambda channel: self.emit("datachannel", channel))
        replace_private(self, RTCPeerConnection, "sctp", sctp)

    def _RTCPeerConnection__createTransceiver(
        self, direction: str, kind: str, sender_track: MediaStreamTrack | None = None
    ) -> RTCRtpTransceiver:
        create = getattr(super(), private_name(RTCPeerConnection, "createTransceiver"))
        transceiver: RTCRtpTransceiver = create(direction, kind, None)
        stock = transceiver.sender
        options = self._options
        rates = Rates(options.bitrate, options.min_bitrate, options.max_bitrate)
        sender = TunedSender(kind, stock.transport, rates)
        sender._stream_id = stock._stream_id
        if sender_track is not None:
            sender.replaceTrack(sender_track)
        receiver = TunedReceiver(
            kind,
            stock.transport,
            self._make_video() if kind == "video" else self._make_audio(),
        )
        receiver._set_rtcp_ssrc(sender._ssrc)
        replace_private(transceiver, RTCRtpTransceiver, "sender", sender)
        replace_private(transceiver, RTCRtpTransceiver, "receiver", receiver)
        transceiver.setCodecPreferences(_preferred(kind, options.prefer))
        return transceiver


def _preferred(kind: str, prefer: str) -> list[Any]:
    """Return the codecs to agree on, best first."""
    codecs = RTCRtpSender.getCapabilities(kind).codecs
    if kind == "audio":
        return [codec for codec in codecs if codec.name.lower() == "opus"]
    again = [codec for codec in codecs if codec.name.lower() == "rtx"]
    video = [codec for codec in codecs if codec not in again]
    # Of the two profiles the constrained one is what browsers encode in hardware, too.
    video.sort(
        key=lambda codec: (
            codec.name.upper() != prefer,
            codec.parameters.get("profile-level-id") != "42e01f",
        )
    )
    return video + again
