"""Listener: TCP connections, counted from when they are accepted, and ended when nobody reads them.

asyncio and aiohttp count a connection when its TLS handshake is over, and wait without end for a
client that does not read what it asked for. Here a connection has its place, and its address one of
those that it may have, before its first byte; and it has a time for what it is sent.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections import Counter
from typing import TYPE_CHECKING, Any, Self

from streamseg.abc import Resource
from streamseg.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Listener"]

_log = logging.getLogger(__name__)

_BACKLOG = 128
_LOOKS = 6  # in the time that a client has for reading
_CLOSE_S = 0.5


class Listener(Resource):
    """Listens within ``async with``.

    Args:
        make_protocol: Returns what serves a new connection; that is made when it may speak.
        host: Address to listen on.
        port: TCP port; 0 takes a free one.
        context: For TLS; None without.
        most: Connections at once, those in their handshake included. One more is hung up on.
        most_per_address: Likewise of one address; None without such a cap.
        address_of: Returns what an IP address is counted as.
        handshake_s: How long the TLS handshake may take, in seconds.
        write_s: For how long a client may leave what it is sent unread, in seconds.
    """

    def __init__(
        self,
        make_protocol: Callable[[], asyncio.Protocol],
        host: str,
        port: int,
        *,
        context: ssl.SSLContext | None,
        most: int,
        most_per_address: int | None,
        address_of: Callable[[str], str],
        handshake_s: float,
        write_s: float,
    ) -> None:
        self.port = port
        self.make_protocol = make_protocol
        self.context = context
        self.handshake_s = handshake_s
        self.write_s = write_s
        self._host = host
        self._most = most
        self._most_per_address = most_per_address
        self._address_of = address_of
        self._connections: dict[_Connection, str] = {}  # bounded by `most`
        self._addresses: Counter[str] = Counter()
        self._listening: asyncio.Server | None = None
        self._watching: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._connections)

    async def __aenter__(self) -> Self:
        """Begin to listen.

        Raises:
            ConfigError: If the address cannot be listened on.
        """
        try:
            self._listening = await asyncio.get_running_loop().create_server(
                lambda: _Connection(self), self._host, self.port, backlog=_BACKLOG
            )
        except OSError as exc:
            raise ConfigError(
                f"cannot listen on {self._host}:{self.port}: "
                f"{(exc.strerror or str(exc)).lower()}; name another --host or --port, port 0 takes "
                "a free one"
            ) from exc
        self.port = self._listening.sockets[0].getsockname()[1]
        self._watching = asyncio.create_task(self._watch())
        return self

    def admit(self, connection: _Connection, peer: Any) -> bool:
        """Return whether a connection may stay; ``left`` must follow if so.

        Args:
            connection: Just accepted.
            peer: Its socket's other end, host first.
        """
        address = self._address_of(str(peer[0])) if peer else ""
        if len(self._connections) >= self._most:
            return False
        cap = self._most_per_address
        if cap is not None and self._addresses[address] >= cap:
            return False
        self._connections[connection] = address
        self._addresses[address] += 1
        return True

    def left(self, connection: _Connection) -> None:
        """Forget a connection, if it is one."""
        address = self._connections.pop(connection, None)
        if address is None:
            return
        self._addresses[address] -= 1
        if not self._addresses[address]:
            del self._addresses[address]

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self.write_s / _LOOKS)
            now_s = loop.time()
            for connection in tuple(self._connections):
                connection.end_if_stuck(now_s, self.write_s)

    def stop(self) -> None:
        """Accept nobody any more; those who are connected stay."""
        listening, self._listening = self._listening, None
        if listening is not None:
            listening.close()

    async def aclose(self) -> None:
        """End all connections at once."""
        self.stop()
        watching, self._watching = self._watching, None
        if watching is not None:
            watching.cancel()
            await asyncio.wait([watching])
        ending = [connection.end() for connection in tuple(self._connections)]
        if ending:
            await asyncio.wait([event for events in ending for event in events], timeout=_CLOSE_S)


class _Connection(asyncio.Protocol):
    """One connection: its place, its handshake, and then whatever serves it."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._tcp: asyncio.Transport | None = None
        self._securing: asyncio.Task[None] | None = None
        self._serving: asyncio.Protocol | None = None
        self._early: list[bytes] = []  # came with the handshake's end: one read of the socket
        self._stuck_since_s: float | None = None
        self._unread = 0  # bytes, at the last look
        self._lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        if not self._listener.admit(self, transport.get_extra_info("peername")):
            transport.abort()
            return
        self._tcp = transport
        if self._listener.context is None:
            self._serve(transport)
        else:
            transport.pause_reading()
            self._securing = asyncio.create_task(self._secure(transport, self._listener.context))

    async def _secure(self, transport: asyncio.Transport, context: ssl.SSLContext) -> None:
        secured: asyncio.Transport | None = None
        try:
            secured = await asyncio.get_running_loop().start_tls(
                transport,
                self,
                context,
                server_side=True,
                ssl_handshake_timeout=self._listener.handshake_s,
            )
        except OSError as exc:
            _log.debug("a TLS handshake failed: %s", type(exc).__name__)
        finally:
            if secured is None:  # also where it ended on the way
                transport.abort()
                self.connection_lost(None)
        if secured is not None and not self._lost.done():
            self._serve(secured)

    def _serve(self, transport: asyncio.Transport) -> None:
        serving = self._serving = self._listener.make_protocol()
        serving.connection_made(transport)
        early, self._early = self._early, []
        for data in early:
            serving.data_received(data)

    def data_received(self, data: bytes) -> None:
        if self._serving is not None:
            self._serving.data_received(data)
        else:
            self._early.append(data)

    def eof_received(self) -> bool | None:
        return None if self._serving is None else self._serving.eof_received()

    def pause_writing(self) -> None:
        if self._serving is not None:
            self._serving.pause_writing()

    def resume_writing(self) -> None:
        if self._serving is not None:
            self._serving.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._lost.done():
            return
        self._lost.set_result(None)
        self._listener.left(self)
        serving, self._serving = self._serving, None
        if serving is not None:
            serving.connection_lost(exc)

    def end_if_stuck(self, now_s: float, patience_s: float) -> None:
        """End it if its client has read nothing of what waits for it for too long.

        Nothing may be sent over it by ``sendfile``: that would not show here.
        """
        tcp = self._tcp
        unread = 0 if tcp is None else tcp.get_write_buffer_size()
        before, self._unread = self._unread, unread
        if tcp is None or unread == 0:
            self._stuck_since_s = None
        elif self._stuck_since_s is None or unread < before:  # a slow client reads, too
            self._stuck_since_s = now_s
        elif now_s - self._stuck_since_s >= patience_s:
            tcp.abort()

    def end(self) -> list[asyncio.Future[None]]:
        """End it at once; return what is done when it has ended."""
        if self._tcp is not None:
            self._tcp.abort()
        return [self._lost] if self._securing is None else [self._lost, self._securing]
