"""Operators of TensorFlow Lite that move values and do not change them: shapes, parts, borders.

Source: the reference kernels of TensorFlow Lite.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from streamseg.convert import _tflite_layout as layout
from streamseg.convert._tflite_builder import ADVICE, Builder, Step, expect_inputs
from streamseg.convert._tflite_options import activation_of, step_of
from streamseg.convert._tflite_schema import Operator
from streamseg.errors import ModelError

_REFLECT, _SYMMETRIC = 0, 1


def _reshape(builder: Builder, op: Operator) -> Step:
    """RESHAPE, SQUEEZE and EXPAND_DIMS: the output's declared shape says it all."""
    if not op.inputs:
        raise ModelError(f"{op} has no input: {ADVICE}")
    source = builder.computed(op.inputs[0], op)
    shape = builder.file_shape(op.outputs[0])
    return Step(lambda values: layout.reshape(values, shape), [source], op.outputs[0])


def _transpose(builder: Builder, op: Operator) -> Step:
    expect_inputs(op, 2)
    source = builder.computed(op.inputs[0], op)
    rank, given = len(builder.file_shape(source)), builder.integers(op, 1)
    if sorted(given) != list(range(rank)):
        raise ModelError(f"{op} has the order {given} of {rank} axes: {ADVICE}")
    order = layout.module_order(rank)
    axes = [order.index(given[axis]) for axis in order]
    return Step(lambda values: values.permute(axes), [source], op.outputs[0])


def _concatenation(builder: Builder, op: Operator) -> Step:
    sources = [builder.computed(i, op) for i in op.inputs]
    rank, axis = len(builder.file_shape(op.outputs[0])), op.option(0, "i")
    if not -rank <= axis < rank:
        raise ModelError(f"{op} joins along axis {axis}, expected {-rank} to {rank - 1}: {ADVICE}")
    dim = layout.module_axis(axis, rank)

    def concatenate(*images: Tensor) -> Tensor:
        return torch.cat(images, dim)

    return Step(concatenate, sources, op.outputs[0], (), activation_of(op, 1))


def _borders(builder: Builder, op: Operator, source: int) -> list[tuple[int, int]]:
    """Return how much is added before and after each axis of the module."""
    rank, given = len(builder.file_shape(source)), builder.integers(op, 1)
    if len(given) != 2 * rank or min(given) < 0:
        raise ModelError(f"{op} has the paddings {given} for {rank} axes: {ADVICE}")
    return [(given[2 * axis], given[2 * axis + 1]) for axis in layout.module_order(rank)]


def _pad(builder: Builder, op: Operator) -> Step:
    """PAD and PADV2, which says with what value."""
    expect_inputs(op, 3, optional=1)
    source = builder.computed(op.inputs[0], op)
    given = len(op.inputs) > 2 and op.inputs[2] >= 0  # -1 stands for an input that is left out
    value = float(builder.floats(op, 2).reshape(-1)[0]) if given else 0.0
    around = [side for sides in reversed(_borders(builder, op, source)) for side in sides]
    return Step(lambda values: functional.pad(values, around, value=value), [source], op.outputs[0])


def _mirror_pad(builder: Builder, op: Operator) -> Step:
    expect_inputs(op, 2)
    source = builder.computed(op.inputs[0], op)
    mode, shape = op.option(0, "b"), builder.shape(source, op)
    if mode not in (_REFLECT, _SYMMETRIC):
        raise ModelError(f"{op} has the mode {mode}, expected REFLECT or SYMMETRIC: {ADVICE}")
    axes, places = [], []
    for axis, (before, after) in enumerate(_borders(builder, op, source)):
        size = shape[axis]
        if max(before, after) > size - (mode == _REFLECT):
            raise ModelError(f"{op} adds {before} and {after} to an axis of {size}: {ADVICE}")
        if before or after:
            # The pixel at the border is there once (REFLECT) or twice.
            skip = 1 if mode == _REFLECT else 0
            inside = torch.arange(size)
            ahead = inside[skip : skip + before].flip(0)
            behind = inside[size - skip - after : size - skip].flip(0)
            axes.append(axis)
            places.append(torch.cat([ahead, inside, behind]))

    def mirror(values: Tensor, *places: Tensor) -> Tensor:
        for axis, place in zip(axes, places, strict=True):
            values = values.index_select(axis, place)
        return values

    return Step(mirror, [source], op.outputs[0], places)


