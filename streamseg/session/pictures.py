"""Which pictures a command is about, and where the result of each goes."""

from __future__ import annotations

import glob
import os
import re
from collections import Counter
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from streamseg.errors import ConfigError, SinkOpenError, SourceOpenError
from streamseg.picture_files import picture_suffixes
from streamseg.redact import redacted_url
from streamseg.sinks.target import printable, reason

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["Item", "Plan", "find_pictures", "plan_results"]

_MAX_PICTURES = 1_000_000
_MASKS = "_mask.png"  # what the results are called unless something else is asked for
_SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*)://")
_MAX_NAME = 150  # bytes of an address that become a file's name; it may have 255 with its ending


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture on the disk, or on a server.

    Attributes:
        source: Its path as it was given or found, or its http(s) address.
        below: Its path below the folder that was given; its name alone where it was given itself.
        given: Whether it was given itself.
    """

    source: Path | str
    below: Path
    given: bool = True


@dataclass(frozen=True, slots=True)
class Item:
    """One picture and its result.

    Attributes:
        source: The picture's path, or its address.
        target: Where its result goes; None where all results go to one file, or to none.
    """

    source: Path | str
    target: Path | None

    @property
    def name(self) -> str:
        """The picture's path, or its address without credentials."""
        return redacted_url(self.source) if isinstance(self.source, str) else str(self.source)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done.

    Attributes:
        items: In their order.
        missing: What was asked for and is not there, with the reason, a line each.
        folders: Folders of results that have to be made.
        single: The one file that all results go to; None for a file for each, or none.
        left_out: The names of pictures that were left out because they are results of the others.
        protected: Those of them that were given themselves, which no result replaces.
    """

    items: tuple[Item, ...]
    missing: tuple[str, ...] = ()
    folders: tuple[Path, ...] = ()
    single: Path | None = None
    left_out: tuple[str, ...] = ()
    protected: tuple[Path, ...] = ()


def find_pictures(names: Sequence[str]) -> tuple[list[Picture], list[str]]:
    """Return the pictures that names mean: files, folders with all below them, patterns, addresses.

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
        scheme = _SCHEME.match(name)
        if scheme is not None:
            if scheme[1].lower() in ("http", "https"):
                found.setdefault(name, Picture(name, Path(_name_in(name))))
            else:
                shown = redacted_url(name)
                missing.append(f"{shown}: is no path and no http or https address; give one")
            continue
        any_found = False
        path = Path(os.path.expanduser(name))
        errors: list[OSError] = []
        for picture in _of(path, errors):
            any_found = True
            identity = os.path.realpath(picture.source)
            if picture.given or identity not in found:
                known = found.get(identity)
                # Given itself after its folder, it keeps its place in that.
                below = picture.below if known is None else known.below
                found[identity] = Picture(picture.source, below, picture.given)
            if len(found) > _MAX_PICTURES:
                raise ConfigError(f"{name}: over {_MAX_PICTURES} pictures; give a part of them")
        if not any_found:
            if errors:
                why = f"{reason(errors[0])}; check the name, and who may read it"
            else:
                why = "no pictures in it" if path.is_dir() else "no such picture"
            missing.append(f"{printable(name)}: {why}")
    return list(found.values()), missing


def _of(path: Path, errors: list[OSError]) -> Iterable[Picture]:
    """Yield the pictures of a path; what keeps it from being looked at is added to the errors."""
    try:
        is_folder, is_there = path.is_dir(), path.exists()
    except OSError as exc:  # a name that is too long, or in a folder that may not be entered
        errors.append(exc)
        is_folder = is_there = False  # a pattern may be long
    if is_folder:

        def note(exc: OSError) -> None:
            if exc.filename == str(path):  # those below are as if they were empty
                errors.append(exc)

        for folder, folders, files in os.walk(path, onerror=note):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(files):
                if not name.startswith(".") and Path(name).suffix.lower() in picture_suffixes():
                    inside = Path(folder, name)
                    yield Picture(inside, inside.relative_to(path), given=False)
    elif is_there:
        yield Picture(path, Path(path.name))
    elif glob.has_magic(str(path)):
        for name in sorted(glob.glob(str(path), recursive=True)):
            if os.path.isfile(name):
                yield Picture(Path(name), Path(os.path.basename(name)), given=False)


def _name_in(url: str) -> str:
    """Return the file's name that an address ends with, harmless, or ``picture``."""
    try:
        last = urlsplit(url).path.rpartition("/")[2]
    except ValueError:  # brackets without an address; reading it will say so
        last = ""
    letters = (c if c.isprintable() and c not in "/\\" else "_" for c in unquote(last))
    end = "".join(letters).encode()[-_MAX_NAME:].decode(errors="ignore")
    return end.lstrip(".") or "picture"


