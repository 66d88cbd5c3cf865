from __future__ import annotations

import re

import pytest

from streamseg.models.card import Card
from streamseg.models.labels import (
    COCO_CATEGORY_LABELS,
    COCO_LABELS,
    IMAGENET_LABELS,
    LABEL_SETS,
    VOC_LABELS,
    distinct_labels,
)


@pytest.mark.parametrize("name", LABEL_SETS)
def test_labels_are_different_and_written_alike(name: str) -> None:
    labels = LABEL_SETS[name]
    assert len(set(labels)) == len(labels)
    assert all(re.fullmatch(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)*", label) for label in labels)


def test_imagenet() -> None:
    assert len(IMAGENET_LABELS) == 1000
    for index, label in {
        0: "TENCH",
        134: "CRANE_BIRD",
        264: "CARDIGAN",
        417: "BALLOON",
        474: "CARDIGAN_474",
        477: "CARPENTERS_KIT",
        517: "CRANE_MACHINE",
        607: "JACK_O_LANTERN",
        638: "MAILLOT",
        639: "MAILLOT_639",
        661: "MODEL_T",
        986: "YELLOW_LADYS_SLIPPER",
        999: "TOILET_TISSUE",
    }.items():
        assert IMAGENET_LABELS[index] == label


def test_coco() -> None:
    assert len(COCO_LABELS) == 80
    assert len(COCO_CATEGORY_LABELS) == 92  # the first is for "nothing": ids begin with 1
    assert (COCO_LABELS[0], COCO_LABELS[79]) == ("PERSON", "TOOTHBRUSH")
    for identifier, label in {1: "PERSON", 13: "STOP_SIGN", 44: "BOTTLE", 90: "TOOTHBRUSH"}.items():
        assert COCO_CATEGORY_LABELS[identifier] == label
    # The 80 are in the order of the 91.
    assert [label for label in COCO_CATEGORY_LABELS if label in COCO_LABELS] == list(COCO_LABELS)


def test_voc() -> None:
    assert len(VOC_LABELS) == 21
    assert (VOC_LABELS[0], VOC_LABELS[15], VOC_LABELS[20]) == ("BACKGROUND", "PERSON", "TVMONITOR")


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["a", "b"], ("a", "b")),
        (["N/A", "cat", "N/A", "N/A"], ("N/A", "cat", "N/A_2", "N/A_3")),
        (["cat", "Cat", "CAT"], ("cat", "Cat_1", "CAT_2")),
        (["a", "a_2", "A"], ("a", "a_2", "A_2_2")),
        (["", " x ", "argmax"], ("CLASS_0", "x", "argmax_2")),
    ],
)
def test_somebody_elses_labels_become_different(
    labels: list[str], expected: tuple[str, ...]
) -> None:
    assert distinct_labels(labels) == expected
    assert Card(name="x", labels=expected).labels == expected
