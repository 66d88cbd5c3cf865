"""``streamseg doctor``: is everything here that is needed?"""

from __future__ import annotations

from dataclasses import asdict

import typer
from rich.console import Console
from rich.markup import escape

from streamseg.cli.options import Json
from streamseg.cli.report import print_json

__all__ = ["doctor"]

_SIGNS = {"ok": "[green]OK     [/]", "missing": "[yellow]--     [/]", "failed": "[red]FAILED [/]"}


def doctor(as_json: Json = False) -> None:
    """Check this machine; every line says OK, or what to do."""
    from streamseg.cli.running import run_async
    from streamseg.doctor import run_checks

    checks = run_async(run_checks())
    healthy = all(check.state != "failed" for check in checks)
    if as_json:
        print_json({"healthy": healthy, "checks": [asdict(check) for check in checks]})
    else:
        console = Console(highlight=False, soft_wrap=True, emoji=False)
        width = max(len(check.name) for check in checks)
        for check in checks:
            hint = f"; [bold]{escape(check.hint)}[/]" if check.hint else ""
            console.print(
                f"{_SIGNS[check.state]}{check.name:<{width}}  {escape(check.detail)}{hint}"
            )
    if not healthy:
        raise typer.Exit(1)
