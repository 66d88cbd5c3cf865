"""Link: what comes from the other side over all transports of a connection, and what is let go of it.

Anybody can send datagrams to a port. Only what nobody else can make counts as heard: media and
reports that SRTP has verified, and checks of the connection that have the right password.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aioice import Connection
    from aiortc import RTCDtlsTransport

__all__ = ["Link"]

_log = logging.getLogger(__name__)

_DATAGRAMS = 2048  # that may wait in aioice, whose own queue has no bound; a second of 25 Mbit/s
# Bytes a second of reports and requests for lost packets, and at once; a browser that loses a tenth
# sends 2 kB. A request for five thousand packets has 1.2 kB and takes a millisecond.
_REPORTS_PER_S, _REPORTS = 40_000, 80_000
_PLACES = 128  # addresses that checks may come from: of offers, and what networks make of those


class Link:
    """What is heard from the other side, over all transports of a connection.

    Attributes:
        heard_s: When anything came that only the other side can have sent, ``time.monotonic``.
        dropped: Datagrams that came faster than they could be looked at, or were empty.
        malformed: Verified ones that nothing could be made of.

    Args:
        clock: Seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.heard_s = clock()
        self.dropped = 0
        self.malformed = 0
        self._transports: list[RTCDtlsTransport] = []  # a handful: one a media section at most
        self._reports_left, self._reports_s = float(_REPORTS), clock()

    def listen(self, transport: RTCDtlsTransport) -> None:
        """Note what comes over this; once for each."""
        if transport in self._transports:
            return
        self._transports.append(transport)
        # Parts of the one instance; aiortc and aioice look them up for each datagram.
        for name in ("_handle_rtp_data", "_handle_rtcp_data"):
            setattr(transport, name, self._verified(getattr(transport, name), "rtcp" in name))
        self._bound(transport.transport._connection)

    def _verified(
        self, handle: Callable[..., Awaitable[None]], reports: bool
    ) -> Callable[..., Awaitable[None]]:
        async def hear(data: bytes, **options: Any) -> None:
            self.heard_s = self._clock()
            if reports and not self._take_report(len(data)):
                self.dropped += 1
                return
            try:
                await handle(data, **options)
            except ConnectionError:
                raise
            except Exception:  # of any kind: aiortc would end the transport with it
                self.malformed += 1
                _log.debug("a packet could not be handled", exc_info=True)

        return hear

    def _take_report(self, size: int) -> bool:
        now = self._clock()
        gained = (now - self._reports_s) * _REPORTS_PER_S
        self._reports_left, self._reports_s = min(_REPORTS, self._reports_left + gained), now
        if size > self._reports_left:
            return False
        self._reports_left -= size
        return True

    def _bound(self, connection: Connection) -> None:
        data_received, check_incoming = connection.data_received, connection.check_incoming

        def take(data: bytes, component: int) -> None:
            # aiortc looks at the first byte of whatever comes, and ends where there is none.
            if not data or connection._queue.qsize() >= _DATAGRAMS:
                self.dropped += 1
                return
            data_received(data, component)

        def check(message: Any, address: tuple[str, int], protocol: Any) -> None:
            # Its password has been looked at. Each new address is asked back, for half a minute.
            self.heard_s = self._clock()
            known = connection._remote_candidates
            if len(known) >= _PLACES and address not in [(c._network_host, c.port) for c in known]:
                self.dropped += 1
                return
            check_incoming(message, address, protocol)

        connection.data_received = take  # type: ignore[method-assign]
        connection.check_incoming = check  # type: ignore[method-assign,assignment]
