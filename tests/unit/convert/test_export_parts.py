"""What an export is made of, without the export stack: agreement, pictures, functions, weights."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from streamseg.convert._trials import OWN_PICTURE, Trials
from streamseg.convert.agreement import AgreementMeter
from streamseg.convert.module import load_function
from streamseg.convert.pictures import MAX_PICTURES, read_calibration, read_picture
from streamseg.convert.torchvision_models import build_torchvision, import_torchvision_models
from streamseg.errors import ModelError
from streamseg.models.card import Card, MaskRule

PLAIN = Card(name="plain")


def one_hot(classes: list[list[int]], count: int = 3) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.tensor(classes), count).permute(2, 0, 1)[None].float()


def test_agreement_weights_the_classes_by_their_pixels() -> None:
    meter = AgreementMeter(None)
    meter.add((one_hot([[0, 0, 1, 2]]),), (one_hot([[0, 0, 1, 1]]),))
    agreement = meter.result()
    assert agreement is not None
    assert agreement.share == 0.75
    assert agreement.iou == pytest.approx(0.5 * 1.0 + 0.5 * 0.5)
    assert agreement.pictures == 1


def test_agreement_of_one_channel_is_that_of_its_foreground() -> None:
    ours, theirs = torch.tensor([[[[0.9, 0.2]]]]), torch.tensor([[[[0.8, 0.7]]]])
    probability, logits = AgreementMeter(None), AgreementMeter(Card(name="m", output="logits"))
    for meter in (probability, logits):
        meter.add((ours,), (theirs,))
    first, second = probability.result(), logits.result()
    assert first is not None
    assert second is not None
    assert (first.share, second.share) == (0.5, 1.0)


def test_agreement_of_a_classifier_counts_pictures() -> None:
    meter = AgreementMeter(Card(name="c", task="classification"))
    meter.add((torch.tensor([[1.0, 2.0]]),), (torch.tensor([[1.0, 3.0]]),))
    meter.add((torch.tensor([[1.0, 2.0]]),), (torch.tensor([[4.0, 3.0]]),))
    agreement = meter.result()
    assert agreement is not None
    assert (agreement.share, agreement.iou) == (0.5, None)


def test_outputs_that_are_neither_have_no_agreement() -> None:
    meter = AgreementMeter(None)
    meter.add((torch.zeros(1, 5, 4), torch.zeros(1, 5)), (torch.zeros(1, 5, 4), torch.zeros(1, 5)))
    assert meter.result() is None


def test_agreement_of_queries_is_that_of_the_classes_of_pixels() -> None:
    """One query says 0 on the left, another 1 on the right, a third one that it found nothing."""
    card = Card(name="q", task="mask-classification", masks=MaskRule(family="maskformer"))
    classes = torch.tensor([[[9.0, 0, 0], [0, 9.0, 0], [0, 0, 9.0]]])
    left = torch.tensor([[9.0, 9.0, -9.0, -9.0]])
    masks = torch.stack([left, -left, torch.full_like(left, 9.0)])[None]
    meter = AgreementMeter(card)
    meter.add((classes, masks), (classes, masks))
    meter.add((classes, masks), (classes.flip(1)[:, [1, 2, 0]], masks))
    agreement = meter.result()
    assert agreement is not None
    assert agreement.pictures == 2
    assert (agreement.share, agreement.iou) == (0.5, pytest.approx(1 / 3))


def test_a_model_of_pictures_is_compared_on_a_real_one() -> None:
    card = Card(name="c", mean=(0.5,) * 3, std=(0.25,) * 3)
    trials = Trials((1, 3, 24, 32), card)
    assert trials.in_words == "noise, a ramp and portrait.jpg (comes with streamseg)"
    noise, ramp, picture = trials
    assert [each.is_picture for each in (noise, ramp, picture)] == [False, False, True]
    assert torch.equal(picture.values, read_picture(OWN_PICTURE, card, (24, 32)))
    # Its licence is beside it, and both are small.
    assert "public domain" in OWN_PICTURE.with_name("README.md").read_text()
    assert OWN_PICTURE.stat().st_size < 60_000


def test_own_pictures_take_the_place_of_it() -> None:
    zeros = torch.zeros(1, 3, 4, 4)
    assert Trials((1, 3, 4, 4), None, zeros, "k.jpg").in_words == "noise, a ramp and k.jpg"
    calibrated = Trials((1, 3, 4, 4), None, calibration=[zeros])
    assert calibrated.in_words == "noise, a ramp and 1 picture of the calibration"
    assert [each.is_picture for each in calibrated] == [False, False, True]


def test_a_model_of_other_inputs_has_no_picture_to_agree_on() -> None:
    for shape in ((1, 4, 8, 8), (1, 8)):
        trials = Trials(shape, None)
        assert trials.in_words == "noise and a ramp"
        assert not any(each.is_picture for each in trials)


def test_a_picture_is_normalised_as_the_card_says(tmp_path: Path) -> None:
    path = tmp_path / "p.png"
    Image.new("RGB", (8, 4), (255, 0, 51)).save(path)
    card = Card(name="c", mean=(0.5, 0.5, 0.2), std=(0.5, 0.25, 1.0))
    picture = read_picture(path, card, (2, 3))
    assert picture.shape == (1, 3, 2, 3)
    expected = torch.tensor([1.0, -2.0, 0.0])
    torch.testing.assert_close(picture[0, :, 0, 0], expected, atol=1e-6, rtol=0)


def test_an_antialiased_picture_is_what_pillow_makes(tmp_path: Path) -> None:
    generator = np.random.default_rng(5)
    pixels = generator.integers(0, 256, (64, 48, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    image.save(tmp_path / "p.png")
    ours = read_picture(tmp_path / "p.png", Card(name="c", antialias=True), (16, 12))
    theirs = np.asarray(image.resize((12, 16), Image.Resampling.BILINEAR), np.float32) / 255
    np.testing.assert_allclose(ours[0].permute(1, 2, 0).numpy(), theirs, atol=1.01 / 255)


def test_a_letterboxed_picture_keeps_its_shape(tmp_path: Path) -> None:
    Image.new("RGB", (20, 10), "white").save(tmp_path / "p.png")
    picture = read_picture(tmp_path / "p.png", Card(name="c", letterbox=True), (8, 8))
    assert (picture[0, 0, 2:6] == 1).all()
    assert (picture[0, 0, [0, 1, 6, 7]] == 0.5).all()


def test_calibration_leaves_out_what_is_no_picture(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "b.jpg").write_bytes(b"\xff\xd8\xff no picture")
    (tmp_path / "notes.txt").write_text("not looked at")
    pictures, notices = read_calibration([tmp_path], PLAIN, (4, 4))
    assert len(pictures) == 1
    assert len(notices) == 1
    assert "b.jpg" in notices[0]


def test_calibration_takes_so_many_pictures_of_a_folder(tmp_path: Path) -> None:
    for index in range(MAX_PICTURES + 7):
        Image.new("L", (2, 2)).save(tmp_path / f"{index:04}.png")
    assert len(read_calibration([tmp_path], PLAIN, (2, 2))[0]) == MAX_PICTURES


def test_calibration_takes_no_more_than_fit_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for index in range(4):
        Image.new("L", (2, 2)).save(tmp_path / f"{index}.png")
    monkeypatch.setattr("streamseg.convert.pictures._MAX_BYTES", 2 * 3 * 4 * 8 * 8 + 1)
    pictures, notices = read_calibration([tmp_path], PLAIN, (8, 8))
    assert len(pictures) == 2
    assert notices == ["only 2 pictures of this size are calibrated with"]


@pytest.mark.parametrize("given", ["empty", "absent.png"])
def test_calibration_without_a_picture_is_an_error(tmp_path: Path, given: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=f"{given} has none that can be read"):
        read_calibration([tmp_path / given], PLAIN, (4, 4))


@pytest.fixture
def functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's module in the working directory."""
    (tmp_path / "users_models.py").write_text(
        "import torch\n"
        "def build():\n    return torch.nn.ReLU().train()\n"
        "def number():\n    return 3\n"
        "def broken():\n    raise OSError('no weights')\n"
        "def leaves():\n    raise SystemExit('bye')\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.delitem(sys.modules, "users_models", raising=False)


def test_a_function_in_the_working_directory_is_found(functions: None) -> None:
    module = load_function("users_models:build")
    assert isinstance(module, torch.nn.ReLU)
    assert not module.training


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("users_models:number", "returned int, expected a torch.nn.Module"),
        ("users_models:broken", "OSError: no weights"),
        ("users_models:leaves", "SystemExit: bye"),
        ("users_models:absent", "AttributeError"),
        ("absent_models:build", "ModuleNotFoundError"),
        ("users_models", "expected package.module:function"),
        ("users models:build", "expected package.module:function"),
        ("users_models:", "expected package.module:function"),
    ],
)
def test_a_function_that_gives_no_module_is_an_error(
    functions: None, reference: str, message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        load_function(reference)


class Trap:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_weights_that_want_to_run_code_are_refused(tmp_path: Path) -> None:
    torch.save({"model": Trap(tmp_path / "sprung")}, tmp_path / "w.pth")
    with pytest.raises(ModelError, match=r"w\.pth: is no file of weights that can be read safely"):
        build_torchvision("mobilenet_v2", weights=tmp_path / "w.pth")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no weights", "no file of weights"),
        ({"conv.weight": torch.zeros(1)}, "has no classifier.1.weight: is it for mobilenet_v2"),
        ([torch.zeros(1)], "holds no state_dict"),
    ],
)
def test_weights_that_do_not_fit_are_refused(tmp_path: Path, content: object, message: str) -> None:
    path = tmp_path / "w.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(ModelError, match=message):
        build_torchvision("mobilenet_v2", weights=path)


