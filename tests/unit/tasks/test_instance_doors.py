"""Stills and video find the same objects in the same outputs of an instance model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import av
import numpy as np
import pytest

from streamseg.errors import InvalidModelOutputError
from streamseg.frames import Frame
from streamseg.models.card import Card, InstanceRule, Model
from streamseg.runtime.answers import reader_for
from streamseg.runtime.fitting import content_of
from streamseg.runtime.pool import ModelResult
from streamseg.runtime.process import LoadedModel
from streamseg.runtime.task_pool import TaskPool
from streamseg.tasks import instance
from streamseg.tasks.instance import InstanceSegmenter
from streamseg.tasks.instance_masks import Geometry

INPUT, PICTURE = (96, 160), (384, 320)
LABELS = ("PERSON", "DOG", "CAT")
FRAME = Frame(av.VideoFrame(PICTURE[1], PICTURE[0], "yuv420p"), 0, 0.0)
NAN = float("nan")
BOX, NEAR, FAR, IN_A_BAR = (60, 8, 90, 40), (62, 8, 92, 40), (70, 60, 98, 90), (0, 8, 30, 40)

Row = tuple[tuple[float, ...], float, float]
Found = list[tuple[str, float, tuple[int, ...]]]
Door = Callable[[tuple[np.ndarray, ...], Card, tuple[str, ...]], Found]


def outputs(rows: Sequence[Row], broken_mask: int | None = None) -> tuple[np.ndarray, ...]:
    boxes = np.array([[row[0] for row in rows]], np.float32).reshape(1, -1, 4)
    scored = np.array([[row[1:] for row in rows]], np.float32).reshape(1, -1, 2)
    logits = np.full((1, len(rows), 24, 40), 9.0, np.float32)
    if broken_mask is not None:
        logits[0, broken_mask, 5, 20] = NAN
    return boxes, scored, logits


def stills(raw: tuple[np.ndarray, ...], card: Card, wanted: tuple[str, ...]) -> Found:
    found = instance._instances(
        raw,
        Geometry.of(card, PICTURE, INPUT),
        card.instance,
        LABELS,
        lambda: None,
        classes=instance._classes(LABELS, wanted),
        original=True,
        name=card.name,
    )
    return [(each.label, each.score, tuple(round(edge) for edge in each.bbox)) for each in found]


def video(raw: tuple[np.ndarray, ...], card: Card, wanted: tuple[str, ...]) -> Found:
    content = content_of(PICTURE, INPUT) if card.letterbox else None
    result = ModelResult(np.zeros((0, 0, 0), np.float32), None, 1.0, 1.0, raw)
    read = reader_for(card, LABELS, wanted or LABELS, INPUT).read(FRAME, result, content)
    scale = np.array([PICTURE[1], PICTURE[0]] * 2)
    return [
        (each.label, each.score, tuple(round(edge) for edge in np.array(each.box) * scale))
        for each in read.instances
    ]


DOORS = pytest.mark.parametrize("door", [stills, video])
MANY = [(BOX, 0.9, 0), (NEAR, 0.8, 0), (BOX, 0.7, 1), (FAR, 0.6, 2), (IN_A_BAR, 0.95, 1)]


@pytest.mark.parametrize(
    ("rule", "letterbox", "wanted", "expected"),
    [
        ({}, False, (), ["DOG", "PERSON", "DOG", "CAT"]),
        ({}, True, (), ["PERSON", "DOG", "CAT"]),  # what lies in a bar is none
        ({"max_instances": 2}, False, (), ["DOG", "PERSON"]),
        ({"max_instances": 1}, False, ("CAT",), ["CAT"]),  # the best of those that are asked for
        ({"iou": 0.95}, True, ("PERSON",), ["PERSON", "PERSON"]),
        ({"suppress": False}, True, (), ["PERSON", "PERSON", "DOG", "CAT"]),
        ({"confidence": 0.65}, True, (), ["PERSON", "DOG"]),
    ],
)
def test_the_same_objects_are_chosen(
    rule: dict[str, float], letterbox: bool, wanted: tuple[str, ...], expected: list[str]
) -> None:
    card = Card(
        name="m",
        task="instance-segmentation",
        labels=LABELS,
        letterbox=letterbox,
        instance=InstanceRule.model_validate(rule),
    )
    found = stills(outputs(MANY), card, wanted)
    assert [label for label, _, _ in found] == expected
    assert video(outputs(MANY), card, wanted) == found


@DOORS
@pytest.mark.parametrize(
    ("row", "broken_mask", "message"),
    [
        ((BOX, NAN, 0), None, "score"),
        ((BOX, 1.5, 0), None, r"score of 1\.5"),
        (((NAN, 0, 9, 9), 0.9, 0), None, "box"),
        ((BOX, 0.9, 3), None, "class 3"),
        ((BOX, 0.9, 0.4), None, r"class 0\.4"),
        ((BOX, 0.9, 0), 1, "mask"),
    ],
)
def test_the_same_outputs_are_error_115(
    door: Door, row: Row, broken_mask: int | None, message: str
) -> None:
    card = Card(name="m", task="instance-segmentation", labels=LABELS)
    with pytest.raises(InvalidModelOutputError, match=message) as caught:
        door(outputs([(FAR, 0.9, 1), row], broken_mask), card, ())
    assert caught.value.code == 115


@DOORS
def test_a_score_that_rounding_took_above_1_is_1(door: Door) -> None:
    card = Card(name="m", task="instance-segmentation", labels=LABELS)
    assert [score for _, score, _ in door(outputs([(BOX, 1.0005, 0)]), card, ())] == [1.0]


SHAPES = ((1, 5, 4), (1, 5, 2), (1, 5, 24, 40))


def load_still(model: Model, loaded: LoadedModel) -> object:
    return InstanceSegmenter(model)._labels_of(model, loaded)


def load_video(model: Model, loaded: LoadedModel) -> object:
    return TaskPool(model)._make_layout(loaded)


@pytest.mark.parametrize("load", [load_still, load_video])
@pytest.mark.parametrize(
    ("labels", "shapes", "message"),
    [
        (None, SHAPES, "m.pte: its card has no labels"),
        (LABELS, SHAPES[:2], "m.pte: the model's outputs are"),
    ],
)
def test_the_same_models_are_refused(
    load: Callable[[Model, LoadedModel], object],
    labels: tuple[str, ...] | None,
    shapes: tuple[tuple[int, ...], ...],
    message: str,
) -> None:
    model = Model(Path("m.pte"), Card(name="m", task="instance-segmentation", labels=labels))
    with pytest.raises(InvalidModelOutputError, match=message):
        load(model, LoadedModel((1, 3, *INPUT), shapes, load_ms=1.0, threads=1))
