"""The data channel's transport of aiortc, with bounds on what the other side may have it keep or do.

aiortc takes what SCTP (RFC 9260) allows: a message without an end, chunks that are out of order
without an end, 65,536 streams. It says how much room is left and keeps what comes beyond that all the
same; and it believes every length that it reads.
"""

from __future__ import annotations

import logging
from struct import unpack_from
from typing import TYPE_CHECKING

from aiortc.rtcsctptransport import RTCSctpCapabilities, RTCSctpTransport

if TYPE_CHECKING:
    from aiortc.rtcdtlstransport import RTCDtlsTransport
    from aiortc.rtcsctptransport import DataChunk, ForwardTsnChunk, SackChunk

__all__ = ["MAX_MESSAGE", "BoundedSctp"]

_log = logging.getLogger(__name__)

MAX_MESSAGE = 65_536
"""Bytes of a message, and of all that is put together at a time."""

_PROBE = 4096  # bytes that may come although there is no room (RFC 9260, 6.1)
_CHUNKS = 256  # that wait for others; a message of the largest size has 56
_MISORDERED = 256  # so many gaps still fit into one acknowledgement
_CHANNELS = 32  # one is used
_ACKNOWLEDGED = 1024  # beyond what is under way: chunks that were given up
_CONTROL = 16  # chunks of a datagram that are no data; most kinds are answered, one by one
_HEADER = 12  # bytes before the first chunk
_DATA = 0
# Chunks that consist of parameters, and what is before the first of them.
_PARAMETERS = {1: 16, 2: 16, 4: 0, 5: 0, 6: 0, 9: 0, 130: 0}


class _ExcessError(Exception):
    """The other side sent what is out of bounds."""


class BoundedSctp(RTCSctpTransport):
    """Ends the association, and with it all data channels, when the other side misuses it.

    Pictures and sound go on: they are not sent this way.

    Attributes:
        trouble: Why it was ended, empty before.
    """

    def __init__(self, transport: RTCDtlsTransport) -> None:
        super().__init__(transport)
        self.trouble = ""
        self._advertised_rwnd = MAX_MESSAGE  # whoever keeps to it is never out of bounds

    @classmethod
    def getCapabilities(cls) -> RTCSctpCapabilities:
        """Return what is said in a session description."""
        return RTCSctpCapabilities(maxMessageSize=MAX_MESSAGE)

    # aiortc calls these by their names from inside.

    async def _handle_data(self, data: bytes) -> None:
        if self.trouble:
            return
        try:
            _check_chunks(data)
            await super()._handle_data(data)
        except ConnectionError:
            raise
        except Exception as exc:  # of any kind: it is the other side's data that is worked on
            self.trouble = str(exc) if isinstance(exc, _ExcessError) else type(exc).__name__
            _log.warning("a data channel is ended: %s", self.trouble)
            _log.debug("it failed here:", exc_info=exc)
            await self.stop()
            self._inbound_streams.clear()
            self._sack_misordered.clear()
            self._data_channel_queue.clear()

    async def _receive_data_chunk(self, chunk: DataChunk) -> None:
        await super()._receive_data_chunk(chunk)
        self._check_kept()

    async def _receive_forward_tsn_chunk(self, chunk: ForwardTsnChunk) -> None:
        await super()._receive_forward_tsn_chunk(chunk)
        self._check_kept()

    async def _receive_sack_chunk(self, chunk: SackChunk) -> None:
        # Each of 300 gaps in a datagram can be 65,535 wide; aiortc looks at every number of each.
        acknowledged = sum(max(0, last - first + 1) for first, last in chunk.gaps)
        if acknowledged > len(self._sent_queue) + _ACKNOWLEDGED:
            raise _ExcessError("more was acknowledged than was sent")
        await super()._receive_sack_chunk(chunk)

    def _check_kept(self) -> None:
        if len(self._inbound_streams) > _CHANNELS or len(self._data_channels) > _CHANNELS:
            raise _ExcessError(f"over {_CHANNELS} channels were used")
        if len(self._sack_misordered) > _MISORDERED:
            raise _ExcessError(f"over {_MISORDERED} chunks came out of order")
        waiting = [chunk for one in self._inbound_streams.values() for chunk in one.reassembly]
        size = sum(len(chunk.user_data) for chunk in waiting)
        if len(waiting) > _CHUNKS or size > MAX_MESSAGE + _PROBE:
            raise _ExcessError(f"a message has over {MAX_MESSAGE} bytes or {_CHUNKS} pieces")


def _check_chunks(data: bytes) -> None:
    """Refuse a datagram of very many chunks, or with parameters that are shorter than their head.

    aiortc would not get beyond one of length 0, and would keep one more of them each time round.
    """
    at, control = _HEADER, 0
    while at + 4 <= len(data):
        kind, _, length = unpack_from("!BBH", data, at)
        if length < 4:
            return  # aiortc refuses this one
        control += kind != _DATA
        if control > _CONTROL:
            raise _ExcessError(f"over {_CONTROL} chunks that are no data came at once")
        end = min(len(data), at + length)
        if kind in _PARAMETERS:
            inner = at + 4 + _PARAMETERS[kind]
            while inner + 4 <= end:
                inner_length = unpack_from("!H", data, inner + 2)[0]
                if inner_length < 4:
                    raise _ExcessError(f"a parameter has a length of {inner_length}")
                inner += inner_length + -inner_length % 4
        at += length + -length % 4
