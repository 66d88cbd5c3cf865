"""Conversion of a real model, and what an export promises about files."""

import os
import random
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from streamseg.convert import TFLiteGraph, export_module, load_tflite, to_module
from streamseg.convert._lowering import Program
from streamseg.errors import ModelError
from streamseg.models.card import Model, load_card
from tests.support.command import Command, one_line
from tests.support.made_once import converted_once
from tests.support.tflite_graphs import Graph

pytestmark = [
    pytest.mark.integration,
    # The export stack of ExecuTorch warns about itself in many ways, none of them ours.
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.timeout(300),  # a test that needs the program may have to wait for it
]

DEEPLAB = "weights/deeplabv3_257_voc21.tflite"
SELFIE = Path(__file__).parents[1] / "golden" / "selfie"
QUANTISED = "weights/deeplabv3_mnv2_513_voc21_quant.tflite"


@pytest.fixture(scope="module")
def assets() -> Path:
    folder = os.environ.get("STREAMSEG_TEST_ASSETS")
    if not folder:
        pytest.skip(f"STREAMSEG_TEST_ASSETS is not set: {DEEPLAB} is there")
    return Path(folder)


@pytest.fixture(scope="module")
def deeplab(assets: Path) -> Model:
    return converted_once(assets / DEEPLAB)


@pytest.fixture(scope="module")
def quantised(assets: Path) -> tuple[TFLiteGraph, torch.nn.Module]:
    graph = load_tflite(assets / QUANTISED)
    return graph, to_module(graph)


@pytest.fixture(scope="module")
def picture(assets: Path) -> torch.Tensor:
    """The golden test's picture, as the model wants it: RGB in [-1, 1]."""
    path = assets / "golden" / "segmentation_input_rotation0.jpg"
    rgb = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
    assert rgb.shape == (257, 257, 3)
    image = (rgb.astype(np.float32) - 127.5) / 127.5
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)[None]))


@pytest.fixture(scope="module")
def golden_classes(assets: Path) -> np.ndarray:
    path = assets / "golden" / "segmentation_golden_rotation0.png"
    return cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) // 10


def agreement(scores: torch.Tensor, classes: np.ndarray) -> float:
    return float((scores[0].argmax(0).numpy() == classes).mean())


def test_rebuilt_deeplab_finds_the_golden_mask(
    assets: Path, picture: torch.Tensor, golden_classes: np.ndarray
) -> None:
    with torch.inference_mode():
        scores = to_module(load_tflite(assets / DEEPLAB))(picture)
    assert scores.shape == (1, 21, 257, 257)
    assert agreement(scores, golden_classes) >= 0.99


def test_exported_deeplab_finds_the_golden_mask(
    deeplab: Model, picture: torch.Tensor, golden_classes: np.ndarray
) -> None:
    scores = Program(str(deeplab.path))(picture)[0]
    assert scores.shape == (1, 21, 257, 257)
    assert agreement(scores, golden_classes) >= 0.99
    told = re.fullmatch(
        r"the PyTorch module, on noise, a ramp and portrait\.jpg \(comes with streamseg\): "
        r"largest difference (\S+), IoU 1\.0000, 100\.00% of the pixels equal",
        deeplab.card.verified_with,
    )
    assert told is not None
    assert float(told[1]) < 1e-3
    files = {path for path in deeplab.path.parent.iterdir() if not path.name.startswith(".")}
    assert files == {deeplab.path, deeplab.path.with_suffix(".toml")}


