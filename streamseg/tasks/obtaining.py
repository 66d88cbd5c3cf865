"""Models however they are named: by name, path or address, also those of TensorFlow Lite."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from streamseg.downloads.locations import LocalFile, address_text, parse_location
from streamseg.models.registry import obtain_model

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from streamseg.models.card import Model

__all__ = ["is_tflite", "obtain"]

_SUFFIX = ".tflite"


async def obtain(name: str | Path, on_progress: Callable[[float], None] | None = None) -> Model:
    """Return a model, fetched or converted where that is needed.

    A .tflite is converted when it is first used, which takes seconds, and kept in the cache.

    Args:
        name: As a user gives it: a name of ``streamseg models list``, the path or address of a
            .pte, or the path of a .tflite.
        on_progress: Called on the event loop with the share of the download that is done, 0 to 1;
            with 1 at the end in any case.

    Raises:
        ModelError: If there is no such model, or it cannot be fetched or converted.
    """
    if not is_tflite(name):
        return await obtain_model(name, on_progress=on_progress)
    # Converted in a process of its own: PyTorch is not imported here.
    from streamseg.convert._tflite_store import converted

    model = await converted(name)
    if on_progress is not None:
        on_progress(1.0)
    return model


def is_tflite(name: str | Path) -> bool:
    """Tell whether a model is one of TensorFlow Lite, by its name.

    Raises:
        ModelError: If the name is an address that is none.
    """
    text = address_text(name)
    if _SUFFIX not in text.lower():
        return False
    location = parse_location(text)
    path = location.path if isinstance(location, LocalFile) else PurePosixPath(location.name)
    return path.suffix.lower() == _SUFFIX
