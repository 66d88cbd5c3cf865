"""``streamseg segment --format`` with models that find objects and segments."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anyio
import av  # noqa: F401 - before cv2
import cv2
import numpy as np
import pytest
from pycocotools import mask as coco
from pycocotools.coco import COCO

from streamseg.models.registry import find_model
from streamseg.tasks.mask_rules import SegmentMap
from streamseg.tasks.panoptic import PanopticSegmenter
from tests.integration import test_instance_segmenter as instances
from tests.support.command import Command, one_line
from tests.support.transformers_models import exported_models

pytestmark = [
    pytest.mark.integration,
    # pycocotools gives numpy 2 an object that it deprecates
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

# What that module exports already, so that it is exported once.
programs = instances.programs
draw = instances.draw
FORMS = ("json", "npz", "coco")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A picture with a red and a blue object, and one without any."""
    made = tmp_path / "in"
    made.mkdir()
    for name, labels in (("two", ("RED", "BLUE")), ("none", ())):
        pixels, _ = draw((240, 320), *labels)
        cv2.imwrite(str(made / f"{name}.png"), pixels[:, :, ::-1])
    return made


def model(programs: Path, tmp_path: Path, card: str) -> Path:
    path = tmp_path / "colours.pte"
    path.write_bytes((programs / "colours.pte").read_bytes())
    path.with_suffix(".toml").write_text(f'name = "c"\ntask = "instance-segmentation"\n{card}\n')
    return path


def in_all_formats(streamseg: Command, source: Path, out: Path, *options: Any) -> dict[str, str]:
    """Segment pictures into every format; return JSON's results."""
    results = {}
    for form in FORMS:
        target = out / "all.json" if form == "coco" else out
        result = streamseg("segment", source, "-o", target, "-f", form, "--json", *options)
        assert result.code == 0, result.err
        results[form] = result.json["results"]
    assert set(results["coco"].values()) == {str(out / "all.json")}
    return results["json"]


def expect_agreement(record: Path, size: tuple[int, int]) -> tuple[list[Any], Any]:
    """Check that a picture's JSON and npz say the same; return both."""
    said = json.loads(record.read_text())
    arrays = np.load(record.with_suffix(".npz"))
    assert said["size"] == list(size)
    assert arrays["labels"].tolist() == said["labels"]
    assert arrays["instance_labels"].tolist() == [each["label"] for each in said["found"]]
    assert arrays["masks"].shape == (len(said["found"]), *size)
    assert arrays["boxes"].shape == (len(said["found"]), 4)
    for row, each in enumerate(said["found"]):
        mask = arrays["masks"][row]
        assert np.array_equal(coco.decode(each["mask"]).astype(bool), mask)
        assert each["pixels"] == mask.sum()
        assert arrays["boxes"][row].tolist() == pytest.approx(each["bbox"], abs=1e-3)
        assert arrays["scores"][row] == pytest.approx(each["score"], abs=1e-6)
        x, y, width, height = np.rint(each["bbox"]).astype(int)
        assert mask[y : y + height, x : x + width].sum() == mask.sum()
    return said["found"], arrays


def expect_annotations(path: Path, picture: str, found: list[Any]) -> list[Any]:
    """Check that the file of annotations says of a picture what its JSON says."""
    annotations = COCO(path)
    (image,) = (each for each in annotations.imgs.values() if each["file_name"].endswith(picture))
    said = annotations.loadAnns(annotations.getAnnIds(imgIds=[image["id"]]))
    names = [annotations.cats[each["category_id"]]["name"] for each in said]
    assert names == [each["label"] for each in found]
    for ours, theirs in zip(found, said, strict=True):
        assert theirs["segmentation"]["counts"] == ours["mask"]["counts"]
        assert theirs["score"] == ours["score"]
        assert theirs["area"] == ours["pixels"]
    return said


def test_objects_are_the_same_in_every_format(
    streamseg: Command, programs: Path, folder: Path, tmp_path: Path
) -> None:
    program = model(programs, tmp_path, 'labels = ["RED", "GREEN", "BLUE"]')
    in_all_formats(streamseg, folder, tmp_path / "out", "--model", program)

    found, arrays = expect_agreement(tmp_path / "out" / "two_masks.json", (240, 320))
    assert sorted(each["label"] for each in found) == ["BLUE", "RED"]
    for each, mask in zip(found, arrays["masks"], strict=True):
        _, truth = draw((240, 320), each["label"])
        assert instances.overlap(mask, truth[each["label"]]) > 0.9
        assert each["score"] > 0.5
    said = expect_annotations(tmp_path / "out" / "all.json", "two.png", found)
    assert sorted(each["category_id"] for each in said) == [1, 3]

    nothing, _ = expect_agreement(tmp_path / "out" / "none_masks.json", (240, 320))
    assert nothing == []
    assert expect_annotations(tmp_path / "out" / "all.json", "none.png", []) == []


