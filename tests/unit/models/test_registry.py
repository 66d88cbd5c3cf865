from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from streamseg.downloads.cache import Cache
from streamseg.downloads.locations import HubFile, parse_location
from streamseg.errors import ModelError, OfflineError
from streamseg.models.card import Card, Model, load_card
from streamseg.models.labels import (
    COCO_CATEGORY_LABELS,
    COCO_LABELS,
    IMAGENET_LABELS,
    VOC_LABELS,
)
from streamseg.models.registry import (
    bundled_names,
    card_of,
    find_model,
    model_names,
    model_state,
    obtain_model,
    remove_converted,
    remove_model,
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cache:
    monkeypatch.setenv("STREAMSEG_CACHE", str(tmp_path / "cache"))
    return Cache()


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


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("selfi", r"unknown model 'selfi': did you mean 'selfie' or 'selfie-landscape'"),
        ("DeepLab", "did you mean 'deeplab-v3-mobilenet-v3-large' or 'deeplab"),
        ("yolo26n-sag", "did you mean 'yolo26n-seg'"),
        ("???", "unknown model .*: see: streamseg models list; a .pte is given by its path"),
        ("", "unknown model ''"),
    ],
)
def test_an_unknown_name_is_told_with_the_nearest(name: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        find_model(name)


WITH_TWINS = {
    "deeplab-v3-resnet50",
    "deeplab-v3-resnet101",
    "deeplab-v3-mobilenet-v3-large",
    "lraspp-mobilenet-v3-large",
    "fcn-resnet50",
    "fcn-resnet101",
    "efficientnet-v2-s",
}
INSTANCES = {f"yolo26{size}-seg" for size in "nsmlx"} | {
    "rfdetr-nano-seg",
    "fast-sam-s",
    "fast-sam-x",
}


def test_all_models_are_there() -> None:
    twins = {f"{name}-int8" for name in WITH_TWINS}
    assert set(model_names()) == (
        {"selfie", "selfie-landscape", "selfie-segmentation"} | WITH_TWINS | twins | INSTANCES
    )
    assert model_names()[:2] == bundled_names()
    assert len(set(model_names())) == len(model_names())


@pytest.mark.parametrize("name", [name for name in model_names() if name not in bundled_names()])
def test_cards_of_models_that_can_be_fetched(name: str) -> None:
    card = card_of(name)

    assert card.name == name
    assert card.title
    assert card.labels
    assert card.licence in {"BSD-3-Clause", "Apache-2.0", "AGPL-3.0-only"}
    assert card.verified_with.startswith("not yet verified: ")
    location = parse_location(card.url)
    assert isinstance(location, HubFile)
    assert location.revision == "v0.9.0"
    assert location.path.endswith("_int8.pte" if name.endswith("-int8") else "_fp32.pte")
    imagenet = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    plain = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    normalised = name.startswith(("deeplab", "lraspp", "fcn", "rfdetr"))
    assert (card.mean, card.std) == (imagenet if normalised else plain)
    if name in INSTANCES:
        assert card.task == "instance-segmentation"
        assert card.instance.confidence == 0.5
        assert card.instance.iou == (0.9 if name.startswith("fast") else 0.5)
        assert card.instance.max_instances == 100
        assert card.instance.suppress != name.startswith("yolo")


def test_labels_of_the_models() -> None:
    assert card_of("fcn-resnet50").labels == VOC_LABELS
    assert card_of("selfie-segmentation").labels == ("SELFIE", "BACKGROUND")
    assert card_of("efficientnet-v2-s-int8").labels == IMAGENET_LABELS
    assert card_of("yolo26x-seg").labels == COCO_LABELS
    assert card_of("rfdetr-nano-seg").labels == COCO_CATEGORY_LABELS
    assert card_of("fast-sam-s").labels == ("OBJECT",)


def test_a_model_that_is_not_here_says_how_to_get_it() -> None:
    message = "fcn-resnet50 is not downloaded; run: streamseg models fetch fcn-resnet50"
    with pytest.raises(ModelError, match=message):
        find_model("fcn-resnet50")
    with pytest.raises(ModelError, match=r"x\.pte: is not downloaded"):
        find_model("https://me:pa55word@host/x.pte")
    assert model_state("fcn-resnet50") == "remote"
    assert model_state("selfie") == "embedded"


def test_a_fetched_model_is_found(cache: Cache) -> None:
    card = card_of("fcn-resnet50")
    location = parse_location(card.url)
    assert isinstance(location, HubFile)
    program = find_model("selfie").path
    cache.add(location, program, "0" * 64)

    assert find_model("fcn-resnet50") == Model(program, card)
    assert model_state("fcn-resnet50") == "cached"


def test_a_file_address_is_a_path(tmp_path: Path) -> None:
    (tmp_path / "x.pte").write_bytes(b"\0\0\0\0ET12")
    assert find_model((tmp_path / "x.pte").as_uri()).path == tmp_path / "x.pte"


@pytest.mark.anyio
async def test_obtaining_what_is_here_needs_no_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STREAMSEG_OFFLINE", "1")
    path = tmp_path / "x.pte"
    path.write_bytes(b"\0\0\0\0ET12")
    seen: list[float] = []

    assert await obtain_model("selfie", on_progress=seen.append) == find_model("selfie")
    assert (await obtain_model(path)).path == path
    assert (await obtain_model(path.as_uri())).path == path
    assert seen == [1.0]
    with pytest.raises(OfflineError):
        await obtain_model("https://127.0.0.1:1/x.pte")
    with pytest.raises(ModelError, match="unknown model"):
        await obtain_model("nonsense")
    path.write_bytes(b"<html>")
    with pytest.raises(ModelError, match="not an ExecuTorch program"):
        await obtain_model(path)


def test_an_address_that_was_made_a_path_keeps_its_password() -> None:
    with pytest.raises(ModelError, match=r"^https://\*\*\*@host/x\.pte: is not downloaded"):
        find_model(Path("https://me:hunter2@host/x.pte"))


@pytest.mark.parametrize(
    ("name", "message"),
    [(f"{'x' * 300}.pte", "cannot read the model: File name too long"), ("x\0.pte", "no such")],
)
def test_a_name_that_no_file_can_have_is_told(name: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        find_model(name)


def test_converted_programs_are_removed_by_their_file_their_own_path_or_all(
    tmp_path: Path, cache: Cache
) -> None:
    source = tmp_path / "road.tflite"
    source.write_bytes(b"what was converted")
    sha256 = hashlib.sha256(source.read_bytes()).hexdigest()
    programs = []
    for digits, version in ((sha256, "1-1.3"), (sha256, "1-1.4"), ("0" * 64, "1"), ("1" * 64, "1")):
        program = cache.converted_folder(digits, version) / "road.pte"
        program.parent.mkdir(parents=True)
        program.write_bytes(b"123")
        programs.append(program)

    assert remove_model(str(source)) == 6
    assert remove_model(source.as_uri()) == 0
    assert source.exists()
    assert cache.converted() == programs[2:]
    assert remove_model(str(programs[2])) == 3
    assert remove_converted() == 3
    assert cache.total_bytes() == 0
    with pytest.raises(ModelError, match=r"none\.tflite: cannot be read, .* --converted"):
        remove_model(str(tmp_path / "none.tflite"))


@pytest.mark.parametrize("name", ["selfie", "file:///x.pte"])
def test_only_what_was_fetched_is_removed(name: str) -> None:
    with pytest.raises(ModelError, match=r"cannot be removed|not in the cache"):
        remove_model(name)


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
        (
            "name='x'\nlabels=['cat','DOG','Cat']",
            "labels: 'cat' and 'Cat' differ in their case only",
        ),
        ("name='x'\nlabels=['A','argmax']", "none may be called argmax"),
        ("name='x'\nlabels=['A',' ']", "labels: one is blank"),
        ("name='x'\nlabels=[]", "labels: there is none: name the classes, or leave"),
        ("name='x'\nmean=[nan,0.0,0.0]", r"mean\.0: Input should be a finite number"),
        ("name='x'\nmean=[0.0,-inf,0.0]", r"mean\.1: Input should be a finite number"),
        ("name='x'\nstd=[1.0,1.0,nan]", r"std\.2: Input should be a finite number"),
        ("name='x'\nstd=[1.0,1.0,inf]", r"std\.2: Input should be a finite number"),
        ("name='x'\n[instance]\niou=nan", r"instance\.iou: Input should be a finite number"),
        ("name='x'\nsha256='abc'", "sha256: 'abc' is no SHA-256: write its 64 hexadecimal digits"),
        (f"name='x'\nsha256='{'g' * 64}'", "sha256: 'ggg.*' is no SHA-256"),
        ("name='x'\nsource_sha256='?'", "source_sha256: .* is no SHA-256"),
        ("name='x'\n\"a\\nb\"=1", "a b: Extra inputs"),
        (f"name='x'\nsize_bytes={'9' * 5000}", "not valid TOML: Exceeds the limit"),
        (f"name='x'\nlabels={'[' * 5000}", "not valid TOML: "),
        ("labels=['A']", "name: is missing"),
        ("name='x'\nlabels='vox'", "no label set 'vox': choose selfie, voc, coco"),
        ("name='x'\nlabels=3", "labels: "),
        ("name=", "not valid TOML"),
    ],
)
def test_a_wrong_card_is_told(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "x.toml"
    path.write_text(text)
    with pytest.raises(ModelError, match=message) as caught:
        load_card(path)
    assert "\n" not in str(caught.value)


def test_a_digest_may_be_written_in_any_case(tmp_path: Path) -> None:
    """Tools for Windows print upper case."""
    path = tmp_path / "x.toml"
    path.write_text(f"name='x'\nsha256='{'AB' * 32}'\nsource_sha256=' {'Cd' * 32} '\n")
    card = load_card(path)
    assert card.sha256 == "ab" * 32
    assert card.source_sha256 == "cd" * 32


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
