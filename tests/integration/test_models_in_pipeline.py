"""Models of every task in `run`, `live` and `serve`: real exports, real processes, real clips."""

from __future__ import annotations

import http.server
import json
import shutil
import subprocess
import sys
import threading
import time
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import anyio
import av
import cv2
import numpy as np
import pytest

from streamseg.cli.app import run_command
from streamseg.config import load_live_config
from streamseg.errors import ConfigError
from streamseg.frames import luma_plane
from streamseg.session.live import LiveSession
from streamseg.session.parts import load_segmenter
from streamseg.session.serve import ServeSession
from streamseg.session.serve_config import load_serve_config
from streamseg.sources.paced import PacedSource
from streamseg.tasks.semantic import SemanticSegmenter
from streamseg.webrtc.client import WhepSource
from tests.integration.test_live import Tap, Viewer, detail
from tests.support.made_once import digest_of, made_once

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "tests" / "media" / "sample.mp4"
SIZE = (640, 384)
GREY = 120
# Making the slow model takes a minute on a machine with other work; it is made once.
SLOW = pytest.mark.timeout(240)


def small_models(*arguments: str) -> Path:
    """Folder of what ``tests/support/pipeline_models.py`` makes; made once per version of it."""
    script = ROOT / "tests" / "support" / "pipeline_models.py"
    exporter = ROOT / "streamseg" / "convert" / "export.py"

    def make(folder: Path) -> None:
        command = [sys.executable, "-m", "tests.support.pipeline_models", str(folder), *arguments]
        subprocess.run(command, check=True, capture_output=True, cwd=ROOT, timeout=200)

    return made_once(f"pipeline-{digest_of((script, exporter), *arguments)}", make)


@pytest.fixture(scope="session")
def pipeline_models() -> Path:
    return small_models()


@pytest.fixture(scope="session")
def deeplab(assets: Path) -> Path:
    tflite = assets / "weights" / "deeplabv3_257_voc21.tflite"
    return small_models(str(tflite)) / "deeplab.pte"


@pytest.fixture
def discs(tmp_path: Path) -> Path:
    """A red disc that goes right, a green one that goes left, a blue one that stays."""
    path = tmp_path / "discs.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"crf": "6"})
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv444p"
        stream.codec_context.colorspace, stream.codec_context.color_range = 1, 1
        for number in range(12):
            rgb = np.full((SIZE[1], SIZE[0], 3), GREY, np.uint8)
            for (x, y), colour in zip(places(number), DISCS, strict=True):
                cv2.circle(rgb, (x, y), 60, colour, -1)
            video = av.VideoFrame.from_ndarray(rgb, "rgb24").reformat(
                format="yuv444p", dst_colorspace=1, dst_color_range=1
            )
            video.pts, video.time_base = number, Fraction(1, 30)
            for packet in stream.encode(video):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


DISCS = ((230, 20, 20), (20, 230, 20), (20, 20, 230))


def places(number: int) -> tuple[tuple[int, int], ...]:
    """Where the red, the green and the blue disc are in a picture."""
    return (100 + 15 * number, 100), (540 - 15 * number, 280), (320, 190)


def pictures_of(path: Path) -> list[np.ndarray[Any, Any]]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24").astype(int) for frame in container.decode(video=0)]


def streamseg(*arguments: str | Path) -> int:
    return run_command([str(argument) for argument in arguments])


# -- run ---------------------------------------------------------------------------------------


@SLOW
def test_what_is_tinted_is_the_class_that_was_asked_for(
    deeplab: Path, assets: Path, tmp_path: Path
) -> None:
    """Every pixel that changed is the person's, by the same model's word on the still picture."""
    clip, out = assets / "media" / "05_default_juggle.mp4", tmp_path / "out.mp4"
    options = ("--classes", "Person", "--strength", "90", "--no-refine", "--smoothing", "0")
    arguments = ("--effect", "tint", "--model", deeplab, *options, "--duration", "0.2")
    assert streamseg("run", clip, out, *arguments, "--crf", "4", "--quiet") == 0
    after = pictures_of(out)
    assert len(after) >= 4
    with av.open(str(clip)) as container:
        before = [video for video, _ in zip(container.decode(video=0), after, strict=False)]

    async def people(*indices: int) -> list[np.ndarray[Any, Any]]:
        async with await SemanticSegmenter.load(deeplab) as segmenter:
            person = segmenter.labels.index("PERSON")
            stills = [await segmenter.forward(before[index]) for index in indices]
            return [np.asarray(still["ARGMAX"]) == person for still in stills]

    indices = (0, len(after) - 1)
    for index, person in zip(indices, anyio.run(people, *indices), strict=True):
        picture = before[index].to_ndarray(format="rgb24").astype(int)
        tinted = np.abs(picture - after[index]).max(axis=2) > 30
        assert 0.01 < person.mean() < 0.5, "there is nobody to be found"
        overlap = (person & tinted).sum() / (person | tinted).sum()
        assert overlap > 0.85, f"picture {index}: {overlap:.2f}"


