"""Quantised tensors: what their integers stand for.

A real value is `scale * (integer - zero_point)`, with one scale and zero point for a tensor or
one for each slice along an axis.

Source: the TensorFlow Lite schema, version 3 (`QuantizationParameters`), and its 8-bit
quantisation specification.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamseg.convert._flatbuffer import Table
from streamseg.errors import ModelError

FLOAT32, FLOAT16, INT32, UINT8, INT64, INT8 = 0, 1, 2, 3, 4, 9
_LIMITS = {UINT8: (0, 255), INT8: (-128, 127), INT32: (-(2**31), 2**31 - 1)}
"""Of the integers, by type code."""
_MAX_SCALES = 1 << 16
"""One for each output channel at most."""


@dataclass(frozen=True)
class Quantization:
    """How a tensor's integers become real values.

    Attributes:
        scales: One, or one for each slice along `axis`; above 0.
        zero_points: As many.
        axis: Counts from 0; without meaning for one scale.
    """

    scales: tuple[float, ...]
    zero_points: tuple[int, ...]
    axis: int

    def limits(self, type_code: int) -> tuple[float, float]:
        """Return the lowest and the highest integer of a tensor, less its one zero point."""
        low, high = _LIMITS[type_code]
        return float(low - self.zero_points[0]), float(high - self.zero_points[0])

    def to_float(self, integers: NDArray[Any], *, scaled: bool) -> NDArray[np.float32]:
        """Return the real values of an array of integers of any shape.

        Args:
            integers: As they stand in the file.
            scaled: Whether to multiply; otherwise only the zero points are taken off.
        """
        scales = np.array(self.scales, np.float64)
        zero_points = np.array(self.zero_points, np.float64)
        if len(scales) > 1:
            shape = [1] * integers.ndim
            shape[self.axis] = -1
            scales, zero_points = scales.reshape(shape), zero_points.reshape(shape)
        values = integers - zero_points
        return np.asarray(scales * values if scaled else values, np.float32)


def read_quantization(
    table: Table | None, shape: tuple[int, ...], type_code: int
) -> Quantization | None:
    """Read how a tensor is quantised; None where it is not.

    Args:
        table: The tensor's `QuantizationParameters`, which float tensors may have too.
        shape: Of the tensor.
        type_code: Of the tensor.

    Raises:
        ModelError: It is quantised in a way that does not fit the tensor.
    """
    if table is None or type_code not in _LIMITS:
        return None
    scales: tuple[float, ...] = table.numbers(2, "f", _MAX_SCALES)
    if not scales:
        return None
    zero_points = table.numbers(3, "q", _MAX_SCALES) or (0,) * len(scales)
    axis = table.number(6, "i")
    if table.number(4, "B"):
        raise ModelError("a tensor has a quantisation of its own kind: use another export")
    fits = len(scales) == 1 or (0 <= axis < len(shape) and shape[axis] == len(scales))
    if not fits or len(zero_points) != len(scales):
        raise ModelError(
            f"file is damaged: a tensor of shape {list(shape)} has {len(scales)} scales and "
            f"{len(zero_points)} zero points for axis {axis}: fetch the file again"
        )
    low, high = _LIMITS[type_code]
    if not all(math.isfinite(s) and 0 < s < 1e6 for s in scales) or not all(
        low <= z <= high for z in zero_points
    ):
        raise ModelError(
            "file is damaged: a scale or a zero point of a tensor is out of range: "
            "fetch the file again"
        )
    return Quantization(scales, zero_points, axis)