def test_an_object_model_without_labels_is_one_line(
    streamseg: Command, programs: Path, folder: Path, tmp_path: Path
) -> None:
    program = model(programs, tmp_path, "")
    result = streamseg("segment", folder, "-f", "coco", "-o", tmp_path / "a.json", "-m", program)
    one_line(result, 2, "no labels")
    assert not (tmp_path / "a.json").exists()


def test_one_class_of_objects(
    streamseg: Command, programs: Path, folder: Path, tmp_path: Path
) -> None:
    program = model(programs, tmp_path, 'labels = ["RED", "GREEN", "BLUE"]')
    options = ("--format", "json", "--classes", "blue", "--model", program)
    assert streamseg("segment", folder / "two.png", *options, "-o", tmp_path).code == 0
    found = json.loads((tmp_path / "two_masks.json").read_text())["found"]
    assert [each["label"] for each in found] == ["BLUE"]
    one_line(
        streamseg("segment", folder, *options[:2], "-m", program, "--classes", "blu"), 2, "BLUE"
    )


@pytest.fixture(scope="module")
def maskformer() -> Path:
    return exported_models() / "maskformer.pte"


async def segments_of(program: Path, picture: Path) -> tuple[tuple[str, ...], SegmentMap]:
    async with await PanopticSegmenter.load(find_model(program)) as segmenter:
        return segmenter.labels, await segmenter.forward(picture)


@pytest.mark.timeout(600)  # the first test that needs the models makes them
def test_segments_are_the_same_in_every_format(
    streamseg: Command, maskformer: Path, assets: Path, tmp_path: Path
) -> None:
    """The oracle is the object whose results are compared with transformers' own."""
    out, source = tmp_path / "out", tmp_path / "in"
    source.mkdir()
    for name in ("grace_hopper.jpg", "astronaut.png"):
        (source / name).symlink_to(assets / "media" / name)
    in_all_formats(streamseg, source, out, "--model", maskformer)

    labels, expected = anyio.run(segments_of, maskformer, source / "grace_hopper.jpg")
    assert len(expected.segments) > 2
    found, arrays = expect_agreement(out / "grace_hopper_masks.json", expected.ids.shape)
    assert [(each["label"], each["score"]) for each in found] == [
        (labels[each.label_id], each.score) for each in expected.segments
    ]
    for number, each in enumerate(expected.segments, 1):
        np.testing.assert_array_equal(arrays["masks"][number - 1], expected.mask(each) > 0)
        np.testing.assert_array_equal(arrays["SEGMENTS"] == number, expected.mask(each) > 0)
    assert arrays["SEGMENTS"].dtype == np.int32
    assert expect_annotations(out / "all.json", "grace_hopper.jpg", found)

    nothing, arrays = expect_agreement(out / "astronaut_masks.json", (512, 512))
    assert nothing == []
    assert not arrays["SEGMENTS"].any()


def test_segments_that_share_an_id_are_one(
    streamseg: Command, maskformer: Path, assets: Path, tmp_path: Path
) -> None:
    program = tmp_path / "fusing.pte"
    program.symlink_to(maskformer)
    card = maskformer.with_suffix(".toml").read_text()
    assert "[masks]\n" in card
    found = {}
    for name, fused in (("apart", "[]"), ("fused", '["sky"]')):
        lines = [line for line in card.splitlines() if not line.startswith("fused")]
        own = "\n".join(lines).replace("[masks]", f"[masks]\nfused = {fused}")
        program.with_suffix(".toml").write_text(own)
        target = tmp_path / f"{name}.json"
        options = ("--format", "json", "--classes", "SKY,person", "--model", program)
        picture = assets / "media" / "grace_hopper.jpg"
        result = streamseg("segment", picture, "-o", target, *options)
        assert result.code == 0, result.err
        found[name] = json.loads(target.read_text())["found"]
    assert len(found["apart"]) > 1
    assert {each["label"] for each in found["apart"]} == {"sky"}  # the cat was not asked for
    (together,) = found["fused"]
    assert together["pixels"] == sum(each["pixels"] for each in found["apart"])
    assert together["score"] == max(each["score"] for each in found["apart"])
