"""Ends a helper process with the process that started it.

A helper whose parent is killed notices by the end of its standard input, if it reads that. One that
computes, waits for a peer or is stopped does not, and would stay for ever.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys

__all__ = ["die_with_parent"]

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int | None = None) -> None:
    """Have Linux kill this process when its parent is gone, whatever it does, even if it is stopped.

    To be called before anything else. Other systems have no such rule; there this does nothing.

    Args:
        parent: The parent's process id, so that one that is gone already is noticed too. It can be
            left out by a process that reads its standard input.

    Source: prctl(2), PR_SET_PDEATHSIG. The kernel means the parent's thread: the signal comes when
    the thread that started this process ends, which for asyncio is the thread of the event loop.
    """
    if sys.platform != "linux":
        return
    import ctypes

    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if parent is not None and os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)
