"""Writes small .tflite files, so that the converter is tested without a model at hand.

Source of the field numbers: the TensorFlow Lite schema, version 3.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import flatbuffers
import numpy as np
import pytest

OPERATOR_CODES = {
    "ADD": 0,
    "AVERAGE_POOL_2D": 1,
    "CONCATENATION": 2,
    "CONV_2D": 3,
    "DEPTHWISE_CONV_2D": 4,
    "DEQUANTIZE": 6,
    "LOGISTIC": 14,
    "MUL": 18,
    "RELU": 19,
    "RESHAPE": 22,
    "RESIZE_BILINEAR": 23,
    "MEAN": 40,
    "CAST": 53,
    "ARG_MAX": 56,
    "QUANTIZE": 114,
    "HARD_SWISH": 117,
}
OPTIONS = {
    "CONV_2D": 1,
    "DEPTHWISE_CONV_2D": 2,
    "AVERAGE_POOL_2D": 5,
    "CONCATENATION": 10,
    "ADD": 11,
    "RESIZE_BILINEAR": 15,
    "MUL": 21,
    "MEAN": 27,
    "ARG_MAX": 40,
}
TYPES = {"float32": 0, "float16": 1, "int32": 2, "uint8": 3, "int64": 4, "int8": 9}


@dataclass
class Graph:
    """A graph to write: tensor 0 is the input, the last operator's output is the output.

    Options are (field, struct letter, value): "b" int8, "i" int32, "?" bool.
    """

    tensors: list[tuple[tuple[int, ...], str, np.ndarray | None]] = field(default_factory=list)
    operators: list[tuple[str, list[int], int, list[tuple[int, str, int]], bytes]] = field(
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
        output: int,
        options: Sequence[tuple[int, str, int]] = (),
        custom: bytes = b"",
    ) -> None:
        self.operators.append((name, inputs, output, list(options), custom))

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
        for index, (name, inputs, output, options, custom) in enumerate(self.operators):
            fields = [
                (0, "I", index),
                (1, "offset", _ints(b, inputs)),
                (2, "offset", _ints(b, [output])),
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
                (2, "offset", _ints(b, [self.operators[-1][2]])),
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
        return _table(b, [(0, "b", code), (2, "i", 1), (3, "i", code)])
    return _table(b, [(0, "b", 32), (1, "offset", b.CreateString(name)), (3, "i", 32)])


def _table(b: flatbuffers.Builder, fields: Sequence[tuple[int, str, int]]) -> int:
    b.StartObject(max((f for f, _, _ in fields), default=0) + 1)
    for slot, kind, value in fields:
        if kind == "offset":
            b.PrependUOffsetTRelativeSlot(slot, value, 0)
        elif kind == "b":
            b.PrependInt8Slot(slot, value, -128)
        elif kind == "B":
            b.PrependUint8Slot(slot, value, 255)
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


@pytest.fixture
def graph() -> Graph:
    return Graph()


@pytest.fixture
def save(tmp_path: Path) -> Callable[[Graph], Path]:
    """Write a graph to a file."""

    def write(graph: Graph) -> Path:
        path = tmp_path / "model.tflite"
        path.write_bytes(graph.to_bytes())
        return path

    return write
