"""A file that is whole or absent: written beside its place, locked, verified, then renamed.

The temporary name is ``.<name>.<pid>-<random>.part`` in the same folder, so that the final rename
never crosses file systems. While its writer lives, the temporary file (or folder, for picture
sequences) is held under an exclusive ``flock``; the lock goes with the process however that dies.
So whoever gets the lock of such a file knows that its writer is dead and removes it, and two
writers of the same target never touch each other's file.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import os
import secrets
import shutil
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from streamseg.errors import SinkError, SinkOpenError, SinkWriteError

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Protected", "Target", "move", "printable", "reason", "sync_folder"]

_LONGEST_NAME = 255  # bytes of a file name on all usual file systems


def reason(error: BaseException) -> str:
    """Return the human part of an error of the operating system or of FFmpeg, on one line."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(text).split())


def printable(text: str | os.PathLike[str]) -> str:
    """Return a name as it can stand in a message: on one line, everything visible."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in os.fspath(text)
    )


class Protected:
    """Files that must not be written to, told by their identity: names may lie.

    Args:
        paths: Of any files; those that do not exist are compared by their real path.
    """

    def __init__(self, paths: Iterable[str | os.PathLike[str]] = ()) -> None:
        self.paths = frozenset(os.path.realpath(path) for path in paths)
        self._identities = {
            identity for path in self.paths if (identity := _identity(path)) is not None
        }

    def __contains__(self, path: object) -> bool:
        """Whether this path, or what it leads to, is one of the files."""
        if not isinstance(path, str | os.PathLike):
            return False
        return os.path.realpath(path) in self.paths or _identity(path) in self._identities


class Target:
    """The place where a result goes.

    Args:
        path: The file, or for a sequence any name that stands for it.
        overwrite: Whether an existing file may be replaced.

    Attributes:
        shown: The path for messages.
    """

    def __init__(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        self.shown = printable(path)
        # A link stays a link: what it points to is replaced.
        self.path = Path(os.path.realpath(path))
        self.overwrite = overwrite
        self.temporary: Path | None = None
        self.fd = -1

    def check(self, protected: Protected | None = None) -> None:
        """Fail early where it is clear that the target cannot be written.

        Args:
            protected: What is being read, which must not be the target.

        Raises:
            SinkOpenError: With what to try instead.
        """
        folder = self.path.parent
        if not folder.is_dir():
            raise SinkOpenError(
                f"cannot write {self.shown}: the folder {printable(folder)} does not exist; make it first"
            )
        try:
            found: os.stat_result | None = os.stat(self.path)
        except FileNotFoundError:
            found = None
        except OSError as exc:
            raise SinkOpenError(f"cannot write {self.shown}: {reason(exc)}") from exc
        refused = protected is not None and self.path in protected
        if found is not None:
            if stat.S_ISDIR(found.st_mode):
                raise SinkOpenError(f"cannot write {self.shown}: it is a directory; name a file")
            if not stat.S_ISREG(found.st_mode):
                # Renaming over /dev/null or a pipe would destroy it.
                raise SinkOpenError(f"cannot write {self.shown}: it is not a regular file")
            if not self.overwrite and not refused:
                raise SinkOpenError(
                    f"cannot write {self.shown}: it exists; use --overwrite to replace it"
                )
        if refused:
            raise self.is_read()
        if not os.access(folder, os.W_OK | os.X_OK):
            raise SinkOpenError(
                f"cannot write {self.shown}: no permission to write in the folder "
                f"{printable(folder)}"
            )

    def is_read(self, name: str | None = None) -> SinkOpenError:
        """Return the error for a target that is protected."""
        what = "it" if name is None else f"{printable(name)}"
        return SinkOpenError(
            f"cannot write {self.shown}: {what} is a file that is being read; choose another name"
        )

    def create(self, *, folder: bool = False) -> Path:
        """Make the locked temporary file, or folder, and remove those of dead writers.

        Raises:
            SinkOpenError: If it cannot be made.
        """
        self._remove_stale()
        for _ in range(100):
            path = self.path.with_name(f"{self._stem()}{os.getpid()}-{secrets.token_hex(4)}.part")
            try:
                if folder:
                    path.mkdir()
                    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                else:
                    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            except FileExistsError:
                continue
            except FileNotFoundError:
                continue  # a folder that another run took for stale before it was locked
            except OSError as exc:
                raise SinkOpenError(f"cannot write {self.shown}: {reason(exc)}") from exc
            if _lock(fd) and _is_at(fd, path):
                self.fd, self.temporary = fd, path
                return path
            os.close(fd)
        raise SinkOpenError(f"cannot write {self.shown}: no temporary name beside it is free")

    def commit(self) -> None:
        """Put the finished temporary file in its place, for good.

        Raises:
            SinkWriteError: If that fails; the target is then as it was before.
        """
        temporary = self.temporary
        assert temporary is not None
        try:
            with contextlib.suppress(OSError):
                # The new file takes over who may read the old one.
                if self.overwrite and self.path.exists():
                    os.fchmod(self.fd, stat.S_IMODE(self.path.stat().st_mode))
            os.fsync(self.fd)
            move(temporary, self.path, overwrite=self.overwrite)
            sync_folder(self.path.parent)
        except FileExistsError as exc:
            raise SinkWriteError(
                f"cannot write {self.shown}: it was made by somebody else meanwhile; "
                "use --overwrite to replace it"
            ) from exc
        except OSError as exc:
            raise SinkWriteError(f"cannot write {self.shown}: {reason(exc)}") from exc
        self.release()

    def discard(self) -> None:
        """Remove the temporary file's name while another thread may still write to it."""
        temporary = self.temporary
        if temporary is not None:
            _remove(temporary)

    def release(self) -> None:
        """Remove the temporary file, if it is still there, and its lock. Never fails."""
        temporary, self.temporary = self.temporary, None
        fd, self.fd = self.fd, -1
        if temporary is not None:
            _remove(temporary)
        if fd >= 0:
            with contextlib.suppress(OSError):
                os.close(fd)

    def error(self, exc: BaseException) -> SinkError:
        """Return ours for an error that happened while writing."""
        if isinstance(exc, SinkError):
            return exc
        what = reason(exc)
        hint = "; free some space" if getattr(exc, "errno", None) == errno.ENOSPC else ""
        if not isinstance(exc, OSError | ValueError):
            what = f"{type(exc).__name__}: {what}"
        return SinkWriteError(f"cannot write {self.shown}: {what}{hint}")

    def _stem(self) -> str:
        """What the names of all temporary files of this target begin with."""
        room = _LONGEST_NAME - len(".".join(("", "", "9999999999-12345678", "part")))
        name = os.fsencode(self.path.name)
        return f".{os.fsdecode(name[:room])}."

    def _remove_stale(self) -> None:
        pattern = glob.escape(str(self.path.with_name(self._stem()))) + "*-*.part"
        for name in glob.glob(pattern, include_hidden=True):
            with contextlib.suppress(OSError):
                fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
                try:
                    if _lock(fd, unsupported=False) and _is_at(fd, Path(name)):
                        _remove(Path(name))
                finally:
                    os.close(fd)


