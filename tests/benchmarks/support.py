"""Clips to measure with, processes to measure, tables to print."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from importlib import metadata
from pathlib import Path
from typing import Any

import av
import psutil

ROOT = Path(__file__).parents[2]
CACHE = ROOT / ".cache" / "bench"
SAMPLE = ROOT / "tests" / "media" / "sample.mp4"
SIZES = {"1080p": (1920, 1080), "720p": (1280, 720)}


def media() -> list[Path]:
    """The clips that frames are taken from: real ones where there are some, else the sample."""
    folder = os.environ.get("STREAMSEG_TEST_ASSETS")
    names = ("06_pingpong.mp4", "05_default_juggle.mp4", "03_skateboarder.mp4", "04_coffee.mp4")
    found = [Path(folder) / "media" / name for name in names] if folder else []
    return [path for path in found if path.exists()] or [SAMPLE]


def make_clip(name: str, frames: int, rate: int = 24) -> Path:
    """An H.264 clip with sound of one of SIZES: as many frames from each source in turn."""
    sources = media()
    width, height = SIZES[name]
    path = CACHE / f"{name}-{frames}-{rate}-{sources[0].stem}.mp4"
    if path.exists():
        return path
    CACHE.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part.mp4")
    with av.open(str(part), "w") as output:
        video = output.add_stream("libx264", rate, options={"crf": "16", "preset": "veryfast"})
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        video.time_base = Fraction(1, rate)
        audio = output.add_stream("aac", 48000, layout="mono")
        written = 0
        while written < frames:
            source = sources[(written * len(sources)) // frames]
            with av.open(str(source)) as clip:
                for frame in clip.decode(video=0):
                    if written >= frames or sources[(written * len(sources)) // frames] != source:
                        break
                    picture = frame.reformat(width, height, "yuv420p", interpolation="LANCZOS")
                    picture.pts, picture.time_base = written, Fraction(1, rate)
                    output.mux(video.encode(picture))
                    written += 1
        output.mux(video.encode(None))
        for number in range(frames * 48000 // rate // 1024):
            silence = av.AudioFrame("fltp", "mono", 1024)
            for plane in silence.planes:
                plane.update(bytes(plane.buffer_size))
            silence.sample_rate, silence.pts = 48000, number * 1024
            output.mux(audio.encode(silence))
        output.mux(audio.encode(None))
    part.rename(path)
    return path


@dataclass(frozen=True)
class Cost:
    """What one run of a command took."""

    wall_s: float
    cpu_s: float
    memory_mb: float


def run_measured(command: Sequence[str]) -> tuple[Cost, str]:
    """Run a command; returns its cost, children included, and its standard output.

    Memory is the peak of the proportional set size of all its processes together, sampled every
    20 ms: pages that two of them share count once.
    """
    before = os.times()
    started = time.perf_counter()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )
    peak = 0.0
    done = threading.Event()

    def sample() -> None:
        nonlocal peak
        while not done.wait(0.02):
            try:
                root = psutil.Process(process.pid)
                total = sum(
                    part.memory_full_info().pss for part in [root, *root.children(recursive=True)]
                )
            except psutil.Error:
                continue
            peak = max(peak, total / 1e6)

    sampler = threading.Thread(target=sample)
    sampler.start()
    stdout, stderr = process.communicate()
    wall_s = time.perf_counter() - started
    done.set()
    sampler.join()
    if process.returncode != 0:
        sys.exit(f"{' '.join(command)} failed:\n{stderr[-2000:]}")
    after = os.times()
    cpu_s = (
        after.children_user - before.children_user + after.children_system - before.children_system
    )
    return Cost(wall_s, cpu_s, peak), stdout


def spread(values: Sequence[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(values), 3),
        "min": round(min(values), 3),
        "max": round(max(values), 3),
    }


def machine() -> dict[str, Any]:
    model = next(
        (line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")), ""
    )
    packages = ("streamseg", "av", "executorch", "torch", "numpy", "opencv-python")
    return {
        "cpu": model or platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "packages": {package: metadata.version(package) for package in packages},
    }


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def write_json(path: Path | None, kind: str, results: dict[str, Any]) -> None:
    text = json.dumps({"benchmark": kind, "machine": machine(), "results": results}, indent=2)
    target = path or CACHE / f"{kind}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text + "\n")
    print(f"\nwritten: {target}")


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    for row in [header, *rows]:
        cells = [
            f"{cell:<{w}}" if i == 0 else f"{cell:>{w}}"
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(cells))
