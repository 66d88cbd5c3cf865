"""Operators of TensorFlow Lite that give pictures of another size: pools, means, resizing.

Source: the reference kernels of TensorFlow Lite.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from streamseg.convert import _tflite_layout as layout
from streamseg.convert._tflite_arithmetic import Bounds
from streamseg.convert._tflite_builder import ADVICE, Builder, Step, expect_inputs
from streamseg.convert._tflite_options import VALID, activation_of, pads_of, step_of
from streamseg.convert._tflite_schema import MAX_TENSOR_ELEMENTS, Operator
from streamseg.errors import ModelError

# Not infinity: some back ends compute with a padding.
_LOWEST = torch.finfo(torch.float32).min


class _Pool:
    """The table that both pools have."""

    def __init__(self, builder: Builder, op: Operator) -> None:
        expect_inputs(op, 1)
        self.source = builder.computed(op.inputs[0], op)
        _, _, self.height, self.width = builder.nchw(self.source, op)
        self.stride = step_of(op, 2), step_of(op, 1)
        self.kernel = step_of(op, 4), step_of(op, 3)
        self.activation: Bounds | None = activation_of(op, 5)
        self.rows = pads_of(op, self.height, self.kernel[0], self.stride[0], 1)
        self.columns = pads_of(op, self.width, self.kernel[1], self.stride[1], 1)

    @property
    def around(self) -> tuple[int, int, int, int]:
        """Left, right, top, bottom."""
        return (*self.columns, *self.rows)

    @property
    def even(self) -> tuple[int, int] | None:
        """(top, left) where it is the same on the other side, and the kernel is large enough."""
        if self.rows[0] != self.rows[1] or self.columns[0] != self.columns[1]:
            return None
        return self.rows[0], self.columns[0]


def _average_pool(builder: Builder, op: Operator) -> Step:
    pool = _Pool(builder, op)
    if pool.kernel == (pool.height, pool.width) and op.option(0, "b") == VALID:
        # The whole picture: a mean is the same and has a faster kernel.
        return Step(_spatial_mean, [pool.source], op.outputs[0], (), pool.activation)
    even = pool.even
    if even is not None:

        def average(image: Tensor) -> Tensor:
            return functional.avg_pool2d(
                image, pool.kernel, pool.stride, even, count_include_pad=False
            )

        return Step(average, [pool.source], op.outputs[0], (), pool.activation)
    # The padding does not count: at the border a mean is that of fewer pixels.
    ones = functional.pad(torch.ones(1, 1, pool.height, pool.width), pool.around)
    share = functional.avg_pool2d(ones, pool.kernel, pool.stride)

    def average_within(image: Tensor, correction: Tensor) -> Tensor:
        image = functional.pad(image, pool.around)
        return functional.avg_pool2d(image, pool.kernel, pool.stride) * correction

    return Step(average_within, [pool.source], op.outputs[0], (1 / share,), pool.activation)


def _max_pool(builder: Builder, op: Operator) -> Step:
    pool = _Pool(builder, op)
    even = pool.even

    def largest(image: Tensor) -> Tensor:
        if even is not None:
            return functional.max_pool2d(image, pool.kernel, pool.stride, even)
        image = functional.pad(image, pool.around, value=_LOWEST)
        return functional.max_pool2d(image, pool.kernel, pool.stride)

    return Step(largest, [pool.source], op.outputs[0], (), pool.activation)


def _spatial_mean(image: Tensor) -> Tensor:
    return image.mean((2, 3), keepdim=True)


def _reduction(
    function: Callable[[Tensor, tuple[int, ...], bool], Tensor],
) -> Callable[[Builder, Operator], Step]:
    def build(builder: Builder, op: Operator) -> Step:
        expect_inputs(op, 2)
        source = builder.computed(op.inputs[0], op)
        shape = builder.file_shape(op.outputs[0])
        rank = len(builder.file_shape(source))
        given = builder.integers(op, 1)
        if not given or not all(-rank <= axis < rank for axis in given):
            raise ModelError(f"{op} reduces the axes {given} of {rank}: {ADVICE}")
        axes = tuple(sorted({layout.module_axis(axis, rank) for axis in given}))
        keeps = bool(op.option(0, "b"))

        def reduce(values: Tensor) -> Tensor:
            result = function(values, axes, True)
            return result if keeps else layout.reshape(result, shape)

        return Step(reduce, [source], op.outputs[0])

    return build


def _resize(builder: Builder, op: Operator, field: int) -> tuple[int, bool, bool]:
    """Return a resize's source and whether it aligns corners, or centres of pixels."""
    expect_inputs(op, 2)
    source = builder.computed(op.inputs[0], op)
    _, _, out_height, out_width = builder.nchw(op.outputs[0], op)
    size = builder.integers(op, 1)
    if size != [out_height, out_width]:
        raise ModelError(
            f"{op} resizes to {size}, the file declares {[out_height, out_width]}: {ADVICE}"
        )
    corners, centres = bool(op.option(field, "b")), bool(op.option(field + 1, "b"))
    return source, corners, centres


