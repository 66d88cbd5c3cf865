"""What takes long to make, made once for all tests, and kept as long as what makes it is the same.

Test processes that want the same thing at the same time wait for the first of them: two exports at
once take twice as long each.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
from filelock import FileLock

if TYPE_CHECKING:
    from streamseg.models.card import Model

__all__ = ["converted_once", "digest_of", "made_once", "tflite_cache"]

_ROOT = Path(__file__).parents[2]
_KEPT = _ROOT / ".cache" / "test-models"


def digest_of(sources: Iterable[Path], *others: str) -> str:
    """Return some letters that are others when a source is."""
    digest = hashlib.sha256("\n".join(others).encode())
    for path in sources:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def made_once(name: str, make: Callable[[Path], object]) -> Path:
    """Return the folder of this name, which ``make`` has filled, now or before.

    Args:
        name: What it is and what it depends on, such as ``mobilenet-8c1f...``; see ``digest_of``.
        make: Is given an empty folder. After an error there is none.
    """
    folder = _KEPT / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f"{folder.name}.lock")):
        if not folder.exists():
            with tempfile.TemporaryDirectory(dir=folder.parent) as made:
                make(Path(made))
                shutil.copytree(made, f"{folder}.new", dirs_exist_ok=True)
            Path(f"{folder}.new").rename(folder)
    return folder


def tflite_cache() -> Path:
    """Return the folder, for ``STREAMSEG_CACHE``, in which .tflite files are converted once."""
    room = _ROOT / "streamseg" / "convert"
    sources = [*room.glob("_*.py"), room / "export.py", room / "pictures.py", room / "tflite.py"]
    return _KEPT / f"tflite-{digest_of(sorted(sources))}"


def converted_once(tflite: Path) -> Model:
    """Return the program of a .tflite file and the card that was made of it."""
    from streamseg.convert._tflite_store import converted
    from streamseg.downloads.cache import Cache

    async def convert() -> Model:
        return await converted(tflite, cache=Cache(tflite_cache()))

    # In a thread: a fixture of a test with an event loop may be what asks.
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(anyio.run, convert).result()
