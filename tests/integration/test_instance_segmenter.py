"""Instance segmentation by a real program in the real model process, against a known truth.

The models with names cannot be had without a network. This one knows only colours, but everything
else is as with them: it is exported, loaded and run in the same way, and what it finds in drawn
pictures is known to the pixel.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from pathlib import Path

import anyio
import av  # noqa: F401 - before cv2
import cv2
import numpy as np
import pytest
import torch
from torch import nn

from streamseg.convert import export_module
from streamseg.errors import (
    InvalidConfigError,
    InvalidModelOutputError,
    InvalidUserInputError,
    ModelGeneratingError,
)
from streamseg.models.card import Card, InstanceRule, Model
from streamseg.tasks.instance import Instance, InstanceSegmenter

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

INPUT = (160, 192)
LABELS = ("RED", "GREEN", "BLUE")
COLOURS = {"RED": (255, 0, 0), "GREEN": (0, 255, 0), "BLUE": (0, 0, 255)}
SIZES = [(160, 192), (480, 640), (97, 331), (1080, 1920), (640, 360)]


class ColourDetector(nn.Module):
    """Finds one object of each pure colour, and each a second time, a little beside it.

    Masks are a quarter of the input. What is not there has the score 0.
    """

    def __init__(self) -> None:
        super().__init__()
        height, width = INPUT
        weight = torch.full((3, 3, 1, 1), -1.0)
        weight[range(3), range(3)] = 1.0
        self.register_buffer("weight", weight)
        self.register_buffer("bias", torch.full((3,), -0.5))
        self.register_buffer("columns", torch.arange(width).float().reshape(1, 1, width))
        self.register_buffer("rows", torch.arange(height).float().reshape(1, 1, height))
        self.register_buffer("classes", torch.tensor([0.0, 1, 2, 0, 1, 2]).reshape(1, 6, 1))
        trust = torch.tensor([0.9, 0.8, 0.7, 0.65, 0.6, 0.55])
        self.register_buffer("trust", trust.reshape(1, 6, 1))
        beside = torch.zeros(1, 6, 4)
        beside[:, 3:] = 3.0
        self.register_buffer("beside", beside)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        likeness = nn.functional.conv2d(image, self.weight, self.bias)
        logits = nn.functional.avg_pool2d(20 * likeness.clamp(-0.5, 0.5), 4)
        there = (likeness * 1e4).clamp(0, 1)
        across, down = there.amax(2), there.amax(3)
        far = float(max(INPUT))
        box = torch.stack(
            [
                (self.columns + (1 - across) * far).amin(2),
                (self.rows + (1 - down) * far).amin(2),
                (self.columns * across).amax(2) + 1,
                (self.rows * down).amax(2) + 1,
            ],
            2,
        )
        boxes = torch.cat([box, box], 1) + self.beside
        found = across.amax(2)
        scores = torch.cat([found, found], 1).unsqueeze(2) * self.trust
        scored = torch.cat([scores, self.classes.expand(1, 6, 1) * 1.0], 2)
        return boxes, scored, torch.cat([logits, logits], 1)


class Transposed(nn.Module):
    """Returns boxes as [1, 4, N]."""

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        small = nn.functional.avg_pool2d(image, 8)
        return small[:, :, :4, 0].transpose(1, 2), small[:, :, :2, 0], small


class NotFinite(nn.Module):
    """Returns boxes and scores that are no numbers for pictures that are black."""

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        small = nn.functional.avg_pool2d(image, 8)
        return torch.log(small[:, :, :4, 0] - 1e-9), torch.log(small[:, :, :2, 1] - 1e-9), small


MODULES = {
    "colours": (ColourDetector, INPUT),
    "transposed": (Transposed, (64, 64)),
    "not_finite": (NotFinite, (64, 64)),
}


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the exported modules; made once per version of them and of the exporter."""
    root = Path(__file__).parents[2]
    sources = [Path(__file__), *sorted((root / "streamseg" / "convert").glob("[!_]*.py"))]
    key = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:16]
    folder = root / ".cache" / "test-models" / f"instance-{key}"
    if not folder.exists():
        mine = folder.with_name(f"{folder.name}.{os.getpid()}")
        mine.mkdir(parents=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the export stack of ExecuTorch, about itself
            for name, (module, (height, width)) in MODULES.items():
                path = mine / f"{name}.pte"
                export_module(module().eval(), (1, 3, height, width), path, delegate="any")
        try:
            mine.rename(folder)
        except OSError:  # another test process was quicker
            assert folder.exists()
    return folder


def model(
    programs: Path, name: str = "colours", *, letterbox: bool = False, **rule: object
) -> Model:
    card = Card(
        name=name,
        task="instance-segmentation",
        labels=LABELS,
        letterbox=letterbox,
        instance=InstanceRule.model_validate(rule),
    )
    return Model(programs / f"{name}.pte", card)


def draw(size: tuple[int, int], *labels: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return a picture and the true mask of each object in it."""
    height, width = size
    pixels = np.full((*size, 3), 90, np.uint8)
    truth = {}
    for label in labels:
        mask = np.zeros(size, np.uint8)
        if label == "RED":
            centre, axes = (width // 4, height // 3), (width // 6, height // 4)
            cv2.ellipse(mask, centre, axes, 0, 0, 360, 1, -1)
        elif label == "GREEN":
            mask[height // 2 : height - height // 10, width // 2 : width - width // 8] = 1
        else:
            corners = [(width // 2, height // 3), (width * 9 // 10, 0), (width * 8 // 9, 5)]
            corners[-1] = (width * 9 // 10, height * 4 // 9)
            cv2.fillPoly(mask, [np.array(corners)], 1)
        pixels[mask > 0] = COLOURS[label]
        truth[label] = mask
    return pixels, truth


def box_of(mask: np.ndarray) -> np.ndarray:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], float)


def overlap(first: np.ndarray, second: np.ndarray) -> float:
    return float((first & second).sum() / (first | second).sum())


def expect_truth(found: list[Instance], truth: dict[str, np.ndarray], letterbox: bool) -> None:
    assert sorted(i.label for i in found) == sorted(truth)
    assert [i.score for i in found] == sorted((i.score for i in found), reverse=True)
    for each in found:
        mask = truth[each.label]
        height, width = mask.shape
        steps = np.array([width / INPUT[1], height / INPUT[0]] * 2)
        if letterbox:
            steps[:] = max(steps)
        apart = np.abs(np.array(each.bbox) - box_of(mask)) / np.maximum(steps, 1)
        assert apart.max() <= 1.01, f"{each}: {apart} pixels of the model away"
        whole = each.whole_mask()
        assert whole.shape == mask.shape
        assert set(np.unique(each.mask)) <= {0, 1}
        top, left, bottom, right = each.area
        assert each.mask.shape == (bottom - top, right - left)
        similarity = overlap(whole, mask)
        print(f"{mask.shape} {each.label}: IoU {similarity:.4f}")
        # The model's masks are 40x48, less the bars.
        assert similarity >= 0.9, f"{each}: IoU {similarity:.3f}"


@pytest.mark.parametrize("letterbox", [False, True])
async def test_boxes_and_masks_are_the_truth_at_every_size(programs: Path, letterbox: bool) -> None:
    async with await InstanceSegmenter.load(model(programs, letterbox=letterbox)) as segmenter:
        assert segmenter.labels == LABELS
        for size in SIZES:
            if letterbox and size == (97, 331):
                continue  # its masks would be 14 samples high
            pixels, truth = draw(size, *LABELS)
            expect_truth(await segmenter.forward(pixels), truth, letterbox)


async def test_masks_of_the_model_s_resolution_are_the_same_objects(programs: Path) -> None:
    pixels, truth = draw((480, 640), *LABELS)
    async with await InstanceSegmenter.load(model(programs)) as segmenter:
        found = await segmenter.forward(pixels, return_mask_at_original_resolution=False)
    for each in found:
        assert each.mask.size < 40 * 48
        assert overlap(each.whole_mask(), truth[each.label]) >= 0.8


async def test_duplicates_confidence_number_and_classes_are_the_caller_s(programs: Path) -> None:
    pixels, _ = draw((480, 640), *LABELS)

    async def labels(**options: object) -> list[str]:
        return [i.label for i in await segmenter.forward(pixels, **options)]

    async with await InstanceSegmenter.load(model(programs)) as segmenter:
        assert await labels() == ["RED", "GREEN", "BLUE"]
        # The second box of each lies three pixels beside the first: an IoU of about 0.85.
        assert await labels(iou_threshold=0.9) == ["RED", "GREEN", "BLUE", "RED", "GREEN", "BLUE"]
        assert await labels(iou_threshold=0.7) == ["RED", "GREEN", "BLUE"]
        assert await labels(max_instances=2) == ["RED", "GREEN"]
        assert await labels(confidence_threshold=0.75) == ["RED", "GREEN"]
        assert await labels(confidence_threshold=0.95) == []
        assert await labels(classes_of_interest=["blue"]) == ["BLUE"]
        with pytest.raises(InvalidUserInputError, match="PURPLE"):
            await labels(classes_of_interest=["PURPLE"])
        with pytest.raises(InvalidUserInputError, match="is None, expected a list"):
            await labels(classes_of_interest=None)
        with pytest.raises(InvalidConfigError, match="confidence_threshold is 2"):
            await labels(confidence_threshold=2)
        assert not segmenter.is_generating
        assert await labels(classes_of_interest=["green"]) == ["GREEN"]


async def test_card_says_what_is_chosen(programs: Path) -> None:
    pixels, _ = draw((480, 640), *LABELS)
    fast_sam = model(programs, iou=0.9, confidence=0.58, max_instances=4)
    async with await InstanceSegmenter.load(fast_sam) as segmenter:
        assert [i.label for i in await segmenter.forward(pixels)] == ["RED", "GREEN", "BLUE", "RED"]
    async with await InstanceSegmenter.load(model(programs, suppress=False)) as segmenter:
        assert len(await segmenter.forward(pixels, iou_threshold=0.1)) == 6


async def test_picture_without_objects_has_none(programs: Path) -> None:
    pixels, _ = draw((480, 640))
    async with await InstanceSegmenter.load(model(programs)) as segmenter:
        assert await segmenter.forward(pixels) == []
        one, truth = draw((480, 640), "GREEN")
        expect_truth(await segmenter.forward(one), truth, letterbox=False)


async def test_two_calls_at_once_are_error_104_or_wait(programs: Path) -> None:
    pixels, _ = draw((480, 640), *LABELS)
    results: list[object] = []

    async def call(segmenter: InstanceSegmenter) -> None:
        try:
            results.append(len(await segmenter.forward(pixels)))
        except ModelGeneratingError as exc:
            results.append(exc.code)

    for queue, expected in ((False, [104, 3]), (True, [3, 3])):
        results.clear()
        async with await InstanceSegmenter.load(model(programs), queue=queue) as segmenter:
            async with anyio.create_task_group() as group:
                group.start_soon(call, segmenter)
                group.start_soon(call, segmenter)
        assert sorted(results, key=str) == expected


async def test_transposed_outputs_are_refused_when_the_model_is_loaded(programs: Path) -> None:
    with pytest.raises(
        InvalidModelOutputError, match=r"transposed\.pte: .* are \[1, 4, 3\]"
    ) as caught:
        await InstanceSegmenter.load(model(programs, "transposed"))
    assert caught.value.code == 115


async def test_outputs_that_are_no_numbers_are_error_115(programs: Path) -> None:
    async with await InstanceSegmenter.load(model(programs, "not_finite")) as segmenter:
        with pytest.raises(InvalidModelOutputError, match=r"score that is not finite"):
            await segmenter.forward(np.zeros((64, 64, 3), np.uint8))


async def test_semantic_model_is_error_112() -> None:
    with pytest.raises(InvalidConfigError, match=r"selfie.* is a model for semantic-segmentation"):
        await InstanceSegmenter.load("selfie")


def test_blocking_form_returns_the_same(programs: Path) -> None:
    pixels, truth = draw((480, 640), *LABELS)
    with InstanceSegmenter.blocking(model(programs)) as segmenter:
        expect_truth(segmenter.forward(pixels), truth, letterbox=False)
        assert len(segmenter.forward(pixels, max_instances=1)) == 1
