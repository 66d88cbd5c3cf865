"""The door: a file by its address, out of the cache or fetched into it."""

from __future__ import annotations

import logging
import os
import re
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
from filelock import FileLock, Timeout

from streamseg.downloads.cache import Cache, CacheEntry, Place
from streamseg.downloads.control import DownloadControl
from streamseg.downloads.digest import sha256_in_thread
from streamseg.downloads.limits import DownloadLimits
from streamseg.downloads.locations import HubFile, LocalFile, WebFile, parse_location
from streamseg.errors import DownloadError, DownloadInterruptedError, OfflineError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

__all__ = ["fetch", "is_offline"]

_LOGGER = logging.getLogger(__name__)
_SHA256 = re.compile(r"[0-9a-f]{64}")
_LOCK_POLL_S = 0.1
_ON = frozenset({"1", "on", "yes", "true"})


def is_offline() -> bool:
    """Tell whether the environment switches fetching off.

    ``STREAMSEG_OFFLINE`` does, and ``HF_HUB_OFFLINE``, which other programs know too.
    """
    names = ("STREAMSEG_OFFLINE", "HF_HUB_OFFLINE")
    return any(os.environ.get(name, "").strip().lower() in _ON for name in names)


async def fetch(
    source: str,
    *,
    sha256: str = "",
    size_bytes: int | None = None,
    on_progress: Callable[[float], None] | None = None,
    cache: Cache | None = None,
    offline: bool | None = None,
    control: DownloadControl | None = None,
    limits: DownloadLimits | None = None,
) -> Path:
    """Return a file of this machine that has the bytes of a source.

    What is in the cache is returned at once. Otherwise it is fetched, checked and then put there;
    until then nobody sees it. A second process that wants the same waits for the first. A download
    that was cut or cancelled goes on where it stopped.

    Args:
        source: ``http(s)://...``, ``hf://org/repo[@revision]/path``, a ``resolve`` address of
            huggingface.co, ``file://...`` or a path.
        sha256: What it must be, 64 hexadecimal digits; empty if it is not known.
        size_bytes: Its size, None if it is not known.
        on_progress: Called with 0 to 1, never falling; 1 means verified and in place. With a server
            that does not tell the size it is called at the end only.
        cache: Where to keep it, the user's cache by default.
        offline: Whether to fail instead of fetching; ``is_offline`` by default.
        control: To pause or cancel it, and to see its bytes.
        limits: What it may take.

    Raises:
        OfflineError: If it would have to be fetched, but that is switched off.
        DownloadInterruptedError: If it was cut too often, or cancelled by its control.
        DownloadError: If it cannot be fetched or written, or is not what was asked for.
    """
    sha256 = sha256.strip().lower()
    if sha256 and not _SHA256.fullmatch(sha256):
        raise DownloadError(f"{sha256!r} is no SHA-256; write its 64 hexadecimal digits")
    location = parse_location(source)
    control = control or DownloadControl()
    with control.running(on_progress):
        want = _Wanted(sha256, size_bytes)
        if isinstance(location, LocalFile):
            path = await _take_local(location, want)
        else:
            path = await _obtain(
                location,
                want,
                cache or Cache(),
                is_offline() if offline is None else offline,
                control,
                limits or DownloadLimits(),
            )
        control.report_done()
        return path
    # Only the control's own cancelling ends the block above without an exception.
    raise DownloadInterruptedError(f"{location}: cancelled; fetch it again to go on")


class _Wanted:
    """What a file must be."""

    def __init__(self, sha256: str, size_bytes: int | None) -> None:
        self.sha256, self.size_bytes = sha256, size_bytes

    def fits(self, entry: CacheEntry | None) -> bool:
        """Tell whether a recorded file is it, by what was found when it was fetched."""
        return (
            entry is not None
            and self.sha256 in ("", entry.sha256)
            and self.size_bytes in (None, entry.size_bytes)
        )

    async def check(self, path: Path, shown: str) -> str:
        """Read a file and return its SHA-256; it can be cancelled while a large file is read.

        Raises:
            DownloadError: If it is another file.
        """
        size = (await anyio.to_thread.run_sync(path.stat)).st_size
        if self.size_bytes not in (None, size):
            raise DownloadError(f"{shown}: has {size} bytes, expected {self.size_bytes}")
        found = await sha256_in_thread(path)
        if self.sha256 not in ("", found):
            raise DownloadError(
                f"{shown}: its SHA-256 is {found[:12]}..., expected {self.sha256[:12]}...: it was "
                "damaged or replaced; do not use it"
            )
        return found


