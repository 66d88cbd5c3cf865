"""``streamseg classify PICTURE...``: what pictures show."""

from __future__ import annotations

from typing import Annotated

import typer

from streamseg.cli.options import Json, Quiet, Threads
from streamseg.cli.stills import PICTURES, PictureProgress, print_stills

__all__ = ["classify"]


def classify(
    pictures: Annotated[
        list[str],
        typer.Argument(metavar="PICTURE...", help=PICTURES),
    ],
    model: Annotated[
        str,
        typer.Option("--model", "-m", help="A classifier's name, or the path of a .pte."),
    ] = "efficientnet-v2-s",
    top: Annotated[int, typer.Option("--top", "-k", min=1, help="How many labels.")] = 5,
    threads: Threads = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Say what pictures show: the most probable labels of each.

    **Examples**

        streamseg classify cat.jpg --top 3

        streamseg classify holiday/ --model mobilenet.pte --json
    """
    from streamseg.cli.running import run_async
    from streamseg.session.pictures import plan_results
    from streamseg.session.stills import classify_pictures

    plan = plan_results(pictures, None, "")
    with PictureProgress(len(plan.items), quiet=quiet or as_json) as progress:
        report = run_async(
            classify_pictures(
                plan,
                model,
                top=top,
                threads=threads or None,
                on_done=progress.done,
                on_progress=progress.downloaded,
            )
        )
    print_stills(report, plan, as_json=as_json, quiet=quiet)
