"""Pictures in a model's size, and maps of the model in the picture's."""

from __future__ import annotations

import time
from collections.abc import Iterator

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from streamseg.errors import InvalidUserInputError
from streamseg.models.card import Card
from streamseg.runtime.preprocess import to_centres
from streamseg.tasks.fitting import (
    check_memory,
    content_box,
    enlarge_classes,
    enlarge_mask,
    enlarge_masks,
    fit,
    is_quick,
)
from streamseg.tasks.images import Picture


def a_picture(height: int, width: int) -> Picture:
    """Smooth, so that ways of sampling agree but for where they sample."""
    rows, columns = np.mgrid[:height, :width].astype(np.float64)
    channels = [
        127 + 100 * np.sin(columns / width * 5),
        127 + 100 * np.cos(rows / height * 4),
        255 * columns / width,
    ]
    return Picture(np.stack(channels, axis=2).astype(np.uint8))


def test_a_picture_of_the_models_size_is_not_copied() -> None:
    picture = a_picture(20, 30)

    assert fit(picture, Card(name="a"), (20, 30)) is picture.pixels


@pytest.mark.parametrize("resample", ["nearest", "bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("size", [(40, 60), (211, 173)])
def test_every_way_of_stretching_lies_in_the_same_place(
    resample: str, antialias: bool, size: tuple[int, int]
) -> None:
    card = Card(name="a", resample=resample, antialias=antialias)
    picture = a_picture(120, 90)

    fitted = fit(picture, card, size)

    expected = np.asarray(Image.fromarray(picture.pixels).resize(size[::-1], Image.Resampling.BOX))
    assert fitted.shape == (*size, 3)
    assert fitted.flags.c_contiguous
    assert np.abs(fitted.astype(int) - expected).max() <= 12
    assert np.abs(fitted.astype(int) - expected).mean() < 2.5


def test_antialias_averages_what_becomes_smaller() -> None:
    lines = np.zeros((64, 64, 3), np.uint8)
    lines[:, ::2] = 255

    filtered = fit(Picture(lines), Card(name="a", antialias=True), (16, 16))
    plain = fit(Picture(lines), Card(name="a", resample="nearest"), (16, 16))

    assert filtered[4:-4, 4:-4].min() > 100
    assert filtered[4:-4, 4:-4].max() < 155
    assert set(np.unique(plain)) <= {0, 255}


def test_corner_sampling_takes_the_picture_at_its_corners() -> None:
    picture = a_picture(90, 120)

    fitted = fit(picture, Card(name="a", sampling="corner"), (30, 40))

    np.testing.assert_array_equal(fitted, picture.pixels[::3, ::3])


def test_corner_sampling_of_a_smaller_picture_ends_without_a_dark_edge() -> None:
    white = Picture(np.full((10, 10, 3), 255, np.uint8))

    assert fit(white, Card(name="a", sampling="corner"), (64, 64)).min() == 255


@pytest.mark.parametrize(
    ("picture_size", "box"),
    [
        ((480, 640), (80, 0, 560, 640)),
        ((640, 480), (0, 80, 640, 560)),
        ((100, 100), (0, 0, 640, 640)),
        ((1, 5000), (319, 0, 320, 640)),
    ],
)
def test_a_letterboxed_picture_lies_in_the_middle_of_grey(
    picture_size: tuple[int, int], box: tuple[int, int, int, int]
) -> None:
    card = Card(name="a", letterbox=True)
    white = Picture(np.full((*picture_size, 3), 255, np.uint8))

    top, left, bottom, right = content_box(picture_size, card, (640, 640))
    fitted = fit(white, card, (640, 640))

    assert (top, left, bottom, right) == box
    assert fitted[top:bottom, left:right].min() == 255
    fitted[top:bottom, left:right] = 114
    assert np.all(fitted == 114)


def test_without_a_letterbox_the_picture_fills_the_input() -> None:
    assert content_box((480, 640), Card(name="a"), (224, 256)) == (0, 0, 224, 256)


def test_probabilities_are_resized_bilinearly_and_classes_by_the_nearest() -> None:
    random = np.random.default_rng(0)
    mask, classes = random.random((17, 23), np.float32), random.integers(0, 21, (17, 23), np.uint8)
    card = Card(name="a")

    np.testing.assert_array_equal(
        enlarge_mask(mask, card, (100, 200)), cv2.resize(mask, (200, 100))
    )
    enlarged = enlarge_classes(classes, card, (170, 230))
    np.testing.assert_array_equal(enlarged, classes.repeat(10, axis=0).repeat(10, axis=1))
    assert enlarged.dtype == np.uint8
    wide = enlarge_classes(classes.astype(np.int32) * 1000, card, (33, 41))
    assert wide.dtype == np.int32
    assert set(np.unique(wide)) <= set(np.unique(classes.astype(np.int32) * 1000))


def test_maps_of_corner_sampling_are_put_where_they_belong() -> None:
    """Sample i stands for the point i * size / model size: an edge in the picture comes back there."""
    card = Card(name="a", sampling="corner")
    size = (160, 240)
    columns = np.arange(24) * 10  # what each sample stands for
    classes = np.tile((columns >= 120).astype(np.uint8), (16, 1))

    enlarged = enlarge_classes(classes, card, size)
    mask = enlarge_mask(classes.astype(np.float32), card, size)

    assert enlarged.shape == mask.shape == size
    assert np.flatnonzero(np.diff(enlarged[80].astype(int))).tolist() == [114]  # half-way 110, 120
    assert np.flatnonzero(mask[80] >= 0.5)[0] == pytest.approx(115, abs=1)
    np.testing.assert_array_equal(
        mask, cv2.resize(to_centres(classes.astype(np.float32), size), size[::-1])
    )


def test_bars_are_cut_off_before_maps_are_resized() -> None:
    card = Card(name="a", letterbox=True)
    inside = np.full((64, 64), 7, np.uint8)
    top, left, bottom, right = content_box((30, 60), card, (64, 64))
    inside[top:bottom, left:right] = 3

    assert np.all(enlarge_classes(inside, card, (30, 60)) == 3)
    assert np.all(enlarge_mask(inside.astype(np.float32), card, (30, 60)) == 3.0)


@pytest.mark.parametrize(
    ("picture", "card", "size", "quick"),
    [
        ((512, 512), Card(name="a"), (257, 257), True),
        ((512, 512), Card(name="a", sampling="corner"), (256, 256), True),
        ((512, 512), Card(name="a", antialias=True), (257, 257), False),
        ((512, 512), Card(name="a", resample="lanczos"), (257, 257), False),
        ((1080, 1920), Card(name="a"), (257, 257), False),
        ((100, 100), Card(name="a"), (1024, 1024), False),
    ],
)
def test_only_what_takes_no_time_is_done_on_the_event_loop(
    picture: tuple[int, int], card: Card, size: tuple[int, int], quick: bool
) -> None:
    pixels = np.zeros((*picture, 3), np.uint8)
    assert is_quick(Picture(pixels), card, size) is quick
    if quick:
        times = []
        for _ in range(20):
            started = time.perf_counter()
            fit(Picture(pixels), card, size)
            times.append(time.perf_counter() - started)
        assert min(times) < 0.002


def test_probabilities_that_fill_the_memory_are_refused() -> None:
    check_memory(21, (7000, 7000), "ask for fewer")
    with pytest.raises(InvalidUserInputError, match=r"21 classes of 8000x7500 .*: ask for fewer"):
        check_memory(21, (7500, 8000), "ask for fewer")


def test_nobody_wants_the_other_masks() -> None:
    begun: list[int] = []

    def check() -> None:
        if begun == [0, 1, 2]:
            raise InterruptedError

    def masks() -> Iterator[NDArray[np.float32]]:
        for index in range(9):
            yield np.full((4, 4), index, np.float32)
            begun.append(index)

    with pytest.raises(InterruptedError):
        enlarge_masks(masks(), Card(name="a"), (8, 8), check)
    large = enlarge_masks([np.ones((4, 4), np.float32)], Card(name="a"), (8, 8), lambda: None)
    assert [mask.shape for mask in large] == [(8, 8)]
