"""Access to what aiortc keeps to itself, with a check that it is there."""

from __future__ import annotations

from typing import Any

from streamseg.errors import ConfigError

__all__ = ["check_version", "private_name", "replace_private"]

_TESTED = "1.16."


def check_version(version: str) -> None:
    """Refuse an aiortc whose inside is not known.

    Raises:
        ConfigError: If it is not the version that the tuning was made for.
    """
    if not version.startswith(_TESTED):
        raise ConfigError(
            f"aiortc {version} is installed, WebRTC needs {_TESTED}*: "
            f"pip install 'aiortc=={_TESTED}*'"
        )


def private_name(owner: type, name: str) -> str:
    """Return what Python calls a class's attribute of two underscores."""
    return f"_{owner.__name__}__{name}"


def replace_private(instance: object, owner: type, name: str, value: Any) -> None:
    """Set an attribute that must be there already.

    Raises:
        ConfigError: If it is not: another version than was checked for.
    """
    attribute = private_name(owner, name)
    if not hasattr(instance, attribute):
        raise ConfigError(
            f"this aiortc has no {owner.__name__}.{name}, WebRTC needs {_TESTED}*: "
            f"pip install 'aiortc=={_TESTED}*'"
        )
    setattr(instance, attribute, value)
