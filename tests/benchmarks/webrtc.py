"""WebRTC in Chromium: frames a second, glass to glass, first picture, a slow model, many sessions.

Chromium's camera plays a clip whose pictures carry their number, to the project's own page and
server on the same machine; the number of a picture that comes back tells when it was taken. What
our processing adds is measured against the same server that relays pictures without a model or an
effect, turn by turn in the same run.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import numpy as np
import psutil
from numpy.typing import NDArray

from tests.benchmarks import support
from tests.benchmarks.support import CACHE, print_table
from tests.support.chromium import Chromium, write_y4m
from tests.support.serving import Serving

if TYPE_CHECKING:
    from playwright.sync_api import Page

SCRIPT = Path(__file__).with_name("webrtc_page.js").read_text()
FRAMES = 150
RATE = 30
SETTLE_S = 4.0
ENOUGH_FPS = 15.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, default=20.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=2, help="of relay and blur in turn")
    parser.add_argument("--slow-seconds", type=float, default=60.0, help="with a 60 ms model")
    parser.add_argument("--most", type=int, default=12, help="360p sessions to try")
    parser.add_argument("--json", type=Path)


def run(arguments: argparse.Namespace) -> None:
    large, small = make_camera(1280, 720), make_camera(640, 360)
    busy = os.getloadavg()[0]  # others at work here spoil every figure
    results: dict[str, Any] = {}
    with ExitStack() as stack:
        relay = stack.enter_context(Serving(module="tests.benchmarks.webrtc_relay"))
        ours = stack.enter_context(Serving())
        chromium = stack.enter_context(Chromium(camera=large))
        turns: dict[str, list[dict[str, Any]]] = {"relay": [], "blur": []}
        for _ in range(arguments.rounds):
            for name, server in (("relay", relay), ("blur", ours)):
                turns[name].append(measure(chromium, server, arguments.seconds))
        results = {name: together(parts) for name, parts in turns.items()}
        results["load_before"] = round(busy, 2)
        results["first_picture_ms"] = support.spread(
            [first_picture(chromium, ours) for _ in range(7)]
        )
        results["first_picture_relay_ms"] = support.spread(
            [first_picture(chromium, relay) for _ in range(7)]
        )
    model, alone_ms = slow_model()
    with Serving("--model", model, "--threads", "1") as slow, Chromium(camera=large) as chromium:
        results["slow"] = measure(chromium, slow, arguments.slow_seconds)
        results["slow"]["model_ms_alone"] = alone_ms
    with (
        Serving("--max-sessions", str(arguments.most)) as server,
        Chromium(camera=small) as chromium,
    ):
        results["sessions_360p"] = sessions(chromium, server, arguments.most)
    report(results)
    support.write_json(arguments.json, "webrtc", results)


# -- one call ------------------------------------------------------------------------------------


def measure(chromium: Chromium, server: Serving, seconds: float) -> dict[str, Any]:
    """Have a call for so long; returns its figures and the latency of each picture."""
    with chromium.page(server.url, script=SCRIPT) as page:
        start(page)
        page.evaluate("watchShown()")
        page.wait_for_timeout(SETTLE_S * 1000)
        process = psutil.Process(server.pid)
        cpu = cpu_seconds(process)
        page.evaluate("beginMeasuring()")
        page.wait_for_timeout(seconds * 1000)
        found = page.evaluate(
            "({shown: measured.shown, frames: measured.frames, unreadable: measured.unreadable,"
            " since: measured.since, seconds: (performance.now() - measured.since) / 1000,"
            " size: [processed.videoWidth, processed.videoHeight]})"
        )
        cores = (cpu_seconds(process) - cpu) / found["seconds"]
        drops = page.locator("#figure-drops").inner_text()
    latencies = [latency for _, latency in found["shown"]]
    thirds = [
        statistics.median(part) if part else float("nan")
        for part in in_thirds(found["shown"], found["since"], found["seconds"])
    ]
    return {
        "size": found["size"],
        "fps": round(found["frames"] / found["seconds"], 1),
        "p50_ms": percentile(latencies, 50),
        "p99_ms": percentile(latencies, 99),
        "max_ms": percentile(latencies, 100),
        "p50_ms_by_thirds": [round(value, 1) for value in thirds],
        "unreadable": found["unreadable"],
        "server_cores": round(cores, 2),
        "drops": drops,
        "latencies": latencies,
    }


def start(page: Page) -> None:
    page.get_by_role("button", name="Start").click()
    page.locator("#veil").wait_for(state="hidden")


def first_picture(chromium: Chromium, server: Serving) -> float:
    """Return how long after the click the first processed picture was there, in ms."""
    with chromium.page(server.url) as page:
        start(page)
        found: float = page.evaluate(
            "performance.getEntriesByName('first-picture')[0].startTime"
            " - performance.getEntriesByName('start')[0].startTime"
        )
        return found


def together(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    latencies = [latency for part in parts for latency in part.pop("latencies")]
    return {
        "fps": support.spread([part["fps"] for part in parts]),
        "p50_ms": percentile(latencies, 50),
        "p99_ms": percentile(latencies, 99),
        "turns": list(parts),
    }


def in_thirds(shown: Sequence[Sequence[float]], since: float, seconds: float) -> list[list[float]]:
    parts: list[list[float]] = [[], [], []]
    for moment, latency in shown:
        third = int((moment - since) / 1000 / seconds * 3)
        parts[min(2, max(0, third))].append(latency)
    return parts


def percentile(values: Sequence[float], percent: float) -> float:
    return round(float(np.percentile(values, percent)), 1) if values else float("nan")


def cpu_seconds(process: psutil.Process) -> float:
    total = 0.0
    for part in [process, *process.children(recursive=True)]:
        times = part.cpu_times()
        total += times.user + times.system
    return total


# -- many ----------------------------------------------------------------------------------------


def sessions(chromium: Chromium, server: Serving, most: int) -> dict[str, Any]:
    """Open pages until one of them gets too few pictures; the browser works on the same cores."""
    table: list[dict[str, Any]] = []
    with ExitStack() as stack:
        pages: list[Page] = []
        for count in range(1, most + 1):
            page = stack.enter_context(chromium.page(server.url))
            pages.append(page)
            try:
                start(page)
                page.wait_for_timeout(SETTLE_S * 1000)
                before = decoded(pages)
                begun = time.monotonic()
                page.wait_for_timeout(6000)
                seconds = time.monotonic() - begun
                rates = [
                    (now - then) / seconds for now, then in zip(decoded(pages), before, strict=True)
                ]
            except Exception as error:  # so busy that the page itself does not answer
                print(f"{count} sessions: {type(error).__name__}", file=sys.stderr)
                break
            latency = pages[0].locator("#figure-latency").inner_text()
            table.append(
                {
                    "sessions": count,
                    "least_fps": round(min(rates), 1),
                    "median_fps": round(statistics.median(rates), 1),
                    "latency_in_server": latency,
                }
            )
            if min(rates) < ENOUGH_FPS:
                break
    held = [row["sessions"] for row in table if row["least_fps"] >= ENOUGH_FPS]
    return {"held_15_fps": max(held, default=0), "table": table}


def decoded(pages: Sequence[Page]) -> list[int]:
    return [page.evaluate("processed.getVideoPlaybackQuality().totalVideoFrames") for page in pages]


# -- what is needed ------------------------------------------------------------------------------


def make_camera(width: int, height: int) -> Path:
    """Write people moving, each picture with its number, as a camera can play it."""
    path = CACHE / f"camera-{height}-{FRAMES}-{support.media()[0].stem}.y4m"
    if path.exists():
        return path
    CACHE.mkdir(parents=True, exist_ok=True)
    frames: list[NDArray[np.uint8]] = []
    while len(frames) < FRAMES:
        with av.open(str(support.media()[0])) as clip:
            for frame in clip.decode(video=0):
                if len(frames) < FRAMES:
                    picture = frame.reformat(width, height, "yuv420p").to_ndarray()
                    write_number(picture, len(frames), width, height)
                    frames.append(picture)
    part = path.with_suffix(".part")
    write_y4m(part, frames, width, height, RATE)
    part.rename(path)
    return path


def write_number(picture: NDArray[np.uint8], number: int, width: int, height: int) -> None:
    bits = (number << 4) | ((number >> 8 ^ number >> 4 ^ number ^ 0x5) & 0xF)
    for cell in range(16):
        left, right = cell * width // 16, (cell + 1) * width // 16
        picture[: height // 10, left:right] = 235 if bits >> (15 - cell) & 1 else 16
    chroma = picture[height:].reshape(2, height // 2, width // 2)
    chroma[:, : height // 20] = 128


def slow_model() -> tuple[str, float]:
    """Return a program that takes 60 ms a frame on this machine, and what it took alone."""
    command = [sys.executable, "-m", "tests.benchmarks.webrtc_model"]
    done = subprocess.run(command, cwd=support.ROOT, check=True, stdout=subprocess.PIPE, text=True)
    found = json.loads(done.stdout)
    return found["path"], found["ms"]


def report(results: dict[str, Any]) -> None:
    relay, blur, slow = results["relay"], results["blur"], results["slow"]
    print_table(
        ["720p", "fps", "p50 ms", "p99 ms"],
        [
            ["relay", str(relay["fps"]["median"]), str(relay["p50_ms"]), str(relay["p99_ms"])],
            ["blur", str(blur["fps"]["median"]), str(blur["p50_ms"]), str(blur["p99_ms"])],
            [
                "blur above relay",
                "",
                f"{blur['p50_ms'] - relay['p50_ms']:+.1f}",
                f"{blur['p99_ms'] - relay['p99_ms']:+.1f}",
            ],
            ["60 ms model", str(slow["fps"]), str(slow["p50_ms"]), str(slow["p99_ms"])],
        ],
    )
    slow.pop("latencies")
    print(f"load of the machine before: {results['load_before']}")
    print(f"60 ms model, p50 of each third of the time: {slow['p50_ms_by_thirds']} ms")
    first, plain = results["first_picture_ms"], results["first_picture_relay_ms"]
    print(f"first processed picture after the click: {first} ms; relayed: {plain} ms")
    many = results["sessions_360p"]
    print(f"360p sessions at {ENOUGH_FPS:g} fps or more: {many['held_15_fps']}")
    for row in many["table"]:
        print(f"  {row}")
