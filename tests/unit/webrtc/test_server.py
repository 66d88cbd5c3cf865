"""The HTTP side: real requests to a real server, whose connections are fakes."""

from __future__ import annotations

import asyncio
import json
import logging
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import anyio
import pytest

from streamseg.errors import ConfigError, SourceReadError
from streamseg.webrtc.errors import SignalError
from streamseg.webrtc.page_files import read_page
from tests.unit.fakes import FakeSource
from tests.unit.webrtc.fakes import ANSWER, FakePeer, House, offer
from tests.unit.webrtc.test_uploads import picture

pytestmark = pytest.mark.anyio

TOKEN = "correct-horse-battery"
JSON = {"Content-Type": "application/json"}
SDP = {"Content-Type": "application/sdp"}
FRAGMENT = "application/trickle-ice-sdpfrag"
CANDIDATE = "candidate:1 1 udp 2122265343 192.0.2.9 60113 typ host"


class Answer:
    def __init__(self, response: aiohttp.ClientResponse, body: bytes) -> None:
        self.status = response.status
        self.headers = response.headers
        self.text = body.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.text)


async def ask(house: House, method: str, path: str, **options: Any) -> Answer:
    async with (
        aiohttp.ClientSession() as client,
        client.request(method, house.server.url + path, **options) as response,
    ):
        answer = Answer(response, await response.read())
    assert answer.status != 500
    if answer.status >= 400:
        assert answer.json["error"]
        assert "\n" not in answer.json["error"]
    return answer


async def call(house: House, **extra: Any) -> Answer:
    return await ask(house, "POST", "/offer", json={"sdp": offer(), "type": "offer", **extra})


async def publish(house: House, room: str = "lobby") -> Answer:
    return await ask(house, "POST", f"/whip/{room}", data=offer("sendonly"), headers=SDP)


async def watch(house: House, room: str = "lobby") -> Answer:
    return await ask(house, "POST", f"/whep/{room}", data=offer("recvonly"), headers=SDP)


# -- calls -------------------------------------------------------------------------------------


async def test_call_begins_and_ends() -> None:
    async with House() as house:
        answer = await call(house, effect="blur", options={"strength": 70})
        assert answer.status == 200
        assert answer.json["type"] == "answer"
        assert answer.json["sdp"] == ANSWER
        processing, peer = house.started[0], house.peers[0]
        assert processing.source is peer.source
        assert list(processing.sinks) == [peer.sink]
        assert peer.sink.playing is peer.audio  # the sound goes back with the picture
        assert processing.request.effect is not None
        assert processing.request.effect.options == {"strength": 70}
        await processing.running.wait()
        path = f"/session/{answer.json['session']}"
        assert (await ask(house, "DELETE", path)).status == 200
        assert processing.cancelled
        assert peer.closed.is_set()
        assert house.server.counts().calls == 0
        assert (await ask(house, "DELETE", path)).status == 404


@pytest.mark.parametrize("how", ["peer", "source", "error"])
async def test_call_ends_with_whatever_ends_first(how: str) -> None:
    async with House() as house:
        await call(house)
        processing, peer = house.started[0], house.peers[0]
        await processing.running.wait()
        if how == "peer":
            peer.end()
        else:
            processing.end(SourceReadError("broke") if how == "error" else None)
        await processing.ended.wait()
        await peer.closed.wait()
        await until(lambda: house.server.counts().calls == 0)


async def test_ids_are_unguessable() -> None:
    async with House(max_pending_per_address=16) as house:
        ids = {(await call(house)).json["session"] for _ in range(4)}
        assert len(ids) == 4
        assert all(len(each) >= 32 for each in ids)
        for guess in ("1", "call 1", "../session", "x" * 32):
            assert (await ask(house, "DELETE", f"/session/{guess}")).status == 404
        assert house.server.counts().calls == 4


