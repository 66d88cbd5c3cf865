"""PanopticSegmenter: models and cards that fit or do not fit each other."""

from __future__ import annotations

import asyncio
import sys
import time
from dataclasses import replace
from pathlib import Path

import anyio
import numpy as np
import pytest

from streamseg.errors import (
    InvalidModelOutputError,
    InvalidUserInputError,
    ModelGeneratingError,
    ModuleNotLoadedError,
)
from streamseg.models.card import Card, MaskRule, Model
from streamseg.models.registry import find_model
from streamseg.tasks.mask_rules import Thresholds
from streamseg.tasks.panoptic import PanopticSegmenter
from tests.support.transformers_models import exported_models

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(600),  # the first test that needs the models makes them
    pytest.mark.anyio,
]

LENIENT = Thresholds(score=0.1, mask=0.2, overlap=0.0)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return find_model(exported_models() / "maskformer.pte")


def with_card(model: Model, **changes: object) -> Model:
    values = {**model.card.model_dump(exclude_unset=True), **changes}
    return replace(model, card=Card.model_validate(values))


async def test_segments_have_ids_labels_and_masks_of_the_pictures_size(
    model: Model, assets: Path
) -> None:
    async with await PanopticSegmenter.load(model) as segmenter:
        assert segmenter.subtasks == ("panoptic", "instance", "semantic")
        found = await segmenter.forward(assets / "media" / "astronaut.png", thresholds=LENIENT)
    assert found.ids.shape == (512, 512)
    assert [each.id for each in found.segments] == list(range(1, len(found.segments) + 1))
    assert len(found.segments) > 1
    total = sum((found.mask(each) == 255).astype(int) for each in found.segments)
    np.testing.assert_array_equal(total, found.ids > 0)
    with pytest.raises(ModuleNotLoadedError):
        await segmenter.forward(assets / "media" / "astronaut.png")


async def test_labels_that_the_card_fuses_share_an_id(model: Model, assets: Path) -> None:
    path = assets / "media" / "astronaut.png"
    async with await PanopticSegmenter.load(model) as segmenter:
        apart = await segmenter.forward(path, thresholds=LENIENT)
    labels = [each.label_id for each in apart.segments]
    assert len(set(labels)) < len(labels)  # otherwise there is nothing to fuse
    rule = MaskRule(family="maskformer", fused=model.card.labels or ())
    async with await PanopticSegmenter.load(with_card(model, masks=rule)) as segmenter:
        fused = await segmenter.forward(path, thresholds=LENIENT)
    assert [each.label_id for each in fused.segments] == labels
    assert len({each.id for each in fused.segments}) == len(set(labels))


async def test_first_subtask_of_the_card_is_the_default(model: Model, assets: Path) -> None:
    rule = MaskRule(family="maskformer", subtasks=("semantic",))
    async with await PanopticSegmenter.load(with_card(model, masks=rule)) as segmenter:
        found = await segmenter.forward(assets / "media" / "astronaut.png")
        assert {each.score for each in found.segments} == {None}
        with pytest.raises(InvalidUserInputError, match="Subtask panoptic is not supported"):
            await segmenter.forward(assets / "media" / "astronaut.png", "panoptic")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": ("sky", "dog")}, "has 2 labels in its card, but returns logits of 9 classes"),
        ({"masks": MaskRule(family="maskformer", fused=("sea",))}, "fuses 'sea' in its card"),
        ({"task": "semantic-segmentation", "masks": None}, r"returns \[1, 8, 10\], expected"),
    ],
)
async def test_card_that_does_not_fit_the_model_is_refused(
    model: Model, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(InvalidModelOutputError, match=message):
        await PanopticSegmenter.load(with_card(model, **changes))


async def test_model_of_maps_is_no_model_of_queries() -> None:
    selfie = find_model("selfie")
    wrong = with_card(
        selfie, task="mask-classification", masks=MaskRule(family="maskformer"), labels=("a", "b")
    )
    with pytest.raises(InvalidModelOutputError, match="expected class logits"):
        await PanopticSegmenter.load(wrong)


async def test_second_call_at_once_is_the_documented_error(model: Model, assets: Path) -> None:
    path = assets / "media" / "cats_and_dogs.jpg"
    async with await PanopticSegmenter.load(model) as segmenter:
        first = asyncio.create_task(segmenter.forward(path))
        await asyncio.sleep(0)
        with pytest.raises(ModelGeneratingError):
            await segmenter.forward(path)
        assert (await first).ids.size > 0


async def test_cancelling_does_not_wait_for_a_large_picture(model: Model) -> None:
    large = np.random.default_rng(0).integers(0, 256, (6000, 8000, 3), np.uint8)
    async with await PanopticSegmenter.load(model, queue=True) as segmenter:
        task = asyncio.create_task(segmenter.forward(large, "semantic"))
        await asyncio.sleep(1)
        assert not task.done()
        started = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert time.monotonic() - started < 2


async def test_a_cancelled_call_does_not_keep_the_interpreter(model: Model) -> None:
    many_classes = model.path.with_name("mask2former.pte")
    code = (
        "import asyncio, sys, numpy as np\n"
        "from streamseg.tasks.panoptic import PanopticSegmenter\n"
        "async def main():\n"
        "    large = np.random.default_rng(0).integers(0, 256, (8000, 8000, 3), np.uint8)\n"
        "    async with await PanopticSegmenter.load(sys.argv[1]) as segmenter:\n"
        "        task = asyncio.create_task(segmenter.forward(large, 'semantic'))\n"
        "        await asyncio.sleep(1)\n"
        "        print(task.done(), flush=True)\n"
        "        task.cancel()\n"
        "        await asyncio.wait([task])\n"
        "asyncio.run(main())\n"
    )
    command = [sys.executable, "-c", code, str(many_classes)]
    async with await anyio.open_process(command, stderr=None) as process:
        assert process.stdout is not None
        assert (await process.stdout.receive()).strip() == b"False"
        started = time.monotonic()
        assert await process.wait() == 0
        assert time.monotonic() - started < 2
