"""Synthetic frames and masks for the tests of effects."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np

from streamseg.frames import Colour, Frame, plane_view
from streamseg.segmentation import Segmentation

BT709 = Colour(1, 1, 1, 1)
LABELS = ("SELFIE", "BACKGROUND")


def picture(pixel_format="yuv420p", width=96, height=64, *, seed=0, colour=BT709) -> av.VideoFrame:
    """A noisy picture; the same one for the same seed."""
    rng = np.random.default_rng(seed)
    video = av.VideoFrame(width, height, pixel_format)
    video.colorspace, video.color_range = colour.space, colour.range
    video.color_primaries, video.color_trc = colour.primaries, colour.transfer
    for plane in video.planes:
        data = np.frombuffer(plane, np.uint8)
        if pixel_format.endswith("le") or pixel_format.endswith("be"):
            bits = max(part.bits for part in video.format.components)
            top = (1 << bits) - 1 if not pixel_format.startswith("p0") else 65535
            kind = ">u2" if pixel_format.endswith("be") else "<u2"
            data.view(kind)[:] = rng.integers(0, top, data.size // 2, endpoint=True)
        else:
            data[:] = rng.integers(0, 255, data.size, endpoint=True)
    return video


def frame(video=None, *, pts=1234, index=7, **options) -> Frame:
    video = picture(**options) if video is None else video
    video.pts, video.time_base, video.duration = pts, Fraction(1, 12288), 512
    return Frame(video, index, 3.5)


def mask_left(width=32, height=32, share=0.5):
    """1 in the left part, 0 elsewhere."""
    mask = np.zeros((height, width), np.float32)
    mask[:, : int(width * share)] = 1.0
    return mask


def segmentation(mask, label="SELFIE", labels=LABELS) -> Segmentation:
    return Segmentation(7, labels, None, {label: mask})


def planes(video):
    return [plane_view(video, number).copy() for number in range(len(video.planes))]


def flat(rgb_yuv, width=96, height=64, pixel_format="yuv420p") -> av.VideoFrame:
    """A picture of one colour, given as samples."""
    video = av.VideoFrame(width, height, pixel_format)
    video.colorspace, video.color_range = 1, 1
    for number, value in enumerate(rgb_yuv[: len(video.planes)]):
        plane_view(video, number)[:] = value
    return video
