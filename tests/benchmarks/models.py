"""Models: time, memory and loading of each, beside LiteRT or eager PyTorch; what a call costs.

Every pair is measured in processes of their own, one after the other, in several rounds. The
architectures of torchvision have random weights: what they say does not matter here. At the end
stands a line for each bar, ``met`` or ``missed``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from operator import truediv
from pathlib import Path
from typing import Any

import numpy as np

from streamseg.models.card import Card, Model
from streamseg.models.registry import find_model
from tests.benchmarks import support
from tests.benchmarks.models_verdicts import Verdict, beside_litert, of_forward, of_int8
from tests.benchmarks.support import CACHE, print_table
from tests.support import torchvision_models

SIZE = 224  # as the models that can be fetched have it
MEDIAPIPE = "mediapipe==0.10.21"
INSIDE = "mediapipe/modules/selfie_segmentation/"
TORCHVISION = ("lraspp_mobilenet_v3_large", "deeplabv3_resnet50", "mobilenet_v2")
INT8_GRAPH = "deeplabv3_resnet50"
_CALLS = 300
_WARMING = 10


@dataclass(frozen=True)
class Candidate:
    """One engine's way of running one graph."""

    graph: str
    engine: str
    kind: str
    what: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.5, help="of each measurement")
    parser.add_argument("--json", type=Path)


def run(arguments: argparse.Namespace) -> None:
    candidates = [*tflite_candidates(), *torchvision_candidates()]
    models = called_models()
    found: dict[tuple[Candidate, int], list[dict[str, float]]] = {}
    calls: dict[str, list[dict[str, float]]] = {}
    for number in range(arguments.rounds):
        # Engines of one graph follow each other, every other round the other way round.
        for candidate in candidates if number % 2 == 0 else reversed(candidates):
            for threads in (1, 2):
                print(f"\rround {number + 1}: {candidate.graph:<30}", end="", file=sys.stderr)
                result = measure(candidate, threads, arguments.seconds)
                found.setdefault((candidate, threads), []).append(result)
        for name, model in models.items():
            print(f"\rround {number + 1}: {'calls of ' + name:<30}", end="", file=sys.stderr)
            calls.setdefault(name, []).append(asyncio.run(cost_of_call(model)))
    print(file=sys.stderr)
    rows = [summary(candidate, threads, runs) for (candidate, threads), runs in found.items()]
    references = {
        (row["graph"], row["threads"]): row["times_ms"]
        for row in rows
        if row["engine"] in ("LiteRT", "eager PyTorch")
    }
    for row in rows:
        others = references[row["graph"], row["threads"]]
        row["of_reference"] = statistics.median(map(truediv, row["times_ms"], others))
    print_table(
        ["graph", "engine", "threads", "ms", "spread", "of reference", "load ms", "MB"],
        [
            [
                row["graph"],
                row["engine"],
                str(row["threads"]),
                f"{row['ms']:.2f}",
                f"{row['low_ms']:.2f}-{row['high_ms']:.2f}",
                f"{row['of_reference']:.2f}",
                f"{row['load_ms']:.0f}",
                f"{row['memory_mb']:.0f}",
            ]
            for row in rows
        ],
    )
    print()
    print_table(
        ["512x512 picture, masks at the model's size", "call ms", "in the process", "beside it"],
        [
            [
                name,
                *(
                    f"{statistics.median(each[key] for each in rounds):.2f}"
                    for key in ("ms", "process_ms", "beside_ms")
                ),
            ]
            for name, rounds in calls.items()
        ],
    )
    judged = verdicts(rows, calls)
    print()
    for verdict in judged:
        print(verdict)
    results = {
        "models": rows,
        "calls": calls,
        "verdicts": [{"met": verdict.met, "text": str(verdict)} for verdict in judged],
    }
    support.write_json(arguments.json, "models", results)


def verdicts(rows: list[dict[str, Any]], calls: dict[str, list[dict[str, float]]]) -> list[Verdict]:
    """Hold the figures against the bars; what is missed is told, and is no error."""
    times = {(row["graph"], row["engine"], row["threads"]): row["times_ms"] for row in rows}
    found = []
    for (graph, engine, threads), own in times.items():
        litert = times.get((graph, "LiteRT", threads))
        int8 = times.get((graph, "streamseg int8", threads))
        if engine == "streamseg" and litert is not None:
            found.append(beside_litert(graph, threads, own, litert))
        if engine == "streamseg" and int8 is not None and graph == INT8_GRAPH:
            found.append(of_int8(graph, threads, own, int8))
    return found + [
        of_forward(name, [each["own_ms"] for each in rounds]) for name, rounds in calls.items()
    ]


