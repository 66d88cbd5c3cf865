"""One live session, told about every second: clip, recording, seconds."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time

import anyio
import cv2
import psutil

from streamseg.config import load_live_config
from streamseg.ffmpeg_log import quiet_ffmpeg
from streamseg.session.live import LiveSession

clip, recording, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])


async def watch(session: LiveSession, ended: anyio.Event) -> None:
    process = psutil.Process()
    started = time.monotonic()
    while time.monotonic() - started < seconds:
        await anyio.sleep(1)
        family = [process, *process.children(recursive=True)]
        statistics = session.pipeline.statistics()
        minute = session.pipeline.window(60)["total"]
        line = {
            "elapsed_s": time.monotonic() - started,
            "rss_mb": sum(part.memory_info().rss for part in family) / 1e6,
            "cpu_s": sum(sum(part.cpu_times()[:2]) for part in family),
            "threads": threading.active_count(),
            "tasks": len(asyncio.all_tasks()),
            "descriptors": sum(part.num_fds() for part in family),
            "frames_in": statistics.frames_in,
            "frames_out": statistics.frames_out,
            "hidden": statistics.hidden,
            "dropped": dict(statistics.dropped),
            "sinks": {name: dict(sink.dropped) for name, sink in statistics.sinks.items()},
            "p50_ms": minute.p50_ms,
            "p99_ms": minute.p99_ms,
            "max_ms": minute.max_ms,
            "lag_p99_ms": statistics.loop_lag.p99_ms,
            "stages": {name: times.p50_ms for name, times in statistics.stages.items()},
        }
        print(json.dumps(line), flush=True)
    session.stop()
    ended.set()


async def main() -> None:
    cv2.setNumThreads(1)
    quiet_ffmpeg()
    overrides = {
        "source.uri": clip,
        "source.loop": True,
        "effect.name": "blur",
        "sink": [{"uri": "null"}, {"uri": recording, "overwrite": True}],
    }
    ended = anyio.Event()
    async with LiveSession(load_live_config(None, overrides)) as session:
        async with anyio.create_task_group() as group:
            group.start_soon(watch, session, ended)
            await session.run()
            await ended.wait()


anyio.run(main)
