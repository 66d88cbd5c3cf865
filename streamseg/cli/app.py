"""The ``streamseg`` command: its subcommands, and what every one of them shares.

An expected error is one line on standard error and an exit code: 2 for what the user can correct,
1 for a failure, 130 after Ctrl-C, 143 after SIGTERM.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from streamseg.cli import (
    cameras,
    classify,
    config,
    doctor,
    export,
    live,
    models,
    run,
    segment,
    serve,
)
from streamseg.cli.logs import LogFormat, setup_logging
from streamseg.cli.report import print_error, print_json
from streamseg.errors import StreamsegError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["app", "run_command"]

app = typer.Typer(
    name="streamseg",
    help="Segmentation of video: blur, replace or cut out the background, or write the masks.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
app.command("run")(run.run)
app.command("live")(live.live)
app.command("serve")(serve.serve)
app.command("cameras")(cameras.cameras)
app.command("segment")(segment.segment)
app.command("classify")(classify.classify)
app.command("doctor")(doctor.doctor)
app.add_typer(models.app, name="models")
app.add_typer(export.app, name="export")
app.add_typer(config.app, name="config")


def _version(wanted: bool) -> None:
    if wanted:
        from streamseg import __version__

        typer.echo(f"streamseg {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Tell more: processes, fallbacks, tracebacks.")
    ] = False,
    log_format: Annotated[
        LogFormat, typer.Option(help="How events are told on standard error.")
    ] = "text",
) -> None:
    setup_logging(verbose=verbose, log_format=log_format)


def run_command(arguments: Sequence[str]) -> int:
    """Run one command line.

    Args:
        arguments: Without the program's name.

    Returns:
        The exit code.
    """
    command = typer.main.get_command(app)
    try:
        result = command.main(list(arguments), prog_name="streamseg", standalone_mode=False)
    except StreamsegError as exc:
        logging.getLogger(__name__).debug("it failed here:", exc_info=exc)
        print_error(str(exc))
        if "--json" in arguments:
            print_json({"status": "error", "error": str(exc), "exit_code": exc.exit_code})
        return exc.exit_code
    except (KeyboardInterrupt, typer.Abort):
        print_error("interrupted")
        return 130
    except BrokenPipeError:
        # Whoever read our output has gone: nobody to tell, and nothing to flush at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as exc:
        shown = getattr(exc, "show", None)
        if shown is not None:  # a usage error of the command line parser
            shown()
            return int(getattr(exc, "exit_code", 2))
        if logging.getLogger().isEnabledFor(logging.DEBUG):
            logging.getLogger(__name__).exception("internal error")
        print_error(
            f"internal error: {type(exc).__name__}: {' '.join(str(exc).split())}; "
            "please report it with the output of the same command with --verbose before 'run'"
        )
        return 1
    return int(result or 0)
