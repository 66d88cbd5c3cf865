"""What is made of the outputs of models of each task; and how frames are brought to their size."""

from __future__ import annotations

from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from streamseg.errors import ConfigError, InvalidModelOutputError, ModelError
from streamseg.frames import Frame
from streamseg.models.card import Card, MaskRule, Model
from streamseg.runtime.answers import class_probabilities, reader_for
from streamseg.runtime.fitting import Content, FrameFitter, content_of
from streamseg.runtime.pool import ModelResult
from streamseg.runtime.process import LoadedModel
from streamseg.runtime.task_pool import TaskPool

SIZE = (96, 160)
LABELS = ("PERSON", "DOG", "CAT")
FRAME = Frame(av.VideoFrame(320, 192, "yuv420p"), 5, 0.0)


def result(*raw: np.ndarray) -> ModelResult:
    return ModelResult(np.zeros((0, 0, 0), np.float32), None, 3.5, 3.0, raw)


def instances(*rows: tuple[tuple[float, ...], float, int]) -> ModelResult:
    boxes = np.array([[row[0] for row in rows]], np.float32).reshape(1, -1, 4)
    scores = np.array([[row[1:] for row in rows]], np.float32).reshape(1, -1, 2)
    return result(boxes, scores, np.full((1, len(rows), 24, 40), 9.0, np.float32))


def test_the_mask_of_a_class_is_the_union_of_its_objects():
    card = Card(name="m", task="instance-segmentation", labels=LABELS)
    reader = reader_for(card, LABELS, ("PERSON", "DOG"), SIZE)
    given = instances(
        ((0, 0, 40, 96), 0.9, 0), ((80, 0, 120, 48), 0.8, 0), ((0, 0, 160, 96), 0.95, 2)
    )
    out = reader.read(FRAME, given, None)
    assert [each.label for each in out.instances] == ["PERSON", "PERSON"], "cats are not wanted"
    assert list(out.masks) == ["PERSON", "DOG"]
    assert (out.index, out.model_ms, out.labels) == (5, 3.5, LABELS)
    person = out.masks["PERSON"]
    assert person[:, :10].min() > 0.99
    assert person[:12, 20:30].min() > 0.99
    assert person[12:, 10:].max() == 0.0
    assert out.masks["DOG"].max() == 0.0, "a class that is not there has a mask that says so"


def test_no_object_at_all_is_an_answer():
    card = Card(name="m", task="instance-segmentation", labels=LABELS)
    out = reader_for(card, LABELS, LABELS, SIZE).read(FRAME, instances(), None)
    assert {label: mask.shape for label, mask in out.masks.items()} == dict.fromkeys(
        LABELS, (24, 40)
    )
    assert max(mask.max() for mask in out.masks.values()) == 0.0


def test_bars_are_cut_off_masks_and_boxes():
    card = Card(name="m", task="instance-segmentation", labels=LABELS, letterbox=True)
    content = Content(24, 0, 72, 160)
    given = instances(((80, 24, 160, 48), 0.9, 0))
    out = reader_for(card, LABELS, LABELS, SIZE).read(FRAME, given, content)
    assert out.masks["PERSON"].shape == (12, 40)
    assert out.instances[0].box == (0.5, 0.0, 1.0, 0.5)
    assert out.masks["PERSON"][:6, 20:].min() > 0.99
    assert out.masks["PERSON"][6:].max() == 0.0


@pytest.mark.parametrize(
    ("output", "values"), [(None, [1.0, 3.0, 2.0]), ("probability", [0.1, 0.7, 0.2])]
)
def test_a_classifier_says_the_most_probable_first(output, values):
    card = Card(name="m", task="classification", labels=LABELS, output=output)
    out = reader_for(card, LABELS, (), SIZE).read(FRAME, result(np.float32([values])), None)
    assert list(out.scores) == ["DOG", "CAT", "PERSON"]
    powers = np.exp(values) / np.exp(values).sum() if output is None else values
    assert out.scores["DOG"] == pytest.approx(powers[1], abs=1e-6)
    assert out.masks == {}