BAD_OFFERS: list[tuple[Any, dict[str, str], int]] = [
    (b"", JSON, 400),
    (b"nonsense", JSON, 400),
    (b"[]", JSON, 400),
    (b"\xff\xfe", JSON, 400),
    (b"[" * 50_000, JSON, 400),
    (b'{"sdp": "v=0"}', JSON, 400),
    (b'{"sdp": "v=0", "type": "answer"}', JSON, 400),
    (b'{"sdp": 5, "type": "offer"}', JSON, 400),
    (b'{"sdp": "v=0", "type": "offer", "surprise": 1}', JSON, 400),
    (b'{"sdp": "v=0", "type": "offer", "options": {}}', JSON, 400),
    (b'{"sdp": "v=0", "type": "offer", "effect": 1}', JSON, 400),
    (b'{"sdp": "v=0", "type": "offer", "effect": "' + b"x" * 100 + b'"}', JSON, 400),
    (b'{"sdp": "v=0", "type": "offer"}', JSON, 400),
    (b'{"sdp": "v=0", "type": "offer"}', {"Content-Type": "text/plain"}, 415),
    (b'{"sdp": "v=0", "type": "offer"}', {"Content-Type": ""}, 415),
    (b"x" * 100_000, JSON, 413),
]


@pytest.mark.parametrize(("body", "headers", "status"), BAD_OFFERS, ids=lambda each: str(each)[:40])
async def test_bad_offers(body: Any, headers: dict[str, str], status: int) -> None:
    async with House() as house:
        answer = await ask(house, "POST", "/offer", data=body, headers=headers)
        assert answer.status == status
        assert house.server.counts().pending == 0


@pytest.mark.parametrize(
    ("effect", "options"),
    [
        ("no-such-effect", {}),
        ("cutout", {}),
        ("replace", {"background": "/etc/passwd"}),
        ("replace", {"background": "file:///etc/passwd"}),
        ("replace", {"background": ""}),
        ("replace", {"background": {"path": "/etc/passwd"}}),
        ("replace", {"background": ["/etc/passwd"]}),
        ("replace", {"background": 7}),
        ("replace", {"background": None}),
        ("replace", {"background": "#12"}),
        ("replace", {"background": "#/../../etc/passwd"}),
    ],
)
async def test_effects_that_cannot_be_had(effect: str, options: dict[str, Any]) -> None:
    async with House() as house:
        answer = await call(house, effect=effect, options=options)
        assert answer.status == 422
        assert "passwd" not in answer.text
        assert not house.peers


async def test_background_is_an_upload_or_a_colour() -> None:
    async with House(max_pending_per_address=8) as house:
        uploaded = await ask(house, "POST", "/background", data=picture())
        assert uploaded.status == 201
        name = uploaded.json["id"]
        for background in (name, "navy", "#00b140"):
            answer = await call(house, effect="replace", options={"background": background})
            assert answer.status == 200
        chosen = [processing.request.effect for processing in house.started]
        assert chosen[0] is not None
        assert chosen[0].options["background"].is_file()
        assert chosen[0].said == {"background": name}
        assert [each.options["background"] for each in chosen[1:] if each] == ["navy", "#00b140"]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (SignalError("no codec in common", status=406), 406),
        (ConfigError("strength is wrong"), 422),
    ],
)
async def test_what_fails_on_the_way_leaves_nothing(error: Exception, status: int) -> None:
    async with House() as house:
        if status == 406:
            house.prepare = lambda peer: setattr(peer, "accept_error", error)
        else:
            house.start_error = error
        for _ in range(3):
            answer = await call(house)
            assert answer.status == status
            assert answer.json["error"] == str(error)
        assert all(peer.closed.is_set() for peer in house.peers)
        counts = house.server.counts()
        assert (counts.calls, counts.pending) == (0, 0)


