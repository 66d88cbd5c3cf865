"""Connections that do as they are told, and a server over them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import anyio

from streamseg.abc import Resource, Sink, Source
from streamseg.telemetry import PipelineStatistics
from streamseg.webrtc.control import Change
from streamseg.webrtc.peer_messages import LABEL, Messages
from streamseg.webrtc.processing import SessionRequest
from streamseg.webrtc.server import Server
from streamseg.webrtc.server_options import ServerOptions
from streamseg.webrtc.signals import check_offer
from streamseg.webrtc.statistics import PeerStatistics
from tests.unit.fakes import FakeSink, FakeSource

OFFERS = Path(__file__).parents[2] / "support" / "webrtc" / "offers"
ANSWER = "v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\n"


def offer(direction: str = "sendrecv") -> str:
    """A real browser's offer, its video in one direction."""
    text = (OFFERS / "wrtc.sdp").read_bytes().decode()
    head, video = text.split("m=video", 1)
    for other in ("sendrecv", "sendonly", "recvonly"):
        video = video.replace(f"a={other}\r\n", f"a={direction}\r\n")
    return f"{head}m=video{video}"


class FakePeerSink(FakeSink):
    def __init__(self) -> None:
        super().__init__()
        self.playing: Any = None

    def play(self, audio: Any) -> None:
        self.playing = audio


class FakeChannel:
    """A data channel that is open and read."""

    label = LABEL
    readyState = "open"
    bufferedAmount = 0

    def __init__(self) -> None:
        self.said: list[str] = []

    def on(self, event: str, function: Callable[[Any], None]) -> None:
        pass

    def send(self, text: str) -> None:
        self.said.append(text)


class FakePeer(Resource):
    """A peer without a network; ``end`` is what the other side would do."""

    def __init__(self, *, name: str) -> None:
        self.name = name
        self.source: Source = FakeSource(0)
        self.sink = FakePeerSink()
        self.audio: Any = object()
        self.on_message: Callable[[str], None] | None = None
        self.connected = anyio.Event()
        self.closed = anyio.Event()
        self.reason = ""
        self.channel = FakeChannel()
        self.said = self.channel.said
        self.messages = Messages()
        self.messages.take(self.channel)  # type: ignore[arg-type]
        self.candidates: list[tuple[str, str]] = []
        self.accept_error: Exception | None = None
        self.accepting: anyio.Event | None = None

    async def accept(self, offer: str, *, sends: bool, receives: bool, data: bool = False) -> str:
        check_offer(offer, sends=sends, receives=receives)
        if self.accepting is not None:
            await self.accepting.wait()
        if self.accept_error is not None:
            raise self.accept_error
        return ANSWER

    async def add_candidate(self, candidate: str, mid: str) -> None:
        self.candidates.append((candidate, mid))

    def send_message(self, text: str) -> None:
        self.messages.send(text)

    def statistics(self) -> PeerStatistics:
        return PeerStatistics(bitrate_in=1000, codec="H264")

    def end(self) -> None:
        self.reason = "the other side has gone"
        self.closed.set()

    async def aclose(self) -> None:
        self.closed.set()


class FakeProcessing:
    """Runs until it is told to end."""

    def __init__(self, source: Source, sinks: Sequence[Sink], request: SessionRequest) -> None:
        self.source = source
        self.sinks = sinks
        self.request = request
        self.running = anyio.Event()
        self.ended = anyio.Event()
        self.cancelled = False
        self.error: Exception | None = None
        self.changes: list[Change] = []
        self._end = anyio.Event()

    async def run(self) -> None:
        self.running.set()
        try:
            await self._end.wait()
            if self.error is not None:
                raise self.error
        except BaseException as exc:
            self.cancelled = isinstance(exc, anyio.get_cancelled_exc_class())
            raise
        finally:
            self.ended.set()

    def end(self, error: Exception | None = None) -> None:
        self.error = error
        self._end.set()

    async def control(self, change: Change) -> None:
        self.changes.append(change)

    def statistics(self) -> PipelineStatistics:
        return PipelineStatistics(frames_in=3, frames_out=3)


class House:
    """A server with fake connections and fake pipelines; listens within ``async with``."""

    def __init__(self, **options: Any) -> None:
        self.peers: list[FakePeer] = []
        self.started: list[FakeProcessing] = []
        self.start_error: Exception | None = None
        self.prepare: Callable[[FakePeer], None] = lambda peer: None
        self.why_not: str | None = None
        self.ended = 0
        self.server = Server(
            ServerOptions(port=0, **options),
            start_session=self._start,
            metrics=self._metrics,
            not_ready=lambda: self.why_not,
            make_peer=self._make_peer,  # type: ignore[arg-type]
            on_session_end=self._count_end,
        )

    def _make_peer(self, *, name: str) -> FakePeer:
        peer = FakePeer(name=name)
        self.prepare(peer)
        self.peers.append(peer)
        return peer

    def _count_end(self) -> None:
        self.ended += 1

    async def _start(
        self, source: Source, sinks: Sequence[Sink], request: SessionRequest
    ) -> FakeProcessing:
        if self.start_error is not None:
            raise self.start_error
        processing = FakeProcessing(source, sinks, request)
        self.started.append(processing)
        return processing

    async def _metrics(self, accept: str) -> tuple[str, bytes]:
        return "text/plain", b"streamseg_sessions 1\n"

    async def __aenter__(self) -> House:
        await self.server.__aenter__()
        return self

    async def __aexit__(self, *args: Any) -> None:
        await self.server.aclose()
