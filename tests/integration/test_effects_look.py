"""Effects and mask filters on real pictures."""

from __future__ import annotations

from itertools import islice

import av
import av.logging
import cv2
import numpy as np
import pytest

from streamseg.effects.registry import EFFECTS, create_effect
from streamseg.frames import Colour, Frame, plane_view
from streamseg.masks.refinement import EdgeRefinement
from streamseg.masks.smoothing import SceneCutDetector
from streamseg.segmentation import Segmentation

pytestmark = pytest.mark.integration
LABELS = ("SELFIE", "BACKGROUND")


def decode(path, count):
    with av.open(str(path)) as box:
        return list(islice(box.decode(video=0), count))


def as_frame(video, index=0):
    return Frame(video, index, 0.0)


def person_mask(width=256, height=256):
    """A head and shoulders in the middle."""
    yy, xx = np.mgrid[0:height, 0:width] / np.array(height).reshape(1, 1)
    head = 0.16 - np.hypot(xx - 0.5, (yy - 0.35) * 0.8)
    body = 0.28 - np.hypot(xx - 0.5, (yy - 1.0) * 0.6)
    return np.clip(0.5 + np.maximum(head, body) * 40, 0, 1).astype(np.float32)


def segmentation(mask, index=0):
    return Segmentation(index, LABELS, None, {"SELFIE": mask})


def luma(video):
    return plane_view(video, 0).astype(np.int16)


def test_blur_leaves_no_detail_behind_and_the_person_untouched(assets):
    mask = person_mask()
    for video in decode(assets / "media/05_default_juggle.mp4", 3):
        out = create_effect("blur").apply(as_frame(video), segmentation(mask)).video
        height, width = luma(video).shape
        large = cv2.resize(mask, (width, height))
        inside, outside = cv2.erode(large, np.ones((9, 9))) == 1, cv2.dilate(large, np.ones((9, 9)))
        assert np.array_equal(luma(video)[inside], luma(out)[inside])
        steps_before = np.abs(np.diff(luma(video), axis=1))[outside[:, 1:] == 0].mean()
        steps_after = np.abs(np.diff(luma(out), axis=1))[outside[:, 1:] == 0].mean()
        assert steps_after < 0.08 * steps_before


@pytest.mark.parametrize("name", [name for name in EFFECTS if name != "none"])
@pytest.mark.parametrize("clip", ["bt709_full_range.mp4", "04_coffee.mp4"])
def test_real_frames_keep_stamps_and_colour_without_a_word_from_ffmpeg(assets, clip, name):
    old = av.logging.get_level()
    av.logging.set_level(av.logging.WARNING)
    try:
        with av.logging.Capture() as lines:
            effect = create_effect(name)
            for index, video in enumerate(decode(assets / "media" / clip, 3)):
                source = as_frame(video, index)
                out = effect.apply(source, segmentation(person_mask(), index))
                assert (out.pts, out.time_base, out.index) == (
                    source.pts, source.time_base, index,
                )  # fmt: skip
                if name != "mask":  # grey of full range, whatever the frame is
                    assert Colour.of(out.video) == Colour.of(video)
                assert out.pixel_format == effect.output_format(source.pixel_format)
        assert list(lines) == []
    finally:
        av.logging.set_level(old)


@pytest.mark.parametrize("background", ["astronaut.png", "grace_hopper.jpg", "06_pingpong.mp4"])
def test_a_real_background_fills_the_frame_in_its_own_colours(assets, background):
    path = assets / "media" / background
    effect = create_effect("replace", {"background": str(path)})
    (video,) = decode(assets / "media/03_skateboarder.mp4", 1)
    out = effect.apply(as_frame(video), segmentation(np.zeros((8, 8), np.float32))).video
    shown = out.reformat(format="rgb24").to_ndarray().astype(float)
    (source,) = decode(path, 1)
    expected = source.reformat(format="rgb24", dst_color_range=2).to_ndarray()
    height = round(expected.shape[1] * shown.shape[0] / shown.shape[1])
    top = max(0, (expected.shape[0] - height) // 2)
    expected = cv2.resize(
        expected[top : top + height], shown.shape[1::-1], interpolation=cv2.INTER_LINEAR
    )
    assert np.abs(shown - expected).mean() < 6


def test_refined_edges_are_nearer_to_the_truth_than_enlarged_ones(assets):
    """A portrait with a known outline before real backgrounds, with a soft, shifted mask."""
    (astronaut,) = decode(assets / "media/astronaut.png", 1)
    person = cv2.resize(astronaut.reformat(format="rgb24").to_ndarray(), (720, 720))
    outline = cv2.resize(person_mask(720, 720), (720, 720))
    truth = np.zeros((720, 1280), np.float32)
    truth[:, 280:1000] = (outline > 0.5).astype(np.float32)
    front = np.zeros((720, 1280, 3), np.uint8)
    front[:, 280:1000] = person
    better = []
    for clip in ("03_skateboarder.mp4", "04_coffee.mp4", "05_default_juggle.mp4"):
        (behind,) = decode(assets / "media" / clip, 1)
        rgb = behind.reformat(1280, 720, "rgb24").to_ndarray()
        mixed = (front * truth[..., None] + rgb * (1 - truth[..., None])).astype(np.uint8)
        video = av.VideoFrame.from_ndarray(mixed, "rgb24").reformat(format="yuv420p")
        model = cv2.resize(truth, (256, 256), interpolation=cv2.INTER_AREA)
        model = np.roll(cv2.GaussianBlur(model, (0, 0), 1.5), 1, axis=1)
        refined = EdgeRefinement().apply(as_frame(video), segmentation(model)).masks["SELFIE"]
        soft = cv2.GaussianBlur(truth, (0, 0), 10)
        band = (soft > 0.02) & (soft < 0.98)
        errors = [
            np.abs(cv2.resize(mask, (1280, 720)) - truth)[band].mean() for mask in (refined, model)
        ]
        better.append(errors[0] / errors[1])
    assert np.mean(better) < 0.95


def test_real_motion_is_no_cut_and_real_cuts_are(assets):
    clips = [
        decode(assets / "media" / name, 40)
        for name in ("03_skateboarder.mp4", "05_default_juggle.mp4", "06_pingpong.mp4")
    ]
    detector = SceneCutDetector()
    found = [detector.is_cut(video) for clip in clips for video in clip]
    assert [index for index, cut in enumerate(found) if cut] == [40, 80]
