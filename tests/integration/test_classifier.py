"""MobileNetV2 with torchvision's ImageNet weights, exported here, on real pictures."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from streamseg.errors import InvalidConfigError, InvalidModelOutputError, InvalidUserInputError
from streamseg.models.card import Card, Model, load_card
from streamseg.models.labels import IMAGENET_LABELS
from streamseg.tasks.classifier import Classification, Classifier
from streamseg.tasks.module import ClassificationModule
from tests.support.torchvision_models import export_once, real_pictures

pytestmark = [
    pytest.mark.integration,
    pytest.mark.anyio,
    pytest.mark.timeout(300),  # the first one waits for an export
]

DOCS = Path(__file__).parents[2] / "docs" / "stills.md"
CATS = {"TABBY", "TIGER_CAT", "EGYPTIAN_CAT"}


@pytest.fixture(scope="module")
def pictures(assets: Path) -> dict[Path, set[str]]:
    """Pictures, and what can be said of each."""
    folder, media = real_pictures(), assets / "media"
    return {
        folder / "chelsea.png": CATS,
        folder / "coffee.png": {"ESPRESSO"},
        folder / "camera.png": {"TRIPOD"},  # grey
        folder / "motorcycle_left.png": {"MOPED", "MOTOR_SCOOTER"},  # ImageNet has no motorcycle
        media / "grace_hopper.jpg": {"MILITARY_UNIFORM"},
    }


@pytest.fixture(scope="module")
def mobilenet(pictures: dict[Path, set[str]]) -> Path:
    convert = Path(__file__).parents[2] / "streamseg" / "convert"
    return export_once(
        "mobilenet",
        ["-m", "tests.support.torchvision_models", "FOLDER", *map(str, pictures)],
        [convert / "torchvision_models.py"],
    )


@pytest.fixture
def model(mobilenet: Path) -> Model:
    return Model(mobilenet / "mobilenet.pte", load_card(mobilenet / "mobilenet.toml"))


async def test_it_names_what_five_pictures_show(
    mobilenet: Path, pictures: dict[Path, set[str]]
) -> None:
    async with await Classifier.load(mobilenet / "mobilenet.pte") as classifier:
        found = {path: await classifier.forward(path) for path in pictures}
        labels = classifier.labels

    assert labels == IMAGENET_LABELS
    for path, result in found.items():
        assert result.top_k(1)[0][0] in pictures[path], path
        assert tuple(result) == IMAGENET_LABELS
        assert sum(result.values()) == pytest.approx(1.0)
        assert min(result.values()) >= 0.0


async def test_its_logits_are_those_of_torch(
    mobilenet: Path, pictures: dict[Path, set[str]], model: Model
) -> None:
    """Decoding, stretching, normalisation and the model, beside Pillow and eager PyTorch."""
    expected = np.load(mobilenet / "logits.npy")
    # What the model says already is what is returned then.
    plain = replace(model, card=model.card.model_copy(update={"output": "probability"}))

    async with await Classifier.load(plain) as classifier:
        logits = [[*(await classifier.forward(path)).values()] for path in pictures]
    async with await Classifier.load(model) as classifier:
        result = await classifier.forward(next(iter(pictures)))

    np.testing.assert_allclose(logits, expected, atol=1e-4)
    powers = np.exp(expected[0].astype(np.float64))
    np.testing.assert_allclose([*result.values()], powers / powers.sum(), atol=1e-5)


async def test_a_file_without_a_card_is_taken_for_what_it_returns(model: Model) -> None:
    bare = Model(model.path, Card(name="bare"))

    async with await Classifier.load(bare) as classifier:
        assert classifier.labels == IMAGENET_LABELS
        assert classifier.card.task == "classification"


async def test_labels_that_do_not_fit_the_output_are_error_115(model: Model) -> None:
    card = model.card.model_copy(update={"labels": IMAGENET_LABELS[:999]})

    with pytest.raises(InvalidModelOutputError, match=r"999 labels, but .* 1000 values") as caught:
        await Classifier.load(replace(model, card=card))

    assert caught.value.code == 115


async def test_a_model_for_segmentation_is_refused() -> None:
    with pytest.raises(InvalidConfigError, match="is a model for semantic-segmentation") as caught:
        await Classifier.load("selfie")
    assert caught.value.code == 112


async def test_a_segmentation_model_without_a_card_is_error_115(models: Path) -> None:
    with pytest.raises(InvalidModelOutputError, match=r"returns \[1, 3, 32, 48\]"):
        await Classifier.load(models / "classes.pte")


def test_the_blocking_form_says_the_same(mobilenet: Path, pictures: dict[Path, set[str]]) -> None:
    path = next(iter(pictures))
    with Classifier.blocking(mobilenet / "mobilenet.pte") as classifier:
        result = classifier.forward(path)

    assert isinstance(result, Classification)
    assert result.top_k(1)[0][0] in CATS


async def test_the_module_form_says_the_same(
    mobilenet: Path, pictures: dict[Path, set[str]]
) -> None:
    module = ClassificationModule()
    await module.load(mobilenet / "mobilenet.pte")
    try:
        result = await module.forward(next(iter(pictures)))
    finally:
        await module.delete()

    assert result.top_k(1)[0][0] in CATS


def test_top_k_is_sorted_and_stable() -> None:
    result = Classification(A=0.1, B=0.4, C=0.1, D=0.4)

    assert result.top_k(3) == [("B", 0.4), ("D", 0.4), ("A", 0.1)]
    assert len(result.top_k()) == 4
    with pytest.raises(InvalidUserInputError, match="k is 0"):
        result.top_k(0)


SNIPPETS = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
SAID = (
    ["int32 (600, 512)", "float32 1", "selfie_general ('SELFIE', 'BACKGROUND')"],
    ["% of the picture is a person"],
    ["1000", "EGYPTIAN_CAT         0.7"],
    ["True 1.0 None", "[(600, 512), (300, 451)] False"],
    ["100%", "(256, 256)"],
    ["114 missing.jpg: no such file", "117 the model has no class 'selfi': did you mean SELFIE?"],
)


@pytest.mark.parametrize("number", range(len(SAID)))
def test_what_the_documentation_shows_runs(
    number: int, mobilenet: Path, assets: Path, tmp_path: Path
) -> None:
    assert len(SNIPPETS) == len(SAID)
    for path in (mobilenet / "mobilenet.pte", mobilenet / "mobilenet.toml"):
        shutil.copy(path, tmp_path)
    shutil.copy(assets / "media" / "grace_hopper.jpg", tmp_path / "portrait.jpg")
    shutil.copy(real_pictures() / "chelsea.png", tmp_path / "cat.png")
    (tmp_path / "example.py").write_text(SNIPPETS[number], encoding="utf-8")

    done = subprocess.run(
        [sys.executable, "example.py"], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )

    assert (done.returncode, done.stderr) == (0, "")
    for part in SAID[number]:
        assert part in done.stdout
