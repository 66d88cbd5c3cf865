"""The HTTP server of a motion JPEG stream: a page, the stream, one picture.

``/`` is a page for a browser, ``/stream.mjpg`` the stream (``multipart/x-mixed-replace``, RFC 2046
with the one extension that all browsers know), ``/snapshot.jpg`` the newest picture alone.

A viewer that is slower than the pictures come skips some: it is sent the newest one whenever it has
taken the one before. Nothing waits for it but its own socket buffer, and that has a bound.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import socket
from typing import TYPE_CHECKING, Protocol

from aiohttp import web

from streamseg.errors import SinkOpenError
from streamseg.sinks.target import printable, reason

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["MjpegServer", "Pictures"]

_BOUNDARY = "streamseg"
_TIMEOUT_S = 10.0  # for a request's header, and for a viewer to take one picture
_SHUTDOWN_S = 0.5
_SEND_BUFFER = 1 << 18  # bytes a connection; left to itself, Linux lets seconds of pictures pile up
_SPARE_CONNECTIONS = 16  # besides the viewers: pages, snapshots, refusals
_HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    # Other web sites may not show the stream in theirs; pages of this machine may.
    "Cross-Origin-Resource-Policy": "same-site",
    "Server": "streamseg",
}
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>streamseg</title>
<meta name="viewport" content="width=device-width">
<style>html,body{margin:0;height:100%;background:#111}
img{display:block;width:100%;height:100%;object-fit:contain}</style></head>
<body><img src="stream.mjpg" alt="live picture"></body></html>
"""


class Pictures(Protocol):
    """What the server asks for pictures; all on the event loop."""

    async def newest(self) -> tuple[int, bytes] | None:
        """Return number and JPEG of the newest picture, None where there is none yet."""

    async def newer(self, number: int) -> tuple[int, bytes] | None:
        """Return the newest picture as soon as its number is higher; None when there is no more."""

    def watch(self, count: int) -> None:
        """Say that ``count`` more viewers watch (-1: one fewer)."""


