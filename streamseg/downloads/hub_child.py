"""The process that fetches one file of the Hugging Face Hub; its parent is ``hub.py``.

It reads one JSON object from standard input: the arguments of ``hf_hub_download``, and
``max_bytes``, ``size_bytes``, ``part``, ``part_state``, ``source``. It writes JSON objects to standard output, a line each:
``{"received": int, "total": int | null}`` from time to time, and at the end ``{"path": str}`` or
``{"problem": str, "detail": str}``.

It is a process because the library blocks, also in connecting: this one can be stopped at any time.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any, NoReturn, Self

from streamseg.downloads.hub_resume import HubPart, ResumingGet
from streamseg.parent_death import die_with_parent

__all__ = ["main"]

_INTERVAL_S = 0.1
_CHUNK_BYTES = 1 << 18


class _TooLargeError(Exception):
    """The file is larger than allowed, or than expected."""


def _tell(**message: Any) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def _stop(*_: object) -> NoReturn:
    # Ends the library as Ctrl-C does: it deletes its temporary file.
    raise KeyboardInterrupt


class _Progress:
    """Stands in for the library's progress bar.

    Attributes:
        n: Bytes that are here.
        total: Bytes that it will be.
    """

    most: int | None = None
    expected: int | None = None

    def __init__(self, *_: Any, total: int | None = None, initial: int = 0, **__: Any) -> None:
        self.n, self.total = initial, total
        self._told_s = 0.0
        if total is not None and self.expected not in (None, total):
            raise _TooLargeError(f"has {total} bytes on the Hub, expected {self.expected}")
        if total is not None and self.most is not None and total > self.most:
            raise _TooLargeError(f"is larger than {self.most} bytes, which is the most fetched")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def update(self, count: float | None = 1) -> None:
        self.n += int(count or 0)
        if self.most is not None and self.n > self.most:
            raise _TooLargeError(f"is larger than {self.most} bytes, which is the most fetched")
        now = time.monotonic()
        if now - self._told_s >= _INTERVAL_S:
            self._told_s = now
            _tell(received=self.n, total=self.total)

    # The rest of what the library calls. Xet reports received bytes apart from written ones.
    def update_transfer(self, count: float | None = 1) -> None: ...

    def set_postfix_str(self, *_: Any, **__: Any) -> None: ...

    def set_transfer_postfix_str(self, *_: Any, **__: Any) -> None: ...

    def refresh(self, *_: Any, **__: Any) -> None: ...

    def close(self) -> None: ...


def main() -> None:
    """Fetch what standard input asks for."""
    die_with_parent()
    signal.signal(signal.SIGTERM, _stop)
    request = json.loads(sys.stdin.readline())
    _Progress.most = request.pop("max_bytes")
    _Progress.expected = request.pop("size_bytes")
    part = HubPart(
        Path(request.pop("part")), Path(request.pop("part_state")), request.pop("source")
    )
    # The Hub's other protocol cannot go on with a partial file; everything is there over HTTP too.
    os.environ["HF_HUB_DISABLE_XET"] = "1"
    if request["local_files_only"]:
        # Or it asks the Hub about other matters.
        os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        from huggingface_hub import constants, file_download, hf_hub_download

        # It reads 10 MB at a time: too much for a bar, and to lose when a connection is cut.
        constants.DOWNLOAD_CHUNK_SIZE = _CHUNK_BYTES
        file_download.http_get = ResumingGet(file_download.http_get, part)
        _tell(path=hf_hub_download(**request, library_name="streamseg", tqdm_class=_Progress))
    except KeyboardInterrupt:
        _tell(problem="stopped", detail="")
    except Exception as exc:
        problem, detail = _explain(exc)
        if problem == "size":
            part.discard()  # of another file than the one that is wanted
        _tell(problem=problem, detail=detail)


def _explain(exc: Exception) -> tuple[str, str]:
    """Return which of the parent's messages fits an exception, and what it says."""
    from huggingface_hub import errors

    cause: BaseException = exc
    if isinstance(exc, errors.LocalEntryNotFoundError) and exc.__cause__ is not None:
        cause = exc.__cause__  # the library asks its cache when the Hub does not answer
    detail = f"{type(cause).__name__}: {' '.join(str(cause).split())[:200]}"
    match exc:
        case _TooLargeError():
            return "size", str(exc)
        case errors.GatedRepoError():
            return "gated", detail
        case errors.RevisionNotFoundError():
            return "revision", detail
        case errors.RepositoryNotFoundError():
            return "repository", detail
        case errors.RemoteEntryNotFoundError():
            return "file", detail
        case errors.LocalEntryNotFoundError() if cause is exc:
            return "offline", detail
        case errors.HFValidationError():
            return "address", detail
    match cause:
        case errors.HfHubHTTPError():
            return f"http {cause.response.status_code}", detail
        case errors.FileMetadataError():
            return "mirror", detail
        case OSError(errno=int()):
            return "disk", f"{cause.filename or 'its cache'}: {cause.strerror}"
    return "other", detail


if __name__ == "__main__":
    main()