def move(source: Path, place: Path, *, overwrite: bool) -> None:
    """Rename a file; with ``overwrite=False`` never over an existing one.

    Raises:
        FileExistsError: If there is one.
    """
    if overwrite:
        os.replace(source, place)
        return
    try:
        # A hard link is the one portable rename that fails where something is.
        os.link(source, place)
    except FileExistsError:
        raise
    except OSError as exc:
        if exc.errno not in {errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS}:
            raise
        # A file system without hard links (FAT): reserve the name, then rename over it.
        os.close(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC))
        try:
            os.replace(source, place)
        except OSError:
            os.unlink(place)
            raise
    else:
        # It is in place now; a second name that stays is removed with everything temporary.
        with contextlib.suppress(OSError):
            os.unlink(source)


def _lock(fd: int, *, unsupported: bool = True) -> bool:
    """Take the lock; ``unsupported`` is the answer of file systems that have no locks."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return unsupported
    return True


def _is_at(fd: int, path: Path) -> bool:
    """Whether this name still belongs to this open file: a cleaner may have been faster."""
    try:
        return os.path.samestat(os.fstat(fd), os.lstat(path))
    except OSError:
        return False


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()


def sync_folder(folder: Path) -> None:
    """Make the names in a folder last, where the file system can."""
    with contextlib.suppress(OSError):
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def _identity(path: str | os.PathLike[str]) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino
