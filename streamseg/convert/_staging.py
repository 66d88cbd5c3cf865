"""Files that are written beside their targets and put in place together, or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Self

from streamseg.errors import ModelError
from streamseg.whole_file import write_beside

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["Staging"]


class Staging:
    """Holds finished files back until all of them are; leaving it removes what was not put in place.

    ``with Staging() as staging: staging.add(path, content); staging.commit()``
    """

    def __init__(self) -> None:
        self._files: list[tuple[Path, Path]] = []
        self._unwanted: list[Path] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for temporary, _ in self._files:
            with contextlib.suppress(OSError):
                temporary.unlink()

    def add(self, target: Path, content: bytes) -> Path:
        """Write a file beside its target.

        Returns:
            Where it is until ``commit``.

        Raises:
            ModelError: If it cannot be written, or the target is a folder.
        """
        if target.is_dir():
            raise ModelError(f"cannot write {target}: it is a folder: give the name of a file")
        try:
            temporary = write_beside(target, content)
        except OSError as error:
            raise ModelError(
                f"cannot write beside {target}: {error.strerror or error}: check the folder"
            ) from error
        self._files.append((temporary, target))
        return temporary

    def remove(self, target: Path) -> None:
        """Have ``commit`` remove a file, where there is one."""
        self._unwanted.append(target)

    def commit(self) -> None:
        """Put all files in place; after a failure every target is as it was.

        Raises:
            ModelError: If a target cannot be replaced or removed.
        """
        with contextlib.ExitStack() as tidy, contextlib.ExitStack() as undo:
            for temporary, target in self._files:
                try:
                    backup = _kept(target)
                    if backup is not None:
                        tidy.callback(backup.unlink, missing_ok=True)
                    os.replace(temporary, target)
                except OSError as error:
                    raise ModelError(
                        f"cannot write {target}: {error.strerror or error}: check the folder"
                    ) from error
                if backup is None:
                    undo.callback(target.unlink, missing_ok=True)
                else:
                    undo.callback(os.replace, backup, target)
            for target in filter(Path.is_file, self._unwanted):
                try:
                    backup = _kept(target)
                    assert backup is not None
                    tidy.callback(backup.unlink, missing_ok=True)
                    target.unlink()
                except OSError as error:
                    raise ModelError(
                        f"cannot remove {target}: {error.strerror or error}: check the folder"
                    ) from error
                undo.callback(os.replace, backup, target)
            undo.pop_all()


def _kept(target: Path) -> Path | None:
    """Return a second name of an existing file, or a copy where links are not possible."""
    if not target.exists():
        return None
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.old.", dir=target.parent)
    os.close(handle)
    os.unlink(name)
    try:
        os.link(target, name)
    except OSError:
        shutil.copy2(target, name)
    return Path(name)
