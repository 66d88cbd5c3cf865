"""Options that several commands share, and how they become configuration."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from streamseg.errors import ConfigError

__all__ = [
    "Background",
    "ConfigFile",
    "EffectName",
    "Feather",
    "Fit",
    "Json",
    "ModelName",
    "Overwrite",
    "Quiet",
    "Refine",
    "Strength",
    "Subject",
    "Threads",
    "Threshold",
    "parse_seconds",
]

_TIME = re.compile(r"(?:(?:(\d+):)?(\d+):)?(\d+(?:\.\d*)?)")
_WITH_UNITS = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d*)?)s?)?")

_MASKS, _EFFECT, _MODEL = "Masks", "Effect", "Model"

ConfigFile = Annotated[
    Path | None, typer.Option("--config", "-c", help="A configuration; options override it.")
]
EffectName = Annotated[
    str | None,
    typer.Option(
        "--effect",
        "-e",
        help="blur, replace, tint, cutout, pixelate, grayscale, mask, or none.",
        rich_help_panel=_EFFECT,
    ),
]
Strength = Annotated[
    float | None, typer.Option(help="How strong, 0 to 100.", rich_help_panel=_EFFECT)
]
Background = Annotated[
    str | None,
    typer.Option(
        help="For replace: a colour (name or #rrggbb), or a picture's or video's path.",
        rich_help_panel=_EFFECT,
    ),
]
Fit = Annotated[
    str | None,
    typer.Option(help="How the new background fits: cover or contain.", rich_help_panel=_EFFECT),
]
Subject = Annotated[
    bool,
    typer.Option(
        "--subject",
        help="Apply the effect to the people instead of the background.",
        rich_help_panel=_EFFECT,
    ),
]
Threshold = Annotated[
    float | None,
    typer.Option(
        help="Probability, 0 to 1, above which a pixel is the subject's.", rich_help_panel=_MASKS
    ),
]
Feather = Annotated[
    float | None,
    typer.Option(
        help="Extra softness of the edge, 0 to 20 % of the picture's shorter side.",
        rich_help_panel=_MASKS,
    ),
]
Refine = Annotated[
    bool | None,
    typer.Option(
        "--refine/--no-refine",
        help="Make mask edges follow the picture's edges.",
        rich_help_panel=_MASKS,
    ),
]
ModelName = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        help="selfie, selfie-landscape, or the path of a .pte.",
        rich_help_panel=_MODEL,
    ),
]
Threads = Annotated[
    int | None, typer.Option(help="Threads of each model process.", rich_help_panel=_MODEL)
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", "-y", help="Replace an existing output file.")
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no summary.")]


def parse_seconds(option: str, text: str | None) -> float | None:
    """Return seconds from ``90``, ``1:30``, ``01:02:03.5``, ``10m`` or ``1h30m``.

    Args:
        option: The option's name, for the message.
        text: What was given; None stays None.

    Raises:
        ConfigError: If it is no time.
    """
    if text is None:
        return None
    given = text.strip().lower()
    match = _TIME.fullmatch(given) or _WITH_UNITS.fullmatch(given)
    if match is None or not given:
        raise ConfigError(
            f"{option} is {text!r}: expected seconds, or a time such as 1:02:03.5 or 10m"
        )
    hours, minutes, seconds = match.groups()
    return int(hours or 0) * 3600 + int(minutes or 0) * 60 + float(seconds or 0)
