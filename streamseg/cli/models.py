"""``streamseg models``: which models are there, and how they get here."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.table import Table

from streamseg.cli.model_facts import converted_sizes, model_facts, model_row, other_row
from streamseg.cli.options import Json
from streamseg.cli.report import print_error, print_json

if TYPE_CHECKING:
    from pathlib import Path

    from rich.progress import Progress

    from streamseg.downloads.cache import CacheEntry
    from streamseg.models.card import Model

__all__ = ["app"]

# Short enough for 80 columns.
_TASKS = {
    "semantic-segmentation": "semantic",
    "instance-segmentation": "instance",
    "mask-classification": "panoptic",
    "classification": "classify",
}
_STATES = {
    "embedded": "[green]embedded[/]",
    "cached": "[green]cached[/]",
    "remote": "[dim]remote[/]",
}

app = typer.Typer(
    help="Models: list, fetch and check them.", no_args_is_help=True, rich_markup_mode="markdown"
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="A name of the list.")]
Names = Annotated[
    list[str],
    typer.Argument(metavar="NAME...", help="Names of the list, or addresses (https, hf)."),
]


@app.command("list")
def list_models(as_json: Json = False) -> None:
    """List the models: what they do, how large they are, their licence, and whether they are here.

    Embedded ones come with streamseg, cached ones were fetched, remote ones can be.
    """
    from streamseg.downloads.cache import Cache
    from streamseg.models.registry import card_of, model_names, model_state

    cache = Cache()
    rows = [model_row(name, card_of(name), model_state(name)) for name in model_names()]
    known = {row["source"] for row in rows}
    others = [entry for entry in cache.entries() if entry.source not in known]
    if as_json:
        print_json(
            {
                "models": rows,
                "others": [other_row(entry) for entry in others],
                "converted": [str(path) for path in cache.converted()],
                "cache": str(cache.folder),
                "cache_bytes": cache.total_bytes(),
            }
        )
        return
    console = _console()
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for column in ("name", "task", "size", "licence", "state"):
        table.add_column(column, justify="right" if column == "size" else "left", no_wrap=True)
    for row in rows:
        size = row["size_bytes"]
        table.add_row(
            escape(row["name"]),
            _TASKS[row["task"]],
            decimal(size) if size is not None else "?",
            escape(row["licence"]),
            _STATES[row["state"]],
        )
    console.print(table)
    for entry in others:
        state = "" if entry.is_complete else ", not whole: fetch it again"
        console.print(f"[dim]also:[/] {escape(entry.source)} ({decimal(entry.size_bytes)}{state})")
    for path, size in converted_sizes(cache):
        console.print(f"[dim]converted:[/] {escape(str(path))} ({decimal(size)})")
    console.print(f"[dim]cache:[/] {escape(str(cache.folder))}, {decimal(cache.total_bytes())}")


@app.command()
def info(name: Name, as_json: Json = False) -> None:
    """Tell everything that a model's card says; also of a .pte of your own."""
    from streamseg.models.registry import card_of, find_model, model_names, model_state

    path: Path | None = None
    if name in model_names():
        card, state = card_of(name), str(model_state(name))
        if state != "remote":
            path = find_model(name).path
    else:
        model = find_model(name)
        card, state, path = model.card, "file", model.path
    size = path.stat().st_size if path is not None else card.size_bytes
    if as_json:
        print_json(
            {
                **card.model_dump(mode="json"),
                "name": name,
                "state": state,
                "path": str(path) if path is not None else None,
                "size_bytes": size,
            }
        )
        return
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for key, value in model_facts(name, card, state, path, size):
        if value:
            table.add_row(key, escape(value))
    _console().print(table)


@app.command()
def fetch(names: Names) -> None:
    """Fetch models into the cache; a download that was cut goes on where it stopped.

    One that fails does not stop the others.

    **Examples**

        streamseg models fetch deeplab-v3-resnet50 lraspp-mobilenet-v3-large

        streamseg models fetch hf://org/repository@v1.0/model.pte
    """
    from streamseg.cli.running import run_async

    code = run_async(_fetch_all(names))
    if code:
        raise typer.Exit(code)


