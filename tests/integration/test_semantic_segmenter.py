"""SemanticSegmenter on real models: what useImageSegmentation promises, and what goes wrong."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import av
import cv2
import numpy as np
import psutil
import pytest
from PIL import Image

from streamseg.errors import (
    DownloadError,
    FileReadFailedError,
    InvalidConfigError,
    InvalidModelOutputError,
    InvalidUserInputError,
    ModelError,
    ModelGeneratingError,
    ModuleNotLoadedError,
    StreamsegError,
    WorkerTimeoutError,
    WrongDimensionsError,
)
from streamseg.models.card import Card, Model
from streamseg.models.labels import VOC_LABELS
from streamseg.models.registry import find_model
from streamseg.tasks.images import load_image
from streamseg.tasks.labels import SelfieLabel, VocLabel
from streamseg.tasks.module import ImageSegmentationModule
from streamseg.tasks.semantic import SemanticSegmenter
from tests.support.made_once import converted_once
from tests.unit.downloads.server import Fault, FileServer, file_server

pytestmark = [
    pytest.mark.integration,
    pytest.mark.anyio,
    pytest.mark.timeout(300),  # the first one waits for an export
]

NOISE = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)


@pytest.fixture
async def selfie() -> AsyncIterator[SemanticSegmenter]:
    async with await SemanticSegmenter.load("selfie") as segmenter:
        yield segmenter


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("HTTP_PROXY", "ALL_PROXY", "STREAMSEG_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv("STREAMSEG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
async def server() -> AsyncIterator[FileServer]:
    async with file_server() as running:
        yield running


@pytest.fixture(scope="module")
def portrait(assets: Path) -> Path:
    return assets / "media" / "grace_hopper.jpg"


@pytest.fixture(scope="module")
def deeplab(assets: Path) -> Model:
    program = converted_once(assets / "weights" / "deeplabv3_257_voc21.tflite").path
    card = Card(name="deeplab", task="semantic-segmentation", mean=(0.5,) * 3, std=(0.5,) * 3)
    return Model(program, card)


def every_source(path: Path) -> list[Any]:
    with Image.open(path) as image:
        image.load()
    video = av.VideoFrame.from_ndarray(np.asarray(image), "rgb24")
    return [str(path), path, path.as_uri(), path.read_bytes(), image, video]


def child_processes() -> list[psutil.Process]:
    return [
        child
        for child in psutil.Process().children(recursive=True)
        if any("streamseg.runtime.child" in part for part in child.cmdline())
    ]


# -- what it returns ------------------------------------------------------------------------


async def test_the_golden_mask_comes_back(deeplab: Model, assets: Path) -> None:
    golden = cv2.imread(str(assets / "golden/segmentation_golden_rotation0.png"), 0)
    picture = assets / "golden/segmentation_input_rotation0.jpg"

    async with await SemanticSegmenter.load(deeplab) as segmenter:
        assert segmenter.labels == VOC_LABELS
        result = await segmenter.forward(picture, "all", resize_to_input=False)

    assert np.mean(result.ARGMAX != golden // 10) < 0.01
    masks = np.stack([result[label] for label in VocLabel])
    np.testing.assert_array_equal(masks.argmax(axis=0), result.ARGMAX)
    np.testing.assert_allclose(masks.sum(axis=0), 1.0, atol=1e-5)


async def test_softmax_comes_first_and_resizing_then(deeplab: Model, assets: Path) -> None:
    picture = assets / "golden/segmentation_input_rotation0.jpg"
    asked = [VocLabel.PERSON, VocLabel.HORSE]

    async with await SemanticSegmenter.load(deeplab) as segmenter:
        small = await segmenter.forward(picture, asked, False)
        large = await segmenter.forward(picture, asked)
        only = await segmenter.forward(picture)

    height, width = (await load_image(picture)).size
    assert small.size == (257, 257)
    assert large.size == only.size == (height, width)
    assert list(only) == ["ARGMAX"]
    for label in asked:
        assert large[label].dtype == np.float32
        np.testing.assert_array_equal(large[label], cv2.resize(small[label], (width, height)))
    assert large.ARGMAX.dtype == np.int32
    nearest = cv2.resize(
        small.ARGMAX.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST
    )
    np.testing.assert_array_equal(large.ARGMAX, nearest)
    np.testing.assert_array_equal(only.ARGMAX, large.ARGMAX)
    for label in asked:  # both are in the picture, in their places
        assert np.mean(large.ARGMAX == VOC_LABELS.index(label)) > 0.05
        assert large[label][large.ARGMAX == VOC_LABELS.index(label)].mean() > 0.8


async def test_one_channel_is_the_foreground_and_its_rest(
    selfie: SemanticSegmenter, portrait: Path
) -> None:
    result = await selfie.forward(portrait, [SelfieLabel.SELFIE, SelfieLabel.BACKGROUND], False)

    assert selfie.labels == ("SELFIE", "BACKGROUND")
    np.testing.assert_allclose(result.SELFIE + result.BACKGROUND, 1.0, atol=1e-6)
    np.testing.assert_array_equal(result.ARGMAX, np.where(result.SELFIE > 0.5, 0, 1))
    assert 0.3 < np.mean(result.ARGMAX == 0) < 0.7  # a portrait


async def test_maps_lie_on_the_picture(selfie: SemanticSegmenter, portrait: Path) -> None:
    """Turned the other way round, the same person is found in the same place."""
    picture = (await load_image(portrait)).pixels
    mirrored = np.ascontiguousarray(picture[:, ::-1])

    result = await selfie.forward(picture, ["selfie"])
    other = await selfie.forward(mirrored, ["selfie"])

    assert result.size == picture.shape[:2]
    person, same = result.SELFIE > 0.5, other.SELFIE[:, ::-1] > 0.5
    assert np.sum(person & same) / np.sum(person | same) > 0.97
    agreement = np.mean((result.ARGMAX == 0) == (result.SELFIE > 0.5))
    assert agreement > 0.99


async def test_every_kind_of_picture_gives_the_same(
    selfie: SemanticSegmenter, portrait: Path
) -> None:
    sources = every_source(portrait)

    expected = await selfie.forward(np.asarray(sources[-2]), ["SELFIE"], False)
    for source in sources:
        result = await selfie.forward(source, ["SELFIE"], False)
        np.testing.assert_allclose(result.SELFIE, expected.SELFIE, atol=1e-6)


@pytest.mark.parametrize("name", ["person", "Person", "PERSON", VocLabel.PERSON])
async def test_labels_are_taken_in_any_case_and_once(deeplab: Model, name: str) -> None:
    async with await SemanticSegmenter.load(deeplab) as segmenter:
        result = await segmenter.forward(NOISE, [name, "dog", name], resize_to_input=False)

    assert list(result) == ["ARGMAX", "PERSON", "DOG"]
    assert result[name] is result.PERSON


async def test_ask_for_everything(deeplab: Model) -> None:
    async with await SemanticSegmenter.load(deeplab) as segmenter:
        result = await segmenter.forward(NOISE, "all", resize_to_input=False)

    assert list(result) == ["ARGMAX", *VOC_LABELS]


@pytest.mark.parametrize("size", [(1, 1), (1, 32_766), (32_766, 1), (3, 5)])
async def test_pictures_of_any_shape(
    selfie: SemanticSegmenter, deeplab: Model, size: tuple[int, int]
) -> None:
    picture = np.full((*size, 3), 128, np.uint8)

    async with await SemanticSegmenter.load(deeplab) as segmenter:
        results = [await each.forward(picture, "all") for each in (selfie, segmenter)]

    for result in results:
        for name, array in result.items():
            assert array.shape == size
            assert name == "ARGMAX" or (array.min() >= 0.0 and array.max() <= 1.0)


async def test_a_result_that_would_fill_the_memory_is_refused(deeplab: Model) -> None:
    picture = np.broadcast_to(np.uint8(0), (7500, 8000, 3))
    async with await SemanticSegmenter.load(deeplab) as segmenter:
        with pytest.raises(InvalidUserInputError, match="21 classes of 8000x7500 pixels"):
            await segmenter.forward(picture, "all")
        assert not segmenter.is_generating


# -- its state ------------------------------------------------------------------------------


async def test_its_state_from_loading_to_closing() -> None:
    told: list[float] = []
    segmenter = await SemanticSegmenter.load("selfie", prevent_load=True, on_progress=told.append)
    assert (segmenter.is_ready, segmenter.download_progress, told) == (False, 0.0, [])
    with pytest.raises(ModuleNotLoadedError) as caught:
        await segmenter.forward(NOISE)
    assert caught.value.code == 102
    assert str(caught.value) == (
        "The model is currently not loaded. Please load the model before calling forward()."
    )

    await segmenter.open()
    await segmenter.open()  # does nothing
    assert (segmenter.is_ready, segmenter.download_progress, told) == (True, 1.0, [1.0])
    assert segmenter.error is None
    assert segmenter.input_size == (256, 256)
    assert segmenter.card.name == "selfie_general"
    assert len(child_processes()) == 1

    await segmenter.aclose()
    await segmenter.aclose()
    assert not segmenter.is_ready
    assert child_processes() == []
    with pytest.raises(ModuleNotLoadedError):
        await segmenter.forward(NOISE)
    with pytest.raises(anyio.ClosedResourceError):
        await segmenter.open()


async def test_a_model_is_downloaded_with_its_progress_told(
    cache: Path, server: FileServer
) -> None:
    url = server.serve("/selfie.pte", find_model("selfie").path.read_bytes())
    told: list[float] = []

    async with await SemanticSegmenter.load(url, on_progress=told.append) as segmenter:
        assert segmenter.download_progress == 1.0
        assert (await segmenter.forward(NOISE, ["SELFIE"])).size == (90, 120)

    assert told == sorted(set(told))
    assert told[-1] == 1.0
    assert any(0.0 < share < 1.0 for share in told)
    assert os.listdir(cache)


async def test_closing_ends_a_download(cache: Path, server: FileServer) -> None:
    program = find_model("selfie").path.read_bytes()
    url = server.serve("/selfie.pte", program, Fault(hang_after=len(program) // 2))
    half_way = anyio.Event()

    def watch(share: float) -> None:
        if share > 0.3:
            half_way.set()

    segmenter = SemanticSegmenter(url, on_progress=watch)
    task = asyncio.create_task(segmenter.open())
    with anyio.fail_after(5):
        await half_way.wait()
    assert 0.3 < segmenter.download_progress < 1.0
    with anyio.fail_after(1):
        await segmenter.aclose()
        with pytest.raises(anyio.ClosedResourceError):
            await task
    assert not segmenter.is_ready


async def test_a_download_that_fails_lands_in_error(cache: Path, server: FileServer) -> None:
    url = server.serve("/selfie.pte", b"", Fault(status=404), forever=True)
    segmenter = SemanticSegmenter(url)

    with pytest.raises(DownloadError) as caught:
        await segmenter.open()

    assert segmenter.error is caught.value
    with pytest.raises(ModuleNotLoadedError) as not_loaded:
        await segmenter.forward(NOISE)
    assert not_loaded.value.__cause__ is caught.value


async def test_two_calls_at_once_are_error_104(selfie: SemanticSegmenter) -> None:
    first = asyncio.create_task(selfie.forward(NOISE))
    await asyncio.sleep(0)
    assert selfie.is_generating
    with pytest.raises(ModelGeneratingError) as caught:
        await selfie.forward(NOISE)
    assert caught.value.code == 104
    assert selfie.is_generating

    assert (await first).size == (90, 120)
    assert not selfie.is_generating
    assert (await selfie.forward(NOISE)).size == (90, 120)


async def test_calls_queue_when_that_is_asked_for() -> None:
    pictures = [np.roll(NOISE, shift, axis=0) for shift in range(6)]
    async with await SemanticSegmenter.load("selfie", queue=True, workers=2) as segmenter:
        one_by_one = [await segmenter.forward(picture, "all", False) for picture in pictures]
        at_once = await asyncio.gather(
            *(segmenter.forward(picture, "all", False) for picture in pictures)
        )

    for result, expected in zip(at_once, one_by_one, strict=True):
        np.testing.assert_array_equal(result.SELFIE, expected.SELFIE)
    assert not segmenter.is_generating


@pytest.mark.parametrize(
    ("image", "asked", "kind", "code"),
    [
        ("none.jpg", (), FileReadFailedError, 114),
        (b"no picture", (), FileReadFailedError, 114),
        (None, (), InvalidUserInputError, 117),
        (NOISE, ["PERSON"], InvalidUserInputError, 117),
        (NOISE, "SELFIE", InvalidUserInputError, 117),
        (NOISE, [0], InvalidUserInputError, 117),
        (NOISE, None, InvalidUserInputError, 117),
    ],
)
async def test_a_failed_call_leaves_it_usable(
    selfie: SemanticSegmenter, image: Any, asked: Any, kind: type[StreamsegError], code: int
) -> None:
    with pytest.raises(kind) as caught:
        await selfie.forward(image, asked)

    assert caught.value.code == code
    assert not selfie.is_generating
    assert selfie.error is None  # only what went wrong while loading
    assert (await selfie.forward(NOISE)).size == (90, 120)


async def test_an_unknown_label_names_the_nearest(deeplab: Model) -> None:
    async with await SemanticSegmenter.load(deeplab) as segmenter:
        with pytest.raises(InvalidUserInputError, match=r"'persn': did you mean PERSON\?"):
            await segmenter.forward(NOISE, ["persn"])


async def test_a_cancelled_call_leaves_it_usable(models: Path) -> None:
    model = Model(models / "very_slow.pte", Card(name="very_slow"))
    async with await SemanticSegmenter.load(model) as segmenter:
        task = asyncio.create_task(segmenter.forward(NOISE))
        while not segmenter.is_generating:
            await asyncio.sleep(0)
        await asyncio.sleep(0.05)
        task.cancel()
        started = time.monotonic()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert time.monotonic() - started < 1.0
        assert not segmenter.is_generating
        assert (await segmenter.forward(NOISE)).size == (90, 120)


async def test_closing_ends_a_running_call(models: Path) -> None:
    model = Model(models / "very_slow.pte", Card(name="very_slow"))
    segmenter = await SemanticSegmenter.load(model)
    task = asyncio.create_task(segmenter.forward(NOISE))
    await asyncio.sleep(0.05)
    await segmenter.aclose()

    with pytest.raises(ModuleNotLoadedError):
        await task
    assert child_processes() == []


async def test_closing_ends_loading() -> None:
    segmenter = SemanticSegmenter("selfie")
    task = asyncio.create_task(segmenter.open())
    while not child_processes():
        await asyncio.sleep(0.005)
    started = time.monotonic()
    await segmenter.aclose()

    assert time.monotonic() - started < 1.0
    with pytest.raises(anyio.ClosedResourceError):
        await task
    assert child_processes() == []


async def test_a_killed_process_is_replaced(selfie: SemanticSegmenter) -> None:
    expected = await selfie.forward(NOISE, "all")
    os.kill(child_processes()[0].pid, signal.SIGKILL)

    result = await selfie.forward(NOISE, "all")

    np.testing.assert_array_equal(result.SELFIE, expected.SELFIE)


async def test_a_model_that_takes_too_long_fails_the_call(models: Path) -> None:
    model = Model(models / "slow.pte", Card(name="slow"))
    async with await SemanticSegmenter.load(model, timeout_s=0.005) as segmenter:
        with pytest.raises(WorkerTimeoutError, match=r"did not answer within 0\.005 s"):
            await segmenter.forward(NOISE)
        assert not segmenter.is_generating
        assert segmenter.is_ready


# -- models that cannot be used -------------------------------------------------------------


def without_its_backend(path: Path) -> Path:
    """A program for a back end that this ExecuTorch has not."""
    program = find_model("selfie").path.read_bytes()
    assert program.count(b"XnnpackBackend") == 1
    path.write_bytes(program.replace(b"XnnpackBackend", b"NeuralBackends"))
    return path


@pytest.mark.parametrize(
    ("name", "kind", "code", "message"),
    [
        ("selfy", ModelError, None, "unknown model 'selfy'"),
        ("none.pte", ModelError, None, "no such model file"),
        ("classifier", InvalidConfigError, 112, "is a model for classification, expected"),
        ("backend", ModelError, None, "a backend that it was exported for is not part of"),
        ("vector", WrongDimensionsError, 116, r"its input is \[1, 8\]"),
        ("labels", InvalidModelOutputError, 115, "2 labels, but its output of 3 channel"),
        ("vector_out", InvalidModelOutputError, 115, r"its output is \[1, 3\]"),
        ("doubles", WrongDimensionsError, 116, r"its input has scalar type 7, expected float32"),
        ("indices", InvalidModelOutputError, 115, r"its output has scalar type 4, expected float"),
    ],
)
async def test_a_model_that_cannot_be_used(
    tmp_path: Path, models: Path, name: str, kind: type[StreamsegError], code: int, message: str
) -> None:
    given: dict[str, Any] = {
        "classifier": Model(models / "classes.pte", Card(name="a", task="classification")),
        # What is wrong is not told by words: they are in the path too.
        "backend": without_its_backend(tmp_path / "its input is [1] and its output is [1].pte"),
        "vector": models / "vector.pte",
        "labels": Model(models / "classes.pte", Card(name="a", labels=("ONE", "TWO"))),
        "vector_out": models / "classifier.pte",
        "doubles": Model(models / "types.pte", Card(name="a", method="doubles")),
        "indices": Model(models / "types.pte", Card(name="a", method="indices")),
    }
    segmenter = SemanticSegmenter(given.get(name, name))

    with pytest.raises(kind, match=message) as caught:
        await segmenter.open()

    assert type(caught.value) is kind
    assert caught.value.code == code
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    assert segmenter.error is caught.value
    assert not segmenter.is_ready
    with pytest.raises(ModuleNotLoadedError):
        await segmenter.forward(NOISE)
    await segmenter.aclose()
    assert child_processes() == []


async def test_loading_can_be_tried_again(tmp_path: Path) -> None:
    path = tmp_path / "late.pte"
    segmenter = SemanticSegmenter(path)
    with pytest.raises(ModelError, match="no such model file"):
        await segmenter.open()
    path.write_bytes(find_model("selfie").path.read_bytes())

    async with segmenter:
        assert segmenter.error is None
        assert segmenter.is_ready


@pytest.mark.parametrize(
    "options", [{"threads": 0}, {"workers": 0}, {"timeout_s": 0}, {"max_pixels": 0}]
)
async def test_wrong_options(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidConfigError, match=f"{next(iter(options))} is 0"):
        await SemanticSegmenter.load("selfie", **options)


# -- its other forms ------------------------------------------------------------------------


def test_the_blocking_form(portrait: Path) -> None:
    threads = threading.active_count()
    with SemanticSegmenter.blocking("selfie", queue=True) as segmenter:
        assert segmenter.is_ready
        assert segmenter.labels == ("SELFIE", "BACKGROUND")
        assert (segmenter.input_size, segmenter.download_progress) == ((256, 256), 1.0)
        result = segmenter.forward(portrait, [SelfieLabel.SELFIE], resize_to_input=False)
        with pytest.raises(FileReadFailedError):
            segmenter.forward("none.jpg")
        results: list[Any] = []
        callers = [
            threading.Thread(target=lambda: results.append(segmenter.forward(portrait)))
            for _ in range(3)
        ]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join(20)
        assert not segmenter.is_generating

    assert 0.3 < result.SELFIE.mean() < 0.7
    assert len(results) == 3
    assert child_processes() == []
    assert threading.active_count() == threads
    with pytest.raises(ModuleNotLoadedError):
        segmenter.forward(portrait)
    segmenter.close()


def test_a_blocking_form_that_cannot_be_loaded_leaves_nothing() -> None:
    threads = set(threading.enumerate())
    with pytest.raises(ModelError, match="unknown model"):
        SemanticSegmenter.blocking("selfy")
    for thread in set(threading.enumerate()) - threads:
        thread.join(5)  # anyio tells its threads to end, and does not wait for them
        assert not thread.is_alive()


def run_program(code: str) -> subprocess.Popen[str]:
    head = "import numpy, sys; from streamseg.tasks.semantic import SemanticSegmenter\n"
    return subprocess.Popen(
        [sys.executable, "-c", head + code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_blocking_form_that_nobody_closes_does_not_hold_up_the_end() -> None:
    with run_program("print(SemanticSegmenter.blocking('selfie').labels)") as program:
        out, err = program.communicate(timeout=20)

    assert (program.returncode, out.strip(), err) == (0, "('SELFIE', 'BACKGROUND')", "")


def test_ctrl_c_ends_a_blocking_call(models: Path) -> None:
    code = f"""
