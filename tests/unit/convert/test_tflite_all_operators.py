"""Every other operator of segmentation graphs, as a graph of its own, against LiteRT."""

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamseg.convert import load_tflite, to_module
from streamseg.convert._tflite_operators import OPERATORS
from streamseg.errors import ModelError
from tests.support.litert import litert, rebuilt
from tests.support.tflite_graphs import Graph

SAME, VALID = 0, 1
RELU6 = 3
RNG = np.random.default_rng(19)
SHAPE = (1, 8, 6, 4)


def floats(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


class Building:
    """A graph whose last value goes into the next operator."""

    def __init__(self, *shape: int) -> None:
        self.graph = Graph()
        self.last = self.image = self.graph.value(*shape)

    def then(
        self,
        name: str,
        out: Sequence[int],
        *others: np.ndarray | int,
        at: int = 0,
        options: Sequence[tuple[int, str, float]] = (),
    ) -> "Building":
        """Add an operator; the last value is its input `at` among constants and other values."""
        inputs = [
            other if isinstance(other, int) else self.graph.constant(other) for other in others
        ]
        inputs.insert(at, self.last)
        self.last = self.graph.value(*out)
        self.graph.add(name, inputs, self.last, options)
        return self


def one(
    name: str,
    out: Sequence[int],
    *others: np.ndarray | int,
    shape: Sequence[int] = SHAPE,
    at: int = 0,
    options: Sequence[tuple[int, str, float]] = (),
) -> Building:
    return Building(*shape).then(name, out, *others, at=at, options=options)


def pool(name: str, kernel: int, stride: int, padding: int) -> Building:
    sizes = [
        -(-size // stride) if padding == SAME else (size - kernel) // stride + 1 for size in (8, 6)
    ]
    options = [(0, "b", padding), (1, "i", stride), (2, "i", stride)]
    options += [(3, "i", kernel), (4, "i", kernel), (5, "b", RELU6)]
    return one(name, (1, *sizes, 4), options=options)


def transposed(
    kernel: int, stride: int, padding: int, out: tuple[int, int], *, bias: bool
) -> Building:
    options = [(0, "b", padding), (1, "i", stride), (2, "i", stride), (3, "b", RELU6 * bias)]
    others: list[np.ndarray | int] = [ints(1, *out, 3), floats(3, kernel, kernel, 4)]
    if bias:
        others.append(floats(3))
    return one("TRANSPOSE_CONV", (1, *out, 3), *others, at=2, options=options)


def nearest(size: tuple[int, int], corners: bool, centres: bool) -> Building:
    options = [(0, "?", corners), (1, "?", centres)]
    return one("RESIZE_NEAREST_NEIGHBOR", (1, *size, 4), ints(*size), options=options)


def strided(
    out: tuple[int, ...],
    begin: np.ndarray,
    end: np.ndarray,
    step: np.ndarray,
    *,
    whole: int = 0,
    to_last: int = 0,
    single: int = 0,
) -> Building:
    options = [(0, "i", whole), (1, "i", whole | to_last), (4, "i", single)]
    return one("STRIDED_SLICE", out, begin, end, step, options=options)


def squeeze_and_excite() -> Building:
    """As MobileNetV3's blocks: a mean over the picture says how much each channel counts."""
    graph = Building(*SHAPE)
    graph.then("MEAN", (1, 4), ints(1, 2), options=[(0, "?", False)])
    graph.then("FULLY_CONNECTED", (1, 4), floats(4, 4), floats(4), options=[(0, "b", 1)])
    graph.then("LOGISTIC", (1, 4)).then("EXPAND_DIMS", (1, 1, 4), ints(1))
    graph.then("RESHAPE", (1, 1, 1, 4), ints(1, 1, 1, 4))
    return graph.then("MUL", SHAPE, graph.image)


def attention() -> Building:
    """As SegFormer's: every pixel looks at all."""
    graph = Building(*SHAPE).then("RESHAPE", (1, 48, 4), ints(1, 48, 4))
    rows = graph.last
    graph.then("BATCH_MATMUL", (1, 48, 48), rows, options=[(0, "?", False), (1, "?", True)])
    graph.then("SOFTMAX", (1, 48, 48), options=[(0, "f", 1.0)])
    graph.then("BATCH_MATMUL", (1, 48, 4), rows)
    graph.then("GELU", (1, 48, 4), options=[(0, "?", True)])
    return graph.then("RESHAPE", SHAPE, ints(*SHAPE))


def dilated() -> Building:
    """A dilated convolution as older converters write it."""
    graph = Building(1, 7, 6, 4)
    graph.then("SPACE_TO_BATCH_ND", (4, 6, 5, 4), ints(2, 2), ints(2, 3, 2, 2).reshape(2, 2))
    options = [(0, "b", VALID), (1, "i", 1), (2, "i", 1), (3, "i", 1), (4, "b", 0)]
    graph.then("DEPTHWISE_CONV_2D", (4, 4, 3, 4), floats(1, 3, 3, 4), floats(4), options=options)
    return graph.then("BATCH_TO_SPACE_ND", (1, 7, 6, 4), ints(2, 2), ints(0, 1, 0, 0).reshape(2, 2))


def parts(name: str) -> Building:
    graph = Building(*SHAPE)
    sizes = (2, 2) if name == "SPLIT" else (1, 3)
    outputs = [graph.graph.value(1, 8, 6, size) for size in sizes]
    inputs = [graph.graph.constant(ints(3).reshape(())), graph.image]
    if name == "SPLIT_V":
        inputs = [graph.image, graph.graph.constant(ints(1, -1)), inputs[0]]
    graph.graph.add(name, inputs, outputs, [(0, "i", 2)])
    graph.last = outputs[1]
    return graph.then("CONCATENATION", SHAPE, outputs[0], options=[(0, "i", 3)])


def of_two(name: str) -> Building:
    """Two computed values of different ranks."""
    graph = one("MEAN", (1, 4), ints(1, 2), options=[(0, "?", False)])
    return graph.then(name, SHAPE, graph.image, at=1)


PAD = ints(0, 0, 1, 2, 0, 3, 1, 0).reshape(4, 2)
MIRROR = ints(0, 0, 1, 2, 3, 0, 0, 0).reshape(4, 2)
KEEP = [(0, "?", True)]
CASES: dict[str, Callable[[], Building]] = {
    "softmax": lambda: one("SOFTMAX", SHAPE, options=[(0, "f", 1.0)]),
    "softmax, sharper": lambda: one("SOFTMAX", SHAPE, options=[(0, "f", 2.5)]),
    "log softmax": lambda: one("LOG_SOFTMAX", SHAPE),
    "reshape": lambda: one("RESHAPE", (1, 4, 16, 3), ints(1, 4, 16, 3)),
    "squeeze": lambda: one("SQUEEZE", (8, 6, 4)).then("EXPAND_DIMS", SHAPE, ints(0)),
    "rank 3": lambda: (
        one("RESHAPE", (1, 48, 4), ints(1, 48, 4))
        .then("SOFTMAX", (1, 48, 4), options=[(0, "f", 1.0)])
        .then("ADD", (1, 48, 4), floats(4), options=[(0, "b", 1)])
        .then("RESHAPE", SHAPE, ints(*SHAPE))
    ),
    "transpose": lambda: one("TRANSPOSE", (1, 6, 4, 8), ints(0, 2, 3, 1)),
    "transpose, rank 3": lambda: (
        one("RESHAPE", (8, 6, 4), ints(8, 6, 4))
        .then("TRANSPOSE", (4, 8, 6), ints(2, 0, 1))
        .then("RESHAPE", (1, 4, 8, 6), ints(1, 4, 8, 6))
    ),
    "pad": lambda: one("PAD", (1, 11, 9, 5), PAD),
    "pad with a value": lambda: one("PADV2", (1, 11, 9, 5), PAD, np.float32(-2.5).reshape(())),
    "reflect": lambda: one("MIRROR_PAD", (1, 11, 9, 4), MIRROR, options=[(0, "b", 0)]),
    "symmetric": lambda: one("MIRROR_PAD", (1, 11, 9, 4), MIRROR, options=[(0, "b", 1)]),
    "max pool": lambda: pool("MAX_POOL_2D", 3, 2, SAME),
    "max pool, even": lambda: pool("MAX_POOL_2D", 3, 1, SAME),
    "max pool, valid": lambda: pool("MAX_POOL_2D", 2, 2, VALID),
    "average pool, uneven": lambda: pool("AVERAGE_POOL_2D", 2, 1, SAME),
    "difference": lambda: one("SUB", SHAPE, floats(4), options=[(0, "b", 1)]),
    "difference, turned": lambda: one("SUB", SHAPE, floats(1, 6, 1), at=1, options=[(0, "b", 0)]),
    "quotient": lambda: one("DIV", SHAPE, floats(8, 6, 4), options=[(0, "b", RELU6)]),
    "quotient, turned": lambda: one("DIV", SHAPE, floats(1, 1, 1, 4), at=1),
    "quotient of two": lambda: of_two("DIV"),
    "difference of two": lambda: of_two("SUB"),
    "largest": lambda: one("MAXIMUM", SHAPE, floats(4)),
    "smallest of two": lambda: of_two("MINIMUM"),
    "squared difference": lambda: of_two("SQUARED_DIFFERENCE"),
    "transposed 3/2": lambda: transposed(3, 2, SAME, (16, 12), bias=False),
    "transposed 4/2": lambda: transposed(4, 2, SAME, (16, 12), bias=True),
    "transposed 3/2, odd": lambda: transposed(3, 2, SAME, (15, 11), bias=True),
    "transposed 2/2": lambda: transposed(2, 2, VALID, (16, 12), bias=True),
    "transposed 3/2, valid": lambda: transposed(3, 2, VALID, (17, 13), bias=False),
    "transposed 3/1": lambda: transposed(3, 1, SAME, (8, 6), bias=True),
    "transposed 1/2": lambda: transposed(1, 2, SAME, (16, 12), bias=True),
    "nearest": lambda: nearest((16, 12), False, False),
    "nearest, odd": lambda: nearest((5, 13), False, False),
    "nearest, corners": lambda: nearest((15, 13), True, False),
    "nearest, centres": lambda: nearest((20, 9), False, True),
    "nearest, smaller": lambda: nearest((3, 4), False, True),
    "slice": lambda: one("SLICE", (1, 3, 5, 2), ints(0, 2, 1, 1), ints(1, 3, -1, 2)),
    "every second": lambda: strided(
        (1, 4, 2, 4), ints(0, 1, 1, 0), ints(1, 8, -1, 0), ints(1, 2, 2, 1), to_last=8
    ),
    "a channel": lambda: strided(
        (1, 8, 6), ints(0, 0, 0, -2), ints(0, 0, 0, 0), ints(1, 1, 1, 1), whole=7, single=8
    ).then("EXPAND_DIMS", (1, 8, 6, 1), ints(-1)),
    "split": lambda: parts("SPLIT"),
    "split into sizes": lambda: parts("SPLIT_V"),
    "leaky relu": lambda: one("LEAKY_RELU", SHAPE, options=[(0, "f", 0.2)]),
    "prelu": lambda: one("PRELU", SHAPE, floats(1, 1, 4)),
    "prelu by place": lambda: one("PRELU", SHAPE, floats(8, 6, 4)),
    "gelu": lambda: one("GELU", SHAPE, options=[(0, "?", False)]),
    "depth to space": lambda: one("DEPTH_TO_SPACE", (1, 16, 12, 1), options=[(0, "i", 2)]),
    "space to depth": lambda: one("SPACE_TO_DEPTH", (1, 4, 3, 16), options=[(0, "i", 2)]),
    "tile": lambda: one("TILE", (1, 8, 12, 12), ints(1, 1, 2, 3)),
    "broadcast": lambda: one("MEAN", (1, 1, 1, 4), ints(1, 2), options=KEEP).then(
        "BROADCAST_TO", SHAPE, ints(*SHAPE)
    ),
    "sum over channels": lambda: one("SUM", (1, 8, 6, 1), ints(-1), options=KEEP),
    "largest of channels": lambda: one("REDUCE_MAX", (1, 8, 6, 1), ints(3), options=KEEP),
    "smallest of rows": lambda: one("REDUCE_MIN", (1, 1, 6, 4), ints(1), options=KEEP),
    "squeeze and excite": squeeze_and_excite,
    "attention": attention,
    "dilated": dilated,
}
SIMPLE = "ABS CEIL COS ELU EXP FLOOR NEG RELU RELU6 RELU_N1_TO_1 SIN SQUARE TANH".split()
POSITIVE = "LOG RSQRT SQRT".split()


def saved(building: Building, folder: Path) -> Path:
    path = folder / "model.tflite"
    path.write_bytes(building.graph.to_bytes())
    return path


@pytest.mark.parametrize("case", CASES)
def test_operator_computes_what_litert_does(case: str, tmp_path: Path) -> None:
    building = CASES[case]()
    path = saved(building, tmp_path)
    x = floats(*building.graph.tensors[building.image][0])
    mine, theirs = rebuilt(path, x), litert(path, x)
    assert mine.shape == theirs.shape
    np.testing.assert_allclose(mine, theirs, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("name", SIMPLE + POSITIVE)
def test_function_of_each_value_is_that_of_litert(name: str, tmp_path: Path) -> None:
    path = saved(one(name, SHAPE), tmp_path)
    x = 3 * floats(*SHAPE)
    x = np.abs(x) + 0.01 if name in POSITIVE else x
    np.testing.assert_allclose(rebuilt(path, x), litert(path, x), rtol=2e-5, atol=2e-5)


def test_cast_of_floats_to_floats_is_none(tmp_path: Path) -> None:
    path = saved(one("CAST", SHAPE), tmp_path)
    x = floats(*SHAPE)
    np.testing.assert_array_equal(rebuilt(path, x), x)


# -- quantised ----------------------------------------------------------------------------------

STEP = 0.05
WITHIN = {  # name: shape of the result, other inputs, options, its scale and zero point
    "MAX_POOL_2D": (
        (1, 4, 3, 4),
        [],
        [(0, "b", SAME), (1, "i", 2), (2, "i", 2), (3, "i", 3), (4, "i", 3), (5, "b", 0)],
        (STEP, 3),
    ),
    "PAD": ((1, 11, 9, 5), [PAD], [], (STEP, 3)),
    "RESHAPE": ((1, 4, 16, 3), [ints(1, 4, 16, 3)], [], (STEP, 3)),
    "TRANSPOSE": ((1, 6, 8, 4), [ints(0, 2, 1, 3)], [], (STEP, 3)),
    "DEPTH_TO_SPACE": ((1, 16, 12, 1), [], [(0, "i", 2)], (STEP, 3)),
    "RESIZE_NEAREST_NEIGHBOR": ((1, 16, 12, 4), [ints(16, 12)], [], (STEP, 3)),
    "SLICE": ((1, 3, 5, 2), [ints(0, 2, 1, 1), ints(1, 3, 5, 2)], [], (STEP, 3)),
    "SOFTMAX": (SHAPE, [], [(0, "f", 1.0)], (1 / 256, -128)),
    "TANH": (SHAPE, [], [], (1 / 128, 0)),
    "LEAKY_RELU": (SHAPE, [], [(0, "f", 0.1)], (0.04, -100)),
    "MEAN": ((1, 1, 1, 4), [ints(1, 2)], KEEP, (0.01, 10)),
}


@pytest.mark.parametrize("name", WITHIN)
def test_quantised_operator_gives_litert_s_integers(name: str, tmp_path: Path) -> None:
    shape, others, options, (scale, zero_point) = WITHIN[name]
    graph = Graph()
    image = graph.quantise(graph.value(*SHAPE, dtype="int8"), [STEP], [3])
    out = graph.quantise(graph.value(*shape, dtype="int8"), [scale], [zero_point])
    graph.add(name, [image, *map(graph.constant, others)], out, options)
    path = tmp_path / "model.tflite"
    path.write_bytes(graph.to_bytes())
    x = RNG.integers(-128, 128, SHAPE).astype(np.int8)
    real = (x.astype(np.float32) - 3) * np.float32(STEP)
    mine = np.rint(rebuilt(path, real) / scale) + zero_point
    difference = np.abs(mine - litert(path, x))
    assert difference.max() <= 1
    # XNNPACK multiplies the slope with so few bits that it often rounds the other way.
    assert (difference > 0).mean() < (0.2 if name == "LEAKY_RELU" else 0.05)


def test_difference_and_largest_of_quantised_values(tmp_path: Path) -> None:
    graph = Graph()
    image = graph.quantise(graph.value(*SHAPE, dtype="int8"), [STEP], [3])
    other = graph.quantise(graph.value(*SHAPE, dtype="int8"), [0.04], [-100])
    apart = graph.quantise(graph.value(*SHAPE, dtype="int8"), [0.06], [5])
    largest = graph.quantise(graph.value(*SHAPE, dtype="int8"), [STEP], [3])
    graph.add("LEAKY_RELU", [image], other, [(0, "f", 0.1)])
    graph.add("MAXIMUM", [image, image], largest)
    graph.add("SUB", [largest, other], apart, [(0, "b", 0)])
    path = tmp_path / "model.tflite"
    path.write_bytes(graph.to_bytes())
    x = RNG.integers(-128, 128, SHAPE).astype(np.int8)
    mine = np.rint(rebuilt(path, (x.astype(np.float32) - 3) * np.float32(STEP)) / 0.06) + 5
    difference = np.abs(mine - litert(path, x))
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.05


# -- what a card says of the result ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "output"),
    [
        (["SOFTMAX"], "probability"),
        (["LOGISTIC", "DEQUANTIZE"], "probability"),
        (["QUANTIZE", "LOGISTIC", "DEQUANTIZE"], "probability"),
        (["SOFTMAX", "RESIZE_NEAREST_NEIGHBOR"], "probability"),
        (["LOGISTIC", "ARG_MAX"], "probability"),
        (["LOGISTIC", "MUL"], "logits"),
        (["LOGISTIC", "CONV_2D"], "logits"),
        (["RELU", "DEQUANTIZE"], "logits"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_card_says_what_is_between_0_and_1(names: list[str], output: str, tmp_path: Path) -> None:
    """Two channels: of one channel it is a probability anyway."""
    graph = Graph()
    last, shape = graph.value(1, 4, 4, 2), (1, 4, 4, 2)
    for position, name in enumerate(names):
        inputs, options = [last], []
        if name == "MUL":
            inputs.append(graph.constant(floats(2)))
        elif name == "RESIZE_NEAREST_NEIGHBOR":
            inputs.append(graph.constant(ints(4, 4)))
        elif name == "CONV_2D":
            inputs += [graph.constant(floats(2, 1, 1, 2)), graph.constant(floats(2))]
            options = [(0, "b", SAME), (1, "i", 1), (2, "i", 1), (3, "b", 0)]
        elif name == "ARG_MAX":
            inputs.append(graph.constant(ints(3).reshape(())))
        integers = position + 1 < len(names) and names[position + 1] == "DEQUANTIZE"
        if name == "ARG_MAX":
            last = graph.value(1, 4, 4, dtype="int64")
        elif integers or name == "QUANTIZE":
            last = graph.quantise(graph.value(*shape, dtype="uint8"), [1 / 256], [0])
        else:
            last = graph.value(*shape)
        graph.add(name, inputs, last, options)
    path = tmp_path / "model.tflite"
    path.write_bytes(graph.to_bytes())
    loaded = load_tflite(path)
    to_module(loaded)
    assert loaded.card("m").output == output


# -- what does not fit ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("building", "message"),
    [
        (lambda: one("TRANSPOSE", SHAPE, ints(0, 1, 1, 3)), "has the order"),
        (lambda: one("PAD", SHAPE, ints(0, 0)), "has the paddings"),
        (lambda: one("MIRROR_PAD", (1, 25, 6, 4), ints(0, 0, 9, 8, 0, 0, 0, 0)), "to an axis of 8"),
        (lambda: one("SLICE", SHAPE, ints(0, 0), ints(1, 1)), "of 4 axes"),
        (
            lambda: strided(SHAPE, ints(0, 7, 0, 0), ints(1, 0, 6, 4), ints(1, -1, 1, 1)),
            "or backwards",
        ),
        (lambda: one("MEAN", SHAPE, ints(7), options=KEEP), "reduces the axes"),
        (lambda: one("RESHAPE", (1, 5, 5, 5), ints(1, 5, 5, 5)), "does not fit its inputs"),
        (lambda: one("DEPTH_TO_SPACE", SHAPE, options=[(0, "i", 0)]), "block or kernel of 0"),
        (lambda: transposed(3, 2, SAME, (40, 12), bias=True), "which does not fit"),
        (lambda: one("BROADCAST_TO", (1, 8, 12, 4), ints(1, 8, 12, 4)), "makes"),
        (lambda: one("SPACE_TO_BATCH_ND", SHAPE, ints(0, 2), ints(0, 0, 0, 0)), "has blocks of"),
    ],
)
def test_what_does_not_fit_is_one_line_that_names_the_operator(
    building: Callable[[], Building], message: str, tmp_path: Path
) -> None:
    made = building()
    with pytest.raises(ModelError, match=message) as caught:
        to_module(load_tflite(saved(made, tmp_path)))
    assert made.graph.operators[0][0] in str(caught.value)
    assert "\n" not in str(caught.value)


def test_cast_to_integers_is_refused(tmp_path: Path) -> None:
    graph = Graph()
    image, whole = graph.value(*SHAPE), graph.value(*SHAPE, dtype="int32")
    graph.add("CAST", [image], whole)
    graph.add("CAST", [whole], graph.value(*SHAPE))
    path = tmp_path / "model.tflite"
    path.write_bytes(graph.to_bytes())
    with pytest.raises(ModelError, match=r"CAST \(operator 0\) makes integers of real numbers"):
        to_module(load_tflite(path))


def test_damage_to_any_of_them_is_a_model_error_or_a_model(tmp_path: Path) -> None:
    path, rng = tmp_path / "damaged.tflite", random.Random(6)
    for make in CASES.values():
        whole = make().graph.to_bytes()
        for _ in range(12):
            damaged = bytearray(whole)
            for _ in range(rng.randint(1, 6)):
                at = rng.randrange(8, len(whole))
                damaged[at] = rng.choice([0, 1, 127, 128, 255, damaged[at] ^ 1 << rng.randrange(8)])
            path.write_bytes(damaged)
            assert "\n" not in outcome(path)


def outcome(path: Path) -> str:
    try:
        to_module(load_tflite(path))
    except ModelError as error:
        return str(error)
    return ""


def test_documentation_lists_what_is_understood() -> None:
    text = (Path(__file__).parents[3] / "docs" / "export.md").read_text()
    said = set(text.partition("Understood are")[2].partition("\n\n")[0].replace(",", " ").split())
    unsaid: Any = {name.removeprefix("CUSTOM ") for name in OPERATORS} - {
        word.strip("`.;:") for word in said
    }
    assert not unsaid
