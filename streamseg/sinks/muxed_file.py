"""The open file that a muxer writes through, instead of opening a name by itself.

The file is already open and locked, a full disk is an exception at the write that met it, and an
abandoned run refuses further writes, so that even the rewriting pass of ``faststart`` ends at once.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import threading
    from pathlib import Path

__all__ = ["MuxedFile", "Stopped"]


class Stopped(Exception):
    """The run was abandoned."""


class MuxedFile:
    """A file object as PyAV wants it.

    Args:
        fd: Open for reading and writing; stays open.
        path: Its name; faststart reads the file again by it.
        stopped: Once set, ``write`` raises ``Stopped``.

    Attributes:
        closed: Set it, and PyAV writes no trailer when the container goes.
    """

    def __init__(self, fd: int, path: Path, stopped: threading.Event) -> None:
        self.name = str(path)
        self._fd = fd
        self._stopped = stopped
        self.closed = False

    def write(self, data: bytes) -> int:
        """Write all of it."""
        if self._stopped.is_set():
            raise Stopped
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move, and return the new position."""
        return os.lseek(self._fd, offset, whence)

    def tell(self) -> int:
        """Return the position."""
        return os.lseek(self._fd, 0, os.SEEK_CUR)
