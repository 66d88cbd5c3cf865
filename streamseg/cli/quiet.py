"""Long work of noisy libraries: one line that says what is being done, and nothing of theirs.

Torch's export stack warns about itself in Python, through loggers of its own and from native code.
Nothing of it helps the user of a command; ``--verbose`` shows it as it comes.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import signal
import sys
import tempfile
import warnings
from typing import TYPE_CHECKING, TextIO

import typer
from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner

from streamseg.cli.report import print_error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["quiet_work"]

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def quiet_work(first_step: str, *, quiet: bool = False) -> Iterator[Callable[[str], None]]:
    """Run a block with a status line on standard error; yields what changes its words.

    SIGTERM ends the block like Ctrl-C, so that it removes what it began to write; the command then
    exits with 143. Nothing that the block prints is seen.

    Args:
        first_step: What the status line says at first.
        quiet: No status line.
    """
    with _ended_by_sigterm(), warnings.catch_warnings():
        warnings.simplefilter("default")
        warnings.showwarning = _log_warning
        if _log.isEnabledFor(logging.DEBUG):
            yield _log_step
            return
        with _captured() as terminal:
            console = Console(file=terminal, highlight=False, emoji=False)
            if quiet or not console.is_terminal:
                yield _log_step
                return
            spinner = Spinner("dots", f"{first_step} ...")
            # rich would show what the block writes to sys.stderr.
            with Live(
                spinner,
                console=console,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            ):
                yield lambda step: spinner.update(text=f"{step} ...")


def _log_step(step: str) -> None:
    _log.debug("export", extra={"step": step})


def _log_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    text = " ".join(str(message).split())
    _log.debug("a library warns", extra={"kind": category.__name__, "text": text})


@contextlib.contextmanager
def _captured() -> Iterator[TextIO]:
    """Send descriptors 1 and 2 to a file nobody reads; yields the real standard error.

    Descriptors, for native code writes to them. A file, for a pipe would need a reader.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(1), os.dup(2)]
    try:
        with tempfile.TemporaryFile() as sink, os.fdopen(os.dup(kept[1]), "w") as terminal:
            try:
                os.dup2(sink.fileno(), 1)
                os.dup2(sink.fileno(), 2)
                # Python's own streams may be something else than the descriptors. Never closed:
                # torch's log handlers keep what they find here.
                unread = io.StringIO()
                with contextlib.redirect_stdout(unread), contextlib.redirect_stderr(unread):
                    yield terminal
            finally:
                with contextlib.suppress(OSError, ValueError):
                    sys.stdout.flush()
                    sys.stderr.flush()
                os.dup2(kept[0], 1)
                os.dup2(kept[1], 2)
    finally:
        for descriptor in kept:
            os.close(descriptor)


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    terminated = False

    def terminate(_signal: int, _frame: object) -> None:
        nonlocal terminated
        terminated = True
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    except KeyboardInterrupt:
        if not terminated:
            raise
        print_error("interrupted")
        raise typer.Exit(143) from None
    finally:
        signal.signal(signal.SIGTERM, before)
