"""A detector of YOLO26's architecture, exported and run, against Ultralytics' own results."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

import streamseg
from tests.support import yolo_model
from tests.support.torchvision_models import export_once

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.mark.anyio
async def test_yolo26_finds_what_ultralytics_finds() -> None:
    picture = Path(os.environ["STREAMSEG_TEST_ASSETS"]) / "media" / "cats_and_dogs.jpg"
    folder = export_once(
        "yolo",
        ["-m", yolo_model.__name__, "FOLDER", str(picture)],
        [Path(yolo_model.__file__), picture],
    )
    with np.load(folder / "expected.npz") as expected:
        rows, masks = expected["rows"], expected["masks"]
    async with await streamseg.InstanceSegmenter.load(folder / "yolo.pte") as segmenter:
        found = list(await segmenter.forward(folder / "picture.png"))
    assert len(found) == len(rows) > 10
    left = list(range(len(rows)))
    side = yolo_model.SIDE
    for each in found:
        box = np.array([each.bbox.x1, each.bbox.y1, each.bbox.x2, each.bbox.y2])
        boxes = rows[left, :4].clip(0, side)
        nearest = left.pop(int(np.abs(boxes - box).sum(1).argmin()))
        assert np.abs(rows[nearest, :4].clip(0, side) - box).max() < 0.01
        assert each.score == pytest.approx(rows[nearest, 4], abs=1e-4)
        # Its masks are scaled before they are cut by their box; ours are cut at the box's edge.
        assert (each.whole_mask().astype(bool) == masks[nearest]).mean() > 0.99
