"""Networks that lose packets, that change, that go and come back, and one that is only ``lo``."""

from __future__ import annotations

import asyncio
import statistics
import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import psutil
import pytest

from streamseg.frames import Frame, StreamInfo
from streamseg.sources.reconnect import Backoff, Reconnect
from streamseg.webrtc.client import WhepSource, WhipSink
from tests.support.calling import SAMPLE
from tests.support.chromium import Chromium, make_camera, picture_of, require_chromium
from tests.support.namespaces import Network, metric, require_namespaces, room_filled
from tests.support.serving import Serving
from tests.support.webrtc_peers import descriptors, picture, read_number

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [pytest.mark.integration, pytest.mark.timeout(60)]

SERVER, CLIENT, ELSEWHERE = "10.77.1.1", "10.77.1.2", "10.77.1.3"
RATE = 25.0
ROOM = ("--effect", "none", "--source", f"test:640x360@{RATE:g}", "--room", "lobby")
CLIP = ("--effect", "none", "--source", str(SAMPLE), "--loop", "--room", "lobby")
RETRY = partial(Backoff, Reconnect(first_delay_s=0.25, max_delay_s=1.0, give_up_after_s=30.0))


class Two:
    """A server and a client, with a cable between them."""

    def __init__(self, network: Network, *, delay_s: float = 0.0) -> None:
        self.server, self.client = network.add("server"), network.add("client")
        ends = (self.server, f"{SERVER}/24", self.client, f"{CLIENT}/24")
        if delay_s:
            network.link_far(*ends, delay_s=delay_s)
        else:
            network.link(*ends)

    def lose(self, share: float) -> None:
        for place in (self.server, self.client):
            place.lose(share)


@pytest.fixture(scope="module")
def two() -> Iterator[Two]:
    require_namespaces()
    with Network() as network:
        yield Two(network)


@pytest.fixture(scope="module")
def server(two: Two) -> Iterator[Serving]:
    with two.server.serving(*ROOM, "--host", SERVER, "--behind-proxy") as running:
        two.server.run(room_filled, running.url)
        yield running


class Viewing:
    """Notes when each picture came, and which time it has."""

    def __init__(self) -> None:
        self.came_s: list[float] = []
        self.pts_s: list[float] = []

    async def watch(self, source: WhepSource, seconds: float) -> None:
        with anyio.move_on_after(seconds):
            while True:
                self.note(await source.receive())

    def note(self, frame: Frame) -> None:
        assert frame.pts_s is not None
        self.came_s.append(time.monotonic())
        self.pts_s.append(frame.pts_s)

    @property
    def longest_gap_s(self) -> float:
        return max(b - a for a, b in zip(self.came_s, self.came_s[1:], strict=False))

    @property
    def lateness_s(self) -> list[float]:
        """How long after its own time each picture came, but for a constant."""
        return [came - pts for came, pts in zip(self.came_s, self.pts_s, strict=True)]


@pytest.fixture(scope="module")
def film(two: Two) -> Iterator[Serving]:
    """A server with a real clip in its room, at 2.5 Mbit/s: ten packets a picture."""
    with two.server.serving(*CLIP, "--host", SERVER, "--behind-proxy") as running:
        two.server.run(room_filled, running.url)
        yield running


async def watch_losing(url: str, two: Two, share: float, seconds: float) -> None:
    """Watch the clip, 25 pictures a second of it, and look at how it fares."""
    async with WhepSource(f"whep:{url}/whep/lobby") as source:
        before = Viewing()
        await before.watch(source, 2.0)
        seen = Viewing()
        two.lose(share)
        await seen.watch(source, seconds)
        told = source.connection()
    # A busy machine makes fewer pictures of its own, which is not what this is about.
    whole = len(before.came_s) / 2.0
    assert len(seen.came_s) / seconds > (min(15.0, 0.7 * whole) if share < 0.05 else 0.5 * whole)
    assert seen.longest_gap_s < 2.0
    half = len(seen.came_s) // 2
    late = seen.lateness_s
    assert abs(statistics.median(late[half:]) - statistics.median(late[:half])) < 0.2
    # Some 300 packets a second where there is time for all pictures.
    assert told.packets_recovered > 0.5 * share * seconds * 100


@pytest.mark.parametrize("share", [0.02, 0.1])
def test_lost_packets_are_asked_for_again(two: Two, film: Serving, share: float) -> None:
    try:
        two.client.run(watch_losing, film.url, two, share, 6.0)
    finally:
        two.lose(0)


