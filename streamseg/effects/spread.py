"""Small pictures and masked blurs: the colours of one side of a mask, without the other side's.

``masked_blur`` is a normalised convolution (Knutsson and Westin, "Normalized and Differential
Convolution", CVPR 1993): ``blur(picture * weight) / blur(weight)``. Done on a small picture in
floating point: 8-bit ``premultiply``/``unpremultiply`` filters lose the colours where little weight
remains, and the blur itself costs next to nothing at that size.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import av
import cv2
import numpy as np

from streamseg.effects.planes import Scratch, enlarge, planes_of, shrink

if TYPE_CHECKING:
    import av
    from numpy.typing import NDArray

__all__ = ["enlarge_picture", "masked_blur", "small_picture", "weight_outside"]

_FLOOR = 1e-3


def small_picture(
    video: av.VideoFrame, width: int, height: int, scratch: Scratch | None = None
) -> NDArray[np.float32]:
    """Return all planes of a planar picture, scaled to one small size.

    Returns:
        (height, width, planes) float32 in the picture's own sample values.
    """
    small = [
        shrink(plane, width, height, scratch, number)
        for number, plane in enumerate(planes_of(video))
    ]
    return np.stack(small, axis=2).astype(np.float32)


def weight_outside(amount: NDArray[np.float32], width: int, height: int) -> NDArray[np.float32]:
    """Return where a small picture shows only what an effect is applied to.

    A small pixel on the edge holds a mixture, and masks are seldom tight: the other side is grown
    by one small pixel and everything that touches it weighs next to nothing.

    Args:
        amount: (H, W) float32: 1 where the effect is applied.
        width: Columns of the small picture.
        height: Rows of the small picture.

    Returns:
        (height, width) float32 in [0, 1].
    """
    small = shrink(amount, width, height)
    small = cv2.erode(small, np.ones((3, 3), np.uint8)).reshape(height, width)
    small = np.clip(small * np.float32(2.0) - np.float32(1.0), 0.0, 1.0)
    squared: NDArray[np.float32] = small * small
    return squared


def masked_blur(
    picture: NDArray[np.float32], weight: NDArray[np.float32] | None, sigma: float
) -> NDArray[np.float32]:
    """Blur a small picture with a Gaussian, counting only where there is weight.

    Where no weight is near, the weighted mean of the whole picture shows.

    Args:
        picture: (h, w, planes) float32.
        weight: (h, w) float32 in [0, 1]; None for 1 everywhere.
        sigma: In small pixels.

    Returns:
        (h, w, planes) float32.
    """
    if weight is None or not weight.any():
        return _gauss(picture, sigma)
    # Plane by plane: numpy takes twice as long where the planes lie interleaved.
    share = _gauss(weight, sigma) + np.float32(_FLOOR)
    total = float(weight.sum(dtype=np.float64))
    planes = []
    for plane in cv2.split(picture):
        weighted: NDArray[np.float32] = plane.reshape(weight.shape) * weight
        mean = float(weighted.sum(dtype=np.float64)) / total
        blurred = _gauss(weighted, sigma)
        blurred += np.float32(mean * _FLOOR)
        blurred /= share
        planes.append(blurred)
    out: NDArray[np.float32] = cv2.merge(planes).reshape(picture.shape)
    return out


def enlarge_picture(picture: NDArray[np.float32], target: av.VideoFrame) -> None:
    """Write a small picture, enlarged, into all planes of a picture of ours.

    Args:
        picture: (h, w, planes) float32 in the target's sample values.
        target: Planar YUV or grey with as many planes.
    """
    peak = (1 << target.format.components[0].bits) - 1
    rounded = np.clip(picture + np.float32(0.5), 0, peak)
    for number, plane in enumerate(planes_of(target)):
        small = np.ascontiguousarray(rounded[:, :, number]).astype(plane.dtype)
        enlarge(small, plane, smooth=True)


def _gauss(picture: NDArray[Any], sigma: float) -> NDArray[Any]:
    taps = 2 * math.ceil(3.0 * sigma) + 1  # OpenCV's own choice for floats is 8 sigma
    out = cv2.GaussianBlur(picture, (taps, taps), sigma, borderType=cv2.BORDER_REPLICATE)
    return np.asarray(out).reshape(picture.shape)
