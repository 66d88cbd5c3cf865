"""What a user reads of many pictures: progress, results, and what failed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

from streamseg.cli.report import ProgressBar, print_error, print_json, print_notices

if TYPE_CHECKING:
    from streamseg.session.pictures import Item, Plan
    from streamseg.session.stills import StillReport

__all__ = ["PICTURES", "PictureProgress", "print_stills"]

PICTURES = "Pictures, folders of pictures, patterns, or http(s) addresses."
"""What the commands for still pictures say of their argument."""


class PictureProgress(ProgressBar):
    """How many pictures are done, and a line for each that failed.

    Args:
        count: How many pictures there are.
        quiet: Whether only what failed is told.
    """

    def __init__(self, count: int, *, quiet: bool) -> None:
        super().__init__(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
            quiet=quiet,
        )
        # Until the first picture is done: a .tflite is converted first, which takes its time.
        self._task = self._bar.add_task("loading the model", total=count)
        self._count = count

    def downloaded(self, share: float) -> None:
        """Show how much of the model has been downloaded."""
        if share < 1:
            self._bar.update(
                self._task, description="model, %", completed=round(100 * share), total=100
            )
        else:
            self._bar.update(self._task, description="pictures", completed=0, total=self._count)

    def done(self, picture: Item, error: str | None) -> None:
        """Count a picture; say why it failed, if it did."""
        self._bar.update(self._task, description="pictures", advance=1)
        if error is not None:
            # As messages show it.
            name = "".join(letter if letter.isprintable() else "\ufffd" for letter in picture.name)
            print_error(error if name in error else f"{name}: {error}")


def print_stills(report: StillReport, plan: Plan, *, as_json: bool, quiet: bool) -> None:
    """Print the results and end the command with 1 if a picture failed.

    Raises:
        typer.Exit: In that case.
    """
    for line in plan.missing:
        print_error(line)
    failed = bool(report.failed or plan.missing)
    if as_json:
        print_json(
            {
                "status": "error" if failed else "ok",
                "results": report.results,
                "failed": report.failed,
                "missing": list(plan.missing),
                "left_out": list(plan.left_out),
            }
        )
    elif not quiet:
        if plan.left_out:
            count = len(plan.left_out)
            what = "1 earlier result was" if count == 1 else f"{count} earlier results were"
            print_notices([f"{what} left out; to segment such a file too, give it by itself"])
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
