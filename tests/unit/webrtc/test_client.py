"""WhepSource and WhipSink against a small server made of our own Peer."""

from __future__ import annotations

import asyncio
import secrets
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio
import pytest
from aiohttp import web

from streamseg.errors import SinkOpenError, SinkWriteError, SourceOpenError
from streamseg.frames import Frame
from streamseg.webrtc.client import WhepSource, WhipSink
from streamseg.webrtc.peer import Peer, PeerOptions
from tests.support.webrtc_peers import picture, read_number, use_loopback

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from streamseg.frames import StreamInfo

QUICK = PeerOptions(handshake_timeout_s=3.0, media_timeout_s=2.0)


@pytest.fixture(autouse=True)
def _loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    use_loopback(monkeypatch)


class Endpoint:
    """WHIP at /whip, WHEP at /whep; the peers it made, and what it was asked to delete."""

    def __init__(self, *, token: str | None = None, status: int | None = None) -> None:
        self.peers: dict[str, Peer] = {}
        self.deleted: list[str] = []
        self.tokens: list[str | None] = []
        self.status = status
        self.body: bytes | None = None
        self.token = token
        self.address = ""

    async def post(self, request: web.Request) -> web.Response:
        self.tokens.append(request.headers.get("Authorization"))
        if self.token is not None and self.tokens[-1] != f"Bearer {self.token}":
            return web.Response(status=401)
        if self.status is not None:
            return web.Response(status=self.status, body=self.body, content_type="application/sdp")
        assert request.content_type == "application/sdp"
        peer = Peer(QUICK, name="endpoint")
        publishes = request.path.startswith("/whip")
        answer = await peer.accept(await request.text(), sends=not publishes, receives=publishes)
        name = secrets.token_urlsafe(8)
        self.peers[name] = peer
        return web.Response(
            status=201,
            text=answer,
            content_type="application/sdp",
            headers={"Location": f"/session/{name}"},
        )

    async def delete(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        self.deleted.append(name)
        await self.peers[name].aclose()
        return web.Response()

    async def moved(self, request: web.Request) -> web.Response:
        return web.Response(status=307, headers={"Location": "/whip/room"})

    async def aclose(self) -> None:
        for peer in self.peers.values():
            await peer.aclose()


@asynccontextmanager
async def serving(**options: object) -> AsyncIterator[Endpoint]:
    endpoint = Endpoint(**options)  # type: ignore[arg-type]
    application = web.Application()
    application.add_routes(
        [
            web.post("/whip/{room}", endpoint.post),
            web.post("/whep/{room}", endpoint.post),
            web.post("/moved", endpoint.moved),
            web.delete("/session/{name}", endpoint.delete),
        ]
    )
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    endpoint.address = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield endpoint
    finally:
        await endpoint.aclose()
        await runner.cleanup()


def frame(number: int, size: tuple[int, int] = (320, 240)) -> Frame:
    return Frame(picture(*size, number), number, 0.0)


async def info_of(source: object) -> StreamInfo:
    from streamseg.frames import StreamInfo

    video = picture(320, 240, 0)
    return StreamInfo("test", 320, 240, "yuv420p", video.time_base, live=True)


@pytest.mark.anyio
@pytest.mark.parametrize("path", ["whip:{}/whip/room", "whip+{}/whip/room", "{}/moved"])
async def test_publishes(path: str) -> None:
    async with serving(token="secret") as endpoint:
        sink = WhipSink(path.format(endpoint.address), token="secret", options=QUICK)
        async with sink:
            await sink.open(await info_of(None))
            (peer,) = endpoint.peers.values()
            async with anyio.create_task_group() as group:

                async def feed() -> None:
                    for number in range(1000):
                        await sink.send(frame(number))
                        await anyio.sleep(0.03)

                group.start_soon(feed)
                await peer.source.open()
                numbers = [read_number((await peer.source.receive()).video) for _ in range(10)]
                group.cancel_scope.cancel()
            assert numbers == sorted(numbers)  # type: ignore[type-var]
            assert None not in numbers
            assert not endpoint.deleted
        assert endpoint.deleted == list(endpoint.peers)
        assert sink.statistics().written >= 10


@pytest.mark.anyio
async def test_plays_and_ends_with_the_server() -> None:
    async with serving() as endpoint, anyio.create_task_group() as group:
        source = WhepSource(f"whep:{endpoint.address}/whep/room", options=QUICK)

        async def feed() -> None:
            while not endpoint.peers:
                await anyio.sleep(0.01)
            (peer,) = endpoint.peers.values()
            await peer.sink.open(await info_of(None))
            for number in range(1000):
                await peer.sink.send(frame(number))
                await anyio.sleep(0.03)

        group.start_soon(feed)
        async with source:
            first = await source.receive()
            assert (first.width, first.height) == (320, 240)
            second = await source.receive()
            assert second.pts_s is not None
            assert first.pts_s is not None
            assert 0.02 < second.pts_s - first.pts_s < 0.5
            group.cancel_scope.cancel()
        with anyio.CancelScope(shield=True):
            await endpoint.aclose()
            assert endpoint.deleted == list(endpoint.peers)


@pytest.mark.anyio
async def test_the_server_ends_it() -> None:
    async with serving() as endpoint:
        sink = WhipSink(f"{endpoint.address}/whip/room", options=QUICK)
        async with sink:
            await sink.open(await info_of(None))
            (peer,) = endpoint.peers.values()
            await peer.aclose()
            await asyncio.wait_for(sink._peer.closed.wait(), 5)
            with pytest.raises(SinkWriteError, match="closed") as caught:
                await sink.send(frame(0))
            assert "\n" not in str(caught.value)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("status", "words"),
    [
        (401, "token"),
        (404, "no such room"),
        (409, "publishes"),
        (503, "full"),
        (200, "WHEP server"),
    ],
)
async def test_a_refusal_says_why(status: int, words: str) -> None:
    async with serving(status=status) as endpoint:
        source = WhepSource(f"{endpoint.address}/whep/room?token=geheim", options=QUICK)
        with pytest.raises(SourceOpenError, match=words) as caught:
            await source.open()
        sink = WhipSink(f"{endpoint.address}/whip/room?token=geheim", options=QUICK)
        with pytest.raises(SinkOpenError, match=words):
            await sink.open(await info_of(None))
    assert "geheim" not in str(caught.value) + repr(source) + repr(sink)
    assert "\n" not in str(caught.value)


@pytest.mark.anyio
@pytest.mark.parametrize("body", [b"", b"v=0", b"nonsense", b"v=0\r\n" + 70_000 * b"a"])
async def test_an_answer_that_is_none(body: bytes) -> None:
    async with serving(status=201) as endpoint:
        endpoint.body = body
        with pytest.raises(SourceOpenError, match="answer"):
            await WhepSource(f"{endpoint.address}/whep/room", options=QUICK).open()


@pytest.mark.anyio
async def test_a_server_that_is_not_there() -> None:
    async with serving() as endpoint:
        address = endpoint.address
    with pytest.raises(SinkOpenError, match="cannot reach"):
        await WhipSink(f"{address}/whip/room", options=QUICK).open(await info_of(None))


@pytest.mark.parametrize(
    "url", ["whip:ftp://host/x", "whip:", "whip:https:///x", "whep:https://h/"]
)
def test_an_address_that_is_none(url: str) -> None:
    with pytest.raises(SinkOpenError, match="address"):
        WhipSink(url)
