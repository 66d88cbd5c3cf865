"""The pipeline of a session, over a model that does as it is told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import anyio
import av
import numpy as np
import pytest
from numpy.typing import NDArray

from streamseg.effects.registry import create_effect
from streamseg.frames import Frame
from streamseg.segmentation import Segmentation
from streamseg.session.processing import SessionPipeline
from streamseg.session.serve_config import load_serve_config
from streamseg.session.shown import shown_model
from tests.unit.fakes import TIME_BASE, FakeSegmenter, FakeSink, FakeSource

pytestmark = pytest.mark.anyio

CUT = 12  # index of the first frame of another scene
WIDTH, HEIGHT = 128, 96


class Cutting(FakeSource):
    """Two scenes of some contrast, one picture at a time."""

    def __init__(self) -> None:
        super().__init__(2 * CUT)
        chance = np.random.default_rng(7)
        self.scenes = [self._scene(chance) for _ in range(2)]

    @staticmethod
    def _scene(chance: np.random.Generator) -> NDArray[np.uint8]:
        coarse = chance.integers(40, 220, (6, 8), dtype=np.uint8)
        grey = np.kron(coarse, np.ones((HEIGHT // 6, WIDTH // 8), np.uint8))
        return np.repeat(grey[..., None], 3, axis=2)

    async def receive(self) -> Frame:
        await anyio.sleep(0.01)  # the ones before are shown by then
        frame = await super().receive()
        video = av.VideoFrame.from_ndarray(self.scenes[frame.index >= CUT], "rgb24")
        video = video.reformat(format="yuv420p")
        video.pts, video.time_base = frame.index, TIME_BASE
        return frame.with_video(video)


class SlowModel(FakeSegmenter):
    """Finds a person all over the first picture, and does not answer again."""

    workers = 1

    async def segment(self, frame: Frame) -> Segmentation:
        if frame.index:
            await anyio.sleep_forever()
        return Segmentation(0, ("SELFIE",), masks={"SELFIE": np.ones((24, 32), np.float32)})


def session(source: Cutting, sink: FakeSink, **flow: Any) -> SessionPipeline:
    overrides = {f"flow.{key}": value for key, value in flow.items()}
    config = load_serve_config(None, {"webrtc.adapt": False, "mask.smoothing": 0.0, **overrides})
    model: Any = SimpleNamespace(segmenter=SlowModel)

    @contextmanager
    def running(pipeline: SessionPipeline) -> Iterator[None]:
        yield

    navy = create_effect("replace", {"background": "navy"})
    return SessionPipeline(config, model, source, [sink], ("replace", navy), running=running)


@pytest.mark.parametrize("motion", [True, False])
async def test_no_mask_from_before_a_cut_lies_over_the_scene_after_it(motion: bool) -> None:
    source, sink = Cutting(), FakeSink()
    with anyio.fail_after(20):
        await session(source, sink, when_busy="reuse", motion=motion, max_mask_age_s=60.0).run()
    shown = {frame.index: frame.video.to_ndarray(format="rgb24") for frame in sink.frames}
    before = [rgb for index, rgb in shown.items() if 2 <= index < CUT]
    after = [rgb for index, rgb in shown.items() if index >= CUT]
    assert len(before) > 3
    assert len(after) > 3
    # The mask is used again, so that the person is seen, and then not any more.
    assert min(float(rgb[..., 0].mean()) for rgb in before) > 60
    assert max(int(rgb[..., :2].max()) for rgb in after) < 20


async def test_without_adapting_too_no_more_than_thirty_a_second_are_worked_on() -> None:
    class Fast(Cutting):  # 60 a second by its time stamps
        async def receive(self) -> Frame:
            frame = await super().receive()
            frame.video.pts, frame.video.time_base = frame.index, Fraction(1, 60)
            return frame

    source, sink = Fast(), FakeSink()
    with anyio.fail_after(20):
        pipeline = session(source, sink, when_busy="reuse")
        await pipeline.run()
    assert 0 < len(sink.frames) <= CUT + 1
    assert pipeline.adaptations == {"down": 0, "up": 0}


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("selfie", "selfie"),
        ("/home/somebody/secret project/model.pte", "model.pte"),
        ("models/model.pte", "model.pte"),
        ("https://me:geheim@example.org/a/model.pte", "https://***@example.org/a/model.pte"),
    ],
)
async def test_figures_name_the_model_without_its_folders(name: str, shown: str) -> None:
    assert shown_model(name) == shown
    config = load_serve_config(None, {"model.name": name})
    navy = create_effect("replace", {"background": "navy"})
    model: Any = SimpleNamespace(segmenter=SlowModel)
    running: Any = None
    pipeline = SessionPipeline(
        config, model, Cutting(), [FakeSink()], ("replace", navy), running=running
    )
    assert pipeline.statistics().settings["model"] == shown
