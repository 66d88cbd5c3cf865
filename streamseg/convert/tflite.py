"""TensorFlow Lite models as torch modules and ExecuTorch programs.

A .tflite file with one picture as input and one as output, float or quantised, is read, rebuilt as
a float torch module, and exported:

    graph = load_tflite("model.tflite")
    module = to_module(graph)                      # [1, 3, H, W] -> [1, K, H', W']
    export_tflite("model.tflite", "model.pte")     # the same as a program
"""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from streamseg.convert import _tflite_metadata as metadata
from streamseg.convert import _tflite_schema as schema
from streamseg.convert._tflite_head import gives_probabilities, scores_of
from streamseg.convert._tflite_quantization import INT8
from streamseg.errors import ModelError
from streamseg.models.card import Card
from streamseg.models.labels import distinct_labels

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import nn

    from streamseg.convert.export import ExportReport

CONVERTER_VERSION = 2
"""Counts up when a file gives another program than before, so that stored ones are made again."""
MAX_FILE_BYTES = 1 << 28
_MAX_SIDE_PX = 4096

Triple = tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class TFLiteGraph:
    """A parsed .tflite file; all shapes are those of the rebuilt module.

    Attributes:
        sha256: Of the file, in hexadecimal.
        description: The file's own words about itself, often which tool wrote it.
        input_size: (height, width) of the input in pixels.
        channels: Of the input; 3 for RGB.
        output_shape: (1, K, height, width) of the output; of the scores before the ARG_MAX where
            the file ends with one.
        operator_counts: Operator name -> how many the graph has.
        quantised: Whether the input is of integers.
        mean: What is subtracted from RGB in [0, 1] to get the module's input, a value a channel:
            from the file's metadata, or from the scale of a quantised input. Without either the
            input is RGB in [0, 1].
        std: What divides after that.
        labels: Of the output's channels, from the metadata; None where it has none.
    """

    sha256: str
    description: str
    input_size: tuple[int, int]
    channels: int
    output_shape: tuple[int, int, int, int]
    operator_counts: dict[str, int]
    quantised: bool
    mean: Triple
    std: Triple
    labels: tuple[str, ...] | None
    about: metadata.Metadata = field(repr=False)
    parsed: schema.Schema = field(repr=False)

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        """(1, channels, height, width)."""
        return (1, self.channels, *self.input_size)

    def card(self, name: str) -> Card:
        """Return the card of the program that the file becomes.

        Args:
            name: The model's short name.
        """
        probability = gives_probabilities(self.parsed) or self.output_shape[1] == 1
        return Card(
            name=name,
            title=self.about.name[:80],
            description=self.about.description[:300],
            labels=self.labels,
            input_size=self.input_size,
            mean=self.mean,
            std=self.std,
            output="probability" if probability else "logits",
            licence=self.about.licence[:200],
            source="converted from a TensorFlow Lite file",
            source_sha256=self.sha256,
        )