async def test_every_session_that_has_ended_is_told() -> None:
    async with House(max_pending_per_address=16) as house:
        await publish(house)
        watched = (await watch(house)).headers["Location"]
        called = (await call(house)).json["session"]
        assert house.ended == 0
        await ask(house, "DELETE", watched)
        assert house.ended == 1
        await ask(house, "DELETE", f"/session/{called}")
        assert house.ended == 2
        house.start_error = ConfigError("strength is wrong")  # when there is a connection already
        await call(house)
        assert house.ended == 3
        house.prepare = lambda peer: setattr(peer, "accept_error", SignalError("no", status=406))
        await publish(house, "other")
        assert house.ended == 4
    assert house.ended == 5


async def test_a_fault_is_a_500_that_tells_nothing_but_is_logged(caplog) -> None:
    async with House() as house:
        house.start_error = RuntimeError("secret detail")
        async with (
            aiohttp.ClientSession() as client,
            client.post(
                house.server.url + "/offer", json={"sdp": offer(), "type": "offer"}
            ) as response,
        ):
            assert response.status == 500
            assert "secret detail" not in await response.text()
        assert "a request failed: RuntimeError" in caplog.text
        assert house.peers[0].closed.is_set()


async def test_without_leave_no_call_begins_with_what_shows_the_room() -> None:
    own = {"name": "blur", "options": {"strength": 70.0}}
    async with House(may_bypass=False, effect=own) as house:
        told = (await ask(house, "GET", "/config.json")).json
        assert told["effects"] == ["blur", "replace", "pixelate", "mask"]
        assert told["options"]["blur"] == ["strength"]
        assert not told["may_bypass"]
        for effect, options in (("none", {}), ("tint", {}), ("blur", {"on": "subject"})):
            assert (await call(house, effect=effect, options=options)).status == 422
        assert not house.peers
        assert (await call(house, effect="blur", options={"strength": 1})).status == 200
        chosen = house.started[0].request.effect
        assert chosen is not None
        assert chosen.options == {"strength": 70.0}


# -- caps --------------------------------------------------------------------------------------


async def test_server_is_full() -> None:
    async with House(max_sessions=2, max_pending_per_address=8) as house:
        for _ in range(2):
            assert (await call(house)).status == 200
        answer = await call(house)
        assert answer.status == 503
        assert int(answer.headers["Retry-After"]) > 0
        assert (await publish(house)).status == 503
        house.started[0].end()
        await house.peers[0].closed.wait()
        await until(lambda: house.server.counts().calls == 1)
        assert (await call(house)).status == 200
        assert house.server.counts().refused == 2


async def test_pending_connections_of_one_address_are_capped() -> None:
    async with House(max_pending_per_address=2) as house:
        for _ in range(2):
            assert (await call(house)).status == 200
        answer = await call(house)
        assert answer.status == 503
        assert "Retry-After" in answer.headers
        house.peers[0].connected.set()
        assert (await call(house)).status == 200


async def test_offers_that_are_being_answered_count_as_pending() -> None:
    gate = anyio.Event()
    async with House(max_pending_per_address=3) as house:
        house.prepare = lambda peer: setattr(peer, "accepting", gate)
        statuses: list[int] = []

        async def one() -> None:
            statuses.append((await call(house)).status)

        async with anyio.create_task_group() as group:
            for _ in range(10):
                group.start_soon(one)
            await until(lambda: len(statuses) == 7)
            gate.set()
        assert sorted(statuses) == [200] * 3 + [503] * 7


async def test_rate_of_one_address() -> None:
    async with House(offers_per_minute=8) as house:
        statuses = [(await ask(house, "POST", "/offer", data=b"")).status for _ in range(6)]
        assert statuses == [415] * 4 + [429] * 2
        answer = await publish(house)
        assert answer.status == 429
        assert int(answer.headers["Retry-After"]) > 0


