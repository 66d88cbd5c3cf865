"""Gathering: the addresses that a connection offers, its own and those of several servers.

aioice asks one STUN and one TURN server and says nothing of one that does not answer. Here all that
are configured are asked at once: one that is dead costs nothing as long as another one answers.
"""

from __future__ import annotations

import asyncio
import functools
import ipaddress
import logging
import socket
import ssl
from functools import partial
from typing import TYPE_CHECKING, Any

from aioice import stun, turn
from aioice.candidate import Candidate, candidate_foundation, candidate_priority
from aioice.ice import StunProtocol

from streamseg.webrtc.tuning_names import Names
from streamseg.webrtc.tuning_private import private_name

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Sequence

    from aioice import Connection

    from streamseg.webrtc.ice_urls import IceUrl
    from streamseg.webrtc.peer_options import IceServer

__all__ = ["Gathering", "address_towards", "server_context"]

_log = logging.getLogger(__name__)

_NAMES = Names()  # of the process: all connections ask the same servers
_PATIENCE_S = 2.0  # a question, its repetition after 0.5 s, and both again with credentials
_GRACE_S = 0.25  # for further servers, when one has answered
_CLOSE_S = 0.2
_LOOPBACK = "127.0.0.1"
_ANSWERS = {
    401: "refused the credentials (401): check username and credential",
    403: "forbids it (403)",
    437: "takes the connection for one that it has already (437)",
    486: "has no room for more of this user (486)",
    508: "has no capacity left (508)",
}


def address_towards(asker: str) -> str | None:
    """Return this machine's address from which another one is reached; None if that is not known.

    Args:
        asker: An IP address or network, or ``localhost``. No name is looked up.
    """
    if asker == "localhost":
        return _LOOPBACK
    try:
        target = ipaddress.ip_network(asker, strict=False).network_address
        family = socket.AF_INET if target.version == 4 else socket.AF_INET6
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((str(target), 9))  # chooses a route, sends nothing
            address = ipaddress.ip_address(probe.getsockname()[0].partition("%")[0])
    except (ValueError, OSError):
        return None
    if address.is_loopback:
        return _LOOPBACK
    return None if address.is_link_local or address.is_unspecified else str(address)


class _NamedContext(ssl.SSLContext):
    """Checks a server's certificate for its name, though it is called by its address."""

    name: str

    def wrap_bio(self, *args: Any, **options: Any) -> ssl.SSLObject:
        return super().wrap_bio(*args, **{**options, "server_hostname": self.name})


def _guard(protocol: StunProtocol) -> None:
    """Let go what cannot be read: anybody can send it, and a traceback each would be logged."""
    received = protocol.datagram_received

    def receive(data: bytes | str, address: tuple[Any, ...]) -> None:
        try:
            received(data, address)
        except Exception as exc:  # aioice checks few of the lengths in it
            _log.debug("a datagram could not be read: %s", type(exc).__name__)

    protocol.datagram_received = receive  # type: ignore[method-assign,assignment]


@functools.cache  # bounded by the configured servers
def server_context(name: str) -> ssl.SSLContext:
    """Return what checks that a server has a certificate for this name."""
    context = _NamedContext(ssl.PROTOCOL_TLS_CLIENT)  # wants a certificate, and looks at the name
    context.load_default_certs()
    context.name = name
    return context


