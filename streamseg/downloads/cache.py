"""The cache of fetched files: where they lie, and what is known of them.

    FOLDER/files/KEY/NAME             the file, whole and verified
    FOLDER/files/KEY/record.json      what it is; written last, so without it there is no file
    FOLDER/files/KEY/NAME.part        what has arrived so far
    FOLDER/files/KEY/part.json        what must not have changed on the server to go on with it
    FOLDER/locks/KEY.lock             held by the process that fetches it
    FOLDER/converted/KEY/NAME.pte     what a model of another format was converted to
    FOLDER/converted/KEY.lock         held by the process that converts it

Files of the Hugging Face Hub lie in the Hub's own cache; here is only a record that names them, and
what has arrived of one that is not whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

from filelock import FileLock, Timeout

from streamseg.downloads.digest import file_sha256
from streamseg.downloads.locations import HubFile, WebFile
from streamseg.errors import DownloadError
from streamseg.whole_file import write_whole

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["Cache", "CacheEntry", "Place", "read_json", "write_json"]

_MAX_RECORD_BYTES = 1 << 16
_RECORD = "record.json"
# Of the SHA-256 of what was converted: enough to tell files apart, in a name that is not too long.
_CONVERTED_DIGITS = 40


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """A file of the cache.

    Attributes:
        source: Where it came from, without credentials.
        path: Where it is.
        size_bytes: Its size.
        sha256: What it was when it was fetched; empty for one that is not whole yet.
        is_complete: False for what a cut or cancelled download left, which the next one goes on
            with.
    """

    source: str
    path: Path
    size_bytes: int
    sha256: str
    is_complete: bool = True


@dataclass(frozen=True, slots=True)
class Place:
    """Where the files of one download lie; see the module."""

    folder: Path
    name: str
    lock: Path

    @property
    def target(self) -> Path:
        """The whole file."""
        return self.folder / self.name

    @property
    def part(self) -> Path:
        """What has arrived so far."""
        return self.folder / f"{self.name}.part"

    @property
    def part_state(self) -> Path:
        """What must not have changed to go on with it."""
        return self.folder / "part.json"

    @property
    def record(self) -> Path:
        """What is known of the whole file."""
        return self.folder / _RECORD

    def discard_part(self) -> None:
        """Delete what has arrived so far."""
        self.part.unlink(missing_ok=True)
        self.part_state.unlink(missing_ok=True)


class Cache:
    """A folder of fetched files. Its methods touch the disk: call them in a thread.

    Args:
        folder: Its folder; else what ``STREAMSEG_CACHE`` says, else the user's cache folder.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        chosen = folder or os.environ.get("STREAMSEG_CACHE")
        if chosen:
            self.folder = Path(os.path.expanduser(chosen))
        else:
            from platformdirs import user_cache_dir

            self.folder = Path(user_cache_dir("streamseg", appauthor=False))

    def place(self, file: WebFile | HubFile) -> Place:
        """Return where a file's parts lie, whether they are there or not."""
        key = hashlib.sha256(_identity(file).encode()).hexdigest()[:20]
        return Place(self.folder / "files" / key, file.name, self.folder / "locks" / f"{key}.lock")

    def find(self, file: WebFile | HubFile) -> CacheEntry | None:
        """Return a file that is here and has the size that it had; None otherwise."""
        entry = _entry(self.place(file).folder)
        return entry if entry is not None and entry.is_complete else None

    def entries(self) -> list[CacheEntry]:
        """Return everything that is here, whole or not, by its source."""
        try:
            folders = list((self.folder / "files").iterdir())
        except OSError:
            return []
        found = [entry for folder in folders if (entry := _entry(folder)) is not None]
        return sorted(found, key=lambda entry: entry.source)

    def converted(self) -> list[Path]:
        """Return the programs that models of other formats were converted to."""
        return sorted((self.folder / "converted").glob("*/*.pte"))

    def converted_folder(self, sha256: str, version: str) -> Path:
        """Return where the program of a model of another format lies, whether it is there or not.

        Args:
            sha256: Of the model's file.
            version: Of all that makes another program of the same file.
        """
        return self.folder / "converted" / f"{sha256[:_CONVERTED_DIGITS]}-{version}"

    def converted_lock(self, folder: Path) -> FileLock:
        """Return what is held while something is written to, or deleted from, such a folder."""
        return FileLock(folder.with_name(f"{folder.name}.lock"), thread_local=False)

    def total_bytes(self) -> int:
        """Return how much room everything takes, what was fetched and what was converted."""
        fetched = sum(entry.size_bytes for entry in self.entries())
        return fetched + _size_of(self.converted())

    def add(self, file: WebFile | HubFile, path: Path, sha256: str) -> CacheEntry:
        """Record a verified file, as the last step of fetching it."""
        place = self.place(file)
        size = path.stat().st_size
        inside = path == place.target
        write_json(
            place.record,
            {
                "source": str(file),
                "path": place.name if inside else str(path),
                "size_bytes": size,
                "sha256": sha256,
            },
        )
        return CacheEntry(str(file), path, size, sha256)

    def remove(self, file: WebFile | HubFile) -> int:
        """Delete a file, whole or not.

        Returns:
            How many bytes that freed; 0 if there was nothing.

        Raises:
            DownloadError: If somebody is fetching it, or it cannot be deleted.
        """
        place = self.place(file)
        if not place.folder.exists() and not place.lock.exists():
            return 0
        with self._deleting(FileLock(place.lock, thread_local=False), f"{file}: is being fetched"):
            entry = _entry(place.folder)
            if entry is None:
                return 0
            if entry.path.parent != place.folder:
                _remove_from_hub_cache(entry.path)
            shutil.rmtree(place.folder)
        return entry.size_bytes

    def forget(self, file: WebFile | HubFile) -> None:
        """Delete what this cache has of a file: its record, and the file if it lies here.

        A file in the cache of the Hugging Face Hub stays: other programs use it too.

        Raises:
            DownloadError: If somebody is fetching it, or it cannot be deleted.
        """
        place = self.place(file)
        if place.folder.exists():
            lock = FileLock(place.lock, thread_local=False)
            with self._deleting(lock, f"{file}: is being fetched"):
                shutil.rmtree(place.folder)

    def remove_converted(self, *, sha256: str = "", program: Path | None = None) -> int:
        """Delete programs that models of other formats were converted to; all, if nothing is said.

        Args:
            sha256: Of the file that was converted: its programs of all versions.
            program: One of ``converted``.

        Returns:
            How many bytes that freed; 0 if there was nothing.

        Raises:
            DownloadError: If somebody is converting one, or one cannot be deleted.
        """
        wanted = f"{sha256[:_CONVERTED_DIGITS]}-*/" if sha256 else "*/"
        freed = 0
        for folder in sorted((self.folder / "converted").glob(wanted)):
            if program is not None and program.parent != folder:
                continue
            with self._deleting(self.converted_lock(folder), f"{folder}: is being converted"):
                size = _size_of(folder.glob("*.pte"))
                shutil.rmtree(folder)
                freed += size
        return freed

    @contextmanager
    def _deleting(self, lock: FileLock, busy: str) -> Iterator[None]:
        """Hold a lock, without waiting for it, while files are deleted."""
        try:
            Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
            lock.acquire(blocking=False)
            yield
        except Timeout as exc:
            raise DownloadError(f"{busy} now; stop that first") from exc
        except OSError as exc:
            where = exc.filename or self.folder
            raise DownloadError(f"{where}: cannot be deleted: {exc.strerror}") from exc
        finally:
            lock.release(force=True)

    def verify(self, entry: CacheEntry, sha256: str = "") -> str:
        """Read a whole file again.

        Args:
            entry: Which.
            sha256: What it must be; what it was when it was fetched, if left out.

        Returns:
            What is wrong with it, empty if nothing is.
        """
        expected = (sha256 or entry.sha256).lower()
        try:
            found = file_sha256(entry.path)
        except OSError as exc:
            return f"cannot be read: {exc.strerror}"
        return "" if found == expected else f"SHA-256 is {found[:12]}..., not {expected[:12]}..."


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write a small file so that it is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(value).encode())