with SemanticSegmenter.blocking({str(models / "very_slow.pte")!r}) as segmenter:
    print("ready", flush=True)
    try:
        while True:
            segmenter.forward(numpy.zeros((9, 9, 3), numpy.uint8))
    except KeyboardInterrupt:
        print("interrupted")
print("closed")
"""
    with run_program(code) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "ready\n"
        time.sleep(0.05)  # into a call
        program.send_signal(signal.SIGINT)
        started = time.monotonic()
        out, err = program.communicate(timeout=20)

    assert (program.returncode, out.split(), err) == (0, ["interrupted", "closed"], "")
    assert time.monotonic() - started < 2.0


async def test_the_module_form(portrait: Path) -> None:
    module = ImageSegmentationModule()
    told: list[float] = []
    stop = module.on_download_progress(told.append)
    with pytest.raises(ModuleNotLoadedError):
        await module.forward(portrait)
    with pytest.raises(ModelError):
        await module.load("selfy")

    await module.load("selfie-landscape")
    await module.load("selfie")
    small = await module.forward(portrait, ["SELFIE"])
    large = await module.forward(portrait, [], True)
    assert len(child_processes()) == 1
    stop()
    stop()
    await module.load("selfie")
    await module.delete()

    assert small.size == (256, 256)
    assert large.size == (await load_image(portrait)).size
    assert told == [1.0, 1.0]
    assert child_processes() == []


# -- speed ----------------------------------------------------------------------------------


async def own_times(model: Any) -> np.ndarray:
    """How long calls take beside the model, in ms: a 512x512 picture, masks at the model's size."""
    picture = np.random.default_rng(0).integers(0, 256, (512, 512, 3), np.uint8)
    own_ms = []
    async with await SemanticSegmenter.load(model) as segmenter:
        for _ in range(60):
            started = time.perf_counter()
            result = await segmenter.forward(picture, resize_to_input=False)
            own_ms.append((time.perf_counter() - started) * 1e3 - result.inference_ms)
            assert 0.0 < result.inference_ms < result.model_ms
    return np.array(own_ms)


@pytest.mark.parametrize("name", ["selfie", "deeplab"])
async def test_forward_itself_can_do_with_less_than_two_milliseconds(
    name: str, request: pytest.FixtureRequest
) -> None:
    """The best of many calls: other tests run beside this one."""
    model = request.getfixturevalue("deeplab") if name == "deeplab" else name
    assert (await own_times(model)).min() < 2.0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["selfie", "deeplab"])
async def test_forward_itself_takes_less_than_two_milliseconds(
    name: str, request: pytest.FixtureRequest
) -> None:
    model = request.getfixturevalue("deeplab") if name == "deeplab" else name
    own_ms = await own_times(model)
    print(f"{name}: {np.percentile(own_ms, [5, 50, 95])} ms")
    assert np.median(own_ms) < 2.0
