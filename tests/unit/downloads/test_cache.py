from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

import pytest

from streamseg.downloads.cache import Cache, CacheEntry
from streamseg.downloads.locations import HubFile, WebFile
from streamseg.errors import DownloadError

if TYPE_CHECKING:
    from pathlib import Path

DATA = b"x" * 1000
FILE = WebFile("https://host/x.pte")


def put(cache: Cache, file: WebFile, data: bytes = DATA) -> CacheEntry:
    place = cache.place(file)
    place.folder.mkdir(parents=True)
    place.target.write_bytes(data)
    return cache.add(file, place.target, hashlib.sha256(data).hexdigest())


def test_what_is_added_is_found(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    entry = put(cache, FILE)

    assert cache.find(FILE) == entry
    assert cache.entries() == [entry]
    assert cache.total_bytes() == len(DATA)
    assert cache.verify(entry) == ""
    assert entry.path.read_bytes() == DATA


def put_converted(cache: Cache, sha256: str, version: str) -> Path:
    program = cache.converted_folder(sha256, version) / "deeplab.pte"
    program.parent.mkdir(parents=True)
    program.write_bytes(b"12345")
    program.with_suffix(".toml").write_text('name = "deeplab"')
    return program


def test_what_was_converted_counts_too(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    put(cache, FILE)
    program = put_converted(cache, "a" * 64, "1-1.3.0")

    assert cache.converted() == [program]
    assert cache.total_bytes() == len(DATA) + 5


def test_what_was_converted_is_removed_by_its_file_or_all_at_once(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    assert cache.remove_converted() == 0
    for version in ("1-1.3.0", "1-1.4.0", "2-1.4.0"):
        put_converted(cache, "a" * 64, version)
    one, two = (put_converted(cache, "b" * 64, version) for version in ("1-1.3.0", "1-1.4.0"))

    assert cache.remove_converted(sha256="c" * 64) == 0
    assert cache.remove_converted(sha256="a" * 64) == 15
    assert cache.converted() == [one, two]
    assert cache.remove_converted(program=one) == 5
    assert cache.converted() == [two]
    with cache.converted_lock(two.parent), pytest.raises(DownloadError, match="converted now"):
        cache.remove_converted()
    assert two.exists()
    assert cache.remove_converted() == 5
    assert cache.total_bytes() == 0
    assert not two.parent.exists()


def test_an_unknown_home_folder_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMSEG_CACHE", "~nobody-here/cache")
    assert Cache().entries() == []


def test_an_empty_cache_is_no_error_and_stays_empty(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "none")
    assert cache.find(FILE) is None
    assert cache.entries() == []
    assert cache.remove(FILE) == 0
    assert not cache.folder.exists()


def test_who_fetches_makes_no_difference_but_every_field_of_the_query_does(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    put(cache, WebFile("https://me:pa55word@host/get?key=a.pte"))

    assert cache.find(WebFile("https://you@host/get?key=a.pte")) is not None
    assert cache.find(WebFile("https://host/get?key=b.pte")) is None
    assert cache.entries()[0].source == "https://***@host/get?key=***"


@pytest.mark.parametrize("record", ["", "[]", "{", '{"path": 1}', "\xff", "[" * 60_000])
def test_a_damaged_record_counts_as_none(tmp_path: Path, record: str) -> None:
    cache = Cache(tmp_path)
    put(cache, FILE)
    cache.place(FILE).record.write_text(record, "latin-1")
    assert cache.find(FILE) is None
    assert cache.entries() == []


def test_a_file_of_another_size_counts_as_none(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    put(cache, FILE).path.write_bytes(b"short")
    assert cache.find(FILE) is None


def test_damage_is_noticed_by_verifying(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    entry = put(cache, FILE)
    entry.path.write_bytes(b"y" * len(DATA))
    assert cache.verify(entry).startswith("SHA-256 is ")
    assert "not 000000000000..." in cache.verify(entry, "0" * 64)
    entry.path.write_bytes(DATA)
    assert cache.verify(entry, entry.sha256.upper()) == ""
    entry.path.unlink()
    assert cache.verify(entry).startswith("cannot be read: No such file")


@pytest.mark.parametrize("file", [FILE, HubFile("org/repo", "x.pte")], ids=str)
def test_parts_are_listed_and_removed(tmp_path: Path, file: WebFile | HubFile) -> None:
    cache = Cache(tmp_path)
    place = cache.place(file)
    place.folder.mkdir(parents=True)
    place.part.write_bytes(b"12345")
    place.part_state.write_text(json.dumps({"source": str(file), "validator": "e"}))

    assert cache.entries() == [CacheEntry(str(file), place.part, 5, "", False)]
    assert cache.find(file) is None
    assert cache.remove(file) == 5
    assert not place.folder.exists()


def test_where_the_cache_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMSEG_CACHE", str(tmp_path / "mine"))
    assert Cache().folder == tmp_path / "mine"
    assert Cache(tmp_path).folder == tmp_path
    monkeypatch.delenv("STREAMSEG_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert Cache().folder.name == "streamseg"


def hub_file(folder: Path, commit: str, blob: str) -> Path:
    """Make a file as the Hub's library lays it down."""
    repository = folder / "models--org--repo"
    path = repository / "snapshots" / commit / "x.pte"
    path.parent.mkdir(parents=True)
    (repository / "blobs").mkdir(exist_ok=True)
    (repository / "blobs" / blob).write_bytes(DATA)
    path.symlink_to(f"../../blobs/{blob}")
    return path


def test_removing_a_file_of_the_hub_keeps_what_others_need(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    first, second = (hub_file(tmp_path / "hub", commit, "b10b") for commit in ("one", "two"))
    for file, path in ((HubFile("org/repo", "x.pte", "1"), first), (HubFile("org/repo", "x.pte", "2"), second)):  # fmt: skip
        cache.add(file, path, hashlib.sha256(DATA).hexdigest())

    assert cache.remove(HubFile("org/repo", "x.pte", "1")) == len(DATA)
    assert not first.is_symlink()
    assert second.read_bytes() == DATA
    assert cache.remove(HubFile("org/repo", "x.pte", "2")) == len(DATA)
    assert not (tmp_path / "hub" / "models--org--repo" / "blobs" / "b10b").exists()


def test_what_several_repositories_share_is_left_to_the_hubs_own_tool(tmp_path: Path) -> None:
    """The Hub's library may lay a blob into a store, and link to it from the repository."""
    cache = Cache(tmp_path / "cache")
    path = hub_file(tmp_path / "hub", "one", "b10b")
    blob = path.resolve()
    store = tmp_path / "hub" / "blobs" / "xe" / "xet"
    store.parent.mkdir(parents=True)
    blob.rename(store)
    blob.symlink_to("../../blobs/xe/xet")
    file = HubFile("org/repo", "x.pte")
    cache.add(file, path, hashlib.sha256(DATA).hexdigest())

    cache.remove(file)

    assert not path.is_symlink()
    assert not blob.is_symlink()
    assert store.read_bytes() == DATA


def test_forgetting_deletes_only_what_lies_here(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    entry = put(cache, FILE)
    file, path = HubFile("org/repo", "x.pte"), hub_file(tmp_path / "hub", "one", "b10b")
    cache.add(file, path, hashlib.sha256(DATA).hexdigest())

    for forgotten in (FILE, file, file):
        cache.forget(forgotten)

    assert cache.entries() == []
    assert not entry.path.exists()
    assert path.read_bytes() == DATA


def test_a_place_that_is_no_folder_is_told(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    place = cache.place(FILE)
    put(cache, FILE)
    (tmp_path / "locks").write_text("")
    with pytest.raises(DownloadError, match="cannot be deleted"):
        cache.remove(FILE)
    assert place.target.exists()
