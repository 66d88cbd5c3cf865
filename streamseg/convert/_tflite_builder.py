"""Steps of a rebuilt TensorFlow Lite graph, and what building one has to know.

The file's tensors are NHWC; the module's are NCHW, as ExecuTorch's back ends expect, so
each operator's weights, axes and paddings are translated when it is built.
"""

import math
import struct
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from streamseg.convert import _tflite_layout as layout
from streamseg.convert import _tflite_schema as schema
from streamseg.convert._tflite_arithmetic import Arithmetic, Bounds, arithmetic_for, clamp
from streamseg.convert._tflite_quantization import FLOAT16, FLOAT32, INT8, INT32, INT64, UINT8
from streamseg.convert._tflite_schema import Operator
from streamseg.errors import ModelError

ADVICE = "use another export of the model"
_MAX_INTEGERS = 64
"""Of one constant that is no weight: a shape, paddings, sizes of parts."""
_KINDS: dict[int, np.dtype[Any]] = {
    FLOAT32: np.dtype("<f4"),
    FLOAT16: np.dtype("<f2"),
    INT32: np.dtype("<i4"),
    UINT8: np.dtype("u1"),
    INT8: np.dtype("i1"),
}


class Step(nn.Module):  # type: ignore[misc]  # torch is read without types
    """One operator: a function, its weights, and what becomes of its result.

    Args:
        function: Takes the inputs and the weights.
        inputs: Tensor indices.
        output: Tensor index.
        weights: Constants.
        bounds: Of the result; every activation that can be fused is a clamp.
        scales: Of the weights where they are integers, for each output channel or for all.
    """

    def __init__(
        self,
        function: Callable[..., Tensor],
        inputs: Sequence[int],
        output: int,
        weights: Sequence[Tensor] = (),
        bounds: Bounds | None = None,
        scales: Tensor | None = None,
    ) -> None:
        super().__init__()
        self._function = function
        self.bounds = bounds
        self.inputs = tuple(inputs)
        self.output = output
        self.weight_scales = scales
        self.weights = nn.ParameterList(nn.Parameter(w, requires_grad=False) for w in weights)
        self._arithmetic: Arithmetic | None = None

    def use(self, arithmetic: Arithmetic) -> None:
        """Have the step compute on the integers of quantised tensors."""
        self._arithmetic = arithmetic

    def forward(self, *values: Tensor) -> Tensor:
        if self._arithmetic is None:
            return clamp(self._function(*values, *self.weights), self.bounds)
        values = self._arithmetic.enter(values)
        return self._arithmetic.leave(self._function(*values, *self.weights))


