"""The partial file of a download: what is there, and writing on."""

from __future__ import annotations

import os
import shutil
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

import anyio
import anyio.to_thread

from streamseg.downloads.cache import read_json, write_json
from streamseg.errors import DownloadError

if TYPE_CHECKING:
    from streamseg.downloads.cache import Place

__all__ = ["PartState", "PartWriter"]

# Large, because what arrives while a block is being written is lost if the connection is cut in that
# moment: aiohttp does not give its buffer away after that.
_BLOCK = 1 << 21


@dataclass(frozen=True, slots=True)
class PartState:
    """What is here of a file.

    Attributes:
        received: Its bytes from the start; 0 if they cannot be gone on with.
        validator: The server's ETag or Last-Modified for it.
        total: The size of the whole file, None if it is not known.
    """

    received: int = 0
    validator: str = ""
    total: int | None = None

    @staticmethod
    async def read(place: Place, *, size_bytes: int | None) -> PartState:
        """Look at what is here; what is too long, or has no validator, counts for nothing."""

        def look() -> PartState:
            state = read_json(place.part_state)
            validator, total = state.get("validator"), state.get("total")
            try:
                received = place.part.stat().st_size
            except OSError:
                return PartState()
            most = total if isinstance(total, int) else size_bytes
            if not isinstance(validator, str) or not validator or received > (most or received):
                return PartState()
            return PartState(received, validator, total if isinstance(total, int) else None)

        return await anyio.to_thread.run_sync(look)


class PartWriter:
    """Writes a partial file on, in blocks, in a thread; nothing is touched before the first.

    Args:
        place: Where it is.
        begin: The first byte that will come; what is there beyond it is dropped.
        total: The size of the whole file in bytes, None if it is not known.
        validator: The server's ETag or Last-Modified; empty if it cannot be gone on with.
        source: Where it comes from, without credentials.

    Attributes:
        received: Bytes from the start of the file, with those that are not written yet.
    """

    def __init__(
        self, place: Place, *, begin: int, total: int | None, validator: str, source: str
    ) -> None:
        self.received = begin
        self._place, self._begin, self._total = place, begin, total
        self._state = {"source": source, "validator": validator, "total": total}
        self._file: BinaryIO | None = None
        # Bounded by _BLOCK and one chunk of the network. A thread takes it under the lock: one that
        # a cancelled task left behind must not write after the next.
        self._waiting = bytearray()
        self._lock = threading.Lock()

    async def write(self, chunk: bytes) -> None:
        """Take bytes of the network; most calls only keep them for the next block.

        Raises:
            DownloadError: If the disk has no room for the file.
            OSError: If it cannot be written.
        """
        self.received += len(chunk)
        self._waiting += chunk
        if len(self._waiting) >= _BLOCK:
            await self.flush()

    async def flush(self) -> None:
        """Write what waits; the file is there after that, even if it is empty."""
        await anyio.to_thread.run_sync(self._write_waiting)

    async def aclose(self, *, durable: bool) -> None:
        """Write the rest.

        Args:
            durable: Whether to wait until all of it is on the disk. That can take long for what
                the system holds back of a large file: too long for a download that is cancelled.
        """

        def finish() -> None:
            if self._waiting:
                self._write_waiting()
            if self._file is not None:
                with self._file:
                    if durable:
                        self._file.flush()
                        os.fsync(self._file.fileno())

        await anyio.to_thread.run_sync(finish)

    def _write_waiting(self) -> None:
        with self._lock:
            if self._file is None:
                self._file = self._open()
            self._file.write(self._waiting)
            self._waiting.clear()

    def _open(self) -> BinaryIO:
        place = self._place
        place.folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(place.folder).free
        if self._total is not None and self._total - self._begin > free:
            raise DownloadError(
                f"{place.folder}: {free >> 20} MiB are free, the file needs "
                f"{(self._total - self._begin) >> 20}; make room, or set STREAMSEG_CACHE"
            )
        file = place.part.open("ab")
        try:
            file.truncate(self._begin)
            write_json(place.part_state, self._state)
        except BaseException:
            file.close()
            raise
        return file
