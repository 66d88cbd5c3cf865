"""A server's session, over a model that is still being loaded: rooms, memory, its end."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
import weakref
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import anyio
import av
import numpy as np
import pytest

from streamseg.errors import SourceOpenError, SourceReadError
from streamseg.models.registry import find_model
from streamseg.runtime.sharing import SharedModel
from streamseg.session import serve
from streamseg.session.serve import ServeSession
from streamseg.session.serve_config import TOKENS_VARIABLE, load_serve_config
from streamseg.sources.reconnect import Reconnect
from tests.unit.fakes import FakeSource
from tests.unit.webrtc.fakes import offer
from tests.unit.webrtc.test_server import SDP, until

pytestmark = pytest.mark.anyio


class LoadingPool:
    """A pool that never has its model: all pictures are hidden."""

    labels = ()
    pids = ()

    def __init__(self) -> None:
        self.model = find_model("selfie")

    async def open(self) -> None:
        await anyio.sleep_forever()

    def statistics(self) -> Any:
        return SimpleNamespace(restarts=0)

    async def aclose(self) -> None:
        pass


@pytest.fixture(autouse=True)
def no_model_process(monkeypatch: pytest.MonkeyPatch) -> None:
    pool: Any = LoadingPool()
    monkeypatch.setattr(ServeSession, "_make_model", lambda self, found: SharedModel(pool))
    monkeypatch.delenv(TOKENS_VARIABLE, raising=False)


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    again = Reconnect(first_delay_s=0.05, max_delay_s=0.05, give_up_after_s=None)
    monkeypatch.setattr(serve, "_FILL_AGAIN", again)


@asynccontextmanager
async def running(**overrides: Any) -> AsyncIterator[ServeSession]:
    given = {key.replace("__", "."): value for key, value in overrides.items()}
    config = load_serve_config(None, {"server.port": 0, **given})
    async with ServeSession(config) as session, anyio.create_task_group() as group:
        group.start_soon(session.run)
        yield session
        session.stop()


def room(name: str, uri: str, **options: Any) -> dict[str, Any]:
    return {"name": name, "source": {"uri": uri, **options}}


def write_clip(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for index in range(5):
            frame = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), "rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


# -- rooms -------------------------------------------------------------------------------------


@pytest.mark.usefixtures("soon")
async def test_a_source_of_several_that_is_away_is_waited_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clip = tmp_path / "clip.mp4"
    rooms = [room("lobby", "test:64x64@10"), room("late", str(clip), loop=True)]
    async with running(room=rooms) as session:
        await until(lambda: caplog.text.count("room late is empty") > 2)
        assert "trying again in" in caplog.text
        assert session.server.rooms == 1
        await anyio.to_thread.run_sync(write_clip, tmp_path / "written.mp4")
        (tmp_path / "written.mp4").rename(clip)
        await until(lambda: session.server.rooms == 2)


@pytest.mark.usefixtures("soon")
async def test_a_source_that_fails_later_is_had_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made: list[FakeSource] = []

    def make(config: Any) -> FakeSource:
        source = FakeSource(10, fails_at=3 if len(made) < 3 else None)
        source.error = SourceReadError("the camera was unplugged")
        made.append(source)
        if len(made) == 2:
            raise SourceOpenError("it is not back yet")
        return source

    monkeypatch.setattr(serve, "make_source", make)
    async with running(room=[room("lobby", "camera:0")]):
        await until(lambda: "its source has ended" in caplog.text)
    assert len(made) == 4
    assert caplog.text.count("the camera was unplugged; trying again") == 2
    assert caplog.text.count("it is not back yet; trying again") == 1


async def test_the_source_of_the_only_room_must_open_at_first(tmp_path: Path) -> None:
    config = load_serve_config(
        None, {"server.port": 0, "room": [room("lobby", str(tmp_path / "none.mp4"))]}
    )
    async with ServeSession(config) as session:
        with pytest.raises(SourceOpenError), anyio.fail_after(5):
            await session.run()


# -- who may come ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "tokens", "warned"),
    [("0.0.0.0", "", True), ("0.0.0.0", "correct-horse-battery", False), ("127.0.0.1", "", False)],
)
async def test_a_server_that_is_open_to_everybody_says_so(
    host: str,
    tokens: str,
    warned: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv(TOKENS_VARIABLE, tokens)
    async with running(server__host=host, server__behind_proxy=True):
        pass
    said = [record for record in caplog.records if "--token-file" in record.getMessage()]
    assert len(said) == warned
    assert all(record.levelno == logging.WARNING for record in said)


async def test_metrics_do_not_tell_where_the_model_is() -> None:
    file = find_model("selfie").path
    async with running(model__name=str(file)) as session, aiohttp.ClientSession() as client:
        assert session.statistics().settings["model"] == file.name
        async with client.get(f"{session.server.url}/metrics") as response:
            text = await response.text()
    assert file.name in text
    assert str(file.parent) not in text


# -- memory ------------------------------------------------------------------------------------


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collector")
async def test_connections_that_have_ended_do_not_stay_in_memory() -> None:
    overrides = {
        "room": [room("lobby", "test:64x64@10")],
        "limits__pending_per_address": 100,
        "limits__offers_per_minute": 1000,
    }
    made: list[weakref.ref[Any]] = []
    async with running(**overrides) as session, aiohttp.ClientSession() as client:
        server = session.server
        await until(lambda: server.rooms == 1)
        make = server._connections._make_peer

        def making(*, name: str) -> Any:
            peer = make(name=name)
            made.append(weakref.ref(peer))
            return peer

        server._connections._make_peer = making
        for _ in range(20):
            async with client.post(
                f"{server.url}/whep/lobby", data=offer("recvonly"), headers=SDP
            ) as response:
                assert response.status == 201
                place = response.headers["Location"]
            async with client.delete(server.url + place) as response:
                assert response.status == 200
        # Refused when there is a connection already: the model does not classify.
        refused = {"sdp": offer(), "type": "offer", "effect": "labels"}
        async with client.post(f"{server.url}/offer", json=refused) as response:
            assert response.status == 422
        assert len(made) == 21
        with anyio.fail_after(4):
            while any(ref() is not None for ref in made):
                await anyio.sleep(0.02)


# -- the end -----------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_second_signal_does_not_wait_for_the_end(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    closing = anyio.Event()
    closed: list[ServeSession] = []
    close = ServeSession.aclose

    async def aclose(self: ServeSession) -> None:
        try:
            with anyio.CancelScope(shield=True):
                closing.set()
                await anyio.sleep(30)  # what hangs
        finally:
            await close(self)
            closed.append(self)

    monkeypatch.setattr(ServeSession, "aclose", aclose)
    ready = anyio.Event()
    config = load_serve_config(None, {"server.port": 0})
    numbers: list[int] = []
    server = asyncio.create_task(
        serve.run_server(config, on_ready=lambda session: ready.set(), on_cancel=numbers.append)
    )
    try:
        with anyio.fail_after(10):
            await ready.wait()
            os.kill(os.getpid(), number)
            await closing.wait()
            os.kill(os.getpid(), number)
            with pytest.raises(asyncio.CancelledError):
                await server
        assert len(closed) == 1
        assert numbers == [number]
    finally:
        for each in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().remove_signal_handler(each)


async def test_all_is_closed_also_when_closing_is_cancelled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with running() as session:
        server = session.server
        listener, runner, uploads = server._listener, server._runner, server._uploads
        assert listener is not None
        assert runner is not None
        _, writer = await asyncio.open_connection("127.0.0.1", listener.port)
        await until(lambda: len(listener) == 1)
        began = asyncio.Event()

        async def hang() -> None:
            began.set()
            await asyncio.sleep(30)

        with monkeypatch.context() as patch:
            patch.setattr(server._sessions, "aclose", hang)
            closing = asyncio.create_task(server.aclose())
            with anyio.fail_after(5):
                await began.wait()
                closing.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await closing
        assert len(listener) == 0
        assert runner.server is None
        assert uploads._folder is None
        writer.close()