class Gathering:
    """Finds the candidates of one connection.

    The machine's own addresses come first. To them each STUN server adds what they look like from
    outside, and each TURN server an address of its own; of several TURN servers the one that is
    named first is preferred. A connection waits until a TURN server, or without those a STUN
    server, has answered, and a moment longer for the others; two seconds at most.

    Args:
        servers: STUN and TURN servers.
        near: The address of this machine that comes first: there are publishers that try one only.
            A loopback address is offered only if it is this one.

    Attributes:
        failures: What was wrong with servers, a line each, without credentials.
    """

    def __init__(self, servers: Sequence[IceServer], near: str | None = None) -> None:
        self.failures: list[str] = []
        self._near = near
        self._stun = [url for server in servers for url in server.parsed if url.scheme == "stun"]
        self._turn = [(url, server) for server in servers for url in server.parsed if url.relays]
        self._relays: list[turn.TurnTransport] = []  # one a TURN server and transport
        self._asking: set[asyncio.Future[Candidate]] = set()  # bounded by the servers

    def take_over(self, connection: Connection) -> None:
        """Do the gathering of a connection of aioice that was made without servers."""
        own = connection.get_component_candidates
        # Of the one instance; aioice calls it by this name.
        connection.get_component_candidates = partial(  # type: ignore[method-assign]
            self._gather, connection, own
        )

    async def _gather(
        self,
        connection: Connection,
        own: Callable[..., Awaitable[list[Candidate]]],
        component: int,
        addresses: list[str],
    ) -> list[Candidate]:
        ordered = list(dict.fromkeys([self._near, *addresses] if self._near else addresses))
        candidates = await own(component=component, addresses=ordered)
        for protocol in connection._protocols:
            _guard(protocol)
        hosts = [protocol for protocol in connection._protocols if self._is_host(protocol)]
        questions: list[tuple[bool, str, Coroutine[Any, Any, Candidate]]] = [
            (False, str(url), self._reflexive(protocol, url))
            for url in self._stun
            for protocol in hosts
        ]
        questions += [
            (True, str(url), self._relayed(connection, component, place, url, server))
            for place, (url, server) in enumerate(self._turn)
        ]
        if questions:
            known = {(each.host, each.port) for each in candidates}
            for found in await self._ask(questions):
                if (found.host, found.port) not in known:  # RFC 8445, 5.1.3
                    known.add((found.host, found.port))
                    candidates.append(found)
        return candidates

    @staticmethod
    def _is_host(protocol: StunProtocol) -> bool:
        address = ipaddress.ip_address(protocol.local_candidate.host)
        return (
            protocol.local_candidate.type == "host"
            and address.version == 4
            and not address.is_loopback
        )

    async def _ask(
        self, questions: Sequence[tuple[bool, str, Coroutine[Any, Any, Candidate]]]
    ) -> list[Candidate]:
        """Ask all servers at once; return what was found in time."""
        asked = {asyncio.ensure_future(work): (relay, name) for relay, name, work in questions}
        pending = set(asked)
        self._asking |= pending
        found: list[Candidate] = []
        answered: set[str] = set()
        loop = asyncio.get_running_loop()
        until_s = loop.time() + _PATIENCE_S
        enough = False
        try:
            while pending and loop.time() < until_s:
                done, pending = await asyncio.wait(
                    pending,
                    timeout=until_s - loop.time(),
                    return_when=asyncio.FIRST_COMPLETED,
                )
                for task in done:
                    relay, name = asked[task]
                    if task.cancelled():  # closed meanwhile
                        continue
                    if (error := task.exception()) is not None:
                        self._note(name, _reason(error))
                        continue
                    answered.add(name)
                    found.append(task.result())
                    if not enough and (relay or not self._turn):
                        enough = True
                        until_s = min(until_s, loop.time() + _GRACE_S)
        finally:
            for task in pending:
                task.cancel()
            if pending:
                await asyncio.wait(pending)
            self._asking.difference_update(asked)
        if not enough:
            late = {asked[task][1] for task in pending} - answered
            for name in sorted(late):
                self._note(name, f"did not answer within {_PATIENCE_S:g} s")
        return found

    def _note(self, server: str, reason: str) -> None:
        failure = f"{server} {reason}"
        if failure not in self.failures:  # one for each address of this machine
            self.failures.append(failure)
            _log.warning("the ICE server %s", failure)

    @staticmethod
    async def _reflexive(protocol: StunProtocol, url: IceUrl) -> Candidate:
        addresses = await _NAMES.addresses(url.host)
        own = [each for each in addresses if ipaddress.ip_address(each).version == 4]
        if not own:
            raise socket.gaierror(socket.EAI_ADDRFAMILY, "it has no IPv4 address")
        question = stun.Message(
            message_method=stun.Method.BINDING, message_class=stun.Class.REQUEST
        )
        answer, _ = await protocol.request(question, (own[0], url.port))
        host, port = answer.attributes["XOR-MAPPED-ADDRESS"]
        base = protocol.local_candidate
        return Candidate(
            foundation=candidate_foundation("srflx", "udp", base.host),
            component=base.component,
            transport=base.transport,
            priority=candidate_priority(base.component, "srflx"),
            host=host,
            port=port,
            type="srflx",
            related_address=base.host,
            related_port=base.port,
        )

    @staticmethod
    async def _connect(
        connection: Connection, url: IceUrl, server: IceServer
    ) -> tuple[turn.TurnTransport, StunProtocol]:
        addresses = await _NAMES.addresses(url.host)
        for place, address in enumerate(addresses):
            try:
                return await turn.create_turn_endpoint(
                    lambda: StunProtocol(connection),
                    server_addr=(address, url.port),
                    username=server.username,
                    password=server.credential,
                    ssl=server_context(url.host) if url.tls else None,
                    transport=url.transport,
                )
            except OSError:
                if place == len(addresses) - 1:
                    raise
        raise AssertionError("a name has an address")

    async def _relayed(
        self, connection: Connection, component: int, place: int, url: IceUrl, server: IceServer
    ) -> Candidate:
        transport, protocol = await self._connect(connection, url, server)
        _guard(protocol)
        self._relays.append(transport)
        host, port = transport.get_extra_info("sockname")
        mapped_host, mapped_port = transport.get_extra_info("related_address")
        protocol.local_candidate = Candidate(
            foundation=candidate_foundation("relay", "udp", host),
            component=component,
            transport="udp",
            priority=candidate_priority(component, "relay", 65_535 - place),
            host=host,
            port=port,
            type="relay",
            related_address=mapped_host,
            related_port=mapped_port,
        )
        connection._protocols.append(protocol)
        return protocol.local_candidate

    async def close(self) -> None:
        """Give back what closing the connection has left.

        aioice asks a TURN server for a minute to forget an allocation; one that does not answer
        forgets it by itself, after ten.
        """
        asking = tuple(self._asking)
        for question in asking:
            question.cancel()
        if asking:
            await asyncio.wait(asking, timeout=_CLOSE_S)
        closing = []
        for relay in self._relays:
            relay.close()
            task = getattr(relay, private_name(turn.TurnTransport, "close_task"))
            if not task.done():
                closing.append(task)
        if closing:
            await asyncio.wait(closing, timeout=_CLOSE_S)
            for task in closing:
                task.cancel()
            await asyncio.wait(closing, timeout=_CLOSE_S)
        self._relays.clear()


def _reason(error: BaseException) -> str:
    """Return what was wrong with a server, without anything that it wrote."""
    if isinstance(error, stun.TransactionFailed):
        code = error.response.error_code
        return _ANSWERS.get(code or 0, f"answered with error {code}")
    if isinstance(error, stun.TransactionTimeout | TimeoutError):
        return "did not answer"
    if isinstance(error, socket.gaierror):
        return "has a name that is not known"
    if isinstance(error, OSError):
        return f"cannot be reached: {(error.strerror or type(error).__name__).lower()}"
    return f"cannot be used ({type(error).__name__})"
