"""Names -> models: what comes with the package, what can be fetched, and a user's own .pte.

``find_model`` takes what is on this machine; ``obtain_model`` fetches what is not.
"""

from __future__ import annotations

import difflib
import os
from contextlib import suppress
from functools import cache as memoized
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from streamseg.downloads.cache import Cache
from streamseg.downloads.digest import file_sha256
from streamseg.downloads.locations import LocalFile, address_text, is_remote, parse_location
from streamseg.errors import DownloadError, ModelError
from streamseg.models.card import Card, Model, load_card

if TYPE_CHECKING:
    from collections.abc import Callable

    from streamseg.downloads.cache import CacheEntry
    from streamseg.downloads.control import DownloadControl

__all__ = [
    "ModelState",
    "bundled_names",
    "card_of",
    "find_model",
    "model_names",
    "model_state",
    "obtain_model",
    "remove_converted",
    "remove_model",
]

ModelState = Literal["embedded", "cached", "remote"]

_BUNDLED = {"selfie": "selfie_general", "selfie-landscape": "selfie_landscape"}
# The flatbuffer's file identifier, after its root offset.
_MAGIC = slice(4, 6), b"ET"


def bundled_names() -> tuple[str, ...]:
    """Return the names of the models that need no download."""
    return tuple(_BUNDLED)


def model_names() -> tuple[str, ...]:
    """Return the names of all models that have a card here, the bundled ones first."""
    names = (path.stem for path in (_package() / "cards").glob("*.toml"))
    return (*_BUNDLED, *sorted(names))


@memoized
def card_of(name: str) -> Card:
    """Return the card of a name of ``model_names``.

    Raises:
        ModelError: If there is no such name; the nearest ones are told.
    """
    if name in _BUNDLED:
        return load_card(_package() / "bundled" / f"{_BUNDLED[name]}.toml")
    names = model_names()
    if name not in names:
        text = name.lower()
        near = [known for known in names if text and text in known]
        near = (near or difflib.get_close_matches(text, names, n=3))[:3]
        hint = f"did you mean {' or '.join(map(repr, near))}? All: " if near else "see: "
        raise ModelError(
            f"unknown model {name!r}: {hint}streamseg models list; a .pte is given by its path or "
            "address"
        )
    return load_card(_package() / "cards" / f"{name}.toml")


def model_state(name: str) -> ModelState:
    """Return where a model of ``model_names`` is: in the package, in the cache, or elsewhere.

    Raises:
        ModelError: If there is no such name.
    """
    card = card_of(name)
    if name in _BUNDLED:
        return "embedded"
    return "cached" if _cached(card.url, card) else "remote"


def find_model(name: str | Path) -> Model:
    """Return a model by name or by path; nothing is fetched.

    Args:
        name: A name of ``model_names``, the path of a .pte, or the address of one that was fetched.
            A card is read from the file of the same name with the suffix ``.toml`` beside a .pte,
            where there is one.

    Raises:
        ModelError: If there is no such model, it is not downloaded, or its card is wrong.
    """
    text = address_text(name)
    if text in _BUNDLED:
        return Model(_package() / "bundled" / f"{_BUNDLED[text]}.pte", card_of(text))
    if _is_address(text):
        location = parse_location(text)
        if isinstance(location, LocalFile):
            return _own_model(location.path)
        entry = _cached(text)
        if entry is None:
            raise ModelError(f"{location}: is not downloaded; run: streamseg models fetch ADDRESS")
        return _own_model(entry.path)
    path = Path(os.path.expanduser(text))
    if path.suffix.lower() == ".pte":
        return _own_model(path)
    card = card_of(text)
    entry = _cached(card.url, card)
    if entry is None:
        raise ModelError(f"{text} is not downloaded; run: streamseg models fetch {text}")
    return Model(entry.path, card)


