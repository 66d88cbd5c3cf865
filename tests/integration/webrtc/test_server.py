"""The whole server: real connections, the real model, real pictures."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import ssl
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import anyio
import numpy as np
import psutil
import pytest
from numpy.typing import NDArray

from streamseg.errors import SourceOpenError
from streamseg.session.serve import ServeSession
from streamseg.session.serve_config import load_serve_config
from streamseg.webrtc.client import WhepSource, WhipSink
from tests.support.calling import Caller, sample_pictures
from tests.support.certificates import write_certificate
from tests.unit.webrtc.fakes import OFFERS
from tests.unit.webrtc.test_signals import mutated
from tests.unit.webrtc.test_uploads import picture as upload

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

NAVY = (0, 0, 128)
SDP = {"Content-Type": "application/sdp"}


async def serving(**overrides: Any) -> ServeSession:
    given = {
        "server.port": 0,
        **{key.replace("__", "."): value for key, value in overrides.items()},
    }
    return ServeSession(load_serve_config(None, given))


@pytest.fixture(autouse=True)
async def nothing_left_behind() -> AsyncIterator[None]:
    tasks, threads = len(asyncio.all_tasks()), threading.active_count()
    yield
    # anyio's worker threads stay for the next; all others have gone, and so have the model's.
    await until(lambda: len(asyncio.all_tasks()) <= tasks)
    await until(lambda: not psutil.Process().children(recursive=True))
    await until(lambda: len(named_threads()) <= threads)


def named_threads() -> list[threading.Thread]:
    pools = ("AnyIO", "asyncio_")
    return [each for each in threading.enumerate() if not each.name.startswith(pools)]


async def until(condition: Any, seconds: float = 10.0) -> None:
    with anyio.fail_after(seconds):
        while not condition():
            await anyio.sleep(0.02)


def share_of(rgb: NDArray[np.uint8], colour: tuple[int, int, int]) -> float:
    """Which share of a picture has about this colour."""
    away = np.abs(rgb.astype(int) - np.array(colour)).max(axis=2)
    return float((away < 40).mean())


async def test_call_has_its_background_replaced_from_the_first_picture_on() -> None:
    async with await serving() as session:
        raw = sample_pictures(1)[0].to_ndarray(format="rgb24")
        assert share_of(raw, NAVY) < 0.05
        async with Caller(
            session.server.url, effect="replace", options={"background": "navy"}
        ) as caller:
            pictures = await caller.next_frames(30)
            # Hidden until there is a mask, then with the person: the room is never seen.
            assert share_of(pictures[0], NAVY) > 0.95
            assert min(share_of(rgb, NAVY) for rgb in pictures) > 0.4
            await session.model.wait_loaded()
            # Until this, the model may have been loading
            async with asyncio.timeout(10):
                while share_of((await caller.next_frames(1))[0], NAVY) > 0.95:
                    pass
            person = (await caller.next_frames(1))[0]
            assert 0.4 < share_of(person, NAVY) < 0.9

            assert await caller.ask({"mask": True}) == {"mask": True}
            await caller.next_frames(10)
            mask = (await caller.next_frames(1))[0].astype(int)
            assert np.abs(mask - mask[..., :1]).max() < 40  # grey
            assert 0.1 < float((mask[..., 1] > 200).mean()) < 0.6
            assert await caller.ask({"mask": False}) == {"mask": False}

            assert await caller.ask({"bypass": True}) == {"bypass": True}
            await caller.next_frames(10)
            assert share_of((await caller.next_frames(1))[0], NAVY) < 0.05

            refused = await caller.ask(
                {"effect": "replace", "options": {"background": "/etc/passwd"}}
            )
            assert "error" in refused
            told = await caller.figures()
            assert told["fps"] > 1
            assert told["codec"] == "H264"

            async with (
                aiohttp.ClientSession() as client,
                client.delete(f"{session.server.url}/session/{caller.session}") as response,
            ):
                assert response.status == 200
            await asyncio.wait_for(caller.ended.wait(), 5)
        assert session.server.counts().calls == 0
        statistics = session.statistics()  # of those that have ended, too
        assert statistics.frames_out > 50
        assert statistics.hidden > 0


async def test_the_path_of_the_configured_background_is_told_to_nobody(tmp_path: Path) -> None:
    background = tmp_path / "secret room.png"
    background.write_bytes(upload())
    given = {"effect__name": "replace", "effect__background": str(background)}
    async with await serving(**given) as session, aiohttp.ClientSession() as client:
        async with client.get(f"{session.server.url}/config.json") as response:
            told = (await response.json())["effect"]
            assert told == {"name": "replace", "options": {}, "files": ["background"]}
        background.unlink()
        refused = await refusal(session)
        assert "neither a file that exists" in refused
        assert "secret" not in refused
        async with Caller(session.server.url, effect="none") as caller:
            answer = await caller.ask({"effect": "replace", "options": {}})
            assert "neither a file that exists" in answer["error"]
            assert "secret" not in answer["error"]


async def refusal(session: ServeSession, **wish: Any) -> str:
    """What a good offer is refused with."""
    sdp = (OFFERS / "chromium.sdp").read_bytes().decode()
    offer = {"sdp": sdp, "type": "offer", **wish}
    async with (
        aiohttp.ClientSession() as client,
        client.post(f"{session.server.url}/offer", json=offer) as response,
    ):
        assert response.status == 422
        return str((await response.json())["error"])


async def test_the_operator_may_have_an_effect_for_each_class_and_strangers_may_not() -> None:
    classes = {"BACKGROUND": {"name": "replace", "background": "navy"}}
    async with await serving(effect__name="per-class", effect__classes=classes) as session:
        await session.model.wait_loaded()
        wish = {"effect": "per-class", "options": {"classes": classes}}
        assert "no effect of this name" in await refusal(session, **wish)
        async with Caller(session.server.url) as caller:
            async with asyncio.timeout(10):
                while not 0.4 < share_of((await caller.next_frames(1))[0], NAVY) < 0.9:
                    pass


async def test_first_picture_of_a_warm_server_comes_within_a_second() -> None:
    async with await serving() as session:
        await session.model.wait_loaded()
        begun = time.monotonic()
        async with Caller(session.server.url) as caller:
            await asyncio.wait_for(caller.first.wait(), 10)
            assert time.monotonic() - begun < 1.0


async def test_whip_to_whep_with_two_viewers() -> None:
    async with await serving(effect__name="replace", effect__background="navy") as session:
        url = session.server.url
        publisher = WhipSink(f"whip:{url}/whip/lobby")
        viewers = [WhepSource(f"whep:{url}/whep/lobby") for _ in range(2)]
        with pytest.raises(SourceOpenError):  # nobody publishes yet
            await WhepSource(f"{url}/whep/empty").open()
        async with publish(publisher):
            async with viewers[0], viewers[1]:
                for viewer in viewers:
                    for _ in range(10):
                        frame = await asyncio.wait_for(viewer.receive(), 10)
                        assert share_of(frame.video.to_ndarray(format="rgb24"), NAVY) > 0.4
                counts = session.server.counts()
                assert (counts.publishers, counts.viewers) == (1, 2)
            await until(lambda: session.server.counts().viewers == 0)
        await until(lambda: session.server.counts().publishers == 0)


class publish:
    """Sends the sample to a sink while the block runs."""

    def __init__(self, sink: WhipSink) -> None:
        self.sink = sink
        self.task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> None:
        from streamseg.frames import Frame, StreamInfo

        pictures = sample_pictures()
        from fractions import Fraction

        base = Fraction(1, 90_000)
        await self.sink.open(StreamInfo("sample", 640, 360, "yuv420p", base, live=True))

        async def send() -> None:
            for index in range(10_000):
                video = pictures[index % len(pictures)].reformat(640, 360, "yuv420p")
                video.pts, video.time_base = index * 3600, base
                await self.sink.send(Frame(video, index, time.monotonic()))
                await asyncio.sleep(0.04)

        self.task = asyncio.create_task(send())

    async def __aexit__(self, *args: object) -> None:
        assert self.task is not None
        self.task.cancel()
        await asyncio.wait([self.task])
        await self.sink.aclose()


async def test_source_of_the_server_fills_a_room() -> None:
    room = [{"name": "lobby", "source": {"uri": "test:640x360@25"}}]
    async with await serving(room=room) as session, anyio.create_task_group() as group:
        group.start_soon(session.run)
        await until(lambda: session.server.rooms == 1)
        async with WhepSource(f"{session.server.url}/whep/lobby") as viewer:
            times = [(await asyncio.wait_for(viewer.receive(), 10)).pts_s for _ in range(10)]
        assert times == sorted(times)
        session.stop()


async def test_source_that_cannot_be_opened_ends_the_server() -> None:
    room = [{"name": "lobby", "source": {"uri": "/no/such/clip.mp4"}}]
    async with await serving(room=room) as session:
        with pytest.raises(SourceOpenError), anyio.fail_after(10):
            await session.run()


async def test_mutated_offers_beside_a_live_call(caplog) -> None:
    """500 of them: none a 500, nothing leaks, and the call does not notice."""
    chance = random.Random(7)
    limits = {"limits__offers_per_minute": 10_000, "limits__pending_per_address": 500}
    async with await serving(**limits, limits__sessions=600) as session:
        url = session.server.url
        await session.model.wait_loaded()
        async with Caller(url) as caller, aiohttp.ClientSession() as client:
            await caller.next_frames(10)
            begun, frames = time.monotonic(), caller.frames
            await caller.next_frames(50)
            alone = (caller.frames - frames) / (time.monotonic() - begun)
            fds = psutil.Process().num_fds()
            tasks = len(asyncio.all_tasks())
            statuses: dict[int, int] = {}
            begun, frames = time.monotonic(), caller.frames
            originals = [path.read_bytes().decode() for path in sorted(OFFERS.glob("*.sdp"))]
            for number in range(500):
                sdp = mutated(chance.choice(originals), chance)
                if number % 2:
                    post = client.post(f"{url}/offer", json={"sdp": sdp, "type": "offer"})
                else:
                    post = client.post(f"{url}/whip/r{number}", data=sdp.encode(), headers=SDP)
                async with post as response:
                    status, text = response.status, await response.text()
                statuses[status] = statuses.get(status, 0) + 1
                if status == 200:
                    await client.delete(f"{url}/session/{(await response.json())['session']}")
                elif status == 201:
                    await client.delete(f"{url}{response.headers['Location']}")
                else:
                    assert 400 <= status < 500, text
                await asyncio.sleep(0.004)
            rate = (caller.frames - frames) / (time.monotonic() - begun)
            assert sum(statuses.values()) == 500
            assert sum(count for status, count in statuses.items() if status >= 400) > 100
            assert rate > 0.6 * alone  # both callers share this process and its cores
            assert session.server.counts().calls == 1
            await until(lambda: psutil.Process().num_fds() <= fds + 2)
            await until(lambda: len(asyncio.all_tasks()) <= tasks + 2)
    assert "a request failed" not in caplog.text


async def test_mutated_offers_do_not_slow_the_call_beside_them() -> None:
    """In a process of its own, as in use: what is measured is what the offers do to the server."""
    chance = random.Random(11)
    originals = [path.read_bytes().decode() for path in sorted(OFFERS.glob("*.sdp"))]
    sdps = [mutated(chance.choice(originals), chance) for _ in range(240)]
    alone, beside = Counted(), Counted()
    async with (
        served() as (url, *_),
        Caller(url) as caller,
        aiohttp.ClientSession() as client,
    ):
        await ready(url, client)
        await caller.next_frames(25)
        # By turns: whatever else this machine does meanwhile, it does to both.
        for begin in range(0, 240, 48):
            with alone.counting(caller):
                await asyncio.sleep(0.8)
            with beside.counting(caller):
                for number in range(begin, begin + 48):
                    # Thirty a second: fifteen times what an address may send by default
                    pace = asyncio.create_task(asyncio.sleep(1 / 30))
                    await attack(url, client, sdps[number], whip=bool(number % 2))
                    await pace
        assert not caller.ended.is_set()
    told = (
        f"{beside.rate:.1f} fps beside the offers, {alone.rate:.1f} without them;"
        f" {beside.idle:.0%} of the processors idle"
    )
    assert alone.rate > 8, told  # of 25: else there would be nothing to be kept
    if beside.idle < 0.2:  # others want the processors: every offer costs the call of its share
        assert beside.rate >= 0.6 * alone.rate, told
    elif alone.rate < 24.5:
        assert beside.rate >= 0.8 * alone.rate, told
    else:
        assert beside.rate >= 24, told


class Counted:
    """Pictures that came back to a caller, and in what time.

    Attributes:
        idle: The share of the processors that nobody wanted meanwhile.
    """

    def __init__(self) -> None:
        self.frames = 0
        self.seconds = 0.0
        self._idle_s = 0.0
        self._all_s = 0.0

    @contextmanager
    def counting(self, caller: Caller) -> Iterator[None]:
        begun, frames, processors = time.monotonic(), caller.frames, psutil.cpu_times()
        yield
        self.frames += caller.frames - frames
        self.seconds += time.monotonic() - begun
        now = psutil.cpu_times()
        self._idle_s += now.idle - processors.idle
        self._all_s += sum(now) - sum(processors)

    @property
    def rate(self) -> float:
        return self.frames / self.seconds

    @property
    def idle(self) -> float:
        return self._idle_s / self._all_s


async def attack(url: str, client: aiohttp.ClientSession, sdp: str, *, whip: bool) -> None:
    """Send an offer; what comes of it is ended at once."""
    if whip:
        post = client.post(f"{url}/whip/attacked", data=sdp.encode(), headers=SDP)
    else:
        post = client.post(f"{url}/offer", json={"sdp": sdp, "type": "offer"})
    async with post as response:
        place = response.headers.get("Location", "")
        if response.status == 200:
            place = f"/session/{(await response.json())['session']}"
        assert response.status in (200, 201) or 400 <= response.status < 500, response.status
    if place:
        async with client.delete(f"{url}{place}") as response:
            assert response.status == 200


async def ready(url: str, client: aiohttp.ClientSession) -> None:
    async with asyncio.timeout(20):
        while True:
            async with client.get(f"{url}/readyz") as response:
                if response.status == 200:
                    return
            await asyncio.sleep(0.05)


async def test_connects_and_disconnects_leave_nothing() -> None:
    """The server alone, in a process of its own: callers take memory too."""
    pictures = sample_pictures(10)
    async with served() as server:

        async def call(times: int) -> None:
            for _ in range(times):
                async with Caller(server.url, pictures=pictures) as caller:
                    await asyncio.wait_for(caller.first.wait(), 10)

        await call(10)
        warm = await lowest(server)
        await call(25)
        half = await lowest(server)
        await call(25)
        # Workers come, of a pool that is not full yet
        most = warm._replace(threads=warm.threads + 2, rss=half.rss + 5_000_000)
        full = await lowest(server, most)
        told = f"after 10 calls {warm}, after 35 {half}, after 60 {full}"
        assert all(now <= may for now, may in zip(full, most, strict=True)), told
        assert half.rss - warm.rss < 15e6, told


class Held(NamedTuple):
    """What a process holds; its memory in bytes."""

    tasks: int
    descriptors: int
    threads: int
    rss: int


async def lowest(server: Served, most: Held | None = None) -> Held:
    """Return the least of each that a server holds within 2 s; within 10, while it is too much."""
    found = await held(server)
    for tenth in range(100):
        much = most is not None and any(now > may for now, may in zip(found, most, strict=True))
        if tenth >= 20 and not much:
            break
        await anyio.sleep(0.1)
        found = Held(*map(min, found, await held(server)))
    return found


async def held(server: Served) -> Held:
    process, tasks = server.process, await server.tasks()
    return Held(tasks, process.num_fds(), process.num_threads(), process.memory_info().rss)


async def test_killed_caller_is_gone_within_ten_seconds() -> None:
    async with await serving() as session:
        caller = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.support.calling",
            session.server.url,
            stdout=asyncio.subprocess.PIPE,
        )
        assert caller.stdout is not None
        assert await asyncio.wait_for(caller.stdout.readline(), 20) == b"first\n"
        fds = psutil.Process().num_fds()
        caller.kill()
        await caller.wait()
        await until(lambda: session.server.counts().calls == 0, 10)
        assert psutil.Process().num_fds() < fds


async def test_model_process_that_dies_hides_and_comes_back() -> None:
    async with (
        await serving() as session,
        Caller(session.server.url, effect="replace", options={"background": "navy"}) as caller,
    ):
        await session.model.wait_loaded()
        async with asyncio.timeout(10):
            while share_of((await caller.next_frames(1))[0], NAVY) > 0.95:
                pass
        os.kill(session.model.pool.pids[0], signal.SIGKILL)
        shares = [share_of(rgb, NAVY) for rgb in await caller.next_frames(40)]
        assert min(shares) > 0.4  # the room is not seen for a single picture
        assert max(shares) > 0.95  # and for some of them nothing is
        async with asyncio.timeout(15):
            while share_of((await caller.next_frames(1))[0], NAVY) > 0.95:
                pass
        assert session.statistics().worker_restarts == 1


# A line on the standard input is answered with how many tasks there are.
SERVE = """
import asyncio, sys
from streamseg.session.serve import run_server
from streamseg.session.serve_config import load_serve_config

