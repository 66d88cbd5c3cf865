"""The operators of TensorFlow Lite that a rebuilt graph can have, as torch functions.

Source: the reference kernels of TensorFlow Lite, and MediaPipe's for its own operator.
"""

import math
import struct
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from streamseg.convert._tflite_arithmetic import RELU, Bounds
from streamseg.convert._tflite_builder import (
    ADVICE,
    Builder,
    Step,
    expect_inputs,
)
from streamseg.convert._tflite_schema import CUSTOM_PREFIX, Operator
from streamseg.errors import ModelError

_SAME, _VALID = 0, 1
# The padding enumeration of TensorFlow Lite's C interface, which custom operators use.
_C_SAME, _C_VALID = 1, 2
_MAX_STEP = 1 << 12
"""Bound of strides, dilations and kernel sizes."""

_ACTIVATIONS: dict[int, Bounds | None] = {0: None, 1: RELU, 2: (-1.0, 1.0), 3: (0.0, 6.0)}
ELEMENTWISE: dict[str, Callable[[Tensor], Tensor]] = {
    "RELU": functional.relu,
    "RELU6": lambda x: functional.hardtanh(x, 0.0, 6.0),
    "HARD_SWISH": functional.hardswish,
    "LOGISTIC": torch.sigmoid,
    # Values are real numbers here, whatever integers stand for them.
    "QUANTIZE": lambda x: x,
    "DEQUANTIZE": lambda x: x,
}


def _activation(op: Operator, field: int) -> Bounds | None:
    code = op.option(field, "b")
    if code not in _ACTIVATIONS:
        raise ModelError(f"{op} has the fused activation {code}, expected 0 to 3: {ADVICE}")
    return _ACTIVATIONS[code]


def _step_option(op: Operator, field: int, default: int = 0) -> int:
    value = op.option(field, "i", default)
    if not 1 <= value <= _MAX_STEP:
        raise ModelError(f"{op} has a stride, dilation or kernel of {value}: {ADVICE}")
    return value


def _pads(op: Operator, size: int, kernel: int, stride: int, dilation: int) -> tuple[int, int]:
    """Return the pixels to add before and after one axis.

    Source: TensorFlow's definition of the paddings SAME and VALID.
    """
    mode = op.option(0, "b")
    if mode == _VALID:
        return 0, 0
    if mode != _SAME:
        raise ModelError(f"{op} has the padding {mode}, expected SAME or VALID: {ADVICE}")
    covered = (math.ceil(size / stride) - 1) * stride + (kernel - 1) * dilation + 1
    total = max(covered - size, 0)
    return total // 2, total - total // 2


def _plain(weight: Tensor) -> Tensor:
    """Return a copy whose strides say NCHW.

    `contiguous` does not do: it leaves the strides of axes of size 1 as they are, and
    ExecuTorch reads those as NHWC.
    """
    return weight.clone(memory_format=torch.contiguous_format)


