"""Connections where no packet gets through directly: by TURN servers, from the configuration."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio
import pytest

from streamseg.errors import SourceOpenError
from streamseg.webrtc.client import WhepSource
from streamseg.webrtc.peer import Peer
from streamseg.webrtc.peer_options import IceServer, PeerOptions
from tests.support.namespaces import Namespace, Network, require_namespaces, room_filled
from tests.support.webrtc_peers import descriptors

pytestmark = [pytest.mark.integration, pytest.mark.timeout(60)]

SERVER, ROUTER, FAR_ROUTER, CLIENT = "10.77.1.2", "10.77.1.1", "10.77.2.1", "10.77.2.2"
USER, CREDENTIAL = "relay-user", "relay-secret-4711"
GOOD = f"turn:{ROUTER}:3478?transport=udp"
DEAD = f"turn:{ROUTER}:3999?transport=udp"


@dataclass
class Blocked:
    """A server and a client with a router between that lets TCP through, but no UDP."""

    server: Namespace
    router: Namespace
    client: Namespace


@pytest.fixture(scope="module")
def blocked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Blocked]:
    require_namespaces("turnserver")
    with Network() as network:
        places = Blocked(*(network.add(name) for name in ("server", "router", "client")))
        network.link(places.server, f"{SERVER}/24", places.router, f"{ROUTER}/24")
        network.link(places.client, f"{CLIENT}/24", places.router, f"{FAR_ROUTER}/24")
        places.server.command("ip", "route", "add", "default", "via", ROUTER)
        places.client.command("ip", "route", "add", "default", "via", FAR_ROUTER)
        places.router.set("net/ipv4/ip_forward", 1)
        places.router.command("iptables", "-A", "FORWARD", "-p", "udp", "-j", "DROP")
        with coturn(places.router, tmp_path_factory.mktemp("coturn")):
            yield places


@contextmanager
def coturn(place: Namespace, folder: Path, port: int = 3478) -> Iterator[subprocess.Popen[str]]:
    """Run coturn on the server's side of the router."""
    log = folder / "log"
    process = place.start(
        *("turnserver", "-n", "--no-tls", "--no-dtls", "--no-cli", "--lt-cred-mech"),
        *("-L", ROUTER, "-E", ROUTER, "-p", str(port), "-u", f"{USER}:{CREDENTIAL}", "-r", "test"),
        *("--min-port", "50000", "--max-port", "50100", "--allow-loopback-peers"),
        *("--log-file", str(log), "--simple-log", "--pidfile", str(folder / "pid")),
        *("--db", str(folder / "db"), "-v"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=folder,
    )
    try:
        until_s = time.monotonic() + 10
        while f":{port} " not in place.command("ss", "-lun"):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < until_s, "coturn does not listen"
            time.sleep(0.05)
        yield process
    finally:
        process.terminate()
        process.wait(10)


def config(folder: Path, *servers: tuple[str, str]) -> str:
    """Write a scenario with these TURN servers, each with a credential; return its path."""
    text = "[effect]\nname = 'none'\n"
    for url, credential in servers:
        text += f"[[webrtc.ice_server]]\nurls = ['{url}']\nusername = '{USER}'\n"
        text += f"credential = '{credential}'\n"
    path = folder / "serve.toml"
    path.write_text(text)
    return str(path)


OPTIONS = ("--host", SERVER, "--behind-proxy", "--source", "test:320x240@25", "--room", "lobby")


async def watch(url: str, options: PeerOptions) -> tuple[float, list[tuple[str, str]]]:
    """Watch the room; return when the first picture came, and the candidates that were chosen."""
    await room_filled(url)
    begun_s = time.monotonic()
    async with WhepSource(f"whep:{url}/whep/lobby", options=options) as viewer:
        first_s = time.monotonic() - begun_s
        with anyio.fail_after(15):
            for _ in range(25):
                await viewer.receive()
        connection = viewer._peer._connection
        assert connection is not None
        transports = {receiver.transport.transport for receiver in connection.getReceivers()}
        pairs = [
            (pair.local_candidate.type, pair.remote_candidate.host)
            for transport in transports
            for pair in transport._connection._nominated.values()
        ]
    return first_s, pairs


def test_media_flows_by_turn_alone(blocked: Blocked, tmp_path: Path) -> None:
    """The client knows no server: it sends to the address that the server has at coturn."""
    before = blocked.router.dropped("FORWARD")
    with blocked.server.serving(*OPTIONS, "--config", config(tmp_path, (GOOD, CREDENTIAL))) as run:
        first_s, pairs = blocked.client.run(watch, run.url, PeerOptions())
    assert first_s < 8
    assert [remote for _, remote in pairs] == [ROUTER]
    assert blocked.router.dropped("FORWARD") > before  # they did try
    assert not run.said


def test_client_brings_the_turn_server(blocked: Blocked, tmp_path: Path) -> None:
    """The server knows none; of the client's two the first is dead."""
    servers = tuple(IceServer((url,), USER, CREDENTIAL) for url in (DEAD, GOOD))
    with blocked.server.serving(*OPTIONS, "--config", config(tmp_path)) as run:
        first_s, pairs = blocked.client.run(watch, run.url, PeerOptions(ice_servers=servers))
    assert first_s < 8
    assert [local for local, _ in pairs] == ["relay"]


def test_next_server_is_used_where_the_first_is_dead(blocked: Blocked, tmp_path: Path) -> None:
    servers = ((DEAD, CREDENTIAL), (GOOD, CREDENTIAL))
    with blocked.server.serving(*OPTIONS, "--config", config(tmp_path, *servers)) as run:
        first_s, pairs = blocked.client.run(watch, run.url, PeerOptions())
    assert first_s < 8
    assert [remote for _, remote in pairs] == [ROUTER]


def test_wrong_credentials_of_the_server(blocked: Blocked, tmp_path: Path) -> None:
    """The call fails in time, and the operator reads why."""
    wrong = config(tmp_path, (GOOD, "wrong-secret-0815"))
    with (
        blocked.server.serving(*OPTIONS, "--config", wrong) as run,
        pytest.raises(SourceOpenError, match="no connection came about within 3 s"),
    ):
        blocked.client.run(watch, run.url, PeerOptions(handshake_timeout_s=3.0))
    said = "".join(run.said)
    assert f"{GOOD} refused the credentials (401)" in said
    assert "0815" not in said
    assert USER not in said


async def offer(*servers: IceServer) -> tuple[float, str, list[str]]:
    """Make an offer; return how long it took, itself, and what was wrong with servers."""
    begun_s = time.monotonic()
    async with Peer(PeerOptions(ice_servers=servers), name="a") as peer:
        sdp = await peer.offer(sends=True, receives=True)
        took_s = time.monotonic() - begun_s
        assert peer._connection is not None
        return took_s, sdp, peer._connection.ice_failures


def test_wrong_credentials_of_the_client(blocked: Blocked) -> None:
    server = IceServer((GOOD,), USER, "wrong-secret-0815")
    took_s, sdp, troubles = blocked.client.run(offer, server)
    assert took_s < 1
    assert "typ relay" not in sdp
    assert troubles == [f"{GOOD} refused the credentials (401): check username and credential"]


def test_dead_servers_cost_a_moment_if_one_answers(blocked: Blocked) -> None:
    stun = IceServer((f"stun:{ROUTER}:3998", "stun:192.0.2.77"))
    dead = IceServer((DEAD,), USER, CREDENTIAL)
    good = IceServer((GOOD, f"turn:{ROUTER}:3478?transport=tcp"), USER, CREDENTIAL)
    took_s, sdp, troubles = blocked.client.run(offer, stun, dead, good)
    assert took_s < 1
    assert sdp.count("typ relay") >= 2  # over UDP and over TCP
    assert troubles == []
    took_s, sdp, troubles = blocked.client.run(offer, stun, dead)
    assert took_s < 3
    assert "typ host" in sdp
    assert len(troubles) == 3
    assert all("did not answer" in trouble for trouble in troubles)


def test_turn_server_that_dies_holds_nothing_up(blocked: Blocked, tmp_path: Path) -> None:
    """aioice would ask it for a minute to forget what it gave."""

    async def scenario() -> None:
        with coturn(blocked.router, tmp_path, 3477) as process:
            server = IceServer((GOOD.replace("3478", "3477"),), USER, CREDENTIAL)
            peer = Peer(PeerOptions(ice_servers=(server,)), name="a")
            before = descriptors()
            assert "typ relay" in await peer.offer(sends=True, receives=True)
            process.kill()
            begun_s = time.monotonic()
            await peer.aclose()
            assert time.monotonic() - begun_s < 2
            assert asyncio.all_tasks() == {asyncio.current_task()}
            assert descriptors() <= before

    blocked.client.run(scenario)