def _resize_bilinear(builder: Builder, op: Operator) -> Step:
    """Resize by one of the three conventions that TensorFlow has had.

    Source: TensorFlow's `ResizeBilinear`: corners aligned, pixel centres aligned, or
    (neither, its oldest) the top left corners of pixels aligned.
    """
    source, corners, centres = _resize(builder, op, 2)
    _, _, height, width = builder.nchw(source, op)
    _, _, out_height, out_width = builder.nchw(op.outputs[0], op)
    if corners and centres:
        raise ModelError(f"{op} aligns corners and pixel centres at once: {ADVICE}")
    if not (corners or centres):
        if max(height * out_height, width * out_width) > MAX_TENSOR_ELEMENTS:
            raise ModelError(f"{op} resizes {width}x{height} to {out_width}x{out_height}: {ADVICE}")
        rows = _corner_weights(height, out_height)
        columns = _corner_weights(width, out_width)
        return Step(_resize_by_matrices, [source], op.outputs[0], (rows, columns))

    def resize(image: Tensor) -> Tensor:
        return functional.interpolate(
            image, (out_height, out_width), mode="bilinear", align_corners=corners
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


def _resize_nearest(builder: Builder, op: Operator) -> Step:
    """Take the nearest pixel, by one of four conventions.

    Source: TensorFlow Lite's reference kernel of `ResizeNearestNeighbor`.
    """
    source, corners, centres = _resize(builder, op, 0)
    _, _, *sizes = builder.nchw(source, op)
    _, _, *out_sizes = builder.nchw(op.outputs[0], op)
    rows, columns = (
        _nearest(size, out_size, corners, centres)
        for size, out_size in zip(sizes, out_sizes, strict=True)
    )

    def take(image: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        return image.index_select(2, rows).index_select(3, columns)

    return Step(take, [source], op.outputs[0], (rows, columns))


def _nearest(size: int, out_size: int, corners: bool, centres: bool) -> Tensor:
    """Return which pixel of one axis each new one is, [out_size] int64."""
    scale = (size - 1) / (out_size - 1) if corners and out_size > 1 else size / out_size
    position = (torch.arange(out_size, dtype=torch.float32) + (0.5 if centres else 0.0)) * scale
    # Halves go up, as in C.
    index = torch.floor(position + 0.5) if corners else torch.floor(position)
    return index.long().clamp(0, size - 1)


POOLS: dict[str, Callable[[Builder, Operator], Step]] = {
    "AVERAGE_POOL_2D": _average_pool,
    "MAX_POOL_2D": _max_pool,
    "MEAN": _reduction(torch.mean),
    "REDUCE_MAX": _reduction(torch.amax),
    "REDUCE_MIN": _reduction(torch.amin),
    "RESIZE_BILINEAR": _resize_bilinear,
    "RESIZE_NEAREST_NEIGHBOR": _resize_nearest,
    "SUM": _reduction(torch.sum),
}