async def obtain_model(
    name: str | Path,
    *,
    on_progress: Callable[[float], None] | None = None,
    offline: bool | None = None,
    control: DownloadControl | None = None,
    cache: Cache | None = None,
) -> Model:
    """Return a model by name, path or address, fetched where that is needed.

    Args:
        name: What ``find_model`` takes, or the http(s) or hf address of any .pte.
        on_progress: Called with 0 to 1 while it is fetched, with 1 at the end in any case.
        offline: Whether to fail instead of fetching; by default, what the environment says.
        control: To pause or cancel it.
        cache: Where to keep it, the user's cache by default.

    Raises:
        ModelError: If there is no such model, or its card is wrong. DownloadError, one of its
            kinds, if it cannot be fetched.
    """
    import anyio.to_thread

    text = address_text(name)
    card: Card | None = None
    if not _is_address(text) and text not in _BUNDLED and Path(text).suffix.lower() != ".pte":
        card = await anyio.to_thread.run_sync(card_of, text)
        if not card.url:
            raise ModelError(f"{text}: where it can be fetched from is not known; see its card")
    source = card.url if card is not None else text
    if not is_remote(source):
        model = await anyio.to_thread.run_sync(find_model, text)
        if on_progress is not None:
            on_progress(1.0)
        return model

    from streamseg.downloads.fetching import fetch

    cache = cache or Cache()
    location = parse_location(source)
    assert not isinstance(location, LocalFile)
    before = await anyio.to_thread.run_sync(cache.find, location)
    path = await fetch(
        source,
        sha256=card.sha256 if card is not None else "",
        size_bytes=card.size_bytes if card is not None else None,
        on_progress=on_progress,
        cache=cache,
        offline=offline,
        control=control,
    )

    def check() -> Model:
        if not _is_program(path):
            # Only what this call brought: what was here may be somebody else's.
            if cache.find(location) != before:
                with suppress(DownloadError):  # what is wrong with the file is what matters
                    cache.forget(location)
            raise ModelError(
                f"{location}: cannot be used as a model: it is not an ExecuTorch program; check "
                "the address"
            )
        return Model(path, card) if card is not None else _own_model(path)

    return await anyio.to_thread.run_sync(check)


def remove_model(name: str) -> int:
    """Delete a fetched or converted model from the cache, or what is there of it.

    Args:
        name: A name of ``model_names``, the address that it was fetched from, the path of the
            .tflite that it was converted from, which itself stays, or that of its program.

    Returns:
        How many bytes that freed; 0 if it was not there.

    Raises:
        ModelError: If there is no such model, it comes with the package, or is a file of its own.
            DownloadError, one of its kinds, if it is being fetched or converted now.
    """
    if name in _BUNDLED:
        raise ModelError(f"{name} comes with the package and cannot be removed")
    own = Path(name).suffix.lower() in (".pte", ".tflite")
    location = parse_location(name if own or _is_address(name) else card_of(name).url)
    cache = Cache()
    if not isinstance(location, LocalFile):
        return cache.remove(location)
    if location.path in cache.converted():
        return cache.remove_converted(program=location.path)
    if location.path.suffix.lower() != ".tflite":
        raise ModelError(f"{name}: is not in the cache; delete the file itself")
    try:
        sha256 = file_sha256(location.path)
    except OSError as exc:
        raise ModelError(
            f"{name}: cannot be read, which tells its program from others: {exc.strerror}; to "
            "remove all: streamseg models remove --converted"
        ) from exc
    return cache.remove_converted(sha256=sha256)


def remove_converted() -> int:
    """Delete the programs of all models of other formats; each is converted anew when it is used.

    Returns:
        How many bytes that freed; 0 if there were none.

    Raises:
        DownloadError: If one is being converted now, or cannot be deleted.
    """
    return Cache().remove_converted()


def _package() -> Path:
    # The package is never zipped: executorch and torch cannot be, either.
    return Path(str(resources.files("streamseg.models")))


def _is_address(text: str) -> bool:
    return is_remote(text) or text.lower().startswith("file:")


def _cached(url: str, card: Card | None = None) -> CacheEntry | None:
    """Return the cache's file of an address, unless it is another one than the card means."""
    location = parse_location(url) if url else None
    if location is None or isinstance(location, LocalFile):
        return None
    entry = Cache().find(location)
    if entry is None or card is None:
        return entry
    fits = card.sha256 in ("", entry.sha256) and card.size_bytes in (None, entry.size_bytes)
    return entry if fits else None


def _own_model(path: Path) -> Model:
    """Return a .pte with the card beside it, or with an empty one.

    Live streams open their outputs before the model is loaded: what is no model at all must be told
    before.
    """
    if not _is_program(path):
        raise ModelError(
            f"{path}: cannot be used as a model: it is not an ExecuTorch program; "
            "export it again, or check the download"
        )
    card = path.with_suffix(".toml")
    return Model(path, load_card(card) if card.exists() else Card(name=path.stem))


def _is_program(path: Path) -> bool:
    """Tell whether a file is an ExecuTorch program.

    Raises:
        ModelError: If it cannot be read, which says nothing of what is in it.
    """
    try:
        with path.open("rb") as file:
            start = file.read(8)
    except IsADirectoryError as exc:
        raise ModelError(f"{path}: is a directory, expected a .pte file") from exc
    except (FileNotFoundError, ValueError) as exc:  # no file's name has a zero byte
        raise ModelError(f"{path}: no such model file; check the path") from exc
    except OSError as exc:
        raise ModelError(f"{path}: cannot read the model: {exc.strerror}") from exc
    where, magic = _MAGIC
    return start[where] == magic
