"""The parts of the TensorFlow Lite file format that a segmentation model uses.

Source: the TensorFlow Lite schema, version 3 (`schema.fbs`); field numbers are positions
in its table declarations, operator codes are positions in its `BuiltinOperator`.
"""

import math
from dataclasses import dataclass

from streamseg.convert._flatbuffer import Table
from streamseg.convert._tflite_quantization import (
    FLOAT32,
    INT8,
    UINT8,
    Quantization,
    read_quantization,
)
from streamseg.errors import ModelError

MAX_OPERATORS = 20_000
MAX_TENSORS = 100_000
MAX_TENSOR_ELEMENTS = 1 << 26
"""Elements of one tensor: 256 MiB of float32, far above any model for live video."""
MAX_CONSTANT_BYTES = 1 << 30
"""Of all tensors together; tensors may share a buffer, so the file's size does not bound it."""
_MAX_AXES = 8
_MAX_GRAPHS = 64
_MAX_OPERANDS = 1024
_MAX_NAME = 80

_TYPE_NAMES = (
    "float32 float16 int32 uint8 int64 string bool int16 complex64 int8 float64 complex128 "
    "uint64 resource variant uint32 uint16 int4 bfloat16"
).split()

_CUSTOM = "CUSTOM"
CUSTOM_PREFIX = "CUSTOM "
"""Before a custom operator's own name, so that none passes for a builtin one."""
_OPERATOR_NAMES = (
    "ADD AVERAGE_POOL_2D CONCATENATION CONV_2D DEPTHWISE_CONV_2D DEPTH_TO_SPACE DEQUANTIZE "
    "EMBEDDING_LOOKUP FLOOR FULLY_CONNECTED HASHTABLE_LOOKUP L2_NORMALIZATION L2_POOL_2D "
    "LOCAL_RESPONSE_NORMALIZATION LOGISTIC LSH_PROJECTION LSTM MAX_POOL_2D MUL RELU "
    "RELU_N1_TO_1 RELU6 RESHAPE RESIZE_BILINEAR RNN SOFTMAX SPACE_TO_DEPTH SVDF TANH "
    "CONCAT_EMBEDDINGS SKIP_GRAM CALL CUSTOM EMBEDDING_LOOKUP_SPARSE PAD "
    "UNIDIRECTIONAL_SEQUENCE_RNN GATHER BATCH_TO_SPACE_ND SPACE_TO_BATCH_ND TRANSPOSE MEAN SUB "
    "DIV SQUEEZE UNIDIRECTIONAL_SEQUENCE_LSTM STRIDED_SLICE BIDIRECTIONAL_SEQUENCE_RNN EXP "
    "TOPK_V2 SPLIT LOG_SOFTMAX DELEGATE BIDIRECTIONAL_SEQUENCE_LSTM CAST PRELU MAXIMUM ARG_MAX "
    "MINIMUM LESS NEG PADV2 GREATER GREATER_EQUAL LESS_EQUAL SELECT SLICE SIN TRANSPOSE_CONV "
    "SPARSE_TO_DENSE TILE EXPAND_DIMS EQUAL NOT_EQUAL LOG SUM SQRT RSQRT SHAPE POW ARG_MIN "
    "FAKE_QUANT REDUCE_PROD REDUCE_MAX PACK LOGICAL_OR ONE_HOT LOGICAL_AND LOGICAL_NOT UNPACK "
    "REDUCE_MIN FLOOR_DIV REDUCE_ANY SQUARE ZEROS_LIKE FILL FLOOR_MOD RANGE "
    "RESIZE_NEAREST_NEIGHBOR LEAKY_RELU SQUARED_DIFFERENCE MIRROR_PAD ABS SPLIT_V UNIQUE CEIL "
    "REVERSE_V2 ADD_N GATHER_ND COS WHERE RANK ELU REVERSE_SEQUENCE MATRIX_DIAG QUANTIZE "
    "MATRIX_SET_DIAG ROUND HARD_SWISH IF WHILE NON_MAX_SUPPRESSION_V4 NON_MAX_SUPPRESSION_V5 "
    "SCATTER_ND SELECT_V2 DENSIFY SEGMENT_SUM BATCH_MATMUL PLACEHOLDER_FOR_GREATER_OP_CODES CUMSUM "
    "CALL_ONCE BROADCAST_TO RFFT2D CONV_3D IMAG REAL COMPLEX_ABS HASHTABLE HASHTABLE_FIND "
    "HASHTABLE_IMPORT HASHTABLE_SIZE REDUCE_ALL CONV_3D_TRANSPOSE VAR_HANDLE READ_VARIABLE "
    "ASSIGN_VARIABLE BROADCAST_ARGS RANDOM_STANDARD_NORMAL BUCKETIZE RANDOM_UNIFORM MULTINOMIAL "
    "GELU DYNAMIC_UPDATE_SLICE RELU_0_TO_1"
).split()

