"""Frames through the preprocessor and a model process: what the pipeline really runs."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from streamseg.frames import Frame
from streamseg.runtime.preprocess import Preprocessor, to_centres
from streamseg.runtime.segmenter import ModelSegmenter
from streamseg.session.parts import load_segmenter
from tests.golden import selfie_golden as golden

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

NAMES = {"selfie": "selfie_general", "selfie-landscape": "selfie_landscape"}


@pytest.fixture(scope="module", params=sorted(NAMES))
async def segmenter(request: pytest.FixtureRequest) -> AsyncIterator[ModelSegmenter]:
    async with load_segmenter(request.param) as segmenter:
        yield segmenter


def frame_of(picture: np.ndarray, pixel_format: str = "rgb24") -> Frame:
    video = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), "rgb24")
    if pixel_format != "rgb24":
        video = video.reformat(format=pixel_format, dst_colorspace="ITU709")
        video.colorspace = 1
    return Frame(video, 0, 0.0)


@pytest.mark.parametrize("case", golden.CASES, ids=lambda case: case.name)
async def test_the_pipelines_own_masks_are_mediapipes(
    segmenter: ModelSegmenter, case: golden.Case
) -> None:
    assets = os.environ.get("STREAMSEG_TEST_ASSETS")
    if case.asset and not assets:
        pytest.skip(f"STREAMSEG_TEST_ASSETS is not set: {case.asset} is there")
    picture = golden.read_picture(case, Path(assets) if assets else None)
    preprocess = Preprocessor(segmenter.pool.layout.input_size, "corner")

    result = await segmenter.pool.run(preprocess(frame_of(picture).video))

    name = NAMES[segmenter.pool.model.card.name.replace("_general", "").replace("_", "-")]
    iou, difference = golden.compare(result.masks[0], golden.read_golden(case, name))
    assert iou >= golden.MIN_IOU
    assert difference < golden.MAX_MEAN_DIFFERENCE


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv444p", "yuv420p10le", "gbrp", "bgra"])
async def test_the_pixel_format_of_a_frame_changes_its_mask_little(
    segmenter: ModelSegmenter, pixel_format: str
) -> None:
    picture = golden.read_picture(golden.Case("astronaut_large"), None)
    expected = (await segmenter.segment(frame_of(picture))).mask_of(("SELFIE",))
    mask = (await segmenter.segment(frame_of(picture, pixel_format))).mask_of(("SELFIE",))

    both, either = (expected > 0.5) & (mask > 0.5), (expected > 0.5) | (mask > 0.5)
    assert both.sum() / either.sum() > 0.97


@pytest.mark.parametrize("name", ["astronaut_large", "astronaut_wide", "astronaut_twice"])
async def test_masks_lie_on_their_subject_and_not_beside_it(
    segmenter: ModelSegmenter, name: str
) -> None:
    """A mirrored picture gives the mirrored mask: a shift of the mask would show twice."""
    picture = golden.read_picture(golden.Case(name), None)
    width, height = picture.shape[1], picture.shape[0]
    masks = []
    for flipped in (False, True):
        source = picture[:, ::-1] if flipped else picture
        segmentation = await segmenter.segment(frame_of(source))
        mask = cv2.resize(segmentation.mask_of(("SELFIE",)), (width, height))
        masks.append(mask[:, ::-1] if flipped else mask)

    shifts = range(-8, 9)
    differences = [
        np.abs(np.roll(masks[1], shift, axis=1) - masks[0])[:, 8:-8].mean() for shift in shifts
    ]
    assert abs(shifts[int(np.argmin(differences))]) <= 1


def test_resampling_to_centres_moves_a_mask_by_half_a_step() -> None:
    # A ramp whose value is the picture's column at which its samples were taken.
    columns = np.arange(64, dtype=np.float32) * 10
    mask = np.tile(columns, (32, 1))

    moved = to_centres(mask, (320, 640))

    expected = (np.arange(64) + 0.5) * 10 - 0.5
    np.testing.assert_allclose(moved[5, 1:-1], expected[1:-1], atol=0.2)


@pytest.mark.parametrize("size", [(1080, 1920), (720, 1280), (40, 64), (64, 40), (20, 30)])
def test_resampling_is_bilinear_for_every_size_of_picture(size: tuple[int, int]) -> None:
    mask = np.random.default_rng(0).random((40, 64), np.float32)
    right, down = 0.5 - 0.5 * 64 / size[1], 0.5 - 0.5 * 40 / size[0]
    x, y = np.clip(np.arange(64) + right, 0, 63), np.clip(np.arange(40) + down, 0, 39)
    x0, y0 = np.minimum(x.astype(int), 62), np.minimum(y.astype(int), 38)
    across = mask[:, x0] * (1 - (x - x0)) + mask[:, x0 + 1] * (x - x0)
    expected = across[y0] * (1 - (y - y0))[:, None] + across[y0 + 1] * (y - y0)[:, None]

    np.testing.assert_allclose(to_centres(mask, size), expected, atol=0.02)


@pytest.mark.parametrize(
    ("full_range", "matrix"), [(False, 1), (True, 1), (False, 6), (True, 6), (False, 9)]
)
def test_colours_arrive_as_they_are_meant(full_range: bool, matrix: int) -> None:
    """Pure red in each encoding is red for the model."""
    red, green = {1: (0.2126, 0.7152), 6: (0.299, 0.587), 9: (0.2627, 0.6780)}[matrix]
    luma, cb, cr = red, -red / (2 * (red + green)), 0.5
    scale, offset, chroma = (255, 0, 255) if full_range else (219, 16, 224)
    video = av.VideoFrame(64, 48, "yuv444p")
    for plane, value in zip(
        video.planes, (offset + scale * luma, 128 + chroma * cb, 128 + chroma * cr), strict=True
    ):
        plane.update(bytes([min(255, round(value))]) * plane.buffer_size)
    video.colorspace, video.color_range = matrix, 2 if full_range else 1

    for sampling in ("centre", "corner"):
        pixels = Preprocessor((24, 32), sampling)(video)  # type: ignore[arg-type]
        np.testing.assert_allclose(pixels[12, 16], (255, 0, 0), atol=4)
