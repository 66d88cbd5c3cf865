"""Pictures as all commands for still pictures read them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from streamseg.picture_files import MAX_PIXELS, decode
from streamseg.tasks.reading import read_source
from streamseg.tasks.threads import in_thread

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

__all__ = ["read_pixels"]

_FETCH_S = 30.0  # that the address of a picture may take


async def read_pixels(source: Path | str, *, alpha: bool = False) -> NDArray[np.uint8]:
    """Return a picture as every task takes it.

    Args:
        source: Its path, or its address, which may take 30 seconds.
        alpha: Whether transparency is kept, where there is any.

    Returns:
        (H, W, 3) uint8 RGB, or (H, W, 4) RGBA with ``alpha``.

    Raises:
        FileReadFailedError: If it cannot be fetched, read or decoded.
        InvalidUserInputError: If it has too many pixels.
    """
    data, name = await read_source(source, timeout_s=_FETCH_S)
    return await in_thread(lambda check: decode(data, name, MAX_PIXELS, alpha=alpha))
