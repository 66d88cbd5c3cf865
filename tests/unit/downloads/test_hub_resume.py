from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from streamseg.downloads.hub_resume import HubPart, ResumingGet

DATA = b"0123456789" * 100_000
SHA256 = hashlib.sha256(DATA).hexdigest()


class Library:
    """The ends of the Hub's library that matter here: how it calls, and what it is called with."""

    def __init__(self, *ends: int) -> None:
        self.ends = list(ends)  # where each attempt is cut
        self.begins: list[int] = []

    def get(self, url: str, temp_file: BinaryIO, *, resume_size: int = 0, **_: Any) -> None:
        self.begins.append(resume_size)
        assert temp_file.tell() == resume_size
        temp_file.write(DATA[resume_size : self.ends.pop(0)])
        if temp_file.tell() < len(DATA):
            raise ConnectionError("cut")

    def download(self, part: HubPart, temporary: Path, size: int = len(DATA)) -> None:
        with temporary.open("wb") as file:
            ResumingGet(self.get, part)("https://hub/x", file, expected_size=size, headers={})


def part_in(folder: Path) -> HubPart:
    return HubPart(folder / "key" / "x.pte.part", folder / "key" / "part.json", "hf://org/repo/x")


def test_it_goes_on_and_the_whole_takes_the_place_of_the_librarys_file(tmp_path: Path) -> None:
    part, library = part_in(tmp_path), Library(400_000, 700_000, len(DATA))
    for attempt in range(2):
        with pytest.raises(ConnectionError):
            library.download(part, tmp_path / f"{SHA256}.{attempt}.incomplete")
    library.download(part, tmp_path / f"{SHA256}.2.incomplete")

    assert library.begins == [0, 400_000, 700_000]
    assert (tmp_path / f"{SHA256}.2.incomplete").read_bytes() == DATA
    assert not list((tmp_path / "key").iterdir())


def test_what_is_kept_and_does_not_fit_is_fetched_anew(tmp_path: Path) -> None:
    part, library = part_in(tmp_path), Library(400_000, len(DATA), len(DATA))
    with pytest.raises(ConnectionError):
        library.download(part, tmp_path / f"{SHA256}.0.incomplete")
    with part.path.open("r+b") as file:
        file.write(b"damage")
    library.download(part, tmp_path / f"{SHA256}.1.incomplete")

    assert library.begins == [0, 400_000, 0]
    assert (tmp_path / f"{SHA256}.1.incomplete").read_bytes() == DATA


def test_another_version_is_not_gone_on_with(tmp_path: Path) -> None:
    part, library = part_in(tmp_path), Library(400_000, len(DATA))
    with pytest.raises(ConnectionError):
        library.download(part, tmp_path / f"{'0' * 64}.0.incomplete")
    library.download(part, tmp_path / f"{SHA256}.1.incomplete")

    assert library.begins == [0, 0]
    assert (tmp_path / f"{SHA256}.1.incomplete").read_bytes() == DATA


def test_nothing_is_kept_of_nothing(tmp_path: Path) -> None:
    part = part_in(tmp_path)
    with pytest.raises(ConnectionError):
        Library(0).download(part, tmp_path / f"{SHA256}.0.incomplete")
    assert not list((tmp_path / "key").iterdir())


def test_a_file_whose_sha256_is_not_known_is_fetched_as_ever(tmp_path: Path) -> None:
    part, library = part_in(tmp_path), Library(len(DATA))
    library.download(part, tmp_path / f"{'a' * 40}.0.incomplete")
    assert (tmp_path / f"{'a' * 40}.0.incomplete").read_bytes() == DATA
    assert not (tmp_path / "key").exists()


def test_a_cache_on_another_disk(tmp_path: Path) -> None:
    shared = Path("/dev/shm")
    if not shared.is_dir() or shared.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second file system")
    temporary = shared / f"{SHA256}.{os.getpid()}.incomplete"
    try:
        Library(len(DATA)).download(part_in(tmp_path), temporary)
        assert temporary.read_bytes() == DATA
    finally:
        temporary.unlink(missing_ok=True)
    assert not list((tmp_path / "key").iterdir())
