"""Reading .tflite files: what is told of a good one, and that a bad one is a ModelError."""

import hashlib
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamseg.convert import load_tflite, tflite, to_module
from streamseg.errors import ModelError


@pytest.fixture
def small(graph: Any) -> bytes:
    """A file with weights, options, and a custom operator."""
    image, half = graph.value(1, 6, 8, 3), graph.constant(np.ones((4, 3, 3, 3), np.float16))
    weight, bias = graph.value(4, 3, 3, 3), graph.constant(np.zeros(4, np.float32))
    middle, out = graph.value(1, 3, 4, 4), graph.value(1, 6, 8, 1)
    graph.add("DEQUANTIZE", [half], weight)
    options = [(0, "b", 0), (1, "i", 2), (2, "i", 2), (3, "b", 3)]
    graph.add("CONV_2D", [image, weight, bias], middle, options)
    last = graph.constant(np.ones((1, 2, 2, 4), np.float32))
    last_bias = graph.constant(np.zeros(1, np.float32))
    custom = np.array([1, 2, 2], "<i4").tobytes()
    graph.add("Convolution2DTransposeBias", [middle, last, last_bias], out, custom=custom)
    return graph.to_bytes()


def test_graph_tells_what_the_file_holds(tmp_path: Path, small: bytes) -> None:
    path = tmp_path / "small.tflite"
    path.write_bytes(small)
    graph = load_tflite(path)
    assert graph.input_size == (6, 8)
    assert graph.channels == 3
    assert graph.input_shape == (1, 3, 6, 8)
    assert graph.output_shape == (1, 1, 6, 8)
    assert graph.description == "written by a test"
    assert graph.sha256 == hashlib.sha256(small).hexdigest()
    assert graph.operator_counts == {
        "CONV_2D": 1,
        "CUSTOM Convolution2DTransposeBias": 1,
        "DEQUANTIZE": 1,
    }


def load_or_model_error(path: Path) -> None:
    message = ""
    try:
        to_module(load_tflite(path))
    except ModelError as error:
        message = str(error)
    assert "\n" not in message


def test_truncated_file_is_a_model_error(tmp_path: Path, small: bytes) -> None:
    path = tmp_path / "cut.tflite"
    for length in range(0, len(small), 7):
        path.write_bytes(small[:length])
        load_or_model_error(path)
    path.write_bytes(small[: len(small) // 2])
    with pytest.raises(ModelError, match=r"cut\.tflite is no usable \.tflite file: .*damaged"):
        load_tflite(path)


def test_damaged_file_is_a_model_error_or_a_model(tmp_path: Path, small: bytes) -> None:
    path = tmp_path / "damaged.tflite"
    rng = random.Random(1)
    for _ in range(600):
        damaged = bytearray(small)
        for _ in range(rng.randint(1, 8)):
            at = rng.randrange(8, len(small))
            damaged[at] = rng.choice([0, 1, 127, 128, 255, rng.randrange(256)])
        path.write_bytes(damaged)
        load_or_model_error(path)


def test_random_bytes_are_a_model_error(tmp_path: Path) -> None:
    path = tmp_path / "random.tflite"
    rng = random.Random(2)
    for _ in range(100):
        path.write_bytes(rng.randbytes(4) + b"TFL3" + rng.randbytes(500))
        with pytest.raises(ModelError):
            load_tflite(path)
    path.write_bytes(rng.randbytes(500))
    with pytest.raises(ModelError, match="file identifier is"):
        load_tflite(path)


def test_absent_file_is_a_model_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"cannot read .*none\.tflite: No such file"):
        load_tflite(tmp_path / "none.tflite")


def test_too_large_file_is_a_model_error(
    tmp_path: Path, small: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tflite, "MAX_FILE_BYTES", len(small) - 1)
    path = tmp_path / "large.tflite"
    path.write_bytes(small)
    with pytest.raises(ModelError, match="larger than"):
        load_tflite(path)


def test_quantised_input_without_a_scale_is_refused_with_its_type(
    tmp_path: Path, graph: Any
) -> None:
    graph.add("RELU", [graph.value(1, 4, 4, 3, dtype="uint8")], graph.value(1, 4, 4, 3))
    path = tmp_path / "quantised.tflite"
    path.write_bytes(graph.to_bytes())
    with pytest.raises(
        ModelError, match=r"input is uint8 \[1, 4, 4, 3\], expected .* with a scale"
    ):
        load_tflite(path)


def test_giant_tensor_is_refused(tmp_path: Path, graph: Any) -> None:
    graph.add("RELU", [graph.value(1, 40000, 40000, 3)], graph.value(1, 40000, 40000, 3))
    path = tmp_path / "giant.tflite"
    path.write_bytes(graph.to_bytes())
    with pytest.raises(ModelError, match="at most"):
        load_tflite(path)


def test_package_imports_without_torch() -> None:
    code = "import sys, streamseg.convert, streamseg.convert.tflite; print('torch' in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert result.stdout.strip() == "False"