@pytest.fixture
def various(tmp_path: Path) -> Path:
    """A file with operators that XNNPACK has not, or not like this."""
    graph, rng = Graph(), np.random.default_rng(3)

    def floats(*shape: int) -> int:
        return graph.constant(rng.standard_normal(shape).astype(np.float32))

    def ints(*values: int) -> int:
        return graph.constant(np.array(values, np.int32))

    def add(name: str, inputs: list[int], *shape: int, options: object = ()) -> int:
        out = graph.value(*shape)
        graph.add(name, inputs, out, options)
        return out

    image = graph.value(1, 12, 16, 3)
    last = add("MIRROR_PAD", [image, ints(0, 0, 2, 2, 2, 2, 0, 0)], 1, 16, 20, 3)
    last = add("SPACE_TO_BATCH_ND", [last, ints(2, 2), ints(0, 0, 0, 0)], 4, 8, 10, 3)
    pool = [(0, "b", 0), (1, "i", 2), (2, "i", 2), (3, "i", 3), (4, "i", 3), (5, "b", 0)]
    last = add("MAX_POOL_2D", [last], 4, 4, 5, 3, options=pool)
    last = add("BATCH_TO_SPACE_ND", [last, ints(2, 2), ints(0, 0, 0, 0)], 1, 8, 10, 3)
    sizes = [(0, "b", 0), (1, "i", 2), (2, "i", 2), (3, "b", 0)]
    inputs = [ints(1, 16, 20, 4), floats(4, 3, 3, 3), last]
    last = add("TRANSPOSE_CONV", inputs, 1, 16, 20, 4, options=sizes)
    last = add("PRELU", [last, floats(1, 1, 4)], 1, 16, 20, 4)
    left, right = graph.value(1, 16, 20, 2), graph.value(1, 16, 20, 2)
    graph.add("SPLIT", [ints(3), last], [left, right], [(0, "i", 2)])
    last = add("MAXIMUM", [left, right], 1, 16, 20, 2)
    last = add("RESIZE_NEAREST_NEIGHBOR", [last, ints(12, 16)], 1, 12, 16, 2)
    last = add("TILE", [last, ints(1, 1, 1, 2)], 1, 12, 16, 4)
    last = add("ADD", [last, floats(4)], 1, 12, 16, 4, options=[(0, "b", 0)])
    add("SOFTMAX", [last], 1, 12, 16, 4, options=[(0, "f", 1.0)])
    path = tmp_path / "various.tflite"
    path.write_bytes(graph.to_bytes())
    return path


def test_operators_that_xnnpack_has_not_are_left_to_others(
    various: Path, streamseg: Command
) -> None:
    pictures = ("--picture", SELFIE / "nobody.jpg")
    given = ("export", "tflite", various, "-o", various.with_suffix(".pte"), *pictures)
    result = streamseg(*given, "--json")
    assert result.code == 0, result.err
    report = result.json
    assert report["compared_with"] == "noise, a ramp and nobody.jpg"
    assert report["agreement"] == {"share": 1.0, "iou": 1.0, "pictures": 1}
    assert {"aten.index_select.default", "aten.repeat.default"} <= set(report["outside"])
    card = load_card(various.with_suffix(".toml"))
    assert (card.output, card.input_size) == ("probability", (12, 16))


def test_a_quantised_file_does_not_become_int8_again(
    assets: Path, tmp_path: Path, streamseg: Command
) -> None:
    given = ("export", "tflite", assets / QUANTISED, "-o", tmp_path / "m.pte")
    result = streamseg(*given, "--int8", "--calibrate", SELFIE / "nobody.jpg")
    one_line(result, 2, "is quantised already", "without int8")
    assert list(tmp_path.iterdir()) == []


def test_rebuilt_deeplab_computes_what_litert_does(assets: Path, picture: torch.Tensor) -> None:
    pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed: no reference to run")
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(assets / DEEPLAB), num_threads=1)
    interpreter.allocate_tensors()
    module = to_module(load_tflite(assets / DEEPLAB))
    noise = torch.rand(picture.shape, generator=torch.Generator().manual_seed(3)) * 2 - 1
    for image in (picture, noise):
        nhwc = image.permute(0, 2, 3, 1).numpy()
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], nhwc)
        interpreter.invoke()
        reference = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
        with torch.inference_mode():
            scores = module(image).permute(0, 2, 3, 1).numpy()
        np.testing.assert_allclose(scores, reference, atol=1e-3)


