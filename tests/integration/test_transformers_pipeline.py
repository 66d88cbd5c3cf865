"""Our pipeline against transformers' own: the same models, the same pictures, the same results."""

from __future__ import annotations

import asyncio
import base64
import gc
import io
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

from streamseg.errors import InvalidConfigError, ModuleNotLoadedError, StreamsegError
from streamseg.tasks.mask_rules import (
    Thresholds,
    class_segments,
    largest_class,
    query_class_maps,
    query_segments,
)
from streamseg.tasks.semantic import SemanticSegmenter
from streamseg.tasks.transformers_pipeline import ImageSegmentationPipeline, pipeline
from tests.support.transformers_models import exported_models

pytestmark = [
    pytest.mark.integration,
    # torch and transformers warn about themselves in many ways, none of them ours.
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.timeout(600),  # the first test that needs the models makes them
]

PICTURES = ("astronaut.png", "cats_and_dogs.jpg", "grace_hopper.jpg", "three_people.jpg")
# Random weights are seldom sure: with the defaults alone, little would be compared.
LENIENT = {"threshold": 0.1, "mask_threshold": 0.2, "overlap_mask_area_threshold": 0.0}
CASES = [
    ("segformer", "semantic"),
    *(
        (name, subtask)
        for name in ("maskformer", "mask2former", "detr")
        for subtask in ("panoptic", "instance", "semantic")
    ),
]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported_models()


@pytest.fixture(scope="module")
def references(exported: Path) -> Any:
    """transformers' pipelines, by name; each is made when it is first asked for."""
    import torch
    import transformers

    torch.set_num_threads(1)  # others want the cores too
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    made: dict[str, Any] = {}

    def get(name: str) -> Any:
        if name not in made:
            made[name] = transformers.pipeline("image-segmentation", model=str(exported / name))
        return made[name]

    return get


@pytest.fixture(scope="module")
def ours(exported: Path) -> Any:
    made: dict[str, ImageSegmentationPipeline] = {}

    def get(name: str) -> ImageSegmentationPipeline:
        if name not in made:
            made[name] = pipeline("image-segmentation", model=exported / f"{name}.pte")
        return made[name]

    yield get
    for each in made.values():
        each.close()


def expect_same(ours: list[Any], theirs: list[Any]) -> int:
    """Compare the segments of one picture; return how many there are."""
    assert [_plain(each["label"]) for each in ours] == [each["label"] for each in theirs]
    for one, other in zip(ours, theirs, strict=True):
        assert set(one) == set(other) == {"score", "label", "mask"}
        if other["score"] is None:
            assert one["score"] is None
        else:
            assert one["score"] == pytest.approx(other["score"], abs=1e-3)
            assert one["score"] == round(one["score"], 6)
        mask, expected = one["mask"], other["mask"]
        assert (mask.mode, mask.size) == (expected.mode, expected.size) == ("L", mask.size)
        values, wanted = np.array(mask), np.array(expected)
        assert set(np.unique(values)) <= {0, 255}
        assert (values == wanted).mean() >= 0.999
    return len(ours)


def _plain(label: str) -> str:
    return "N/A" if label == "N/A_7" else label  # a card's labels are different from each other


# -- the results --------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "subtask"), CASES)
def test_segments_are_those_of_transformers(
    name: str, subtask: str, references: Any, ours: Any, assets: Path
) -> None:
    found = 0
    masks = set()
    for picture in PICTURES:
        path = str(assets / "media" / picture)
        choices: list[dict[str, float]] = [{}]  # thresholds are not used for classes
        if subtask != "semantic":
            choices = [{}, LENIENT] if picture == PICTURES[0] else [LENIENT]
        for choice in choices:
            mine = ours(name)(path, subtask=subtask, **choice)
            found += expect_same(mine, references(name)(path, subtask=subtask, **choice))
            masks |= {each["mask"].tobytes() for each in mine}
    # Something was compared, and not the same thing again and again.
    assert found >= len(PICTURES)
    assert len(masks) >= len(PICTURES)


@pytest.mark.parametrize("name", ["segformer", "maskformer", "mask2former", "detr"])
def test_without_a_subtask_it_is_the_one_that_transformers_takes(
    name: str, references: Any, ours: Any, assets: Path
) -> None:
    path = str(assets / "media" / PICTURES[1])
    mine = ours(name)(path, **LENIENT)
    assert expect_same(mine, references(name)(path, **LENIENT)) > 0


def test_list_in_is_list_of_lists_out(references: Any, ours: Any, assets: Path) -> None:
    paths = [str(assets / "media" / name) for name in PICTURES]
    theirs = references("maskformer")(paths, threshold=0.3)
    for batch_size in (1, 3):
        mine = ours("maskformer")(paths, threshold=0.3, batch_size=batch_size)
        assert sum(map(expect_same, mine, theirs)) > len(paths)
    assert len(ours("maskformer")(paths[:1])) == 1
    assert ours("maskformer")([]) == []


