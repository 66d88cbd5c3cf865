"""Keeps encoders from taking the machine for themselves.

SVT-AV1 gives its threads, and the thread that opens it, the first-in-first-out policy at the highest
real-time priority wherever it may, which is wherever root runs it. Threads and processes that such
a thread starts inherit that. One of them that computes is never interrupted: the rest of the machine
stands still meanwhile.

Source: SVT-AV1, Source/Lib/Codec/svt_threads.c; sched(7).
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["ordinary_priorities"]


@contextlib.contextmanager
def ordinary_priorities() -> Iterator[None]:
    """Give all threads that got a real-time policy within the block the ordinary one again.

    Nothing is changed where this thread had such a policy before: somebody wanted it.
    """
    wanted = sys.platform != "linux" or os.sched_getscheduler(0) != os.SCHED_OTHER
    try:
        yield
    finally:
        if not wanted:
            for thread in os.listdir("/proc/self/task"):
                # A thread may have ended meanwhile.
                with contextlib.suppress(OSError):
                    if os.sched_getscheduler(int(thread)) in (os.SCHED_FIFO, os.SCHED_RR):
                        os.sched_setscheduler(int(thread), os.SCHED_OTHER, os.sched_param(0))
