"""Exports from end to end: what is written, what is refused, and what is left behind."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from streamseg.convert._lowering import Program
from streamseg.convert.export import export_module
from streamseg.convert.on_pictures import export_on_pictures
from streamseg.convert.pictures import read_picture
from streamseg.errors import ModelError
from streamseg.models.card import Card, load_card
from streamseg.models.registry import find_model
from tests.support.command import Command, one_line
from tests.support.torchvision_models import mobilenet_weights, torchvision_folder

pytestmark = [
    pytest.mark.integration,
    # The export stack of ExecuTorch warns about itself in many ways, none of them ours.
    pytest.mark.filterwarnings("ignore"),
]

ROOT = Path(__file__).parents[2]
PICTURES = ROOT / "tests" / "golden" / "selfie"
THREE = ("A", "B", "C")


class Net(nn.Module):
    """Three classes of a picture, by convolutions wide enough for their weights to be seen."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.first = nn.Conv2d(3, 48, 3, padding=1)
        self.second = nn.Conv2d(48, 48, 3, padding=1)
        self.last = nn.Conv2d(48, classes, 1)

    def forward(self, picture: Tensor) -> Tensor:
        return self.last(torch.relu(self.second(torch.relu(self.first(picture)))))


class Several(nn.Module):
    """Outputs of several ranks and types, by operators that XNNPACK has not."""

    def forward(self, picture: Tensor) -> tuple[Tensor, ...]:
        sums = torch.cumsum(picture, dim=3)
        return sums.flatten(2).transpose(1, 2), sums, picture.argmax(1), picture.amax(1) > 0.5


