"""Cards of exported programs, and files that are put in place together."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from streamseg.convert._staging import Staging
from streamseg.convert.cards import card_to_toml, check_card, complete_card, minimal_card
from streamseg.errors import ModelError
from streamseg.models.card import Card, InstanceRule, MaskRule, load_card

PTE = Path("road.pte")


@pytest.mark.parametrize(
    "card",
    [
        Card(name="plain"),
        Card(
            name="road",
            title='A "quoted" title',
            labels=("BACKGROUND", "ROAD", "Straße"),
            input_size=(144, 256),
            mean=(0.485, 0.456, 0.406),
            std=(0.229, 0.224, 0.225),
            resample="bicubic",
            antialias=True,
            letterbox=True,
            output="logits",
        ),
        Card.model_validate({"name": "voc", "labels": "voc"}),
        Card(
            name="boxes",
            task="instance-segmentation",
            instance=InstanceRule(confidence=0.25, suppress=False),
        ),
        Card(
            name="queries",
            task="mask-classification",
            masks=MaskRule(family="detr", subtasks=("panoptic",), fused=("SKY", "ROAD")),
        ),
    ],
    ids=lambda card: card.name,
)
def test_a_written_card_is_read_back_as_it_was(card: Card, tmp_path: Path) -> None:
    path = tmp_path / "card.toml"
    path.write_bytes(card_to_toml(card))
    assert load_card(path) == card


def test_a_card_names_the_label_set_and_the_task() -> None:
    text = card_to_toml(Card.model_validate({"name": "voc", "labels": "voc"})).decode()
    values = tomllib.loads(text)
    assert values["labels"] == "voc"
    assert values["task"] == "semantic-segmentation"
    assert text.startswith("#")


def test_a_card_is_completed_with_what_the_program_tells() -> None:
    card = complete_card(
        Card(name="road", verified_with="by hand"),
        input_shape=(1, 3, 144, 256),
        sha256="ab" * 32,
        size_bytes=12,
        verified_with="the module",
    )
    assert card.input_size == (144, 256)
    assert (card.sha256, card.size_bytes) == ("ab" * 32, 12)
    assert card.verified_with == "by hand; the module"


@pytest.mark.parametrize(
    ("card", "shapes", "message"),
    [
        ({"labels": ("A", "B")}, [(1, 3, 8, 8)], "2 labels, but its output of 3"),
        ({"task": "classification"}, [(1, 3, 8, 8)], "classification, which returns"),
        ({"task": "semantic-segmentation"}, [(1, 1000)], r"returns \[1, 1000\]"),
        ({"task": "instance-segmentation"}, [(1, 5, 4), (1, 5, 2)], "instance-segmentation"),
    ],
)
def test_a_card_that_does_not_fit_is_refused(
    card: dict[str, object], shapes: list[tuple[int, ...]], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        check_card(Card.model_validate({"name": "road", **card}), shapes, PTE)


def test_a_card_that_fits_is_taken() -> None:
    check_card(Card(name="road", labels=("A", "B", "C")), [(1, 3, 8, 8)], PTE)
    check_card(
        Card(name="boxes", task="instance-segmentation"), [(1, 5, 4), (1, 5, 2), (1, 5, 8, 8)], PTE
    )


def test_staged_files_come_together_with_the_rights_of_new_files(tmp_path: Path) -> None:
    one, two = tmp_path / "m.pte", tmp_path / "m.toml"
    one.write_bytes(b"old")
    with Staging() as staging:
        assert staging.add(one, b"new").read_bytes() == b"new"
        staging.add(two, b"card")
        assert one.read_bytes() == b"old"
        staging.commit()
    fresh = tmp_path / "fresh"
    fresh.write_bytes(b"")
    assert (one.read_bytes(), two.read_bytes()) == (b"new", b"card")
    assert one.stat().st_mode == fresh.stat().st_mode
    assert sorted(tmp_path.iterdir()) == [fresh, one, two]


@pytest.mark.parametrize(
    ("shapes", "task"),
    [
        ([(1, 3, 8, 8)], "semantic-segmentation"),
        ([(1, 1000)], "classification"),
        ([(1, 5, 4), (1, 5, 2), (1, 5, 8, 8)], None),
        ([(1, 9)] * 2, None),
        ([(1, 9, 4)], None),
    ],
)
def test_outputs_tell_the_task_or_they_do_not(
    shapes: list[tuple[int, ...]], task: str | None
) -> None:
    card = minimal_card("road", shapes)
    assert (card and card.task) == task
    if card is not None:
        check_card(card, shapes, PTE)


def test_a_file_is_removed_with_what_takes_its_place(tmp_path: Path) -> None:
    one, two = tmp_path / "m.pte", tmp_path / "m.toml"
    for path in (one, two):
        path.write_bytes(b"old")
    with Staging() as staging:
        staging.add(one, b"new")
        staging.remove(two)
        staging.remove(tmp_path / "never there")
    assert (one.read_bytes(), two.read_bytes()) == (b"old", b"old")
    with Staging() as staging:
        staging.add(one, b"new")
        staging.remove(two)
        staging.commit()
    assert list(tmp_path.iterdir()) == [one]
    assert one.read_bytes() == b"new"


def test_a_file_that_is_removed_comes_back_after_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two, three = (tmp_path / name for name in ("m.pte", "a.toml", "b.toml"))
    for path in (one, two, three):
        path.write_bytes(b"old")
    unlink = Path.unlink

    def refuse(path: Path, missing_ok: bool = False) -> None:
        if path == three:
            raise PermissionError(1, "Operation not permitted")
        unlink(path, missing_ok)

    with Staging() as staging:
        staging.add(one, b"new")
        staging.remove(two)
        staging.remove(three)
        monkeypatch.setattr(Path, "unlink", refuse)
        with pytest.raises(ModelError, match=r"cannot remove .*b\.toml: Operation not permitted"):
            staging.commit()
    assert sorted(tmp_path.iterdir()) == [two, three, one]
    assert {path.read_bytes() for path in tmp_path.iterdir()} == {b"old"}


def test_staged_files_of_a_block_that_fails_are_removed(tmp_path: Path) -> None:
    def interrupted() -> None:
        with Staging() as staging:
            staging.add(tmp_path / "m.pte", b"new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("had_old", [True, False])
def test_when_the_second_file_cannot_be_put_in_place_the_first_is_as_it_was(
    tmp_path: Path, had_old: bool
) -> None:
    one, two = tmp_path / "m.pte", tmp_path / "m.toml"
    if had_old:
        one.write_bytes(b"old")
    before = [*tmp_path.iterdir(), two]
    with Staging() as staging:
        staging.add(one, b"new")
        staging.add(two, b"card")
        two.mkdir()
        with pytest.raises(ModelError, match=r"m\.toml: Is a directory"):
            staging.commit()
    assert sorted(tmp_path.iterdir()) == before
    assert not had_old or one.read_bytes() == b"old"


def test_a_folder_is_no_target(tmp_path: Path) -> None:
    with Staging() as staging, pytest.raises(ModelError, match="it is a folder"):
        staging.add(tmp_path, b"new")
    with Staging() as staging, pytest.raises(ModelError, match="cannot write beside"):
        staging.add(tmp_path / "absent" / "m.pte", b"new")
