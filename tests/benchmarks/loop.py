"""How long the event loop waits while a model of about 300 ms a frame runs."""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from pathlib import Path

import numpy as np

from streamseg.models.card import Card, Model
from streamseg.runtime.pool import WorkerPool
from tests.benchmarks import support
from tests.support.models import make_models


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--json", type=Path)


async def measure(path: Path, seconds: float) -> dict[str, float]:
    gaps: list[float] = []
    pixels = np.zeros((256, 256, 3), np.uint8)

    async def tick() -> None:
        last = time.perf_counter()
        while True:
            await asyncio.sleep(0.001)
            now = time.perf_counter()
            gaps.append((now - last) * 1e3 - 1.0)
            last = now

    async with WorkerPool(Model(path, Card(name="slow"))) as pool:
        ticker = asyncio.create_task(tick())
        ends = time.perf_counter() + seconds
        model_ms = []
        while time.perf_counter() < ends:
            model_ms.append((await pool.run(pixels)).model_ms)
        ticker.cancel()
    p50, p99, top = np.percentile(gaps, (50, 99, 100))
    return {
        "model_ms": float(np.median(model_ms)),
        "lag_p50_ms": float(p50),
        "lag_p99_ms": float(p99),
        "lag_max_ms": float(top),
        "ticks": len(gaps),
    }


def run(arguments: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        make_models(Path(folder))
        result = asyncio.run(measure(Path(folder) / "very_slow.pte", arguments.seconds))
    for name, value in result.items():
        print(f"{name:<12} {value:10.2f}")
    support.write_json(arguments.json, "loop", dict(result))
