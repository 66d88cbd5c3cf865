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

from streamseg.convert import _tflite_schema as schema
from streamseg.convert._tflite_schema import Operator
from streamseg.errors import ModelError

Activation = Callable[[Tensor], Tensor]
ADVICE = "use another export of the model"


class Step(nn.Module):  # type: ignore[misc]  # torch is read without types
    """One operator: a function, its weights, and an activation fused to it."""

    def __init__(
        self,
        function: Callable[..., Tensor],
        inputs: Sequence[int],
        output: int,
        weights: Sequence[Tensor] = (),
        activation: Activation | None = None,
    ) -> None:
        super().__init__()
        self._function = function
        self._activation = activation
        self.inputs = tuple(inputs)
        self.output = output
        self.weights = nn.ParameterList(nn.Parameter(w, requires_grad=False) for w in weights)

    def forward(self, *values: Tensor) -> Tensor:
        result = self._function(*values, *self.weights)
        return result if self._activation is None else self._activation(result)


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
        images = tuple(torch.empty(self.nchw(i, op), device=meta) for i in step.inputs)
        declared = self.nchw(step.output, op)
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

    def nchw(self, index: int, user: object) -> tuple[int, int, int, int]:
        """Return the declared shape of a float picture tensor, in NCHW."""
        tensor = self._parsed.tensors[index]
        if tensor.type_code != schema.FLOAT32 or len(tensor.shape) != 4 or tensor.shape[0] != 1:
            raise ModelError(
                f"{user} uses a {tensor.type_name} tensor of shape {list(tensor.shape)}, "
                "expected float32 [1, H, W, C]: use a float export of the model"
            )
        batch, height, width, channels = tensor.shape
        return batch, channels, height, width

    def floats(self, op: Operator, position: int, rank: int | None = None) -> Tensor:
        """Return a float32 constant that is the operator's input at `position`."""
        index = op.inputs[position]
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
        """Return an int32 vector that is the operator's constant input at `position`."""
        tensor = self._parsed.tensors[op.inputs[position]]
        count = math.prod(tensor.shape)
        if tensor.type_code != schema.INT32 or len(tensor.data) != 4 * count or count > 8:
            raise ModelError(f"{op} needs constant int32 values as input {position}: {ADVICE}")
        return list(struct.unpack(f"<{count}i", tensor.data))

    def unpack(self, op: Operator) -> None:
        """Take a DEQUANTIZE as what it is here: float16 weights to float32."""
        expect_inputs(op, 1)
        source, target = op.inputs[0], op.outputs[0]
        if self._parsed.tensors[source].shape != self._parsed.tensors[target].shape:
            raise ModelError(f"{op} changes the shape of its constant: {ADVICE}")
        self._constants[target] = self._read(op, source)

    def _read(self, op: Operator, index: int) -> Tensor:
        tensor = self._parsed.tensors[index]
        kinds: dict[int, np.dtype[Any]] = {
            schema.FLOAT32: np.dtype("<f4"),
            schema.FLOAT16: np.dtype("<f2"),
        }
        kind = kinds.get(tensor.type_code)
        if kind is None or not tensor.data or index in self._computed:
            raise ModelError(
                f"{op} needs tensor {index} to be a constant of float32 or float16, it is "
                f"{'a' if tensor.data else 'no'} constant of {tensor.type_name}: "
                "use a float export of the model"
            )
        if len(tensor.data) != math.prod(tensor.shape) * kind.itemsize:
            raise ModelError(
                f"{op} has a constant of {len(tensor.data)} bytes for shape "
                f"{list(tensor.shape)} of {tensor.type_name}: fetch the file again"
            )
        array = np.frombuffer(tensor.data, kind).astype(np.float32).reshape(tensor.shape)
        return torch.from_numpy(array)


def expect_inputs(op: Operator, count: int) -> None:
    if len(op.inputs) != count or -1 in op.inputs:
        raise ModelError(f"{op} has inputs {list(op.inputs)}, expected {count}: {ADVICE}")
