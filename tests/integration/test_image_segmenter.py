"""TensorFlow Lite's own models by ImageSegmenter: converted once, with its results."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import av
import cv2
import numpy as np
import pytest

from streamseg.convert import _tflite_store as store
from streamseg.errors import (
    FileReadFailedError,
    InvalidUserInputError,
    ModelError,
    ModelGeneratingError,
    ModuleNotLoadedError,
    StreamsegError,
)
from streamseg.tasks.image_segmenter import ImageSegmenter, OutputType, SegmentationResult
from streamseg.tasks.images import fit, load_image
from streamseg.tasks.semantic import SemanticSegmenter
from streamseg.tasks.transformers_pipeline import pipeline
from tests.support.command import Command
from tests.support.made_once import tflite_cache
from tests.support.tflite_graphs import Graph

# A model is converted once per version of the converter, which takes its time beside other tests.
pytestmark = [pytest.mark.integration, pytest.mark.anyio, pytest.mark.timeout(400)]

ROOT = Path(__file__).parents[2]
DEEPLAB = "weights/deeplabv3_257_voc21.tflite"
QUANTISED = "weights/deeplabv3_mnv2_513_voc21_quant.tflite"
GOLDEN_INPUT = "golden/segmentation_input_rotation0.jpg"


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache that is kept as long as the converter is the same."""
    folder = tflite_cache()
    monkeypatch.setenv("STREAMSEG_CACHE", str(folder))
    return folder


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("STREAMSEG_CACHE", str(folder))
    return folder


def tiny(path: Path, operator: str = "RELU") -> Path:
    """Write a model of three classes that is its own input."""
    graph = Graph()
    image, out = graph.value(1, 8, 8, 3), graph.value(1, 8, 8, 3)
    graph.add(operator, [image], out)
    path.write_bytes(graph.to_bytes())
    return path


def programs(cache: Path) -> list[Path]:
    return [path for path in cache.rglob("*") if path.suffix in {".pte", ".toml"}]


def overlap(first: np.ndarray, second: np.ndarray) -> float:
    """Return the IoU, mean over the classes that are in either."""
    classes = np.union1d(first, second)
    shares = [
        ((first == c) & (second == c)).sum() / ((first == c) | (second == c)).sum() for c in classes
    ]
    return float(np.mean(shares))


async def test_golden_mask(assets: Path, kept: Path) -> None:
    golden = cv2.imread(str(assets / "golden/segmentation_golden_rotation0.png"), 0) // 10
    async with await ImageSegmenter.load(assets / DEEPLAB) as segmenter:
        result = await segmenter.segment(assets / GOLDEN_INPUT)
    assert result.category_mask is not None
    assert result.confidence_masks is None
    assert result.category_mask.dtype == np.uint8
    equal = float((result.category_mask == golden).mean())
    print(f"{equal:.3%} of the pixels are the golden ones")
    assert equal >= 0.99
    names = {result.colored_labels[c].category_name for c in np.unique(result.category_mask)}
    assert names == {"background", "horse", "person"}
    assert result.colored_labels[11].category_name == "dining table"
    person = result.category_mask == 15
    assert {tuple(colour) for colour in result.colored()[person]} == {(192, 128, 128)}


async def test_confidences_have_their_highest_where_the_category_is(
    assets: Path, kept: Path
) -> None:
    results: dict[OutputType, SegmentationResult] = {}
    for kind in OutputType:
        async with await ImageSegmenter.load(
            assets / DEEPLAB, output_type=kind, num_threads=1
        ) as segmenter:
            results[kind] = await segmenter.segment(assets / "media/cats_and_dogs.jpg")
    categories = results[OutputType.CATEGORY_MASK].category_mask
    confidences = results[OutputType.CONFIDENCE_MASK].confidence_masks
    assert results[OutputType.CONFIDENCE_MASK].category_mask is None
    assert confidences is not None
    assert len(confidences) == 21
    stacked = np.stack(confidences)
    assert stacked.dtype == np.float32
    np.testing.assert_allclose(stacked.sum(0), 1.0, atol=1e-5)
    np.testing.assert_array_equal(stacked.argmax(0), categories)