class Builder:
    """Turns operators into steps, knowing what was computed before."""

    def __init__(self, parsed: schema.Schema) -> None:
        self._parsed = parsed
        self._constants: dict[int, Tensor] = {}
        self._computed = set(parsed.inputs)

    def check(self, op: Operator, step: Step) -> None:
        """Run the step without data and compare with the declared shape."""
        meta = torch.device("meta")
        weights = {name: w.to(meta) for name, w in step.named_parameters()}
        images = tuple(torch.empty(self.shape(i, op), device=meta) for i in step.inputs)
        declared = self.shape(step.output, op)
        try:
            result = torch.func.functional_call(step, weights, images)
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise ModelError(f"{op} does not fit its inputs: {reason}: {ADVICE}") from error
        if tuple(result.shape) != declared:
            raise ModelError(
                f"{op} gives shape {list(result.shape)}, the file declares {list(declared)} "
                f"(NCHW): {ADVICE}"
            )
        if step.output in self._computed or self._parsed.tensors[step.output].data:
            raise ModelError(f"{op} writes a tensor that has a value already: {ADVICE}")
        self._computed.add(step.output)

    def computed(self, index: int, user: object) -> int:
        """Return the index of a tensor that an earlier operator computed."""
        if index not in self._computed:
            raise ModelError(f"{user} needs tensor {index}, which nothing computes: {ADVICE}")
        return index

    def is_computed(self, index: int) -> bool:
        """Tell whether an earlier operator computed the tensor."""
        return index in self._computed

    def shape(self, index: int, user: object) -> tuple[int, ...]:
        """Return the declared shape of a tensor of real numbers, as the module has it."""
        tensor = self._parsed.tensors[index]
        if not tensor.is_real:
            raise ModelError(
                f"{user} uses a {tensor.type_name} tensor of shape {list(tensor.shape)}, "
                "expected float32, or uint8 or int8 with a scale: use a float export of the model"
            )
        return layout.module_shape(tensor.shape)

    def nchw(self, index: int, user: object) -> tuple[int, int, int, int]:
        """Return the declared shape of a tensor of pictures, in NCHW."""
        shape = self.shape(index, user)
        if len(shape) != layout.PICTURE_RANK:
            raise ModelError(
                f"{user} uses a tensor of shape {list(shape)}, expected [N, H, W, C]: {ADVICE}"
            )
        batch, channels, height, width = shape
        return batch, channels, height, width

    def file_shape(self, index: int) -> tuple[int, ...]:
        """Return the declared shape of a tensor, in the file's order of axes."""
        return self._parsed.tensors[index].shape

    def is_float(self, index: int) -> bool:
        """Tell whether a tensor is of float32."""
        return self._parsed.tensors[index].type_code == FLOAT32

    def floats(
        self, op: Operator, position: int, rank: int | None = None, *, raw: bool = False
    ) -> Tensor:
        """Return a constant that is the operator's input at `position`, as float32.

        Args:
            op: The operator.
            position: Among its inputs.
            rank: How many axes it must have.
            raw: Whether a quantised one is wanted as its integers, less their zero points.
        """
        index = op.inputs[position]
        if raw:
            constant = self._read(op, index, raw=True)
        else:
            if index not in self._constants:
                self._constants[index] = self._read(op, index)
            constant = self._constants[index]
        if rank is not None and constant.ndim != rank:
            raise ModelError(
                f"{op} has a constant of shape {list(constant.shape)} as input {position}, "
                f"expected {rank} axes: {ADVICE}"
            )
        return constant

    def integers(self, op: Operator, position: int) -> list[int]:
        """Return an integer vector that is the operator's constant input at `position`."""
        tensor = self._parsed.tensors[op.inputs[position]]
        count = math.prod(tensor.shape)
        letter, size = {INT32: ("i", 4), INT64: ("q", 8)}.get(tensor.type_code, ("", 0))
        if not letter or len(tensor.data) != size * count or count > _MAX_INTEGERS:
            raise ModelError(f"{op} needs constant int32 values as input {position}: {ADVICE}")
        return list(struct.unpack(f"<{count}{letter}", tensor.data))

    def weights(
        self, op: Operator, source: int, axis: int, bias_at: int = 2
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return the kernel and the bias of a convolution, and the kernel's scales.

        The kernel is the second input. Without a bias, which may be left out, it is 0. Where the
        picture at `source` and the kernel are quantised, both are integers, less their zero points,
        and there are scales: one, or one a channel, [n], which lie along `axis` of the kernel.
        Elsewhere all is real.
        """
        kernel = self._parsed.tensors[op.inputs[1]]
        has_bias = len(op.inputs) > bias_at and op.inputs[bias_at] != -1
        quantised = kernel.quantization
        if self._parsed.tensors[source].quantization is None or quantised is None:
            real = self.floats(op, 1, 4)
            bias = self.floats(op, bias_at, 1) if has_bias else torch.zeros(real.shape[axis])
            return real, bias, None
        if len(quantised.scales) > 1 and quantised.axis != axis:
            raise ModelError(
                f"{op} has scales along axis {quantised.axis} of its kernel, expected "
                f"{axis}, its outputs: {ADVICE}"
            )
        integers = self.floats(op, 1, 4, raw=True)
        bias = torch.zeros(integers.shape[axis])
        if has_bias:
            given = self._parsed.tensors[op.inputs[bias_at]]
            if given.type_code != INT32 or given.quantization is None:
                raise ModelError(f"{op} has a bias of {given.type_name}, expected int32: {ADVICE}")
            bias = self.floats(op, bias_at, 1, raw=True)
        return integers, bias, torch.tensor(quantised.scales, dtype=torch.float32)

    def quantise(self, op: Operator, step: Step) -> None:
        """Have the step take and give the integers of those tensors that are quantised."""
        sources = [self._parsed.tensors[i].quantization for i in step.inputs]
        target = self._parsed.tensors[step.output]
        if target.quantization is None and not any(sources):
            return
        scales = [1.0 if source is None else source.scales[0] for source in sources]
        scale = 1.0 if target.quantization is None else target.quantization.scales[0]
        limits = None
        if target.quantization is not None:
            limits = target.quantization.limits(target.type_code)
        step.use(arithmetic_for(op.name, scales, scale, step.weight_scales, limits, step.bounds))

    def scale(self, index: int) -> float | None:
        """Return what a unit of a computed tensor stands for, None where it is not quantised."""
        quantised = self._parsed.tensors[index].quantization
        return None if quantised is None else quantised.scales[0]

    def input_arithmetic(self, index: int) -> Arithmetic | None:
        """Return what makes a graph's real input the integers that the graph takes."""
        tensor = self._parsed.tensors[index]
        if tensor.quantization is None:
            return None
        limits = tensor.quantization.limits(tensor.type_code)
        return arithmetic_for("QUANTIZE", [1.0], tensor.quantization.scales[0], None, limits, None)

    def unpack(self, op: Operator) -> None:
        """Take a DEQUANTIZE of a constant: weights of few bits to float32."""
        expect_inputs(op, 1)
        if len(op.outputs) != 1:
            raise ModelError(f"{op} has {len(op.outputs)} outputs, expected 1: {ADVICE}")
        source, target = op.inputs[0], op.outputs[0]
        if self._parsed.tensors[source].shape != self._parsed.tensors[target].shape:
            raise ModelError(f"{op} changes the shape of its constant: {ADVICE}")
        self._constants[target] = self._read(op, source)

    def _read(self, op: Operator, index: int, *, raw: bool = False) -> Tensor:
        tensor = self._parsed.tensors[index]
        kind = _KINDS.get(tensor.type_code)
        quantised = tensor.type_code not in (FLOAT32, FLOAT16)
        if (
            kind is None
            or not tensor.data
            or index in self._computed
            or (quantised and tensor.quantization is None)
        ):
            raise ModelError(
                f"{op} needs tensor {index} to be a constant of float32, float16, or of integers "
                f"with a scale; it is {'a' if tensor.data else 'no'} constant of "
                f"{tensor.type_name}: use a float export of the model"
            )
        if len(tensor.data) != math.prod(tensor.shape) * kind.itemsize:
            raise ModelError(
                f"{op} has a constant of {len(tensor.data)} bytes for shape "
                f"{list(tensor.shape)} of {tensor.type_name}: fetch the file again"
            )
        array = np.frombuffer(tensor.data, kind).reshape(tensor.shape)
        if tensor.quantization is not None:
            return torch.from_numpy(tensor.quantization.to_float(array, scaled=not raw))
        return torch.from_numpy(array.astype(np.float32))


def expect_inputs(op: Operator, count: int, *, optional: int = 0) -> None:
    """Refuse an operator with another number of inputs; the last ones may be left out."""
    given = len(op.inputs)
    if not count - optional <= given <= count or -1 in op.inputs[: count - optional]:
        raise ModelError(f"{op} has inputs {list(op.inputs)}, expected {count}: {ADVICE}")
