"""Whoever cancels a call does not wait for masks that take seconds to enlarge."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from streamseg.models.card import Card, Model
from streamseg.runtime.pool import ModelResult
from streamseg.tasks import image_segmenter, semantic
from streamseg.tasks.image_segmenter import ImageSegmenter
from streamseg.tasks.images import Picture
from streamseg.tasks.semantic import SemanticSegmenter

PIXELS = np.zeros((9, 9, 3), np.uint8)


def forward(segmenter: Any) -> Awaitable[object]:
    return segmenter.forward(PIXELS, "all")


def segment_for_video(segmenter: Any) -> Awaitable[object]:
    return segmenter.segment_for_video(PIXELS, 0)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("module", "segmenter", "call"),
    [
        (semantic, SemanticSegmenter("selfie"), forward),
        (
            image_segmenter,
            ImageSegmenter("selfie", running_mode="video", output_type="both"),
            segment_for_video,
        ),
    ],
    ids=["semantic", "video"],
)
async def test_enlarging_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
    module: ModuleType,
    segmenter: Any,
    call: Callable[[Any], Awaitable[object]],
) -> None:
    begun, ended = threading.Event(), threading.Event()

    def endless(masks: object, card: Card, size: object, check: Callable[[], None]) -> None:
        begun.set()
        try:
            for _ in range(1000):
                check()
                time.sleep(0.02)
        finally:
            ended.set()

    async def run(image: object, classes: object) -> tuple[Picture, ModelResult]:
        maps = np.zeros((2, 4, 4), np.float32)
        return Picture(PIXELS), ModelResult(maps, np.zeros((4, 4), np.uint8), 1.0, 1.0)

    monkeypatch.setattr(module, "enlarge_masks", endless)
    monkeypatch.setattr(segmenter, "_run", run)
    monkeypatch.setattr(segmenter, "_opened", lambda: None)
    segmenter._labels, segmenter._model = ("A", "B"), Model(Path("a.pte"), Card(name="a"))
    task = asyncio.ensure_future(call(segmenter))
    while not begun.is_set():
        await asyncio.sleep(0.001)
    task.cancel()
    started = time.monotonic()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert time.monotonic() - started < 2
    assert ended.wait(2)
    assert not segmenter.is_generating