def _part(source: int, output: int, parts: Sequence[slice], shape: Sequence[int]) -> Step:
    """Return the step that takes a part, given by the file's axes, in a shape of the file."""
    chosen = tuple(parts[axis] for axis in layout.module_order(len(parts)))
    same = len(shape) == len(parts)

    def take(values: Tensor) -> Tensor:
        values = values[chosen]
        return values if same else layout.reshape(values, shape)

    return Step(take, [source], output)


def _slice(builder: Builder, op: Operator) -> Step:
    expect_inputs(op, 3)
    source = builder.computed(op.inputs[0], op)
    begins, sizes = builder.integers(op, 1), builder.integers(op, 2)
    rank = len(builder.file_shape(source))
    if len(begins) != rank or len(sizes) != rank or min(begins) < 0 or min(sizes) < -1:
        raise ModelError(f"{op} takes {sizes} from {begins} of {rank} axes: {ADVICE}")
    parts = [
        slice(begin, None if size == -1 else begin + size)
        for begin, size in zip(begins, sizes, strict=True)
    ]
    return _part(source, op.outputs[0], parts, builder.file_shape(op.outputs[0]))


def _strided_slice(builder: Builder, op: Operator) -> Step:
    expect_inputs(op, 4)
    source = builder.computed(op.inputs[0], op)
    shape = builder.file_shape(source)
    begins, ends, steps = (builder.integers(op, position) for position in (1, 2, 3))
    from_first, to_last, single = (op.option(field, "i") for field in (0, 1, 4))
    unusual = op.option(2, "i") or op.option(3, "i") or op.option(5, "b")
    if unusual or not len(begins) == len(ends) == len(steps) <= len(shape) or min(steps) < 1:
        raise ModelError(
            f"{op} takes {begins} to {ends} in steps of {steps}, with new axes or an ellipsis, "
            f"or backwards: {ADVICE}"
        )
    parts = [slice(None)] * len(shape)
    for axis, (begin, end, step) in enumerate(zip(begins, ends, steps, strict=True)):
        size = shape[axis]
        first = 0 if from_first >> axis & 1 else begin
        first += size if first < 0 else 0
        if single >> axis & 1:
            parts[axis] = slice(first, first + 1)
            continue
        last = size if to_last >> axis & 1 else end
        last += size if last < 0 else 0
        parts[axis] = slice(max(first, 0), max(min(last, size), 0), step)
    return _part(source, op.outputs[0], parts, builder.file_shape(op.outputs[0]))


def _parts(builder: Builder, op: Operator, source: int, axis: int, sizes: list[int]) -> list[Step]:
    shape = builder.file_shape(source)
    if not -len(shape) <= axis < len(shape) or len(sizes) != len(op.outputs):
        raise ModelError(f"{op} parts {list(shape)} along axis {axis} into {sizes}: {ADVICE}")
    axis %= len(shape)
    if sizes.count(-1) == 1:
        sizes[sizes.index(-1)] = shape[axis] - sum(sizes) - 1
    if sum(sizes) != shape[axis] or min(sizes) < 0:
        raise ModelError(f"{op} parts {list(shape)} along axis {axis} into {sizes}: {ADVICE}")
    steps, begin = [], 0
    for size, output in zip(sizes, op.outputs, strict=True):
        parts = [slice(None)] * len(shape)
        parts[axis] = slice(begin, begin + size)
        steps.append(_part(source, output, parts, shape))
        begin += size
    return steps


