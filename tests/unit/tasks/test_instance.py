"""What an instance model's outputs stand for, and which of them are refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from streamseg.errors import (
    InvalidConfigError,
    InvalidModelOutputError,
    InvalidUserInputError,
    ModuleNotLoadedError,
)
from streamseg.models.card import Card, InstanceRule
from streamseg.tasks import instance
from streamseg.tasks.instance import Instance, InstanceSegmenter
from streamseg.tasks.instance_masks import Geometry

GEOMETRY = Geometry.of(Card(name="x", task="instance-segmentation"), (200, 400), (100, 100))
LABELS = ("CAT", "DOG", "BIRD")


def outputs(*objects: tuple[list[float], float, float]) -> tuple[np.ndarray, ...]:
    """Return the outputs for (box, score, class) objects, whose masks are their upper halves."""
    boxes = np.array([[box for box, _, _ in objects]], np.float32).reshape(1, -1, 4)
    scored = np.array([[[s, c] for _, s, c in objects]], np.float32).reshape(1, -1, 2)
    logits = np.full((1, len(objects), 100, 100), -9, np.float32)
    for index, (box, _, _) in enumerate(objects):
        x1, y1, x2, y2 = (int(edge) for edge in box)
        logits[0, index, y1 : (y1 + y2) // 2, x1:x2] = 9
    return boxes, scored, logits


def found(
    raw: Any,
    *,
    classes: frozenset[int] | None = None,
    original: bool = True,
    **changed: Any,
) -> list[Instance]:
    return instance._instances(
        raw,
        GEOMETRY,
        InstanceRule(**changed),
        LABELS,
        lambda: None,
        classes=classes,
        original=original,
        name="model",
    )


CAT = ([10.0, 20.0, 30.0, 60.0], 0.9, 0.0)
CAT_AGAIN = ([11.0, 20.0, 31.0, 60.0], 0.8, 0.0)
DOG = ([10.0, 20.0, 30.0, 60.0], 0.7, 1.0)
FAINT = ([60.0, 60.0, 90.0, 90.0], 0.4, 2.0)


def test_object_has_box_mask_label_and_score_of_the_picture() -> None:
    (cat,) = found(outputs(CAT))
    assert cat.bbox == (40.0, 40.0, 120.0, 120.0)
    assert (cat.label, cat.area, cat.picture_size) == ("CAT", (40, 40, 120, 120), (200, 400))
    assert cat.score == pytest.approx(0.9)
    assert cat.mask.shape == (80, 80)
    assert cat.mask.dtype == np.uint8
    assert cat.mask[1:39, 1:-1].all()
    assert not cat.mask[41:].any()
    whole = cat.whole_mask()
    assert whole.shape == (200, 400)
    assert whole.sum() == cat.mask.sum()
    assert whole[41:79, 41:119].all()
    assert repr(cat) == "Instance(CAT 0.90, box 40.0 40.0 120.0 120.0, mask 80x80)"


def test_mask_at_the_model_s_resolution_covers_the_same_box() -> None:
    (cat,) = found(outputs(CAT), original=False)
    assert cat.mask.shape == (40, 20)
    assert cat.mask[:20].all()
    assert not cat.mask[20:].any()
    whole = cat.whole_mask()
    assert whole[40:80, 40:120].all()
    assert whole.sum() == 40 * 80


def test_duplicates_of_one_class_go_and_others_stay() -> None:
    everything = outputs(FAINT, DOG, CAT_AGAIN, CAT)
    assert [(i.label, round(i.score, 1)) for i in found(everything)] == [("CAT", 0.9), ("DOG", 0.7)]
    assert len(found(everything, iou=0.95)) == 3
    assert len(found(everything, suppress=False)) == 3
    assert len(found(everything, confidence=0.3)) == 3
    assert [i.label for i in found(everything, max_instances=1)] == ["CAT"]
    assert [i.label for i in found(everything, classes=frozenset({1}))] == ["DOG"]


def test_score_that_equals_the_confidence_is_enough() -> None:
    assert len(found(outputs((CAT[0], 0.5, 0.0)), confidence=0.5)) == 1


@pytest.mark.parametrize("count", [0, 3])
def test_no_objects_are_an_empty_list(count: int) -> None:
    assert found(outputs(*[FAINT] * count)) == []


def test_boxes_are_cut_at_the_picture_and_those_without_an_area_left_out() -> None:
    raw = outputs(CAT, DOG, CAT_AGAIN, ([5, 5, 6, 6], 0.9, 2))
    raw[0][0, 0] = [-20, 50, 30, 130]  # partly outside
    raw[0][0, 1] = [110, 10, 130, 30]  # outside
    raw[0][0, 2] = [30, 10, 10, 30]  # the wrong way round
    kept = found(raw)
    assert [i.bbox for i in kept] == [(0, 100, 120, 200), (20, 10, 24, 12)]
    assert [i.mask.shape for i in kept] == [(100, 120), (2, 4)]


def test_tiny_box_has_a_pixel() -> None:
    raw = outputs(CAT)
    raw[0][0, 0] = [99.95, 99.9, 99.99, 100]
    (tiny,) = found(raw)
    assert tiny.mask.shape == (1, 1)
    assert tiny.area == (199, 399, 200, 400)


def replaced(index: int, array: np.ndarray) -> tuple[np.ndarray, ...]:
    raw = list(outputs(CAT, DOG))
    raw[index] = array.astype(np.float32)
    return tuple(raw)


def with_value(index: int, place: Any, value: float) -> tuple[np.ndarray, ...]:
    raw = outputs(CAT, DOG)
    raw[index][place] = value
    return raw


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (replaced(0, np.zeros((1, 4, 2))), r"are \[1, 4, 2\], \[1, 2, 2\], .* model has boxes"),
        (replaced(0, np.zeros((1, 3, 4))), r"are \[1, 3, 4\]"),
        (replaced(1, np.zeros((1, 2))), r"are .*\[1, 2\], "),
        (replaced(2, np.zeros((1, 3, 9, 9))), r"are .*\[1, 3, 9, 9\]"),
        (replaced(2, np.zeros((2, 2, 9, 9))), r"are .*\[2, 2, 9, 9\]"),
        (outputs(CAT)[:2], "model has boxes"),
        ((), "are none"),
        (with_value(0, (0, 1, 2), np.nan), "not finite"),
        (with_value(1, (0, 1, 0), np.inf), "not finite"),
        (with_value(2, (0, 1, 50, 50), np.nan), "mask with values that are no number"),
        (with_value(1, (0, 1, 0), 7.5), "score of 7.5, expected at most 1"),
        (with_value(1, (0, 1, 1), 3), "class 3, .* 0 to 2"),
        (with_value(1, (0, 1, 1), -1), "class -1, .* 0 to 2"),
        (with_value(1, (0, 1, 1), 0.5), "class 0.5, .* 0 to 2"),
    ],
)
def test_outputs_that_make_no_sense_are_error_115(raw: Any, message: str) -> None:
    with pytest.raises(InvalidModelOutputError, match=message) as caught:
        found(raw)
    assert caught.value.code == 115
    assert str(caught.value).startswith("model: the model")
    assert "\n" not in str(caught.value)


def test_it_ends_when_nobody_waits_for_it() -> None:
    def check() -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        instance._instances(
            *(outputs(CAT, DOG), GEOMETRY, InstanceRule(), LABELS, check),
            classes=None,
            original=True,
            name="model",
        )


def test_what_is_below_the_confidence_may_be_padding() -> None:
    raw = outputs(CAT, ([0, 0, 0, 0], 0.0, -1))
    raw[2][0, 1] = np.nan
    assert [i.label for i in found(raw)] == ["CAT"]


@pytest.mark.parametrize("value", [-0.1, 1.5, "high", True, float("nan")])
def test_threshold_out_of_range_is_error_112(value: Any) -> None:
    with pytest.raises(InvalidConfigError, match=r"iou_threshold is .*expected 0 to 1") as caught:
        instance._share("iou_threshold", value, 0.5)
    assert caught.value.code == 112


@pytest.mark.parametrize("value", [0, -3, 2.0, True, 10**6])
def test_count_out_of_range_is_error_112(value: Any) -> None:
    with pytest.raises(InvalidConfigError, match="max_instances is"):
        instance._count(value, 100)


@pytest.mark.parametrize("wanted", ["DOG", [3], ["WOLF"], ["CAT", "DOGG"]])
def test_unknown_label_is_error_117(wanted: Any) -> None:
    with pytest.raises(InvalidUserInputError) as caught:
        instance._classes(LABELS, wanted)
    assert caught.value.code == 117
    assert "\n" not in str(caught.value)


def test_labels_are_found_in_any_case() -> None:
    assert instance._classes(LABELS, ["dog", "Bird"]) == {1, 2}
    assert instance._classes(LABELS, []) is None


@pytest.mark.anyio
async def test_call_before_loading_is_error_102() -> None:
    segmenter = await InstanceSegmenter.load("yolo26n-seg", prevent_load=True)
    with pytest.raises(ModuleNotLoadedError):
        await segmenter.forward(np.zeros((4, 4, 3), np.uint8))
    await segmenter.aclose()
