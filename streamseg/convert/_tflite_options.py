"""Options that several operators of TensorFlow Lite have: activation, strides, padding."""

import math

import torch
from torch import Tensor

from streamseg.convert._tflite_arithmetic import RELU, Bounds
from streamseg.convert._tflite_builder import ADVICE
from streamseg.convert._tflite_schema import Operator
from streamseg.errors import ModelError

SAME, VALID = 0, 1
_MAX_STEP = 1 << 12
"""Bound of strides, dilations, kernel and block sizes."""
_ACTIVATIONS: dict[int, Bounds | None] = {0: None, 1: RELU, 2: (-1.0, 1.0), 3: (0.0, 6.0)}


def activation_of(op: Operator, field: int) -> Bounds | None:
    """Return the bounds of a fused activation."""
    code = op.option(field, "b")
    if code not in _ACTIVATIONS:
        raise ModelError(f"{op} has the fused activation {code}, expected 0 to 3: {ADVICE}")
    return _ACTIVATIONS[code]


def step_of(op: Operator, field: int, default: int = 0) -> int:
    """Return a stride, a dilation, or the size of a kernel or block."""
    value = op.option(field, "i", default)
    if not 1 <= value <= _MAX_STEP:
        raise ModelError(f"{op} has a stride, dilation, block or kernel of {value}: {ADVICE}")
    return value


def pads_of(op: Operator, size: int, kernel: int, stride: int, dilation: int) -> tuple[int, int]:
    """Return the pixels to add before and after one axis; the first option is the padding.

    Source: TensorFlow's definition of the paddings SAME and VALID.
    """
    if not is_same(op):
        return 0, 0
    covered = (math.ceil(size / stride) - 1) * stride + (kernel - 1) * dilation + 1
    total = max(covered - size, 0)
    return total // 2, total - total // 2


def is_same(op: Operator) -> bool:
    """Tell whether the padding, the first option, is SAME and not VALID."""
    mode = op.option(0, "b")
    if mode not in (SAME, VALID):
        raise ModelError(f"{op} has the padding {mode}, expected SAME or VALID: {ADVICE}")
    return mode == SAME


def plain(weight: Tensor) -> Tensor:
    """Return a copy whose strides say NCHW.

    `contiguous` does not do: it leaves the strides of axes of size 1 as they are, and
    ExecuTorch reads those as NHWC.
    """
    return weight.clone(memory_format=torch.contiguous_format)
