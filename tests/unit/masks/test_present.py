"""Filters and motion with many classes, few of which are there, and with objects."""

from __future__ import annotations

import av
import cv2
import numpy as np

from streamseg.abc import MaskFilter
from streamseg.frames import Frame, luma_plane
from streamseg.masks.motion import MotionCompensation
from streamseg.masks.present import PresentOnly
from streamseg.masks.refinement import EdgeRefinement
from streamseg.masks.smoothing import TemporalSmoothing
from streamseg.segmentation import FrameInstance, Segmentation


class Noting(MaskFilter):
    """Doubles the size of masks and notes whose it saw."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, ...]] = []
        self.resets = 0

    def apply(self, frame: Frame, segmentation: Segmentation) -> Segmentation:
        self.seen.append(tuple(segmentation.masks))
        return segmentation.with_masks(
            {label: np.kron(mask, np.ones((2, 2), np.float32)) for label, mask in
             segmentation.masks.items()}
        )  # fmt: skip

    def reset(self) -> None:
        self.resets += 1


def picture(shift=0, index=0, width=320, height=180) -> Frame:
    rng = np.random.default_rng(1)
    texture = cv2.resize(
        rng.integers(0, 255, (12, 20), np.uint8), (width, height), interpolation=cv2.INTER_CUBIC
    )
    video = av.VideoFrame(width, height, "gray")
    luma_plane(video)[:] = np.roll(texture, shift, axis=1)
    return Frame(video, index, 0.0)


def segmentation(index=0, **masks) -> Segmentation:
    return Segmentation(index, tuple(masks), None, masks)


def some(value, size=8):
    return np.full((size, size), value, np.float32)


def test_only_what_is_there_is_filtered_and_all_have_one_size_and_their_order():
    noting = Noting()
    out = PresentOnly(noting).apply(
        picture(), segmentation(CAT=some(0.001), DOG=some(0.8), COW=some(0.0))
    )
    assert noting.seen == [("DOG",)]
    assert list(out.masks) == ["CAT", "DOG", "COW"]
    assert {mask.shape for mask in out.masks.values()} == {(16, 16)}
    assert out.masks["CAT"].max() == 0.0
    assert out.masks["DOG"].min() == np.float32(0.8)


def test_nothing_there_and_one_class_alone():
    noting = Noting()
    out = PresentOnly(noting).apply(picture(), segmentation(CAT=some(0.0), DOG=some(0.0)))
    assert noting.seen == [()]
    assert {mask.shape for mask in out.masks.values()} == {(8, 8)}
    PresentOnly(noting).apply(picture(), segmentation(CAT=some(0.0)))
    assert noting.seen[-1] == ("CAT",)


def test_what_is_no_number_stays_to_be_seen():
    masks = {"CAT": some(np.nan), "DOG": some(0.9)}
    out = PresentOnly(TemporalSmoothing()).apply(picture(), segmentation(**masks))
    assert np.isnan(out.masks["CAT"]).all()


def test_it_is_applied_when_its_filter_is():
    noting = Noting()
    assert PresentOnly(EdgeRefinement()).each_frame
    assert not PresentOnly(TemporalSmoothing()).each_frame
    PresentOnly(noting).reset()
    assert noting.resets == 1


def test_masks_of_objects_move_with_the_picture_and_empty_ones_cost_nothing():
    def band(left):
        mask = np.zeros((90, 160), np.float32)
        mask[:, left : left + 30] = 1.0
        return mask

    nothing = np.zeros((90, 160), np.float32)
    masks = {"PERSON": np.maximum(band(20), band(90)), "DOG": nothing}
    instances = tuple(
        FrameInstance("PERSON", 0.9, (left / 160, 0.0, (left + 30) / 160, 1.0), band(left))
        for left in (20, 90)
    )
    given = Segmentation(0, ("PERSON", "DOG"), None, masks, instances=instances)
    motion, first = MotionCompensation(), picture()
    motion.apply(first, first, given)
    moved = motion.apply(first, picture(shift=8, index=1), given)
    assert moved is not None
    assert moved.masks["DOG"] is nothing
    for before, after in zip((20, 90), moved.instances, strict=True):
        columns = np.flatnonzero(after.mask[45] > 0.5)
        assert (
            abs(columns[0] - (before + 4)) <= 1
        )  # half of the picture's 8: masks are half as wide
        assert after.box == (before / 160, 0.0, (before + 30) / 160, 1.0)
    assert (
        np.abs(np.maximum(*(each.mask for each in moved.instances)) - moved.masks["PERSON"]).max()
        < 1e-5
    )