class Gated(nn.Module):
    """As MobileNetV3's blocks: hardsigmoid, and integers as scalars."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.layer = nn.Conv2d(3, 4, 1)
        self.gate = nn.Hardsigmoid(inplace=True)

    def forward(self, picture: Tensor) -> Tensor:
        return 2 * self.layer(picture) * self.gate(3 - self.layer(picture)) + 1


def test_several_outputs_outside_of_the_delegate(tmp_path: Path) -> None:
    (tmp_path / "m.toml").write_bytes(b"the card of an older program")
    report = export_module(Several().eval(), (1, 3, 6, 8), tmp_path / "m.pte", delegate="any")
    assert list(tmp_path.iterdir()) == [report.path]
    assert report.output_shapes == ((1, 48, 3), (1, 3, 6, 8), (1, 6, 8), (1, 6, 8))
    assert {"aten.cumsum.default", "aten.argmax.default"} <= set(report.outside)
    picture = torch.rand(1, 3, 6, 8)
    results = Program(str(report.path))(picture)
    for result, expected in zip(results, Several()(picture), strict=True):
        assert result.dtype == expected.dtype
        torch.testing.assert_close(result, expected)


def test_scalars_keep_nothing_outside_of_the_delegate(tmp_path: Path) -> None:
    report = export_module(Gated().eval(), (1, 3, 8, 8), tmp_path / "m.pte")
    assert (report.delegates, report.outside) == (1, ())


class RunningSum(nn.Module):
    def forward(self, picture: Tensor) -> Tensor:
        return torch.cumsum(picture, dim=3)


class Digamma(nn.Module):
    def forward(self, picture: Tensor) -> Tensor:
        return torch.digamma(picture)


class Mapping(nn.Module):
    def forward(self, picture: Tensor) -> dict[str, Tensor]:
        return {"out": picture}


class Wrong(nn.Module):
    """Exports as something else than it does in Python."""

    def forward(self, picture: Tensor) -> Tensor:
        return torch.relu(picture) + (0.0 if torch.compiler.is_exporting() else 0.5)


@pytest.mark.parametrize(
    ("module", "card", "message"),
    [
        (Digamma(), None, "ExecuTorch has no kernel for aten::digamma.out"),
        (Mapping(), None, "returns dict, expected a tensor or a tuple of tensors"),
        (nn.Linear(5, 2), None, "does not run on a picture of"),
        (nn.ReLU(), Card(name="m", labels=("A", "B")), "its card has 2 labels"),
        (Wrong(), Card(name="m", labels=THREE), "differs from the module by 0.5"),
    ],
    ids=["kernel", "dict", "shape", "labels", "difference"],
)
def test_a_refused_export_leaves_everything_as_it_was(
    tmp_path: Path, module: nn.Module, card: Card | None, message: str
) -> None:
    pte, toml = tmp_path / "m.pte", tmp_path / "m.toml"
    pte.write_bytes(b"the old program")
    toml.write_bytes(b"the old card")
    with pytest.raises(ModelError, match=message):
        export_module(module.eval(), (1, 3, 8, 8), pte, delegate="any", card=card)
    assert (pte.read_bytes(), toml.read_bytes()) == (b"the old program", b"the old card")
    assert sorted(tmp_path.iterdir()) == [pte, toml]


def test_int8_is_smaller_and_says_nearly_the_same(tmp_path: Path) -> None:
    module, card = Net().eval(), Card(name="net", labels=THREE, output="logits")
    weights = module.second.weight.clone()
    report = export_on_pictures(
        module,
        (1, 3, 48, 64),
        tmp_path / "net.pte",
        card,
        calibrate=[PICTURES / "astronaut.jpg", PICTURES / "nobody.jpg"],
        picture=PICTURES / "astronaut_small.jpg",
    )
    assert report.quantized
    assert (report.delegates, report.outside) == (1, ())
    float_bytes = 4 * sum(parameter.numel() for parameter in module.parameters())
    assert report.size_bytes < float_bytes / 2
    assert torch.equal(module.second.weight, weights)

    agreement = report.agreement
    assert agreement is not None
    assert agreement.pictures == 3
    both = "astronaut_small.jpg and 2 pictures of the calibration"
    assert report.compared_with == f"noise, a ramp, {both}"
    assert agreement.iou is not None
    assert agreement.iou > 0.9
    # Not equal either: a program that still computed in float32 would be.
    assert 1e-4 < report.max_abs_difference < 0.1
    written = load_card(tmp_path / "net.toml")
    assert "int8, calibrated with 2 pictures" in written.verified_with
    assert f"IoU {agreement.iou:.4f}" in written.verified_with

    # What the report says of the picture holds for the file.
    picture = read_picture(PICTURES / "astronaut.jpg", card, (48, 64))
    with torch.inference_mode():
        exact = module(picture).argmax(1)
    share = (Program(str(report.path))(picture)[0].argmax(1) == exact).float().mean()
    assert share > 0.9


def test_int8_without_pictures_is_an_error(tmp_path: Path, streamseg: Command) -> None:
    with pytest.raises(ModelError, match="int8 needs pictures to calibrate with"):
        export_module(Net().eval(), (1, 3, 8, 8), tmp_path / "m.pte", quantize=[])
    given = ("torchvision", "mobilenet_v2", "--random-weights", "-o", tmp_path / "m.pte")
    one_line(
        streamseg("export", *given, "--int8"), 2, "--int8 needs pictures", "--calibrate FOLDER"
    )
    one_line(streamseg("export", *given, "--calibrate", tmp_path), 2, "--calibrate is for --int8")
    assert list(tmp_path.iterdir()) == []


def test_int8_bears_operators_outside_of_the_delegate(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 1), RunningSum(), nn.Conv2d(4, 4, 1)).eval()
    report = export_module(
        module,
        (1, 3, 8, 8),
        tmp_path / "m.pte",
        delegate="any",
        quantize=[torch.rand(1, 3, 8, 8)],
    )
    assert (report.delegates, report.outside) == (2, ("aten.cumsum.default",))


@pytest.fixture
def users_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder, which is the working one, with a user's module in it."""
    (tmp_path / "road.py").write_text(
        "import time, warnings\n"
        "from pathlib import Path\n"
        "import torch\n"
        "from torch import nn\n"
        "def build():\n"
        "    print('printed by the function')\n"
        "    warnings.warn('warned by the function')\n"
        "    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Sigmoid(), nn.Conv2d(4, 3, 1))\n"
        "class Slow(nn.Module):\n"
        "    calls = 0\n"
        "    def forward(self, picture):\n"
        "        if not torch.compiler.is_exporting():\n"
        "            self.calls += 1\n"
        "            if self.calls == 3:\n"  # for the shapes, for the trials, of the program
        "                Path('waiting').touch()\n"
        "                time.sleep(100)\n"
        "        return torch.relu(picture)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.delitem(sys.modules, "road", raising=False)
    return tmp_path


def test_a_users_function_becomes_a_model_with_its_card(
    users_module: Path, streamseg: Command
) -> None:
    (users_module / "card.toml").write_text(
        'name = "road"\nlabels = ["A", "B", "C"]\ninput_size = [16, 24]\nmean = [0.5, 0.5, 0.5]\n'
    )
    result = streamseg("export", "module", "road:build", "--card", "card.toml", "-o", "road.pte")
    assert result.code == 0, result.err
    assert result.err == ""
    assert "printed by" not in result.out
    assert "input 1x3x16x24, output 1x3x16x24" in result.out
    assert "largest difference" in result.out
    model = find_model("road.pte")
    assert model.card.labels == THREE
    assert model.card.mean == (0.5, 0.5, 0.5)
    assert model.card.size_bytes == (users_module / "road.pte").stat().st_size
    told = "noise, a ramp and portrait.jpg (comes with streamseg)"
    assert f"compared with PyTorch on {told}" in result.out
    assert f"the PyTorch module, on {told}" in model.card.verified_with
    assert "IoU 1.0000" in model.card.verified_with

    again = streamseg("export", "module", "road:build", "--card", "card.toml", "-o", "road.pte")
    one_line(again, 2, "road.pte exists", "--overwrite")

    # Nor is an older card taken for that of the new program.
    given = ("--input", "1x3x8x8", "-o", "road.pte", "--overwrite")
    result = streamseg("export", "module", "road:build", *given)
    assert result.code == 0, result.err
    assert "road.toml has no labels and no normalisation" in result.err
    card = load_card(users_module / "road.toml")
    assert (card.labels, card.mean, card.input_size) == (None, (0, 0, 0), (8, 8))
    content = (users_module / "road.pte").read_bytes()
    assert card.sha256 == hashlib.sha256(content).hexdigest() != model.card.sha256


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["module", "road:build", "-o", "m.pte"], ["shape of road:build is not known"]),
        (["module", "road:none", "--input", "1x3x8x8", "-o", "m.pte"], ["road:none failed"]),
        (["module", "road:build", "--input", "1x3", "-o", "m.onnx"], ["ends with .pte"]),
        (["module", "road:build", "--input", "1,3,8,8", "-o", "m.pte"], ["--input is '1,3,8,8'"]),
        (["torchvision", "mobilenet_v2", "-o", "m.pte"], ["needs its weights", "--weights"]),
        (["torchvision", "vgg", "--random-weights", "-o", "m.pte"], ["unknown model 'vgg'"]),
        (
            ["torchvision", "mobilenet_v2", "--random-weights", "--size", "big", "-o", "m.pte"],
            ["--size is 'big'"],
        ),
        (["tflite", "absent.tflite", "-o", "m.pte"], ["cannot read absent.tflite"]),
        (["tflite", "absent.tflite", "-o", "none/m.pte"], ["no such folder", "make it first"]),
        (["transformers", "./absent", "--size", "0x8", "-o", "m.pte"], ["--size is '0x8'"]),
    ],
)
def test_bad_input_is_one_line(
    users_module: Path, streamseg: Command, arguments: list[str], words: list[str]
) -> None:
    one_line(streamseg("export", *arguments), 2, *words)
    assert not list(users_module.glob("*.pte*"))
    assert not list(users_module.glob(".*"))