async def test_connections_are_capped() -> None:
    async with House(max_connections=4) as house:
        port = int(house.server.url.rpartition(":")[2])
        held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(4)]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await asyncio.wait_for(reader.read(), 5) == b""  # hung up on at once
        writer.close()
        for _, each in held:
            each.close()
        await until(lambda: not house.server._runner.server.connections)
        assert (await ask(house, "GET", "/healthz")).status == 200


# -- slow, broken and foreign requests ---------------------------------------------------------


@asynccontextmanager
async def uploading(house: House, count: int, address: str) -> AsyncIterator[list[Any]]:
    """Uploads of one address that have begun and go on for as long as they may."""
    made = []
    port = int(house.server.url.rpartition(":")[2])
    for _ in range(count):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(
            b"POST /background HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Forwarded-For: %b\r\n"
            b"Content-Length: 100000\r\n\r\n\x89PNG" % address.encode()
        )
        made.append((reader, writer))
    yield [reader for reader, _ in made]
    for _, writer in made:
        writer.close()


async def test_slow_uploads_of_one_address_leave_room_for_others() -> None:
    async with House(behind_proxy=True, max_sessions=20) as house:
        async with uploading(house, 2, "192.0.2.1"):
            begun = house.server._runner.server
            await until(lambda: begun.requests_count == 2)
            sent = {"data": picture()}
            own = {"headers": {"X-Forwarded-For": "192.0.2.1"}}
            answer = await ask(house, "POST", "/background", **sent, **own)
            assert answer.status == 503
            assert "Retry-After" in answer.headers
            other = {"headers": {"X-Forwarded-For": "192.0.2.2"}}
            assert (await ask(house, "POST", "/background", **sent, **other)).status == 201
        await until(lambda: len(begun.connections) == 0)
        assert (await ask(house, "POST", "/background", **sent, **own)).status == 201


async def test_an_upload_has_a_least_rate() -> None:
    async with House(body_timeout_s=1.0) as house, uploading(house, 1, "192.0.2.1") as (reader,):
        began_s = anyio.current_time()
        answer = await asyncio.wait_for(reader.read(), 5)
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"too slowly" in answer
        assert 0.4 < anyio.current_time() - began_s < 2.5  # a whole one may take three


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/offer", "application/json"),
        ("/whip/lobby", "application/sdp"),
        ("/background", "image/png"),
    ],
)
async def test_bodies_are_as_large_as_they_came(path: str, kind: str) -> None:
    async with House() as house:
        bomb = zlib.compress(b" " * 20_000_000, 9)
        headers = {"Content-Type": kind, "Content-Encoding": "deflate"}
        answer = await ask(house, "POST", path, data=bomb, headers=headers)
        assert answer.status == 415
        assert "compressed" in answer.json["error"]


