"""The operators of TensorFlow Lite that a rebuilt graph can have, as torch functions.

Here are those that compute each value by itself, and the list of all.

Source: the reference kernels of TensorFlow Lite.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from streamseg.convert import _tflite_layout as layout
from streamseg.convert._tflite_builder import ADVICE, Builder, Step, expect_inputs
from streamseg.convert._tflite_options import activation_of, plain
from streamseg.convert._tflite_pooling import POOLS
from streamseg.convert._tflite_products import PRODUCTS
from streamseg.convert._tflite_schema import Operator
from streamseg.convert._tflite_shapes import SHAPES, split, split_v
from streamseg.errors import ModelError

__all__ = ["OPERATORS", "steps_of"]

_ELEMENTWISE: dict[str, Callable[[Tensor], Tensor]] = {
    "ABS": torch.abs,
    "CEIL": torch.ceil,
    "COS": torch.cos,
    "ELU": functional.elu,
    "EXP": torch.exp,
    "FLOOR": torch.floor,
    "HARD_SWISH": functional.hardswish,
    "LOG": torch.log,
    "LOGISTIC": torch.sigmoid,
    "NEG": torch.neg,
    "RELU": functional.relu,
    "RELU6": lambda x: functional.hardtanh(x, 0.0, 6.0),
    "RELU_N1_TO_1": lambda x: functional.hardtanh(x, -1.0, 1.0),
    "RSQRT": torch.rsqrt,
    "SIN": torch.sin,
    "SQRT": torch.sqrt,
    "SQUARE": lambda x: x * x,
    "TANH": torch.tanh,
    # Values are real numbers here, whatever integers stand for them.
    "QUANTIZE": lambda x: x,
    "DEQUANTIZE": lambda x: x,
}


def _cast(builder: Builder, op: Operator) -> Step:
    expect_inputs(op, 1)
    source = builder.computed(op.inputs[0], op)
    if not builder.is_float(source) or not builder.is_float(op.outputs[0]):
        raise ModelError(f"{op} makes integers of real numbers, or these of integers: {ADVICE}")
    return Step(lambda x: x, [source], op.outputs[0])


def _leaky_relu(builder: Builder, op: Operator) -> Step:
    expect_inputs(op, 1)
    slope = op.real_option(0, 0.0)
    source = builder.computed(op.inputs[0], op)
    return Step(lambda x: functional.leaky_relu(x, slope), [source], op.outputs[0])


def _gelu(builder: Builder, op: Operator) -> Step:
    expect_inputs(op, 1)
    kind = "tanh" if op.option(0, "b") else "none"
    source = builder.computed(op.inputs[0], op)
    return Step(lambda x: functional.gelu(x, approximate=kind), [source], op.outputs[0])


def _prelu(builder: Builder, op: Operator) -> Step:
    expect_inputs(op, 2)
    source = builder.computed(op.inputs[0], op)

    def prelu(values: Tensor, slopes: Tensor) -> Tensor:
        # PyTorch's own is taken apart into comparisons that XNNPACK has not.
        return functional.relu(values) - slopes * functional.relu(-values)

    return Step(prelu, [source], op.outputs[0], (_constant(builder, op, 1),))


def _softmax(builder: Builder, op: Operator) -> Step:
    """Over the last axis of the file: of a picture, over its channels."""
    expect_inputs(op, 1)
    source = builder.computed(op.inputs[0], op)
    sharpness = op.real_option(0, 0.0) if op.name == "SOFTMAX" else 1.0
    function = torch.softmax if op.name == "SOFTMAX" else torch.log_softmax

    def softmax(values: Tensor) -> Tensor:
        if sharpness != 1.0:
            values = values * sharpness
        # XNNPACK has it for the last axis.
        return layout.to_module(function(layout.to_file(values), -1))

    return Step(softmax, [source], op.outputs[0])


def _binary(
    function: Callable[[Tensor, Tensor], Tensor], *, has_activation: bool = True
) -> Callable[[Builder, Operator], Step]:
    def build(builder: Builder, op: Operator) -> Step:
        expect_inputs(op, 2)
        activation = activation_of(op, 0) if has_activation else None
        rank = len(builder.file_shape(op.outputs[0]))
        images = [i for i in op.inputs if builder.is_computed(i)]
        if not images:
            raise ModelError(f"{op} has no computed input: {ADVICE}")
        if len(images) == 2:

            def combine(first: Tensor, second: Tensor) -> Tensor:
                return function(_lifted(first, rank), _lifted(second, rank))

            return Step(combine, images, op.outputs[0], (), activation)
        first = not builder.is_computed(op.inputs[0])
        constant = _constant(builder, op, 0 if first else 1)

        def combine_with(image: Tensor, constant: Tensor) -> Tensor:
            image = _lifted(image, rank)
            return function(constant, image) if first else function(image, constant)

        return Step(combine_with, images, op.outputs[0], (constant,), activation)

    return build


def _constant(builder: Builder, op: Operator, position: int) -> Tensor:
    """Return a constant that is broadcast to the output, with the module's axes."""
    constant = builder.floats(op, position)
    rank = len(builder.file_shape(op.outputs[0]))
    if constant.ndim > rank:
        raise ModelError(f"{op} has a constant of {constant.ndim} axes: {ADVICE}")
    return plain(_lifted(constant, rank) if constant.ndim < rank else layout.to_module(constant))


def _lifted(values: Tensor, rank: int) -> Tensor:
    """Give a tensor as many axes as its partner has: the file counts them from the last one."""
    if values.ndim >= rank:
        return values
    return layout.reshape(values, (1,) * (rank - values.ndim) + tuple(values.shape))


def _squared_difference(first: Tensor, second: Tensor) -> Tensor:
    apart = first - second
    return apart * apart


_BUILDERS: dict[str, Callable[[Builder, Operator], Step]] = {
    **POOLS,
    **PRODUCTS,
    **SHAPES,
    "ADD": _binary(torch.add),
    "CAST": _cast,
    "DIV": _binary(torch.div),
    "GELU": _gelu,
    "LEAKY_RELU": _leaky_relu,
    "LOG_SOFTMAX": _softmax,
    "MAXIMUM": _binary(torch.maximum, has_activation=False),
    "MINIMUM": _binary(torch.minimum, has_activation=False),
    "MUL": _binary(torch.mul),
    "PRELU": _prelu,
    "SOFTMAX": _softmax,
    "SQUARED_DIFFERENCE": _binary(_squared_difference, has_activation=False),
    "SUB": _binary(torch.sub),
}
_OF_SEVERAL_OUTPUTS = {"SPLIT": split, "SPLIT_V": split_v}

OPERATORS = frozenset({*_ELEMENTWISE, *_BUILDERS, *_OF_SEVERAL_OUTPUTS})
"""The names of all that can be rebuilt."""


def steps_of(builder: Builder, op: Operator) -> list[Step]:
    """Return what an operator becomes: one step for each of its outputs.

    Args:
        builder: Knows what was computed before.
        op: One of ``OPERATORS``.

    Raises:
        ModelError: If it cannot be rebuilt as the file has it.
    """
    if op.name in _OF_SEVERAL_OUTPUTS:
        return _OF_SEVERAL_OUTPUTS[op.name](builder, op)
    if len(op.outputs) != 1:
        raise ModelError(f"{op} has {len(op.outputs)} outputs, expected 1: {ADVICE}")
    if op.name in _ELEMENTWISE:
        expect_inputs(op, 1)
        source = builder.computed(op.inputs[0], op)
        return [Step(_ELEMENTWISE[op.name], [source], op.outputs[0])]
    return [_BUILDERS[op.name](builder, op)]
