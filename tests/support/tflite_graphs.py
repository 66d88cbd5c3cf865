"""Writes small .tflite files, so that the converter is tested without a model at hand.

Source of the field numbers: the TensorFlow Lite schema, version 3.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import flatbuffers
import numpy as np

OPERATOR_CODES = {
    "ADD": 0,
    "AVERAGE_POOL_2D": 1,
    "CONCATENATION": 2,
    "CONV_2D": 3,
    "DEPTHWISE_CONV_2D": 4,
    "DEPTH_TO_SPACE": 5,
    "DEQUANTIZE": 6,
    "FLOOR": 8,
    "FULLY_CONNECTED": 9,
    "LOGISTIC": 14,
    "MAX_POOL_2D": 17,
    "MUL": 18,
    "RELU": 19,
    "RELU_N1_TO_1": 20,
    "RELU6": 21,
    "RESHAPE": 22,
    "RESIZE_BILINEAR": 23,
    "SOFTMAX": 25,
    "SPACE_TO_DEPTH": 26,
    "TANH": 28,
    "PAD": 34,
    "GATHER": 36,
    "BATCH_TO_SPACE_ND": 37,
    "SPACE_TO_BATCH_ND": 38,
    "TRANSPOSE": 39,
    "MEAN": 40,
    "SUB": 41,
    "DIV": 42,
    "SQUEEZE": 43,
    "STRIDED_SLICE": 45,
    "EXP": 47,
    "SPLIT": 49,
    "LOG_SOFTMAX": 50,
    "CAST": 53,
    "PRELU": 54,
    "MAXIMUM": 55,
    "ARG_MAX": 56,
    "MINIMUM": 57,
    "NEG": 59,
    "PADV2": 60,
    "SLICE": 65,
    "SIN": 66,
    "TRANSPOSE_CONV": 67,
    "TILE": 69,
    "EXPAND_DIMS": 70,
    "LOG": 73,
    "SUM": 74,
    "SQRT": 75,
    "RSQRT": 76,
    "REDUCE_MAX": 82,
    "REDUCE_MIN": 89,
    "SQUARE": 92,
    "RESIZE_NEAREST_NEIGHBOR": 97,
    "LEAKY_RELU": 98,
    "SQUARED_DIFFERENCE": 99,
    "MIRROR_PAD": 100,
    "ABS": 101,
    "SPLIT_V": 102,
    "CEIL": 104,
    "COS": 108,
    "ELU": 111,
    "QUANTIZE": 114,
    "HARD_SWISH": 117,
    "BATCH_MATMUL": 126,
    "BROADCAST_TO": 130,
    "GELU": 150,
}
_OLDEST_THAT_NEEDS_THE_NEW_FIELD = 127
OPTIONS = {
    "CONV_2D": 1,
    "DEPTHWISE_CONV_2D": 2,
    "AVERAGE_POOL_2D": 5,
    "MAX_POOL_2D": 5,
    "FULLY_CONNECTED": 8,
    "SOFTMAX": 9,
    "CONCATENATION": 10,
    "ADD": 11,
    "RESIZE_BILINEAR": 15,
    "SPACE_TO_DEPTH": 19,
    "MUL": 21,
    "MEAN": 27,
    "REDUCE_MAX": 27,
    "REDUCE_MIN": 27,
    "SUM": 27,
    "SUB": 28,
    "DIV": 29,
    "SQUEEZE": 30,
    "STRIDED_SLICE": 32,
    "SPLIT": 35,
    "CAST": 37,
    "ARG_MAX": 40,
    "TRANSPOSE_CONV": 49,
    "RESIZE_NEAREST_NEIGHBOR": 74,
    "LEAKY_RELU": 75,
    "MIRROR_PAD": 77,
    "SPLIT_V": 79,
    "DEPTH_TO_SPACE": 94,
    "BATCH_MATMUL": 101,
    "GELU": 116,
}
VERSIONS = {"BROADCAST_TO": 2}
TYPES = {"float32": 0, "float16": 1, "int32": 2, "uint8": 3, "int64": 4, "int8": 9}


@dataclass
class Graph:
    """A graph to write: tensor 0 is the input, the last operator's output is the output.

    An operator of a name that is not in `OPERATOR_CODES`, or that begins with "CUSTOM ", is custom.
    Options are (field, struct letter, value): "b" int8, "i" int32, "f" float32, "?" bool.
    """

    tensors: list[tuple[tuple[int, ...], str, np.ndarray | None]] = field(default_factory=list)
    operators: list[tuple[str, list[int], list[int], list[tuple[int, str, float]], bytes]] = field(
        default_factory=list
    )
    scales: dict[int, tuple[list[float], list[int], int]] = field(default_factory=dict)
    metadata: bytes = b""

    def value(self, *shape: int, dtype: str = "float32") -> int:
        self.tensors.append((shape, dtype, None))
        return len(self.tensors) - 1

    def constant(self, array: np.ndarray) -> int:
        self.tensors.append((array.shape, str(array.dtype), array))
        return len(self.tensors) - 1

    def quantise(
        self, index: int, scales: list[float], zero_points: list[int], axis: int = 0
    ) -> int:
        """Say what the integers of a tensor stand for."""
        self.scales[index] = (scales, zero_points, axis)
        return index

    def add(
        self,
        name: str,
        inputs: list[int],
        output: int | list[int],
        options: Sequence[tuple[int, str, float]] = (),
        custom: bytes = b"",
    ) -> None:
        outputs = output if isinstance(output, list) else [output]
        self.operators.append((name, inputs, outputs, list(options), custom))

    def to_bytes(self) -> bytes:
        b = flatbuffers.Builder(4096)
        buffers = [_table(b, [])]
        tensors = []
        for index, (shape, dtype, array) in enumerate(self.tensors):
            buffer = 0
            if array is not None:
                buffer = len(buffers)
                buffers.append(_table(b, [(0, "offset", _bytes(b, array.tobytes()))]))
            fields = [
                (0, "offset", _ints(b, shape)),
                (1, "b", TYPES[dtype]),
                (2, "I", buffer),
            ]
            if index in self.scales:
                scales, zero_points, axis = self.scales[index]
                parameters = [
                    (2, "offset", b.CreateNumpyVector(np.array(scales, np.float32))),
                    (3, "offset", b.CreateNumpyVector(np.array(zero_points, np.int64))),
                    (6, "i", axis),
                ]
                fields.append((4, "offset", _table(b, parameters)))
            tensors.append(_table(b, fields))
        metadata = []
        if self.metadata:
            content = _table(b, [(0, "offset", _bytes(b, self.metadata))])
            name = b.CreateString("TFLITE_METADATA")
            metadata.append(_table(b, [(0, "offset", name), (1, "I", len(buffers))]))
            buffers.append(content)
        codes = [_operator_code(b, name) for name, *_ in self.operators]
        operators = []
        for index, (name, inputs, outputs, options, custom) in enumerate(self.operators):
            fields = [
                (0, "I", index),
                (1, "offset", _ints(b, inputs)),
                (2, "offset", _ints(b, outputs)),
            ]
            if name in OPTIONS:
                fields += [(3, "B", OPTIONS[name]), (4, "offset", _table(b, options))]
            if custom:
                fields += [(5, "offset", _bytes(b, custom))]
            operators.append(_table(b, fields))
        graph = _table(
            b,
            [
                (0, "offset", _offsets(b, tensors)),
                (1, "offset", _ints(b, [0])),
                (2, "offset", _ints(b, self.operators[-1][2][-1:])),
                (3, "offset", _offsets(b, operators)),
            ],
        )
        root = _table(
            b,
            [
                (0, "I", 3),
                (1, "offset", _offsets(b, codes)),
                (2, "offset", _offsets(b, [graph])),
                (3, "offset", b.CreateString("written by a test")),
                (4, "offset", _offsets(b, buffers)),
                (6, "offset", _offsets(b, metadata)),
            ],
        )
        b.Finish(root, file_identifier=b"TFL3")
        return bytes(b.Output())


def _operator_code(b: flatbuffers.Builder, name: str) -> int:
    if name in OPERATOR_CODES:
        code = OPERATOR_CODES[name]
        older = min(code, _OLDEST_THAT_NEEDS_THE_NEW_FIELD)
        return _table(b, [(0, "b", older), (2, "i", VERSIONS.get(name, 1)), (3, "i", code)])
    custom = b.CreateString(name.removeprefix("CUSTOM "))
    return _table(b, [(0, "b", 32), (1, "offset", custom), (3, "i", 32)])


def _table(b: flatbuffers.Builder, fields: Sequence[tuple[int, str, float]]) -> int:
    b.StartObject(max((f for f, _, _ in fields), default=0) + 1)
    for slot, kind, value in fields:
        if kind == "offset":
            b.PrependUOffsetTRelativeSlot(slot, value, 0)
        elif kind == "b":
            b.PrependInt8Slot(slot, value, -128)
        elif kind == "B":
            b.PrependUint8Slot(slot, value, 255)
        elif kind == "f":
            b.PrependFloat32Slot(slot, value, float("inf"))
        elif kind == "?":
            b.PrependBoolSlot(slot, bool(value), None)
        elif kind == "i":
            b.PrependInt32Slot(slot, value, -(2**31))
        else:
            b.PrependUint32Slot(slot, value, 2**32 - 1)
    return b.EndObject()


def _ints(b: flatbuffers.Builder, values: Sequence[int]) -> int:
    return b.CreateNumpyVector(np.array(values, dtype=np.int32))


def _bytes(b: flatbuffers.Builder, content: bytes) -> int:
    # Constants are aligned to 16 bytes, as the schema asks for and LiteRT checks.
    b.StartVector(1, len(content), 16)
    b.head -= len(content)
    b.Bytes[b.head : b.head + len(content)] = content
    return b.EndVector()


def _offsets(b: flatbuffers.Builder, values: Sequence[int]) -> int:
    b.StartVector(4, len(values), 4)
    for value in reversed(values):
        b.PrependUOffsetTRelative(value)
    return b.EndVector()