class MjpegServer:
    """Serves pictures by HTTP until it is closed.

    Args:
        host: Name or address to listen on.
        port: 0 for any free one.
        pictures: Where they come from.
        max_clients: How many may watch at once; further ones are told to come back later.
    """

    def __init__(self, host: str, port: int, pictures: Pictures, max_clients: int) -> None:
        self._host = host
        self._port = port
        self._pictures = pictures
        self._max_clients = max_clients
        self._viewers = 0
        self._runner: web.AppRunner | None = None
        self._listening: asyncio.Server | None = None
        # Bounded by the connections of the last 10 s; see _connection.
        self._silent: dict[web.RequestHandler, asyncio.TimerHandle] = {}

    @property
    def port(self) -> int:
        """The port that it listens on."""
        if self._listening is not None and self._listening.sockets:
            return int(self._listening.sockets[0].getsockname()[1])
        return self._port

    @property
    def viewers(self) -> int:
        """How many watch the stream."""
        return self._viewers

    async def open(self) -> None:
        """Start to listen.

        Raises:
            SinkOpenError: If the address cannot be had.
        """
        app = web.Application(middlewares=[self._guard])
        app.router.add_get("/", self._page)
        app.router.add_get("/stream.mjpg", self._stream, allow_head=False)
        app.router.add_get("/snapshot.jpg", self._snapshot)
        # Cancelled when the viewer goes: one that waits for a paused picture would stay for ever.
        self._runner = web.AppRunner(
            app, access_log=None, handler_cancellation=True, shutdown_timeout=_SHUTDOWN_S
        )
        await self._runner.setup()
        loop = asyncio.get_running_loop()
        try:
            self._listening = await loop.create_server(
                self._connection, self._host, self._port, backlog=_SPARE_CONNECTIONS
            )
        except OSError as exc:
            await self.aclose()
            raise _bind_error(self._host, self._port, exc) from exc

    async def aclose(self) -> None:
        """End all connections and stop to listen; may be called twice."""
        if self._listening is not None:
            self._listening.close()
        while self._silent:
            self._silent.popitem()[1].cancel()
        if self._runner is not None:
            runner, self._runner = self._runner, None
            await runner.cleanup()

    def _connection(self) -> asyncio.BaseProtocol:
        assert self._runner is not None
        server = self._runner.server
        assert server is not None
        loop = asyncio.get_running_loop()
        connection = server()
        if len(server.connections) >= self._max_clients + _SPARE_CONNECTIONS:
            loop.call_soon(connection.force_close)

        def hang_up() -> None:
            del self._silent[connection]
            connection.force_close()

        # aiohttp would wait for ever for a header that never ends.
        self._silent[connection] = loop.call_later(_TIMEOUT_S, hang_up)
        return connection

    @web.middleware
    async def _guard(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        if (timer := self._silent.pop(request.protocol, None)) is not None:
            timer.cancel()
        if _is_loopback(self._host) and not _is_loopback(_host_name(request.host)):
            # A foreign page whose name was made to lead here (DNS rebinding) could read it.
            return _text(403, f"ask for http://{self._host}:{self.port}/")
        try:
            response = await handler(request)
        except web.HTTPException as exc:
            response = _text(exc.status, exc.reason)
        # One request a connection: none is kept that nothing comes on.
        response.force_close()
        return response

    async def _page(self, request: web.Request) -> web.StreamResponse:
        policy = "default-src 'none'; img-src 'self'; style-src 'unsafe-inline'"
        return web.Response(
            text=_PAGE,
            content_type="text/html",
            headers={**_HEADERS, "Content-Security-Policy": policy},
        )

    async def _snapshot(self, request: web.Request) -> web.StreamResponse:
        picture = await self._pictures.newest()
        if picture is None:
            return _text(503, "there is no picture yet")
        return web.Response(body=picture[1], content_type="image/jpeg", headers=_HEADERS)

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        if self._viewers >= self._max_clients:
            return _text(503, f"{self._viewers} are watching, no more can; close one")
        self._viewers += 1
        self._pictures.watch(1)
        try:
            return await self._feed(request)
        finally:
            self._viewers -= 1
            self._pictures.watch(-1)

    async def _feed(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(
            headers={
                **_HEADERS,
                "Content-Type": f"multipart/x-mixed-replace; boundary={_BOUNDARY}",
            }
        )
        response.force_close()
        if request.transport is not None:
            connection = request.transport.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
        try:
            await response.prepare(request)
            await response.write(f"--{_BOUNDARY}\r\n".encode())
            picture = await self._pictures.newest() or await self._pictures.newer(0)
            while picture is not None:
                number, jpeg = picture
                # The next boundary goes with the picture: browsers show it when they see that.
                part = b"Content-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%b\r\n--%b\r\n"
                async with asyncio.timeout(_TIMEOUT_S):
                    await response.write(part % (len(jpeg), jpeg, _BOUNDARY.encode()))
                picture = await self._pictures.newer(number)
        except (ConnectionError, TimeoutError):
            if request.transport is not None:
                request.transport.abort()  # what it was sent and did not take is not kept
        return response


def _text(status: int, text: str) -> web.Response:
    response = web.Response(status=status, text=text + "\n", headers=_HEADERS)
    response.force_close()
    return response


def _host_name(header: str) -> str:
    """The name in a Host header: without the port, and without the brackets of IPv6."""
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.partition(":")[0]


def _is_loopback(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _bind_error(host: str, port: int, exc: OSError) -> SinkOpenError:
    shown = f"[{host}]" if ":" in host else printable(host)
    address = f"{shown}:{port}"
    if exc.errno == errno.EADDRINUSE:
        other = port + 1 if port < 65535 else port - 1
        return SinkOpenError(
            f"cannot serve on {address}: port {port} is in use by another program; stop that, "
            f"or take another port, for example mjpeg://{shown}:{other}"
        )
    if exc.errno in (errno.EACCES, errno.EPERM):
        return SinkOpenError(
            f"cannot serve on {address}: no permission for port {port}; take one above 1023, "
            f"for example mjpeg://{shown}:8090"
        )
    if exc.errno == errno.EADDRNOTAVAIL or isinstance(exc, socket.gaierror):
        return SinkOpenError(
            f"cannot serve on {address}: '{shown}' is no address of this machine; "
            f"take mjpeg://127.0.0.1:{port}, or mjpeg://0.0.0.0:{port} for the whole network"
        )
    return SinkOpenError(f"cannot serve on {address}: {reason(exc)}; take another port")
