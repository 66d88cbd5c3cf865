"""WhepSource and WhipSink against a small server made of our own Peer."""

from __future__ import annotations

import asyncio
import errno
import secrets
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import anyio
import pytest
from aiohttp import web

from streamseg.errors import SinkOpenError, SinkWriteError, SourceOpenError
from streamseg.frames import Frame
from streamseg.sources.reconnect import Backoff, Reconnect
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
        self.place = ""  # where its sessions are, if not at itself
        self.moved_to = ""  # the host that takes the load, if not this one
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
            headers={"Location": f"{self.place}/session/{name}"},
        )

    async def delete(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        self.deleted.append(name)
        await self.peers[name].aclose()
        return web.Response()

    async def moved(self, request: web.Request) -> web.Response:
        return web.Response(status=307, headers={"Location": f"{self.moved_to}/whip/room"})

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
async def test_a_server_cannot_have_us_delete_at_another_host() -> None:
    async with serving() as endpoint:
        endpoint.place = endpoint.address.replace("127.0.0.1", "localhost")
        sink = WhipSink(f"{endpoint.address}/whip/room", options=QUICK)
        async with sink:
            await sink.open(await info_of(None))
            assert endpoint.peers
        assert not endpoint.deleted


@pytest.mark.anyio
async def test_a_session_at_the_host_that_a_redirection_led_to_is_deleted() -> None:
    async with serving() as endpoint:
        endpoint.moved_to = endpoint.address.replace("127.0.0.1", "localhost")
        async with WhipSink(f"{endpoint.address}/moved", options=QUICK) as sink:
            await sink.open(await info_of(None))
            assert not endpoint.deleted
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


RETRY = partial(Backoff, Reconnect(first_delay_s=0.05, max_delay_s=0.2, give_up_after_s=5.0))


@pytest.mark.anyio
async def test_a_sink_that_was_closed_does_not_connect_again() -> None:
    async with serving() as endpoint:
        sink = WhipSink(f"{endpoint.address}/whip/room", options=QUICK, retry=RETRY)
        await sink.open(await info_of(None))
        await endpoint.aclose()
        await asyncio.wait_for(sink._peer.closed.wait(), 5)
        assert sink._call.broke
        await sink.aclose()
        tasks = asyncio.all_tasks()
        with pytest.raises(anyio.ClosedResourceError):
            await sink.send(frame(0))
        assert asyncio.all_tasks() <= tasks
        assert len(endpoint.peers) == 1


@pytest.mark.anyio
async def test_a_sink_is_closed_while_it_connects_again() -> None:
    async with serving() as endpoint:
        sink = WhipSink(f"{endpoint.address}/whip/room", options=QUICK, retry=RETRY)
        await sink.open(await info_of(None))
        await endpoint.aclose()
        await asyncio.wait_for(sink._peer.closed.wait(), 5)
        await sink.send(frame(0))
        assert sink._again is not None
        with anyio.fail_after(10):
            while len(endpoint.peers) < 2:  # it is being answered just now
                await anyio.sleep(0.001)
        with anyio.fail_after(4):
            await sink.aclose()
        counted = sink.statistics()
        assert counted.accepted == counted.written + sum(counted.dropped.values()) == 1
        await endpoint.aclose()
    assert not [task for task in asyncio.all_tasks() if "_connect_again" in repr(task)]


@pytest.mark.anyio
async def test_no_descriptors_left_is_said_and_is_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real, failures = Peer.offer, [2]

    async def offer(self: Peer, *, sends: bool, receives: bool) -> str:
        if failures[0]:
            failures[0] -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        return await real(self, sends=sends, receives=receives)

    monkeypatch.setattr(Peer, "offer", offer)
    async with serving() as endpoint:
        sink = WhipSink(f"{endpoint.address}/whip/room", options=QUICK, retry=RETRY)
        with pytest.raises(SinkOpenError, match="too many open files"):
            await sink.open(await info_of(None))
        failures[0] = 0
        async with WhipSink(f"{endpoint.address}/whip/room", options=QUICK, retry=RETRY) as sink:
            await sink.open(await info_of(None))
            await endpoint.aclose()
            await asyncio.wait_for(sink._peer.closed.wait(), 5)
            failures[0] = 1
            with anyio.fail_after(10):
                while not sink.statistics().reconnects:
                    await sink.send(frame(0))
                    await anyio.sleep(0.01)
            assert not failures[0]


@pytest.mark.anyio
async def test_times_go_on_where_a_sender_begins_anew() -> None:
    source = WhepSource("https://host/whep/room", options=QUICK)
    times = [0, 3000, 6000, 900, 3900, 6900, 6900, 90_000]  # one back, and one twice
    placed = []
    for number, pts in enumerate(times):
        one = frame(number)
        one.video.pts = pts
        source._last = source._placed(replace(one, captured_s=100 + number / 30))
        placed.append(source._last)
    assert [one.pts for one in placed] == [
        *(0, 3000, 6000, 9000, 12_000, 15_000, 18_000),
        18_000 + 90_000 - 6900,
    ]
    assert [one.index for one in placed] == list(range(8))
    await source.aclose()


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