def test_each_object_has_a_colour_of_its_own_and_keeps_it(
    pipeline_models: Path, discs: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.mp4"
    arguments = ("--model", pipeline_models / "discs.pte", "--effect", "tint", "--strength", "100")
    assert streamseg("run", discs, out, *arguments, "--crf", "6", "--quiet") == 0
    seen = []
    for number, picture in enumerate(pictures_of(out)):
        assert np.abs(picture[20, 320] - GREY).max() < 8, "the background was tinted"
        seen.append([picture[y, x] for x, y in places(number)])
    steady = np.array(seen).std(axis=0).max()
    assert steady < 6, "a disc changed its colour on the way"
    red, green, blue = np.mean(seen, axis=0)
    for one, other in ((red, green), (green, blue), (red, blue)):
        assert np.abs(one - other).max() > 40, "two objects look the same"


def test_objects_of_a_class_are_a_mask_for_every_effect(
    pipeline_models: Path, discs: Path, tmp_path: Path
) -> None:
    out, records = tmp_path / "out.mp4", tmp_path / "masks.jsonl"
    arguments = ("--model", pipeline_models / "discs.pte", "--classes", "dog", "--masks", records)
    options = ("--effect", "replace", "--background", "white", "--subject", "--crf", "6")
    assert streamseg("run", discs, out, *arguments, *options, "--quiet") == 0
    for number, picture in enumerate(pictures_of(out)):
        (red, green, blue) = (picture[y, x] for x, y in places(number))
        assert blue.min() > 240
        assert red[0] - red[1] > 150
        assert green[1] - green[0] > 150
    assert len(records.read_text().splitlines()) == 12


def test_a_classifiers_words_are_in_the_picture(
    pipeline_models: Path, discs: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.mp4"
    arguments = ("--model", pipeline_models / "tones.pte", "--effect", "labels", "--crf", "6")
    assert streamseg("run", discs, out, *arguments, "--quiet") == 0
    for before, after in zip(pictures_of(discs), pictures_of(out), strict=True):
        changed = np.abs(before - after).max(axis=2) > 40
        written = changed[:110, :200].sum()
        assert written > 1000
        assert changed.sum() - written < 0.05 * written, "something changed elsewhere"
        assert (after[:110, :200].min(axis=2) > 215).sum() > 60, "no letters"
        assert np.abs(before[120:, 220:] - after[120:, 220:]).mean() < 4


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--model", "tones.pte"), ("tones classifies pictures", "'blur' needs masks")),
        (
            ("--model", "discs.pte", "--effect", "labels"),
            ("discs is for instance-segmentation", "'labels'"),
        ),
        (("--effect", "labels"), ("needs one for classification",)),
        (("--model", "discs.pte", "--classes", "doog,person"), ("'doog'", "'DOG'")),
        (("--model", "tones.pte", "--effect", "labels", "--masks", "m.jsonl"), ("writing masks",)),
    ],
)
def test_the_wrong_model_is_one_line(
    pipeline_models: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    words: tuple[str, ...],
) -> None:
    given = [str(pipeline_models / each) if each.endswith(".pte") else each for each in arguments]
    for command in (("run", SAMPLE, tmp_path / "out.mp4"), ("live", SAMPLE, "--sink", "null")):
        if command[0] == "live" and "--masks" in given:
            continue
        assert streamseg(*command, *given) == 2
        out, err = capfd.readouterr()
        assert out == ""
        assert len(err.strip().splitlines()) == 1, err
        for word in words:
            assert word in err
    assert list(tmp_path.iterdir()) == []


