"""Convolutions and matrix products of TensorFlow Lite, as torch functions.

Source: the reference kernels of TensorFlow Lite, and MediaPipe's for its own operator.
"""

import struct
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from streamseg.convert import _tflite_layout as layout
from streamseg.convert._tflite_builder import ADVICE, Builder, Step, expect_inputs
from streamseg.convert._tflite_options import activation_of, is_same, pads_of, plain, step_of
from streamseg.convert._tflite_schema import CUSTOM_PREFIX, Operator
from streamseg.errors import ModelError

# The padding enumeration of TensorFlow Lite's C interface, which custom operators use.
_C_SAME, _C_VALID = 1, 2


def _convolution(builder: Builder, op: Operator, *, depthwise: bool) -> Step:
    expect_inputs(op, 3)
    source = builder.computed(op.inputs[0], op)
    _, channels, height, width = builder.nchw(source, op)
    kernel, bias, scales = builder.weights(op, source, axis=3 if depthwise else 0)
    shift = 1 if depthwise else 0  # The depthwise table has a multiplier before the activation.
    stride = step_of(op, 2), step_of(op, 1)
    dilation = step_of(op, 5 + shift, 1), step_of(op, 4 + shift, 1)
    if depthwise:
        weight = kernel.permute(3, 0, 1, 2)  # [1, kh, kw, C * multiplier]
        groups = channels
    else:
        weight = kernel.permute(0, 3, 1, 2)  # [out, kh, kw, C / groups]
        groups = max(channels // kernel.shape[3], 1)
    top, bottom = pads_of(op, height, kernel.shape[1], stride[0], dilation[0])
    left, right = pads_of(op, width, kernel.shape[2], stride[1], dilation[1])
    even = top == bottom and left == right

    def convolve(image: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        if not even:
            image = functional.pad(image, (left, right, top, bottom))
        padding = (top, left) if even else (0, 0)
        return functional.conv2d(image, weight, bias, stride, padding, dilation, groups)

    weights = plain(weight), bias
    activation = activation_of(op, 3 + shift)
    return Step(convolve, [source], op.outputs[0], weights, activation, scales)


def _conv_2d(builder: Builder, op: Operator) -> Step:
    return _convolution(builder, op, depthwise=False)


def _depthwise_conv_2d(builder: Builder, op: Operator) -> Step:
    return _convolution(builder, op, depthwise=True)


def _transposed(builder: Builder, op: Operator) -> Step:
    """A transposed convolution: its inputs are the output's shape, kernel, picture and bias.

    It is what makes a picture of the output's shape into one of the input's, turned around; so the
    same pixels are padding: as many are cut off.
    """
    expect_inputs(op, 4, optional=1)
    source = builder.computed(op.inputs[2], op)
    _, _, height, width = builder.nchw(source, op)
    _, _, out_height, out_width = builder.nchw(op.outputs[0], op)
    kernel, bias, scales = builder.weights(op, source, axis=0, bias_at=3)
    stride = step_of(op, 2), step_of(op, 1)
    cuts, extras, beyond = [], [], False
    for size, out_size, reach, step in zip(
        (height, width), (out_height, out_width), kernel.shape[1:3], stride, strict=True
    ):
        whole = (size - 1) * step + reach
        cut = max(whole - out_size, 0) // 2 if is_same(op) else 0
        cuts.append(cut)
        extras.append(max(out_size - (whole - 2 * cut), 0))
        beyond |= whole - 2 * cut > out_size
    if any(extra >= step for extra, step in zip(extras, stride, strict=True)):
        raise ModelError(
            f"{op} makes {out_width}x{out_height} of {width}x{height} pixels with stride "
            f"{stride[1]}x{stride[0]}, which does not fit: {ADVICE}"
        )

    def convolve(image: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        result = functional.conv_transpose2d(image, weight, bias, stride, cuts, extras)
        return result[:, :, :out_height, :out_width] if beyond else result

    weights = plain(kernel.permute(3, 0, 1, 2)), bias
    return Step(convolve, [source], op.outputs[0], weights, activation_of(op, 3), scales)


def _transposed_of_mediapipe(builder: Builder, op: Operator) -> Step:
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

    weights = plain(kernel.permute(3, 0, 1, 2)), bias
    return Step(convolve, [source], op.outputs[0], weights, None, scales)


def _fully_connected(builder: Builder, op: Operator) -> Step:
    expect_inputs(op, 3, optional=1)
    if op.option(1, "b"):
        raise ModelError(f"{op} has shuffled weights: {ADVICE}")
    source = builder.computed(op.inputs[0], op)
    weight = builder.floats(op, 1, 2)
    has_bias = len(op.inputs) > 2 and op.inputs[2] != -1
    bias = builder.floats(op, 2, 1) if has_bias else torch.zeros(weight.shape[0])
    width, shape = weight.shape[1], builder.file_shape(op.outputs[0])

    def connect(values: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        rows = layout.to_file(values).reshape(-1, width)
        return layout.to_module(functional.linear(rows, weight, bias).reshape(shape))

    return Step(connect, [source], op.outputs[0], (plain(weight), bias), activation_of(op, 0))


def _batch_matmul(builder: Builder, op: Operator) -> Step:
    expect_inputs(op, 2)
    sources = [builder.computed(index, op) for index in op.inputs]
    turn_first, turn_second = bool(op.option(0, "b")), bool(op.option(1, "b"))

    def multiply(first: Tensor, second: Tensor) -> Tensor:
        first, second = layout.to_file(first), layout.to_file(second)
        first = first.transpose(-2, -1) if turn_first else first
        second = second.transpose(-2, -1) if turn_second else second
        return layout.to_module(first @ second)

    return Step(multiply, sources, op.outputs[0])


PRODUCTS: dict[str, Callable[[Builder, Operator], Step]] = {
    "BATCH_MATMUL": _batch_matmul,
    "CONV_2D": _conv_2d,
    "DEPTHWISE_CONV_2D": _depthwise_conv_2d,
    "FULLY_CONNECTED": _fully_connected,
    "TRANSPOSE_CONV": _transposed,
    f"{CUSTOM_PREFIX}Convolution2DTransposeBias": _transposed_of_mediapipe,
}