async def _take_local(file: LocalFile, want: _Wanted) -> Path:
    def look() -> None:
        if not file.path.is_file():
            what = "is a folder" if file.path.is_dir() else "no such file"
            raise DownloadError(f"{file.path}: {what}; check the path")

    try:
        await anyio.to_thread.run_sync(look)
        if want.sha256 or want.size_bytes is not None:
            await want.check(file.path, str(file))
    except OSError as exc:
        raise DownloadError(f"{file.path}: cannot be read: {exc.strerror}") from exc
    return file.path


async def _obtain(
    file: WebFile | HubFile,
    want: _Wanted,
    cache: Cache,
    offline: bool,
    control: DownloadControl,
    limits: DownloadLimits,
) -> Path:
    place = cache.place(file)
    entry = await anyio.to_thread.run_sync(cache.find, file)
    if entry is not None and want.fits(entry):
        return entry.path
    if offline and isinstance(file, WebFile):
        raise OfflineError(
            f"{file}: is not in the cache, and fetching is switched off; unset STREAMSEG_OFFLINE "
            "and HF_HUB_OFFLINE, or fetch it before"
        )
    try:
        async with _locked(place):
            entry = await anyio.to_thread.run_sync(cache.find, file)
            if entry is not None and want.fits(entry):
                return entry.path
            if isinstance(file, WebFile):
                path, sha256 = await _download(file, place, want, control, limits)
            else:
                path, sha256 = await _download_hub(file, place, want, offline, control, limits)
            await anyio.to_thread.run_sync(cache.add, file, path, sha256)
            return path
    except OSError as exc:
        raise DownloadError(
            f"{exc.filename or cache.folder}: cannot be written: {exc.strerror}; make room, or set "
            "STREAMSEG_CACHE to another folder"
        ) from exc


async def _download(
    file: WebFile,
    place: Place,
    want: _Wanted,
    control: DownloadControl,
    limits: DownloadLimits,
) -> tuple[Path, str]:
    from streamseg.downloads.http import download_over_http

    if not want.sha256 and not file.is_protected:
        _LOGGER.warning("%s: over plain HTTP and without a checksum, anybody can change it", file)
    while True:
        goes_on = await anyio.to_thread.run_sync(place.part.exists)
        await download_over_http(
            file, place, size_bytes=want.size_bytes, control=control, limits=limits
        )
        try:
            sha256 = await want.check(place.part, str(file))
            break
        except DownloadError:
            await anyio.to_thread.run_sync(place.discard_part)
            if not goes_on:
                raise
            # The two halves may be of two versions.
            _LOGGER.info("%s: what was here does not fit; starting again", file)

    def settle() -> None:
        place.record.unlink(missing_ok=True)
        place.part.replace(place.target)
        place.part_state.unlink(missing_ok=True)

    await anyio.to_thread.run_sync(settle)
    return place.target, sha256


async def _download_hub(
    file: HubFile,
    place: Place,
    want: _Wanted,
    offline: bool,
    control: DownloadControl,
    limits: DownloadLimits,
) -> tuple[Path, str]:
    from streamseg.downloads.hub import download_from_hub

    path = await download_from_hub(
        file,
        place,
        offline=offline,
        size_bytes=want.size_bytes,
        max_bytes=limits.max_bytes,
        control=control,
    )

    def look() -> tuple[int, Path]:
        # Not where it leads in the end: what several repositories have lies elsewhere, under
        # another hash.
        blob = path.parent / os.readlink(path) if path.is_symlink() else path
        return path.stat().st_size, blob

    size, blob = await anyio.to_thread.run_sync(look)
    if control.received_bytes:  # the process tells ten times a second, not the last byte
        control.report(size, size)
    sha256 = await want.check(path, str(file))
    # Large files of the Hub lie under their SHA-256.
    if _SHA256.fullmatch(blob.name) and blob.name != sha256:
        raise DownloadError(f"{file}: {path.resolve()} is damaged; delete it, fetch it again")
    return path, sha256


@asynccontextmanager
async def _locked(place: Place) -> AsyncIterator[None]:
    """Wait until no other process fetches the same; the loop goes on meanwhile."""

    def prepare() -> None:
        place.lock.parent.mkdir(parents=True, exist_ok=True)

    await anyio.to_thread.run_sync(prepare)
    lock = FileLock(place.lock, thread_local=False)
    told = False
    try:
        while True:
            try:
                await anyio.to_thread.run_sync(partial(lock.acquire, blocking=False))
                break
            except Timeout:
                if not told:
                    _LOGGER.info("%s: another process is fetching it; waiting", place.name)
                    told = True
                await anyio.sleep(_LOCK_POLL_S)
        yield
    finally:
        lock.release(force=True)