def test_classes_are_checked_when_the_card_does_not_say_them(
    pipeline_models: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Of a .pte without labels in its card the classes are known once it is loaded."""
    shutil.copy(pipeline_models / "tones.pte", tmp_path / "own.pte")
    (tmp_path / "own.toml").write_text('name = "own"\ntask = "classification"\n')
    given = ("--model", tmp_path / "own.pte", "--effect", "labels", "--classes", "class_9")
    assert streamseg("run", SAMPLE, tmp_path / "out.mp4", *given) == 2
    assert "'class_9' is not a label of the model" in capfd.readouterr().err
    assert not (tmp_path / "out.mp4").exists()


CLIP = Path("media/04_coffee.mp4")  # 29.97 frames a second

# -- live --------------------------------------------------------------------------------------


class Delivered:
    """A slow model on a camera of 30 frames a second: what came out, and how old it was."""

    def __init__(self, model: Path, clip: Path, when_busy: str) -> None:
        self.tap, self.viewer = Tap(PacedSource(clip, loop=True)), Viewer()
        config = load_live_config(
            None,
            {
                "model.name": str(model),
                "model.threads": 1,
                "effect.name": "tint",
                "effect.subject": ["person"],
                "flow.when_busy": when_busy,
            },
        )
        self.session = LiveSession(config, source=self.tap, sinks=(self.viewer,))
        self.ages_s: list[float] = []
        send = self.viewer.send

        async def measured(frame: Any, segmentation: Any = None) -> None:
            self.ages_s.append(time.monotonic() - frame.captured_s)
            await send(frame, segmentation)

        self.viewer.send = measured  # type: ignore[method-assign]

    async def run(self, masks: int) -> Any:
        async with self.session, anyio.create_task_group() as group:
            results = []

            async def work() -> None:
                results.append(await self.session.run())

            group.start_soon(work)
            with anyio.fail_after(60):
                while len(self.model_frames) < masks:
                    await anyio.sleep(0.02)
            started = time.monotonic()
            self.session.stop()
        assert time.monotonic() - started < 2
        return results[0]

    @property
    def model_frames(self) -> list[int]:
        """Indices of the frames that the model saw, each once."""
        return list(dict.fromkeys(mask.index for _, mask in self.viewer.seen if mask is not None))


def model_ms(statistics: Any) -> float:
    return float(statistics.stages["model"].p50_ms)


@SLOW
@pytest.mark.anyio
async def test_a_slow_model_on_a_fast_camera_drops_what_it_cannot_do(
    deeplab: Path, assets: Path
) -> None:
    running = Delivered(deeplab, assets / CLIP, "drop")
    statistics = await running.run(masks=6)
    assert model_ms(statistics) > 150, "the model is not slow on this machine"
    source = running.tap.statistics()
    lost = sum(statistics.dropped.values())
    assert statistics.frames_out + lost == statistics.frames_in == source.delivered
    assert source.delivered + sum(source.dropped.values()) == source.captured
    assert statistics.in_flight == 0
    assert lost > 2 * len(running.model_frames), "nothing was dropped"
    answers = [mask for _, mask in running.viewer.seen]
    shown = [age for age, mask in zip(running.ages_s, answers, strict=True) if mask is not None]
    # A frame waits for the one before it, and then for its own turn.
    assert max(shown) < 3 * statistics.stages["model"].max_ms / 1e3 + 0.5
    for frame, mask in running.viewer.seen:
        assert mask is None or mask.index == frame.index


@SLOW
@pytest.mark.anyio
async def test_a_slow_model_on_a_fast_camera_shows_every_frame_with_its_newest_mask(
    deeplab: Path, assets: Path
) -> None:
    running = Delivered(deeplab, assets / CLIP, "reuse")
    statistics = await running.run(masks=6)
    assert model_ms(statistics) > 150, "the model is not slow on this machine"
    seen = running.viewer.seen
    first = next(number for number, (_, mask) in enumerate(seen) if mask is not None)
    frames = [frame for frame, _ in seen[first:]]
    span = frames[-1].captured_s - frames[0].captured_s
    assert (len(frames) - 1) / span > 0.8 * 29.97, "the picture does not run at the camera's pace"
    masks = [mask.index for _, mask in seen[first:] if mask is not None]
    assert all(after >= before for before, after in pairwise(masks))
    assert len(frames) > 3 * len(set(masks)), "no mask was used again"
    lost = sum(statistics.dropped.values())
    assert statistics.frames_out + lost == running.tap.statistics().delivered


@pytest.mark.anyio
async def test_a_model_of_another_task_does_not_take_the_place_of_one_that_works(
    pipeline_models: Path,
) -> None:
    viewer = Viewer()
    config = load_live_config(
        None, {"model.name": str(pipeline_models / "discs.pte"), "effect.name": "tint"}
    )
    session = LiveSession(config, source=PacedSource(SAMPLE, loop=True), sinks=(viewer,))
    async with session, anyio.create_task_group() as group:
        group.start_soon(session.run)
        with anyio.fail_after(30):
            while not viewer.masked:
                await anyio.sleep(0.02)
            with pytest.raises(ConfigError, match="classifies pictures"):
                await session.set_model(str(pipeline_models / "tones.pte"))
            with pytest.raises(ConfigError, match="needs one for classification"):
                await session.set_effect("labels")
            with pytest.raises(ConfigError, match="did you mean 'DOG'"):
                await session.set_effect("blur", {"subject": ["dgo"]})
            assert session.effect_name == "tint"
            await session.set_effect("blur", {"subject": ["dog"], "on": "subject"})
            seen = viewer.masked
            while viewer.masked < seen + 5:
                await anyio.sleep(0.02)
        session.stop()
    assert {"PERSON", "DOG"} >= set(viewer.seen[-1][1].masks) >= {"DOG"}


# -- serve -------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_a_server_uses_the_model_of_its_configuration(
    pipeline_models: Path, discs: Path, tmp_path: Path
) -> None:
    """Discs in a room: the blue one is white for who watches, as only this model can tell."""
    path = tmp_path / "serve.toml"
    path.write_text(
        f"""
        [server]
        port = 0
        [model]
        name = {json.dumps(str(pipeline_models / "discs.pte"))}
        [effect]
        name = "replace"
        background = "white"
        on = "subject"
        subject = ["dog"]
        [[room]]
        name = "lobby"
        source = {{ uri = {json.dumps(str(discs))}, loop = true }}
        """
    )
    async with ServeSession(load_serve_config(path)) as session, anyio.create_task_group() as group:
        assert session.model.pool.model.path == pipeline_models / "discs.pte"
        group.start_soon(session.run)
        x, y = places(0)[2]
        with anyio.fail_after(40):
            while not session.server.rooms:
                await anyio.sleep(0.02)
            async with WhepSource(f"{session.server.url}/whep/lobby") as viewer:
                while True:
                    picture = (await viewer.receive()).video.to_ndarray(format="rgb24")
                    height, width = picture.shape[:2]
                    disc = picture[y * height // SIZE[1], x * width // SIZE[0]].astype(int)
                    ground = picture[height // 20, width // 2].astype(int)
                    # Before the model is there all of it is white.
                    if disc.min() > 215 and np.abs(ground - GREY).max() < 25:
                        break
        assert tuple(session.model.pool.labels) == ("PERSON", "DOG")
        session.stop()


@pytest.mark.anyio
async def test_a_server_with_the_wrong_model_does_not_start(pipeline_models: Path) -> None:
    config = {"server.port": 0, "model.name": str(pipeline_models / "tones.pte")}
    with pytest.raises(ConfigError, match="classifies pictures"):
        async with ServeSession(load_serve_config(None, config)):
            pass
    config |= {"model.name": str(pipeline_models / "discs.pte"), "effect.subject": ["perso"]}
    with pytest.raises(ConfigError, match="did you mean 'PERSON'"):
        async with ServeSession(load_serve_config(None, config)):
            pass


@pytest.mark.anyio
async def test_the_segmenter_itself_gives_objects_and_scores(
    pipeline_models: Path, discs: Path
) -> None:
    from streamseg.sources.file import FileSource

    async with FileSource(discs) as source:
        frame = await source.receive()
    async with load_segmenter(pipeline_models / "discs.pte") as segmenter:
        assert segmenter.labels == ("PERSON",)
        answer = await segmenter.segment(frame)
    assert [each.label for each in answer.instances] == ["PERSON", "PERSON"]
    for each, (x, y) in zip(
        sorted(answer.instances, key=lambda item: item.box), places(0)[:2], strict=True
    ):
        expected = ((x - 60) / SIZE[0], (y - 60) / SIZE[1], (x + 60) / SIZE[0], (y + 60) / SIZE[1])
        assert np.abs(np.array(each.box) - expected).max() < 0.02
    async with load_segmenter(pipeline_models / "tones.pte") as segmenter:
        scores = (await segmenter.segment(frame)).scores
    assert set(scores) == {"RED", "GREEN", "BLUE"}
    assert sum(scores.values()) == pytest.approx(1.0)


# -- models that must be fetched -----------------------------------------------------------------


class SlowServer:
    """Serves one file in two parts, the second one when it is told to.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        content, go_on = path.read_bytes(), threading.Event()

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content[: len(content) // 2])
                self.wfile.flush()
                go_on.wait(30)
                self.wfile.write(content[len(content) // 2 :])

            def log_message(self, *_: Any) -> None:
                pass

        self.go_on = go_on
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self.url = f"http://127.0.0.1:{self._server.server_port}/{path.name}"

    def __enter__(self) -> SlowServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.go_on.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def programs_in(folder: Path) -> list[Path]:
    return list(folder.rglob("*.pte"))


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STREAMSEG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.anyio
@pytest.mark.usefixtures("own_cache")
async def test_a_live_stream_shows_nothing_before_its_model_is_fetched(models: Path) -> None:
    tap, viewer, shares = Tap(PacedSource(SAMPLE, loop=True)), Viewer(), []
    half = anyio.Event()

    def told(share: float) -> None:
        shares.append(share)
        if 0.2 < share < 1.0:
            half.set()

    with SlowServer(models / "classes.pte") as server:
        options = {
            "model.name": f"{server.url}?token=secret",
            "effect.name": "tint",
            "effect.subject": ["class_1"],
        }
        config = load_live_config(None, options)
        session = LiveSession(config, source=tap, sinks=(viewer,), on_download=told)
        async with anyio.create_task_group() as group:

            async def work() -> None:
                async with session:
                    await session.run()

            group.start_soon(work)
            with anyio.fail_after(20):
                await half.wait()
                assert viewer.seen == []
                assert tap.raw == {}, "the camera is on already"
                server.go_on.set()
                while viewer.masked < 3:
                    await anyio.sleep(0.02)
            settings = session.pipeline.settings
            session.stop()
    assert "127.0.0.1" in settings["model"]
    assert "secret" not in settings["model"]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert next(iter(viewer.seen[-1][1].masks)) == "CLASS_1"


@pytest.mark.anyio
async def test_giving_up_while_a_model_is_fetched_is_quick(own_cache: Path, models: Path) -> None:
    half = anyio.Event()

    def told(share: float) -> None:
        if 0.2 < share < 1.0:
            half.set()

    with SlowServer(models / "classes.pte") as server:
        config = load_serve_config(None, {"server.port": 0, "model.name": server.url})
        async with anyio.create_task_group() as group:

            async def work() -> None:
                async with ServeSession(config, on_download=told) as session:
                    await session.run()

            group.start_soon(work)
            with anyio.fail_after(20):
                await half.wait()
            started = time.monotonic()
            group.cancel_scope.cancel()
        assert time.monotonic() - started < 2
    assert programs_in(own_cache) == []


@pytest.mark.usefixtures("own_cache")
def test_run_fetches_its_model_once(models: Path, discs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.mp4"
    with SlowServer(models / "classes.pte") as server:
        server.go_on.set()
        given = ("--model", server.url, "--effect", "tint", "--classes", "class_1", "--quiet")
        assert streamseg("run", discs, out, *given) == 0
    assert streamseg("run", discs, out, *given, "--overwrite") == 0, "it was fetched again"
    assert len(pictures_of(out)) == 12


@pytest.mark.anyio
async def test_a_class_that_nobody_could_check_hides_everything(
    models: Path, tmp_path: Path
) -> None:
    """A card without labels: what is asked for while the model loads may not be there."""
    shutil.copy(models / "classes.pte", tmp_path / "own.pte")
    viewer = Viewer()
    options = {"model.name": str(tmp_path / "own.pte"), "effect.subject": ["class_1"]}
    tap = Tap(PacedSource(SAMPLE, loop=True))
    session = LiveSession(load_live_config(None, options), source=tap, sinks=(viewer,))
    async with session, anyio.create_task_group() as group:
        await session.set_effect("blur", {"subject": ["no such"]})
        group.start_soon(session.run)
        with anyio.fail_after(20):
            while viewer.masked < 3:
                await anyio.sleep(0.02)
        with pytest.raises(ConfigError, match="no such"):
            await session.set_effect("blur", {"subject": ["no such"]})
        session.stop()
    for frame, _ in viewer.seen[-3:]:
        assert detail(luma_plane(frame.video)) < 0.2 * detail(tap.raw[frame.index])
