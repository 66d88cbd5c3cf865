from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from streamseg.errors import SinkOpenError, SinkWriteError
from streamseg.sinks import target as target_module
from streamseg.sinks.target import Target, move
from tests.unit.sinks.helpers import listing


def test_temporary_file_is_hidden_beside_the_target_and_goes_with_release(tmp_path: Path) -> None:
    target = Target(tmp_path / "out.mp4")
    temporary = target.create()
    assert temporary.parent == tmp_path
    assert temporary.name.startswith(f".out.mp4.{os.getpid()}-")
    assert temporary.name.endswith(".part")
    target.release()
    target.release()
    assert listing(tmp_path) == []


def test_commit_puts_it_in_place(tmp_path: Path) -> None:
    target = Target(tmp_path / "out.mp4")
    target.create()
    os.write(target.fd, b"new")
    target.commit()
    assert (tmp_path / "out.mp4").read_bytes() == b"new"
    assert listing(tmp_path) == ["out.mp4"]


def test_stale_files_are_removed_living_ones_and_others_are_not(tmp_path: Path) -> None:
    living = Target(tmp_path / "out.mp4")
    kept = living.create().name
    (tmp_path / ".out.mp4.123-aaaaaaaa.part").write_bytes(b"dead")
    (tmp_path / ".out.mp4.124-bbbbbbbb.part").mkdir()
    (tmp_path / ".out.mp4.124-bbbbbbbb.part" / "x.png").write_bytes(b"dead")
    (tmp_path / ".other.mp4.123-aaaaaaaa.part").write_bytes(b"not ours")
    (tmp_path / ".out.mp4.notes").write_bytes(b"not ours")
    second = Target(tmp_path / "out.mp4")
    mine = second.create().name
    assert listing(tmp_path) == sorted(
        [kept, mine, ".other.mp4.123-aaaaaaaa.part", ".out.mp4.notes"]
    )
    living.release()
    second.release()


def test_a_link_with_a_temporary_name_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_bytes(b"x")
    (tmp_path / ".out.mp4.1-aaaaaaaa.part").symlink_to(tmp_path / "precious")
    target = Target(tmp_path / "out.mp4")
    target.create()
    target.release()
    assert (tmp_path / "precious").exists()


def test_move_never_overwrites_unless_told(tmp_path: Path) -> None:
    source, place = tmp_path / "a", tmp_path / "b"
    source.write_bytes(b"new")
    place.write_bytes(b"old")
    with pytest.raises(FileExistsError):
        move(source, place, overwrite=False)
    assert (source.read_bytes(), place.read_bytes()) == (b"new", b"old")
    move(source, place, overwrite=True)
    assert (source.exists(), place.read_bytes()) == (False, b"new")


def test_move_works_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "no hard links here")

    monkeypatch.setattr(os, "link", refuse)
    source, place = tmp_path / "a", tmp_path / "b"
    source.write_bytes(b"new")
    move(source, place, overwrite=False)
    assert place.read_bytes() == b"new"
    source.write_bytes(b"newer")
    with pytest.raises(FileExistsError):
        move(source, place, overwrite=False)


def test_move_without_hard_links_that_fails_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "not here")

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(os, "replace", refuse)
    source, place = tmp_path / "a", tmp_path / "b"
    source.write_bytes(b"new")
    with pytest.raises(PermissionError):
        move(source, place, overwrite=False)
    assert listing(tmp_path) == ["a"]


def test_file_systems_without_locks_are_written_to_and_never_cleaned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOTSUP, "no locks here")

    monkeypatch.setattr(target_module.fcntl, "flock", refuse)
    (tmp_path / ".out.mp4.1-aaaaaaaa.part").write_bytes(b"maybe alive")
    target = Target(tmp_path / "out.mp4")
    target.create()
    target.commit()
    assert listing(tmp_path) == [".out.mp4.1-aaaaaaaa.part", "out.mp4"]


def test_failing_sync_is_a_write_error_and_keeps_the_older_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out.mp4").write_bytes(b"old")
    target = Target(tmp_path / "out.mp4", overwrite=True)
    target.create()

    def fail(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(SinkWriteError, match="Input/output error"):
        target.commit()
    target.release()
    assert listing(tmp_path) == ["out.mp4"]
    assert (tmp_path / "out.mp4").read_bytes() == b"old"


def test_devices_are_refused() -> None:
    with pytest.raises(SinkOpenError, match="not a regular file"):
        Target("/dev/null", overwrite=True).check()


def test_errors_are_one_line(tmp_path: Path) -> None:
    target = Target(tmp_path / "out.mp4")
    error = target.error(OSError(errno.ENOSPC, "No space left\non device"))
    assert (
        str(error) == f"cannot write {tmp_path}/out.mp4: No space left on device; free some space"
    )
    assert target.error(error) is error