# What an operator's options table must be tagged as, so that no other table is read as it.
OPTIONS_TAGS = {
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
    "STRIDED_SLICE": 32,
    "TRANSPOSE_CONV": 49,
    "RESIZE_NEAREST_NEIGHBOR": 74,
    "LEAKY_RELU": 75,
    "MIRROR_PAD": 77,
    "DEPTH_TO_SPACE": 94,
    "BATCH_MATMUL": 101,
    "GELU": 116,
}


@dataclass(frozen=True, eq=False)
class Tensor:
    """One tensor of a graph.

    Attributes:
        shape: Sizes in the file's own order, NHWC for pictures.
        type_code: `FLOAT32` of `_tflite_quantization` or another code of the schema.
        data: The constant's bytes, little-endian; empty for a computed tensor.
        quantization: What its integers stand for; None for floats and plain integers.
    """

    shape: tuple[int, ...]
    type_code: int
    data: bytes
    quantization: Quantization | None = None

    @property
    def type_name(self) -> str:
        """The element type in words."""
        known = 0 <= self.type_code < len(_TYPE_NAMES)
        return _TYPE_NAMES[self.type_code] if known else f"type {self.type_code}"

    @property
    def is_real(self) -> bool:
        """Whether its values are, or stand for, real numbers."""
        if self.type_code in (UINT8, INT8):
            return self.quantization is not None and len(self.quantization.scales) == 1
        return self.type_code == FLOAT32

    @property
    def is_picture(self) -> bool:
        """Whether it is [1, H, W, C] of real numbers."""
        return len(self.shape) == 4 and self.shape[0] == 1 and self.is_real


@dataclass(frozen=True, eq=False)
class Operator:
    """One operator of a graph.

    Attributes:
        index: Position in the file, for messages.
        name: The schema's name, or `CUSTOM_PREFIX` and the custom operator's own.
        inputs: Tensor indices; -1 for an optional input that is absent.
        outputs: Tensor indices.
        options: The builtin options, None where absent or of another operator.
        custom_options: The bytes that a custom operator brings.
    """

    index: int
    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Table | None
    custom_options: bytes

    def __str__(self) -> str:
        return f"{self.name} (operator {self.index})"

    def option(self, field: int, kind: str, default: int = 0) -> int:
        """Return one builtin option; the schema's default where the table is absent."""
        return default if self.options is None else self.options.number(field, kind, default)

    def real_option(self, field: int, default: float) -> float:
        """Return one builtin option that is a float32."""
        return default if self.options is None else self.options.real(field, default)