@pytest.mark.parametrize("output", [None, "probability"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_scores_that_are_no_numbers_are_an_error(output, value):
    card = Card(name="m", task="classification", labels=LABELS, output=output)
    given = np.float32([[1, value, 2]])
    with pytest.raises(InvalidModelOutputError, match="m: returned scores that are no numbers"):
        reader_for(card, LABELS, (), SIZE).read(FRAME, result(given), None)
    with pytest.raises(InvalidModelOutputError):
        class_probabilities(given[0], card)


def test_queries_add_up_to_masks_of_classes():
    card = Card(
        name="m", task="mask-classification", labels=LABELS, masks=MaskRule(family="maskformer")
    )
    chosen = np.float32([[[40, 0, 0, 0], [40, 0, 0, 0], [0, 40, 0, 0], [0, 0, 0, 40]]])
    maps = np.full((1, 4, 6, 8), -50.0, np.float32)
    maps[0, 0, :, :2] = maps[0, 1, :, 1:4] = maps[0, 2, :, 4:6] = maps[0, 3] = 50.0
    maps[0, 3, :, 6:] = 50.0
    out = reader_for(card, LABELS, ("DOG", "PERSON"), SIZE).read(FRAME, result(chosen, maps), None)
    assert list(out.masks) == ["DOG", "PERSON"]
    assert np.abs(out.masks["PERSON"] - np.float32([1, 1, 1, 1, 0, 0, 0, 0])).max() < 1e-3
    assert np.abs(out.masks["DOG"] - np.float32([0, 0, 0, 0, 1, 1, 0, 0])).max() < 1e-3


# -- what a pool refuses -------------------------------------------------------------------------


def loaded(shapes: list[tuple[int, ...]]) -> LoadedModel:
    return LoadedModel((1, 3, *SIZE), tuple(shapes), load_ms=1.0, threads=1)


def test_which_labels_come_back_by_task():
    shapes = [(1, 5, 4), (1, 5, 2), (1, 5, 24, 40)]
    made = TaskPool(
        Model(Path("m.pte"), Card(name="m", task="instance-segmentation", labels=LABELS)),
        labels=["dog"],
    )
    made._make_layout(loaded(shapes))
    assert (made.labels, made.returned) == (LABELS, ("DOG",))
    made = TaskPool(Model(Path("m.pte"), Card(name="m", task="classification", labels=LABELS)))
    made._make_layout(loaded([(1, 3)]))
    assert (made.labels, made.returned) == (LABELS, ())
    made = TaskPool(Model(Path("m.pte"), Card(name="m", labels=LABELS)), labels=["cat"])
    layout = made._make_layout(loaded([(1, 3, 24, 40)]))
    assert (made.returned, layout.mask_classes) == (("CAT",), (2,))


@pytest.mark.parametrize(
    ("card", "shapes", "words"),
    [
        (Card(name="m", task="instance-segmentation", labels=LABELS), [(1, 3, 8, 8)], "boxes"),
        (
            Card(name="m", task="instance-segmentation"),
            [(1, 5, 4), (1, 5, 2), (1, 5, 8, 8)],
            "no labels",
        ),
        (Card(name="m", task="classification", labels=LABELS), [(1, 4)], "4 classes"),
        (Card(name="m", task="classification", labels=LABELS), [(1, 3, 8, 8)], "a classifier has"),
        (
            Card(
                name="m",
                task="mask-classification",
                labels=LABELS,
                masks=MaskRule(family="detr"),
            ),
            [(1, 5, 4), (1, 6, 8, 8)],
            "mask classification has",
        ),
    ],
)
def test_outputs_that_do_not_fit_the_card_are_told(card, shapes, words):
    with pytest.raises(ModelError, match=words) as caught:
        TaskPool(Model(Path("m.pte"), card))._make_layout(loaded(shapes))
    assert "m.pte" in str(caught.value)


def test_an_unknown_label_of_an_instance_model_is_told():
    card = Card(name="m", task="instance-segmentation", labels=LABELS)
    with pytest.raises(ConfigError, match="DOG"):
        TaskPool(Model(Path("m.pte"), card), labels=["dgo"])._make_layout(
            loaded([(1, 5, 4), (1, 5, 2), (1, 5, 8, 8)])
        )


# -- frames in a model's size --------------------------------------------------------------------


def stripes(width: int = 640, height: int = 384) -> av.VideoFrame:
    """Black and white columns, one pixel each."""
    rgb = np.zeros((height, width, 3), np.uint8)
    rgb[:, ::2] = 255
    return av.VideoFrame.from_ndarray(rgb, "rgb24")


def test_a_card_decides_whether_pictures_are_smoothed():
    smooth = FrameFitter(Card(name="m", antialias=True), SIZE)(stripes())
    sharp = FrameFitter(Card(name="m", resample="nearest"), SIZE)(stripes())
    assert smooth.shape == sharp.shape == (*SIZE, 3)
    assert smooth.std() < 3
    assert set(np.unique(sharp)) <= {0, 255}
    rng = np.random.default_rng(2)
    rgb = rng.integers(0, 255, (384, 640, 3), np.uint8)
    plain = FrameFitter(Card(name="m"), SIZE)(av.VideoFrame.from_ndarray(rgb, "rgb24"))
    assert np.array_equal(plain, cv2.resize(rgb, (SIZE[1], SIZE[0])))


def test_letterboxed_frames_keep_their_shape():
    fit = FrameFitter(Card(name="m", letterbox=True), SIZE)
    rgb = np.full((100, 400, 3), 250, np.uint8)
    video = av.VideoFrame.from_ndarray(rgb, "rgb24")
    out, content = fit(video), fit.content(video)
    assert content == Content(28, 0, 68, 160)
    assert (out[28:68] == 250).all()
    assert (out[:28] == 114).all()
    assert (out[68:] == 114).all()
    assert content_of((1, 4000), SIZE) == Content(47, 0, 48, 160)
    assert FrameFitter(Card(name="m"), SIZE).content(video) is None
