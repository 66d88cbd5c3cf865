"""Which pictures a command is about, and where the result of each goes."""

from __future__ import annotations

import glob
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from streamseg.errors import ConfigError, SourceOpenError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["Item", "Plan", "find_pictures", "plan_results"]

_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm"})
_MAX_PICTURES = 1_000_000


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture on the disk.

    Attributes:
        path: As it was given or found.
        below: Its path below the folder that was given; its name alone where it was given itself.
    """

    path: Path
    below: Path


@dataclass(frozen=True, slots=True)
class Item:
    """One picture and its result.

    Attributes:
        source: The picture.
        target: Where its result goes; None where all results go to one file.
    """

    source: Path
    target: Path | None


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done.

    Attributes:
        items: In their order.
        missing: What was asked for and is not there, with the reason, a line each.
        folders: Folders of results that have to be made.
    """

    items: tuple[Item, ...]
    missing: tuple[str, ...]
    folders: tuple[Path, ...]


def find_pictures(names: Sequence[str]) -> tuple[list[Picture], list[str]]:
    """Return the pictures that names mean: files, folders with all below them, or patterns.

    A name that exists is that file, also with a ``*`` in it. Each picture comes once.

    Args:
        names: As a user types them.

    Returns:
        The pictures, and a line for each name that leads to none.

    Raises:
        ConfigError: If there are over a million.
    """
    found: dict[str, Picture] = {}
    missing = []
    for name in names:
        count = len(found)
        path = Path(os.path.expanduser(name))
        for picture in _of(path):
            found.setdefault(os.path.realpath(picture.path), picture)
            if len(found) > _MAX_PICTURES:
                raise ConfigError(f"{name}: over {_MAX_PICTURES} pictures; give a part of them")
        if len(found) == count and not path.is_file() and not _is_known(path, found):
            missing.append(
                f"{name}: no pictures in it" if path.is_dir() else f"{name}: no such picture"
            )
    return list(found.values()), missing


def _is_known(path: Path, found: dict[str, Picture]) -> bool:
    return any(os.path.realpath(picture.path) in found for picture in _of(path))


def _of(path: Path) -> Iterable[Picture]:
    if path.is_dir():
        for folder, folders, files in os.walk(path):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(files):
                if not name.startswith(".") and Path(name).suffix.lower() in _SUFFIXES:
                    inside = Path(folder, name)
                    yield Picture(inside, inside.relative_to(path))
    elif path.exists():
        yield Picture(path, Path(path.name))
    elif glob.has_magic(str(path)):
        for name in sorted(glob.glob(str(path), recursive=True)):
            if os.path.isfile(name):
                yield Picture(Path(name), Path(os.path.basename(name)))


def plan_results(
    names: Sequence[str], output: str | None, ending: str, *, single: str | None = None
) -> Plan:
    """Return which pictures there are and where their results go.

    Without ``output`` a result lies beside its picture. With it, it is a file if there is one
    picture and ``output`` has a suffix, else a folder, in which folders keep their inner structure.
    Pictures that differ in their suffix only have it in their results' names: ``a_png_mask.png``.

    Args:
        names: See ``find_pictures``.
        output: What the user said.
        ending: What a result's name ends with, after its picture's: ``_mask.png``.
        single: The name of the one file for all pictures, ``annotations.json``; None for a file
            for each.

    Raises:
        SourceOpenError: If there is no picture at all.
        ConfigError: If the results of two pictures would have the same name.
    """
    pictures, missing = find_pictures(names)
    if not pictures:
        raise SourceOpenError("; ".join(missing) or "no pictures were given")
    if single is not None:
        return Plan(tuple(Item(picture.path, None) for picture in pictures), tuple(missing), ())
    place = None if output is None else Path(os.path.expanduser(output))
    one = len(pictures) == 1 and not missing and len(names) == 1 and not Path(names[0]).is_dir()
    if place is not None and one and place.suffix and not place.is_dir():
        return Plan((Item(pictures[0].path, place),), (), ())
    items: dict[Path, Item] = {}
    stems = Counter(_result_name(picture, place, picture.below.stem) for picture in pictures)
    for picture in pictures:
        stem = picture.below.stem
        if stems[_result_name(picture, place, stem)] > 1:
            # IMG_1.jpg beside IMG_1.png is usual: both names then say which.
            stem += f"_{picture.below.suffix.removeprefix('.')}"
        target = _result_name(picture, place, f"{stem}{ending}")
        other = items.setdefault(target, Item(picture.path, target))
        if other.source != picture.path:
            raise ConfigError(
                f"{other.source} and {picture.path} would both become {target}: "
                "give them apart, or rename one"
            )
    folders = () if place is None else tuple(dict.fromkeys(target.parent for target in items))
    return Plan(tuple(items.values()), tuple(missing), folders)


def _result_name(picture: Picture, place: Path | None, name: str) -> Path:
    """Return where a result of this name belongs: beside its picture, or in the place for all."""
    return picture.path.with_name(name) if place is None else place / picture.below.with_name(name)