def load_tflite(path: str | Path) -> TFLiteGraph:
    """Read and check a .tflite file; operators are checked by `to_module`.

    Args:
        path: The file, at most 256 MiB.

    Raises:
        ModelError: The file cannot be read, is damaged, or is no graph from one [1, H, W, C]
            picture of float32, uint8 or int8 to another, or to class indices.

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
        return _graph(data)
    except ModelError as error:
        raise ModelError(f"{path} is no usable .tflite file: {error}") from error


def _graph(data: bytes) -> TFLiteGraph:
    parsed = schema.parse(data)
    image = _picture(parsed, parsed.inputs, "input")
    if len(parsed.outputs) != 1:
        raise ModelError(f"it has {len(parsed.outputs)} outputs, expected 1: use another export")
    _, output = scores_of(parsed)
    result = _picture(parsed, (output,), "output").shape
    about = metadata.read(parsed.metadata, data)
    mean, std = _normalisation(image, about)
    names = [op.name for op in parsed.operators]
    return TFLiteGraph(
        sha256=hashlib.sha256(data).hexdigest(),
        description=parsed.description,
        input_size=(image.shape[1], image.shape[2]),
        channels=image.shape[3],
        output_shape=(1, result[3], result[1], result[2]),
        operator_counts={name: names.count(name) for name in sorted(set(names))},
        quantised=image.quantization is not None,
        mean=mean,
        std=std,
        labels=_labels(about, result[3]),
        about=about,
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


def export_tflite(
    tflite_path: str | Path,
    pte_path: str | Path,
    *,
    card: Card | None = None,
    calibrate: "Sequence[Path] | None" = None,
    picture: Path | None = None,
    on_step: "Callable[[str], None] | None" = None,
) -> "ExportReport":
    """Convert a .tflite file to an ExecuTorch program for the CPU (XNNPACK).

    Args:
        tflite_path: A file that `load_tflite` and `to_module` take.
        pte_path: Where the program goes; written beside and renamed when it was verified.
        card: Written beside the program; `load_tflite(tflite_path).card(name)` makes one.
        calibrate: Pictures, or folders of pictures, to calibrate an int8 program with.
        picture: A picture to compare the program on, instead of streamseg's own.
        on_step: Called with a word or two for each step.

    Returns:
        What was written and how far it is from the module it was made of.

    Raises:
        ModelError: See `load_tflite`, `to_module` and `export_module`; or the file is quantised
            and int8 is asked for.
    """
    from streamseg.convert.on_pictures import export_on_pictures

    graph = load_tflite(tflite_path)
    if calibrate is not None and graph.quantised:
        raise ModelError(f"{tflite_path} is quantised already: export it without int8")
    try:
        module = to_module(graph)
    except ModelError as error:
        raise ModelError(f"cannot convert {tflite_path}: {error}") from error
    return export_on_pictures(
        module,
        graph.input_shape,
        pte_path,
        card,
        calibrate=calibrate,
        picture=picture,
        delegate="any",
        on_step=on_step,
    )


def _normalisation(image: schema.Tensor, about: metadata.Metadata) -> tuple[Triple, Triple]:
    """Return the mean and the deviation that a card would have, of RGB in [0, 1]."""
    quantised = image.quantization
    if quantised is not None:
        # The bytes of a picture are the integers, less 128 where they are signed; metadata say how
        # a float model of the same kind is fed, and do not hold here.
        zero = quantised.zero_points[0] + (128 if image.type_code == INT8 else 0)
        mean, std = zero / 255.0, 1.0 / (255.0 * quantised.scales[0])
        return (mean, mean, mean), (std, std, std)
    if about.mean is None or about.std is None:
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    return _triple(about.mean), _triple(about.std)


def _triple(values: tuple[float, ...]) -> Triple:
    first, *others = (value / 255.0 for value in values)
    second, third = others or (first, first)
    return first, second, third


def _labels(about: metadata.Metadata, channels: int) -> tuple[str, ...] | None:
    labels = about.labels
    if labels is None or channels == 1:  # a model of one channel has two classes
        return None
    if len(labels) != channels:
        raise ModelError(
            f"its metadata have {len(labels)} labels for {channels} classes: correct the metadata"
        )
    # Some label files repeat "???" for classes that are not used.
    return distinct_labels(labels)


def _picture(parsed: schema.Schema, indices: tuple[int, ...], what: str) -> schema.Tensor:
    if len(indices) != 1:
        raise ModelError(f"it has {len(indices)} {what}s, expected 1: use another export")
    tensor = parsed.tensors[indices[0]]
    shape = tensor.shape
    if not tensor.is_picture:
        raise ModelError(
            f"its {what} is {tensor.type_name} {list(shape)}, expected [1, H, W, C] of float32, or "
            "of uint8 or int8 with a scale: use another export of the model"
        )
    if max(shape[1:3]) > _MAX_SIDE_PX:
        raise ModelError(
            f"its {what} is {shape[1]}x{shape[2]} pixels, expected at most {_MAX_SIDE_PX}: "
            "use a smaller model"
        )
    return tensor
