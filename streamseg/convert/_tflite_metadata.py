"""What a .tflite file says of its own use: labels, and how a picture becomes its input.

The metadata are a FlatBuffer inside the file; files that they name, such as the labels, are a ZIP
archive appended to it.

Source: TensorFlow Lite's metadata schema; field numbers are positions in its table declarations.
"""

import io
import math
import struct
import zipfile
import zlib
from dataclasses import dataclass

from streamseg.convert._flatbuffer import Table
from streamseg.errors import ModelError

_NORMALIZATION_OPTIONS = 1
_TENSOR_AXIS_LABELS = 2
_MAX_ITEMS = 64
_MAX_LABELS_BYTES = 1 << 20
_PLAIN_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


@dataclass(frozen=True)
class Metadata:
    """What the metadata say; what is absent is empty or None.

    Attributes:
        name: Of the model.
        description: Of the model.
        licence: In words.
        labels: Of the output's channels, in order.
        mean: Subtracted from RGB in [0, 255], one value or one a channel.
        std: Divides after that, as many values.
    """

    name: str = ""
    description: str = ""
    licence: str = ""
    labels: tuple[str, ...] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


def read(metadata: bytes, file: bytes) -> Metadata:
    """Read a file's metadata.

    Args:
        metadata: The FlatBuffer; may be empty.
        file: The whole .tflite file, which the archive is a part of.

    Raises:
        ModelError: They are damaged, or name a file that is not there.
    """
    if not metadata:
        return Metadata()
    root = Table.root(metadata, b"M001")
    graph = next(root.tables(3, _MAX_ITEMS), None)
    mean, std = (None, None) if graph is None else _normalization(graph)
    return Metadata(
        name=_text(root, 0),
        description=_text(root, 1),
        licence=_text(root, 5),
        labels=None if graph is None else _labels(graph, file),
        mean=mean,
        std=std,
    )


def _text(table: Table, field: int) -> str:
    return " ".join(table.raw(field).decode("utf-8", errors="replace").split())


def _normalization(
    graph: Table,
) -> tuple[tuple[float, ...], tuple[float, ...]] | tuple[None, None]:
    tensor = next(graph.tables(2, _MAX_ITEMS), None)
    for unit in () if tensor is None else tensor.tables(4, _MAX_ITEMS):
        options = unit.table(1)
        if unit.number(0, "B") != _NORMALIZATION_OPTIONS or options is None:
            continue
        mean: tuple[float, ...] = options.numbers(0, "f", _MAX_ITEMS)
        std: tuple[float, ...] = options.numbers(1, "f", _MAX_ITEMS)
        usable = all(map(math.isfinite, mean + std)) and min(std, default=0.0) > 0
        if not usable or len(mean) != len(std) or len(mean) not in (1, 3):
            raise ModelError(
                f"its metadata normalise with mean {list(mean)} and std {list(std)}, expected "
                "one or three values each and std above 0: correct the metadata"
            )
        return mean, std
    return None, None


def _labels(graph: Table, file: bytes) -> tuple[str, ...] | None:
    tensor = next(graph.tables(3, _MAX_ITEMS), None)
    for associated in () if tensor is None else tensor.tables(6, _MAX_ITEMS):
        # A file with a locale holds translations.
        if associated.number(2, "b") == _TENSOR_AXIS_LABELS and not associated.raw(3):
            lines = _unpack(file, _text(associated, 0)).splitlines()
            return tuple(line.strip() for line in lines if line.strip())
    return None


def _unpack(file: bytes, name: str) -> str:
    problem = "it is not there"
    try:
        with zipfile.ZipFile(io.BytesIO(file)) as archive:
            entry = archive.getinfo(name)
            if entry.file_size <= _MAX_LABELS_BYTES and entry.compress_type in _PLAIN_METHODS:
                with archive.open(entry) as packed:
                    # The size that the archive states may be wrong.
                    content = packed.read(_MAX_LABELS_BYTES + 1)
                if len(content) <= _MAX_LABELS_BYTES:
                    return content.decode("utf-8")
            problem = f"it is over {_MAX_LABELS_BYTES} bytes, or packed in an unusual way"
    except KeyError:
        pass
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError) as exc:
        problem = _first_line(exc)
    except (NotImplementedError, ValueError, struct.error, IndexError) as exc:
        problem = _first_line(exc)
    raise ModelError(
        f"its metadata name the file {name[:80]!r} for labels, which cannot be read from it: "
        f"{problem}: fetch the file again"
    )


def _first_line(exc: Exception) -> str:
    return next(iter(str(exc).splitlines()), type(exc).__name__)
