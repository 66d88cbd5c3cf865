"""Shaping: from a probability to how much of a pixel belongs to the subject.

``shape_mask`` is where ``threshold`` and ``feather`` act. It follows the sum over the subject's
labels, so that two people-like classes that share a pixel do not both lose it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import av  # noqa: F401 - before cv2, see tests/unit/test_imports.py
import cv2
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["lowest_covered", "shape_mask"]

_HALF_RAMP = 0.25


def shape_mask(mask: NDArray[np.float32], threshold: float, feather: float) -> NDArray[np.float32]:
    """Turn probabilities into coverage.

    Coverage is a smooth step (``3x^2 - 2x^3``) from 0 at ``threshold - w`` to 1 at
    ``threshold + w``, with ``w = min(0.25, threshold, 1 - threshold)``: 0 at the threshold's lower
    side, 1/2 on it, never decreasing with the probability, never increasing with the threshold,
    and 0 stays 0, 1 stays 1. It is then smoothed by a Gaussian whose sigma is a quarter of the
    feather, so that a hard edge becomes a ramp about as wide as the feather, centred where it was.

    Args:
        mask: (H, W) float32 in [0, 1].
        threshold: In (0, 1).
        feather: Width of the ramp in percent of the shorter side; 0 leaves the edge as it is.

    Returns:
        (H, W) float32 in [0, 1], new.
    """
    half = _half_ramp(threshold)
    out: NDArray[Any] = np.multiply(mask, np.float32(0.5 / half), dtype=np.float32)
    out -= np.float32((threshold - half) * 0.5 / half)
    np.clip(out, 0.0, 1.0, out=out)
    square = out * out
    out *= np.float32(-2.0)
    out += np.float32(3.0)
    out *= square
    sigma = feather / 400.0 * min(mask.shape)
    if sigma > 0.2:
        out = cv2.GaussianBlur(out, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)
        out = out.reshape(mask.shape)
    return np.clip(out, 0.0, 1.0, out=out)


def lowest_covered(threshold: float) -> float:
    """Return the probability up to which ``shape_mask`` gives no coverage at this threshold."""
    return threshold - _half_ramp(threshold)


def _half_ramp(threshold: float) -> float:
    return min(_HALF_RAMP, threshold, 1.0 - threshold)
