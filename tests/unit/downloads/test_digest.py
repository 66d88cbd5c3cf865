from __future__ import annotations

import hashlib
import random
import threading
from typing import TYPE_CHECKING

import pytest

from streamseg.downloads.digest import file_sha256, sha256_in_thread

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 2_500_000])
def test_it_is_what_everybody_calls_so(tmp_path: Path, size: int) -> None:
    data = random.Random(size).randbytes(size)
    (tmp_path / "x").write_bytes(data)
    assert file_sha256(tmp_path / "x") == hashlib.sha256(data).hexdigest()


def test_it_can_be_stopped(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"x")
    stop = threading.Event()
    assert len(file_sha256(tmp_path / "x", stop=stop)) == 64
    stop.set()
    with pytest.raises(InterruptedError):
        file_sha256(tmp_path / "x", stop=stop)


@pytest.mark.anyio
async def test_a_thread_tells_the_same_and_its_errors(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"x")
    assert await sha256_in_thread(tmp_path / "x") == file_sha256(tmp_path / "x")
    with pytest.raises(FileNotFoundError):
        await sha256_in_thread(tmp_path / "y")
