"""Running a coroutine from a command, and ending it by a signal."""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import TYPE_CHECKING, Any, TypeVar

import cv2
import typer

from streamseg.cli.report import print_error
from streamseg.ffmpeg_log import quiet_ffmpeg

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
    # Pictures are a few at a time here, and every core has something to do: OpenCV's own threads
    # would only wait for each other (5 % of the processor time of a file job).
    cv2.setNumThreads(1)
    quiet_ffmpeg()
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