def split(builder: Builder, op: Operator) -> list[Step]:
    """Return a step for each output of a SPLIT, whose inputs are the axis and the tensor."""
    expect_inputs(op, 2)
    source, axis = builder.computed(op.inputs[1], op), builder.integers(op, 0)
    shape = builder.file_shape(source)
    if len(axis) != 1 or not -len(shape) <= axis[0] < len(shape):
        raise ModelError(f"{op} parts {list(shape)} along axis {axis}: {ADVICE}")
    count = len(op.outputs)
    return _parts(builder, op, source, axis[0], [shape[axis[0]] // count] * count)


def split_v(builder: Builder, op: Operator) -> list[Step]:
    """Return a step for each output of a SPLIT_V: inputs are the tensor, the sizes, the axis."""
    expect_inputs(op, 3)
    source, axis = builder.computed(op.inputs[0], op), builder.integers(op, 2)
    if len(axis) != 1:
        raise ModelError(f"{op} parts along the axes {axis}: {ADVICE}")
    return _parts(builder, op, source, axis[0], builder.integers(op, 1))


def _repeat(builder: Builder, op: Operator) -> Step:
    """TILE and BROADCAST_TO: the declared shapes say how often."""
    expect_inputs(op, 2)
    source = builder.computed(op.inputs[0], op)
    shape, target = builder.shape(source, op), builder.shape(op.outputs[0], op)
    if len(shape) != len(target) or any(new % old for old, new in zip(shape, target, strict=True)):
        raise ModelError(f"{op} makes {list(target)} of {list(shape)} (NCHW): {ADVICE}")
    if op.name == "BROADCAST_TO" and any(
        old not in (1, new) for old, new in zip(shape, target, strict=True)
    ):
        raise ModelError(f"{op} makes {list(target)} of {list(shape)} (NCHW): {ADVICE}")
    times = [new // old for old, new in zip(shape, target, strict=True)]
    return Step(lambda values: values.repeat(times), [source], op.outputs[0])


def _depth_to_space(builder: Builder, op: Operator) -> Step:
    """Channels become pixels: the channel (y * block + x) * C + c is pixel (y, x) of channel c."""
    expect_inputs(op, 1)
    source, block = builder.computed(op.inputs[0], op), step_of(op, 0)
    count, channels, height, width = builder.nchw(source, op)
    apart = (count, block, block, channels // block**2, height, width)
    shape = (count, channels // block**2, height * block, width * block)

    def spread(image: Tensor) -> Tensor:
        return image.reshape(apart).permute(0, 3, 4, 1, 5, 2).reshape(shape)

    return Step(spread, [source], op.outputs[0])


def _space_to_depth(builder: Builder, op: Operator) -> Step:
    expect_inputs(op, 1)
    source, block = builder.computed(op.inputs[0], op), step_of(op, 0)
    count, channels, height, width = builder.nchw(source, op)
    apart = (count, channels, height // block, block, width // block, block)
    shape = (count, channels * block**2, height // block, width // block)

    def gather(image: Tensor) -> Tensor:
        return image.reshape(apart).permute(0, 3, 5, 1, 2, 4).reshape(shape)

    return Step(gather, [source], op.outputs[0])


def _blocks(builder: Builder, op: Operator) -> tuple[int, list[int], list[int]]:
    """Return the source, the block's height and width, and what is added or cut off."""
    expect_inputs(op, 3)
    source = builder.computed(op.inputs[0], op)
    block, edges = builder.integers(op, 1), builder.integers(op, 2)
    if len(block) != 2 or min(block) < 1 or len(edges) != 4 or min(edges) < 0:
        raise ModelError(f"{op} has blocks of {block} and edges of {edges}: {ADVICE}")
    return source, block, edges


def _space_to_batch(builder: Builder, op: Operator) -> Step:
    """Each pixel of a block goes to a picture of its own."""
    source, (rows, columns), (top, bottom, left, right) = _blocks(builder, op)
    count, channels, height, width = builder.nchw(source, op)
    high, wide = (height + top + bottom) // rows, (width + left + right) // columns
    apart = (count, channels, high, rows, wide, columns)
    shape = (rows * columns * count, channels, high, wide)

    def separate(image: Tensor) -> Tensor:
        image = functional.pad(image, (left, right, top, bottom))
        return image.reshape(apart).permute(3, 5, 0, 1, 2, 4).reshape(shape)

    return Step(separate, [source], op.outputs[0])


def _batch_to_space(builder: Builder, op: Operator) -> Step:
    source, (rows, columns), (top, bottom, left, right) = _blocks(builder, op)
    count, channels, height, width = builder.nchw(source, op)
    count //= rows * columns
    apart = (rows, columns, count, channels, height, width)
    shape = (count, channels, height * rows, width * columns)

    def join(images: Tensor) -> Tensor:
        image = images.reshape(apart).permute(2, 3, 4, 0, 5, 1).reshape(shape)
        return image[:, :, top : shape[2] - bottom, left : shape[3] - right]

    return Step(join, [source], op.outputs[0])


SHAPES: dict[str, Callable[[Builder, Operator], Step]] = {
    "BATCH_TO_SPACE_ND": _batch_to_space,
    "BROADCAST_TO": _repeat,
    "CONCATENATION": _concatenation,
    "DEPTH_TO_SPACE": _depth_to_space,
    "EXPAND_DIMS": _reshape,
    "MIRROR_PAD": _mirror_pad,
    "PAD": _pad,
    "PADV2": _pad,
    "RESHAPE": _reshape,
    "SLICE": _slice,
    "SPACE_TO_BATCH_ND": _space_to_batch,
    "SPACE_TO_DEPTH": _space_to_depth,
    "SQUEEZE": _reshape,
    "STRIDED_SLICE": _strided_slice,
    "TILE": _repeat,
    "TRANSPOSE": _transpose,
}