async def test_slow_body_is_408_and_slow_headers_are_hung_up_on() -> None:
    async with House(body_timeout_s=0.2, header_timeout_s=0.4) as house:
        port = int(house.server.url.rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(
            b"POST /offer HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            b"Content-Length: 1000\r\n\r\n{"
        )
        answer = await asyncio.wait_for(reader.read(), 5)
        assert answer.startswith(b"HTTP/1.1 408 ")
        writer.close()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST /offer HTTP/1.1\r\nHost: 127")
        assert await asyncio.wait_for(reader.read(), 5) == b""
        writer.close()


@pytest.mark.parametrize(
    "raw",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
        b"nonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"y" * 20_000 + b"\r\n\r\n",
        b"GET /" + b"y" * 20_000 + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET /%00%ff/../../etc/passwd HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n",
        b"POST /offer HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: -1\r\n\r\n",
        b"POST /offer HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: \xff\xfe\r\n"
        b"Content-Length: 0\r\nConnection: close\r\n\r\n",
        b"POST /offer HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n"
        b"Content-Type: application/json\r\n\r\nZZ\r\n",
    ],
    ids=lambda raw: repr(raw[:30]),
)
async def test_broken_requests_are_4xx_and_not_logged(raw: bytes, caplog) -> None:
    async with House(body_timeout_s=0.3, header_timeout_s=0.5) as house:
        port = int(house.server.url.rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(raw)
        answer = await asyncio.wait_for(reader.read(), 5)
        assert answer.startswith((b"HTTP/1.1 4", b"HTTP/1.0 4"))
        assert b"root:" not in answer
        writer.close()
    assert not [record for record in caplog.records if record.levelno > logging.DEBUG]


@pytest.mark.parametrize("method", ["POST", "DELETE", "PATCH"])
async def test_foreign_origins_change_nothing(method: str) -> None:
    async with House() as house:
        path = "/offer" if method == "POST" else "/whip/lobby/x"
        answer = await ask(house, method, path, headers={"Origin": "https://evil.example"})
        assert answer.status == 403
        assert "Access-Control-Allow-Origin" not in answer.headers


async def test_friendly_origins_may_read_the_answers() -> None:
    friend = "https://friend.example"
    async with House(origins=(friend,)) as house:
        preflight = await ask(
            house,
            "OPTIONS",
            "/whip/lobby",
            headers={"Origin": friend, "Access-Control-Request-Method": "POST"},
        )
        assert preflight.status == 204
        assert preflight.headers["Access-Control-Allow-Origin"] == friend
        assert "Authorization" in preflight.headers["Access-Control-Allow-Headers"]
        answer = await ask(
            house, "POST", "/whip/lobby", data=offer("sendonly"), headers={**SDP, "Origin": friend}
        )
        assert answer.status == 201
        assert answer.headers["Access-Control-Allow-Origin"] == friend
        assert "Location" in answer.headers["Access-Control-Expose-Headers"]
        assert "Origin" in answer.headers["Vary"]


async def test_rebound_names_reach_nothing() -> None:
    async with House() as house:
        for path in ("/", "/healthz", "/config.json"):
            answer = await ask(house, "GET", path, headers={"Host": "evil.example"})
            assert answer.status == 421


TOKEN_PATHS = [
    ("POST", "/offer"),
    ("DELETE", "/session/x"),
    ("POST", "/background"),
    ("GET", "/config.json"),
    ("GET", "/metrics"),
    ("POST", "/whip/lobby"),
    ("PATCH", "/whip/lobby/x"),
    ("DELETE", "/whip/lobby/x"),
    ("POST", "/whep/lobby"),
    ("PATCH", "/whep/lobby/x"),
    ("DELETE", "/whep/lobby/x"),
    ("GET", "/no/such/thing"),
]


@pytest.mark.parametrize(("method", "path"), TOKEN_PATHS)
async def test_everything_but_the_page_needs_a_token(method: str, path: str, caplog) -> None:
    caplog.set_level(logging.INFO)
    async with House(tokens=(TOKEN,)) as house:
        for given in (None, "Bearer wrong-wrong-wrong-wrong", f"Basic {TOKEN}"):
            headers = {} if given is None else {"Authorization": given}
            answer = await ask(house, method, path, headers=headers)
            assert answer.status == 401
            assert answer.headers["WWW-Authenticate"].startswith("Bearer")
        headers = {"Authorization": f"Bearer {TOKEN}"}
        assert (await ask(house, method, path, headers=headers)).status != 401
    assert "wrong-wrong" not in caplog.text
    assert TOKEN not in caplog.text


async def test_page_health_and_preflight_need_no_token() -> None:
    async with House(tokens=(TOKEN,)) as house:
        for path in ("/healthz", "/readyz", *read_page()):
            assert (await ask(house, "GET", path)).status == 200
        assert (await ask(house, "OPTIONS", "/whip/lobby")).status == 204


# -- WHIP and WHEP -----------------------------------------------------------------------------


async def test_whip_creates_a_resource() -> None:
    async with House() as house:
        answer = await publish(house)
        assert answer.status == 201
        assert answer.headers["Content-Type"].startswith("application/sdp")
        assert answer.text == ANSWER
        assert answer.headers["ETag"].startswith('"')
        location = answer.headers["Location"]
        assert location.startswith("/whip/lobby/")
        assert len(location.rpartition("/")[2]) >= 32
        assert (await publish(house)).status == 409
        assert (await publish(house, "other")).status == 201
        # Neither of another room nor of the other protocol
        for wrong in (
            location.replace("lobby", "other"),
            location.replace("whip", "whep"),
            location.replace("/whip/lobby", "/session"),
        ):
            assert (await ask(house, "DELETE", wrong)).status == 404
        assert (await ask(house, "DELETE", location)).status == 200
        assert (await ask(house, "DELETE", location)).status == 404
        assert (await publish(house)).status == 201


async def test_whep_needs_a_publisher_and_ends_with_it() -> None:
    async with House() as house:
        early = await watch(house)
        assert early.status == 409
        assert int(early.headers["Retry-After"]) > 0
        published = await publish(house)
        answers = [await watch(house) for _ in range(3)]
        assert [answer.status for answer in answers] == [201] * 3
        assert house.peers[-1].sink.playing is house.peers[1].audio
        assert house.server.counts().viewers == 3
        assert (await ask(house, "DELETE", answers[0].headers["Location"])).status == 200
        assert house.server.counts().viewers == 2
        await ask(house, "DELETE", published.headers["Location"])
        await until(lambda: house.server.counts().viewers == 0)
        assert all(peer.closed.is_set() for peer in house.peers)


async def test_viewers_are_capped() -> None:
    async with House(max_viewers=2, max_pending_per_address=16) as house:
        await publish(house)
        assert [(await watch(house)).status for _ in range(3)] == [201, 201, 503]


async def test_endpoints_say_what_they_take() -> None:
    async with House() as house:
        for protocol in ("whip", "whep"):
            answer = await ask(house, "OPTIONS", f"/{protocol}/lobby")
            assert answer.status == 204
            assert answer.headers["Accept-Post"] == "application/sdp"
            for method in ("GET", "HEAD", "PUT", "PATCH"):
                async with (
                    aiohttp.ClientSession() as client,
                    client.request(method, f"{house.server.url}/{protocol}/lobby") as response,
                ):
                    assert response.status == 405
                    assert "POST" in response.headers["Allow"]


async def test_whip_refuses_what_it_cannot_answer() -> None:
    async with House() as house:
        body = offer("sendonly")
        assert (await ask(house, "POST", "/whip/lobby", data=body, headers=JSON)).status == 415
        assert (
            await ask(house, "POST", "/whip/lobby", data=b"x" * 70_000, headers=SDP)
        ).status == 413
        assert (await ask(house, "POST", "/whip/lobby", data=b"", headers=SDP)).status == 400
        for accept, status in (("application/json", 406), ("text/html, application/sdp", 201)):
            headers = {**SDP, "Accept": accept}
            assert (
                await ask(house, "POST", "/whip/a", data=body, headers=headers)
            ).status == status
        assert (
            await ask(house, "POST", "/whip/b", data=offer("recvonly"), headers=SDP)
        ).status == 422
        for room in ("a%20b", "..%2f..%2fetc", "%00", "x" * 65):
            answer = await ask(house, "POST", f"/whip/{room}", data=body, headers=SDP)
            assert answer.status == 404


async def test_trickle() -> None:
    async with House() as house:
        created = await publish(house)
        location, etag = created.headers["Location"], created.headers["ETag"]
        good = f"a=ice-ufrag:abcd\r\nm=video 9 RTP/AVP 0\r\na=mid:0\r\na={CANDIDATE}\r\n"

        async def trickle(body: str = good, kind: str = FRAGMENT, **headers: str) -> int:
            headers = {"Content-Type": kind, **headers}
            return (await ask(house, "PATCH", location, data=body, headers=headers)).status

        tagged = {"If-Match": etag}
        assert await trickle(**tagged) == 204
        assert house.peers[0].candidates == [(CANDIDATE, "0")]
        assert await trickle(**{"If-Match": '"other"'}) == 412
        assert await trickle() == 428
        assert await trickle(**{"If-Match": "*"}) == 422
        assert await trickle(kind="application/json", **tagged) == 415
        assert await trickle("nonsense", **tagged) == 400
        assert await trickle("x" * 20_000, **tagged) == 413
        assert len(house.peers[0].candidates) == 1
        await ask(house, "DELETE", location)
        assert await trickle(**tagged) == 404


async def test_ice_servers_are_told_to_those_let_in() -> None:
    from streamseg.webrtc.peer_options import IceServer, PeerOptions

    peer = PeerOptions(
        ice_servers=(
            IceServer(("stun:stun.example:3478",)),
            IceServer(("turn:turn.example:3478?transport=udp",), "user", 'se"cret'),
        )
    )
    async with House(peer=peer, tokens=(TOKEN,)) as house:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        answer = await ask(
            house, "POST", "/whip/a", data=offer("sendonly"), headers={**SDP, **headers}
        )
        links = answer.headers.getall("Link")
        assert links[0] == '<stun:stun.example:3478>; rel="ice-server"'
        assert 'username="user"; credential="se\\"cret"; credential-type="password"' in links[1]
        told = (await ask(house, "GET", "/config.json", headers=headers)).json["ice_servers"]
        assert told[1]["credential"] == 'se"cret'
        stranger = await ask(house, "OPTIONS", "/whip/a")
        assert "Link" not in stranger.headers


# -- rooms filled by the server ----------------------------------------------------------------


async def test_source_fills_a_room_until_it_ends() -> None:
    async with House() as house, anyio.create_task_group() as group:
        source = FakeSource(0)
        group.start_soon(house.server.fill_room, "lobby", source)
        await until(lambda: bool(house.started))
        assert house.started[0].source is source
        assert (await publish(house)).status == 409
        assert (await watch(house)).status == 201
        house.started[0].end()
        await until(lambda: house.server.counts().viewers == 0)
        assert house.server.rooms == 0


async def test_source_that_fails_tells_why() -> None:
    async with House() as house:
        error: list[BaseException] = []

        async def fill() -> None:
            with pytest.raises(SourceReadError) as caught:
                await house.server.fill_room("lobby", FakeSource(0))
            error.append(caught.value)

        async with anyio.create_task_group() as group:
            group.start_soon(fill)
            await until(lambda: bool(house.started))
            house.started[0].end(SourceReadError("the camera was unplugged"))
        assert str(error[0]) == "the camera was unplugged"
        assert house.server.counts().publishers == 0


async def test_filling_is_cancelled_cleanly() -> None:
    async with House() as house, anyio.create_task_group() as group:
        group.start_soon(house.server.fill_room, "lobby", FakeSource(0))
        await until(lambda: bool(house.started))
        await house.started[0].running.wait()
        group.cancel_scope.cancel()
    assert house.started[0].cancelled


# -- page, health, end -------------------------------------------------------------------------


async def test_every_answer_has_the_security_headers() -> None:
    async with House() as house:
        for method, path in (
            ("GET", "/"),
            ("GET", "/nothing"),
            ("POST", "/offer"),
            ("GET", "/healthz"),
        ):
            headers = (await ask(house, method, path)).headers
            policy = headers["Content-Security-Policy"]
            assert "default-src 'self'" in policy
            assert "unsafe" not in policy
            assert "frame-ancestors 'none'" in policy
            assert headers["X-Content-Type-Options"] == "nosniff"
            assert headers["Referrer-Policy"] == "no-referrer"
            assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
            assert "camera=(self)" in headers["Permissions-Policy"]
            assert "aiohttp" not in headers["Server"]


async def test_page_is_served_with_its_types_and_nothing_beside_it() -> None:
    async with House() as house:
        index = await ask(house, "GET", "/")
        assert index.headers["Content-Type"] == "text/html; charset=utf-8"
        for path in read_page():
            kind = (await ask(house, "GET", path)).headers["Content-Type"]
            assert kind.startswith("text/javascript") == path.endswith(".js")
        tag = {"If-None-Match": index.headers["ETag"]}
        assert (await ask(house, "GET", "/", headers=tag)).status == 304
        assert (await ask(house, "GET", "/app.js", headers=tag)).status == 200
        for said in (f"W/{tag['If-None-Match']}", f'"other", W/{tag["If-None-Match"]}', "*"):
            known = {"If-None-Match": said}
            assert (await ask(house, "GET", "/", headers=known)).status == 304
        for path in ("/server.py", "/../server.py", "/%2e%2e/server.py", "/page/", "//etc/passwd"):
            assert (await ask(house, "GET", path)).status == 404


async def test_health_and_metrics() -> None:
    async with House() as house:
        assert (await ask(house, "GET", "/healthz")).json == {"status": "ok"}
        assert (await ask(house, "GET", "/readyz")).status == 200
        house.why_not = "the model is being loaded"
        answer = await ask(house, "GET", "/readyz")
        assert answer.status == 503
        assert answer.json["error"] == "the model is being loaded"
        assert "streamseg_sessions" in (await ask(house, "GET", "/metrics")).text


async def test_closing_ends_all_calls_at_once() -> None:
    async with House(max_pending_per_address=16) as house:
        await publish(house)
        for _ in range(3):
            await call(house)
            await watch(house)
        tasks = len(asyncio.all_tasks())
        with anyio.fail_after(2):
            await house.server.aclose()
        assert all(peer.closed.is_set() for peer in house.peers)
        assert len(asyncio.all_tasks()) < tasks - 6
        await house.server.aclose()


async def test_a_peer_that_cannot_be_closed_holds_nobody_up(caplog) -> None:
    async def fail() -> None:
        raise RuntimeError("no")

    async with House() as house:
        house.prepare = lambda peer: setattr(peer, "aclose", fail)
        answer = await call(house)
        await ask(house, "DELETE", f"/session/{answer.json['session']}")
        assert house.server.counts().calls == 0
        assert "did not close well" in caplog.text


async def test_address_in_use_is_said() -> None:
    async with House() as house:
        port = int(house.server.url.rpartition(":")[2])
        other = House()
        object.__setattr__(other.server.options, "port", port)
        with pytest.raises(ConfigError, match="--port"):
            async with other:
                pass


async def test_certificate_that_is_none_is_said(tmp_path) -> None:
    for name in ("cert", "key"):
        (tmp_path / name).write_text("nonsense")
    with pytest.raises(ConfigError, match="PEM"):
        async with House(tls_cert=tmp_path / "cert", tls_key=tmp_path / "key"):
            pass


async def test_nothing_private_is_logged(caplog) -> None:
    caplog.set_level(logging.INFO)
    async with House(tokens=(TOKEN,)) as house:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        body = {"sdp": offer(), "type": "offer"}
        answer = await ask(house, "POST", "/offer", json=body, headers=headers)
        house.peers[0].end()
        await until(lambda: house.server.counts().calls == 0)
    assert "call 1 begins" in caplog.text
    assert "call 1 has ended: the other side has gone" in caplog.text
    for private in (TOKEN, "127.0.0.1", "192.0.2", "ufrag", answer.json["session"]):
        assert private not in caplog.text


async def until(condition: Any) -> None:
    with anyio.fail_after(5):
        while not condition():
            await anyio.sleep(0.002)


def test_fake_peer_keeps_the_contract() -> None:
    from streamseg.webrtc.peer import Peer

    for name in ("accept", "add_candidate", "send_message", "statistics", "aclose"):
        assert callable(getattr(Peer, name))
        assert callable(getattr(FakePeer, name))
