"""Quantised .tflite files: the same integers as LiteRT's, and damage as a ModelError."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from streamseg.convert import load_tflite, to_module
from streamseg.errors import ModelError
from tests.support.litert import litert

SAME = 0
RELU, RELU6 = 1, 3
RNG = np.random.default_rng(11)
LIMITS = {"uint8": (0, 255), "int8": (-128, 127)}


def integers(dtype: str, *shape: int) -> np.ndarray:
    low, high = LIMITS[dtype]
    return RNG.integers(low, high + 1, shape).astype(dtype)


def run(path: Path, image: np.ndarray, scale: float, zero_point: int) -> np.ndarray:
    """Run the rebuilt module on the real values of an NHWC array and give back NHWC."""
    module = to_module(load_tflite(path))
    real = ((image.astype(np.float32) - zero_point) * np.float32(scale)).astype(np.float32)
    with torch.inference_mode():
        result = module(torch.from_numpy(real).permute(0, 3, 1, 2).contiguous())
    return result.permute(0, 2, 3, 1).numpy()


def convolution(graph: Any, image: int, in_scale: float, dtype: str, channels: int) -> int:
    """Add a convolution with 3 outputs, per channel where the type is signed."""
    per_channel = dtype == "int8"
    weight_scales = [0.013, 0.02, 0.007] if per_channel else [0.011]
    kernel = integers("int8" if per_channel else "uint8", 3, 3, 3, channels)
    if per_channel:
        kernel = np.maximum(kernel, -127).astype(np.int8)
    zero_points = [0, 0, 0] if per_channel else [121]
    weight = graph.quantise(graph.constant(kernel), weight_scales, zero_points)
    bias = graph.constant(RNG.integers(-9000, 9000, 3).astype(np.int32))
    graph.quantise(bias, [in_scale * s for s in weight_scales], [0] * len(weight_scales))
    out = graph.value(1, 10, 8, 3, dtype=dtype)
    low, _ = LIMITS[dtype]
    graph.quantise(out, [0.05], [low + 3])
    options = [(0, "b", SAME), (1, "i", 1), (2, "i", 1), (3, "b", RELU6)]
    options += [(4, "i", 1), (5, "i", 1)]
    graph.add("CONV_2D", [image, weight, bias], out, options)
    return int(out)


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_convolution_gives_litert_s_integers(graph: Any, save: Any, dtype: str) -> None:
    """Per tensor for unsigned weights, per channel for signed ones, with an activation."""
    zero_point = 127 if dtype == "uint8" else -1
    image = graph.quantise(graph.value(1, 10, 8, 4, dtype=dtype), [0.0078], [zero_point])
    out = convolution(graph, image, 0.0078, dtype, 4)
    path = save(graph)
    x = integers(dtype, 1, 10, 8, 4)
    mine = run(path, x, 0.0078, zero_point)
    expected = (litert(path, x).astype(np.float64) - graph.scales[out][1][0]) * 0.05
    assert len(np.unique(expected)) > 20
    np.testing.assert_allclose(mine, expected, atol=1e-5)


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_depthwise_sum_pool_and_resize_give_litert_s_integers(
    graph: Any, save: Any, dtype: str
) -> None:
    low, _ = LIMITS[dtype]
    image = graph.quantise(graph.value(1, 10, 8, 4, dtype=dtype), [0.02], [low + 128])
    scales = [0.013, 0.02, 0.007, 0.01] if dtype == "int8" else [0.011]
    kernel = integers(dtype, 1, 3, 3, 4)
    if dtype == "int8":
        kernel = np.maximum(kernel, -127).astype(np.int8)
    zeros = [0] * 4 if dtype == "int8" else [118]
    weight = graph.quantise(graph.constant(kernel), scales, zeros, axis=3)
    bias = graph.constant(RNG.integers(-900, 900, 4).astype(np.int32))
    graph.quantise(bias, [0.02 * s for s in scales], [0] * len(scales))
    deep = graph.quantise(graph.value(1, 10, 8, 4, dtype=dtype), [0.06], [low + 120])
    options = [(0, "b", SAME), (1, "i", 1), (2, "i", 1), (3, "i", 1), (4, "b", 0)]
    options += [(5, "i", 1), (6, "i", 1)]
    graph.add("DEPTHWISE_CONV_2D", [image, weight, bias], deep, options)
    total = graph.quantise(graph.value(1, 10, 8, 4, dtype=dtype), [0.05], [low + 100])
    graph.add("ADD", [deep, image], total, [(0, "b", RELU)])
    large = graph.quantise(graph.value(1, 30, 24, 4, dtype=dtype), [0.05], [low + 100])
    size = graph.constant(np.array([30, 24], np.int32))
    graph.add("RESIZE_BILINEAR", [total, size], large, [(2, "?", False), (3, "?", True)])
    path = save(graph)
    x = integers(dtype, 1, 10, 8, 4)
    mine = np.rint(run(path, x, 0.02, low + 128) / 0.05) + low + 100
    difference = np.abs(mine - litert(path, x))
    # Sums and interpolations have kernels of few bits: one apart, here and there.
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.02


def test_weights_alone_may_be_quantised(graph: Any, save: Any) -> None:
    image, out = graph.value(1, 10, 8, 4), graph.value(1, 10, 8, 3)
    kernel = np.maximum(integers("int8", 3, 1, 1, 4), -127).astype(np.int8)
    weight = graph.quantise(graph.constant(kernel), [0.01, 0.02, 0.03], [0, 0, 0])
    bias = graph.constant(np.zeros(3, np.float32))
    options = [(0, "b", SAME), (1, "i", 1), (2, "i", 1), (3, "b", 0), (4, "i", 1), (5, "i", 1)]
    graph.add("CONV_2D", [image, weight, bias], out, options)
    x = RNG.standard_normal((1, 10, 8, 4)).astype(np.float32)
    real = kernel.reshape(3, 4) * np.array([[0.01], [0.02], [0.03]])
    module = to_module(load_tflite(save(graph)))
    with torch.inference_mode():
        result = module(torch.from_numpy(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(result, x @ real.T, atol=1e-4)


def test_float_graph_may_be_quantised_inside(graph: Any, save: Any) -> None:
    image, out = graph.value(1, 4, 4, 2), graph.value(1, 4, 4, 2)
    inner = graph.quantise(graph.value(1, 4, 4, 2, dtype="int8"), [0.1], [5])
    squashed = graph.quantise(graph.value(1, 4, 4, 2, dtype="int8"), [1 / 256], [-128])
    graph.add("QUANTIZE", [image], inner)
    graph.add("LOGISTIC", [inner], squashed)
    graph.add("DEQUANTIZE", [squashed], out)
    x = 20 * RNG.standard_normal((1, 4, 4, 2)).astype(np.float32)
    with torch.inference_mode():
        module = to_module(load_tflite(save(graph)))
        result = module(torch.from_numpy(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).numpy()
    integers_of_x = np.clip(np.rint(x / 0.1), -133, 122)
    expected = np.rint(np.clip(256 / (1 + np.exp(-0.1 * integers_of_x)), 0, 255)) / 256
    np.testing.assert_allclose(result, expected, atol=1.1 / 256)
    assert np.abs(result - expected).mean() < 1e-4


@pytest.mark.parametrize("cast", [False, True])
def test_arg_max_is_left_out_and_its_scores_are_the_result(
    graph: Any, save: Any, cast: bool
) -> None:
    image = graph.value(1, 5, 6, 3)
    scores, index = graph.value(1, 5, 6, 3), graph.value(1, 5, 6, dtype="int64")
    graph.add("RELU", [image], scores)
    graph.add("ARG_MAX", [scores, graph.constant(np.array(3, np.int32))], index, [(0, "b", 4)])
    if cast:
        graph.add("CAST", [index], graph.value(1, 5, 6, dtype="uint8"))
    path = save(graph)
    loaded = load_tflite(path)
    assert loaded.output_shape == (1, 3, 5, 6)
    x = RNG.standard_normal((1, 5, 6, 3)).astype(np.float32)
    x[0, 0, 0] = -1.0  # all equal after the RELU: the lowest index
    with torch.inference_mode():
        result = to_module(loaded)(torch.from_numpy(x).permute(0, 3, 1, 2))
    classes = result[0].argmax(0).numpy()
    assert classes[0, 0] == 0
    np.testing.assert_array_equal(classes, np.maximum(x, 0).argmax(3)[0])
    if not cast:
        np.testing.assert_array_equal(classes, litert(path, x)[0])


def test_arg_max_over_rows_is_refused(graph: Any, save: Any) -> None:
    image, index = graph.value(1, 5, 6, 3), graph.value(1, 6, 3, dtype="int64")
    graph.add("ARG_MAX", [image, graph.constant(np.array(1, np.int32))], index, [(0, "b", 4)])
    with pytest.raises(ModelError, match=r"ARG_MAX \(operator 0\) is over the axis 1"):
        load_tflite(save(graph))


@pytest.mark.parametrize(
    ("dtype", "zero_point", "mean", "std"),
    [("uint8", 128, 128 / 255, 128 / 255), ("int8", -128, 0.0, 128 / 255)],
)
def test_normalisation_follows_from_the_input_s_scale(
    graph: Any, save: Any, dtype: str, zero_point: int, mean: float, std: float
) -> None:
    image = graph.quantise(graph.value(1, 10, 8, 3, dtype=dtype), [1 / 128], [zero_point])
    convolution(graph, image, 1 / 128, dtype, 3)
    loaded = load_tflite(save(graph))
    assert loaded.quantised
    assert loaded.mean == pytest.approx((mean,) * 3)
    assert loaded.std == pytest.approx((std,) * 3)
    card = loaded.card("small")
    assert (card.mean, card.std, card.input_size) == (loaded.mean, loaded.std, (10, 8))
    assert card.source_sha256 == loaded.sha256


def test_scales_along_another_axis_of_a_kernel_are_refused(graph: Any, save: Any) -> None:
    image = graph.quantise(graph.value(1, 10, 8, 3, dtype="int8"), [0.1], [0])
    convolution(graph, image, 0.1, "int8", 3)
    kernel = image + 1
    graph.quantise(kernel, *graph.scales[kernel][:2], axis=3)
    with pytest.raises(ModelError, match="scales along axis 3 of its kernel, expected 0"):
        to_module(load_tflite(save(graph)))


@pytest.mark.parametrize("name", ["GATHER", "MyOperator"])
def test_unsupported_operator_of_a_quantised_file_is_named(
    graph: Any, save: Any, name: str
) -> None:
    image = graph.quantise(graph.value(1, 4, 4, 2, dtype="uint8"), [0.1], [0])
    graph.add(name, [image], graph.quantise(graph.value(1, 4, 4, 2, dtype="uint8"), [0.1], [0]))
    with pytest.raises(ModelError, match=f"not supported: .*{name}"):
        to_module(load_tflite(save(graph)))


@pytest.mark.parametrize(
    ("scales", "zero_points", "message"),
    [
        ([0.1, 0.2], [0, 0], "has 2 scales"),
        ([0.1, 0.1, 0.1], [0], "1 zero points"),
        ([0.0], [0], "out of range"),
        ([float("nan")], [0], "out of range"),
        ([0.1], [300], "out of range"),
    ],
)
def test_scales_that_do_not_fit_are_refused(
    graph: Any, save: Any, scales: list[float], zero_points: list[int], message: str
) -> None:
    image = graph.quantise(graph.value(1, 10, 8, 3, dtype="uint8"), [0.1], [0])
    out = convolution(graph, image, 0.1, "uint8", 3)
    graph.quantise(out, scales, zero_points, axis=3)
    with pytest.raises(ModelError, match=message):
        load_tflite(save(graph))


def load_or_model_error(path: Path) -> None:
    message = ""
    try:
        to_module(load_tflite(path))
    except ModelError as error:
        message = str(error)
    assert "\n" not in message


def test_damage_is_a_model_error_or_a_model(tmp_path: Path, graph: Any) -> None:
    image = graph.quantise(graph.value(1, 10, 8, 3, dtype="int8"), [0.1], [0])
    out = convolution(graph, image, 0.1, "int8", 3)
    index = graph.value(1, 10, 8, dtype="int64")
    graph.add("ARG_MAX", [out, graph.constant(np.array(3, np.int32))], index, [(0, "b", 4)])
    whole = graph.to_bytes()
    path = tmp_path / "damaged.tflite"
    path.write_bytes(whole)
    to_module(load_tflite(path))
    rng = random.Random(4)
    for _ in range(500):
        damaged = bytearray(whole)
        for _ in range(rng.randint(1, 6)):
            at = rng.randrange(8, len(whole))
            damaged[at] = rng.choice([0, 1, 127, 128, 255, damaged[at] ^ 1 << rng.randrange(8)])
        path.write_bytes(damaged)
        load_or_model_error(path)
    for length in range(0, len(whole), 11):
        path.write_bytes(whole[:length])
        load_or_model_error(path)
