"""What a user reads of many pictures: progress, results, and what failed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from streamseg.cli.report import print_error, print_json

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from types import TracebackType

    from streamseg.session.stills import StillReport

__all__ = ["PictureProgress", "print_stills"]


class PictureProgress:
    """A progress bar on standard error, and a line there for each picture that failed.

    Args:
        count: How many pictures there are.
        quiet: Whether only what failed is told.
    """

    def __init__(self, count: int, *, quiet: bool) -> None:
        console = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=console,
            disable=quiet or not console.is_terminal,
            transient=True,
        )
        # Until the first picture is done: a .tflite is converted first, which takes its time.
        self._task = self._bar.add_task("loading the model", total=count)
        self._count = count

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def downloaded(self, share: float) -> None:
        """Show how much of the model has been downloaded."""
        if share < 1:
            self._bar.update(
                self._task, description="model, %", completed=round(100 * share), total=100
            )
        else:
            self._bar.update(self._task, description="pictures", completed=0, total=self._count)

    def done(self, picture: Path, error: str | None) -> None:
        """Count a picture; say why it failed, if it did."""
        self._bar.update(self._task, description="pictures", advance=1)
        if error is not None:
            # As messages show it.
            name = "".join(letter if letter.isprintable() else "\ufffd" for letter in str(picture))
            print_error(error if name in error else f"{name}: {error}")


def print_stills(
    report: StillReport, missing: Sequence[str], *, as_json: bool, quiet: bool
) -> None:
    """Print the results and end the command with 1 if a picture failed.

    Raises:
        typer.Exit: In that case.
    """
    for line in missing:
        print_error(line)
    failed = bool(report.failed or missing)
    if as_json:
        print_json(
            {
                "status": "error" if failed else "ok",
                "results": report.results,
                "failed": report.failed,
                "missing": list(missing),
            }
        )
    elif not quiet:
        console = Console(highlight=False, soft_wrap=True, emoji=False)
        if any(isinstance(result, str) for result in report.results.values()):
            for target in dict.fromkeys(report.results.values()):
                console.print(escape(str(target)))
        else:
            for name, labels in report.results.items():
                console.print(f"[bold]{escape(name)}[/]")
                for label, probability in labels:
                    console.print(f"  {100 * probability:5.1f} %  {escape(label)}")
    if failed:
        raise typer.Exit(1)
