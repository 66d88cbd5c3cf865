"""The HTTP routes: JSON offers, WHIP, WHEP, the page, and what operators ask for.

WHIP is RFC 9725, WHEP draft-ietf-wish-whep.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any, Literal

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field

from streamseg.errors import StreamsegError
from streamseg.webrtc.bodies import parse_json, read_body, read_text
from streamseg.webrtc.control import EffectName, Options
from streamseg.webrtc.errors import SignalError
from streamseg.webrtc.refusal import Refusal
from streamseg.webrtc.rooms import check_room_name
from streamseg.webrtc.signals import MAX_CANDIDATES, MAX_SDP_BYTES, read_fragment
from streamseg.webrtc.uploads import MAX_UPLOAD_BYTES

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from streamseg.webrtc.choices import Menu
    from streamseg.webrtc.connections import Connections
    from streamseg.webrtc.page_files import PageFile
    from streamseg.webrtc.security import Guard
    from streamseg.webrtc.server_options import ServerOptions
    from streamseg.webrtc.sessions import Kind, Session, Sessions
    from streamseg.webrtc.uploads import Uploads

__all__ = ["OPEN_PATHS", "Routes", "refusal_of"]

OPEN_PATHS = frozenset({"/healthz", "/readyz"})
"""Need no token, besides the files of the page."""

_SDP = "application/sdp"
_FRAGMENT = "application/trickle-ice-sdpfrag"
_MAX_FRAGMENT_BYTES = 16_384
# Of the JSON around an SDP: every line break of it takes two letters more.
_MAX_OFFER_BYTES = MAX_SDP_BYTES + 16_384
_UPLOADS_AT_ONCE = 8  # 5 MB of memory each
_UPLOADS_AT_ONCE_PER_ADDRESS = 2
_UPLOAD_BYTES_PER_S = 16_000  # at least


class _Offer(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    sdp: Annotated[str, Field(max_length=MAX_SDP_BYTES)]
    type: Literal["offer"]
    effect: EffectName | None = None
    options: Options | None = None


class Routes:
    """Answers requests.

    Args:
        options: The server's.
        guard: Knows who asks.
        sessions: All sessions.
        connections: Makes new ones.
        uploads: Keeps backgrounds.
        menu: The effects that may be asked for.
        page: The files of the page by their paths.
        not_ready: Returns why no session should be sent here now, None if there is no reason.
        metrics: Returns a page for Prometheus from its ``Accept`` header; None: there is none.
    """

    def __init__(
        self,
        options: ServerOptions,
        guard: Guard,
        sessions: Sessions,
        connections: Connections,
        uploads: Uploads,
        menu: Menu,
        page: Mapping[str, PageFile],
        *,
        not_ready: Callable[[], str | None],
        metrics: Callable[[str], Awaitable[tuple[str, bytes]]] | None,
    ) -> None:
        self._options = options
        self._guard = guard
        self._sessions = sessions
        self._connections = connections
        self._uploads = uploads
        self._menu = menu
        self._not_ready = not_ready
        self._metrics = metrics
        self._uploading: Counter[str] = Counter()  # by address; bounded by _UPLOADS_AT_ONCE
        self.page = page

    def add_to(self, app: web.Application) -> None:
        """Add all routes to an application."""
        router = app.router
        for path, file in self.page.items():
            router.add_get(path, file.answer)
        router.add_post("/offer", self.offer)
        router.add_delete("/session/{id}", self.end_call)
        router.add_post("/background", self.background)
        router.add_get("/config.json", self.config)
        router.add_get("/healthz", self.healthz)
        router.add_get("/readyz", self.readyz)
        if self._metrics is not None:
            router.add_get("/metrics", self.metrics)
        for protocol, take, kind in (
            ("whip", self.whip, "publisher"),
            ("whep", self.whep, "viewer"),
        ):
            router.add_post(f"/{protocol}/{{room}}", take)
            router.add_options(f"/{protocol}/{{room}}", self.endpoint_options)
            session = f"/{protocol}/{{room}}/{{id}}"
            router.add_delete(session, self._for_kind(self.end_resource, kind))
            router.add_patch(session, self._for_kind(self.trickle, kind))
            router.add_options(session, self.session_options)

    # -- the page ----------------------------------------------------------------------------

    async def config(self, request: web.Request) -> web.Response:
        """Return what the page has to know."""
        options = self._options
        effects = {
            name: taken
            for name, taken in self._menu.effects.items()
            if options.able is None or name in options.able
        }
        return web.json_response(
            {
                "effects": list(effects),
                "options": effects,
                "effect": options.effect,
                "may_bypass": options.may_bypass,
                "ice_servers": [_for_browser(server) for server in options.peer.ice_servers],
                "limits": {
                    "sdp_bytes": MAX_SDP_BYTES,
                    "candidates": MAX_CANDIDATES,
                    "upload_bytes": MAX_UPLOAD_BYTES,
                    "pixels": options.peer.max_pixels,
                    "bitrate": options.peer.max_bitrate,
                },
            },
            headers={"Cache-Control": "no-store"},
        )

    # -- calls -------------------------------------------------------------------------------

    async def offer(self, request: web.Request) -> web.Response:
        """Answer a JSON offer: the camera in, its processed picture back."""
        self._guard.check_rate(request)
        text = await self._text(request, "application/json", _MAX_OFFER_BYTES)
        offer = parse_json(_Offer, text)
        if offer.options is not None and offer.effect is None:
            raise Refusal(400, "options are an effect's: name it")
        effect = None
        if offer.effect is not None:
            effect = self._menu.choose(offer.effect, offer.options or {}, self._uploads)
        session, answer = await self._connections.call(
            offer.sdp, effect, self._guard.address(request)
        )
        return web.json_response(
            {"sdp": answer, "type": "answer", "session": session.id},
            headers={"Cache-Control": "no-store"},
        )

    async def end_call(self, request: web.Request) -> web.Response:
        """End a call."""
        session = self._sessions.find(request.match_info["id"], ("call",))
        await self._sessions.end(session)
        return web.json_response({"ended": True})

    async def background(self, request: web.Request) -> web.Response:
        """Keep a background picture and return its id."""
        self._guard.check_rate(request)
        address = self._guard.address(request)
        # One who sends slowly must not keep everybody else out.
        if (
            self._uploading.total() >= _UPLOADS_AT_ONCE
            or self._uploading[address] >= _UPLOADS_AT_ONCE_PER_ADDRESS
        ):
            raise Refusal(
                503, "too many uploads at once; try again later", headers={"Retry-After": "5"}
            )
        self._uploading[address] += 1
        try:
            data = await read_body(
                request,
                limit=MAX_UPLOAD_BYTES,
                timeout_s=3 * self._options.body_timeout_s,
                least_rate=_UPLOAD_BYTES_PER_S,
            )
            name = await self._uploads.add(data, address)
        finally:
            self._uploading[address] -= 1
            if not self._uploading[address]:
                del self._uploading[address]
        return web.json_response({"id": name}, status=201)

    # -- WHIP and WHEP -----------------------------------------------------------------------

    async def whip(self, request: web.Request) -> web.Response:
        """Take a publisher into a room."""
        return await self._take(request, self._connections.publish)

    async def whep(self, request: web.Request) -> web.Response:
        """Take a viewer into a room."""
        return await self._take(request, self._connections.watch)

    async def _take(
        self,
        request: web.Request,
        connect: Callable[[str, str, str], Awaitable[tuple[Session, str]]],
    ) -> web.Response:
        self._guard.check_rate(request)
        room = check_room_name(request.match_info["room"])
        _check_acceptable(request)
        offer = await self._text(request, _SDP, MAX_SDP_BYTES)
        session, answer = await connect(room, offer, self._guard.address(request))
        response = web.Response(status=201, text=answer, content_type=_SDP)
        response.headers["Location"] = f"{request.path}/{session.id}"
        response.headers["Cache-Control"] = "no-store"
        response.headers["ETag"] = session.etag
        response.headers["Accept-Patch"] = _FRAGMENT
        self._add_links(response)
        return response

    async def end_resource(self, request: web.Request, kind: Kind) -> web.Response:
        """End a publisher's or a viewer's session."""
        await self._sessions.end(self._find(request, kind))
        return web.Response(status=200)

    async def trickle(self, request: web.Request, kind: Kind) -> web.Response:
        """Take further candidates of a session."""
        session = self._find(request, kind)
        if request.content_type != _FRAGMENT:
            raise Refusal(
                415, f"expected Content-Type: {_FRAGMENT}", headers={"Accept-Patch": _FRAGMENT}
            )
        match = request.headers.get("If-Match")
        if match is None:
            raise Refusal(428, "If-Match with the session's ETag is needed")
        if match == "*":
            raise Refusal(422, "ICE cannot be restarted here: make a new session")
        if match != session.etag:
            raise Refusal(412, "the ETag is not this ICE session's")
        fragment = read_fragment(await self._text(request, _FRAGMENT, _MAX_FRAGMENT_BYTES))
        if session.peer is not None:
            for mid, candidate in fragment.candidates:
                await session.peer.add_candidate(candidate, mid)
        return web.Response(status=204)

    async def endpoint_options(self, request: web.Request) -> web.Response:
        """Say what an endpoint takes."""
        check_room_name(request.match_info["room"])
        response = web.Response(status=204)
        response.headers["Accept-Post"] = _SDP
        response.headers["Allow"] = "OPTIONS, POST"
        if self._guard.has_token(request):
            self._add_links(response)
        return response

    async def session_options(self, request: web.Request) -> web.Response:
        """Say what a session takes; for pages of other origins."""
        return web.Response(status=204, headers={"Allow": "DELETE, OPTIONS, PATCH"})

    # -- operators ---------------------------------------------------------------------------

    async def healthz(self, request: web.Request) -> web.Response:
        """Say that the server answers."""
        return web.json_response({"status": "ok"})

    async def readyz(self, request: web.Request) -> web.Response:
        """Say whether sessions should be sent here."""
        reason = self._not_ready()
        if reason is not None:
            raise Refusal(503, reason, headers={"Retry-After": "1"})
        return web.json_response({"status": "ready"})

    async def metrics(self, request: web.Request) -> web.Response:
        """Return the metrics of the whole server."""
        assert self._metrics is not None
        kind, body = await self._metrics(request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": kind, "Cache-Control": "no-store"})

    # -- inside ------------------------------------------------------------------------------

    async def _text(self, request: web.Request, kind: str, limit: int) -> str:
        return await read_text(request, kind, limit=limit, timeout_s=self._options.body_timeout_s)

    def _find(self, request: web.Request, kind: Kind) -> Session:
        session = self._sessions.find(request.match_info["id"], (kind,))
        if session.room is None or session.room.name != request.match_info["room"]:
            raise Refusal(404, "there is no such session in this room")
        return session

    def _add_links(self, response: web.Response) -> None:
        for server in self._options.peer.ice_servers:
            for url in server.urls:
                link = f'<{url}>; rel="ice-server"'
                if server.username is not None and server.credential is not None:
                    link += (
                        f'; username="{_quoted(server.username)}"'
                        f'; credential="{_quoted(server.credential)}"; credential-type="password"'
                    )
                response.headers.add("Link", link)

    @staticmethod
    def _for_kind(
        handler: Callable[[web.Request, Kind], Awaitable[web.Response]], kind: str
    ) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def answer(request: web.Request) -> web.Response:
            return await handler(request, kind)  # type: ignore[arg-type]

        return answer


def refusal_of(exc: StreamsegError) -> Refusal:
    """Return what an expected error is answered with."""
    if isinstance(exc, Refusal):
        return exc
    if isinstance(exc, SignalError):
        return Refusal(exc.status, str(exc))
    return Refusal(422, str(exc))


def _check_acceptable(request: web.Request) -> None:
    """Refuse who takes no SDP as an answer."""
    accept = ",".join(request.headers.getall("Accept", []))
    kinds = {part.partition(";")[0].strip().lower() for part in accept.split(",")} - {""}
    if kinds and not kinds & {_SDP, "application/*", "*/*"}:
        raise Refusal(406, f"the answer is {_SDP}, which the Accept header leaves out")


def _for_browser(server: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"urls": list(server.urls)}
    if server.username is not None:
        found["username"] = server.username
    if server.credential is not None:
        found["credential"] = server.credential
    return found


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