@app.command()
def remove(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME",
            help="Names of the list, addresses (https, hf), or the path of a .tflite, which stays.",
        ),
    ] = None,
    converted: Annotated[
        bool, typer.Option("--converted", help="All that .tflite files were converted to.")
    ] = False,
) -> None:
    """Delete fetched and converted models from the cache, also what a cut download left.

    **Examples**

        streamseg models remove deeplab-v3-resnet50 road.tflite

        streamseg models remove --converted
    """
    from streamseg.errors import ConfigError
    from streamseg.models.registry import remove_converted, remove_model

    if not names and not converted:
        raise ConfigError("name what to remove, or give --converted; see: streamseg models list")
    for name in names or ():
        _tell_removed(_shown(name), remove_model(name))
    if converted:
        _tell_removed("converted models", remove_converted())


@app.command()
def path(name: Name) -> None:
    """Print where a model's .pte is; an error if it is not here."""
    from streamseg.models.registry import find_model

    typer.echo(find_model(name).path)


@app.command()
def verify(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME", help="All that are here, if left out."),
    ] = None,
) -> None:
    """Read models again and compare their SHA-256 with their cards, or with what was fetched."""
    from streamseg.downloads.cache import Cache

    cache = Cache()
    wrong = 0
    checks = _checks(cache, names or [])
    for shown, entry, sha256 in checks:
        problem = cache.verify(entry, sha256)
        wrong += bool(problem)
        console = _console()
        if problem:
            console.print(f"[red]WRONG[/] {escape(shown)}: {escape(problem)}; fetch it again")
        else:
            console.print(f"[green]OK[/]    {escape(shown)}")
    typer.echo(f"{len(checks)} checked, {wrong} wrong")
    if wrong:
        raise typer.Exit(1)


async def _fetch_all(names: list[str]) -> int:
    """Fetch one after the other, and return the exit code."""
    from streamseg.errors import StreamsegError

    started_s = time.monotonic()
    code = fetched = received = 0
    for name in names:
        try:
            model, count = await _fetch_one(name)
        except StreamsegError as exc:
            print_error(str(exc))
            code = code or exc.exit_code
            continue
        fetched += 1
        received += count
        licence = f", {model.card.licence}" if model.card.licence else ""
        size = decimal(model.path.stat().st_size)
        was_here = "" if count else ", was here"
        typer.echo(f"{_shown(name)}: {model.path} ({size}{licence}{was_here})")
    typer.echo(
        f"{fetched} of {len(names)} here, {decimal(received)} fetched, "
        f"{time.monotonic() - started_s:.1f} s"
    )
    return code


async def _fetch_one(name: str) -> tuple[Model, int]:
    """Fetch one with a bar, and return it and how many bytes were received."""
    from streamseg.downloads.control import DownloadControl
    from streamseg.models.registry import obtain_model

    control = DownloadControl()
    with _bar() as bar:
        task = bar.add_task(escape(_shown(name)), total=None)

        def show(progress: float) -> None:
            bar.update(task, completed=control.received_bytes, total=control.total_bytes)

        model = await obtain_model(name, on_progress=show, control=control)
    return model, control.received_bytes


def _bar() -> Progress:
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    console = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    )


def _tell_removed(what: str, freed: int) -> None:
    typer.echo(f"{what}: {f'{decimal(freed)} freed' if freed else 'was not here'}")


def _checks(cache: Any, names: list[str]) -> list[tuple[str, CacheEntry, str]]:
    """Return what is to be verified: how it is shown, the file, the SHA-256 of its card."""
    from streamseg.downloads.cache import CacheEntry
    from streamseg.errors import ModelError
    from streamseg.models.registry import find_model, model_names, model_state

    if not names:
        checks = _checks(cache, [name for name in model_names() if model_state(name) != "remote"])
        sources = {entry.source for _, entry, _ in checks}
        return checks + [
            (entry.source, entry, "")
            for entry in cache.entries()
            if entry.is_complete and entry.source not in sources
        ]
    by_path = {entry.path: entry for entry in cache.entries()}
    checks = []
    for name in names:
        model = find_model(name)
        file, sha256 = model.path, model.card.sha256
        entry = by_path.get(file) or CacheEntry(name, file, file.stat().st_size, sha256)
        if not sha256 and not entry.sha256:
            raise ModelError(
                f"{_shown(name)}: its card has no sha256 to compare it with; write it there"
            )
        checks.append((_shown(name), entry, sha256))
    return checks


def _shown(name: str) -> str:
    from streamseg.redact import redacted_url

    return redacted_url(name)


def _console() -> Console:
    console = Console(highlight=False, soft_wrap=True, emoji=False)
    if not console.is_terminal:
        console.width = 200  # nobody wants a table cut for a screen that is not there
    return console