def in_a_process(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "streamseg", *map(str, arguments)]


def test_an_export_that_is_ended_leaves_nothing(users_module: Path) -> None:
    command = in_a_process("export", "module", "road:Slow", "--input", "1x3x8x8", "-o", "slow.pte")
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            while not (users_module / "waiting").exists():  # the program is beside its target now
                assert process.poll() is None
                time.sleep(0.05)
            assert list(users_module.glob(".slow.pte*"))
            process.send_signal(signal.SIGTERM)
            _, said = process.communicate(timeout=20)
        finally:
            process.kill()
    assert process.returncode == 143
    assert said == "streamseg: interrupted\n"
    assert not list(users_module.glob("*slow.pte*"))


@pytest.fixture(scope="module")
def beside_torchvision() -> dict[str, str]:
    """The environment of a process that has torchvision, of another build than torch."""
    return {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{torchvision_folder()}"}


@pytest.mark.slow
def test_real_weights_of_torchvision_see_what_is_in_a_picture(
    tmp_path: Path, assets: Path, beside_torchvision: dict[str, str]
) -> None:
    command = in_a_process(
        "export", "torchvision", "mobilenet_v2", "--weights", mobilenet_weights()
    )
    command += ["--picture", str(PICTURES / "astronaut.jpg"), "-o", "mobilenet.pte", "--json"]
    done = subprocess.run(
        command, cwd=tmp_path, env=beside_torchvision, capture_output=True, text=True, timeout=110
    )
    assert done.returncode == 0, done.stderr
    # Nothing of what torch, torchvision and ExecuTorch say reaches the user.
    assert done.stderr == ""
    report = json.loads(done.stdout)
    assert report["output_shapes"] == [[1, 1000]]
    assert (report["delegates"], report["outside"]) == (1, [])
    assert report["agreement"] == {"share": 1.0, "iou": None, "pictures": 1}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mobilenet.pte", "mobilenet.toml"]

    model = find_model(tmp_path / "mobilenet.pte")
    assert model.card.task == "classification"
    assert model.card.sha256 == report["sha256"]
    labels = model.labels_for(1000)
    program = Program(str(model.path))

    def best(path: Path) -> str:
        scores = program(read_picture(path, model.card, (224, 224)))[0][0]
        return labels[int(scores.argmax())]

    assert best(assets / "media" / "grace_hopper.jpg") == "MILITARY_UNIFORM"
    assert best(assets / "media" / "cats_and_dogs.jpg") == "PEMBROKE"


BUILD_ALL = """
import json, torch
from streamseg.convert.torchvision_models import ARCHITECTURES, build_torchvision
torch.set_num_threads(1)  # others are at work too
found = {}
for name in ARCHITECTURES:
    if name.endswith('resnet101'):  # the same code as resnet50, twice as long
        continue
    module, card = build_torchvision(name, random_seed=3, size=(32, 64))
    with torch.inference_mode():
        scores = module(torch.rand(1, 3, 32, 64, generator=torch.Generator().manual_seed(1)))
    found[name] = [list(scores.shape), float(scores.std()), card.task, card.description]
print(json.dumps(found))
"""


def test_architectures_are_built_beside_a_torch_of_another_build(
    beside_torchvision: dict[str, str],
) -> None:
    command = [sys.executable, "-W", "ignore", "-c", BUILD_ALL]
    done = subprocess.run(
        command, env=beside_torchvision, capture_output=True, text=True, timeout=110
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found) == 6
    for name, (shape, deviation, task, description) in found.items():
        classifies = name in {"mobilenet_v2", "efficientnet_v2_s"}
        assert shape == ([1, 1000] if classifies else [1, 21, 32, 64])
        assert task == ("classification" if classifies else "semantic-segmentation")
        # As a trained model's are, neither all but zero nor beyond all bounds.
        assert 0.01 < deviation < 1000
        assert "Random weights, seed 3" in description
