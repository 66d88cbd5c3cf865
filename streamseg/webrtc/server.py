"""Server: WebRTC calls, rooms and the page over HTTP.

It makes connections and knows who is in which room; what is done to their pictures is made by a
``SessionFactory``, so that this room of the house needs no pipeline.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Self

import anyio
import anyio.to_thread
from aiohttp import web

from streamseg.abc import Resource
from streamseg.errors import ConfigError, StreamsegError
from streamseg.webrtc.choices import Menu
from streamseg.webrtc.connections import Connections
from streamseg.webrtc.listening import Listener
from streamseg.webrtc.page_files import read_page
from streamseg.webrtc.peer import Peer
from streamseg.webrtc.refusal import Refusal
from streamseg.webrtc.rooms import Rooms
from streamseg.webrtc.routes import OPEN_PATHS, Routes, refusal_of
from streamseg.webrtc.security import SECURITY_HEADERS, Guard, network_of
from streamseg.webrtc.sessions import Sessions
from streamseg.webrtc.uploads import Uploads

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aiohttp.typedefs import Handler

    from streamseg.abc import Source
    from streamseg.webrtc.processing import SessionFactory
    from streamseg.webrtc.server_options import ServerOptions
    from streamseg.webrtc.sessions import PeerFactory, Session, SessionCounts

__all__ = ["Server"]

_log = logging.getLogger(__name__)

# aiohttp tells of broken requests with their sender's address: of no logging tree, and silent.
_SILENT = logging.Logger("aiohttp", level=logging.CRITICAL + 1)

_SHUTDOWN_S = 1.0
_LINGERING_S = 0.5  # for a body that nobody wants, so that its sender can read why
_HEADERS_EXPOSED = "Location, ETag, Link, Accept-Patch, Retry-After"


class Server(Resource):
    """Serves calls and rooms.

    ``async with Server(...)`` listens until the block is left; all calls are ended then.

    Args:
        options: Where, for whom, how much.
        start_session: Makes the processing of each session.
        metrics: Returns a page for Prometheus from its ``Accept`` header; without it there is none.
        not_ready: Returns why no session should be sent here now; None if there is no reason.
        make_peer: Makes connections; ``Peer`` with the options' ``peer`` if left out.
        on_session_end: Called after each session has ended, whatever it was and however it ended.
    """

    def __init__(
        self,
        options: ServerOptions,
        *,
        start_session: SessionFactory,
        metrics: Callable[[str], Awaitable[tuple[str, bytes]]] | None = None,
        not_ready: Callable[[], str | None] = lambda: None,
        make_peer: PeerFactory | None = None,
        on_session_end: Callable[[], None] = lambda: None,
    ) -> None:
        self.options = options
        self._start_session = start_session
        self._metrics = metrics
        self._other_not_ready = not_ready
        self._make_peer = make_peer or (lambda *, name: Peer(options.peer, name=name))
        self._guard = Guard(options)
        self._runner: web.AppRunner | None = None
        self._listener: Listener | None = None
        self._open_paths: frozenset[str] = OPEN_PATHS
        self._port = options.port
        self._on_session_end = on_session_end
        self._closing = False
        self._uploads = Uploads(
            most=options.max_uploads, most_per_address=options.max_uploads_per_address
        )
        self._rooms = Rooms(
            max_viewers=options.max_viewers, max_viewers_in_all=options.max_viewers_in_all
        )
        self._sessions = Sessions(
            max_sessions=options.max_sessions,
            max_viewers=options.max_viewers_in_all,
            max_pending_per_address=options.max_pending_per_address,
            on_end=self._session_ended,
        )
        self._menu = Menu(options.may_bypass, options.effect)
        self._connections = Connections(
            self._sessions,
            self._rooms,
            self._uploads,
            make_peer=self._make_peer,
            start_session=start_session,
            menu=self._menu,
        )

    def _session_ended(self, session: Session) -> None:
        self._connections.leave(session)
        self._on_session_end()

    @property
    def url(self) -> str:
        """Where it listens, with the port that was taken."""
        host = self.options.host
        host = f"[{host}]" if ":" in host and not host.startswith("[") else host
        return f"{'https' if self.options.tls else 'http'}://{host}:{self._port}"

    def counts(self) -> SessionCounts:
        """Return how many sessions there are."""
        return self._sessions.counts()

    @property
    def rooms(self) -> int:
        """How many rooms have a publisher."""
        return len(self._rooms)

    async def fill_room(self, room: str, source: Source) -> None:
        """Put a source of this machine into a room until it ends.

        Raises:
            Refusal: If the room is taken.
            StreamsegError: If the source or its processing fails for good.
        """
        await self._connections.fill(room, source)

    # -- life --------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Begin to listen.

        Raises:
            ConfigError: If the address cannot be listened on or the certificate cannot be used.
        """
        try:
            await self._open()
        except BaseException:
            await self.aclose()
            raise
        return self

    async def _open(self) -> None:
        options = self.options
        context = await anyio.to_thread.run_sync(self._make_context) if options.tls else None
        await self._uploads.__aenter__()
        app = web.Application(middlewares=[self._middleware])
        routes = Routes(
            options,
            self._guard,
            self._sessions,
            self._connections,
            self._uploads,
            self._menu,
            await anyio.to_thread.run_sync(read_page),
            not_ready=self._not_ready,
            metrics=self._metrics,
        )
        routes.add_to(app)
        self._open_paths = OPEN_PATHS | set(routes.page)
        self._runner = web.AppRunner(
            app,
            access_log=None,
            logger=_SILENT,
            handle_signals=False,
            keepalive_timeout=options.header_timeout_s,
            lingering_time=_LINGERING_S,
            auto_decompress=False,  # a body is as large as it came: see bodies.py
            shutdown_timeout=_SHUTDOWN_S,
        )
        await self._runner.setup()
        server = self._runner.server
        assert server is not None
        # Behind a proxy all connections are the proxy's.
        cap = None if options.behind_proxy else options.max_connections_per_address
        self._listener = Listener(
            server,
            options.host.strip("[]"),
            options.port,
            context=context,
            most=options.max_connections,
            most_per_address=cap,
            address_of=network_of,
            handshake_s=options.header_timeout_s,
            write_s=options.write_timeout_s,
        )
        await self._listener.__aenter__()
        self._port = self._listener.port

    def _make_context(self) -> ssl.SSLContext:
        cert, key = self.options.tls_cert, self.options.tls_key
        assert cert is not None
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        try:
            context.load_cert_chain(cert, key, password=lambda: "")
        except (OSError, ssl.SSLError, ValueError) as exc:
            reason = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
            raise ConfigError(
                f"the certificate {cert} with the key {key} cannot be used: {reason}; both must be "
                "PEM, and the key without a passphrase"
            ) from exc
        context.set_alpn_protocols(["http/1.1"])
        return context

    async def aclose(self) -> None:
        """End all sessions, answer what is being answered, and stop listening."""
        self._closing = True
        listener, self._listener = self._listener, None
        runner, self._runner = self._runner, None
        if listener is not None:
            listener.stop()
        # A second signal cancels through the shield: what comes after is closed all the same.
        with anyio.CancelScope(shield=True):
            async with AsyncExitStack() as closing:  # the last one first
                closing.push_async_callback(self._uploads.aclose)
                if listener is not None:
                    closing.push_async_callback(listener.aclose)
                if runner is not None:
                    closing.push_async_callback(runner.cleanup)
                closing.push_async_callback(self._sessions.aclose)

    def _not_ready(self) -> str | None:
        if self._closing:
            return "the server is stopping"
        return self._other_not_ready()

    # -- requests ----------------------------------------------------------------------------

    @web.middleware
    async def _middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            response = await self._admit(request, handler)
        except web.HTTPException as exc:  # of the router: no such path, no such method
            headers = {"Allow": exc.headers["Allow"]} if "Allow" in exc.headers else {}
            response = _answer(Refusal(exc.status, exc.reason.lower(), headers=headers))
        except StreamsegError as exc:
            response = _answer(refusal_of(exc))
        except (ConnectionError, asyncio.CancelledError):
            raise
        except Exception as exc:
            # The exception's text may have parts of the request.
            _log.error("a request failed: %s", type(exc).__name__)
            _log.debug("it failed here:", exc_info=exc)
            response = _answer(Refusal(500, "this is a fault of the server, and was logged there"))
        response.headers.update(SECURITY_HEADERS)
        response.headers["Server"] = "streamseg"  # not which versions of what
        self._allow_origin(request, response)
        return response

    async def _admit(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        guard = self._guard
        guard.check_host(request)
        if request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers:
            return _preflight()
        guard.check_origin(request)
        if request.method != "OPTIONS" and request.path not in self._open_paths:
            guard.check_token(request)
        return await handler(request)

    def _allow_origin(self, request: web.Request, response: web.StreamResponse) -> None:
        """Let the pages of befriended origins read the answer."""
        origin = request.headers.get("Origin")
        response.headers.add("Vary", "Origin")
        if origin is not None and self._guard.is_friend(origin):
            response.headers["Access-Control-Allow-Origin"] = origin
            response.headers["Access-Control-Expose-Headers"] = _HEADERS_EXPOSED


def _preflight() -> web.Response:
    """Answer what a browser asks before a page of another origin may send its request."""
    return web.Response(
        status=204,
        headers={
            "Access-Control-Allow-Methods": "DELETE, OPTIONS, PATCH, POST",
            "Access-Control-Allow-Headers": "Authorization, Content-Type, If-Match",
            "Access-Control-Max-Age": "600",
        },
    )


def _answer(refusal: Refusal) -> web.Response:
    headers = {"Cache-Control": "no-store", **refusal.headers}
    closing = headers.pop("Connection", "") == "close"
    response = web.json_response({"error": str(refusal)}, status=refusal.status, headers=headers)
    if closing:
        response.force_close()
    return response
