"""The data channel's transport: what is out of bounds ends it, and costs nothing before."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiortc.rtcsctptransport import (
    Chunk,
    DataChunk,
    HeartbeatChunk,
    SackChunk,
    serialize_packet,
)

from streamseg.webrtc.tuning_sctp import BoundedSctp
from tests.support.webrtc_transports import make_transport

pytestmark = pytest.mark.anyio


class Sctp(BoundedSctp):
    """An association that stands, and what it sent."""

    def __init__(self) -> None:
        transport = make_transport()
        super().__init__(transport)
        self.sent: list[bytes] = []

        async def send(data: bytes) -> None:
            self.sent.append(data)

        transport._send_data = send  # type: ignore[method-assign]
        self._remote_port = 5000
        self._last_received_tsn = 0
        self._set_state(self.State.ESTABLISHED)

    async def hear(self, chunk: Any) -> None:
        tag = self._local_verification_tag
        await self._handle_data(serialize_packet(5000, 5000, tag, chunk))

    @property
    def kept(self) -> int:
        streams = self._inbound_streams.values()
        return sum(len(chunk.user_data) for one in streams for chunk in one.reassembly)


def piece(tsn: int, flags: int, data: bytes = bytes(1024), stream: int = 0) -> DataChunk:
    chunk = DataChunk(flags=flags)
    chunk.tsn, chunk.stream_id, chunk.user_data, chunk.protocol = tsn, stream, data, 51
    return chunk


async def test_a_message_without_an_end_ends_the_data_channel() -> None:
    sctp = Sctp()
    most = 0
    for tsn in range(1, 2000):
        await sctp.hear(piece(tsn, 2 if tsn == 1 else 0))
        most = max(most, sctp.kept)
    assert most <= 70_656
    assert sctp.kept == 0
    assert sctp.state == "closed"
    assert "65536 bytes" in sctp.trouble
    count = len(sctp.sent)
    await sctp.hear(piece(3000, 3))
    assert len(sctp.sent) == count  # nobody is there any more


@pytest.mark.parametrize("chunks", ["gaps", "tiny pieces", "streams"])
async def test_what_is_kept_of_other_kinds_is_bounded(chunks: str) -> None:
    sctp = Sctp()
    for number in range(1, 3000):
        if chunks == "gaps":
            await sctp.hear(piece(2 * number, 3, b"x", number % 3))
        elif chunks == "tiny pieces":
            await sctp.hear(piece(number, 2 if number == 1 else 0, b"x"))
        else:
            await sctp.hear(piece(number, 3, b"x", number))
        assert len(sctp._sack_misordered) <= 257
        assert len(sctp._inbound_streams) <= 33
        assert sum(len(one.reassembly) for one in sctp._inbound_streams.values()) <= 257
    assert sctp.state == "closed"


async def test_messages_of_all_sizes_come_through() -> None:
    sctp = Sctp()
    heard: list[tuple[int, int]] = []

    async def note(stream_id: int, pp_id: int, data: bytes) -> None:
        heard.append((stream_id, len(data)))

    sctp._receive = note  # type: ignore[method-assign]
    tsn = 0
    for size in (1, 1000, 4096, 65_536):
        pieces = range(0, size, 1176)
        order = [(tsn + 1 + n, at) for n, at in enumerate(pieces)]
        tsn += len(order)
        for number, at in reversed(order):  # not in order
            flags = 2 * (at == 0) | (at == pieces[-1])
            chunk = piece(number, flags, bytes(min(1176, size - at)))
            chunk.stream_seq = len(heard)
            await sctp.hear(chunk)
    assert heard == [(0, 1), (0, 1000), (0, 4096), (0, 65_536)]
    assert sctp.trouble == ""
    assert sctp.kept == 0


async def test_a_datagram_cannot_have_hundreds_of_questions_answered() -> None:
    sctp = Sctp()
    beats: Any = b"\4\0\0\4" * 250
    await sctp._handle_data(serialize_packet(5000, 5000, sctp._local_verification_tag, beats))
    assert sctp.state == "closed"
    assert len(sctp.sent) <= 1  # that it is over
    assert "chunks" in sctp.trouble


async def test_lengths_that_lead_nowhere_are_refused() -> None:
    sctp = Sctp()
    beat = HeartbeatChunk()
    beat.params = [(1, b"1234567"), (9, b"")]
    await sctp.hear(beat)
    assert sctp.trouble == ""
    for kind, head in ((4, 0), (1, 16), (130, 0), (9, 0)):
        sctp = Sctp()
        chunk = Chunk(body=bytes(head) + b"\0\1\0\5x\0\0\0" + b"\0\1\0\0")
        chunk.type = kind
        await sctp.hear(chunk)
        assert sctp.state == "closed"
        assert "length of 0" in sctp.trouble
    sctp = Sctp()
    await sctp._handle_data(b"?" * 11)
    await sctp._handle_data(b"?" * 100)
    assert sctp.trouble == ""


async def test_acknowledgements_of_what_was_never_sent_take_no_time() -> None:
    sctp = Sctp()
    sack = SackChunk()
    sack.cumulative_tsn = sctp._last_sacked_tsn
    sack.gaps = [(1, 65_535)] * 250
    began_s = asyncio.get_running_loop().time()
    await sctp.hear(sack)
    assert asyncio.get_running_loop().time() - began_s < 0.2
    assert "acknowledged" in sctp.trouble
