"""The same server without our processing: what comes in goes out again, no model, no effect.

python -m tests.benchmarks.webrtc_relay
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Sequence

import anyio

from streamseg.abc import Sink, Source
from streamseg.engine import Pipeline
from streamseg.telemetry import PipelineStatistics
from streamseg.webrtc.control import Change
from streamseg.webrtc.processing import Processing, SessionRequest
from streamseg.webrtc.server import Server
from streamseg.webrtc.server_options import ServerOptions


class Relay:
    """The processing that does none."""

    def __init__(self, source: Source, sinks: Sequence[Sink]) -> None:
        self._pipeline = Pipeline(source, segmenter=None, effect=None, sinks=sinks)

    async def run(self) -> None:
        async with self._pipeline as pipeline:
            await pipeline.run()

    async def control(self, change: Change) -> None:
        pass

    def statistics(self) -> PipelineStatistics:
        return self._pipeline.statistics()


async def relay(source: Source, sinks: Sequence[Sink], request: SessionRequest) -> Processing:
    return Relay(source, sinks)


async def main() -> None:
    stopped = anyio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    async with Server(ServerOptions(port=0), start_session=relay) as server:
        print(f"listening on {server.url}", file=sys.stderr, flush=True)
        await stopped.wait()


if __name__ == "__main__":
    from tests.support.serving import use_loopback_too

    use_loopback_too()
    anyio.run(main)