@dataclass(frozen=True, eq=False)
class Schema:
    """What a file holds: one graph, in the order of execution.

    Attributes:
        description: The file's own words about itself.
        tensors: All of the graph.
        operators: In the order of execution.
        inputs: Tensor indices.
        outputs: Tensor indices.
        metadata: The bytes of the file's metadata, a FlatBuffer of its own; empty where absent.
    """

    description: str
    tensors: tuple[Tensor, ...]
    operators: tuple[Operator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    metadata: bytes


def parse(data: bytes) -> Schema:
    """Read a .tflite file.

    Raises:
        ModelError: The file is damaged, of another format or version, or holds more than
            one graph.
    """
    root = Table.root(data, b"TFL3")
    version = root.number(0, "I")
    if version != 3:
        raise ModelError(f"schema version is {version}, expected 3: convert the model again")
    graphs = list(root.tables(2, _MAX_GRAPHS))
    if len(graphs) != 1:
        raise ModelError(f"file holds {len(graphs)} graphs, expected 1: use a plain model")
    graph = graphs[0]
    buffers = _read_buffers(root, len(data))
    tensors = tuple(_tensor(table, buffers) for table in graph.tables(0, MAX_TENSORS))
    if sum(len(tensor.data) for tensor in tensors) > MAX_CONSTANT_BYTES:
        raise ModelError(f"constants are over {MAX_CONSTANT_BYTES} bytes: use a smaller model")
    codes = [_operator_name(table) for table in root.tables(1, MAX_OPERATORS)]
    operators = tuple(
        _operator(index, table, codes, len(tensors))
        for index, table in enumerate(graph.tables(3, MAX_OPERATORS))
    )
    return Schema(
        description=root.raw(3).decode("utf-8", errors="replace"),
        tensors=tensors,
        operators=operators,
        inputs=_indices(graph.numbers(1, "i", _MAX_OPERANDS), len(tensors), 0),
        outputs=_indices(graph.numbers(2, "i", _MAX_OPERANDS), len(tensors), 0),
        metadata=_metadata(root, buffers),
    )


def _read_buffers(root: Table, file_bytes: int) -> list[bytes]:
    buffers: list[bytes] = []
    total = 0
    for table in root.tables(4, MAX_TENSORS):
        buffers.append(table.raw(0))
        # Only buffers that overlap are larger together than the file; none honest does.
        total += len(buffers[-1])
        if total > file_bytes:
            raise ModelError("file is damaged: its buffers overlap: fetch the file again")
    return buffers


def _metadata(root: Table, buffers: list[bytes]) -> bytes:
    for table in root.tables(6, _MAX_GRAPHS):
        buffer = table.number(1, "I")
        if table.raw(0) == b"TFLITE_METADATA" and buffer < len(buffers):
            return buffers[buffer]
    return b""


def _tensor(table: Table, buffers: list[bytes]) -> Tensor:
    shape = table.numbers(0, "i", _MAX_AXES)
    if any(size < 1 for size in shape) or math.prod(shape) > MAX_TENSOR_ELEMENTS:
        raise ModelError(
            f"a tensor has shape {list(shape)}, expected fixed sizes and at most "
            f"{MAX_TENSOR_ELEMENTS} elements: convert the model with a fixed input size"
        )
    if table.table(6) is not None:
        raise ModelError("a tensor is stored sparse: convert the model with dense weights")
    buffer = table.number(2, "I")
    if buffer >= max(len(buffers), 1):
        raise ModelError(f"file is damaged: no buffer {buffer}: fetch the file again")
    type_code = table.number(1, "b")
    quantised = read_quantization(table.table(4), shape, type_code)
    # Buffer 0 is the empty one by convention, whatever the file says.
    return Tensor(shape, type_code, buffers[buffer] if buffer else b"", quantised)


def _operator_name(table: Table) -> str:
    # The older of the two fields is one byte and holds 127 for every later operator.
    code = max(table.number(0, "b"), table.number(3, "i"))
    if not 0 <= code < len(_OPERATOR_NAMES):
        return f"builtin operator {code}"
    name = _OPERATOR_NAMES[code]
    if name != _CUSTOM:
        return name
    custom = table.raw(1)[:_MAX_NAME].decode("utf-8", errors="replace")
    printable = "".join(c if c.isprintable() else "?" for c in custom)
    return f"{CUSTOM_PREFIX}{printable}"


def _operator(index: int, table: Table, codes: list[str], tensors: int) -> Operator:
    code = table.number(0, "I")
    if code >= len(codes):
        raise ModelError(f"file is damaged: no operator code {code}: fetch the file again")
    name = codes[code]
    tagged = name in OPTIONS_TAGS and table.number(3, "B") == OPTIONS_TAGS[name]
    return Operator(
        index=index,
        name=name,
        inputs=_indices(table.numbers(1, "i", _MAX_OPERANDS), tensors, -1),
        outputs=_indices(table.numbers(2, "i", _MAX_OPERANDS), tensors, 0),
        options=table.table(4) if tagged else None,
        custom_options=table.raw(5),
    )


def _indices(values: tuple[int, ...], tensors: int, lowest: int) -> tuple[int, ...]:
    for value in values:
        if not lowest <= value < tensors:
            raise ModelError(f"file is damaged: no tensor {value}: fetch the file again")
    return values
