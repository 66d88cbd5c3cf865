"""TensorFlow Lite models as torch modules and ExecuTorch programs.

A float .tflite file with one picture as input and one as output is read, rebuilt as a
torch module, and exported:

    graph = load_tflite("model.tflite")
    module = to_module(graph)                      # [1, 3, H, W] -> [1, K, H', W']
    export_tflite("model.tflite", "model.pte")     # the same as a program
"""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from streamseg.convert import _tflite_schema as schema
from streamseg.errors import ModelError

if TYPE_CHECKING:
    from torch import nn

    from streamseg.convert.export import ExportReport

MAX_FILE_BYTES = 1 << 28
_MAX_SIDE_PX = 4096


@dataclass(frozen=True, eq=False)
class TFLiteGraph:
    """A parsed .tflite file; all shapes are those of the rebuilt module.

    Attributes:
        sha256: Of the file, in hexadecimal.
        description: The file's own words about itself, often which tool wrote it.
        input_size: (height, width) of the input in pixels.
        channels: Of the input; 3 for RGB.
        output_shape: (1, K, height, width) of the output.
        operator_counts: Operator name -> how many the graph has.
    """

    sha256: str
    description: str
    input_size: tuple[int, int]
    channels: int
    output_shape: tuple[int, int, int, int]
    operator_counts: dict[str, int]
    parsed: schema.Schema = field(repr=False)

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        """(1, channels, height, width)."""
        return (1, self.channels, *self.input_size)


def load_tflite(path: str | Path) -> TFLiteGraph:
    """Read and check a .tflite file; operators are checked by `to_module`.

    Args:
        path: The file, at most 256 MiB.

    Raises:
        ModelError: The file cannot be read, is damaged, or is no float32 graph from one
            [1, H, W, C] picture to one.

    Source: the TensorFlow Lite schema, version 3.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ModelError(
            f"cannot read {path}: {error.strerror or error}: check the path"
        ) from error
    if len(data) > MAX_FILE_BYTES:
        raise ModelError(f"{path} is larger than {MAX_FILE_BYTES} bytes: use a smaller model")
    try:
        parsed = schema.parse(data)
        image = _picture_shape(parsed, parsed.inputs, "input")
        result = _picture_shape(parsed, parsed.outputs, "output")
    except ModelError as error:
        raise ModelError(f"{path} is no usable .tflite file: {error}") from error
    names = [op.name for op in parsed.operators]
    return TFLiteGraph(
        sha256=hashlib.sha256(data).hexdigest(),
        description=parsed.description,
        input_size=(image[1], image[2]),
        channels=image[3],
        output_shape=(1, result[3], result[1], result[2]),
        operator_counts={name: names.count(name) for name in sorted(set(names))},
        parsed=parsed,
    )


def to_module(graph: TFLiteGraph) -> "nn.Module":
    """Rebuild the graph as a torch module in evaluation mode.

    Returns:
        A module from float32 `graph.input_shape` to float32 `graph.output_shape`, both
        NCHW, with the value ranges of the original model.

    Raises:
        ModelError: An operator or an option of one is not supported; the message names it.
    """
    from streamseg.convert import _tflite_module

    return _tflite_module.build(graph.parsed).eval()


def export_tflite(tflite_path: str | Path, pte_path: str | Path) -> "ExportReport":
    """Convert a .tflite file to an ExecuTorch program for the CPU (XNNPACK).

    Args:
        tflite_path: A file that `load_tflite` and `to_module` take.
        pte_path: Where the program goes; written beside and renamed when it was verified.

    Returns:
        What was written and how far it is from the module it was made of.

    Raises:
        ModelError: See `load_tflite`, `to_module` and `export_module`.
    """
    from streamseg.convert.export import export_module

    graph = load_tflite(tflite_path)
    try:
        module = to_module(graph)
    except ModelError as error:
        raise ModelError(f"cannot convert {tflite_path}: {error}") from error
    return export_module(module, graph.input_shape, pte_path)


def _picture_shape(parsed: schema.Schema, indices: tuple[int, ...], what: str) -> tuple[int, ...]:
    if len(indices) != 1:
        raise ModelError(f"it has {len(indices)} {what}s, expected 1: use another export")
    tensor = parsed.tensors[indices[0]]
    shape = tensor.shape
    if tensor.type_code != schema.FLOAT32 or len(shape) != 4 or shape[0] != 1:
        raise ModelError(
            f"its {what} is {tensor.type_name} {list(shape)}, expected float32 [1, H, W, C]: "
            "use a float export of the model"
        )
    if max(shape[1:3]) > _MAX_SIDE_PX:
        raise ModelError(
            f"its {what} is {shape[1]}x{shape[2]} pixels, expected at most {_MAX_SIDE_PX}: "
            "use a smaller model"
        )
    return shape
