"""Where a file is: on a web server, on the Hugging Face Hub, or on this machine."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

from streamseg.errors import DownloadError
from streamseg.redact import redacted_url

__all__ = [
    "HubFile",
    "LocalFile",
    "Location",
    "WebFile",
    "address_text",
    "is_remote",
    "parse_location",
]

_REMOTE = re.compile(r"(https?|hf)://", re.IGNORECASE)
_COLLAPSED = re.compile(r"^(https?|hf):/(?!/)", re.IGNORECASE)
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]+)://", re.IGNORECASE)
_HUB_HOSTS = frozenset({"huggingface.co", "www.huggingface.co", "hf.co"})
# /org/repo/resolve/revision/folder/file; "blob" is the page that shows the same file.
_HUB_PATH = re.compile(r"/([^/]+/[^/]+)/(?:resolve|blob)/([^/]+)/(.+)")
_OTHER_HUB_REPOSITORIES = ("datasets/", "spaces/")
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_UNSAFE = re.compile(r"[^A-Za-z0-9._+-]+")
_LONGEST_NAME = 120


@dataclass(frozen=True, slots=True)
class WebFile:
    """A file of a web server.

    Attributes:
        url: With its credentials, if it has any: never for a message.
    """

    url: str = field(repr=False)

    def __str__(self) -> str:
        return redacted_url(self.url)

    @property
    def name(self) -> str:
        """Its name, fit for any file system."""
        return _safe_name(unquote(urlsplit(self.url).path))

    @property
    def is_protected(self) -> bool:
        """Whether nobody on the way can change it: by TLS, or because there is no way."""
        parts = urlsplit(self.url)
        return parts.scheme == "https" or parts.hostname in ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file of a model repository of the Hugging Face Hub.

    Attributes:
        repository: ``organisation/name``.
        path: Inside the repository.
        revision: A branch, a tag or a commit.
    """

    repository: str
    path: str
    revision: str = "main"

    def __str__(self) -> str:
        revision = "" if self.revision == "main" else f"@{self.revision}"
        return f"hf://{self.repository}{revision}/{self.path}"

    @property
    def name(self) -> str:
        """Its name, fit for any file system."""
        return _safe_name(self.path)


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file of this machine."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)


Location: TypeAlias = WebFile | HubFile | LocalFile


def is_remote(text: str) -> bool:
    """Tell whether a text is an address of another machine: http, https or hf."""
    return _REMOTE.match(text) is not None


def address_text(source: str | os.PathLike[str]) -> str:
    """Return what a user gave as text; an address that was made a ``Path`` is one again.

    ``Path`` turns ``https://host/x`` into ``https:/host/x``, which nothing would take for an
    address any more, nor hide the password of.
    """
    text = os.fspath(source)
    return text if isinstance(source, str) else _COLLAPSED.sub(r"\1://", text)


def parse_location(text: str) -> Location:
    """Read an address.

    Args:
        text: ``http(s)://...``, ``hf://org/repo[@revision]/path``, ``file://...`` or a path. The
            ``resolve`` addresses of huggingface.co, and of the mirror that ``HF_ENDPOINT`` names,
            are files of the Hub.

    Raises:
        DownloadError: If it is none of these.
    """
    scheme = _SCHEME.match(text)
    if scheme is None:
        # Unlike Path.expanduser this leaves the ~ of an unknown user alone.
        return LocalFile(Path(os.path.expanduser(text)))
    shown = redacted_url(text)
    try:
        parts = urlsplit(text)
        host = parts.hostname
        _ = parts.port  # is a number, or raises
    except ValueError as exc:
        raise DownloadError(f"{shown}: not a valid address; check it") from exc
    match scheme[1].lower():
        case "hf":
            return _hub_file(text, shown)
        case "file":
            if host not in (None, "localhost"):
                raise DownloadError(f"{shown}: files of other machines need http or https")
            return LocalFile(Path(url2pathname(parts.path)))
        case "http" | "https":
            if not host or any(letter.isspace() or not letter.isprintable() for letter in text):
                raise DownloadError(f"{shown}: not a valid address; check it")
            return _hub_file_of_url(text) or WebFile(text)
    raise DownloadError(f"{shown}: cannot be fetched; use http, https, hf, file, or a path")


def _hub_file(text: str, shown: str) -> HubFile:
    pieces = text.partition("://")[2].split("/")
    name, _, revision = (pieces[1] if len(pieces) > 1 else "").partition("@")
    # A slash inside a revision is written as %2F.
    file = HubFile(f"{pieces[0]}/{name}", "/".join(pieces[2:]), unquote(revision) or "main")
    if not _is_one(file):
        raise DownloadError(f"{shown}: not a file of the Hub; write hf://org/repo[@revision]/path")
    return file


def _hub_file_of_url(url: str) -> HubFile | None:
    parts = urlsplit(url)
    mirror = urlsplit(os.environ.get("HF_ENDPOINT", ""))
    path = parts.path
    if parts.netloc == mirror.netloc and parts.scheme == mirror.scheme and mirror.netloc:
        path = path.removeprefix(mirror.path.rstrip("/"))
    elif parts.scheme != "https" or parts.netloc not in _HUB_HOSTS:
        return None
    match = _HUB_PATH.fullmatch(path)
    if match is None or path.lstrip("/").startswith(_OTHER_HUB_REPOSITORIES):
        return None
    file = HubFile(match[1], unquote(match[3]), unquote(match[2]))
    return file if _is_one(file) else None


def _is_one(file: HubFile) -> bool:
    # The Hub's library makes paths of its cache of all three.
    return (
        _REPOSITORY.fullmatch(file.repository) is not None
        and _is_inside(file.path)
        and _is_inside(file.revision)
    )


def _is_inside(path: str) -> bool:
    return path.isprintable() and all(piece not in ("", ".", "..") for piece in path.split("/"))


def _safe_name(path: str) -> str:
    name = _UNSAFE.sub("_", path.rpartition("/")[2]).lstrip(".")
    stem, dot, suffix = name.rpartition(".")
    if len(name) > _LONGEST_NAME:
        name = (
            f"{(stem or suffix)[: _LONGEST_NAME - 12]}{dot}{suffix[:10]}"
            if dot
            else name[:_LONGEST_NAME]
        )
    return name or "file"
