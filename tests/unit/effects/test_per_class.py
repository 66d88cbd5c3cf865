"""Another effect for each class, and what a classifier says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from streamseg.effects.per_class import altered_classes
from streamseg.effects.registry import create_effect
from streamseg.errors import ConfigError
from streamseg.models.labels import VOC_LABELS
from streamseg.segmentation import Segmentation

from .pictures import flat, frame, picture, planes

LEFT, MIDDLE, RIGHT = slice(0, 60), slice(80, 140), slice(160, 230)


def thirds(**masks):
    """PERSON in the left third, CAR in the middle, nothing on the right; 240x160."""
    person, car = np.zeros((80, 120), np.float32), np.zeros((80, 120), np.float32)
    person[:, :35], car[:, 37:75] = 1.0, 1.0
    return Segmentation(7, VOC_LABELS, None, {"PERSON": person, "CAR": car, **masks})


def changed(source, out, columns):
    return not np.array_equal(planes(source.video)[0][:, columns], planes(out.video)[0][:, columns])


def test_each_class_gets_its_effect_and_the_rest_none():
    source = frame(picture(width=240, height=160))
    wish = {"person": "blur", "CAR": {"name": "replace", "background": "white"}}
    effect = create_effect("per-class", {"classes": wish})
    assert effect.wanted_labels(VOC_LABELS) == ("PERSON", "CAR")
    out = effect.apply(source, thirds())
    luma = planes(out.video)[0]
    assert luma[:, LEFT].std() < planes(source.video)[0][:, LEFT].std() / 4
    assert set(np.unique(luma[:, 80:140])) == {235}
    assert not changed(source, out, RIGHT)


def test_options_of_a_class_and_those_of_all():
    source = frame(picture(width=240, height=160))
    half = np.full((80, 120), 0.4, np.float32)
    given = thirds(PERSON=half)
    wish = {"PERSON": {"name": "replace", "background": "white", "threshold": 0.2}}
    out = create_effect("per-class", {"classes": wish, "threshold": 0.9}).apply(source, given)
    assert planes(out.video)[0].mean() > 225
    out = create_effect("per-class", {"classes": {"PERSON": "blur"}, "threshold": 0.9}).apply(
        source, given
    )
    assert not changed(source, out, slice(0, 240))


@pytest.mark.parametrize(
    "given",
    [
        None,
        Segmentation(7, VOC_LABELS, None, {"PERSON": np.zeros((8, 8), np.float32)}),
        thirds(CAR=np.full((8, 8), np.nan, np.float32)),
        thirds(CAR=np.zeros((0, 0), np.float32)),
    ],
    ids=["nothing", "one class is missing", "no numbers", "no pixels"],
)
def test_what_has_no_mask_hides_everything(given):
    source = frame(picture(width=240, height=160))
    wish = {"PERSON": {"name": "grayscale", "strength": 10}, "CAR": {"name": "blur", "strength": 1}}
    out = create_effect("per-class", {"classes": wish}).apply(source, given)
    for columns in (LEFT, MIDDLE, RIGHT):
        assert planes(out.video)[0][:, columns].std() < 8


def test_nobody_there_leaves_the_picture():
    source = frame(picture(width=240, height=160))
    empty = np.zeros((8, 8), np.float32)
    out = create_effect("per-class", {"classes": {"PERSON": "blur", "CAR": "pixelate"}}).apply(
        source, thirds(PERSON=empty, CAR=empty)
    )
    assert not changed(source, out, slice(0, 240))


def test_without_classes_people_are_blurred():
    effect = create_effect("per-class")
    assert effect.wanted_labels(("SELFIE", "BACKGROUND")) == ("SELFIE",)
    source = frame(picture(width=240, height=160))
    out = effect.apply(source, thirds())
    assert changed(source, out, LEFT)
    assert not changed(source, out, RIGHT)


def test_the_background_can_be_named():
    labels = ("BACKGROUND", "PERSON")
    person = np.zeros((80, 120), np.float32)
    person[:, :60] = 1.0
    given = Segmentation(7, labels, None, {"PERSON": person, "BACKGROUND": 1 - person})
    source = frame(picture(width=240, height=160))
    wish = {"BACKGROUND": "blur", "PERSON": "none"}
    out = create_effect("per-class", {"classes": wish}).apply(source, given)
    assert not changed(source, out, slice(0, 110))
    assert changed(source, out, slice(140, 240))


@pytest.mark.parametrize("pixel_format", ["gray", "nv12", "rgb24", "yuv420p10le"])
def test_the_format_is_the_declared_one_hidden_or_not(pixel_format):
    source = frame(picture(pixel_format, 240, 160))
    wish = {"PERSON": "blur", "CAR": {"name": "replace", "background": "navy"}}
    effect = create_effect("per-class", {"classes": wish})
    for given in (thirds(), None):
        assert effect.apply(source, given).pixel_format == effect.output_format(pixel_format)


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        ({"PERSON": "blurr"}, "PERSON must have one of .*did you mean 'blur'"),
        ({"PERSON": "cutout"}, "PERSON must have one of"),
        ({"PERSON": {"strength": 3}}, "PERSON must have an effect's name"),
        ({"PERSON": {"name": "blur", "strength": 300}}, "PERSON: strength must be"),
        ({"PERSON": {"name": "blur", "on": "background"}}, "'on' is the class itself"),
        ({"PERSON": 5}, "PERSON must have an effect's name"),
        (["PERSON"], "classes must map labels to effects"),
        ({f"C{index}": "blur" for index in range(17)}, "at most 16"),
    ],
)
def test_wrong_wishes_are_told_in_one_line(classes, words):
    with pytest.raises(ConfigError, match=words) as caught:
        create_effect("per-class", {"classes": classes})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", ["/etc/passwd", "clip.mp4", Path("/etc/passwd"), 5, None, ""])
def test_no_file_can_be_named_in_a_class(value):
    """What is said from far away reaches these options unread."""
    with pytest.raises(ConfigError, match="background"):
        create_effect(
            "per-class", {"classes": {"PERSON": {"name": "replace", "background": value}}}
        )


def test_an_unknown_class_is_told_with_the_nearest():
    effect = create_effect("per-class", {"classes": {"PERSN": "blur"}})
    with pytest.raises(ConfigError, match=r"classes 'PERSN' is not a label.*'PERSON'"):
        effect.wanted_labels(VOC_LABELS)
    with pytest.raises(ConfigError, match="named in the table"):
        create_effect("per-class", {"subject": ["person"]})


def test_which_classes_are_altered():
    wish = {"PERSON": "blur", "DOG": "none", "CAR": {"name": "pixelate"}}
    assert altered_classes({"classes": wish}) == ("PERSON", "CAR")
    assert altered_classes({}) == ()


# -- what a classifier says ----------------------------------------------------------------------


def said(index=7, **scores):
    ordered = dict(sorted(scores.items(), key=lambda item: -item[1]))
    return Segmentation(index, tuple(scores), scores=ordered)


def panel_of(source, out):
    rows, columns = np.nonzero(planes(source.video)[0] != planes(out.video)[0])
    return rows, columns


def test_labels_are_written_into_their_corner_and_nowhere_else():
    source = frame(flat((120, 128, 128), 640, 360))
    given = said(CAT=0.7, DOG=0.2, TOILET_TISSUE=0.1)
    rows, columns = panel_of(source, create_effect("labels").apply(source, given))
    assert rows.max() < 100
    assert columns.max() < 220
    right = create_effect("labels", {"corner": "bottom-right"}).apply(source, given)
    rows, columns = panel_of(source, right)
    assert rows.min() > 260
    assert columns.min() > 400


def test_fewer_labels_make_a_smaller_panel_and_none_leave_the_picture():
    source = frame(flat((120, 128, 128), 640, 360))
    given = said(CAT=0.7, DOG=0.2, BIRD=0.1)
    heights = []
    for options in ({"top": 3}, {"top": 1}, {"least": 0.15}, {"subject": ["bird"]}):
        rows, _ = panel_of(source, create_effect("labels", options).apply(source, given))
        heights.append(rows.max() - rows.min())
    assert heights[0] > heights[2] > heights[1]
    assert heights[1] == heights[3]
    nothing = create_effect("labels", {"least": 0.9}).apply(source, given)
    assert np.array_equal(planes(nothing.video)[0], planes(source.video)[0])


def test_what_is_said_changes_slowly_and_begins_anew_with_another_stream():
    source = frame(flat((120, 128, 128), 640, 360))
    effect = create_effect("labels", {"top": 1})
    effect.apply(source, said(index=1, CAT=0.9, DOG=0.1))
    effect.apply(source, said(index=2, CAT=0.1, DOG=0.9))
    assert effect._scores["CAT"] == pytest.approx(0.66)
    effect.apply(source, said(index=2, CAT=0.1, DOG=0.9))
    assert effect._scores["CAT"] == pytest.approx(0.66), "the same answer counts once"
    effect.apply(source, said(index=0, CAT=0.1, DOG=0.9))
    assert effect._scores["CAT"] == pytest.approx(0.1)


def test_without_an_answer_the_picture_is_hidden():
    source = frame(picture(width=640, height=360))
    masks = Segmentation(7, ("SELFIE",), None, {"SELFIE": np.ones((8, 8), np.float32)})
    for given in (None, masks):
        out = create_effect("labels").apply(source, given)
        assert planes(out.video)[0].std() < planes(source.video)[0].std() / 10


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"top": 0}, "top must be a whole number from 1 to 10"),
        ({"least": 2}, "least must be a number between 0 and 1"),
        ({"corner": "left"}, "corner must be one of"),
        ({"subject": "cat"}, "subject must be a list"),
    ],
)
def test_wrong_options_of_labels_are_told(options, words):
    with pytest.raises(ConfigError, match=words):
        create_effect("labels", options)