async def test_quantised_model_has_the_masks_of_litert(assets: Path, kept: Path) -> None:
    pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed: no reference to run")
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(assets / QUANTISED), num_threads=1)
    interpreter.allocate_tensors()
    pictures = ["astronaut.png", "grace_hopper.jpg", "cats_and_dogs.jpg", "three_people.jpg"]
    async with await ImageSegmenter.load(assets / QUANTISED) as segmenter:
        assert segmenter.colored_labels[20].category_name == "tv"
        for name in pictures:
            picture = await load_image(assets / "media" / name)
            pixels = fit(picture, segmenter.card, segmenter.input_size)
            interpreter.set_tensor(interpreter.get_input_details()[0]["index"], pixels[None])
            interpreter.invoke()
            reference = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])[0]
            result = await segmenter.segment(assets / "media" / name)
            assert result.category_mask is not None
            similarity = overlap(result.category_mask, reference)
            equal = float((result.category_mask == reference).mean())
            print(f"{name}: IoU {similarity:.4f}, {equal:.3%} equal, {result.model_ms:.0f} ms")
            assert similarity >= 0.97


async def test_model_with_a_name_has_labels_and_masks(assets: Path) -> None:
    async with await ImageSegmenter.load("selfie", output_type="confidence_mask") as segmenter:
        result = await segmenter.segment(assets / "media/astronaut.png")
    assert [label.category_name for label in result.colored_labels] == ["selfie", "background"]
    assert result.confidence_masks is not None
    assert result.size == (256, 256)
    assert 0.2 < (result.confidence_masks[0] > 0.5).mean() < 0.9


async def test_blocking_form_returns_the_same(assets: Path) -> None:
    def run() -> SegmentationResult:
        with ImageSegmenter.blocking("selfie") as segmenter:
            assert len(segmenter.colored_labels) == 2
            return segmenter.segment(assets / "media/astronaut.png")

    result = await anyio.to_thread.run_sync(run)
    async with await ImageSegmenter.load("selfie") as segmenter:
        expected = await segmenter.segment(assets / "media/astronaut.png")
    np.testing.assert_array_equal(result.category_mask, expected.category_mask)


def frames(assets: Path, count: int) -> list[np.ndarray]:
    """Return frames of a clip, RGB."""
    with av.open(str(assets / "media/03_skateboarder.mp4")) as clip:
        decoded = clip.decode(video=0)
        return [next(decoded).to_ndarray(format="rgb24") for _ in range(count)]


async def test_frames_of_a_video_have_masks_of_their_own_size(assets: Path) -> None:
    async with await ImageSegmenter.load("selfie", running_mode="video") as segmenter:
        for index, frame in enumerate(frames(assets, 3)):
            result = await segmenter.segment_for_video(frame, 40 * index)
            assert result.size == (720, 1280)
            assert result.timestamp_ms == 40 * index
        for late in (80, 79, -1):
            with pytest.raises(InvalidUserInputError, match="expected more than 80"):
                await segmenter.segment_for_video(frame, late)
        with pytest.raises(InvalidUserInputError, match="expected an integer"):
            await segmenter.segment_for_video(frame, 90.5)  # type: ignore[arg-type]
        with pytest.raises(FileReadFailedError):
            await segmenter.segment_for_video("none.jpg", 120)
        # A frame that failed has not used up its time, nor has one that came too early.
        async with anyio.create_task_group() as group:
            group.start_soon(segmenter.segment_for_video, frame, 120)
            await anyio.lowlevel.checkpoint()
            with pytest.raises(ModelGeneratingError):
                await segmenter.segment_for_video(frame, 160)
            with pytest.raises(InvalidUserInputError, match="expected more than 120"):
                await segmenter.segment_for_video(frame, 120)
        assert (await segmenter.segment_for_video(frame, 160)).timestamp_ms == 160
        confidences = ImageSegmenter("selfie", running_mode="video", output_type="confidence_mask")
        async with confidences:
            other = await confidences.segment_for_video(frame, 0)
    assert other.confidence_masks is not None
    assert other.confidence_masks[0].shape == (720, 1280)
    agreement = (other.confidence_masks[0] <= 0.5) == result.category_mask
    assert agreement.mean() > 0.99


