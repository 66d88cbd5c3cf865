"""The page that Prometheus asks for."""

from __future__ import annotations

import logging
from email.utils import formatdate
from typing import TYPE_CHECKING, Self

import anyio
import anyio.abc
import anyio.to_thread

from streamseg.errors import ConfigError
from streamseg.monitoring.background import BackgroundTask

if TYPE_CHECKING:
    from collections.abc import Callable

    from anyio.abc import ByteStream, Listener

    from streamseg.telemetry import PipelineStatistics

__all__ = ["MetricsServer"]

_log = logging.getLogger(__name__)

_LOOPBACK = "127.0.0.1"
_ANSWERING_S = 5.0  # for one request, from its first byte to the last of the answer
_REQUEST_BYTES = 16_384
_AT_ONCE = 8  # requests; one a few seconds is what comes
_STATUS = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    500: "Internal Server Error",
    503: "Service Unavailable",
}


class MetricsServer(BackgroundTask):
    """Serves statistics to Prometheus: ``http://127.0.0.1:9100/metrics``.

    It listens while ``async with MetricsServer(...)`` runs. Requests are taken on the event loop,
    where statistics may be read; the page is made in a worker thread. Answers are HTTP/1.1 with one
    request a connection; there is nothing to write to.

    Args:
        address: ``HOST:PORT``, ``[::1]:PORT`` or ``PORT`` alone, which is on the loopback device;
            port 0 takes a free one, see ``address``.
        get_statistics: Called on the event loop for each request.

    Raises:
        ConfigError: If the address is none.
    """

    def __init__(self, address: str, get_statistics: Callable[[], PipelineStatistics]) -> None:
        # The library takes 50 ms to import: only those who want metrics pay, and before frames come.
        from streamseg.monitoring.metrics import render

        self._render = render
        self._host, self._port = _parse(address)
        self._get_statistics = get_statistics
        self._listener: Listener[ByteStream] | None = None
        self._answering = 0

    @property
    def address(self) -> str:
        """``HOST:PORT``, with the port that was taken once it listens."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{host}:{self._port}"

    async def __aenter__(self) -> Self:
        """Begin to listen.

        Raises:
            ConfigError: If the address is in use or not one of this machine.
        """
        try:
            listener = await anyio.create_tcp_listener(local_host=self._host, local_port=self._port)
        except OSError as exc:
            raise ConfigError(
                f"cannot serve metrics on {self.address}: {(exc.strerror or str(exc)).lower()}; "
                "name another host and port, port 0 takes a free one"
            ) from exc
        self._listener = listener
        self._port = listener.extra(anyio.abc.SocketAttribute.local_port)
        self._start()
        return self

    async def aclose(self) -> None:
        """Stop listening and end what is being answered."""
        await self._stop()
        listener, self._listener = self._listener, None
        if listener is not None:
            with anyio.CancelScope(shield=True):
                await listener.aclose()

    async def _run(self) -> None:
        if self._listener is not None:
            await self._listener.serve(self._serve)

    async def _serve(self, stream: ByteStream) -> None:
        self._answering += 1
        try:
            async with stream:
                with anyio.move_on_after(_ANSWERING_S):
                    await self._answer(stream)
        # Whoever asked has gone, or sent no request: nothing to tell anybody.
        except (OSError, anyio.BrokenResourceError, anyio.ClosedResourceError):
            pass
        finally:
            self._answering -= 1

    async def _answer(self, stream: ByteStream) -> None:
        if self._answering > _AT_ONCE:
            await _send(stream, 503, b"too many requests at once\n")
            return
        request = await _receive(stream)
        if request is None:
            await _send(stream, 400, b"not an HTTP request\n")
            return
        method, path, accept = request
        if method not in ("GET", "HEAD"):
            await _send(stream, 405, b"GET /metrics\n", "Allow: GET, HEAD\r\n")
            return
        if path != "/metrics":
            await _send(stream, 404, b"the metrics are at /metrics\n", head=method == "HEAD")
            return
        try:
            statistics = self._get_statistics()
            content_type, body = await anyio.to_thread.run_sync(self._render, statistics, accept)
        except Exception as exc:
            _log.warning(
                "metrics could not be made", extra={"error": f"{type(exc).__name__}: {exc}"}
            )
            await _send(stream, 500, b"the statistics could not be read\n")
            return
        await _send(stream, 200, body, content_type=content_type, head=method == "HEAD")


async def _receive(stream: ByteStream) -> tuple[str, str, str] | None:
    """Return method, path and ``Accept`` of one request; None if it is none."""
    received = b""
    while b"\r\n\r\n" not in received:
        if len(received) > _REQUEST_BYTES:
            return None
        try:
            received += await stream.receive(_REQUEST_BYTES)
        except anyio.EndOfStream:
            return None
    first, *headers = received.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
    words = first.split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1."):
        return None
    accept = ""
    for header in headers:
        name, _, value = header.partition(":")
        if name.strip().lower() == "accept":
            accept = value.strip()
    return words[0], words[1].partition("?")[0], accept


async def _send(
    stream: ByteStream,
    status: int,
    body: bytes,
    headers: str = "",
    *,
    content_type: str = "text/plain; charset=utf-8",
    head: bool = False,
) -> None:
    answer = (
        f"HTTP/1.1 {status} {_STATUS[status]}\r\n"
        f"Date: {formatdate(usegmt=True)}\r\n"
        f"Content-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\n"
        f"Cache-Control: no-store\r\n{headers}"
        "Connection: close\r\n\r\n"
    ).encode("latin-1")
    await stream.send(answer if head else answer + body)


def _parse(address: str) -> tuple[str, int]:
    host, _, port = address.strip().rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not (port.isascii() and port.isdigit() and int(port) <= 65_535):
        raise ConfigError(
            f"metrics address {address!r} is not HOST:PORT with a port of 0 to 65535; "
            "try 127.0.0.1:9100"
        )
    return host or _LOOPBACK, int(port)