def ready(session):
    asyncio.get_running_loop().add_reader(sys.stdin, count)
    print(session.server.url, flush=True)

def count():
    if sys.stdin.readline():
        print(len(asyncio.all_tasks()), flush=True)

config = load_serve_config(None, {"server.port": 0, "limits.offers_per_minute": 10_000})
asyncio.run(run_server(config, on_ready=ready))
"""


class Served(NamedTuple):
    """A server in a process of its own."""

    url: str
    process: psutil.Process
    asked: asyncio.StreamWriter
    answered: asyncio.StreamReader

    async def tasks(self) -> int:
        """Return how many tasks its loop has."""
        self.asked.write(b"tasks\n")
        return int(await asyncio.wait_for(self.answered.readline(), 5))


@asynccontextmanager
async def served() -> AsyncIterator[Served]:
    """Run a server in a process; at the end SIGTERM must end it cleanly within 5 s."""
    server = await asyncio.create_subprocess_exec(
        sys.executable,
        "-W",
        "error",
        "-c",
        SERVE,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert server.stdin is not None
    assert server.stdout is not None
    try:
        url = (await asyncio.wait_for(server.stdout.readline(), 20)).decode().strip()
        process = psutil.Process(server.pid)
        yield Served(url, process, server.stdin, server.stdout)
        children = process.children(recursive=True)
        server.terminate()
        _, errors = await asyncio.wait_for(server.communicate(), 5)
        assert server.returncode == 0
        assert errors == b""
        assert not any(child.is_running() for child in children)
    finally:
        if server.returncode is None:
            server.kill()
            await server.communicate()


async def test_sigterm_ends_calls_and_exits() -> None:
    async with AsyncExitStack() as stack:
        async with served() as running:
            caller = await stack.enter_async_context(Caller(running.url))
            await asyncio.wait_for(caller.first.wait(), 15)
        await asyncio.wait_for(caller.ended.wait(), 5)


async def test_metrics_are_of_all_sessions() -> None:
    async with await serving() as session:
        async with Caller(session.server.url) as caller:
            await caller.next_frames(10)
            text = await page(session, "/metrics")
            assert 'streamseg_sessions{kind="call"} 1.0' in text
        await until(lambda: session.server.counts().calls == 0)
        delivered = value(await page(session, "/metrics"), "streamseg_frames_delivered_total")
        assert delivered >= value(text, "streamseg_frames_delivered_total") > 5


async def page(session: ServeSession, path: str) -> str:
    async with (
        aiohttp.ClientSession() as client,
        client.get(session.server.url + path) as response,
    ):
        assert response.status == 200
        return await response.text()


def value(text: str, name: str) -> float:
    return float(next(line for line in text.splitlines() if line.startswith(f"{name} ")).split()[1])


async def test_another_host_is_served_with_a_certificate(tmp_path: Path) -> None:
    cert, key = map(str, write_certificate(tmp_path))
    overrides = {"server__host": "0.0.0.0", "server__tls_cert": cert, "server__tls_key": key}
    async with await serving(**overrides) as session:
        port = session.server.url.rpartition(":")[2]
        context = ssl.create_default_context(cafile=cert)
        async with aiohttp.ClientSession() as client:
            own = f"https://localhost:{port}"
            for origin, status in ((own, 400), ("https://evil.example", 403)):
                async with client.post(
                    f"{own}/offer", json={}, headers={"Origin": origin}, ssl=context
                ) as response:
                    assert response.status == status
        # Who says nothing of TLS gets nothing
        reader, writer = await asyncio.open_connection("127.0.0.1", int(port))
        writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b"HTTP" not in await asyncio.wait_for(reader.read(), 5)
        writer.close()