def plan_results(
    names: Sequence[str],
    output: str | None,
    ending: str,
    *,
    suffixes: Sequence[str] = (),
    single: str | None = None,
) -> Plan:
    """Return which pictures there are and where their results go.

    Without ``output`` a result lies beside its picture, and that of an address in the working
    directory. With it, it is a file if there is one picture and ``output`` has a suffix, else a
    folder, in which folders keep their inner structure. Pictures that differ in their suffix only
    have it in their results' names: ``a_png_mask.png``. What a folder or a pattern leads to is left
    out where it is such a result itself; what was given itself, where it is that of another picture
    that was given itself: a shell gives all that a pattern leads to.

    Args:
        names: See ``find_pictures``.
        output: What the user said.
        ending: What a result's name ends with, after its picture's: ``_mask.png``. Empty where
            there are no results.
        suffixes: What ``output`` may end with where it is a file.
        single: The name of the one file for all pictures, ``annotations.json``, if nothing else is
            said; None for a file for each.

    Raises:
        SourceOpenError: If there is no picture at all.
        SinkOpenError: If ``output`` is a file of another kind, or cannot be looked at.
        ConfigError: If the results of two pictures would have the same name.
    """
    found, missing = find_pictures(names)
    if not found:
        raise SourceOpenError("; ".join(missing) or "no pictures were given")
    place = None if output is None else Path(os.path.expanduser(output))
    pictures, results = _without_results(found, place, ending) if ending else (found, [])
    left_out = tuple(str(picture.source) for picture in results)
    protected = tuple(Path(picture.source) for picture in results if picture.given)
    made = partial(Plan, missing=tuple(missing), left_out=left_out, protected=protected)
    if not ending or single is not None:
        target = _single(place, single, suffixes) if single is not None else None
        items = (Item(picture.source, None) for picture in pictures)
        return made(tuple(items), single=target)
    one = len(pictures) == 1 and not missing and len(names) == 1
    one = one and not os.path.isdir(os.path.expanduser(names[0]))
    if output is not None and place is not None and one and _is_file(output, place):
        _check_suffix(place, suffixes)
        return made((Item(pictures[0].source, place),))
    planned: dict[Path, Item] = {}
    stems = Counter(_result(picture, place, picture.below.stem) for picture in pictures)
    for picture in pictures:
        plain, full = _stems(picture)
        # IMG_1.jpg beside IMG_1.png is usual: both names then say which.
        stem = full if stems[_result(picture, place, plain)] > 1 else plain
        target = _result(picture, place, f"{stem}{ending}")
        item = Item(picture.source, target)
        other = planned.setdefault(target, item)
        if other is not item:
            raise ConfigError(
                f"{other.name} and {item.name} would both become {target}: "
                "give them apart, or rename one"
            )
    folders = () if place is None else tuple(dict.fromkeys(target.parent for target in planned))
    return made(tuple(planned.values()), folders=folders)


def _single(place: Path | None, name: str, suffixes: Sequence[str]) -> Path:
    if place is None:
        return Path(name)
    if _is_folder(place):
        return place / name
    _check_suffix(place, suffixes)
    return place


def _is_file(output: str, place: Path) -> bool:
    return not _is_folder(place) and bool(place.suffix) and not output.endswith(os.sep)


def _is_folder(place: Path) -> bool:
    try:
        return place.is_dir()
    except OSError as exc:
        raise SinkOpenError(
            f"cannot write {printable(place)}: {reason(exc)}; choose another place"
        ) from exc


def _check_suffix(path: Path, suffixes: Sequence[str]) -> None:
    if suffixes and path.suffix.lower() not in suffixes:
        raise SinkOpenError(
            f"cannot write {printable(path)}: expected a name that ends with "
            f"{', '.join(suffixes)}, or a folder"
        )


def _stems(picture: Picture) -> tuple[str, str]:
    """Return what a result's name can begin with: the usual, and what says the suffix too."""
    stem, suffix = picture.below.stem, picture.below.suffix.removeprefix(".")
    return stem, f"{stem}_{suffix}"


def _result(picture: Picture, place: Path | None, name: str) -> Path:
    """Return where a result of this name belongs: beside its picture, or in the place for all."""
    if place is not None:
        return place / picture.below.with_name(name)
    return Path(name) if isinstance(picture.source, str) else picture.source.with_name(name)


def _without_results(
    found: list[Picture], place: Path | None, ending: str
) -> tuple[list[Picture], list[Picture]]:
    """Return the pictures, and those of them that are the mask, or the like, of another one.

    What was given itself may be the result of what was not: it is a picture then.
    """
    folder = cache(os.path.realpath)

    def identity(path: Path) -> str:
        return os.path.join(folder(path.parent), path.name)

    results: dict[str, bool] = {}  # -> whether its picture was given itself
    for picture in found:
        for where in {None, place}:
            for stem in _stems(picture):
                for end in {ending, _MASKS}:
                    result = identity(_result(picture, where, f"{stem}{end}"))
                    results[result] = results.get(result, False) or picture.given
    kept: list[Picture] = []
    left_out: list[Picture] = []
    for picture in found:
        of_given = isinstance(picture.source, Path) and results.get(identity(picture.source))
        is_result = of_given if picture.given else of_given is not None
        (left_out if is_result else kept).append(picture)
    return kept, left_out
