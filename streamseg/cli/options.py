"""Options that several commands share, and how they become configuration."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from streamseg.errors import ConfigError

__all__ = [
    "Background",
    "Classes",
    "ConfigFile",
    "Contours",
    "EffectName",
    "Feather",
    "Fit",
    "Json",
    "Legend",
    "ModelName",
    "Overwrite",
    "Quiet",
    "Refine",
    "Strength",
    "Subject",
    "Threads",
    "Threshold",
    "Workers",
    "parse_classes",
    "parse_seconds",
    "scenario_values",
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
        help="blur, replace, tint, cutout, pixelate, grayscale, mask, per-class, labels (of a "
        "classifier), or none.",
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
Classes = Annotated[
    str | None,
    typer.Option(
        help="What of the model's classes the effect is about, separated by commas: person,dog. "
        "People if unset; for tint everything but the background.",
        rich_help_panel=_EFFECT,
    ),
]
Contours = Annotated[
    float | None,
    typer.Option(
        help="For tint: width of outlines, 0 to 5 % of the picture's shorter side.",
        rich_help_panel=_EFFECT,
    ),
]
Legend = Annotated[
    bool,
    typer.Option("--legend", help="For tint: write which colour is what.", rich_help_panel=_EFFECT),
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
        help="A name of 'streamseg models list', or the path or address of a .pte; selfie if "
        "unset.",
        rich_help_panel=_MODEL,
    ),
]
Workers = Annotated[
    int | None, typer.Option(help="Number of model processes.", rich_help_panel=_MODEL)
]
Threads = Annotated[
    int | None, typer.Option(help="Threads of each model process.", rich_help_panel=_MODEL)
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", "-y", help="Replace an existing output file.")
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no summary.")]


def scenario_values(
    *,
    model: str | None = None,
    workers: int | None = None,
    threads: int | None = None,
    refine: bool | None = None,
    effect: str | None = None,
    classes: str | None = None,
    strength: float | None = None,
    background: str | None = None,
    fit: str | None = None,
    subject: bool = False,
    threshold: float | None = None,
    feather: float | None = None,
    contours: float | None = None,
    legend: bool = False,
) -> dict[str, Any]:
    """Return what the options that all commands share are as configuration.

    Args:
        model: As the option of that name, and so on.
        workers: Number of model processes.
        threads: Threads of each.
        refine: Whether mask edges follow the picture's.
        effect: Its name.
        classes: Labels with commas between them.
        strength: The effect's.
        background: Of ``replace``.
        fit: How it fits.
        subject: Whether the effect is applied to the subject instead of the background.
        threshold: Of the masks.
        feather: Likewise.
        contours: Width of the outlines of ``tint``.
        legend: Whether ``tint`` has a legend.

    Returns:
        Dotted key -> value, None where nothing was said.

    Raises:
        ConfigError: If ``classes`` names none.
    """
    return {
        "model.name": model,
        "model.workers": workers,
        "model.threads": threads,
        "mask.refine": refine,
        "effect.name": effect,
        "effect.subject": parse_classes(classes),
        "effect.strength": strength,
        "effect.background": background,
        "effect.fit": fit,
        "effect.on": "subject" if subject else None,
        "effect.threshold": threshold,
        "effect.feather": feather,
        "effect.contours": contours,
        "effect.legend": legend or None,
    }


def parse_classes(text: str | None) -> list[str] | None:
    """Return the labels of ``person,dog``; None stays None.

    Raises:
        ConfigError: If there is none.
    """
    if text is None:
        return None
    labels = [label for label in map(str.strip, text.split(",")) if label]
    if not labels:
        raise ConfigError(
            f"--classes is {text!r}: expected labels of the model, such as person,dog"
        )
    return labels


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
