"""Going on with a file of the Hugging Face Hub in another call than the one that was cut.

The Hub's library downloads into a temporary file with a random name and deletes it when it is
stopped (since its version 1.18: file systems with broken locks had two processes write to the same
one). Here the bytes go into the partial file of our own cache, whose lock the parent holds, and take
the place of the library's temporary file when they are whole. Where a library calls this in another
way than is known here, it downloads as if this was not there.
"""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from streamseg.downloads.cache import read_json, write_json
from streamseg.downloads.digest import file_sha256

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["HubPart", "ResumingGet"]

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class HubPart:
    """What has arrived of a file of the Hub.

    Attributes:
        path: The bytes.
        state: What they are of, as ``part.py`` writes it.
        source: The file's address.
    """

    path: Path
    state: Path
    source: str

    def open(self, sha256: str, size_bytes: int) -> BinaryIO:
        """Open it behind its last byte; bytes of another file are dropped.

        Args:
            sha256: Of the whole file.
            size_bytes: Of the whole file.

        Raises:
            OSError: If it cannot be written.
        """
        same = read_json(self.state).get("validator") == sha256
        self.path.parent.mkdir(parents=True, exist_ok=True)
        file = self.path.open("ab")
        try:
            if not same or file.tell() > size_bytes:
                file.truncate(0)
            write_json(
                self.state, {"source": self.source, "validator": sha256, "total": size_bytes}
            )
            file.seek(0, os.SEEK_END)
        except BaseException:
            file.close()
            raise
        return file

    def discard(self) -> None:
        """Delete it."""
        self.path.unlink(missing_ok=True)
        self.state.unlink(missing_ok=True)

    def discard_if_empty(self) -> None:
        """Delete it if nothing has arrived."""
        if self.path.exists() and not self.path.stat().st_size:
            self.discard()


class ResumingGet:
    """Stands in for the library's ``http_get``, which can go on but is never asked to.

    Args:
        get: The library's own.
        part: Where the bytes go.
    """

    def __init__(self, get: Callable[..., None], part: HubPart) -> None:
        self._get, self._part = get, part
        self._file: BinaryIO | None = None

    def __call__(self, url: str, temp_file: BinaryIO, **options: Any) -> None:
        """Fetch a file; the options are those of ``http_get``."""
        # The library lays large files under their SHA-256. Of others nothing says whether what is
        # here belongs to them; they are small.
        sha256 = Path(temp_file.name).name.partition(".")[0]
        size_bytes = options.get("expected_size")
        # After a cut the library calls itself, through this, with the file that it was given.
        again = temp_file is self._file
        if again or not isinstance(size_bytes, int) or not _SHA256.fullmatch(sha256):
            self._get(url, temp_file, **options)
            return
        try:
            self._fill(url, sha256, size_bytes, options)
        except BaseException:
            self._part.discard_if_empty()
            raise
        self._hand_over(temp_file)

    def _fill(self, url: str, sha256: str, size_bytes: int, options: dict[str, Any]) -> None:
        with self._part.open(sha256, size_bytes) as self._file:
            begin = self._file.tell()
            self._get(url, self._file, **{**options, "resume_size": begin})
            self._file.flush()
            # The two halves may not fit: what lies here is older than the process.
            if begin and file_sha256(self._part.path) != sha256:
                self._file.truncate(0)
                self._file.seek(0)
                self._get(url, self._file, **{**options, "resume_size": 0})

    def _hand_over(self, temp_file: BinaryIO) -> None:
        """Put the whole file where the library expects it."""
        try:
            os.replace(self._part.path, temp_file.name)
        except OSError:  # another file system, or one where an open file has to stay
            with self._part.path.open("rb") as whole:
                shutil.copyfileobj(whole, temp_file)
        self._part.discard()
