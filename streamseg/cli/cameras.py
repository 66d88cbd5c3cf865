"""``streamseg cameras``: which cameras are there, and what can they deliver?"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape

from streamseg.cli.options import Json
from streamseg.cli.report import print_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from streamseg.sources.cameras_list import CameraMode

__all__ = ["cameras"]


def cameras(as_json: Json = False) -> None:
    """List the cameras with their formats, sizes and rates."""
    from streamseg.sources.cameras_list import list_cameras

    found = list_cameras()
    if as_json:
        print_json({"cameras": [asdict(camera) for camera in found]})
        return
    console = Console(highlight=False, soft_wrap=True, emoji=False)
    if not found:
        console.print("no camera found; plug one in, or load its driver")
    for camera in found:
        console.print(f"[bold]camera:{escape(camera.device)}[/]  {escape(camera.name)}")
        if camera.problem is not None:
            console.print(f"    [yellow]{escape(camera.problem)}[/]")
        for line in _lines(camera.modes):
            console.print(f"    {escape(line)}")


def _lines(modes: Sequence[CameraMode]) -> list[str]:
    lines = []
    for mode in modes:
        size = f"{'up to ' if mode.up_to else ''}{mode.width}x{mode.height}"
        rates = ", ".join(f"{rate:g}" for rate in mode.fps)
        lines.append(f"{mode.pixel_format:<4}  {size:<16}  {rates + ' fps' if rates else ''}")
    return [line.rstrip() for line in lines]
