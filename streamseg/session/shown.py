"""What may be told of a configuration to whoever reads the figures."""

from __future__ import annotations

from pathlib import PurePath

from streamseg.downloads.locations import is_remote
from streamseg.redact import redacted_url

__all__ = ["shown_model"]


def shown_model(name: str) -> str:
    """Return a model's name for figures and metrics: of a file its name, without its folders.

    Args:
        name: As it is configured: a name, a path, or an address, whose credentials are left out.
    """
    return redacted_url(name if is_remote(name) else PurePath(name).name)
