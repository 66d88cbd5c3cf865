from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from streamseg.errors import ModelError
from streamseg.models.card import Card, Model, load_card
from streamseg.models.labels import VOC_LABELS
from streamseg.models.registry import bundled_names, find_model


@pytest.mark.parametrize("name", bundled_names())
def test_bundled_models_are_what_their_cards_say(name: str) -> None:
    model = find_model(name)
    data = model.path.read_bytes()

    assert hashlib.sha256(data).hexdigest() == model.card.sha256
    assert len(data) == model.card.size_bytes
    assert model.card.labels == ("SELFIE", "BACKGROUND")
    assert model.card.mean == (0.0, 0.0, 0.0)
    assert model.card.std == (1.0, 1.0, 1.0)
    assert model.card.licence == "Apache-2.0"
    assert len(model.card.source_sha256) == 64


def test_an_unknown_name_is_told_with_the_nearest() -> None:
    with pytest.raises(ModelError, match=r"unknown model 'selfi': .* did you mean 'selfie'\?"):
        find_model("selfi")


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"x\.pte: no such model file"):
        find_model(tmp_path / "x.pte")


def test_a_folder_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "x.pte").mkdir()
    with pytest.raises(ModelError, match="is a directory"):
        find_model(tmp_path / "x.pte")


def test_a_card_beside_the_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "x.pte").write_bytes(b"\0\0\0\0ET12")
    (tmp_path / "x.toml").write_text("name='mine'\nlabels=['ROAD','SKY']\nstd=[0.2,0.2,0.2]\n")

    model = find_model(tmp_path / "x.pte")

    assert model.card.name == "mine"
    assert model.labels_for(2) == ("ROAD", "SKY")
    assert model.output_for(2) == "logits"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name='x'\ncolour='red'", "colour: Extra inputs"),
        ("name='x'\nstd=[0.0,1.0,1.0]", "std must be above 0"),
        ("name='x'\nlabels=['A','A']", "labels must be different"),
        ("labels=['A']", "name: Field required"),
        ("name=", "not valid TOML"),
    ],
)
def test_a_wrong_card_is_told(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "x.toml"
    path.write_text(text)
    with pytest.raises(ModelError, match=message) as caught:
        load_card(path)
    assert "\n" not in str(caught.value)


def test_labels_are_derived_where_no_card_names_them() -> None:
    model = Model(Path("x.pte"), Card(name="x"))

    assert model.labels_for(1) == ("SELFIE", "BACKGROUND")
    assert model.labels_for(21) == VOC_LABELS
    assert model.labels_for(3) == ("CLASS_0", "CLASS_1", "CLASS_2")
    assert model.output_for(1) == "probability"


def test_labels_that_do_not_fit_the_model_are_told() -> None:
    model = Model(Path("x.pte"), Card(name="x", labels=("A", "B", "C")))
    with pytest.raises(ModelError, match=r"its card has 3 labels, .* needs 2"):
        model.labels_for(1)
