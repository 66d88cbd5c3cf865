"""Files that are written beside their targets and put in place together, or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Self

from streamseg.errors import ModelError

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["Staging"]


class Staging:
    """Holds finished files back until all of them are; leaving it removes what was not put in place.

    ``with Staging() as staging: staging.add(path, content); staging.commit()``
    """

    def __init__(self) -> None:
        self._files: list[tuple[Path, Path]] = []

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
            handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
            self._files.append((Path(name), target))
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            # mkstemp keeps others out, which a finished file has no reason to.
            umask = os.umask(0)
            os.umask(umask)
            os.chmod(name, 0o666 & ~umask)
        except OSError as error:
            raise ModelError(
                f"cannot write beside {target}: {error.strerror or error}: check the folder"
            ) from error
        return Path(name)

    def commit(self) -> None:
        """Put all files in place; after a failure every target is as it was.

        Raises:
            ModelError: If a target cannot be replaced.
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
