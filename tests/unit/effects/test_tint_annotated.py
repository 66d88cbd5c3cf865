"""Tint with several classes, with objects, with outlines and a legend."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from streamseg.effects.colours import yuv_samples
from streamseg.effects.contours import draw_outline
from streamseg.effects.legend import Legend, display_name
from streamseg.effects.palette import distinct_colour, palette
from streamseg.effects.panel import Panel, PanelLine
from streamseg.effects.regions import Region, split_by_instance
from streamseg.effects.registry import create_effect
from streamseg.errors import ConfigError
from streamseg.frames import Colour, Frame
from streamseg.models.labels import COCO_LABELS, VOC_LABELS
from streamseg.segmentation import FrameInstance, Segmentation

from .pictures import BT709, flat, frame, picture, planes

GREY = (120, 128, 128)


def rectangle(left, top, right, bottom, *, width=160, height=90):
    mask = np.zeros((height, width), np.float32)
    mask[top:bottom, left:right] = 1.0
    return mask


def two_classes(labels=VOC_LABELS, first="PERSON", second="DOG"):
    masks = dict.fromkeys(labels, np.zeros((90, 160), np.float32))
    masks |= {first: rectangle(20, 20, 60, 70), second: rectangle(90, 20, 140, 70)}
    return Segmentation(7, labels, None, masks)


def at(video, x, y):
    """The samples of a luma pixel."""
    luma, *chroma = planes(video)
    return [int(luma[y, x])] + [
        int(plane[y * plane.shape[0] // luma.shape[0], x * plane.shape[1] // luma.shape[1]])
        for plane in chroma
    ]


def samples(rgb):
    return list(yuv_samples(rgb, BT709, 8))


def test_each_class_has_its_colour_and_a_users_own_comes_first():
    source = frame(flat(GREY, 640, 360))
    options = {"strength": 100, "colours": {"person": "#ff0000"}}
    out = create_effect("tint", options).apply(source, two_classes()).video
    assert np.abs(np.array(at(out, 160, 180)) - samples((255, 0, 0))).max() <= 1
    dog = palette(VOC_LABELS)[VOC_LABELS.index("DOG")]
    assert np.abs(np.array(at(out, 460, 180)) - samples(dog)).max() <= 1
    assert at(out, 300, 180) == list(GREY)


def test_more_classes_than_are_merged_one_by_one_look_the_same():
    labels = tuple(f"THING_{index}" for index in range(8))
    masks = {
        label: rectangle(20 * index, 0, 20 * index + 20, 90) for index, label in enumerate(labels)
    }
    given = Segmentation(7, labels, None, masks)
    out = create_effect("tint", {"strength": 100}).apply(frame(flat(GREY, 640, 360)), given).video
    for index, colour in enumerate(palette(labels)):
        assert np.abs(np.array(at(out, 80 * index + 40, 180)) - samples(colour)).max() <= 2


def test_a_colour_for_a_class_that_is_not_there_is_told_early():
    effect = create_effect("tint", {"colours": {"PERSN": "red"}})
    with pytest.raises(ConfigError, match=r"colours 'PERSN' is not a label.*'PERSON'"):
        effect.wanted_labels(VOC_LABELS)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"contours": 6}, "contours must be a number between 0 and 5"),
        ({"legend": "yes"}, "legend must be true or false"),
        ({"objects": 1}, "objects must be true or false"),
    ],
)
def test_wrong_options_are_told(options, words):
    with pytest.raises(ConfigError, match=words):
        create_effect("tint", options)


# -- outlines ----------------------------------------------------------------------------------


def test_outlines_are_drawn_on_the_edge_and_leave_the_rest():
    source = frame(flat(GREY, 640, 360))
    options = {"strength": 0, "contours": 1.0, "subject": ["dog"], "colours": {"dog": "#ffffff"}}
    out = create_effect("tint", options).apply(source, two_classes()).video
    luma = planes(out)[0]
    assert luma[180, 360] > 200, "the left edge of the dog"
    assert luma[180, 558:562].max() > 200, "its right edge"
    assert (luma[120:240, 380:540] == GREY[0]).all(), "nothing inside"
    assert (luma[:, :340] == GREY[0]).all(), "nothing around the person, who was not asked for"
    assert planes(source.video)[0].std() == 0, "the frame itself was drawn into"


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv422p10le", "yuv411p", "gray", "rgb24"])
def test_outlines_and_legends_work_in_every_format_and_size(pixel_format):
    effect = create_effect("tint", {"contours": 2.0, "legend": True})
    for width, height in ((1, 1), (17, 9), (63, 200), (321, 241)):
        source = frame(picture(pixel_format, width, height))
        before = [bytes(plane) for plane in source.video.planes]
        for given in (two_classes(), None):
            out = effect.apply(source, given)
            assert (out.width, out.height) == (width, height)
            assert out.pixel_format == effect.output_format(pixel_format)
        assert [bytes(plane) for plane in source.video.planes] == before


def test_an_outline_that_leaves_the_picture_does_not_follow_its_border():
    video = flat(GREY, 320, 180)
    draw_outline(video, rectangle(0, 45, 80, 90), (235, 128, 128), 3.0)
    luma = planes(video)[0]
    assert luma[90, 20:140].max() > 200, "the upper edge"
    assert (luma[110:150, :4] == GREY[0]).all(), "a line along the left border"
    assert (luma[-3:, 20:140] == GREY[0]).all(), "a line along the lower border"


def test_outlines_without_a_mask_hide_the_picture():
    source = frame(picture(width=640, height=360))
    out = create_effect("tint", {"strength": 0, "contours": 1.0}).apply(source, None)
    assert planes(out.video)[0].std() < planes(source.video)[0].std() / 10


# -- legend ------------------------------------------------------------------------------------


def drawn_box(before, after):
    """Rows and columns of what a panel changed."""
    rows, columns = np.nonzero(before != after)
    return rows.min(), rows.max(), columns.min(), columns.max()


def test_the_legend_stands_in_its_corner_with_the_colours_of_what_is_there():
    source = frame(flat(GREY, 1280, 720))
    out = create_effect("tint", {"legend": True, "strength": 0}).apply(source, two_classes()).video
    top, bottom, left, right = drawn_box(planes(source.video)[0], planes(out)[0])
    assert top > 580
    assert bottom < 720
    assert left >= 12
    assert right < 300
    chroma = {tuple(at(out, x, y)[1:]) for y in range(top, bottom) for x in range(left, left + 60)}
    for label in ("PERSON", "DOG"):
        expected = samples(palette(VOC_LABELS)[VOC_LABELS.index(label)])[1:]
        assert min(np.abs(np.array(seen) - expected).max() for seen in chroma) <= 2, label


def test_the_legend_does_not_flicker_and_forgets():
    legend = Legend()
    seen = Region("DOG", "DOG", (1, 2, 3), np.ones((4, 4), np.float32))
    speck = Region("CAT", "CAT", (4, 5, 6), np.zeros((4, 4), np.float32))
    assert legend.entries([seen, speck], 0) == (("DOG", (1, 2, 3)),)
    assert legend.entries([], 10) == (("DOG", (1, 2, 3)),)
    assert legend.entries([], 60) == ()
    legend.entries([seen], 100)
    assert legend.entries([], 3) == (), "another stream"


def test_a_chosen_class_stays_in_the_legend():
    source = frame(flat(GREY, 640, 360))
    nobody = Segmentation(7, VOC_LABELS, None, {"PERSON": np.zeros((90, 160), np.float32)})
    chosen = create_effect("tint", {"legend": True, "subject": ["person"]})
    assert not np.array_equal(
        planes(chosen.apply(source, nobody).video)[0], planes(source.video)[0]
    )
    seen = create_effect("tint", {"legend": True})
    assert np.array_equal(planes(seen.apply(source, nobody).video)[0], planes(source.video)[0])


def test_labels_are_written_as_people_write_them():
    assert display_name("DINING_TABLE") == "dining table"
    assert display_name("Café") == "Café"


@pytest.mark.parametrize("corner", ["top-left", "top-right", "bottom-left", "bottom-right"])
def test_panels_stay_within_the_picture(corner):
    for width, height in ((48, 48), (64, 200), (640, 60), (1280, 720)):
        video, before = flat(GREY, width, height), flat(GREY, width, height)
        lines = tuple(PanelLine("a very long name of a class " * 4, (255, 0, 0)) for _ in range(40))
        Panel(corner).draw(video, lines)
        changed = planes(video)[0] != planes(before)[0]
        assert changed.any()
        half = (
            (slice(0, height // 2 + 1) if corner.startswith("top") else slice(height // 2, None)),
            (slice(0, width // 2 + 1) if corner.endswith("left") else slice(width // 2, None)),
        )
        assert changed[half].any()


# -- objects -----------------------------------------------------------------------------------


def people(*boxes, index=0, labels=COCO_LABELS):
    """A frame with a person in each box (x0, y0, x1, y1 in 160x90)."""
    instances = tuple(
        FrameInstance(
            "PERSON",
            0.9,
            (x0 / 160, y0 / 90, x1 / 160, y1 / 90),
            rectangle(x0, y0, x1, y1),
        )
        for x0, y0, x1, y1 in boxes
    )
    union = np.maximum.reduce([rectangle(0, 0, 0, 0), *(each.mask for each in instances)])
    return Segmentation(index, labels, None, {"PERSON": union}, instances=instances)


def test_each_object_keeps_its_colour_while_they_move_and_change_places():
    effect = create_effect("tint", {"strength": 100})
    colours = []
    for index in range(12):
        left, right = (10 + 3 * index, 20, 40 + 3 * index, 70), (120 - 2 * index, 20, 150, 70)
        boxes = (left, right) if index % 2 else (right, left)  # the model's order is by score
        source = Frame(flat(GREY, 640, 360), index, 0.0)
        out = effect.apply(source, people(*boxes, index=index)).video
        colours.append((tuple(at(out, 4 * left[0] + 40, 180)), tuple(at(out, 4 * 145, 180))))
    assert len(set(colours)) == 1
    assert colours[0][0] != colours[0][1]


def test_objects_can_share_their_classes_colour():
    given = people((10, 20, 40, 70), (100, 20, 150, 70))
    source = frame(flat(GREY, 640, 360))
    for options in ({"objects": False}, {"colours": {"PERSON": "#00ff00"}}):
        out = create_effect("tint", {"strength": 100, **options}).apply(source, given).video
        assert at(out, 100, 180) == at(out, 500, 180)
    apart = create_effect("tint", {"strength": 100}).apply(source, given).video
    assert sorted((at(apart, 100, 180), at(apart, 500, 180))) == sorted(
        samples(distinct_colour(number)) for number in (0, 1)
    )


def test_a_finer_mask_of_a_class_is_divided_among_its_objects():
    given = people((10, 20, 60, 70), (60, 20, 110, 70))
    fine = cv2.resize(given.masks["PERSON"], (640, 360))
    fine = cv2.dilate(fine, np.ones((9, 9)))  # refined, and wider than the objects' own
    first, second = split_by_instance(fine, given.instances)
    assert np.array_equal(first + second, fine)
    assert first[180, 40] == 1.0, "the rim belongs to who is near"
    assert second[180, 440] == 1.0
    assert first[180, 234] == 1.0
    assert second[180, 246] == 1.0


def test_colour_description_is_kept_with_everything_on():
    source = frame(flat(GREY, 640, 360))
    out = create_effect("tint", {"legend": True, "contours": 1}).apply(source, two_classes())
    assert Colour.of(out.video) == Colour.of(source.video)
    assert (out.pts, out.index) == (source.pts, source.index)
