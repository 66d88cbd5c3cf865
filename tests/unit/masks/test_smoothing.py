from __future__ import annotations

import av
import numpy as np
import pytest

from streamseg.errors import ConfigError
from streamseg.frames import Frame, plane_view
from streamseg.masks.smoothing import SceneCutDetector, TemporalSmoothing
from streamseg.segmentation import Segmentation


def scene(seed: int, *, gain: float = 1.0, offset: float = 0.0, shift: int = 0):
    """A smooth random picture, lit and moved."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(30, 200, (9, 16))
    whole = np.kron(coarse, np.ones((16, 16)))
    whole = np.roll(whole, shift, axis=1) * gain + offset
    video = av.VideoFrame(256, 144, "yuv420p")
    plane_view(video, 0)[:] = np.clip(whole, 0, 255).astype(np.uint8)
    return video


def step(smoothing, value, index, video=None, size=(8, 8)):
    frame = Frame(scene(0) if video is None else video, index, 0.0)
    mask = np.full(size, value, np.float32)
    given = mask.copy()
    out = smoothing.apply(frame, Segmentation(index, ("SELFIE",), None, {"SELFIE": mask}))
    assert np.array_equal(mask, given, equal_nan=True)
    result = out.masks["SELFIE"]
    assert result.dtype == np.float32
    return float(result[0, 0])


def test_an_unsure_pixel_keeps_most_of_what_it_was():
    smoothing = TemporalSmoothing(0.8)
    assert step(smoothing, 1.0, 0) == 1.0
    assert step(smoothing, 0.5, 1) == pytest.approx(0.5 + 0.5 * 0.8)


@pytest.mark.parametrize("sure", [0.0, 1.0])
def test_a_sure_pixel_follows_at_once(sure):
    smoothing = TemporalSmoothing(0.9)
    step(smoothing, 1.0 - sure, 0)
    assert step(smoothing, sure, 1) == sure


def test_uncertainty_falls_from_the_middle_to_both_ends():
    def change(value):
        smoothing = TemporalSmoothing(0.9)
        step(smoothing, 1.0, 0)
        return (step(smoothing, value, 1) - value) / (1.0 - value)

    lower = [change(v) for v in (0.5, 0.4, 0.3, 0.2, 0.1, 0.01)]
    assert lower == sorted(lower, reverse=True)
    assert lower[0] == pytest.approx(0.9)
    assert lower[-1] < 0.01


@pytest.mark.parametrize(
    "second",
    [{"index": 40}, {"index": 0}, {"index": 1, "size": (4, 4)}, {"index": 1, "video": scene(5)}],
    ids=["gap", "index goes back", "size", "scene cut"],
)
def test_it_forgets(second):
    smoothing = TemporalSmoothing(0.8)
    step(smoothing, 1.0, 0)
    assert step(smoothing, 0.5, **second) == 0.5


def test_a_small_gap_is_smoothed_over_and_reset_forgets():
    smoothing = TemporalSmoothing(0.8)
    step(smoothing, 1.0, 0)
    assert step(smoothing, 0.5, 4) > 0.8
    smoothing.reset()
    assert step(smoothing, 0.5, 5) == 0.5


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_does_not_stay(value):
    smoothing = TemporalSmoothing(0.8)
    step(smoothing, 1.0, 0)
    assert not np.isfinite(step(smoothing, value, 1))
    assert step(smoothing, 0.5, 2) == 0.5
    assert step(smoothing, 0.0, 3) == 0.0


@pytest.mark.parametrize("ratio", [-0.1, 1.1, float("nan"), "high", True, None])
def test_a_wrong_ratio_is_a_config_error(ratio):
    with pytest.raises(ConfigError, match="ratio must be"):
        TemporalSmoothing(ratio)


def test_hard_cuts_are_found():
    detector = SceneCutDetector()
    found = [detector.is_cut(scene(number // 5, shift=number)) for number in range(50)]
    assert [n for n, cut in enumerate(found) if cut] == list(range(5, 50, 5))


@pytest.mark.parametrize(
    "light",
    [
        lambda n: {"gain": 1.0 if n % 2 else 0.6},
        lambda n: {"gain": 0.2 + n / 40},
        lambda n: {"offset": 4 * n},
        lambda n: {"shift": 6 * n},
        lambda n: {"gain": abs(n - 15) / 15},
    ],
    ids=["flicker", "exposure", "brightness", "pan", "fade out and in"],
)
def test_light_and_motion_are_no_cuts(light):
    detector = SceneCutDetector()
    assert not any(detector.is_cut(scene(0, **light(number))) for number in range(30))


@pytest.mark.parametrize("pixel_format", ["yuv420p10le", "gray", "nv12", "rgb24", "p010le", "pal8"])
def test_any_format_is_taken(pixel_format):
    detector = SceneCutDetector()
    video = av.VideoFrame(5, 3, pixel_format)
    for plane in video.planes:
        np.frombuffer(plane, np.uint8)[:] = 0
    assert not detector.is_cut(video)
