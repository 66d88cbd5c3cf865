from __future__ import annotations

import av
import cv2
import numpy as np
import pytest

from streamseg.errors import ConfigError
from streamseg.frames import Frame, luma_bits, plane_view
from streamseg.masks.refinement import EdgeRefinement
from streamseg.segmentation import Segmentation


def disc(pixel_format="yuv420p", width=640, height=360, inside=0.8, outside=0.25):
    """A disc on a slightly textured ground, and its coverage."""
    yy, xx = np.mgrid[0:height, 0:width]
    distance = np.hypot(xx - width * 0.47, yy - height * 0.52)
    truth = np.clip(min(width, height) * 0.3 - distance + 0.5, 0, 1).astype(np.float32)
    noise = np.random.default_rng(0).normal(0, 0.01, truth.shape)
    luma = truth * inside + (1 - truth) * outside + noise
    video = av.VideoFrame(width, height, pixel_format)
    plane = plane_view(video, 0)
    top = (1 << luma_bits(video)) - 1
    plane[:] = np.clip(luma * top, 0, top).astype(plane.dtype)
    return video, truth


def model_mask(truth, size=(128, 128)):
    """What a model would say: small, soft, a little off."""
    mask = cv2.resize(truth, size, interpolation=cv2.INTER_AREA)
    mask = cv2.GaussianBlur(mask, (0, 0), 1.2)
    return np.roll(mask, 1, axis=1).astype(np.float32)


def refine(video, mask, **options):
    given = mask.copy()
    out = EdgeRefinement(**options).apply(
        Frame(video, 0, 0.0), Segmentation(0, ("SELFIE",), None, {"SELFIE": mask})
    )
    assert np.array_equal(mask, given, equal_nan=True)
    result = out.masks["SELFIE"]
    assert result.dtype == np.float32
    return result


@pytest.mark.parametrize(
    "pixel_format", ["yuv420p", "yuv422p10le", "yuv444p12le", "gray", "nv12", "p010le"]
)
def test_edges_follow_the_picture(pixel_format):
    video, truth = disc(pixel_format)
    mask = model_mask(truth)
    refined = refine(video, mask)
    assert refined.shape == (360, 640)
    assert 0.0 <= refined.min() <= refined.max() <= 1.0
    plain = cv2.resize(mask, (640, 360))
    near = (cv2.GaussianBlur(truth, (0, 0), 6) > 0.02) & (cv2.GaussianBlur(truth, (0, 0), 6) < 0.98)
    assert np.abs(refined - truth)[near].mean() < 0.85 * np.abs(plain - truth)[near].mean()


def test_a_flat_picture_leaves_the_mask_as_it_was_but_smooth():
    video, truth = disc(inside=0.5, outside=0.5)
    mask = model_mask(truth)
    assert np.abs(refine(video, mask) - cv2.resize(mask, (640, 360))).mean() < 0.02


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_constant_masks_stay_exactly_constant(value):
    video, _ = disc()
    refined = refine(video, np.full((64, 64), value, np.float32))
    assert np.abs(refined - value).max() <= 1e-5


@pytest.mark.parametrize(
    "size", [(1, 1), (2, 2), (3, 1), (1, 9), (16, 16), (5, 64), (321, 241), (200, 640)]
)
def test_any_size_of_frame(size):
    video, _truth = disc(width=size[0], height=size[1])
    refined = refine(video, np.full((32, 32), 0.5, np.float32))
    assert refined.ndim == 2
    assert np.isfinite(refined).all()
    assert refined.shape[0] <= max(1, size[1])


def test_the_result_has_the_frames_shape_and_about_the_height_asked_for():
    video, truth = disc(width=1920, height=1080)
    assert refine(video, model_mask(truth)).shape == (360, 640)
    assert refine(video, model_mask(truth), height=540).shape == (540, 960)
    video, truth = disc(width=720, height=1280)
    assert refine(video, model_mask(truth)).shape == (640, 360)


def test_rgb_frames_and_segmentations_without_masks_pass():
    video, truth = disc()
    nothing = Segmentation(0, ("SELFIE",))
    assert EdgeRefinement().apply(Frame(video, 0, 0.0), nothing) is nothing
    rgb = Frame(av.VideoFrame(32, 32, "rgb24"), 0, 0.0)
    some = Segmentation(0, ("SELFIE",), None, {"SELFIE": model_mask(truth)})
    assert EdgeRefinement().apply(rgb, some) is some


def test_masks_of_classes_that_are_not_there_get_the_same_size():
    video, truth = disc()
    masks = {"A": model_mask(truth), "B": np.zeros((128, 128), np.float32)}
    out = EdgeRefinement().apply(Frame(video, 0, 0.0), Segmentation(0, ("A", "B"), None, masks))
    assert out.masks["A"].shape == out.masks["B"].shape
    assert out.masks["B"].max() == 0.0


@pytest.mark.parametrize(
    "options",
    [{"radius": 0}, {"radius": 2.5}, {"smoothness": 0}, {"smoothness": 2}, {"height": 4}],
)
def test_wrong_options_are_config_errors(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        EdgeRefinement(**options)
