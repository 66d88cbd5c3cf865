"""Boxes and masks of a model come back to the picture exactly, however it was fitted."""

from __future__ import annotations

import numpy as np
import pytest

from streamseg.models.card import Card
from streamseg.tasks.fitting import fit
from streamseg.tasks.images import Picture
from streamseg.tasks.instance_masks import Geometry, mask_in_box

INPUT = (96, 128)
PICTURES = [(96, 128), (480, 640), (301, 977), (53, 41), (1080, 1920)]
STRETCH = Card(name="stretch", task="instance-segmentation")
LETTERBOX = Card(name="letterbox", task="instance-segmentation", letterbox=True)
CORNER = Card(name="corner", task="instance-segmentation", sampling="corner")


@pytest.mark.parametrize("card", [STRETCH, LETTERBOX], ids=lambda c: c.name)
@pytest.mark.parametrize("size", PICTURES)
def test_box_of_the_content_is_the_whole_picture(card: Card, size: tuple[int, int]) -> None:
    geometry = Geometry.of(card, size, INPUT)
    top, left, bottom, right = geometry.content
    boxes = np.array([[left, top, right, bottom], [-50, -50, 500, 500]], np.float32)
    moved = geometry.boxes_to_picture(boxes)
    np.testing.assert_allclose(moved, [[0, 0, size[1], size[0]]] * 2, atol=1e-4)


@pytest.mark.parametrize("card", [STRETCH, LETTERBOX, CORNER], ids=lambda c: c.name)
@pytest.mark.parametrize("size", [(480, 640), (301, 977), (1080, 1920)])
def test_box_lies_where_fit_put_the_object(card: Card, size: tuple[int, int]) -> None:
    """What is measured: the box, in the fitted picture, of a white rectangle in the picture."""
    height, width = size
    top, left, bottom, right = height // 4, width // 3, height // 2, width * 3 // 4
    pixels = np.zeros((*size, 3), np.uint8)
    pixels[top:bottom, left:right] = 255
    seen = fit(Picture(pixels), card, INPUT)[:, :, 0]
    rows, columns = np.flatnonzero((seen > 127).any(1)), np.flatnonzero((seen > 127).any(0))
    if card.letterbox:  # the bars are grey, but not that grey
        assert seen.min() == 0
    box = np.array([[columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]], np.float32)
    geometry = Geometry.of(card, size, INPUT)
    moved = geometry.boxes_to_picture(box)[0]
    step = geometry.to_picture()[1]
    assert (np.abs(moved - [left, top, right, bottom]) <= step / 2 + 1e-3).all()


@pytest.mark.parametrize("card", [STRETCH, LETTERBOX], ids=lambda c: c.name)
@pytest.mark.parametrize("size", PICTURES)
@pytest.mark.parametrize("stride", [1, 4])
def test_mask_has_its_edge_where_the_logits_have(
    card: Card, size: tuple[int, int], stride: int
) -> None:
    """Logits that are linear across the input are one half along a known line of the picture."""
    geometry = Geometry.of(card, size, INPUT)
    _, left, _, right = geometry.content
    edge = left + 0.37 * (right - left)  # in the input
    centres = (np.arange(INPUT[1] // stride) + 0.5) * stride
    logits = np.tile((centres - edge) / 1000, (INPUT[0] // stride, 1)).astype(np.float32)
    box = np.array([0, 0, size[1], size[0]], float)
    area = (0, 0, size[0], size[1])
    mask = mask_in_box(logits, geometry, box, area, original=True)
    expected = (np.arange(size[1]) + 0.5) > 0.37 * size[1]
    assert mask.shape == size
    assert mask.dtype == np.uint8
    wrong = (mask != expected).any(0)
    # Rounding decides the one pixel whose centre lies on the edge.
    assert wrong.sum() <= (abs((0.37 * size[1]) % 1 - 0.5) < 0.02)


def test_mask_of_a_box_is_that_part_of_the_whole_one() -> None:
    size = (480, 640)
    geometry = Geometry.of(LETTERBOX, size, INPUT)
    logits = np.random.default_rng(3).normal(size=(24, 32)).astype(np.float32)
    whole = mask_in_box(
        logits, geometry, np.array([0, 0, 640, 480.0]), (0, 0, 480, 640), original=True
    )
    area = (101, 57, 333, 602)
    part = mask_in_box(logits, geometry, np.array([57, 101, 602, 333.0]), area, original=True)
    np.testing.assert_array_equal(part, whole[101:333, 57:602])
    assert 0 < part.mean() < 1


def test_small_mask_holds_the_samples_that_the_box_touches() -> None:
    geometry = Geometry.of(STRETCH, (480, 640), INPUT)
    logits = np.arange(24 * 32, dtype=np.float32).reshape(24, 32) - 400
    box = np.array([55.0, 100.0, 125.0, 221.0])  # 2.75 to 6.25, and 5 to 11.05, of the samples
    mask = mask_in_box(logits, geometry, box, (100, 55, 221, 125), original=False)
    np.testing.assert_array_equal(mask, (logits > 0)[5:12, 2:7])


def test_extreme_logits_do_not_overflow() -> None:
    geometry = Geometry.of(STRETCH, (96, 128), INPUT)
    logits = np.full((24, 32), -3e38, np.float32)
    logits[:, 16:] = 3e38
    area = (0, 0, 96, 128)
    mask = mask_in_box(logits, geometry, np.array([0, 0, 128, 96.0]), area, original=True)
    assert mask[:, :62].sum() == 0
    assert mask[:, 66:].all()
