"""What counts as heard, and what is let go of what comes."""

from __future__ import annotations

from typing import Any

import pytest
from aioice import stun

from streamseg.webrtc.peer_link import Link
from tests.support.webrtc_transports import Clock, make_transport

pytestmark = pytest.mark.anyio


async def test_only_what_is_verified_counts_as_heard() -> None:
    transport, link = make_transport(), Link()
    link.listen(transport)
    link.listen(transport)
    connection = transport.transport._connection
    link.heard_s = 0.0
    sent: list[stun.Message] = []

    class Protocol:
        def send_stun(self, message: stun.Message, address: Any) -> None:
            sent.append(message)

    protocol: Any = Protocol()
    for password in (None, "wrong"):
        question = stun.Message(stun.Method.BINDING, stun.Class.REQUEST)
        question.attributes["USERNAME"] = f"{connection.local_username}:x"
        question.attributes["PRIORITY"] = 1
        if password:
            question.add_message_integrity(password.encode())
        connection.request_received(question, ("192.0.2.1", 9), protocol)
    for data in (b"", b"\x80", b"\x80" * 100, b"\x16" * 100, b"?"):
        connection.data_received(data, 1)
    assert link.heard_s == 0.0
    assert link.dropped == 1  # what was empty
    assert connection._queue.qsize() == 4
    await transport._handle_rtcp_data(b"\x80\xc9\0\1\0\0\0\1")
    assert link.heard_s > 0
    for _ in range(5000):
        connection.data_received(b"x", 1)
    assert connection._queue.qsize() == 2048


async def test_checks_with_the_password_are_heard_from_a_bounded_number_of_addresses() -> None:
    transport, link = make_transport(), Link()
    link.listen(transport)
    connection = transport.transport._connection
    connection._early_checks_done = True
    connection.check_start_task = lambda pair: None  # type: ignore[method-assign]
    link.heard_s = 0.0

    class Protocol:
        class local_candidate:
            component = 1
            host, port, priority = "192.0.2.2", 9, 1

        def send_stun(self, message: stun.Message, address: Any) -> None:
            pass

    protocol: Any = Protocol()
    for port in range(1, 400):
        question = stun.Message(stun.Method.BINDING, stun.Class.REQUEST)
        question.attributes["USERNAME"] = f"{connection.local_username}:x"
        question.attributes["PRIORITY"] = 1
        question.add_message_integrity(connection.local_password.encode())
        connection.request_received(question, ("192.0.2.1", port), protocol)
    assert link.heard_s > 0
    assert len(connection._check_list) == len(connection._remote_candidates) == 128


async def test_reports_without_end_are_not_all_looked_at() -> None:
    transport, link = make_transport(), Link(clock := Clock())
    looked_at: list[bytes] = []

    async def look(data: bytes) -> None:
        looked_at.append(data)

    transport._handle_rtcp_data = look  # type: ignore[method-assign]
    link.listen(transport)
    for _ in range(10 * 500):  # ten seconds of 5 Mbit/s
        clock.now += 0.002
        await transport._handle_rtcp_data(bytes(1200))
    assert 400 <= sum(map(len, looked_at)) / 1000 <= 500
    assert link.dropped == 5000 - len(looked_at)
    assert link.heard_s == clock.now
    looked_at.clear()
    clock.now += 5
    for _ in range(1000):  # a report or a request for lost packets every 10 ms
        clock.now += 0.01
        await transport._handle_rtcp_data(bytes(120))
    assert len(looked_at) == 1000


async def test_a_packet_that_nothing_can_be_made_of_ends_nothing() -> None:
    transport, link = make_transport(), Link()

    async def fail(data: bytes) -> None:
        raise IndexError

    transport._handle_rtcp_data = fail  # type: ignore[method-assign]
    link.listen(transport)
    await transport._handle_rtcp_data(b"x")
    assert link.malformed == 1
