"""Endurance of a live stream: a paced 720p clip at 30 frames a second, and the usual loop after it."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.benchmarks import support
from tests.benchmarks.file import usual_python
from tests.benchmarks.support import CACHE, make_clip, print_table

SETTLED_S = 60.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--usual-seconds", type=float, default=60.0)
    parser.add_argument("--size", default="720p", choices=support.SIZES)
    parser.add_argument("--json", type=Path)


def run(arguments: argparse.Namespace) -> None:
    clip = make_clip(arguments.size, 300, rate=30)
    out = CACHE / "live.mp4"
    ours = endure(clip, out, arguments.seconds)
    usual = usual_loop(clip, out, arguments.usual_seconds)
    print_table(
        ["", "fps", "p50 ms", "p99 ms", "cores"],
        [
            ["streamseg", *(f"{ours[key]:.2f}" for key in ("fps", "p50_ms", "p99_ms", "cores"))],
            ["usual loop", *(f"{usual[key]:.2f}" for key in ("fps", "p50_ms", "p99_ms", "cores"))],
        ],
    )
    for key, value in ours.items():
        print(f"{key}: {value}")
    out.unlink(missing_ok=True)
    support.write_json(arguments.json, "live", {"streamseg": ours, "usual loop": usual})


def endure(clip: Path, out: Path, seconds: float) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.benchmarks.live_job", str(clip), str(out), str(seconds)]
    lines = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=support.ROOT) as process:
        assert process.stdout is not None
        for text in process.stdout:
            lines.append(json.loads(text))
            print(f"\r{lines[-1]['elapsed_s']:.0f} s", end="", file=sys.stderr)
    print(file=sys.stderr)
    if process.returncode:
        sys.exit("the live session failed")
    settled = min(SETTLED_S, seconds / 3)
    first = next(line for line in lines if line["elapsed_s"] >= settled)
    last = lines[-1]
    span = last["elapsed_s"] - first["elapsed_s"]
    return {
        "seconds": round(last["elapsed_s"], 1),
        "fps": (last["frames_out"] - first["frames_out"]) / span,
        "p50_ms": last["p50_ms"],
        "p99_ms": last["p99_ms"],
        "p99_ms_at_the_beginning": first["p99_ms"],
        "max_ms": last["max_ms"],
        "cores": (last["cpu_s"] - first["cpu_s"]) / span,
        "rss_mb": round(last["rss_mb"], 1),
        "rss_growth_mb": round(last["rss_mb"] - first["rss_mb"], 1),
        "rss_mb_by_half_minutes": [round(line["rss_mb"]) for line in lines[::30]],
        "threads": [first["threads"], last["threads"]],
        "tasks": [first["tasks"], last["tasks"]],
        "descriptors": [first["descriptors"], last["descriptors"]],
        "hidden": last["hidden"],
        "dropped": last["dropped"],
        "dropped_by_sinks": {Path(name).name: drops for name, drops in last["sinks"].items()},
        "loop_lag_p99_ms": last["lag_p99_ms"],
        "stages_p50_ms": last["stages"],
    }


def usual_loop(clip: Path, out: Path, seconds: float) -> dict[str, Any]:
    script = support.ROOT / "tests" / "benchmarks" / "usual_live.py"
    command = [usual_python(), str(script), str(clip), str(out), str(seconds)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return found
