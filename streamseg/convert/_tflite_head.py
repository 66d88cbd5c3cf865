"""Where a rebuilt graph ends, before the choice of a class if the file makes it, and in what."""

import struct

from streamseg.convert._tflite_quantization import INT32, INT64
from streamseg.convert._tflite_schema import Operator, Schema, Tensor
from streamseg.errors import ModelError

_PROBABILITIES = ("LOGISTIC", "SOFTMAX")
# Probabilities that go through these are still between 0 and 1.
_HARMLESS = {
    "AVERAGE_POOL_2D",
    "BATCH_TO_SPACE_ND",
    "CAST",
    "DEPTH_TO_SPACE",
    "DEQUANTIZE",
    "EXPAND_DIMS",
    "MAX_POOL_2D",
    "QUANTIZE",
    "RESHAPE",
    "RESIZE_BILINEAR",
    "RESIZE_NEAREST_NEIGHBOR",
    "SLICE",
    "SQUEEZE",
    "STRIDED_SLICE",
    "TRANSPOSE",
}
_SCALARS = {INT32: ("<i", 4), INT64: ("<q", 8)}


def scores_of(parsed: Schema) -> tuple[tuple[Operator, ...], int]:
    """Return the operators to run and the index of the tensor that is the result.

    A graph may end with an ARG_MAX over the classes, and a CAST of what it gives. Both are left
    out: the class is still the index of the largest channel, the lowest one of several, and there
    are scores besides.

    Args:
        parsed: A graph of one output.

    Raises:
        ModelError: The ARG_MAX is not over the classes.
    """
    index = parsed.outputs[0]
    made_by = {op.outputs[0]: op for op in parsed.operators if len(op.outputs) == 1}
    last = made_by.get(index)
    dropped = set()
    if last is not None and last.name == "CAST" and last.inputs and last.inputs[0] in made_by:
        dropped.add(last.index)
        last = made_by[last.inputs[0]]
    if last is None or last.name != "ARG_MAX":
        return parsed.operators, index
    dropped.add(last.index)
    if len(last.inputs) != 2 or -1 in last.inputs:
        raise ModelError(f"{last} has inputs {list(last.inputs)}, expected 2: use another export")
    scores = parsed.tensors[last.inputs[0]]
    axis = _scalar(parsed.tensors[last.inputs[1]])
    if axis is None or axis not in (-1, len(scores.shape) - 1):
        raise ModelError(
            f"{last} is over the axis {axis} of {list(scores.shape)}, expected the last one: "
            "use another export of the model"
        )
    return tuple(op for op in parsed.operators if op.index not in dropped), last.inputs[0]


def gives_probabilities(parsed: Schema) -> bool:
    """Return whether the result of a graph of one output is between 0 and 1 already."""
    _, index = scores_of(parsed)
    made_by = {op.outputs[0]: op for op in parsed.operators if len(op.outputs) == 1}
    for _ in parsed.operators:  # a damaged file may have a cycle
        last = made_by.get(index)
        if last is None or last.name in _PROBABILITIES or last.name not in _HARMLESS:
            return last is not None and last.name in _PROBABILITIES
        if not last.inputs:
            return False
        index = last.inputs[0]
    return False


def _scalar(tensor: Tensor) -> int | None:
    form, size = _SCALARS.get(tensor.type_code, ("", 0))
    if not form or len(tensor.data) != size:
        return None
    value: int = struct.unpack(form, tensor.data)[0]
    return value
