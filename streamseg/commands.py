"""What a user can ask of a running pipeline by a key or a button."""

from __future__ import annotations

from typing import Literal

__all__ = ["Command"]

Command = Literal["quit", "pause", "next-effect", "show-mask", "snapshot"]
"""``quit`` ends the pipeline, ``pause`` holds the picture or goes on, ``next-effect`` takes the next
effect in turn, ``show-mask`` shows the mask or the effect again, ``snapshot`` keeps one picture."""
