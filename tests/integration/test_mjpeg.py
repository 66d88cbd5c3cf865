"""The MJPEG server, with real HTTP clients."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import pairwise

import aiohttp
import anyio
import av
import cv2
import numpy as np
import pytest

from streamseg.errors import SinkOpenError
from streamseg.frames import Frame
from streamseg.sinks import mjpeg_server
from streamseg.sinks.mjpeg import MjpegSink
from tests.support.clips import draw_frame, draw_picture, read_frame_number
from tests.unit.sinks.helpers import info_of

pytestmark = [pytest.mark.integration, pytest.mark.anyio, pytest.mark.timeout(30)]

INFO = info_of(width=320, height=180)


def frame(number: int) -> Frame:
    return Frame(draw_frame(number), number, 0.0)


def heavy_frame(number: int) -> Frame:
    """About half a megabyte as JPEG: noise under the number."""
    picture = draw_picture(number, 640, 360)
    picture[180:] = np.random.default_rng(number).integers(0, 256, (180, 640, 3), np.uint8)
    return Frame(av.VideoFrame.from_ndarray(picture, format="rgb24"), number, 0.0)


@asynccontextmanager
async def serving(**options: int) -> AsyncIterator[MjpegSink]:
    sink = MjpegSink("mjpeg://127.0.0.1:0", **options)  # type: ignore[arg-type]
    try:
        await sink.open(INFO)
        yield sink
    finally:
        await sink.aclose()


@asynccontextmanager
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


@asynccontextmanager
async def playing(
    sink: MjpegSink, make: Callable[[int], Frame] = frame, *, fps: int = 50
) -> AsyncIterator[None]:
    """Send pictures all the while, numbered from 1."""

    async def play() -> None:
        number = 1
        while True:
            await sink.send(make(number))
            number += 1
            await asyncio.sleep(1 / fps)

    async with anyio.create_task_group() as group:
        group.start_soon(play)
        yield
        group.cancel_scope.cancel()


async def parts(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """The JPEGs of a multipart stream, read strictly."""
    content_type, _, boundary = response.headers["Content-Type"].partition("; boundary=")
    assert content_type == "multipart/x-mixed-replace"
    stream = response.content
    while line := await stream.readline():
        assert line == f"--{boundary}\r\n".encode()
        headers = {}
        while (line := await stream.readline()) not in (b"\r\n", b""):
            name, _, value = line.decode().partition(": ")
            headers[name] = value.strip()
        if not headers:
            return
        assert headers["Content-Type"] == "image/jpeg"
        yield await stream.readexactly(int(headers["Content-Length"]))
        assert await stream.readexactly(2) == b"\r\n"


def number_of(jpeg: bytes) -> int:
    bgr = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert bgr is not None
    return read_frame_number(np.ascontiguousarray(bgr[..., ::-1]))


def port_of(sink: MjpegSink) -> int:
    return int(sink.url.rstrip("/").rpartition(":")[2])


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(5):
        while not condition():
            await asyncio.sleep(0.005)


async def test_a_page_shows_the_stream() -> None:
    async with serving() as sink, client() as session, session.get(sink.url) as response:
        assert response.status == 200
        assert response.content_type == "text/html"
        page = await response.text()
    assert '<img src="stream.mjpg"' in page


async def test_pictures_come_in_order_and_are_the_ones_that_were_sent() -> None:
    async with serving() as sink, client() as session, playing(sink):
        async with session.get(f"{sink.url}stream.mjpg") as response:
            numbers = []
            async for jpeg in parts(response):
                numbers.append(number_of(jpeg))
                if len(numbers) == 8:
                    break
            assert sink.viewers == 1
    assert numbers == sorted(set(numbers))
    statistics = sink.statistics()
    assert statistics.written >= 7
    assert statistics.accepted == statistics.written + sum(statistics.dropped.values())


async def test_colours_are_right() -> None:
    async with serving(quality=95) as sink, client() as session:
        await sink.send(frame(33))
        await until(lambda: sink.statistics().dropped == {"unwatched": 1})
        async with session.get(f"{sink.url}snapshot.jpg") as response:
            jpeg = await response.read()
    bgr = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert bgr is not None
    difference = np.abs(bgr[..., ::-1].astype(int) - draw_picture(33))
    assert np.median(difference) <= 2
    assert difference.mean() < 4


async def test_nothing_is_encoded_while_nobody_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = 0
    encode = cv2.imencode

    def count(*arguments: object) -> object:
        nonlocal encoded
        encoded += 1
        return encode(*arguments)  # type: ignore[call-overload]

    monkeypatch.setattr(cv2, "imencode", count)
    async with serving() as sink, client() as session:
        async with session.get(f"{sink.url}snapshot.jpg") as response:
            assert response.status == 503
        for number in range(1, 11):
            await sink.send(frame(number))
        await until(lambda: sink.statistics().dropped == {"unwatched": 10})
        assert encoded == 0
        for _ in range(2):
            async with session.get(f"{sink.url}snapshot.jpg") as response:
                assert response.content_type == "image/jpeg"
                assert number_of(await response.read()) == 10
        assert encoded == 1, "the same picture is not encoded again"
        # A viewer sees the last picture at once, though no new one comes.
        async with session.get(f"{sink.url}stream.mjpg") as response:
            async for jpeg in parts(response):
                assert number_of(jpeg) == 10
                break


async def test_one_picture_is_encoded_once_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving() as sink, client() as session:
        async with (
            session.get(f"{sink.url}stream.mjpg") as one,
            session.get(f"{sink.url}stream.mjpg") as two,
        ):
            await until(lambda: sink.viewers == 2)
            await sink.send(frame(1))
            first, second = [await anext(parts(response)) for response in (one, two)]
            assert first == second
            assert sink.statistics().written == 1


def connect_slowly(sink: MjpegSink) -> socket.socket:
    """Ask for the stream and read nothing of it."""
    slow = socket.create_connection(("127.0.0.1", port_of(sink)), timeout=5)
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 17)
    slow.sendall(b"GET /stream.mjpg HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n")
    return slow


async def test_a_viewer_that_does_not_read_holds_up_nobody_and_skips() -> None:
    async with serving(quality=100) as sink, client() as session, playing(sink, heavy_frame):
        with connect_slowly(sink) as slow:
            await until(lambda: sink.viewers == 1)
            size = 0
            async with session.get(f"{sink.url}stream.mjpg") as response:
                async for jpeg in parts(response):
                    size += len(jpeg)
                    if size > 8_000_000:  # more than all buffers on the way to the slow one hold
                        break
            newest = sink.statistics().accepted
            # Now it reads: a few that were under way, and then the newest.
            numbers: list[int] = []
            received = b""
            while not numbers or numbers[-1] < newest - 5:
                data = await asyncio.to_thread(slow.recv, 1 << 16)
                assert data, "it was cut off"
                received += data
                *whole, received = received.split(b"\r\n--streamseg\r\n")
                jpegs = [part[part.index(b"\xff\xd8") :] for part in whole if b"\xff\xd8" in part]
                numbers += [number_of(jpeg) for jpeg in jpegs]
    assert numbers == sorted(set(numbers))
    assert len(numbers) < newest / 2
    assert max(b - a for a, b in pairwise(numbers)) > newest / 2, "it was sent what is old"


async def test_a_viewer_that_never_reads_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mjpeg_server, "_TIMEOUT_S", 0.3)
    async with serving(quality=100) as sink, playing(sink, heavy_frame):
        with connect_slowly(sink):
            await until(lambda: sink.viewers == 1)
            await until(lambda: sink.viewers == 0)


async def test_a_viewer_that_leaves_while_nothing_comes_is_noticed() -> None:
    async with serving() as sink, client() as session:
        async with session.get(f"{sink.url}stream.mjpg"):
            await until(lambda: sink.viewers == 1)
        await until(lambda: sink.viewers == 0)


async def test_too_many_viewers_are_told_so() -> None:
    async with serving(max_clients=1) as sink, client() as session:
        async with session.get(f"{sink.url}stream.mjpg"):
            async with session.get(f"{sink.url}stream.mjpg") as second:
                assert second.status == 503
                assert "close one" in await second.text()
            async with session.get(sink.url) as page:
                assert page.status == 200
        await until(lambda: sink.viewers == 0)
        async with session.get(f"{sink.url}stream.mjpg") as third:
            assert third.status == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:80", 200),
        ("localhost:8090", 200),
        ("[::1]:80", 200),
        ("evil.example", 403),
        ("127.0.0.1.evil.example:80", 403),
        ("localhost.evil.example", 403),
    ],
)
async def test_only_this_machine_is_a_host_of_a_loopback_address(host: str, status: int) -> None:
    async with serving() as sink, client() as session:
        async with session.get(sink.url, headers={"Host": host}) as response:
            assert response.status == status


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        (b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0", 405),
        (b"HEAD / HTTP/1.1\r\nHost: 127.0.0.1", 200),
        (b"HEAD /stream.mjpg HTTP/1.1\r\nHost: 127.0.0.1", 405),
        (b"GET /../../etc/passwd HTTP/1.1\r\nHost: 127.0.0.1", 404),
        (b"GET /nothing HTTP/1.1\r\nHost: 127.0.0.1", 404),
        (b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"x" * 20_000, 400),
        (b"\x16\x03\x01\x02\x00\x01\x00", 400),
    ],
)
async def test_other_requests_are_answered_and_the_connection_ends(
    request_line: bytes, status: int
) -> None:
    async with serving() as sink:
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(sink))
        writer.write(request_line + b"\r\n\r\n")
        answer = await asyncio.wait_for(reader.read(), 5)
        writer.close()
        await writer.wait_closed()
    assert answer.split(b" ")[1] == str(status).encode()


async def test_who_connects_and_says_nothing_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mjpeg_server, "_TIMEOUT_S", 0.1)
    async with serving() as sink:
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(sink))
        writer.write(b"GET / HTTP/1.1\r\nHost: ")
        assert await asyncio.wait_for(reader.read(), 5) == b""
        writer.close()
        await writer.wait_closed()


async def test_an_address_in_use_is_told_with_what_to_try() -> None:
    async with serving() as first:
        port = port_of(first)
        second = MjpegSink(f"mjpeg://127.0.0.1:{port}")
        with pytest.raises(SinkOpenError, match=f"port {port} is in use") as caught:
            await second.open(INFO)
        assert f"mjpeg://127.0.0.1:{port + 1}" in str(caught.value)
        await second.aclose()


async def test_a_foreign_address_is_told() -> None:
    with pytest.raises(SinkOpenError, match="no address of this machine"):
        await MjpegSink("mjpeg://192.0.2.1:8090").open(INFO)


async def test_closing_ends_the_viewers_soon() -> None:
    async with serving() as sink, client() as session:
        async with session.get(f"{sink.url}stream.mjpg") as response:
            await sink.send(frame(1))
            stream = parts(response)
            assert number_of(await anext(stream)) == 1
            begin_s = time.perf_counter()
            await sink.aclose()
            assert [jpeg async for jpeg in stream] == []
            assert time.perf_counter() - begin_s < 1
        with pytest.raises(aiohttp.ClientConnectorError):
            await session.get(sink.url)
