"""Pictures by URL, from a real server that does not always behave."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
from aiohttp import web
from PIL import Image

from streamseg.errors import FileReadFailedError
from streamseg.tasks import reading
from streamseg.tasks.images import load_image

pytestmark = pytest.mark.anyio

PIXELS = np.random.default_rng(1).integers(0, 256, (9, 7, 3), np.uint8)


def png() -> bytes:
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
async def server(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[str]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    stop = asyncio.Event()

    async def hang(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "1000"})
        await response.prepare(request)
        await response.write(png()[:20])
        await stop.wait()
        return response

    async def cut(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "100000"})
        await response.prepare(request)
        await response.write(png()[:20])
        assert request.transport is not None
        request.transport.close()
        return response

    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while not stop.is_set():
            await response.write(bytes(1 << 16))
        return response

    async def picture(request: web.Request) -> web.Response:
        return web.Response(body=png(), content_type="text/plain")

    async def page(request: web.Request) -> web.Response:
        return web.Response(text="<html>please log in</html>", content_type="text/html")

    async def moved(request: web.Request) -> web.Response:
        raise web.HTTPFound("/picture")

    async def circle(request: web.Request) -> web.Response:
        raise web.HTTPFound("/circle")

    app = web.Application()
    for handler in (hang, cut, endless, picture, page, moved, circle):
        app.router.add_get(f"/{handler.__name__}", handler)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    stop.set()
    await runner.cleanup()


@pytest.mark.parametrize("path", ["/picture", "/moved", "/picture?size=large"])
async def test_a_picture_is_fetched(server: str, path: str) -> None:
    np.testing.assert_array_equal((await load_image(server + path)).pixels, PIXELS)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/none", "the server answered 404 Not Found"),
        ("/cut", "cannot be fetched"),
        ("/circle", "cannot be fetched"),
        ("/page", "is no picture that can be read"),
        ("/hang", "took over 0.3 s"),
    ],
)
async def test_a_server_that_has_none(server: str, path: str, message: str) -> None:
    with pytest.raises(FileReadFailedError, match=message) as caught:
        await load_image(server + path, timeout_s=0.3)
    assert f"{server}{path}" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "address", ["file://[x", "file://[::1/a.png", "file:///a%00b.png", "http://[x/a.png", "hf://[x"]
)
async def test_an_address_that_is_none_is_error_114(address: str) -> None:
    with pytest.raises(FileReadFailedError) as caught:
        await load_image(address)
    assert caught.value.code == 114
    assert str(caught.value).startswith(f"{address}: ")


async def test_what_has_no_end_is_cut_off(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_MAX_BYTES", 1 << 20)

    with pytest.raises(FileReadFailedError, match="over 1048576 bytes"):
        await load_image(f"{server}/endless")


async def test_a_file_over_the_limit_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "_MAX_BYTES", 100)
    (tmp_path / "large.png").write_bytes(bytes(101))

    with pytest.raises(FileReadFailedError, match="over 100 bytes"):
        await load_image(tmp_path / "large.png")


async def test_credentials_stay_out_of_messages(server: str) -> None:
    host = server.removeprefix("http://")

    with pytest.raises(FileReadFailedError) as caught:
        await load_image(f"http://anna:hunter2@{host}/none?token=abc123")
    with pytest.raises(FileReadFailedError) as refused:
        await load_image("http://anna:hunter2@127.0.0.1:1/a.png?token=abc123")

    for error in (caught.value, refused.value):
        assert "hunter2" not in str(error)
        assert "abc123" not in str(error)


async def test_cancelling_a_fetch_takes_no_time(server: str) -> None:
    task = asyncio.create_task(load_image(f"{server}/hang"))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        async with asyncio.timeout(1.0):
            await task
