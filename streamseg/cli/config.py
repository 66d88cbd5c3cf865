"""``streamseg config``: what a configuration comes to."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from streamseg.config import Scenario, kind_of, load_config, load_live_config, to_toml

__all__ = ["app"]

app = typer.Typer(help="Look at configurations.", no_args_is_help=True)


@app.command()
def show(
    file: Annotated[
        Path | None, typer.Argument(help="A configuration; the defaults alone if left out.")
    ] = None,
    live: Annotated[
        bool, typer.Option("--live", help="The defaults of live streams instead of file jobs.")
    ] = False,
) -> None:
    """Print a configuration with all defaults filled in, as TOML, after checking it.

    **Example**

        streamseg config show configs/blur.toml

        streamseg config show --live
    """
    from streamseg.effects.registry import create_effect

    kind = "live" if live else "file" if file is None else kind_of(file)
    settings: Scenario
    if kind == "serve":
        from streamseg.session.serve_config import load_serve_config

        settings = load_serve_config(file)
    else:
        settings = load_live_config(file) if kind == "live" else load_config(file)
    create_effect(settings.effect.name, settings.effect.options)
    typer.echo(to_toml(settings), nl=False)
