"""Files of the Hugging Face Hub, by its own library, in a process that can be stopped.

So the library's cache, token, mirror (``HF_ENDPOINT``) and time limits are as everywhere else. It
goes on after a cut by itself, within one call; ``hub_resume.py`` does so in the next call too.
"""

from __future__ import annotations

import json
import logging
import signal
import sys
from pathlib import Path
from subprocess import DEVNULL, PIPE
from typing import TYPE_CHECKING, Any

import anyio
from anyio.streams.buffered import BufferedByteReceiveStream

from streamseg.errors import DownloadError, DownloadInterruptedError, OfflineError
from streamseg.redact import redact

if TYPE_CHECKING:
    from anyio.abc import Process

    from streamseg.downloads.cache import Place
    from streamseg.downloads.control import DownloadControl
    from streamseg.downloads.locations import HubFile

__all__ = ["download_from_hub"]

_LOGGER = logging.getLogger(__name__)
_MAX_LINE_BYTES = 1 << 16
_STOP_S = 1.0

_ADVICE = {
    "gated": "its owner gives access on request; ask for it on its page, then log in: hf auth login",
    "revision": "the Hub has no such revision; check what follows the @",
    "repository": "the Hub has no such repository, or only for others; check the name, or log in: "
    "hf auth login",
    "file": "the Hub has no such file in this repository; check the path",
    "mirror": "what HF_ENDPOINT names does not answer as the Hub does; check it, or the proxy",
    "http 404": "the Hub has no such file; check the repository, the revision and the path",
    "address": "not a valid name of the Hub; write hf://org/repo[@revision]/path",
}


async def download_from_hub(
    file: HubFile,
    place: Place,
    *,
    offline: bool,
    size_bytes: int | None,
    max_bytes: int,
    control: DownloadControl,
) -> Path:
    """Return a file of the Hub, out of the Hub's cache, or fetched into it.

    Args:
        file: Which.
        place: Where to keep what arrived of it, until it is whole.
        offline: Take it out of the cache or fail.
        size_bytes: Its size, None if it is not known.
        max_bytes: The largest file.
        control: Is told of the progress, and can pause it.

    Raises:
        OfflineError: If it is not in the cache and must not be fetched.
        DownloadError: If the Hub refuses, or has another file than expected.
        DownloadInterruptedError: If the connection failed.
    """
    request = {
        "repo_id": file.repository,
        "filename": file.path,
        "revision": file.revision,
        "local_files_only": offline,
        "size_bytes": size_bytes,
        "max_bytes": max_bytes,
        "part": str(place.part),
        "part_state": str(place.part_state),
        "source": str(file),
    }
    process = await anyio.open_process(
        [sys.executable, "-P", "-m", "streamseg.downloads.hub_child"],
        stdin=PIPE,
        stdout=PIPE,
        stderr=DEVNULL,
        start_new_session=sys.platform != "win32",  # Ctrl-C is for the parent, which stops this
    )
    answer: dict[str, Any] = {}
    try:
        with control.listening(lambda paused: _hold(process, paused)):
            answer = await _converse(process, json.dumps(request), control)
    finally:
        with anyio.CancelScope(shield=True):
            await _end(process)
    match answer:
        case {"path": str(path)}:
            return Path(path)
        case {"problem": str(problem), "detail": str(detail)}:
            detail = redact(detail)
            _LOGGER.debug("%s: %s: %s", file, problem, detail)
            raise _error(file, problem, detail)
    raise DownloadInterruptedError(
        f"{file}: the process that fetches it ended with code {process.returncode}; "
        "check that huggingface_hub is installed, or try again"
    )


async def _converse(process: Process, request: str, control: DownloadControl) -> dict[str, Any]:
    """Give a process its request and return its last message."""
    assert process.stdin is not None
    assert process.stdout is not None
    lines = BufferedByteReceiveStream(process.stdout)
    try:
        await process.stdin.send(f"{request}\n".encode())
        while True:
            message = json.loads(await lines.receive_until(b"\n", _MAX_LINE_BYTES))
            if "received" not in message:
                return dict(message)
            control.report(message["received"], message["total"])
    except (anyio.IncompleteRead, anyio.EndOfStream, anyio.BrokenResourceError, ValueError):
        return {}


def _hold(process: Process, paused: bool) -> None:
    """Stop a process, or let it go on; what it has received stays in the connection."""
    if sys.platform != "win32" and process.returncode is None:
        process.send_signal(signal.SIGSTOP if paused else signal.SIGCONT)


async def _end(process: Process) -> None:
    """End a process; first so that it can put its files in order."""
    if process.returncode is None:
        process.terminate()
        _hold(process, paused=False)
        with anyio.move_on_after(_STOP_S):
            await process.wait()
        if process.returncode is None:
            process.kill()
    await process.aclose()


def _error(file: HubFile, problem: str, detail: str) -> DownloadError:
    if problem in _ADVICE:
        return DownloadError(f"{file}: {_ADVICE[problem]}")
    if problem == "offline":
        return OfflineError(
            f"{file}: is not in the cache, and fetching is switched off; unset STREAMSEG_OFFLINE "
            "and HF_HUB_OFFLINE, or fetch it before"
        )
    if problem == "size":
        return DownloadError(f"{file}: {detail}; check the address")
    if problem == "disk":
        return DownloadError(
            f"{file}: cannot be written: {detail}; make room, or set HF_HOME and STREAMSEG_CACHE"
        )
    if problem in ("http 401", "http 403"):
        return DownloadError(f"{file}: {_ADVICE['repository']}")
    if problem == "http 429":
        return DownloadError(f"{file}: asked too often (429); wait some minutes, or log in")
    if problem.startswith("http "):
        return DownloadError(f"{file}: the Hub refuses it ({problem[5:]}); try again later")
    return DownloadInterruptedError(
        f"{file}: cannot be fetched: {detail}; check the connection, HTTPS_PROXY and HF_ENDPOINT"
    )