async def test_confidences_that_would_fill_the_memory_are_refused(assets: Path, kept: Path) -> None:
    frame = np.broadcast_to(np.uint8(0), (7500, 8000, 3))
    async with await ImageSegmenter.load(
        assets / DEEPLAB, running_mode="video", output_type="both"
    ) as segmenter:
        with pytest.raises(InvalidUserInputError, match="21 classes of 8000x7500 pixels"):
            await segmenter.segment_for_video(frame, 0)
        assert not segmenter.is_generating


async def test_every_task_for_classes_takes_a_tflite(assets: Path, kept: Path) -> None:
    picture = assets / GOLDEN_INPUT
    async with await ImageSegmenter.load(assets / DEEPLAB, output_type="both") as segmenter:
        expected = await segmenter.segment(picture)
    assert expected.confidence_masks is not None
    np.testing.assert_array_equal(np.argmax(expected.confidence_masks, 0), expected.category_mask)
    assert repr(expected) == "SegmentationResult(category and confidence 257x257, 21 labels)"
    told: list[float] = []
    async with await SemanticSegmenter.load(
        str(assets / DEEPLAB), on_progress=told.append
    ) as semantic:
        result = await semantic.forward(picture, ["person"], resize_to_input=False)
    np.testing.assert_array_equal(result.ARGMAX, expected.category_mask)
    np.testing.assert_array_equal(result["person"], expected.confidence_masks[15])
    assert told == [1.0]

    def labels() -> list[str]:
        with pipeline("image-segmentation", model=str(assets / DEEPLAB)) as segment:
            return [found["label"] for found in segment(picture)]

    assert [label.lower() for label in await anyio.to_thread.run_sync(labels)] == [
        "background",
        "horse",
        "person",
    ]


def test_a_callback_may_hand_over_the_next_frame_and_nothing_that_waits(assets: Path) -> None:
    pictures = frames(assets, 1)
    errors: list[StreamsegError] = []
    stamps: list[int] = []
    done = threading.Event()

    def take(result: SegmentationResult, image: Any, timestamp_ms: int) -> None:
        stamps.append(timestamp_ms)
        for call in (segmenter.close, lambda: segmenter.segment_for_video(image, 9)):
            try:
                call()
            except StreamsegError as exc:
                errors.append(exc)
        if timestamp_ms < 2:
            segmenter.segment_async(image, timestamp_ms + 1)
        else:
            done.set()

    with ImageSegmenter.blocking(
        "selfie", running_mode="live_stream", result_callback=take
    ) as segmenter:
        segmenter.segment_async(pictures[0], 0)
        assert done.wait(30)
    assert stamps == [0, 1, 2]
    assert {error.code for error in errors} == {104}
    assert "a callback cannot wait for the object that called it" in str(errors[0])
    with pytest.raises(ModuleNotLoadedError):
        segmenter.segment_async(pictures[0], 9)


async def test_live_stream_keeps_the_newest_frame_and_counts_the_others(assets: Path) -> None:
    results: list[tuple[SegmentationResult, int]] = []
    arrived = anyio.Event()

    def take(result: SegmentationResult, image: Any, timestamp_ms: int) -> None:
        assert image is pictures[timestamp_ms % 5]
        results.append((result, timestamp_ms))
        if timestamp_ms == 19:
            arrived.set()

    pictures = frames(assets, 5)
    segmenter = ImageSegmenter("selfie", running_mode="live_stream", result_callback=take)
    with pytest.raises(ModuleNotLoadedError):
        segmenter.segment_async(pictures[0], 0)
    async with segmenter:
        for timestamp in range(20):  # faster than any model: no await between them
            segmenter.segment_async(pictures[timestamp % 5], timestamp)
        with anyio.fail_after(30):
            await arrived.wait()
            while segmenter.statistics().delivered < 1:
                await anyio.lowlevel.checkpoint()
        with pytest.raises(InvalidUserInputError, match="expected more than 19"):
            segmenter.segment_async(pictures[0], 19)
        counted = segmenter.statistics()
        assert counted.accepted == 20
        assert counted.failed == 0
        assert counted.dropped >= 18
        assert counted.delivered == len(results) == 20 - counted.dropped
        segmenter.segment_async("no picture", 20)
        with anyio.fail_after(30):
            while not segmenter.statistics().failed:
                await anyio.sleep(0.01)
        segmenter.segment_async(pictures[1], 21)  # is given up by closing
    assert [stamp for _, stamp in results] == sorted(stamp for _, stamp in results)
    assert results[-1][0].timestamp_ms == 19
    assert results[-1][0].size == (720, 1280)


