"""Running a coroutine from a command, and ending it by a signal."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from streamseg.cli.report import print_error

if TYPE_CHECKING:
    from collections.abc import Coroutine

__all__ = ["run_async"]

T = TypeVar("T")


def run_async(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end on an event loop of its own.

    Ctrl-C and SIGTERM cancel it, so that everything it opened is closed; the command then exits
    with 130 or 143.

    Args:
        work: What to run.
    """
    _keep_opencv_to_one_thread()
    terminated = False

    async def cancellable() -> T:
        nonlocal terminated
        task = asyncio.ensure_future(work)

        def terminate() -> None:
            nonlocal terminated
            terminated = True
            task.cancel()

        if sys.platform != "win32":
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, terminate)
        return await task

    try:
        return asyncio.run(cancellable())
    except (asyncio.CancelledError, KeyboardInterrupt):
        print_error("interrupted")
        raise typer.Exit(143 if terminated else 130) from None


def _keep_opencv_to_one_thread() -> None:
    """Switch OpenCV's own threads off, without importing it yet.

    Pictures are a few at a time here, and every core has something to do: these threads would only
    wait for each other (5 % of the processor time of a file job). OpenCV is imported while the
    model process starts, not before.
    """
    os.environ.setdefault("OPENCV_FOR_THREADS_NUM", "1")
    if "cv2" in sys.modules:  # it looks at its environment only while it is imported
        import cv2

        cv2.setNumThreads(1)
