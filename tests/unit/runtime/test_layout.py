from __future__ import annotations

import json

import numpy as np

from streamseg.runtime.layout import SlotLayout

LAYOUT = SlotLayout(
    input_size=(5, 7), output_size=(3, 4), mask_classes=(0, 2), class_map=True, raw=((1, 3), (2, 2))
)


def test_views_have_the_shapes_of_the_layout() -> None:
    views = LAYOUT.views(bytearray(2 * LAYOUT.slot_bytes), 1)

    assert views.pixels.shape == (5, 7, 3)
    assert views.pixels.dtype == np.uint8
    assert views.masks.shape == (2, 3, 4)
    assert views.masks.dtype == np.float32
    assert views.class_map.shape == (3, 4)
    assert views.class_map.dtype == np.uint8
    assert [(array.shape, array.dtype) for array in views.raw] == [
        ((1, 3), np.float32),
        ((2, 2), np.float32),
    ]


def test_regions_and_slots_do_not_overlap() -> None:
    buffer = bytearray(3 * LAYOUT.slot_bytes)
    slots = [LAYOUT.views(buffer, slot) for slot in range(3)]
    for number, views in enumerate(slots):
        views.pixels[:] = 10 + number
        views.masks[:] = 20 + number
        views.class_map[:] = 30 + number
        views.raw[0][:] = 40 + number
        views.raw[1][:] = 50 + number

    for number, views in enumerate(slots):
        assert np.all(views.pixels == 10 + number)
        assert np.all(views.masks == 20 + number)
        assert np.all(views.class_map == 30 + number)
        assert np.all(views.raw[0] == 40 + number)
        assert np.all(views.raw[1] == 50 + number)


def test_layout_survives_json() -> None:
    assert SlotLayout.from_json(json.loads(json.dumps(LAYOUT.to_json()))) == LAYOUT


def test_regions_are_where_the_views_are() -> None:
    buffer = bytearray(2 * LAYOUT.slot_bytes)
    views = LAYOUT.views(buffer, 1)
    start = np.frombuffer(buffer, np.uint8).__array_interface__["data"][0]

    *arrays, raw_views = views
    *regions, raw_regions = LAYOUT.regions(1)
    for view, region in zip((*arrays, *raw_views), (*regions, *raw_regions), strict=True):
        assert view.__array_interface__["data"][0] - start == region.offset
        assert (view.shape, view.dtype.name) == (region.shape, region.dtype)