def test_lost_packets_on_a_long_way() -> None:
    """An answer takes 80 ms, and a tenth of the questions and answers is lost, too."""
    require_namespaces()
    with Network() as network:
        two = Two(network, delay_s=0.04)
        with two.server.serving(*CLIP, "--host", SERVER, "--behind-proxy") as running:
            two.server.run(room_filled, running.url)
            two.client.run(watch_losing, running.url, two, 0.1, 6.0)


def test_connection_comes_about_where_a_tenth_is_lost(two: Two, film: Serving) -> None:
    """Of offers, checks and handshakes, too; and the publisher's pictures arrive."""

    async def scenario() -> None:
        two.lose(0.1)
        sink = WhipSink(f"whip:{film.url}/whip/other")
        await sink.open(StreamInfo("a", 320, 240, "yuv420p", Fraction(1, 90_000), live=True))
        async with sink, asyncio.TaskGroup() as group:
            sending = group.create_task(send(sink))
            async with asyncio.timeout(10):
                while await viewed(film.url, "other") is None:
                    await asyncio.sleep(0.1)
            sending.cancel()

    async def viewed(url: str, room: str) -> int | None:
        async with WhepSource(f"whep:{url}/whep/{room}") as source:
            return read_number((await source.receive()).video)

    try:
        two.client.run(scenario)
    finally:
        two.lose(0)


async def send(sink: WhipSink) -> None:
    """Send numbered pictures until cancelled."""
    number = 0
    while True:
        await sink.send(Frame(picture(320, 240, number % 4000), number, time.monotonic()))
        number += 1
        await asyncio.sleep(0.04)


def footprint(server: Serving) -> dict[str, int]:
    """What this thread's loop, this process and the server hold."""
    process = psutil.Process(server.pid)
    return {
        "tasks": len(asyncio.all_tasks()),
        # But for the workers of the loop's own pool, of which there come to be a few.
        "threads": sum("asyncio_" not in thread.name for thread in threading.enumerate()),
        "descriptors": descriptors(),
        "server's descriptors": process.num_fds(),
        "server's threads": process.num_threads(),
    }


async def back_to(before: dict[str, int], server: Serving) -> None:
    """Wait until not more is held than before."""
    more = {"not": 1}
    with anyio.move_on_after(5):
        while more:
            now = footprint(server)
            more = {
                what: count
                for what, count in now.items()
                if count > before[what] + SLACK.get(what, 0)
            }
            await asyncio.sleep(0.1)
    assert not more, f"{more}, before it was {before}: {threading.enumerate()}"


# Workers of the server's pools, which stay for the next call, and a connection whose client has
# another address: it is closed when it was idle for 15 s.
SLACK = {"server's threads": 4, "server's descriptors": 2}
SESSIONS = ("publisher", "viewer")


async def sessions(url: str) -> list[float]:
    return [await metric(url, f'streamseg_sessions{{kind="{kind}"}}') for kind in SESSIONS]


async def gone(url: str, seconds: float) -> float:
    """Wait until the server has ended the client's sessions; its own source stays."""
    begun_s = time.monotonic()
    async with asyncio.timeout(seconds):
        while await sessions(url) != [1, 0]:
            await asyncio.sleep(0.1)
    return time.monotonic() - begun_s