def read_json(path: Path) -> dict[str, Any]:
    """Read such a file; empty if it is not there or not whole."""
    try:
        with path.open("rb") as file:
            value = json.loads(file.read(_MAX_RECORD_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _identity(file: WebFile | HubFile) -> str:
    """Return what makes a file another one: not who fetches it, but every field of its query."""
    if isinstance(file, HubFile):
        return f"hf://{file.repository}@{file.revision}/{file.path}"
    parts = urlsplit(file.url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment=""))


def _entry(folder: Path) -> CacheEntry | None:
    record = read_json(folder / _RECORD)
    match record:
        case {
            "source": str(source),
            "path": str(path),
            "size_bytes": int(size),
            "sha256": str(sha256),
        }:
            target = folder / path  # an absolute path stays what it is
            with suppress(OSError):
                if target.stat().st_size == size:
                    return CacheEntry(source, target, size, sha256)
    state = read_json(folder / "part.json")
    for part in folder.glob("*.part"):
        with suppress(OSError):
            return CacheEntry(
                str(state.get("source", part.name)), part, part.stat().st_size, "", False
            )
    return None


def _size_of(paths: Iterable[Path]) -> int:
    size = 0
    for path in paths:
        with suppress(OSError):
            size += path.stat().st_size
    return size


def _remove_from_hub_cache(path: Path) -> None:
    """Delete a file of the Hub's cache: the link, and the blob if no other link needs it."""
    # Not where it leads in the end: a blob may itself be a link to what several repositories have,
    # which only the Hub's own tool may delete.
    blob = _target(path)
    path.unlink(missing_ok=True)
    snapshots = next((parent for parent in path.parents if parent.name == "snapshots"), None)
    if blob is None or snapshots is None:
        return
    if blob.parent != Path(os.path.normpath(snapshots.parent / "blobs")):
        return
    if not any(_target(link) == blob for link in snapshots.rglob("*")):
        blob.unlink(missing_ok=True)


def _target(link: Path) -> Path | None:
    """Return what a link names itself; None if it is no link."""
    if not link.is_symlink():
        return None
    return Path(os.path.normpath(link.parent / os.readlink(link)))