def tflite_candidates() -> list[Candidate]:
    folder = torchvision_models.unpacked(MEDIAPIPE, lambda name: name.startswith(INSIDE)) / INSIDE
    graphs = {
        "selfie": folder / "selfie_segmentation.tflite",
        "selfie-landscape": folder / "selfie_segmentation_landscape.tflite",
    }
    programs = {name: find_model(name).path for name in graphs}
    deeplab = deeplab_tflite()
    if deeplab is not None:
        graphs["deeplab-257"] = deeplab
        programs["deeplab-257"] = program("deeplab-257", "tflite", str(deeplab))
    found = []
    for name, path in graphs.items():
        found.append(Candidate(name, "streamseg", "executorch", str(programs[name])))
        found.append(Candidate(name, "LiteRT", "litert", str(path)))
    return found


def torchvision_candidates() -> list[Candidate]:
    pictures = str(torchvision_models.real_pictures())
    found = []
    for name in TORCHVISION:
        size = f"{SIZE}x{SIZE}"
        random = ("torchvision", name, "--random-weights", "--seed", "0", "--size", size)
        plain = program(name, *random)
        small = program(f"{name}-int8", *random, "--int8", "--calibrate", pictures)
        found += [
            Candidate(name, "streamseg", "executorch", str(plain)),
            Candidate(name, "streamseg int8", "executorch", str(small)),
            Candidate(name, "eager PyTorch", "eager", f"{name}:{SIZE}:{SIZE}"),
        ]
    return found


def deeplab_tflite() -> Path | None:
    folder = os.environ.get("STREAMSEG_TEST_ASSETS")
    path = Path(folder or "", "weights", "deeplabv3_257_voc21.tflite")
    return path if path.exists() else None


def program(name: str, *export: str) -> Path:
    """Export a model by the command line, once."""
    path = CACHE / "models" / f"{name}.pte"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        print(f"exporting {name}", file=sys.stderr)
        command = [sys.executable, "-m", "streamseg", "export", *export, "-o", str(path)]
        folder = str(torchvision_models.torchvision_folder())
        subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": folder})
    return path


def measure(candidate: Candidate, threads: int, seconds: float) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.benchmarks.models_job"]
    command += [candidate.kind, candidate.what, str(threads), str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=support.ROOT)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr}")
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def summary(candidate: Candidate, threads: int, runs: list[dict[str, float]]) -> dict[str, Any]:
    times = [result["ms"] for result in runs]
    return {
        "graph": candidate.graph,
        "engine": candidate.engine,
        "threads": threads,
        "ms": statistics.median(times),
        "low_ms": min(times),
        "high_ms": max(times),
        "times_ms": times,
        "load_ms": statistics.median(result["load_ms"] for result in runs),
        "memory_mb": statistics.median(result["memory_mb"] for result in runs),
    }


def called_models() -> dict[str, Model]:
    models = {"selfie": find_model("selfie")}
    path = CACHE / "models" / "deeplab-257.pte"
    if path.exists():
        half = (0.5, 0.5, 0.5)
        models["deeplab-257"] = Model(path, Card(name="deeplab-257", mean=half, std=half))
    return models


async def cost_of_call(model: Model) -> dict[str, float]:
    """How long ``forward`` takes; how much of that is the process's, and not the model's."""
    from streamseg.tasks.semantic import SemanticSegmenter

    picture = np.random.default_rng(0).integers(0, 256, (512, 512, 3), np.uint8)
    walls, process, beside, own = [], [], [], []
    async with await SemanticSegmenter.load(model, threads=2) as segmenter:
        for number in range(_WARMING + _CALLS):
            before = time.perf_counter()
            result = await segmenter.forward(picture, resize_to_input=False)
            wall = (time.perf_counter() - before) * 1e3
            if number < _WARMING:
                continue
            walls.append(wall)
            process.append(result.model_ms - result.inference_ms)
            beside.append(wall - result.model_ms)
            own.append(wall - result.inference_ms)
    return {
        "ms": statistics.median(walls),
        "process_ms": statistics.median(process),
        "beside_ms": statistics.median(beside),
        "own_ms": statistics.median(own),
    }