class Caller:
    """A viewer of the room and a publisher of another one, both of which come back."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.source = WhepSource(f"whep:{url}/whep/lobby", retry=RETRY)
        self.sink = WhipSink(f"whip:{url}/whip/other", retry=RETRY)
        self.seen = Viewing()

    async def __aenter__(self) -> Caller:
        await self.source.open()
        await self.sink.open(StreamInfo("a", 320, 240, "yuv420p", Fraction(1, 90_000), live=True))
        self._tasks = [
            asyncio.create_task(self.seen.watch(self.source, 60)),
            asyncio.create_task(send(self.sink)),
        ]
        return self

    async def __aexit__(self, *exc: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)
        await self.source.aclose()
        await self.sink.aclose()

    async def lives(self, seconds: float) -> float:
        """Wait until pictures come, and the server has both sessions; return how long it took."""
        begun_s = time.monotonic()
        count = len(self.seen.came_s)
        async with asyncio.timeout(seconds):
            while len(self.seen.came_s) < count + 10:
                for task in self._tasks:
                    assert not task.done(), task
                await asyncio.sleep(0.05)
            while await sessions(self.url) != [2, 1]:
                await asyncio.sleep(0.05)
        return time.monotonic() - begun_s


def test_link_that_is_down_for_a_moment_changes_nothing(two: Two, server: Serving) -> None:
    async def scenario() -> None:
        async with Caller(server.url) as caller:
            await caller.lives(10)
            two.client.link_up(False)
            await asyncio.sleep(2)
            two.client.link_up(True)
            assert await caller.lives(3) < 3
            assert caller.source.statistics().reconnects == 0
            assert caller.sink.statistics().reconnects == 0
            assert caller.seen.longest_gap_s < 3.5

    two.client.run(scenario)


def test_link_that_is_down_for_long(two: Two, server: Serving) -> None:
    """The server ends the sessions; both clients come back by themselves, and nothing is left."""

    async def scenario() -> None:
        async with Caller(server.url) as caller:
            await caller.lives(10)
            before = footprint(server)
            two.client.link_up(False)
            assert await asyncio.to_thread(two.server.run, gone, server.url, 10) < 10
            two.client.link_up(True)
            assert await caller.lives(8) < 8
            await back_to(before, server)
            assert caller.source.statistics().reconnects == 1
            assert caller.sink.statistics().reconnects == 1
            assert caller.sink.statistics().dropped["reconnecting"] >= 1
            times = caller.seen.pts_s
            assert times == sorted(set(times))
            # The gap of the time stamps is as long as the gap was.
            late = caller.seen.lateness_s
            assert abs(late[-1] - late[0]) < 0.5

    two.client.run(scenario)
    two.server.run(gone, server.url, 10)


def test_client_with_a_new_address(two: Two, server: Serving) -> None:
    async def scenario() -> None:
        async with Caller(server.url) as caller:
            await caller.lives(10)
            before = footprint(server)
            two.client.readdress(f"{ELSEWHERE}/24")
            changed_s = time.monotonic()
            async with asyncio.timeout(20):
                while not (
                    caller.source.statistics().reconnects and caller.sink.statistics().reconnects
                ):
                    await asyncio.sleep(0.1)
            await caller.lives(5)
            assert time.monotonic() - changed_s < 15
            await back_to(before, server)

    try:
        two.client.run(scenario)
    finally:
        two.client.readdress(f"{CLIENT}/24")
    two.server.run(gone, server.url, 10)


def test_machine_without_a_network() -> None:
    """Only ``lo`` is up: the server on it can be called from the same machine, both ways."""
    require_namespaces()

    async def scenario(url: str) -> None:
        await room_filled(url)
        async with Caller(url) as caller:
            await caller.lives(10)
            connection = caller.source._peer._connection
            assert connection is not None
            answer = connection.remoteDescription.sdp
            found = [line for line in answer.split("\r\n") if line.startswith("a=candidate")]
            assert {line.split()[4] for line in found} == {"127.0.0.1"}

    with Network() as network:
        alone = network.add("alone")
        with alone.serving(*ROOM) as run:
            assert run.url.startswith("http://127.0.0.1:")
            alone.run(scenario, run.url)


@pytest.mark.browser
@pytest.mark.parametrize("network", [True, False], ids=["a network", "only lo"])
def test_browser_on_the_same_machine(network: bool, tmp_path: Path) -> None:
    """The server is started as its user would, and so is the browser where there is a network.

    Without any, Chromium has no candidate at all unless it is told that loopback will do. With one,
    the page makes a new call by itself when the machine gets another address.
    """
    require_namespaces()
    require_chromium()
    browser = Chromium(camera=make_camera(SAMPLE, tmp_path / "camera.y4m"))
    if network:
        browser._flags.remove("--allow-loopback-in-peer-connection")

    def connected(page: Page) -> None:
        page.locator("#status[data-state=connected]").wait_for()
        page.locator("#veil").wait_for(state="hidden")
        assert picture_of(page, "processed").size

    def scenario(url: str) -> None:
        with browser, browser.page(url, expected="net::ERR_" if network else "") as page:
            page.get_by_role("button", name="Start").click()
            connected(page)
            if network:
                here.readdress(f"{ELSEWHERE}/24")
                changed_s = time.monotonic()
                page.locator("#status[data-state=connected]").wait_for(state="detached")
                connected(page)
                assert time.monotonic() - changed_s < 15

    with Network() as places:
        here = places.add("here")
        if network:
            places.link(here, f"{CLIENT}/24", places.add("there"), f"{SERVER}/24")
        with here.serving("--effect", "none") as run:
            here.call(scenario, run.url)
