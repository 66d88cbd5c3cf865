"""The cache of fetched files: where they lie, and what is known of them.

    FOLDER/files/KEY/NAME             the file, whole and verified
    FOLDER/files/KEY/record.json      what it is; written last, so without it there is no file
    FOLDER/files/KEY/NAME.part        what has arrived so far
    FOLDER/files/KEY/part.json        what must not have changed on the server to go on with it
    FOLDER/locks/KEY.lock             held by the process that fetches it
    FOLDER/converted/KEY/NAME.pte     what a model of another format was converted to

Files of the Hugging Face Hub lie in the Hub's own cache; here is only a record that names them.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from filelock import FileLock, Timeout

from streamseg.downloads.locations import HubFile, WebFile
from streamseg.errors import DownloadError

__all__ = ["Cache", "CacheEntry", "Place", "file_sha256"]

_CHUNK = 1 << 20
_MAX_RECORD_BYTES = 1 << 16
_RECORD = "record.json"


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

    def total_bytes(self) -> int:
        """Return how much room everything takes, what was fetched and what was converted."""
        fetched = sum(entry.size_bytes for entry in self.entries())
        for path in self.converted():
            with suppress(OSError):
                fetched += path.stat().st_size
        return fetched

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
        lock = FileLock(place.lock, thread_local=False)
        entry: CacheEntry | None = None
        try:
            place.lock.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire(blocking=False)
            entry = _entry(place.folder)
            if entry is None:
                return 0
            if entry.path.parent != place.folder:
                _remove_from_hub_cache(entry.path)
            shutil.rmtree(place.folder)
        except Timeout as exc:
            raise DownloadError(f"{file}: is being fetched now; stop that first") from exc
        except OSError as exc:
            where = entry.path if entry is not None else self.folder
            raise DownloadError(f"{where}: cannot be deleted: {exc.strerror}") from exc
        finally:
            lock.release(force=True)
        return entry.size_bytes

    def verify(self, entry: CacheEntry, sha256: str = "") -> str:
        """Read a whole file again.

        Args:
            entry: Which.
            sha256: What it must be; what it was when it was fetched, if left out.

        Returns:
            What is wrong with it, empty if nothing is.
        """
        expected = sha256 or entry.sha256
        try:
            found = file_sha256(entry.path)
        except OSError as exc:
            return f"cannot be read: {exc.strerror}"
        return "" if found == expected else f"SHA-256 is {found[:12]}..., not {expected[:12]}..."


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write a small file so that it is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(json.dumps(value), "utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_json(path: Path) -> dict[str, Any]:
    """Read such a file; empty if it is not there or not whole."""
    try:
        with path.open("rb") as file:
            value = json.loads(file.read(_MAX_RECORD_BYTES))
    except (OSError, ValueError):
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


def _remove_from_hub_cache(path: Path) -> None:
    """Delete a file of the Hub's cache: the link, and the blob if no other link needs it."""
    blob = path.resolve() if path.is_symlink() else None
    path.unlink(missing_ok=True)
    snapshots = next((parent for parent in path.parents if parent.name == "snapshots"), None)
    if blob is None or snapshots is None or blob.parent != snapshots.parent / "blobs":
        return
    links = (link for link in snapshots.rglob("*") if link.is_symlink())
    if not any(link.resolve() == blob for link in links):
        blob.unlink(missing_ok=True)
