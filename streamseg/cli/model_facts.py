"""What ``streamseg models`` tells of a model."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from rich.filesize import decimal

if TYPE_CHECKING:
    from pathlib import Path

    from streamseg.downloads.cache import Cache, CacheEntry
    from streamseg.models.card import Card

__all__ = ["converted_sizes", "model_facts", "model_row", "other_row"]


def model_row(name: str, card: Card, state: str) -> dict[str, Any]:
    """Return a model of the list as ``--json`` tells it."""
    from streamseg.downloads.locations import parse_location
    from streamseg.models.registry import find_model

    file = find_model(name).path if state != "remote" else None
    return {
        "name": name,
        "title": card.title,
        "task": card.task,
        "state": state,
        "size_bytes": file.stat().st_size if file is not None else card.size_bytes,
        "licence": card.licence,
        "source": str(parse_location(card.url)) if card.url else "",
        "path": str(file) if file is not None else None,
    }


def other_row(entry: CacheEntry) -> dict[str, Any]:
    """Return a file of the cache that has no name, as ``--json`` tells it."""
    return {
        "source": entry.source,
        "path": str(entry.path),
        "size_bytes": entry.size_bytes,
        "complete": entry.is_complete,
    }


def converted_sizes(cache: Cache) -> list[tuple[Path, int]]:
    """Return the programs that models of other formats were converted to, and their bytes."""
    found = []
    for path in cache.converted():
        with suppress(OSError):  # removed meanwhile
            found.append((path, path.stat().st_size))
    return found


def model_facts(
    name: str, card: Card, state: str, path: Path | None, size: int | None
) -> list[tuple[str, str]]:
    """Return what ``info`` prints, what is unknown left empty."""
    labels = card.labels or ()
    some = ", ".join(labels[:8]) + (" ..." if len(labels) > 8 else "")
    rule = card.instance
    return [
        ("name", name),
        ("title", card.title),
        ("description", card.description),
        ("task", card.task),
        ("state", state),
        ("file", str(path) if path is not None else ""),
        ("size", decimal(size) if size is not None else "not known before it is fetched"),
        ("labels", f"{len(labels)}: {some}" if labels else "derived from the number of channels"),
        (
            "input",
            "x".join(map(str, reversed(card.input_size)))
            if card.input_size
            else "its size is in the file",
        ),
        ("pixels", f"RGB in 0..1, minus {list(card.mean)}, divided by {list(card.std)}"),
        ("output", card.output or ""),
        (
            "instances",
            f"score >= {rule.confidence:g}, overlap <= {rule.iou:g}, at most {rule.max_instances}"
            if card.task == "instance-segmentation"
            else "",
        ),
        ("licence", card.licence or "not told"),
        ("from", card.source),
        ("address", card.url),
        ("SHA-256", card.sha256),
        ("verified with", card.verified_with),
    ]
