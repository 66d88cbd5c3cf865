"""Access to what aiortc and aioice keep to themselves, with a check that it is there."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from streamseg.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["check_parts", "check_version", "private_name", "replace_private"]

_TESTED = {"aiortc": "1.16.", "aioice": "0.13."}


def check_version(version: str, package: str = "aiortc") -> None:
    """Refuse an aiortc or aioice whose inside is not known.

    Raises:
        ConfigError: If it is not the version that the tuning was made for.
    """
    tested = _TESTED[package]
    if not version.startswith(tested):
        raise ConfigError(
            f"{package} {version} is installed, WebRTC needs {tested}*: "
            f"pip install '{package}=={tested}*'"
        )


def check_parts(owner: type, names: Iterable[str]) -> None:
    """Refuse a class that lacks a method or an attribute.

    What it overrides or replaces would otherwise just not be called, and a bound not be kept.

    Args:
        owner: A class of aiortc or aioice.
        names: Methods, and attributes that it declares or its ``__init__`` sets; those of two underscores as in
            the class.

    Raises:
        ConfigError: If one is not there.
    """
    # Where there is no instance: the attributes that are declared, and those that the code of `__init__` names.
    made: set[str] = set()
    for each in owner.__mro__:
        code = getattr(each.__dict__.get("__init__"), "__code__", None)
        made.update(() if code is None else code.co_names)
        made.update(inspect.get_annotations(each))
    for name in names:
        inside = private_name(owner, name[2:]) if name.startswith("__") else name
        if not hasattr(owner, inside) and inside not in made:
            package = owner.__module__.partition(".")[0]
            raise ConfigError(_lacks(package, f"{owner.__name__}.{name}"))


def _lacks(package: str, what: str) -> str:
    tested = _TESTED.get(package, "")
    return (
        f"this {package} has no {what}, WebRTC needs {tested}*: pip install '{package}=={tested}*'"
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
        raise ConfigError(_lacks("aiortc", f"{owner.__name__}.{name}"))
    setattr(instance, attribute, value)
