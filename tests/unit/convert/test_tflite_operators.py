"""Each operator, as a graph of its own, against LiteRT where it is installed, and by formula."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from streamseg.convert import load_tflite, to_module
from streamseg.errors import ModelError
from tests.support.litert import litert, rebuilt

SAME, VALID = 0, 1
RNG = np.random.default_rng(7)


def constant(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def size_after(size: int, kernel: int, stride: int, dilation: int, padding: int) -> int:
    reach = (kernel - 1) * dilation + 1
    return -(-size // stride) if padding == SAME else (size - reach) // stride + 1


@pytest.mark.parametrize("padding", [SAME, VALID])
@pytest.mark.parametrize(
    ("kernel", "stride", "dilation"), [(1, 1, 1), (3, 1, 1), (3, 2, 1), (5, 2, 1), (3, 1, 2)]
)
@pytest.mark.parametrize("activation", [0, 3])
def test_convolution_pads_and_strides_as_litert(
    graph: Any, save: Any, padding: int, kernel: int, stride: int, dilation: int, activation: int
) -> None:
    height, width = (size_after(s, kernel, stride, dilation, padding) for s in (12, 9))
    image = graph.value(1, 12, 9, 4)
    weight = graph.constant(constant(6, kernel, kernel, 4))
    bias = graph.constant(constant(6))
    out = graph.value(1, height, width, 6)
    options = [(0, "b", padding), (1, "i", stride), (2, "i", stride), (3, "b", activation)]
    options += [(4, "i", dilation), (5, "i", dilation)]
    graph.add("CONV_2D", [image, weight, bias], out, options)
    path = save(graph)
    x = constant(1, 12, 9, 4)
    np.testing.assert_allclose(rebuilt(path, x), litert(path, x), atol=2e-5)


@pytest.mark.parametrize("multiplier", [1, 2])
@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 1), (1, 4)])
def test_depthwise_convolution_as_litert(
    graph: Any, save: Any, multiplier: int, stride: int, dilation: int
) -> None:
    height, width = (size_after(s, 3, stride, dilation, SAME) for s in (12, 9))
    image = graph.value(1, 12, 9, 4)
    weight = graph.constant(constant(1, 3, 3, 4 * multiplier))
    bias = graph.constant(constant(4 * multiplier))
    out = graph.value(1, height, width, 4 * multiplier)
    options = [(0, "b", SAME), (1, "i", stride), (2, "i", stride), (3, "i", multiplier)]
    options += [(4, "b", 1), (5, "i", dilation), (6, "i", dilation)]
    graph.add("DEPTHWISE_CONV_2D", [image, weight, bias], out, options)
    path = save(graph)
    x = constant(1, 12, 9, 4)
    np.testing.assert_allclose(rebuilt(path, x), litert(path, x), atol=2e-5)


@pytest.mark.parametrize("size", [(5, 7), (24, 30), (1, 1)])
@pytest.mark.parametrize(("align", "centres"), [(True, False), (False, True), (False, False)])
def test_bilinear_resize_follows_each_convention_as_litert(
    graph: Any, save: Any, size: tuple[int, int], align: bool, centres: bool
) -> None:
    image = graph.value(1, 8, 10, 3)
    target = graph.constant(np.array(size, np.int32))
    out = graph.value(1, *size, 3)
    options = [(2, "?", align), (3, "?", centres)]
    graph.add("RESIZE_BILINEAR", [image, target], out, options)
    path = save(graph)
    x = constant(1, 8, 10, 3)
    np.testing.assert_allclose(rebuilt(path, x), litert(path, x), atol=1e-5)


def test_resize_without_a_convention_reads_pixel_corners(graph: Any, save: Any) -> None:
    image = graph.value(1, 2, 2, 1)
    out = graph.value(1, 4, 4, 1)
    graph.add("RESIZE_BILINEAR", [image, graph.constant(np.array([4, 4], np.int32))], out)
    x = np.array([[0, 2], [4, 6]], np.float32).reshape(1, 2, 2, 1)
    rows = rebuilt(save(graph), x)[0, :, :, 0]
    np.testing.assert_allclose(rows[0], [0, 1, 2, 2])
    np.testing.assert_allclose(rows[:, 0], [0, 2, 4, 4])


@pytest.mark.parametrize(
    ("kernel", "stride", "padding"), [(8, 8, VALID), (2, 2, VALID), (3, 1, SAME)]
)
def test_average_pool_as_litert(
    graph: Any, save: Any, kernel: int, stride: int, padding: int
) -> None:
    size = size_after(8, kernel, stride, 1, padding)
    image, out = graph.value(1, 8, 8, 3), graph.value(1, size, size, 3)
    options = [(0, "b", padding), (1, "i", stride), (2, "i", stride)]
    options += [(3, "i", kernel), (4, "i", kernel), (5, "b", 0)]
    graph.add("AVERAGE_POOL_2D", [image], out, options)
    path = save(graph)
    x = constant(1, 8, 8, 3)
    np.testing.assert_allclose(rebuilt(path, x), litert(path, x), atol=1e-6)


@pytest.mark.parametrize("axes", [[1, 2], [-2, -3]])
def test_mean_of_the_picture(graph: Any, save: Any, axes: list[int]) -> None:
    image, out = graph.value(1, 6, 5, 3), graph.value(1, 1, 1, 3)
    axes_index = graph.constant(np.array(axes, np.int32))
    graph.add("MEAN", [image, axes_index], out, [(0, "?", True)])
    x = constant(1, 6, 5, 3)
    np.testing.assert_allclose(rebuilt(save(graph), x), x.mean((1, 2), keepdims=True), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "formula"),
    [
        ("RELU", lambda x: np.maximum(x, 0)),
        ("HARD_SWISH", lambda x: x * np.clip(x + 3, 0, 6) / 6),
        ("LOGISTIC", lambda x: 1 / (1 + np.exp(-x))),
    ],
)
def test_elementwise(
    graph: Any, save: Any, name: str, formula: Callable[[np.ndarray], np.ndarray]
) -> None:
    image, out = graph.value(1, 4, 4, 2), graph.value(1, 4, 4, 2)
    graph.add(name, [image], out)
    x = 4 * constant(1, 4, 4, 2)
    np.testing.assert_allclose(rebuilt(save(graph), x), formula(x), atol=1e-6)


@pytest.mark.parametrize("shape", [(), (2,), (1, 1, 1, 2), (4, 1, 1), (1, 4, 5, 2)])
@pytest.mark.parametrize("constant_first", [True, False])
def test_constants_broadcast_from_the_last_axis(
    graph: Any, save: Any, shape: tuple[int, ...], constant_first: bool
) -> None:
    values = constant(*shape) if shape else np.float32(3).reshape(())
    image, out = graph.value(1, 4, 5, 2), graph.value(1, 4, 5, 2)
    inputs = [image, graph.constant(np.asarray(values))]
    graph.add("MUL", inputs[::-1] if constant_first else inputs, out, [(0, "b", 0)])
    x = constant(1, 4, 5, 2)
    np.testing.assert_allclose(rebuilt(save(graph), x), x * values, atol=1e-6)


def test_sum_with_itself_and_concatenation_along_channels(graph: Any, save: Any) -> None:
    image = graph.value(1, 4, 4, 2)
    double, both = graph.value(1, 4, 4, 2), graph.value(1, 4, 4, 4)
    graph.add("ADD", [image, image], double, [(0, "b", 0)])
    graph.add("CONCATENATION", [image, double], both, [(0, "i", -1), (1, "b", 0)])
    x = constant(1, 4, 4, 2)
    np.testing.assert_allclose(rebuilt(save(graph), x), np.concatenate([x, 2 * x], -1), atol=1e-6)


def test_float16_weights_are_unpacked(graph: Any, save: Any) -> None:
    half = constant(2).astype(np.float16)
    image, packed = graph.value(1, 4, 4, 2), graph.constant(half)
    unpacked, out = graph.value(2), graph.value(1, 4, 4, 2)
    graph.add("DEQUANTIZE", [packed], unpacked)
    graph.add("MUL", [image, unpacked], out, [(0, "b", 0)])
    x = constant(1, 4, 4, 2)
    np.testing.assert_allclose(rebuilt(save(graph), x), x * half.astype(np.float32), atol=1e-6)


def test_mediapipes_transposed_convolution_doubles_the_size(graph: Any, save: Any) -> None:
    kernel, bias = constant(1, 2, 2, 3), constant(1)
    image, out = graph.value(1, 4, 5, 3), graph.value(1, 8, 10, 1)
    inputs = [image, graph.constant(kernel), graph.constant(bias)]
    options = np.array([1, 2, 2], "<i4").tobytes()
    graph.add("Convolution2DTransposeBias", inputs, out, custom=options)
    x = constant(1, 4, 5, 3)
    blocks = np.einsum("hwc,yxc->hywx", x[0], kernel[0])
    expected = blocks.reshape(1, 8, 10, 1) + bias
    np.testing.assert_allclose(rebuilt(save(graph), x), expected, atol=1e-6)


def test_weights_have_the_strides_of_nchw_on_axes_of_size_one_too(graph: Any, save: Any) -> None:
    """Otherwise ExecuTorch takes them for NHWC and the program fails when it runs."""
    image, middle, out = graph.value(1, 4, 4, 2), graph.value(1, 4, 4, 6), graph.value(1, 4, 4, 6)
    inputs = [image, graph.constant(constant(6, 1, 1, 2)), graph.constant(constant(6))]
    graph.add("CONV_2D", inputs, middle, [(0, "b", VALID), (1, "i", 1), (2, "i", 1), (3, "b", 0)])
    graph.add("MUL", [middle, graph.constant(constant(6))], out, [(0, "b", 0)])
    weights = list(to_module(load_tflite(save(graph))).parameters())
    assert [tuple(w.shape) for w in weights] == [(6, 2, 1, 1), (6,), (1, 6, 1, 1)]
    for weight in weights:
        assert weight.stride() == torch.empty(weight.shape).stride()


@pytest.mark.parametrize("name", ["GATHER", "MyOperator"])
def test_unsupported_operator_is_named(graph: Any, save: Any, name: str) -> None:
    graph.add(name, [graph.value(1, 4, 4, 2)], graph.value(1, 4, 4, 2))
    with pytest.raises(ModelError, match=f"not supported: .*{name}"):
        to_module(load_tflite(save(graph)))


def test_custom_operator_does_not_pass_for_a_builtin_one(graph: Any, save: Any) -> None:
    graph.add("CUSTOM RELU6", [graph.value(1, 4, 4, 2)], graph.value(1, 4, 4, 2))
    with pytest.raises(ModelError, match="not supported: CUSTOM RELU6"):
        to_module(load_tflite(save(graph)))


def test_shape_that_differs_from_the_declared_one_is_refused(graph: Any, save: Any) -> None:
    graph.add("RELU", [graph.value(1, 4, 4, 2)], graph.value(1, 4, 5, 2))
    with pytest.raises(ModelError, match=r"gives shape \[1, 2, 4, 4\].*declares \[1, 2, 4, 5\]"):
        to_module(load_tflite(save(graph)))


def test_weights_that_do_not_fit_are_refused(graph: Any, save: Any) -> None:
    image, out = graph.value(1, 4, 4, 2), graph.value(1, 4, 4, 6)
    inputs = [image, graph.constant(constant(6, 3, 3, 5)), graph.constant(constant(6))]
    options = [(0, "b", SAME), (1, "i", 1), (2, "i", 1), (3, "b", 0)]
    graph.add("CONV_2D", inputs, out, options)
    with pytest.raises(ModelError, match=r"CONV_2D \(operator 0\) does not fit"):
        to_module(load_tflite(save(graph)))


def test_value_that_nothing_computes_is_refused(graph: Any, save: Any) -> None:
    image, ghost, out = (graph.value(1, 4, 4, 2) for _ in range(3))
    graph.add("CONCATENATION", [image, ghost], out, [(0, "i", 3)])
    with pytest.raises(ModelError, match="needs tensor 1, which nothing computes"):
        to_module(load_tflite(save(graph)))
