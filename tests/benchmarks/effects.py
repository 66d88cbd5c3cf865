"""Processor time of each effect and of the mask filters, in milliseconds a frame."""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import anyio
import av
import cv2

from streamseg.abc import Effect, MaskFilter
from streamseg.effects.registry import EFFECTS, create_effect
from streamseg.frames import Frame
from streamseg.masks.refinement import EdgeRefinement
from streamseg.masks.smoothing import TemporalSmoothing
from streamseg.segmentation import Segmentation
from streamseg.session.parts import load_segmenter
from tests.benchmarks import support
from tests.benchmarks.support import make_clip, print_table, spread


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--frames", type=int, default=120)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)


async def segmented(clip: Path, frames: int) -> list[tuple[Frame, Segmentation]]:
    pairs = []
    async with load_segmenter("selfie") as segmenter:
        with av.open(str(clip)) as container:
            for index, video in enumerate(container.decode(video=0)):
                if index == frames:
                    break
                frame = Frame(video, index, 0.0)
                pairs.append((frame, await segmenter.segment(frame)))
    return pairs


def run(arguments: argparse.Namespace) -> None:
    cv2.setNumThreads(1)  # as the command line does
    times: dict[str, list[float]] = {}
    results: dict[str, dict[str, dict[str, float]]] = {}
    for size in support.SIZES:
        pairs = anyio.run(segmented, make_clip(size, 300), arguments.frames)
        refinement, smoothing = EdgeRefinement(), TemporalSmoothing()
        refined = [(frame, refinement.apply(frame, seg)) for frame, seg in pairs]
        stages: dict[str, tuple[Effect | MaskFilter, list[tuple[Frame, Segmentation]]]] = {
            "smoothing": (smoothing, pairs),
            "edge refinement": (refinement, pairs),
        }
        scores = {"GOLDEN_RETRIEVER": 0.62, "LABRADOR_RETRIEVER": 0.21, "TENNIS_BALL": 0.09}
        scored = [
            (frame, replace(seg, labels=tuple(scores), scores=scores)) for frame, seg in pairs
        ]
        stages |= {
            f"effect {name}": (create_effect(name), scored if name == "labels" else refined)
            for name in EFFECTS
            if name != "none"
        }
        lined = create_effect("tint", {"contours": 0.4, "legend": True})
        stages["effect tint, contours, legend"] = (lined, refined)
        times = {}
        for _ in range(arguments.rounds):
            for name, (stage, inputs) in stages.items():
                started = time.process_time()
                for frame, segmentation in inputs:
                    stage.apply(frame, segmentation)
                spent = (time.process_time() - started) * 1e3 / len(inputs)
                times.setdefault(name, []).append(spent)
        results[size] = {name: spread(values) for name, values in times.items()}
    rows = [
        [name, *(f"{values[name]['median']:.2f}" for values in results.values())] for name in times
    ]
    print_table(["CPU ms a frame", *results], rows)
    support.write_json(arguments.json, "effects", results)
