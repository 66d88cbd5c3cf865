"""Closing a connection: what fails or hangs leaves nothing else open."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from aiortc import RTCDtlsTransport, RTCPeerConnection

from streamseg.webrtc.peer_options import PeerOptions
from streamseg.webrtc.tuning import TunedConnection
from streamseg.webrtc.tuning_decoding import VideoInlet
from streamseg.webrtc.tuning_receiving import TunedReceiver
from tests.support.webrtc_peers import use_loopback

pytestmark = pytest.mark.anyio


async def offering() -> tuple[TunedConnection, list[Any]]:
    """Return a connection that has gathered, and its sockets."""

    def make_inlet() -> VideoInlet:
        return VideoInlet(lambda video, _: None, lambda _: None, 10**6)

    made: Any = make_inlet
    connection = TunedConnection(
        PeerOptions(), video=made, audio=made, failed=lambda exc: None, one_transport=False
    )
    for kind in ("video", "video", "audio"):
        connection.addTransceiver(kind)
    connection.createDataChannel("talk")
    await connection.setLocalDescription(await connection.createOffer())
    sockets = [
        protocol.transport
        for transport in connection.transports
        for protocol in transport.transport._connection._protocols
    ]
    assert len(sockets) == len(connection.transports) == 3  # pictures, sound, talk
    return connection, sockets


async def test_a_part_that_fails_leaves_no_other_open(monkeypatch: pytest.MonkeyPatch) -> None:
    use_loopback(monkeypatch)
    connection, sockets = await offering()
    failed: list[str] = []

    def failing(name: str) -> Any:
        async def fail(*args: Any) -> None:
            failed.append(name)
            raise LookupError(name)

        return fail

    monkeypatch.setattr(RTCPeerConnection, "close", failing("connection"))
    monkeypatch.setattr(RTCDtlsTransport, "stop", failing("transport"))
    monkeypatch.setattr(TunedReceiver, "halt", failing("receiver"))
    checks = [asyncio.create_task(asyncio.sleep(30)) for _ in connection.transports]
    for transport, check in zip(connection.transports, checks, strict=True):
        transport.transport._connection._query_consent_task = check
    first = next(iter(connection.transports)).transport._connection
    first._protocols.insert(0, object())
    await connection.close()
    assert {name: failed.count(name) for name in failed} == {
        "receiver": 3,
        "connection": 1,
        "transport": 3,
    }
    assert all(each.is_closing() for each in sockets)
    await asyncio.wait(checks, timeout=2)
    assert all(each.cancelled() for each in checks)


async def test_parts_that_hang_are_waited_for_together(monkeypatch: pytest.MonkeyPatch) -> None:
    use_loopback(monkeypatch)
    connection, sockets = await offering()

    async def hang(*args: Any) -> None:
        await asyncio.sleep(30)

    monkeypatch.setattr(RTCPeerConnection, "close", hang)
    monkeypatch.setattr(RTCDtlsTransport, "stop", hang)
    began_s = time.monotonic()
    await connection.close()
    assert time.monotonic() - began_s < 2.3
    assert all(each.is_closing() for each in sockets)