async def test_file_is_converted_once_by_two_at_the_same_time(
    fresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conversions = []
    convert = store._convert

    async def counted(source: Path, program: Path) -> None:
        conversions.append(source)
        await convert(source, program)

    monkeypatch.setattr(store, "_convert", counted)
    path = tiny(tmp_path / "tiny.tflite")
    renamed = tiny(tmp_path / "renamed.tflite")
    models = []

    async def load() -> None:
        models.append(await store.converted(path))

    async with anyio.create_task_group() as group:
        group.start_soon(load)
        group.start_soon(load)
    assert len(conversions) == 1
    assert models[0] == models[1]
    assert models[0].path.is_relative_to(fresh)
    assert models[0].card.source_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    async with await ImageSegmenter.load(path) as segmenter:
        pixels = np.zeros((8, 8, 3), np.uint8)
        pixels[:, 4:, 2] = 200
        result = await segmenter.segment(pixels)
    expected = np.zeros((8, 8), np.uint8)
    expected[:, 4:] = 2
    np.testing.assert_array_equal(result.category_mask, expected)
    # A card of the user's own comes first; and what was cut is made again.
    card = 'name = "mine"\nlabels = ["sky", "tree", "road"]\nmean = [0.5, 0.5, 0.5]\n'
    path.with_suffix(".toml").write_text(card)
    assert (await store.converted(path)).card.labels == ("sky", "tree", "road")
    assert len(conversions) == 1
    os.truncate(models[0].path, 100)
    assert store._stored(models[0].path) is None
    assert renamed.read_bytes() == path.read_bytes()


async def test_what_cannot_be_converted_is_one_line_and_leaves_nothing(
    fresh: Path, tmp_path: Path
) -> None:
    path = tiny(tmp_path / "tiny.tflite", "MyOperator")
    with pytest.raises(ModelError, match=r"cannot convert .*tiny\.tflite.*MyOperator") as caught:
        await ImageSegmenter.load(path)
    assert "\n" not in str(caught.value)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ModelError, match=r"no usable \.tflite file: .*damaged"):
        await ImageSegmenter.load(path)
    assert not programs(fresh)


def children() -> set[str]:
    tasks = Path(f"/proc/{os.getpid()}/task")
    return {pid for task in tasks.iterdir() for pid in (task / "children").read_text().split()}


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc")
async def test_cancelling_a_conversion_ends_its_process(assets: Path, fresh: Path) -> None:
    before = children()
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as group:

            async def cancel_when_it_runs() -> None:
                while children() == before:
                    await anyio.sleep(0.01)
                scope.cancel()

            group.start_soon(cancel_when_it_runs)
            await ImageSegmenter.load(assets / DEEPLAB)
    started = time.monotonic()
    while children() - before:
        await anyio.sleep(0.01)
        assert time.monotonic() - started < 2
    assert scope.cancelled_caught
    assert not programs(fresh)


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x1c\x00\x00\x00TFL3" + bytes(40)])
async def test_no_model_at_all_is_a_model_error(fresh: Path, tmp_path: Path, content: Any) -> None:
    path = tmp_path / "none.tflite"
    path.write_bytes(content)
    with pytest.raises(ModelError, match="no usable"):
        await store.converted(path)


def test_the_command_line_takes_a_tflite_model(
    streamseg: Command, kept: Path, assets: Path, tmp_path: Path
) -> None:
    picture = assets / "media" / "cats_and_dogs.jpg"

    result = streamseg(
        *("segment", picture, "-o", tmp_path, "--format", "json", "--model", assets / DEEPLAB)
    )

    assert result.code == 0, result.err
    record = json.loads((tmp_path / "cats_and_dogs_masks.json").read_text())
    labels = {region["label"] for region in record["found"]}
    assert "dog" in labels
    assert "background" not in labels  # however a model spells it
    assert [path.name for path in programs(kept) if path.stem == Path(DEEPLAB).stem]