def test_absent_weights_and_names_are_errors(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"w\.pth: cannot read the weights: No such file"):
        build_torchvision("mobilenet_v2", weights=tmp_path / "w.pth")
    with pytest.raises(ModelError, match="unknown model 'resnet': choose one of deeplabv3"):
        build_torchvision("resnet", random_seed=1)
    with pytest.raises(ModelError, match="lraspp_mobilenet_v3_large needs its weights"):
        build_torchvision("lraspp_mobilenet_v3_large")


@pytest.fixture
def other_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty package of that name, before any that is installed."""
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "models.py").write_text("HERE = True\n")
    monkeypatch.syspath_prepend(tmp_path)
    return package / "__init__.py"


@pytest.fixture(autouse=True)
def forget_other_torchvision() -> object:
    before = {name: module for name, module in sys.modules.items() if "torchvision" in name}
    yield
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        if before.get(name) is not sys.modules[name]:
            del sys.modules[name]


def test_operators_that_torchvision_could_not_load_are_declared(other_torchvision: Path) -> None:
    other_torchvision.write_text(
        "import torch\n"
        "for name in ('declared_by_a_test', 'declared_by_a_test_too'):\n"
        "    torch.library.register_fake(f'torchvision::{name}')(lambda *a: None)\n"
    )
    assert import_torchvision_models().HERE
    operator = torch.ops.torchvision.declared_by_a_test
    with pytest.raises(NotImplementedError):  # there is a name, and nothing behind it
        operator(torch.zeros(1, 4), torch.zeros(1), 0.5)


def test_a_torchvision_that_does_not_import_is_an_error_that_says_so(
    other_torchvision: Path,
) -> None:
    other_torchvision.write_text("raise RuntimeError('compiled with different CUDA versions')\n")
    message = (
        r"torchvision does not import beside torch .*: compiled with different CUDA versions: "
        r"install the torchvision that was built for this torch"
    )
    with pytest.raises(ModelError, match=message):
        import_torchvision_models()


def test_no_torchvision_is_an_error_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(ModelError, match="torchvision is not installed"):
        import_torchvision_models()


def test_pictures_are_of_known_formats_only_whatever_they_are_called(tmp_path: Path) -> None:
    made = Image.new("RGB", (8, 8), (200, 100, 50))
    made.save(tmp_path / "p.tga")
    (tmp_path / "p.tga").rename(tmp_path / "p.png")
    with pytest.raises(ModelError, match=r"p\.png: is no picture that can be read"):
        read_picture(tmp_path / "p.png", PLAIN, (8, 8))


def test_sixteen_bits_are_scaled_and_not_cut_off(tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 8), 128 * 257, np.uint16)).save(tmp_path / "p.png")
    picture = read_picture(tmp_path / "p.png", PLAIN, (8, 8))
    assert picture.numpy() == pytest.approx(128 / 255)
