"""Whole file jobs: a plain transcode, streamseg, and the usual OpenCV + MediaPipe loop, in turn."""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import time
import venv
from pathlib import Path

from tests.benchmarks import support
from tests.benchmarks.support import CACHE, Cost, make_clip, print_table, run_measured, spread

BARS = {"1080p": 0.75, "720p": 0.60}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--frames", type=int, default=300)
    parser.add_argument("--sizes", nargs="+", default=list(support.SIZES), choices=support.SIZES)
    parser.add_argument("--json", type=Path)


def usual_python() -> str:
    """The environment of the usual loop, made once."""
    folder = CACHE / "usual-venv"
    python = folder / "bin" / "python"
    if not (folder / "made").exists():
        print("making the environment of the usual loop ...", file=sys.stderr)
        venv.create(folder, with_pip=True, clear=True)
        packages = ["mediapipe==0.10.21", "numpy<2", "opencv-contrib-python<4.12"]
        subprocess.run([python, "-m", "pip", "install", "-q", *packages], check=True)
        (folder / "made").touch()
    return str(python)


def commands(clip: Path, out: Path) -> dict[str, list[str]]:
    module = [sys.executable, "-m"]
    found = {"transcode (PyAV)": [*module, "tests.benchmarks.transcode", str(clip), str(out)]}
    if ffmpeg := shutil.which("ffmpeg"):
        settings = ["-c:v", "libx264", "-preset", "veryfast", "-crf", "21", "-c:a", "copy"]
        found["transcode (ffmpeg)"] = [
            ffmpeg, "-y", "-v", "error", "-i", str(clip), *settings, str(out)
        ]  # fmt: skip
    found["streamseg"] = [
        *module, "streamseg", "run", str(clip), str(out), "--effect", "blur", "-y", "--json"
    ]  # fmt: skip
    script = support.ROOT / "tests" / "benchmarks" / "usual_loop.py"
    found["usual loop"] = [usual_python(), str(script), str(clip), str(out)]
    return found


def run(arguments: argparse.Namespace) -> None:
    results: dict[str, object] = {}
    out = CACHE / "out.mp4"
    for size in arguments.sizes:
        clip = make_clip(size, arguments.frames)
        costs: dict[str, list[Cost]] = {}
        for number in range(arguments.rounds):
            for name, command in commands(clip, out).items():
                print(f"{size} round {number + 1}: {name}", file=sys.stderr)
                costs.setdefault(name, []).append(run_measured(command)[0])
        results[size] = report(size, arguments.frames, costs)
    clip = make_clip(arguments.sizes[0], arguments.frames)
    results["first_frame_s"] = first_frames(clip, out)
    support.write_json(arguments.json, "file", results)


def report(size: str, frames: int, costs: dict[str, list[Cost]]) -> dict[str, object]:
    ours = [cost.wall_s for cost in costs["streamseg"]]
    rows, result = [], {}
    for name, runs in costs.items():
        walls = [cost.wall_s for cost in runs]
        # Speed of ours relative to this one, pair by pair: what the machine did to one round it
        # did to both.
        ratio = statistics.median(wall / our for wall, our in zip(walls, ours, strict=True))
        fps = spread([frames / wall for wall in walls])
        cpu = spread([cost.cpu_s * 1e3 / frames for cost in runs])
        memory = spread([cost.memory_mb for cost in runs])
        rows.append(
            [name, f"{fps['median']:.1f}", f"{fps['min']:.1f}-{fps['max']:.1f}",
             f"{cpu['median']:.1f}", f"{memory['median']:.0f}", f"{ratio:.2f}"]
        )  # fmt: skip
        result[name] = {
            "fps": fps,
            "cpu_ms_per_frame": cpu,
            "peak_memory_mb": memory,
            "streamseg_speed_relative_to_it": round(ratio, 3),
        }
    print(f"\n{size}, {frames} frames, {len(ours)} rounds")
    print_table(
        ["", "fps", "min-max", "CPU ms/frame", "peak MB", "streamseg is ... times as fast"], rows
    )
    return {**result, "bar": {"relative_to_transcode": BARS[size], "relative_to_usual_loop": 2.5}}


def first_frames(clip: Path, out: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.benchmarks.first_frame", str(clip), str(out)]
    caches = Path("/proc/sys/vm/drop_caches")
    try:
        subprocess.run(["sync"], check=True)
        caches.write_text("3")
        kind = "disk caches dropped"
    except OSError:
        kind = "disk caches as they were"
    cold, *warm = [float(run_measured([*command, str(time.time())])[1]) for _ in range(4)]
    print(f"\nfirst frame out: {cold:.2f} s ({kind}), then {statistics.median(warm):.2f} s")
    return {"cold": round(cold, 3), "warm": round(statistics.median(warm), 3)}
