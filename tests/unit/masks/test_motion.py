from __future__ import annotations

import av
import cv2
import numpy as np
import pytest

from streamseg.errors import ConfigError
from streamseg.frames import Frame, luma_plane
from streamseg.masks.motion import MotionCompensation
from streamseg.masks.smoothing import SceneCutDetector
from streamseg.segmentation import Segmentation

WIDTH, HEIGHT = 320, 180
SMALL = (160, 90)


def texture(seed, width=WIDTH, height=HEIGHT, low=30, high=100):
    """Blobs of several sizes: something to see at every scale."""
    rng = np.random.default_rng(seed)
    whole = np.zeros((height, width), np.float32)
    for cell in (4, 10, 30):
        coarse = rng.normal(0, 1, (height // cell + 2, width // cell + 2)).astype(np.float32)
        whole += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    whole = (whole - whole.min()) / np.ptp(whole)
    return low + whole * (high - low)


def scene(x, y, scale=1.0, *, pan=0.0, size=(WIDTH, HEIGHT)):
    """A textured person (an ellipse) at (x, y), before a textured wall: luma and mask."""
    width, height = size
    radius = (0.14 * width, 0.33 * height)
    place = np.array([[scale, 0, x - scale * width / 2], [0, scale, y - scale * height / 2]])
    slide = np.array([[1, 0, pan], [0, 1, 0]], np.float64)
    wall = cv2.warpAffine(
        texture(1, width, height), slide, size, borderMode=cv2.BORDER_REFLECT, flags=cv2.INTER_CUBIC
    )
    person = cv2.warpAffine(texture(2, width, height, 120, 220), place, size, flags=cv2.INTER_CUBIC)
    rows, columns = np.mgrid[0:height, 0:width]
    away = np.hypot(
        (columns - x) / (radius[0] * scale), (rows - y) / (radius[1] * scale)
    )  # 1 on the outline
    alpha = np.clip((1 - away) * radius[0] * scale + 0.5, 0, 1).astype(np.float32)
    luma = wall * (1 - alpha) + person * alpha
    return luma, cv2.resize(alpha, SMALL, interpolation=cv2.INTER_AREA)


def as_frame(luma, index, pixel_format="yuv420p"):
    video = av.VideoFrame(luma.shape[1], luma.shape[0], pixel_format)
    bits = video.format.components[0].bits
    plane = luma_plane(video)
    level = 1 << (16 - 8 if pixel_format.startswith("p01") else bits - 8)
    plane[:] = np.clip(np.rint(luma * level), 0, 256 * level - 1).astype(plane.dtype)
    return Frame(video, index, 0.0)


def segmentation(index, mask, class_map=None):
    return Segmentation(index, ("person",), class_map, {"person": mask})


def run(scenes, *, every=None, pixel_format="yuv420p", motion=None):
    """Show all scenes with the mask of the first, or the newest of those of every so many."""
    motion = motion or MotionCompensation()
    frames = [as_frame(luma, index, pixel_format) for index, (luma, _) in enumerate(scenes)]
    out = []
    for frame in frames:
        newest = 0 if every is None else frame.index // every * every
        given = scenes[newest][1].copy()
        result = motion.apply(frames[newest], frame, segmentation(newest, given))
        assert np.array_equal(given, scenes[newest][1])
        assert result.index == newest
        out.append(result.masks["person"])
    return out


def edge_error(mask, truth):
    """How far the outline of a mask is from the true one: mean and 95th percentile, in pixels."""

    def rim(plane):
        inside = (plane > 0.5).astype(np.uint8)
        return inside - cv2.erode(inside, np.ones((3, 3), np.uint8))

    away = cv2.distanceTransform(1 - rim(truth), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    found = away[rim(mask) > 0]
    assert found.size
    return float(found.mean()), float(np.percentile(found, 95))


MOVES = {
    "right": [(100 + 5 * n, 90, 1.0) for n in range(11)],
    "up and left": [(200 - 4 * n, 110 - 3 * n, 1.0) for n in range(11)],
    "nearer": [(160, 90, 0.7 + 0.04 * n) for n in range(11)],
    "farther": [(160, 90, 1.1 - 0.04 * n) for n in range(11)],
}


@pytest.mark.parametrize("moves", MOVES.values(), ids=MOVES)
def test_the_edge_follows_a_known_motion_within_a_pixel(moves):
    scenes = [scene(*move) for move in moves]
    moved = run(scenes)
    for lag in (1, 2, 3, 6, 10):
        mean, most = edge_error(moved[lag], scenes[lag][1])
        assert mean <= 1.0, lag
        assert most <= 2.0, lag
    left_alone, _ = edge_error(scenes[0][1], scenes[10][1])
    assert left_alone > 3.0


def test_it_follows_a_moving_camera_too():
    scenes = [scene(120 + 3 * n, 90, pan=3.0 * n) for n in range(8)]
    mean, _ = edge_error(run(scenes)[7], scenes[7][1])
    assert mean <= 1.0


def test_it_goes_on_from_each_newer_mask():
    scenes = [scene(90 + 4 * n, 90) for n in range(20)]
    for index, mask in enumerate(run(scenes, every=4)):
        assert edge_error(mask, scenes[index][1])[0] <= 1.0, index


def test_a_mask_always_six_frames_old_ends_where_one_followed_from_the_start_does():
    scenes = [scene(90 + 4 * n, 90) for n in range(14)]
    frames = [as_frame(luma, index) for index, (luma, _) in enumerate(scenes)]
    motion = MotionCompensation()
    for index in range(6, 14):
        old = index - 6
        result = motion.apply(frames[old], frames[index], segmentation(old, scenes[old][1]))
        assert edge_error(result.masks["person"], scenes[index][1])[0] <= 1.2


def test_a_frame_shown_again_takes_its_newer_mask():
    scenes = [scene(90 + 4 * n, 90) for n in range(5)]
    frames = [as_frame(luma, index) for index, (luma, _) in enumerate(scenes)]
    motion = MotionCompensation()
    for index in range(5):
        motion.apply(frames[0], frames[index], segmentation(0, scenes[0][1]))
    again = motion.apply(frames[3], frames[4], segmentation(3, scenes[3][1]))
    assert edge_error(again.masks["person"], scenes[4][1])[0] <= 1.0


def test_frames_may_be_missing():
    scenes = {n: scene(90 + 3 * n, 90) for n in (0, 2, 5, 6)}
    frames = {n: as_frame(luma, n) for n, (luma, _) in scenes.items()}
    motion = MotionCompensation()
    motion.apply(frames[0], frames[2], segmentation(0, scenes[0][1]))
    # The mask's own frame was never shown.
    result = motion.apply(frames[5], frames[6], segmentation(5, scenes[5][1]))
    assert edge_error(result.masks["person"], scenes[6][1])[0] <= 1.0


def test_every_mask_and_the_class_map_move():
    (first, mask), (second, truth) = scene(100, 90), scene(108, 90)
    class_map = (mask > 0.5).astype(np.int32) * 300
    given = Segmentation(0, ("wall", "person"), class_map, {"wall": 1 - mask, "person": mask})
    out = MotionCompensation().apply(as_frame(first, 0), as_frame(second, 1), given)
    assert edge_error(out.masks["person"], truth)[0] <= 1.0
    assert np.allclose(out.masks["wall"] + out.masks["person"], 1.0, atol=1e-3)
    assert all(m.dtype == np.float32 and m.shape == mask.shape for m in out.masks.values())
    assert out.class_map is not None
    assert out.class_map.dtype == np.int32
    assert set(np.unique(out.class_map)) == {0, 300}
    assert edge_error((out.class_map > 0).astype(np.float32), truth)[0] <= 1.0
    assert out.labels == given.labels


def test_masks_of_any_shape_cover_the_whole_picture():
    (first, mask), (second, truth) = scene(100, 90), scene(110, 90)
    square = cv2.resize(mask, (256, 256), interpolation=cv2.INTER_LINEAR)
    out = MotionCompensation().apply(
        as_frame(first, 0), as_frame(second, 1), segmentation(0, square)
    )
    back = cv2.resize(out.masks["person"], SMALL, interpolation=cv2.INTER_AREA)
    assert edge_error(back, truth)[0] <= 1.0


@pytest.mark.parametrize("disturbance", ["nothing", "noise", "flicker", "dimming"])
def test_nothing_moves_before_a_camera_that_stands_still(disturbance):
    luma, mask = scene(150, 90)
    rng = np.random.default_rng(3)

    def shot(n):
        if disturbance == "noise":
            return luma + rng.normal(0, 12, luma.shape)
        if disturbance == "flicker":
            return luma * (1.25 if n % 2 else 0.75)
        return luma * (1 - 0.05 * n) if disturbance == "dimming" else luma

    for n, moved in enumerate(run([(shot(n), mask) for n in range(11)])):
        assert edge_error(moved, mask)[1] <= 1.0, n
        assert float(np.abs(moved - mask).mean()) < 0.003, n


@pytest.mark.parametrize("disturbance", ["noise", "flicker"])
def test_motion_is_found_through_noise_and_flicker(disturbance):
    rng = np.random.default_rng(3)
    scenes = []
    for n in range(7):
        luma, mask = scene(100 + 5 * n, 90)
        if disturbance == "noise":
            luma = luma + rng.normal(0, 8, luma.shape)
        else:
            luma = luma * (1.15 if n % 2 else 0.9)
        scenes.append((luma, mask))
    moved = run(scenes)
    for n in range(1, 7):
        assert edge_error(moved[n], scenes[n][1])[0] <= 1.0, n


def test_motion_that_cannot_be_explained_leaves_the_mask_alone():
    # A part of the picture becomes another one, too little for a cut; the person is in that part.
    before = texture(1, low=20, high=230)
    after = before.copy()
    after[130:] = texture(7, low=20, high=230)[130:]
    mask = np.zeros(SMALL[::-1], np.float32)
    mask[66:86, 40:120] = 1.0
    moved = run([(before, mask), (after, mask)])[1]
    cuts = SceneCutDetector()
    assert not any(cuts.is_cut(as_frame(luma, 0).video) for luma in (before, after))
    assert float(np.abs(moved - mask).mean()) < 0.02


def test_a_mask_from_before_a_scene_cut_is_of_no_use_until_there_is_one_of_the_new_scene():
    before, mask = scene(100, 90)
    after = [255 - scene(200 - 5 * n, 90)[0] for n in range(4)]
    frames = [as_frame(luma, n) for n, luma in enumerate([before, before, *after])]
    given = segmentation(0, mask)
    motion = MotionCompensation()
    motion.apply(frames[0], frames[1], given)
    for frame in frames[2:5]:
        assert motion.apply(frames[0], frame, given) is None
    newer = segmentation(4, mask)
    assert motion.apply(frames[4], frames[5], newer) is not newer


def test_it_begins_with_a_cut_between_the_mask_and_the_frame():
    (one, mask), other = scene(100, 90), texture(9)
    given = segmentation(0, mask)
    assert MotionCompensation().apply(as_frame(one, 0), as_frame(other, 7), given) is None


def test_the_frame_of_the_mask_itself_costs_no_copy():
    luma, mask = scene(100, 90)
    given = segmentation(0, mask)
    motion = MotionCompensation()
    frame = as_frame(luma, 0)
    assert motion.apply(frame, frame, given) is given
    assert motion.apply(frame, as_frame(luma, 1), given) is given


@pytest.mark.parametrize(
    "pixel_format", ["yuv420p", "yuv444p", "nv12", "gray", "yuv420p10le", "p010le", "gray12le"]
)
def test_formats_with_a_luma_plane(pixel_format):
    scenes = [scene(100 + 5 * n, 90) for n in range(4)]
    moved = run(scenes, pixel_format=pixel_format)
    assert edge_error(moved[3], scenes[3][1])[0] <= 1.0


@pytest.mark.parametrize("pixel_format", ["rgb24", "bgr0", "rgba", "yuyv422", "gbrp"])
def test_formats_without_a_luma_plane_are_left_alone(pixel_format):
    _, mask = scene(100, 90)
    video = av.VideoFrame(64, 48, pixel_format)
    given = segmentation(0, mask)
    first, second = Frame(video, 0, 0.0), Frame(video, 1, 0.0)
    assert MotionCompensation().apply(first, second, given) is given


@pytest.mark.parametrize("size", [(321, 181), (181, 321), (1281, 719), (33, 47), (640, 640)])
def test_odd_sizes(size):
    width, height = size
    step = 0.02 * width
    scenes = [scene(0.4 * width + step * n, height / 2, size=size) for n in range(4)]
    moved = run(scenes)
    before = float(np.abs(scenes[0][1] - scenes[3][1]).mean())
    assert float(np.abs(moved[3] - scenes[3][1]).mean()) < 0.6 * before


@pytest.mark.parametrize("size", [(16, 16), (2, 2), (15, 400), (1920, 40), (17, 16)])
def test_tiny_and_narrow_frames_pass(size):
    mask = np.full((8, 8), 0.25, np.float32)
    rng = np.random.default_rng(0)
    first = rng.uniform(0, 255, size[::-1])
    frames = [as_frame(np.clip(first + 4 * n, 0, 255), n) for n in range(3)]
    motion = MotionCompensation()
    for frame in frames:
        out = motion.apply(frames[0], frame, segmentation(0, mask)).masks["person"]
        assert out.shape == mask.shape
        assert np.allclose(out, 0.25)


def test_a_mask_from_before_a_change_of_shape_is_of_no_use_and_motion_goes_on_after_it():
    wide, mask = scene(100, 90)
    tall = [scene(80 + 4 * n, 160, size=(180, 320)) for n in range(3)]
    frames = [as_frame(wide, 0), *(as_frame(luma, n + 1) for n, (luma, _) in enumerate(tall))]
    motion = MotionCompensation()
    motion.apply(frames[0], frames[0], segmentation(0, mask))
    old = segmentation(0, mask)
    assert motion.apply(frames[0], frames[1], old) is None
    result = motion.apply(frames[1], frames[3], segmentation(1, tall[0][1]))
    assert edge_error(result.masks["person"], tall[2][1])[0] <= 1.0


def test_a_change_of_scale_alone_does_not_stop_it():
    (first, mask), (_, truth) = scene(100, 90), scene(110, 90)
    half = cv2.resize(scene(110, 90)[0], (WIDTH // 2, HEIGHT // 2), interpolation=cv2.INTER_AREA)
    out = MotionCompensation().apply(as_frame(first, 0), as_frame(half, 1), segmentation(0, mask))
    assert edge_error(out.masks["person"], truth)[0] <= 1.0


def test_a_mask_older_than_sixty_frames_stays_and_what_is_kept_is_bounded():
    luma, mask = scene(100, 90)
    first, given = as_frame(luma, 0), segmentation(0, mask)
    motion = MotionCompensation()
    for index in range(1, 140):
        frame = as_frame(np.roll(luma, 4 if index > 60 else 0, axis=1), index)
        out = motion.apply(first, frame, given)
        assert index <= 60 or out is given
    assert len(motion._seen) <= 61


def test_a_stream_that_begins_again_is_followed_again():
    scenes = [scene(90 + 4 * n, 90) for n in range(4)]
    frames = [as_frame(luma, index) for index, (luma, _) in enumerate(scenes)]
    motion = MotionCompensation()
    motion.apply(frames[2], frames[3], segmentation(2, scenes[2][1]))
    out = motion.apply(frames[0], frames[1], segmentation(0, scenes[0][1]))
    assert edge_error(out.masks["person"], scenes[1][1])[0] <= 1.0
    motion.reset()
    out = motion.apply(frames[0], frames[3], segmentation(0, scenes[0][1]))
    assert edge_error(out.masks["person"], scenes[3][1])[0] <= 1.0


def test_no_masks_are_no_trouble():
    (first, _), (second, _) = scene(100, 90), scene(110, 90)
    given = Segmentation(0, ("person",))
    out = MotionCompensation().apply(as_frame(first, 0), as_frame(second, 1), given)
    assert not out.masks
    assert out.class_map is None


@pytest.mark.parametrize("size", [0, 31, 641, 160.0, True, "160"])
def test_sizes_out_of_bounds_are_refused(size):
    with pytest.raises(ConfigError, match="size must be"):
        MotionCompensation(size=size)


@pytest.mark.parametrize("follow", [True, False])
@pytest.mark.parametrize(
    "pixel_format", ["yuv420p", "rgb24", "bgr0", "gbrp", "gbrp10le", "yuyv422"]
)
def test_a_cut_is_seen_in_every_format_and_without_following(pixel_format, follow):
    motion = MotionCompensation(follow=follow)
    shots = [texture(seed, low=0, high=255) for seed in (5, 5, 6, 6)]
    frames = [
        Frame(as_frame(luma, n, "gray").video.reformat(format=pixel_format), n, 0.0)
        for n, luma in enumerate(shots)
    ]
    mask = np.zeros((9, 16), np.float32)
    used = [motion.apply(frames[0], frame, segmentation(0, mask)) for frame in frames]
    assert [item is None for item in used] == [False, False, True, True]
    assert motion.apply(frames[2], frames[3], segmentation(2, mask)) is not None


def test_cuts_between_frames_that_were_not_seen_count():
    # A, then B and A again while everything was hidden; the mask is one of B.
    motion = MotionCompensation()
    mask = np.zeros((9, 16), np.float32)
    first, other, last = (as_frame(texture(seed), n) for seed, n in ((5, 0), (6, 10), (5, 20)))
    assert motion.apply(first, first, segmentation(0, mask)) is not None
    assert motion.apply(other, last, segmentation(10, mask)) is None


def test_without_following_masks_stay_where_they_are():
    scenes = [scene(100 + 5 * n, 90) for n in range(4)]
    for mask in run(scenes, motion=MotionCompensation(follow=False)):
        assert np.array_equal(mask, scenes[0][1])
