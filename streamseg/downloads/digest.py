"""SHA-256 of files, also where it must be possible to stop half-way."""

from __future__ import annotations

import hashlib
import threading
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["file_sha256", "sha256_in_thread"]

_CHUNK_BYTES = 1 << 20


def file_sha256(path: Path, *, stop: threading.Event | None = None) -> str:
    """Return the SHA-256 of a file, as 64 lower-case hexadecimal digits.

    Args:
        path: The file.
        stop: Ends it, with an InterruptedError, when somebody sets it.

    Raises:
        OSError: If it cannot be read.
    """
    digest = hashlib.sha256()
    buffer = bytearray(_CHUNK_BYTES)
    with path.open("rb", buffering=0) as file, memoryview(buffer) as view:
        while count := file.readinto(buffer):
            if stop is not None and stop.is_set():
                raise InterruptedError(f"{path}: nobody waits for its SHA-256 any more")
            digest.update(view[:count])
    return digest.hexdigest()


async def sha256_in_thread(path: Path) -> str:
    """Return the same without blocking the event loop; cancelled, it ends at once, thread and all.

    Raises:
        OSError: If it cannot be read.
    """
    import anyio.to_thread

    stop = threading.Event()
    try:
        return await anyio.to_thread.run_sync(
            partial(file_sha256, path, stop=stop), abandon_on_cancel=True
        )
    finally:
        stop.set()
