"""Options, palette and results of ImageSegmenter."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from streamseg.errors import InvalidConfigError, ModelError, ModuleNotLoadedError
from streamseg.models.labels import VOC_LABELS
from streamseg.tasks.image_segmenter import (
    ColoredLabel,
    ImageSegmenter,
    SegmentationResult,
    voc_color,
)
from streamseg.tasks.image_segmenter_result import colored_label
from streamseg.tasks.image_segmenter_stream import LiveStatistics, NewestOnly


def test_palette_is_that_of_pascal_voc() -> None:
    known = {
        0: (0, 0, 0),
        1: (128, 0, 0),
        2: (0, 128, 0),
        3: (128, 128, 0),
        4: (0, 0, 128),
        15: (192, 128, 128),
        20: (0, 64, 128),
        255: (224, 224, 192),
    }
    assert {index: voc_color(index) for index in known} == known
    assert len({voc_color(index) for index in range(256)}) == 256


def test_names_are_those_of_tensorflow_lite() -> None:
    labels = [colored_label(index, label) for index, label in enumerate(VOC_LABELS)]
    assert [label.category_name for label in labels[:2]] == ["background", "aeroplane"]
    assert [labels[index].category_name for index in (11, 16, 20)] == [
        "dining table",
        "potted plant",
        "tv",
    ]
    assert labels[15] == ColoredLabel((192, 128, 128), "person", "person")
    assert colored_label(1, "TRAFFIC_LIGHT").display_name == "traffic light"
    assert colored_label(1, "Grüner Baum").category_name == "Grüner Baum"


@pytest.mark.parametrize("num_threads", [0, -2, True])
def test_number_of_threads_is_minus_1_or_at_least_1(num_threads: Any) -> None:
    with pytest.raises(InvalidConfigError, match=r"num_threads is .*, expected -1, or 1 or more"):
        ImageSegmenter("selfie", num_threads=num_threads)


@pytest.mark.parametrize("num_threads", [-1, 1, 8])
def test_other_numbers_of_threads_are_taken(num_threads: int) -> None:
    assert ImageSegmenter("selfie", num_threads=num_threads).output_type == "category_mask"


def test_unknown_output_type_is_told() -> None:
    expected = "'neither', expected 'category_mask' or 'confidence_mask' or 'both'"
    with pytest.raises(InvalidConfigError, match=expected):
        ImageSegmenter("selfie", output_type="neither")


def test_categories_and_confidences_are_drawn_alike() -> None:
    labels = tuple(ColoredLabel(voc_color(i), str(i), str(i)) for i in range(3))
    confidences = np.array([[[0.5, 0.1]], [[0.5, 0.2]], [[0.0, 0.7]]], np.float32)
    scores = SegmentationResult(None, tuple(confidences), labels, 1.0)
    classes = SegmentationResult(np.array([[0, 2]], np.uint8), None, labels, 1.0)
    both = SegmentationResult(classes.category_mask, scores.confidence_masks, labels, 1.0)
    for result in (scores, classes, both):
        assert result.size == (1, 2)
        np.testing.assert_array_equal(result.colored(), [[(0, 0, 0), (0, 128, 0)]])
    assert repr(scores) == "SegmentationResult(confidence 1x2, 3 labels)"


@pytest.mark.parametrize(
    ("mode", "callback"), [("live_stream", None), ("video", print), ("image", print)]
)
def test_callback_belongs_to_live_streams(mode: str, callback: Any) -> None:
    with pytest.raises(InvalidConfigError, match=r"result_callback belongs to .* live_stream"):
        ImageSegmenter("selfie", running_mode=mode, result_callback=callback)


@pytest.mark.anyio
async def test_each_mode_has_its_own_call() -> None:
    pixels = np.zeros((4, 4, 3), np.uint8)
    image = ImageSegmenter("selfie")
    video = ImageSegmenter("selfie", running_mode="video")
    with pytest.raises(InvalidConfigError, match=r"segment needs .* image, this segmenter has vid"):
        await video.segment(pixels)
    with pytest.raises(InvalidConfigError, match="segment_for_video needs"):
        await image.segment_for_video(pixels, 1)
    with pytest.raises(InvalidConfigError, match="segment_async needs"):
        video.segment_async(pixels, 1)


@pytest.mark.anyio
async def test_newest_waits_and_the_one_before_is_dropped() -> None:
    done: list[int] = []
    free = asyncio.Event()
    begun = asyncio.Event()

    async def work(item: int) -> None:
        begun.set()
        await free.wait()
        done.append(item)
        if item == 4:
            raise ModelError("this one not")

    stream = NewestOnly(work)
    stream.start()
    stream.put(1)
    await begun.wait()
    for item in (2, 3, 4):
        stream.put(item)
    assert stream.statistics() == LiveStatistics(accepted=4, dropped=2)
    free.set()
    while stream.statistics().failed == 0:
        await asyncio.sleep(0)
    stream.put(5)
    while stream.statistics().delivered < 2:
        await asyncio.sleep(0)
    assert done == [1, 4, 5]
    assert stream.statistics() == LiveStatistics(accepted=5, delivered=2, dropped=2, failed=1)
    free.clear()
    stream.put(6)
    await asyncio.sleep(0)
    await stream.aclose()
    await stream.aclose()
    assert done == [1, 4, 5]


@pytest.mark.anyio
async def test_stream_may_be_closed_by_its_own_work() -> None:
    closed = asyncio.Event()

    async def work(item: int) -> None:
        await stream.aclose()
        closed.set()

    stream = NewestOnly(work)
    stream.start()
    stream.put(1)
    await closed.wait()
    while asyncio.all_tasks() - {asyncio.current_task()} and stream.statistics().delivered == 0:
        await asyncio.sleep(0)
    stream.put(2)
    await asyncio.sleep(0)
    assert stream.statistics().delivered == 1


@pytest.mark.anyio
async def test_call_before_loading_is_error_102() -> None:
    segmenter = await ImageSegmenter.load("selfie", prevent_load=True)
    with pytest.raises(ModuleNotLoadedError):
        await segmenter.segment(np.zeros((4, 4, 3), np.uint8))
    await segmenter.aclose()


@pytest.mark.anyio
async def test_absent_file_is_a_model_error(tmp_path: Any) -> None:
    segmenter = ImageSegmenter(tmp_path / "none.tflite")
    with pytest.raises(ModelError, match=r"cannot read .*none\.tflite: No such file"):
        await segmenter.open()
    assert isinstance(segmenter.error, ModelError)
    await segmenter.aclose()
