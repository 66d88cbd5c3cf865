"""Metadata of .tflite files: labels and normalisation, and what is wrong with some."""

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import pytest

from streamseg.convert import load_tflite
from streamseg.errors import ModelError

NORMALIZATION, AXIS_LABELS = 1, 2


def table(b: flatbuffers.Builder, fields: Sequence[tuple[int, str, int]]) -> int:
    b.StartObject(max(slot for slot, _, _ in fields) + 1)
    for slot, kind, value in fields:
        if kind == "offset":
            b.PrependUOffsetTRelativeSlot(slot, value, 0)
        else:
            b.PrependUint8Slot(slot, value, 0)
    return b.EndObject()


def tables(b: flatbuffers.Builder, offset: int) -> int:
    b.StartVector(4, 1, 4)
    b.PrependUOffsetTRelative(offset)
    return b.EndVector()


def metadata(
    mean: list[float], std: list[float], labels: str = "labels.txt", locale: str = ""
) -> bytes:
    b = flatbuffers.Builder(1024)
    numbers = [b.CreateNumpyVector(np.array(values, np.float32)) for values in (mean, std)]
    options = table(b, [(0, "offset", numbers[0]), (1, "offset", numbers[1])])
    unit = table(b, [(0, "byte", NORMALIZATION), (1, "offset", options)])
    image = table(b, [(4, "offset", tables(b, unit))])
    file = [(0, "offset", b.CreateString(labels)), (2, "byte", AXIS_LABELS)]
    if locale:
        file.append((3, "offset", b.CreateString(locale)))
    scores = table(b, [(6, "offset", tables(b, table(b, file)))])
    inside = [(2, "offset", tables(b, image)), (3, "offset", tables(b, scores))]
    graph = table(b, inside)
    name = b.CreateString("Street\n scenes")
    b.Finish(table(b, [(0, "offset", name), (3, "offset", tables(b, graph))]), b"M001")
    return bytes(b.Output())


def write(path: Path, graph: Any, content: bytes, files: dict[str, str] | None) -> Path:
    image, out = graph.value(1, 4, 4, 3), graph.value(1, 4, 4, 3)
    graph.add("RELU", [image], out)
    graph.metadata = content
    archive = io.BytesIO()
    if files is not None:
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
            for name, text in files.items():
                packed.writestr(name, text)
    path.write_bytes(graph.to_bytes() + archive.getvalue())
    return path


def test_labels_and_normalisation_go_into_the_card(tmp_path: Path, graph: Any) -> None:
    content = metadata([127.5, 51.0, 0.0], [127.5, 255.0, 1.0])
    files = {"labels.txt": "road\r\n\n traffic light \n???\n"}
    card = load_tflite(write(tmp_path / "m.tflite", graph, content, files)).card("street")
    assert card.labels == ("road", "traffic light", "???")
    assert card.mean == pytest.approx((0.5, 0.2, 0.0))
    assert card.std == pytest.approx((0.5, 1.0, 1 / 255))
    assert (card.name, card.title) == ("street", "Street scenes")


def test_one_mean_is_for_all_channels_and_repeated_labels_become_different(
    tmp_path: Path, graph: Any
) -> None:
    files = {"labels.txt": "???\nroad\n???\n"}
    path = write(tmp_path / "m.tflite", graph, metadata([0.0], [255.0]), files)
    card = load_tflite(path).card("street")
    assert card.labels == ("???", "road", "???_2")
    assert (card.mean, card.std) == ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def test_file_without_metadata_is_fed_with_0_to_1(tmp_path: Path, graph: Any) -> None:
    card = load_tflite(write(tmp_path / "m.tflite", graph, b"", None)).card("plain")
    assert card.labels is None
    assert (card.mean, card.std) == ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def test_translated_labels_are_not_the_labels(tmp_path: Path, graph: Any) -> None:
    content = metadata([0.0], [255.0], locale="fr")
    path = write(tmp_path / "m.tflite", graph, content, {"labels.txt": "route\n"})
    assert load_tflite(path).labels is None


@pytest.mark.parametrize(
    ("content", "files", "message"),
    [
        (metadata([0.0], [255.0]), None, "labels.txt.*cannot be read"),
        (metadata([0.0], [255.0]), {"other.txt": "a"}, "it is not there"),
        (metadata([0.0], [255.0]), {"labels.txt": "a\nb"}, "2 labels for 3 classes"),
        (metadata([0.0], [255.0]), {"labels.txt": "x" * 2_000_000}, "over 1048576 bytes"),
        (metadata([0.0], [0.0]), {}, "std above 0"),
        (metadata([float("inf")], [1.0]), {}, "normalise with"),
        (metadata([1.0, 2.0], [1.0, 2.0]), {}, "one or three values"),
        (metadata([0.0, 1.0, 2.0], [1.0]), {}, "one or three values"),
        (b"M001 is not here", {}, "file identifier is"),
    ],
)
def test_metadata_that_make_no_sense_are_a_model_error(
    tmp_path: Path, graph: Any, content: bytes, files: dict[str, str] | None, message: str
) -> None:
    path = write(tmp_path / "m.tflite", graph, content, files)
    with pytest.raises(ModelError, match=message) as caught:
        load_tflite(path)
    assert "\n" not in str(caught.value)
