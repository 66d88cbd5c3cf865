"""TCP connections of the server: how many, of whom, and for how long nobody may read."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import anyio
import pytest

from streamseg.webrtc.listening import _Connection as Connection
from tests.support.certificates import write_certificate
from tests.unit.webrtc.fakes import House
from tests.unit.webrtc.test_server import ask, until

pytestmark = pytest.mark.anyio

GET = b"GET %b HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    cert, key = write_certificate(tmp_path_factory.mktemp("tls"))
    return {"tls_cert": cert, "tls_key": key}


def trusting() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def connections(house: House) -> int:
    listener = house.server._listener
    assert listener is not None
    return len(listener)


def port_of(house: House) -> int:
    return int(house.server.url.rpartition(":")[2])


@asynccontextmanager
async def connecting(house: House, count: int, **options: Any) -> AsyncIterator[list[Any]]:
    """That many connections that say nothing; None for each that was hung up on at once."""
    port = port_of(house)
    made = [await asyncio.open_connection("127.0.0.1", port, **options) for _ in range(count)]
    try:
        left: list[Any] = []
        for reader, writer in made:
            hung_up = False
            with anyio.move_on_after(0.05 if len(left) < 8 else 0.2):
                hung_up = await gone(reader)
            left.append(None if hung_up else (reader, writer))
        yield left
    finally:
        for _, writer in made:
            writer.close()


async def gone(reader: asyncio.StreamReader) -> bool:
    try:
        return await reader.read() == b""
    except ConnectionError:
        return True


async def test_handshakes_that_nobody_goes_on_with_are_counted(
    certificate: dict[str, Path],
) -> None:
    async with House(max_connections=4, **certificate) as house:
        async with connecting(house, 20) as made:
            assert [each is None for each in made] == [False] * 4 + [True] * 16
            assert connections(house) == 4
        await until(lambda: connections(house) == 0)
        assert (await ask(house, "GET", "/healthz", ssl=trusting())).status == 200


async def test_a_handshake_has_its_time(certificate: dict[str, Path]) -> None:
    async with House(header_timeout_s=0.3, **certificate) as house:
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(house))
        writer.write(b"\x16\x03\x01\x02\x00\x01")
        with anyio.fail_after(5):
            assert await gone(reader)
        writer.close()
        await until(lambda: connections(house) == 0)


async def test_nonsense_instead_of_a_handshake_leaves_nothing(
    certificate: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    async with House(**certificate) as house:
        for raw in (GET % b"/", b"\x16\x03\x01\x00\x05hello" * 50, b"\x00"):
            reader, writer = await asyncio.open_connection("127.0.0.1", port_of(house))
            writer.write(raw)
            writer.write_eof()
            with anyio.fail_after(5):
                await reader.read()
            writer.close()
        await until(lambda: connections(house) == 0)
    assert not caplog.records


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
async def test_a_request_that_comes_with_the_end_of_the_handshake_is_answered(
    certificate: dict[str, Path], version: str
) -> None:
    async with House(**certificate) as house:
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(house))
        context = trusting()
        context.minimum_version = context.maximum_version = ssl.TLSVersion[version]
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = context.wrap_bio(incoming, outgoing)
        while True:
            try:
                client.do_handshake()
                break
            except ssl.SSLWantReadError:
                writer.write(outgoing.read())
                incoming.write(await asyncio.wait_for(reader.read(65_536), 5))
        client.write(GET % b"/healthz")
        writer.write(outgoing.read())  # TLS 1.3: with the last message of the handshake
        answer = b""
        with anyio.fail_after(5):
            while b"ok" not in answer:
                try:
                    answer += client.read(65_536)
                except ssl.SSLWantReadError:
                    incoming.write(await reader.read(65_536))
        assert answer.startswith(b"HTTP/1.1 200 ")
        writer.close()


@pytest.mark.parametrize("tls", [False, True])
async def test_an_address_has_some_of_the_connections(
    tls: bool, certificate: dict[str, Path]
) -> None:
    options: dict[str, Any] = certificate if tls else {}
    async with House(max_connections=8, max_connections_per_address=3, **options) as house:
        async with connecting(house, 5) as made:
            assert [each is None for each in made] == [False] * 3 + [True] * 2
            async with connecting(house, 1, local_addr=("127.0.0.2", 0)) as others:
                assert others[0] is not None
                assert connections(house) == 4
        await until(lambda: connections(house) == 0)


async def test_a_proxy_has_all_connections() -> None:
    async with (
        House(max_connections=8, max_connections_per_address=3, behind_proxy=True) as house,
        connecting(house, 9) as made,
    ):
        assert [each is None for each in made] == [False] * 8 + [True]


@pytest.mark.parametrize("path", [b"/app.js", b"/config.json"])
@pytest.mark.parametrize("tls", [False, True])
async def test_who_never_reads_is_ended(
    tls: bool, path: bytes, certificate: dict[str, Path]
) -> None:
    options: dict[str, Any] = certificate if tls else {}
    async with House(write_timeout_s=0.4, header_timeout_s=60, **options) as house:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port_of(house)))
        _, writer = await asyncio.open_connection(
            sock=sock,
            limit=1024,
            **({"ssl": trusting(), "server_hostname": "localhost"} if tls else {}),
        )
        writer.transport.pause_reading()
        await until(lambda: connections(house) == 1)
        writer.write((GET % path) * 10_000)
        await until(lambda: connections(house) == 0)
        writer.transport.abort()
        assert (await ask(house, "GET", "/healthz", **_ssl(tls))).status == 200


async def test_who_reads_slowly_is_not_ended_and_who_stops_is() -> None:
    class Tcp:
        unread, aborted = 0, False

        def get_write_buffer_size(self) -> int:
            return self.unread

        def abort(self) -> None:
            self.aborted = True

    connection, tcp = Connection(SimpleNamespace()), Tcp()  # type: ignore[arg-type]
    connection._tcp = tcp  # type: ignore[assignment]
    for number in range(40):  # 400 s
        tcp.unread = 1000 - 10 * number + 5000 * (number == 20)  # more came to be written once
        connection.end_if_stuck(10.0 * number, 30.0)
        assert not tcp.aborted
    connection.end_if_stuck(415.0, 30.0)
    assert not tcp.aborted
    connection.end_if_stuck(421.0, 30.0)
    assert tcp.aborted


async def test_who_reads_late_is_served() -> None:
    async with House(write_timeout_s=6.0) as house:
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(house), limit=1024)
        writer.write((GET % b"/app.js") * 399 + GET % b"/healthz")
        await asyncio.sleep(0.3)  # by now it waits
        assert connections(house) == 1
        with anyio.fail_after(10):
            data = b""
            while b'"ok"' not in data:
                data = data[-100:] + await reader.read(65_536)
        writer.close()


@pytest.mark.parametrize("tls", [False, True])
async def test_closing_ends_all_connections_at_once(
    tls: bool, certificate: dict[str, Path]
) -> None:
    tasks = len(asyncio.all_tasks())
    options: dict[str, Any] = certificate if tls else {}
    async with House(**options) as house, connecting(house, 5) as made:
        assert None not in made
        async with aiohttp.ClientSession() as client:
            async with client.get(house.server.url + "/healthz", **_ssl(tls)) as response:
                assert response.status == 200
            assert connections(house) == 6
            with anyio.fail_after(2):
                await house.server.aclose()
            for reader, _ in made:
                assert await gone(reader)
    await until(lambda: len(asyncio.all_tasks()) <= tasks)


def _ssl(tls: bool) -> dict[str, Any]:
    return {"ssl": trusting()} if tls else {}
