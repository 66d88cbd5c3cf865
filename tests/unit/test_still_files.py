"""The files that say what was found in a picture."""

from __future__ import annotations

import io
import json
from functools import partial
from typing import Any

import numpy as np
import pytest

from streamseg.masks.rle import decode_rle
from streamseg.models.labels import COCO_CATEGORY_LABELS, COCO_LABELS, VOC_LABELS
from streamseg.session.still_files import CocoFile, fill_json, fill_npz
from streamseg.session.still_records import Found, Region
from streamseg.tasks.threads import Watched

SIZE = (6, 8)


def nothing() -> None:
    """What is wanted to its end."""


def written(fill: Any) -> bytes:
    out = io.BytesIO()
    fill(Watched(out, nothing))
    return out.getvalue()


def rows(start: int, stop: int) -> np.ndarray:
    mask = np.zeros(SIZE, np.bool_)
    mask[start:stop] = True
    return mask


def objects(labels: tuple[str, ...], *names: str) -> Found:
    regions = (
        Region(name, labels.index(name), 0.5, (0, at, 8, 1), partial(rows, at, at + 1))
        for at, name in enumerate(names)
    )
    return Found("a.png", SIZE, labels, tuple(regions))


def annotated(*found: Found) -> dict[str, Any]:
    file = CocoFile("mine")
    for each in found:
        file.add(each, nothing)
    content = json.loads(written(file.fill))
    assert isinstance(content, dict)
    return content


@pytest.mark.parametrize(
    ("labels", "name", "number"),
    [
        (COCO_CATEGORY_LABELS, "PERSON", 1),
        (COCO_CATEGORY_LABELS, "TOOTHBRUSH", 90),
        (COCO_LABELS, "PERSON", 1),
        (COCO_LABELS, "TOOTHBRUSH", 90),
        (VOC_LABELS, "PERSON", 15),
        (("N/A", "person", "dog"), "dog", 2),
        (("PERSON", "DOG"), "DOG", 2),
    ],
)
def test_categories_have_the_numbers_that_are_known(
    labels: tuple[str, ...], name: str, number: int
) -> None:
    content = annotated(objects(labels, name))
    (annotation,) = content["annotations"]
    assert annotation["category_id"] == number
    assert {"id": number, "name": name} in content["categories"]
    names = [category["name"] for category in content["categories"]]
    assert "BACKGROUND" not in names
    assert len({category["id"] for category in content["categories"]}) == len(names)


def test_the_background_is_a_category_where_it_was_asked_for() -> None:
    content = annotated(objects(VOC_LABELS, "BACKGROUND", "PERSON"))
    assert [each["category_id"] for each in content["annotations"]] == [0, 15]
    assert content["categories"][0] == {"id": 0, "name": "BACKGROUND"}


def test_pictures_share_one_file_of_annotations() -> None:
    labels = ("PERSON", "DOG")
    content = annotated(objects(labels, "DOG"), objects(labels), objects(labels, "DOG", "PERSON"))
    assert [image["id"] for image in content["images"]] == [1, 2, 3]
    assert [each["id"] for each in content["annotations"]] == [1, 2, 3]
    assert [each["image_id"] for each in content["annotations"]] == [1, 3, 3]
    assert decode_rle(content["annotations"][2]["segmentation"]).sum() == SIZE[1]


def test_labels_are_keys_that_do_no_harm() -> None:
    labels = ("labels", "file", "ARGMAX", "../x", "/etc/x", "a\0b", "é ü")
    probabilities = {
        label: np.full(SIZE, number, np.float32) for number, label in enumerate(labels)
    }
    found = Found("a.png", SIZE, labels, (), np.ones(SIZE, np.int32), probabilities=probabilities)

    with np.load(io.BytesIO(written(partial(fill_npz, found)))) as arrays:
        assert arrays["labels"].tolist() == list(labels)
        assert arrays["ARGMAX"].dtype == np.int32
        assert arrays["ARGMAX"].all()
        keys = ("labels_", "file", "ARGMAX_", ".._x", "_etc_x", "a_b", "é ü")
        assert sorted(arrays) == sorted(("labels", "ARGMAX", *keys))
        for number, key in enumerate(keys):
            assert (arrays[key] == number).all()


@pytest.mark.parametrize("names", [(), ("DOG",), ("PERSON", "DOG", "DOG")])
def test_arrays_of_objects_have_a_row_each(names: tuple[str, ...]) -> None:
    found = objects(("PERSON", "DOG"), *names)
    with np.load(io.BytesIO(written(partial(fill_npz, found)))) as arrays:
        assert arrays["masks"].shape == (len(names), *SIZE)
        assert arrays["masks"].dtype == np.bool_
        assert arrays["boxes"].shape == (len(names), 4)
        assert arrays["scores"].shape == (len(names),)
        assert arrays["instance_labels"].tolist() == list(names)
        for at in range(len(names)):
            np.testing.assert_array_equal(arrays["masks"][at], rows(at, at + 1))


def test_one_mask_is_in_memory_at_a_time() -> None:
    alive, most = set(), 0

    class Counted(np.ndarray):
        def __del__(self) -> None:
            alive.discard(id(self))

    def mask() -> np.ndarray:
        nonlocal most
        made = rows(0, 3).view(Counted)
        alive.add(id(made))
        most = max(most, len(alive))
        return made

    regions = tuple(Region("DOG", 1, 0.5, (0, 0, 8, 3), mask) for _ in range(20))
    found = Found("a.png", SIZE, ("PERSON", "DOG"), regions)
    assert len(json.loads(written(partial(fill_json, found)))["found"]) == 20
    assert written(partial(fill_npz, found))
    assert len(annotated(found)["annotations"]) == 20
    assert most <= 2