@pytest.mark.parametrize(
    "name", ["astronaut.png", "grace_hopper.jpg", "cats_and_dogs.jpg", "three_people.jpg"]
)
def test_rebuilt_quantised_deeplab_computes_what_litert_does(
    assets: Path, quantised: tuple[TFLiteGraph, torch.nn.Module], name: str
) -> None:
    """To the pixel, because it computes on the same integers; 0.97 is what is promised."""
    pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed: no reference to run")
    from ai_edge_litert.interpreter import Interpreter

    graph, module = quantised
    rgb = cv2.cvtColor(cv2.imread(str(assets / "media" / name)), cv2.COLOR_BGR2RGB)
    image = cv2.resize(rgb, graph.input_size[::-1])
    interpreter = Interpreter(model_path=str(assets / QUANTISED), num_threads=1)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image[None])
    interpreter.invoke()
    reference = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])[0]
    real = (image.astype(np.float32) / 255 - graph.mean[0]) / graph.std[0]
    with torch.inference_mode():
        scores = module(torch.from_numpy(real.transpose(2, 0, 1)[None].copy()))[0]
    classes = scores.argmax(0).numpy()
    present = np.union1d(classes, reference)
    overlaps = [
        ((classes == c) & (reference == c)).sum() / ((classes == c) | (reference == c)).sum()
        for c in present
    ]
    equal = float((classes == reference).mean())
    print(f"{name}: classes {present.tolist()}, IoU {np.mean(overlaps):.4f}, {equal:.3%} equal")
    assert len(present) > 1
    assert np.mean(overlaps) >= 0.97


def test_quantised_deeplab_tells_how_it_is_fed(
    quantised: tuple[TFLiteGraph, torch.nn.Module],
) -> None:
    graph, _ = quantised
    assert graph.quantised
    assert graph.output_shape == (1, 21, 513, 513)
    card = graph.card("quantised")
    assert card.mean == card.std == (128 / 255,) * 3
    assert card.output == "logits"


def test_card_has_the_file_s_own_labels_and_normalisation(assets: Path) -> None:
    card = load_tflite(assets / DEEPLAB).card("deeplab")
    assert card.mean == card.std == (0.5, 0.5, 0.5)
    assert card.input_size == (257, 257)
    assert card.labels is not None
    assert card.labels[11:17:5] == ("dining table", "potted plant")
    assert card.labels[20] == "tv"
    assert card.title == "DeepLabV3"
    assert card.licence.startswith("Apache License")


def test_damaged_metadata_are_a_model_error_or_a_card(assets: Path, tmp_path: Path) -> None:
    whole = (assets / DEEPLAB).read_bytes()
    at = whole.rindex(b"M001") - 4
    labels = whole.rindex(b"PK\x03\x04")
    path = tmp_path / "damaged.tflite"
    rng = random.Random(5)
    messages = []
    for turn in range(120):
        damaged = bytearray(whole)
        start, end = ((at, at + 968), (labels, len(whole)))[turn % 2]
        for _ in range(rng.randint(1, 4)):
            place = rng.randrange(start, end)
            damaged[place] = rng.choice([0, 255, damaged[place] ^ 1 << rng.randrange(8)])
        path.write_bytes(damaged)
        try:
            load_tflite(path).card("damaged")
        except ModelError as error:
            messages.append(str(error))
    assert 0 < len(messages) < 120
    assert "\n" not in "".join(messages)


class RunningSum(torch.nn.Module):
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(torch.cumsum(image, dim=3))


class Noisy(torch.nn.Module):
    """Gives another result at every call in Python, so that no program can equal it."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        exporting = torch.compiler.is_exporting()
        return torch.sigmoid(image) + (0.0 if exporting else 0.5)


@pytest.mark.parametrize(
    ("module", "message"),
    [(RunningSum(), "left outside: .*cumsum"), (Noisy(), "differs from the module by 0.5")],
)
def test_failed_export_leaves_the_old_file(
    tmp_path: Path, module: torch.nn.Module, message: str
) -> None:
    path = tmp_path / "model.pte"
    path.write_bytes(b"the old one")
    with pytest.raises(ModelError, match=message):
        export_module(module.eval(), (1, 3, 8, 8), path)
    assert path.read_bytes() == b"the old one"
    assert list(tmp_path.iterdir()) == [path]


def test_export_into_an_absent_folder_is_a_model_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot write beside"):
        export_module(torch.nn.Sigmoid().eval(), (1, 3, 8, 8), tmp_path / "none" / "model.pte")
