from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest

from streamseg.whole_file import write_beside, write_whole

if TYPE_CHECKING:
    from pathlib import Path


def test_a_file_is_made_and_replaced(tmp_path: Path) -> None:
    target = tmp_path / "x.json"
    for content in (b"first", b"", b"second"):
        write_whole(target, content)
        assert target.read_bytes() == content
    assert list(tmp_path.iterdir()) == [target]


def test_it_has_the_rights_of_a_new_file(tmp_path: Path) -> None:
    (tmp_path / "new").touch()
    path = write_beside(tmp_path / "x", b"1")
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((tmp_path / "new").stat().st_mode)
    assert path.parent == tmp_path
    assert path.read_bytes() == b"1"
    assert not (tmp_path / "x").exists()
    os.replace(path, tmp_path / "x")


def test_nothing_is_left_of_what_cannot_be_put_in_place(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="folder"):
        write_whole(tmp_path / "folder", b"1")
    with pytest.raises(FileNotFoundError):
        write_whole(tmp_path / "none" / "x", b"1")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_nothing_is_left_of_what_the_disk_does_not_take(tmp_path: Path) -> None:
    import resource
    import signal

    target = tmp_path / "x"
    write_whole(target, b"before")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))
    try:
        with pytest.raises(OSError, match="too large"):
            write_whole(target, b"x" * (1 << 20))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    assert target.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [target]
