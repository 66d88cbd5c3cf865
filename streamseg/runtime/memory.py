"""Memory that a parent and its child process share, without a name that could be left behind.

On POSIX it is an anonymous file whose descriptor the child inherits: when both processes are gone,
however they went, so is the memory. ``multiprocessing.shared_memory`` would leave a named segment
after a kill. Windows has no inheritable descriptors for this, but its named mappings vanish with
their last handle.

Standard library only, and little of it: this module is imported in the model process.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import sys

__all__ = ["SharedMemory"]


class SharedMemory:
    """A block of shared memory, made by the parent with ``SharedMemory()``.

    Its size is set later with ``resize``, when the child has said what the model needs.
    """

    def __init__(self) -> None:
        self._map: mmap.mmap | None = None
        self._name = ""
        self.fd = -1
        if sys.platform == "win32":
            import secrets

            self._name = f"streamseg-{secrets.token_hex(16)}"
        elif sys.platform == "linux":
            self.fd = os.memfd_create("streamseg", os.MFD_CLOEXEC)
        else:
            import tempfile

            with tempfile.TemporaryFile(prefix="streamseg-") as file:
                self.fd = os.dup(file.fileno())

    @property
    def handle(self) -> str:
        """What ``attach`` needs in the child: the descriptor's number, or on Windows a name."""
        return self._name or str(self.fd)

    @property
    def inherited_fds(self) -> tuple[int, ...]:
        """Descriptors that the child must inherit under the same numbers."""
        return () if self.fd < 0 else (self.fd,)

    def resize(self, size: int) -> mmap.mmap:
        """Give the memory its size in bytes, zero-filled, and map it."""
        if self.fd >= 0:
            os.ftruncate(self.fd, size)
            self._map = mmap.mmap(self.fd, size)
        else:
            self._map = _named(self._name, size)
        return self._map

    @staticmethod
    def attach(handle: str, size: int) -> mmap.mmap:
        """Map, in the child, the memory that the parent made."""
        if handle.isdecimal():
            return mmap.mmap(int(handle), size)
        return _named(handle, size)

    def close(self) -> None:
        """Let go of it; the system frees it when the child has, too."""
        if self._map is not None:
            # A view that somebody still holds keeps the mapping alive until it is collected.
            with contextlib.suppress(BufferError):
                self._map.close()
            self._map = None
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def _named(name: str, size: int) -> mmap.mmap:
    if sys.platform == "win32":
        return mmap.mmap(-1, size, tagname=name)
    raise RuntimeError(f"named memory {name!r} exists on Windows only")
