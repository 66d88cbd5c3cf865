"""Names of STUN and TURN servers: name servers that do not answer stop no call."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from aiortc import RTCIceGatherer

from streamseg.webrtc.peer_options import IceServer
from streamseg.webrtc.shared_encoding import SharedEncoding
from streamseg.webrtc.tuning_encoding import Rates
from streamseg.webrtc.tuning_gathering import Gathering, server_context
from streamseg.webrtc.tuning_names import Names
from tests.support.certificates import write_certificate
from tests.support.webrtc_peers import picture
from tests.support.webrtc_transports import Clock

pytestmark = pytest.mark.anyio

RATES = Rates(start=1_000_000, minimum=50_000, maximum=4_000_000)


class SlowNames:
    """A name server that does not answer until it is told to."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.answer = threading.Event()
        self.asked: list[str] = []
        self._stock = socket.getaddrinfo
        patch.setattr(socket, "getaddrinfo", self.getaddrinfo)
        patch.setattr(socket, "gethostbyname", self.gethostbyname)

    def getaddrinfo(self, host: Any, *args: Any, **options: Any) -> Any:
        if not isinstance(host, str) or not host.endswith(".invalid"):
            return self._stock(host, *args, **options)
        self.asked.append(host)
        assert self.answer.wait(20)
        if host.startswith("no"):
            raise socket.gaierror(socket.EAI_NONAME, "no")
        return self._stock("127.0.0.1", *args, **options)

    def gethostbyname(self, host: str) -> str:
        return str(self.getaddrinfo(host, None)[0][4][0])


async def test_a_name_is_looked_up_once_for_all_who_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    slow, clock = SlowNames(monkeypatch), Clock()
    names = Names(clock=clock)
    assert await names.addresses("192.0.2.7") == ("192.0.2.7",)
    asking = [asyncio.create_task(names.addresses("a.invalid")) for _ in range(5)]
    unknown = asyncio.create_task(names.addresses("no.invalid"))
    await asyncio.sleep(0)
    asking[0].cancel()
    slow.answer.set()
    async with asyncio.timeout(5):
        assert await asyncio.gather(*asking[1:]) == [("127.0.0.1",)] * 4
        with pytest.raises(socket.gaierror):
            await unknown
        await names.addresses("a.invalid")
        assert sorted(slow.asked) == ["a.invalid", "no.invalid"]
        clock.now += 100
        await names.addresses("a.invalid")
    assert slow.asked.count("a.invalid") == 2


async def test_where_no_thread_can_be_started_nobody_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slow, names = SlowNames(monkeypatch), Names()
    slow.answer.set()

    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async with asyncio.timeout(5):
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", start)
            with pytest.raises(OSError, match="thread"):
                await names.addresses("a.invalid")
        assert await names.addresses("a.invalid") == ("127.0.0.1",)
        with monkeypatch.context() as patch:
            patch.setattr(socket, "getaddrinfo", lambda *args, **options: [()])  # of no known form
            with pytest.raises(socket.gaierror):
                await names.addresses("b.invalid")


async def test_a_name_server_that_does_not_answer_stops_no_encoder(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slow = SlowNames(monkeypatch)
    loop = asyncio.get_running_loop()
    pool = ThreadPoolExecutor(2)
    loop.set_default_executor(pool)
    servers = (
        IceServer(("stun:one.invalid", "stun:two.invalid")),
        IceServer(("turn:three.invalid", "turns:four.invalid"), "user", "secret"),
    )
    encoding = SharedEncoding()
    viewer = encoding.join("H264", RATES, lambda: None)
    connections = [RTCIceGatherer(iceServers=[])._connection for _ in range(3)]
    asking = []
    try:
        for connection in connections:
            Gathering(servers).take_over(connection)
            asking.append(asyncio.create_task(connection.gather_candidates()))
        async with asyncio.timeout(5):
            while len(set(slow.asked)) < 4:
                await asyncio.sleep(0.001)
            for number in range(5):
                encoding.put(picture(64, 64, number))
                while viewer.take() is None:
                    await asyncio.sleep(0.001)
    finally:
        slow.answer.set()
        for task in asking:
            task.cancel()
        await asyncio.wait(asking)
        for connection in connections:
            await connection.close()
        await encoding.aclose()
        pool.shutdown()


async def test_a_server_that_is_called_by_its_address_is_checked_for_its_name(
    tmp_path: Path,
) -> None:
    cert, key = write_certificate(tmp_path, "turn.test")
    ours = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ours.load_cert_chain(cert, key)

    def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0, ssl=ours)
    port = server.sockets[0].getsockname()[1]
    async with server, asyncio.timeout(10):
        context = server_context.__wrapped__("turn.test")
        context.load_verify_locations(cadata=cert.read_text())
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        writer.close()
        await writer.wait_closed()
        context = server_context.__wrapped__("other.test")
        context.load_verify_locations(cadata=cert.read_text())
        with pytest.raises(ssl.SSLCertVerificationError):
            await asyncio.open_connection("127.0.0.1", port, ssl=context)
        with pytest.raises(ssl.SSLCertVerificationError):  # nobody has signed it
            await asyncio.open_connection(
                "127.0.0.1", port, ssl=server_context.__wrapped__("turn.test")
            )
