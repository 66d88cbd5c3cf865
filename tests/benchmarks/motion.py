"""What moving an old mask to the current frame brings and costs, against leaving it where it was."""

from __future__ import annotations

import argparse
import statistics
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import av
import cv2
import numpy as np
from numpy.typing import NDArray

from streamseg import load_segmenter
from streamseg.frames import Frame
from streamseg.masks.displacement import Estimator, Warp, small_luma
from streamseg.masks.motion import MotionCompensation
from streamseg.segmentation import Segmentation
from tests.benchmarks import support
from tests.benchmarks.support import media, print_table, spread

SIZE = 160
TABLES: dict[str, Callable[[Any], str]] = {
    "IoU at 0.5": lambda cell: f"{cell['iou']:.3f}",
    "mean absolute difference * 1000": lambda cell: f"{cell['difference'] * 1e3:.1f}",
    "CPU ms a frame": lambda cell: f"{cell['cpu_ms']['median']:.2f}",
}
Mover = Callable[[Frame, Frame, Segmentation], Segmentation]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--lags", type=int, nargs="+", default=[1, 2, 3, 6, 10])
    parser.add_argument("--size", type=int, default=SIZE, help="long side of the luma worked on")
    parser.add_argument("--every", type=int, default=1, help="compare every so many frames")
    parser.add_argument("--others", action="store_true", help="other methods as well")
    parser.add_argument("--json", type=Path)


def direct(estimate: Callable[[Any, Any], Any]) -> Mover:
    """Estimate from the frame to the mask's frame in one step, however far apart, unchecked."""
    warp = Warp()

    def move(made_for: Frame, frame: Frame, segmentation: Segmentation) -> Segmentation:
        later, earlier = small_luma(frame.video, SIZE), small_luma(made_for.video, SIZE)
        assert later is not None
        assert earlier is not None
        (label, mask), *_ = segmentation.masks.items()
        field = estimate(later, earlier)
        if isinstance(field, tuple):  # one translation for the whole picture
            field = np.broadcast_to(np.float32(field), (*later.shape, 2)).copy()
        return segmentation.with_masks({label: warp([mask], field)[0]})

    return move


def farneback(later: NDArray[np.uint8], earlier: NDArray[np.uint8]) -> NDArray[np.float32]:
    field = cv2.calcOpticalFlowFarneback(later, earlier, None, 0.5, 4, 9, 2, 5, 1.1, 0)
    return np.asarray(field, np.float32)


def translation(later: NDArray[np.uint8], earlier: NDArray[np.uint8]) -> tuple[float, float]:
    window = cv2.createHanningWindow(later.shape[::-1], cv2.CV_32F)
    (x, y), _ = cv2.phaseCorrelate(later.astype(np.float32), earlier.astype(np.float32), window)
    return x, y


def movers(arguments: argparse.Namespace) -> dict[str, Mover]:
    found: dict[str, Mover] = {
        "as it was": lambda _made_for, _frame, segmentation: segmentation,
        "moved": MotionCompensation(size=arguments.size).apply,
    }
    if arguments.others:
        found["one translation"] = direct(translation)
        found["Farneback, one step"] = direct(farneback)
        found["DIS, one step"] = direct(Estimator())
    return found


def compare(got: NDArray[np.float32], want: NDArray[np.float32]) -> tuple[float, float] | None:
    """Return IoU at 0.5 and mean absolute difference, None where nobody is in either mask."""
    inside, wanted = got > 0.5, want > 0.5
    either = int(np.count_nonzero(inside | wanted))
    if either < 0.003 * want.size:
        return None
    both = int(np.count_nonzero(inside & wanted))
    return both / either, float(np.abs(got - want).mean())


async def measure(clip: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Run all movers over a clip with masks of each lag: name -> lag -> figures."""
    lags: list[int] = arguments.lags
    running = {lag: movers(arguments) for lag in lags}
    scores: dict[tuple[str, int], list[tuple[float, float]]] = {}
    spent: dict[tuple[str, int], list[float]] = {}
    past: deque[tuple[Frame, Segmentation]] = deque(maxlen=max(lags) + 1)
    async with load_segmenter("selfie") as segmenter:
        with av.open(str(clip)) as container:
            for index, video in enumerate(container.decode(video=0)):
                frame = Frame(video, index, 0.0)
                past.append((frame, await segmenter.segment(frame)))
                (want,) = past[-1][1].masks.values()
                for lag in lags:
                    if len(past) <= lag:  # a pipeline shows it every frame
                        running[lag]["moved"](frame, frame, past[-1][1])
                        continue
                    made_for, segmentation = past[-1 - lag]
                    for name, move in running[lag].items():
                        started = time.thread_time()
                        moved = move(made_for, frame, segmentation) or segmentation
                        took = (time.thread_time() - started) * 1e3
                        spent.setdefault((name, lag), []).append(took)
                        (got,) = moved.masks.values()
                        score = compare(got, want) if index % arguments.every == 0 else None
                        if score is not None:
                            scores.setdefault((name, lag), []).append(score)
    figures: dict[str, Any] = {}
    for (name, lag), values in scores.items():
        figures.setdefault(name, {})[lag] = {
            "iou": round(statistics.fmean(iou for iou, _ in values), 4),
            "difference": round(statistics.fmean(far for _, far in values), 5),
            "cpu_ms": spread(spent[name, lag]),
        }
    return figures


def run(arguments: argparse.Namespace) -> None:
    cv2.setNumThreads(1)  # as the command line does
    results = {path.stem: anyio.run(measure, path, arguments) for path in media()}
    lags = [str(lag) for lag in arguments.lags]
    for title, show in TABLES.items():
        rows = [
            [f"{clip}: {name}", *(show(found[lag]) for lag in arguments.lags if lag in found)]
            for clip, names in results.items()
            for name, found in names.items()
        ]
        print_table([f"{title}, mask this many frames old", *lags], rows)
        print()
    names = list(next(iter(results.values())))
    rows = []
    for name in names:
        cells = [found for clip in results.values() for found in clip[name].values()]
        rows.append(
            [
                name,
                f"{statistics.fmean(cell['iou'] for cell in cells):.4f}",
                f"{statistics.fmean(cell['difference'] for cell in cells) * 1e3:.2f}",
                f"{statistics.median(cell['cpu_ms']['median'] for cell in cells):.2f}",
            ]
        )
    print_table(["all clips and lags", "IoU", "difference * 1000", "CPU ms a frame"], rows)
    support.write_json(arguments.json, "motion", results)
