"""Which pictures a command is about, and where the results go."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from streamseg.errors import SinkOpenError, SourceOpenError
from streamseg.session.pictures import Plan, plan_results

MASK = "_mask.png"


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def names(plan: Plan) -> list[str]:
    return [Path(item.source).name for item in plan.items]


def make_results(plan: Plan) -> None:
    for item in plan.items:
        assert item.target is not None
        item.target.parent.mkdir(parents=True, exist_ok=True)
        item.target.touch()


@pytest.mark.parametrize("output", [None, "{folder}", "{folder}/masks"])
@pytest.mark.parametrize("pattern", ["", "/*.png", "/**"])
def test_planning_again_gives_the_same_items(
    tmp_path: Path, output: str | None, pattern: str
) -> None:
    folder = touch(tmp_path / "in", "a.png", "b.png", "b.jpg", "more/a.jpg", "c_mask.png")
    arguments = ([f"{folder}{pattern}"], output and output.format(folder=folder), MASK)
    first = plan_results(*arguments)
    assert "c_mask.png" in names(first)  # nothing else here is called c
    make_results(first)

    again = plan_results(*arguments)

    assert again.items == first.items
    if output is None:
        # Another kind of result does not begin with masks either.
        for ending in ("_blur.png", "_masks.json"):
            assert names(plan_results(arguments[0], None, ending)) == names(first)
        assert len(again.left_out) == len(first.items)


def test_a_result_that_is_named_is_a_picture(tmp_path: Path) -> None:
    folder = touch(tmp_path, "a.png", "a_mask.png")
    found = plan_results([str(folder), str(folder / "a_mask.png")], None, MASK)
    assert names(found) == ["a.png", "a_mask.png"]
    assert found.left_out == ()


@pytest.mark.parametrize("order", [1, -1])
def test_results_in_what_a_shell_made_of_a_pattern_are_left_out(tmp_path: Path, order: int) -> None:
    folder = touch(tmp_path, "a.png", "a_mask.png", "b.png", "c_mask.png")
    given = [str(path) for path in sorted(folder.glob("*.png"))][::order]
    again = plan_results(given, None, MASK)
    assert sorted(names(again)) == ["a.png", "b.png", "c_mask.png"]
    assert again.left_out == (str(folder / "a_mask.png"),)
    # Nothing that somebody named is replaced.
    assert again.protected == (folder / "a_mask.png",)
    assert plan_results([str(folder)], None, MASK).protected == ()
    # By itself it is a picture like others.
    assert names(plan_results([str(folder / "a_mask.png")], None, MASK)) == ["a_mask.png"]


def test_names_that_are_too_long_do_not_stop_the_others(tmp_path: Path) -> None:
    folder = touch(tmp_path, "a.png")
    long = "a" * 300
    plan = plan_results([str(folder / "a.png"), long, f"{long}/b.png", f"{long}*"], None, MASK)
    assert names(plan) == ["a.png"]
    assert len(plan.missing) == 3
    assert all("File name too long; check" in line for line in plan.missing)
    # A pattern may be longer than the names that it leads to.
    pattern = f"[{'a' * 300}].png"
    assert names(plan_results([str(folder / pattern)], None, MASK)) == ["a.png"]


@pytest.mark.parametrize("output", ["a" * 300, f"{'a' * 300}.png", f"{'a' * 300}/b.png"])
@pytest.mark.parametrize("single", [None, "annotations.json"])
def test_results_go_to_no_name_that_is_too_long(
    tmp_path: Path, output: str, single: str | None
) -> None:
    folder = touch(tmp_path, "a.png")
    with pytest.raises(SinkOpenError, match="File name too long; choose another place"):
        plan_results([str(folder / "a.png")], str(folder / output), MASK, single=single)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may enter every folder")
def test_a_folder_that_may_not_be_entered_is_told(tmp_path: Path) -> None:
    folder = touch(tmp_path, "a.png", "locked/b.png")
    locked = folder / "locked"
    locked.chmod(0)
    try:
        arguments = [str(folder / "a.png"), str(locked), str(locked / "b.png")]
        plan = plan_results(arguments, None, MASK)
    finally:
        locked.chmod(0o700)
    assert names(plan) == ["a.png"]
    assert len(plan.missing) == 2
    assert all("Permission denied; check" in line for line in plan.missing)


def test_a_folder_at_home_is_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "in/a.png")
    monkeypatch.setenv("HOME", str(tmp_path))
    # One picture is in it; that does not make the place for results a file.
    (item,) = plan_results(["~/in"], "~/masks.png", MASK).items
    assert item.target == tmp_path / "masks.png" / "a_mask.png"


def test_folders_have_everything_that_is_read(tmp_path: Path) -> None:
    kinds = ("a.avif", "b.JP2", "c.j2k", "d.jfif", "e.pgm", "f.png")
    folder = touch(tmp_path, *kinds, "notes.txt", "film.mp4", "g.pfm")
    assert names(plan_results([str(folder)], None, MASK)) == list(kinds)


def test_addresses_have_results_that_are_called_like_their_end() -> None:
    plan = plan_results(
        ["https://me:hunter2@a.org/x/cat%20one.jpg?size=2&token=hunter2#x", "http://a.org/"],
        None,
        MASK,
    )
    assert [item.target for item in plan.items] == [
        Path("cat one_mask.png"),
        Path("picture_mask.png"),
    ]
    assert "hunter2" in str(plan.items[0].source)
    assert plan.items[0].name == "https://***@a.org/x/cat%20one.jpg?size=2&token=***#x"


@pytest.mark.parametrize(
    "end",
    [
        "%2e%2e%2f%2e%2e%2fetc%2fpasswd",
        "..%5c..%5cx.png",
        "%00%0a.png",
        ".hidden",
        "a" * 999,
        "%F0%9F%90%B1" * 99,
    ],
)
def test_an_address_leads_to_no_other_folder(tmp_path: Path, end: str) -> None:
    (item,) = plan_results([f"http://a.org/{end}"], str(tmp_path), MASK).items
    assert item.target is not None
    assert item.target.parent == tmp_path
    assert not item.target.name.startswith(".")
    assert item.target.name.isprintable()
    assert len(os.fsencode(item.target.name)) < 180  # of 255, some for a temporary name
    item.target.touch()


@pytest.mark.parametrize(
    "name", ["ftp://me:hunter2@a.org/x.png", "rtsp://me:hunter2@a.org", "file://hunter2@a/x.png"]
)
def test_other_addresses_are_told_without_credentials(name: str) -> None:
    with pytest.raises(SourceOpenError, match="http or https") as caught:
        plan_results([name], None, MASK)
    assert "hunter2" not in str(caught.value)


def test_a_name_that_is_told_is_one_line() -> None:
    with pytest.raises(SourceOpenError) as caught:
        plan_results(["a\nb\x1b.png"], None, MASK)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("output", "suffixes", "single"),
    [
        ("b.png", (".json",), None),
        ("b.npz", (".png", ".jpg"), None),
        ("b.png", (".json",), "annotations.json"),
        ("b", (".json",), "annotations.json"),
    ],
)
def test_a_file_s_name_must_fit_its_format(
    tmp_path: Path, output: str, suffixes: tuple[str, ...], single: str | None
) -> None:
    folder = touch(tmp_path, "a.png")
    with pytest.raises(SinkOpenError, match=f"b.*expected a name that ends with {suffixes[0]}"):
        plan_results(
            [str(folder / "a.png")],
            str(folder / output),
            "_masks.x",
            suffixes=suffixes,
            single=single,
        )
    (folder / output).mkdir()  # a folder may be called what it likes
    plan = plan_results(
        [str(folder / "a.png")], str(folder / output), "_masks.x", suffixes=suffixes, single=single
    )
    expected = folder / output / (single or "a_masks.x")
    assert expected in (plan.single, plan.items[0].target)
