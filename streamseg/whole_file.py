"""Small files that are there whole or not at all."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["write_beside", "write_whole"]

# With 32 random bits a name is hardly ever taken.
_ATTEMPTS = 100


def write_beside(target: Path, content: bytes) -> Path:
    """Write a file beside its target, down to the disk, with the rights of a new file.

    Args:
        target: What its name is made of; nothing is done to it.
        content: What the file will hold.

    Returns:
        Where it is: a hidden file, for ``os.replace``.

    Raises:
        OSError: If it cannot be written; nothing is left of it then.
    """
    for attempt in range(_ATTEMPTS):
        path = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
        try:
            # Not mkstemp, which keeps others out: a finished file has no reason to.
            file = path.open("xb")
            break
        except FileExistsError:
            if attempt == _ATTEMPTS - 1:
                raise
    try:
        with file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        with suppress(OSError):
            path.unlink()
        raise
    return path


def write_whole(target: Path, content: bytes) -> None:
    """Write a file, or replace it, in one step: nobody sees half of it.

    Raises:
        OSError: If it cannot be written; the target is as it was then.
    """
    temporary = write_beside(target, content)
    try:
        os.replace(temporary, target)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
