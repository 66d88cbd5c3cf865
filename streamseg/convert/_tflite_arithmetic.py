"""The arithmetic of quantised operators, in float32.

A quantised tensor is carried as its integers less their zero point, as float32: sums of their
products stay whole numbers, so that a result is rounded as an integer kernel rounds it, not only
nearly so. That matters. Such networks are chaotic where two classes are about equally likely: with
real numbers instead, single pixels of the first layers that are rounded the other way change the
mask of DeepLab v3's faint classes by a fifth.

What is matched is LiteRT's default, XNNPACK: one multiplication in float32 after the sum, rounded
half to even; half up where it interpolates or converts. Its older kernels round twice and have
masks of their own.

Source: XNNPACK's reference operators for qu8, qs8 and qc8w.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

Bounds = tuple[float, float]
"""Lowest and highest value."""
RELU: Bounds = (0.0, math.inf)

_CONVOLUTIONS = {
    "CONV_2D",
    "DEPTHWISE_CONV_2D",
    "TRANSPOSE_CONV",
    "CUSTOM Convolution2DTransposeBias",
}
_EXACT = {
    "BATCH_TO_SPACE_ND",
    "BROADCAST_TO",
    "CONCATENATION",
    "DEPTH_TO_SPACE",
    "DEQUANTIZE",
    "EXPAND_DIMS",
    "MAX_POOL_2D",
    "MIRROR_PAD",
    "PAD",
    "QUANTIZE",
    "REDUCE_MAX",
    "REDUCE_MIN",
    "RELU",
    "RESHAPE",
    "RESIZE_NEAREST_NEIGHBOR",
    "SLICE",
    "SPACE_TO_BATCH_ND",
    "SPACE_TO_DEPTH",
    "SPLIT",
    "SPLIT_V",
    "SQUEEZE",
    "STRIDED_SLICE",
    "TILE",
    "TRANSPOSE",
}
"""Operators of which a times the input gives a times the result, and whole numbers whole ones."""
_PROPORTIONAL = _EXACT | {"AVERAGE_POOL_2D", "MEAN", "RESIZE_BILINEAR"}
"""Those, and others of which a times the input gives a times the result."""
# Added to a float32 below 2^22 it leaves no bits for fractions, so that the sum is rounded.
_NO_FRACTIONS = 1.5 * 2**23
# Exact halves come out of float32 a little too small.
_HALF_UP = 0.5 + 2**-12


def clamp(value: Tensor, bounds: Bounds | None) -> Tensor:
    """Return the value within bounds, by an operator that is fused with the one before it."""
    if bounds is None:
        return value
    if bounds == RELU:
        return functional.relu(value)
    return functional.hardtanh(value, *bounds)


class Arithmetic(nn.Module):  # type: ignore[misc]  # torch is read without types
    """What an operator's inputs and result are multiplied by, and how the result is rounded.

    Args:
        gains: Of each input.
        gain: Of the result, [1] or [1, C, 1, 1].
        rounding: `even`, `up` (of halves), or none for whole and for real numbers.
        bounds: Of the result.
    """

    def __init__(
        self, gains: Sequence[float], gain: Tensor, rounding: str | None, bounds: Bounds | None
    ) -> None:
        super().__init__()
        self._gains = nn.ParameterList(
            nn.Parameter(torch.tensor([g], dtype=torch.float32), requires_grad=False) for g in gains
        )
        self._scaled_inputs = [g != 1.0 for g in gains]
        self._gain = nn.Parameter(gain, requires_grad=False)
        self._scaled = bool((gain != 1.0).any())
        offset = torch.tensor([_NO_FRACTIONS if rounding == "even" else _HALF_UP])
        self._offset = nn.Parameter(offset, requires_grad=False)
        self._rounding = rounding
        self._bounds = bounds

    def enter(self, values: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return the inputs that the operator's function takes."""
        return tuple(
            value * gain if scaled else value
            for value, gain, scaled in zip(values, self._gains, self._scaled_inputs, strict=True)
        )

    def leave(self, result: Tensor) -> Tensor:
        """Return what the operator gives for its function's result."""
        if self._scaled:
            result = result * self._gain
        if self._rounding == "even":
            result = result + self._offset - self._offset
        elif self._rounding == "up":
            result = torch.floor(result + self._offset)
        return clamp(result, self._bounds)


def arithmetic_for(
    name: str,
    scales: Sequence[float],
    scale: float,
    weight_scales: Tensor | None,
    limits: Bounds | None,
    activation: Bounds | None,
) -> Arithmetic:
    """Return the arithmetic of one operator.

    Args:
        name: Of the operator.
        scales: Of its inputs; 1 for real ones.
        scale: Of its output; 1 for a real one.
        weight_scales: Of its weights, [n], where they are integers.
        limits: Of the output's integers, less their zero point; None for a real output.
        activation: Bounds of the result in real numbers.
    """
    rounding: str | None = "even"
    gains = [1.0] * len(scales)
    if weight_scales is not None and name in _CONVOLUTIONS:
        # In this order XNNPACK rounds it too.
        gain = torch.tensor(scales[0], dtype=torch.float32) * weight_scales
        gain = (gain / torch.tensor(scale, dtype=torch.float32)).reshape(1, -1, 1, 1)
    elif name in _PROPORTIONAL and len(set(scales)) == 1:
        ratio = scales[0] / scale
        if name == "QUANTIZE" and scales[0] != 1.0:
            # XNNPACK's conversion has a multiplier of so many bits.
            ratio, rounding = round(256 * ratio) / 256, "up"
        elif name == "RESIZE_BILINEAR":
            rounding = "up"
        if ratio == 1.0 and name in _EXACT:
            rounding = None
        gain = torch.tensor([ratio], dtype=torch.float32)
    elif name in ("ADD", "SUB") and len(scales) == 2:
        gains, gain = [s / scale for s in scales], torch.ones(1)
    else:
        gains, gain = list(scales), torch.tensor([1.0 / scale], dtype=torch.float32)
    if limits is None:
        return Arithmetic(gains, gain, None, activation)
    low, high = limits
    if activation is not None:
        low = max(low, float(round(activation[0] / scale)))
        if math.isfinite(activation[1]):
            high = min(high, float(round(activation[1] / scale)))
    never_beyond = name in _PROPORTIONAL and activation is None and name != "QUANTIZE"
    same = len(set(scales)) == 1 and scales[0] == scale
    return Arithmetic(
        gains, gain, rounding, None if never_beyond and same else (low, max(low, high))
    )