def _convolution(builder: Builder, op: Operator, *, depthwise: bool) -> Step:
    expect_inputs(op, 3)
    source = builder.computed(op.inputs[0], op)
    _, channels, height, width = builder.nchw(source, op)
    kernel, bias, scales = builder.weights(op, source, axis=3 if depthwise else 0)
    shift = 1 if depthwise else 0  # The depthwise table has a multiplier before the activation.
    stride = _step_option(op, 2), _step_option(op, 1)
    dilation = _step_option(op, 5 + shift, 1), _step_option(op, 4 + shift, 1)
    if depthwise:
        weight = kernel.permute(3, 0, 1, 2)  # [1, kh, kw, C * multiplier]
        groups = channels
    else:
        weight = kernel.permute(0, 3, 1, 2)  # [out, kh, kw, C / groups]
        groups = max(channels // kernel.shape[3], 1)
    top, bottom = _pads(op, height, kernel.shape[1], stride[0], dilation[0])
    left, right = _pads(op, width, kernel.shape[2], stride[1], dilation[1])
    even = top == bottom and left == right

    def convolve(image: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        if not even:
            image = functional.pad(image, (left, right, top, bottom))
        padding = (top, left) if even else (0, 0)
        return functional.conv2d(image, weight, bias, stride, padding, dilation, groups)

    weights = _plain(weight), bias
    activation = _activation(op, 3 + shift)
    return Step(convolve, [source], op.outputs[0], weights, activation, scales)


def _conv_2d(builder: Builder, op: Operator) -> Step:
    return _convolution(builder, op, depthwise=False)


def _depthwise_conv_2d(builder: Builder, op: Operator) -> Step:
    return _convolution(builder, op, depthwise=True)


def _transposed_convolution(builder: Builder, op: Operator) -> Step:
    """MediaPipe's own operator: a transposed convolution that has a bias.

    Source: MediaPipe's `Convolution2DTransposeBias`; its options are three int32: padding,
    horizontal and vertical stride. The kernel is [out, kh, kw, in].
    """
    expect_inputs(op, 3)
    source = builder.computed(op.inputs[0], op)
    kernel, bias, scales = builder.weights(op, source, axis=0)
    if len(op.custom_options) < 12:
        raise ModelError(f"{op} has {len(op.custom_options)} bytes of options, expected 12")
    padding, stride_x, stride_y = struct.unpack_from("<3i", op.custom_options)
    # Kernel equal to stride: no pixel is written twice, so both paddings crop nothing.
    if padding not in (_C_SAME, _C_VALID) or (stride_y, stride_x) != tuple(kernel.shape[1:3]):
        raise ModelError(
            f"{op} has padding {padding}, stride {stride_y}x{stride_x} and kernel "
            f"{kernel.shape[1]}x{kernel.shape[2]}, expected kernel = stride: {ADVICE}"
        )

    def convolve(image: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return functional.conv_transpose2d(image, weight, bias, stride=(stride_y, stride_x))

    weights = _plain(kernel.permute(3, 0, 1, 2)), bias
    return Step(convolve, [source], op.outputs[0], weights, None, scales)


def _average_pool(builder: Builder, op: Operator) -> Step:
    expect_inputs(op, 1)
    source = builder.computed(op.inputs[0], op)
    _, _, height, width = builder.nchw(source, op)
    stride = _step_option(op, 2), _step_option(op, 1)
    kernel = _step_option(op, 4), _step_option(op, 3)
    activation = _activation(op, 5)
    pads = _pads(op, height, kernel[0], stride[0], 1), _pads(op, width, kernel[1], stride[1], 1)
    if any(before != after for before, after in pads):
        raise ModelError(f"{op} needs uneven padding {pads}, which is not supported: {ADVICE}")
    if kernel == (height, width) and op.option(0, "b") == _VALID:
        # The whole picture: a mean is the same and has a faster kernel.
        return Step(_spatial_mean, [source], op.outputs[0], (), activation)
    padding = pads[0][0], pads[1][0]

    def pool(image: Tensor) -> Tensor:
        return functional.avg_pool2d(image, kernel, stride, padding, count_include_pad=False)

    return Step(pool, [source], op.outputs[0], (), activation)


def _spatial_mean(image: Tensor) -> Tensor:
    return image.mean((2, 3), keepdim=True)


def _mean(builder: Builder, op: Operator) -> Step:
    expect_inputs(op, 2)
    axes = builder.integers(op, 1)
    keep = op.option(0, "b")
    if {axis % 4 for axis in axes} != {1, 2} or not keep:
        raise ModelError(
            f"{op} reduces axes {axes} with keep_dims {bool(keep)}, expected [1, 2] (the "
            f"picture) with keep_dims True: {ADVICE}"
        )
    return Step(_spatial_mean, [builder.computed(op.inputs[0], op)], op.outputs[0])


def _binary(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Builder, Operator], Step]:
    def build_binary(builder: Builder, op: Operator) -> Step:
        expect_inputs(op, 2)
        activation = _activation(op, 0)
        images = [i for i in op.inputs if builder.is_computed(i)]
        if not images:
            raise ModelError(f"{op} has no computed input: {ADVICE}")
        weights = []
        if len(images) == 1:
            # ADD and MUL are commutative, so the constant may come second in any case.
            constant = builder.floats(op, 0 if builder.is_computed(op.inputs[1]) else 1)
            if constant.ndim > 4:
                raise ModelError(f"{op} has a constant of {constant.ndim} axes: {ADVICE}")
            nhwc = constant.reshape((1,) * (4 - constant.ndim) + tuple(constant.shape))
            weights = [_plain(nhwc.permute(0, 3, 1, 2))]
        return Step(function, images, op.outputs[0], weights, activation)

    return build_binary


def _concatenation(builder: Builder, op: Operator) -> Step:
    axis = op.option(0, "i")
    if not -4 <= axis <= 3:
        raise ModelError(f"{op} joins along axis {axis}, expected -4 to 3: {ADVICE}")
    sources = [builder.computed(i, op) for i in op.inputs]
    dim = (0, 2, 3, 1)[axis % 4]

    def concatenate(*images: Tensor) -> Tensor:
        return torch.cat(images, dim)

    return Step(concatenate, sources, op.outputs[0], (), _activation(op, 1))


def _resize_bilinear(builder: Builder, op: Operator) -> Step:
    """Resize by one of the three conventions that TensorFlow has had.

    Source: TensorFlow's `ResizeBilinear`: corners aligned, pixel centres aligned, or
    (neither, its oldest) the top left corners of pixels aligned.
    """
    expect_inputs(op, 2)
    source = builder.computed(op.inputs[0], op)
    _, _, height, width = builder.nchw(source, op)
    _, _, out_height, out_width = builder.nchw(op.outputs[0], op)
    size = builder.integers(op, 1)
    if size != [out_height, out_width]:
        raise ModelError(
            f"{op} resizes to {size}, the file declares {[out_height, out_width]}: {ADVICE}"
        )
    align_corners, centres = op.option(2, "b"), op.option(3, "b")
    if align_corners and centres:
        raise ModelError(f"{op} aligns corners and pixel centres at once: {ADVICE}")
    if not (align_corners or centres):
        rows = _corner_weights(height, out_height)
        columns = _corner_weights(width, out_width)
        return Step(_resize_by_matrices, [source], op.outputs[0], (rows, columns))

    def resize(image: Tensor) -> Tensor:
        return functional.interpolate(
            image, (out_height, out_width), mode="bilinear", align_corners=bool(align_corners)
        )

    return Step(resize, [source], op.outputs[0])


def _corner_weights(size: int, out_size: int) -> Tensor:
    """Return the [out_size, size] matrix that samples one axis at `i * size / out_size`."""
    position = torch.arange(out_size, dtype=torch.float64) * size / out_size
    low = position.floor().long().clamp(max=size - 1)
    high = (low + 1).clamp(max=size - 1)
    part = (position - low).to(torch.float32)
    matrix = torch.zeros(out_size, size)
    rows = torch.arange(out_size)
    matrix.index_put_((rows, low), 1 - part, accumulate=True)
    matrix.index_put_((rows, high), part, accumulate=True)
    return matrix


def _resize_by_matrices(image: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    # No back end has this convention as a kernel; two small products are exact.
    wide = functional.linear(image, columns)
    return functional.linear(wide.transpose(2, 3), rows).transpose(2, 3)


BUILDERS: dict[str, Callable[[Builder, Operator], Step]] = {
    "ADD": _binary(torch.add),
    "AVERAGE_POOL_2D": _average_pool,
    "CONCATENATION": _concatenation,
    "CONV_2D": _conv_2d,
    f"{CUSTOM_PREFIX}Convolution2DTransposeBias": _transposed_convolution,
    "DEPTHWISE_CONV_2D": _depthwise_conv_2d,
    "MEAN": _mean,
    "MUL": _binary(torch.mul),
    "RESIZE_BILINEAR": _resize_bilinear,
}
