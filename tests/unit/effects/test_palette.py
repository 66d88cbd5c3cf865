"""Colours of classes and of objects."""

from __future__ import annotations

from itertools import combinations

import cv2
import numpy as np
import pytest

from streamseg.effects.colours import class_colour, yuv_arrays, yuv_samples
from streamseg.effects.palette import distinct_colour, palette
from streamseg.frames import Colour
from streamseg.models.labels import COCO_LABELS, VOC_LABELS


def test_voc_has_its_own_colours_however_its_names_are_written():
    expected = tuple(class_colour(label, index) for index, label in enumerate(VOC_LABELS))
    assert expected[15] == (192, 128, 128)
    assert palette(VOC_LABELS) == expected
    spaced = {"DININGTABLE": "dining table", "POTTEDPLANT": "potted plant", "TVMONITOR": "tv"}
    assert palette([spaced.get(label, label.lower()) for label in VOC_LABELS]) == expected
    assert palette(("SELFIE", "BACKGROUND"))[0] == class_colour("SELFIE", 0)


def test_other_models_have_colours_that_can_be_told_apart():
    colours = palette(COCO_LABELS)
    assert len(set(colours)) == len(COCO_LABELS)
    lab = cv2.cvtColor(np.float32([colours[:12]]) / 255, cv2.COLOR_RGB2Lab)[0]
    nearest = min(float(np.linalg.norm(one - other)) for one, other in combinations(lab, 2))
    assert nearest > 15, "two of the first twelve look alike"
    # Consecutive ones are far apart, whatever their number: objects that are seen together.
    lab = cv2.cvtColor(np.float32([colours]) / 255, cv2.COLOR_RGB2Lab)[0]
    assert np.linalg.norm(np.diff(lab, axis=0), axis=1).min() > 35


def test_the_background_takes_no_colour_from_the_others():
    assert palette(("BACKGROUND", "CAT", "DOG"))[1:] == palette(("CAT", "DOG"))


def test_colours_are_in_range_and_the_same_again():
    for index in range(200):
        assert all(0 <= value <= 255 for value in distinct_colour(index))
        assert distinct_colour(index) == distinct_colour(index)


@pytest.mark.parametrize("bits", [8, 10, 16])
@pytest.mark.parametrize("colour", [Colour(1, 1), Colour(6, 2), Colour(9, 1)])
def test_pictures_become_the_same_samples_as_single_colours(colour, bits):
    rng = np.random.default_rng(3)
    rgb = rng.integers(0, 256, (4, 5, 3), np.uint8)
    planes = np.stack(yuv_arrays(rgb, colour, bits), axis=2)
    for row, column in ((0, 0), (2, 3), (3, 4)):
        single = yuv_samples(tuple(rgb[row, column].tolist()), colour, bits)
        assert np.abs(planes[row, column] - single).max() <= 1
