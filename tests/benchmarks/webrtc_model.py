"""Makes a program that takes 60 ms a frame on one core of this machine, in our own model process.

python -m tests.benchmarks.webrtc_model     # prints its path and the time it takes, as JSON
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import anyio
import av
import numpy as np

from streamseg.frames import Frame
from streamseg.session.parts import load_segmenter
from tests.benchmarks.support import CACHE, ROOT

WANTED_MS = 60.0


def make_program(depth: int, path: Path) -> None:
    """Convolutions of 32 channels on 256x256 pixels, so many of them, with random weights."""
    import torch
    from torch import nn

    from streamseg.convert.export import export_module

    class Stack(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(3, 32, 3, padding=1)
            self.middle = nn.ModuleList(nn.Conv2d(32, 32, 3, padding=1) for _ in range(depth))
            self.last = nn.Conv2d(32, 1, 1)

        def forward(self, picture: torch.Tensor) -> torch.Tensor:
            maps = self.first(picture)
            for layer in self.middle:
                maps = torch.relu(layer(maps))
            return torch.sigmoid(self.last(maps))

    torch.manual_seed(0)
    export_module(Stack().eval(), (1, 3, 256, 256), path, tolerance=1e-2)


async def time_of(path: Path) -> float:
    """Return the median of what a 720p frame takes in it, in ms."""
    picture = av.VideoFrame.from_ndarray(np.full((720, 1280, 3), 128, np.uint8)).reformat(
        format="yuv420p"
    )
    times = []
    async with load_segmenter(path, threads=1, labels=lambda of_model: of_model[:1]) as segmenter:
        for index in range(15):
            picture.pts, picture.time_base = index, Fraction(1, 30)
            begun = time.perf_counter()
            await segmenter.segment(Frame(picture, index, time.monotonic()))
            times.append((time.perf_counter() - begun) * 1000)
    return statistics.median(times[3:])


def find() -> tuple[Path, float]:
    CACHE.mkdir(parents=True, exist_ok=True)
    depth = 12
    for _ in range(5):
        path = CACHE / f"slow-{depth}.pte"
        if not path.exists():
            subprocess.run(
                [sys.executable, "-m", __spec__.name, str(depth), str(path)],
                cwd=ROOT,
                check=True,
                capture_output=True,
            )
        took_ms = anyio.run(time_of, path)
        if abs(took_ms - WANTED_MS) < 0.1 * WANTED_MS:
            break
        depth = max(1, round(depth * WANTED_MS / took_ms))
    return path, took_ms


if __name__ == "__main__":
    if sys.argv[1:]:
        make_program(int(sys.argv[1]), Path(sys.argv[2]))
    else:
        found, took_ms = find()
        print(json.dumps({"path": str(found), "ms": round(took_ms, 1)}))
