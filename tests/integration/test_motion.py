"""Masks moved along real clips, compared with what the model itself says of each frame."""

from __future__ import annotations

import av
import numpy as np
import pytest

from streamseg import load_segmenter
from streamseg.frames import Frame
from streamseg.masks.motion import MotionCompensation

pytestmark = pytest.mark.integration

# Where people move: the first frame, and frames to look at.
CLIPS = {"03_skateboarder": (40, 48), "05_default_juggle": (60, 48), "06_pingpong": (80, 48)}
LAGS = (1, 3, 10)


def agreement(got, want):
    inside, wanted = got > 0.5, want > 0.5
    return np.count_nonzero(inside & wanted) / max(1, np.count_nonzero(inside | wanted))


@pytest.mark.anyio
@pytest.mark.parametrize("name", CLIPS)
async def test_moved_masks_are_nearer_to_the_models_own_than_old_ones(assets, name):
    begin, count = CLIPS[name]
    pairs = []
    async with load_segmenter("selfie") as segmenter:
        with av.open(str(assets / "media" / f"{name}.mp4")) as container:
            for index, video in enumerate(container.decode(video=0)):
                if index >= begin + count:
                    break
                if index >= begin:
                    frame = Frame(video, index, 0.0)
                    pairs.append((frame, await segmenter.segment(frame)))
    for lag in LAGS:
        motion = MotionCompensation()
        for frame, own in pairs[:lag]:  # a pipeline shows it every frame
            motion.apply(frame, frame, own)
        iou, far = [], []
        for (made_for, old), (frame, own) in zip(pairs, pairs[lag:], strict=False):
            moved = motion.apply(made_for, frame, old)
            before, after, want = (next(iter(item.masks.values())) for item in (old, moved, own))
            assert moved.index == made_for.index
            iou.append((agreement(before, want), agreement(after, want)))
            far.append((np.abs(before - want).mean(), np.abs(after - want).mean()))
        (iou_before, iou_after), (far_before, far_after) = np.mean(iou, 0), np.mean(far, 0)
        assert iou_after > iou_before + 0.02, (lag, iou_before, iou_after)
        assert far_after < 0.85 * far_before, (lag, far_before, far_after)


@pytest.mark.anyio
async def test_a_mask_from_before_a_cut_between_two_clips_is_of_no_use(assets):
    frames = []
    for name in ("06_pingpong", "05_default_juggle"):
        with av.open(str(assets / "media" / f"{name}.mp4")) as container:
            for index, video in enumerate(container.decode(video=0)):
                if index == 4:
                    break
                frames.append(Frame(video, len(frames), 0.0))
    async with load_segmenter("selfie") as segmenter:
        old = await segmenter.segment(frames[1])
    motion = MotionCompensation()
    assert motion.apply(frames[1], frames[3], old) is not old
    for frame in frames[4:]:
        assert motion.apply(frames[1], frame, old) is None