def pictures_of_every_kind(path: Path, folder: Path) -> dict[str, Any]:
    """Return the same picture in the ways in which transformers takes it."""
    rgb = Image.open(path).convert("RGB").resize((150, 110))
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn
    rgb.save(folder / "turned.jpg", exif=exif)
    grey, alpha = rgb.convert("L"), Image.linear_gradient("L").resize(rgb.size)
    veiled = rgb.copy()
    veiled.putalpha(alpha)
    pale = grey.copy()
    pale.putalpha(alpha)
    veiled.save(folder / "rgba.png")
    buffer = io.BytesIO()
    rgb.save(buffer, "PNG")
    encoded = base64.b64encode(buffer.getvalue()).decode()
    return {
        "EXIF": str(folder / "turned.jpg"),
        "L": grey,
        "LA": pale,
        "RGBA": veiled,
        "RGBA file": str(folder / "rgba.png"),
        "palette": rgb.quantize(32),
        "base64": encoded,
        "data URI": f"data:image/png;base64,{encoded}",
    }


def test_pictures_of_every_kind_are_read_as_transformers_reads_them(
    references: Any, ours: Any, assets: Path, tmp_path: Path
) -> None:
    pictures = pictures_of_every_kind(assets / "media" / PICTURES[0], tmp_path)
    for kind, picture in pictures.items():
        mine = ours("segformer")(picture)
        assert expect_same(mine, references("segformer")(picture)) > 1, kind
        assert mine[0]["mask"].size == ((110, 150) if kind == "EXIF" else (150, 110)), kind


@pytest.mark.parametrize("family", ["maskformer", "mask2former", "detr"])
def test_rules_are_those_of_the_image_processors_on_any_logits(family: str) -> None:
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    import cv2

    transformers.logging.set_verbosity_error()
    kind = {"maskformer": "MaskFormer", "mask2former": "Mask2Former", "detr": "Detr"}[family]
    processor = getattr(transformers, f"{kind}ImageProcessorPil")()
    random = np.random.default_rng(1)
    compared = 0
    # Fewer and more than 64 classes, larger and smaller than the masks, one class, many queries.
    for queries, count, size, target in (
        (12, 9, (32, 32), (97, 131)),
        (20, 80, (40, 24), (33, 300)),
        (100, 3, (30, 40), (20, 20)),
        (5, 1, (16, 16), (16, 16)),
    ):
        classes = (random.normal(size=(queries, count + 1)) * 4).astype(np.float32)
        noise = random.normal(size=(queries, *size)).astype(np.float32)
        masks = np.stack([cv2.GaussianBlur(each, (0, 0), 4) * 30 for each in noise])
        outputs = SimpleNamespace(
            class_queries_logits=torch.tensor(classes)[None],
            masks_queries_logits=torch.tensor(masks)[None],
            logits=torch.tensor(classes)[None],
            pred_masks=torch.tensor(masks)[None],
        )
        wanted = processor.post_process_semantic_segmentation(outputs, target_sizes=[target])[0]
        found = largest_class(query_class_maps(family, classes, masks), target)
        assert (found == wanted.numpy()).mean() >= 0.999
        assert len(class_segments(found).segments) == len(np.unique(found))
        for values in ((0.9, 0.5, 0.5), (0.3, 0.2, 0.1), (0.0, 0.0, 0.0)):
            for subtask in ("panoptic", "instance"):
                theirs = getattr(processor, f"post_process_{subtask}_segmentation")(
                    outputs, *values, target_sizes=[target]
                )[0]
                mine = query_segments(family, subtask, classes, masks, target, Thresholds(*values))
                infos = theirs["segments_info"]
                assert [each.label_id for each in mine.segments] == [i["label_id"] for i in infos]
                for one, other in zip(mine.segments, infos, strict=True):
                    assert one.score == pytest.approx(other["score"], abs=1e-5)
                    expected = theirs["segmentation"].numpy() == other["id"]
                    assert ((mine.ids == one.id) == expected).mean() >= 0.999
                compared += len(infos)
    assert compared > 40


# -- errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("picture", "options", "error"),
    [
        (7, {}, TypeError),
        (["nowhere.jpg", 7], {}, Exception),
        (("nowhere.jpg",), {}, TypeError),
        (None, {}, ValueError),
        ("nowhere.jpg", {}, ValueError),
        ("data:image/png;base64,AAAA", {}, Exception),
        (Image.new("RGB", (4, 4)), {"subtask": "panoptic"}, ValueError),
        (Image.new("RGB", (4, 4)), {"subtask": "everything"}, ValueError),
    ],
)
def test_what_transformers_refuses_is_refused_with_an_error_of_its_kind(
    picture: Any, options: dict[str, Any], error: type[Exception], references: Any, ours: Any
) -> None:
    with pytest.raises(error):
        references("segformer")(picture, **options)
    with pytest.raises(error) as caught:
        ours("segformer")(picture, **options)
    assert isinstance(caught.value, StreamsegError)
    assert "\n" not in str(caught.value)


def test_wrong_options_are_errors_that_say_what_is_expected(ours: Any, exported: Path) -> None:
    picture = Image.new("RGB", (4, 4))
    with pytest.raises(ValueError, match="Subtask panoptic is not supported for model segformer"):
        ours("segformer")(picture, subtask="panoptic")
    with pytest.raises(ValueError, match="threshold is 2, expected 0 to 1"):
        ours("segformer")(picture, threshold=2)
    with pytest.raises(ValueError, match="batch_size is 0, expected 1 to"):
        ours("segformer")([picture], batch_size=0)
    with pytest.raises(InvalidConfigError, match="unknown task 'depth-estimation', expected image"):
        pipeline("depth-estimation", model="selfie")
    with pytest.raises(InvalidConfigError, match="no model was given"):
        pipeline("image-segmentation")
    with pytest.raises(InvalidConfigError, match="unknown option 'treshold'"):
        pipeline("image-segmentation", model="selfie", treshold=0.5)
    with pytest.raises(InvalidConfigError, match="is a model for classification, expected one for"):
        pipeline("image-segmentation", model=exported / "classifier.pte")
    with pytest.raises(InvalidConfigError, match="is a model for mask-classification, expected"):
        pipeline("image-classification", model=exported / "detr.pte")


def test_defaults_of_the_calls_are_given_once(exported: Path, assets: Path, ours: Any) -> None:
    path = assets / "media" / PICTURES[1]
    with pipeline(
        "image-segmentation", model=exported / "detr.pte", subtask="semantic", batch_size=2
    ) as made:
        assert [each["score"] for each in made(path)] == [
            None for _ in ours("detr")(path, subtask="semantic")
        ]
        assert made(path, subtask="panoptic")[0]["score"] is not None


# -- other forms and other models -----------------------------------------------------------------


@pytest.mark.anyio
async def test_awaited_form_returns_the_same(ours: Any, assets: Path) -> None:
    path = str(assets / "media" / PICTURES[1])
    called = await asyncio.to_thread(ours("maskformer"), path, threshold=0.3)
    awaited = await ours("maskformer").forward([path, path], threshold=0.3)
    assert len(awaited) == 2
    for each in awaited:
        assert expect_same(each, called) > 0
    with pytest.raises(TypeError):
        await ours("maskformer").forward(7)


@pytest.mark.anyio
async def test_awaited_form_can_be_cancelled(ours: Any, assets: Path) -> None:
    paths = [str(assets / "media" / PICTURES[1])] * 500
    task = asyncio.create_task(ours("segformer").forward(paths))
    await asyncio.sleep(0.1)
    assert not task.done()
    started = time.monotonic()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert time.monotonic() - started < 2
    assert await ours("segformer").forward(paths[0])  # and it goes on


def test_selfie_model_divides_a_picture_into_two(assets: Path) -> None:
    path = assets / "media" / PICTURES[0]
    with pipeline("image-segmentation", model="selfie") as segmenter:
        found = segmenter(path)
    with SemanticSegmenter.blocking("selfie") as reference:
        person = reference.forward(path, ["SELFIE"])["SELFIE"] > 0.5
    assert [(each["label"], each["score"]) for each in found] == [
        ("SELFIE", None),
        ("BACKGROUND", None),
    ]
    masks = [np.array(each["mask"]) for each in found]
    assert 0.2 < person.mean() < 0.8
    np.testing.assert_array_equal(masks[0] == 255, person)
    np.testing.assert_array_equal(masks[1], 255 - masks[0])


def test_classes_of_a_picture(exported: Path, assets: Path) -> None:
    path = str(assets / "media" / PICTURES[0])
    with pipeline("image-classification", model=exported / "classifier.pte") as classifier:
        best = classifier(path)
        assert len(best) == 5
        assert [each["score"] for each in best] == sorted((e["score"] for e in best), reverse=True)
        everything = classifier([path], top_k=100)[0]
        assert sum(each["score"] for each in everything) == pytest.approx(1, abs=1e-5)
        assert everything[:5] == best
        with pytest.raises(ValueError, match="top_k is 0"):
            classifier(path, top_k=0)


# -- its end --------------------------------------------------------------------------------------


def test_closed_pipeline_says_so_and_may_be_closed_again() -> None:
    made = pipeline("image-segmentation", model="selfie")
    made.close()
    made.close()
    with pytest.raises(ModuleNotLoadedError, match="is closed"):
        made(Image.new("RGB", (4, 4)))


def test_pipeline_that_is_no_longer_used_ends_its_process() -> None:
    before = {child.pid for child in psutil.Process().children()}
    made = pipeline("image-segmentation", model="selfie")
    started = [c for c in psutil.Process().children() if c.pid not in before]
    assert started
    del made
    gc.collect()
    gone, alive = psutil.wait_procs(started, timeout=10)
    assert (len(gone), alive) == (len(started), [])


def test_program_that_closes_nothing_ends_by_itself() -> None:
    code = (
        "from PIL import Image\n"
        "from streamseg.tasks.transformers_pipeline import pipeline\n"
        "segmenter = pipeline('image-segmentation', model='selfie')\n"
        "print(len(segmenter(Image.new('RGB', (64, 64)))))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() in {"1", "2"}
    assert done.stderr == ""
