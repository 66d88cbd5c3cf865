"""Helper processes end with the process that started them, even while they are stopped."""

from __future__ import annotations

import hashlib
import os
import select
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
import pytest

from streamseg.downloads.cache import Cache
from tests.unit.downloads.server import file_server

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.integration,
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux has the rule"),
]

DATA = b"x" * 2_000_000

# Says "paused" when its helper has been stopped half-way.
FETCHING = """
import asyncio, sys
from streamseg.downloads.control import DownloadControl
from streamseg.downloads.fetching import fetch
control = DownloadControl()
def pause(progress):
    if progress > 0.3 and not control.is_paused:
        control.pause()
        print("paused", flush=True)
asyncio.run(fetch(sys.argv[1], control=control, on_progress=pause))
"""

CONVERTING = """
import asyncio, sys
from pathlib import Path
from streamseg.convert._tflite_store import _convert
asyncio.run(_convert(Path(sys.argv[1]), Path(sys.argv[1] + ".pte")))
"""

SEGMENTING = """
import asyncio
from streamseg.session.parts import load_segmenter
async def main():
    async with load_segmenter("selfie"):
        print("loaded", flush=True)
        await asyncio.sleep(60)
asyncio.run(main())
"""


@contextmanager
def parent_of_a_helper(code: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def child_of(process: subprocess.Popen[bytes]) -> int:
    [child] = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return int(child)


def is_stopped(child: int) -> bool:
    return "T (stopped)" in Path(f"/proc/{child}/status").read_text()


def killed_with(parent: subprocess.Popen[bytes], child: int) -> bool:
    """Kill a process without a chance to tidy up, and tell whether its child is gone in 2 s."""
    descriptor = os.pidfd_open(child)
    try:
        parent.kill()
        gone = bool(select.select([descriptor], [], [], 2.0)[0])
        if not gone:
            os.kill(child, signal.SIGKILL)
        return gone
    finally:
        os.close(descriptor)


async def test_a_paused_download_from_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with file_server() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url(""))
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
        monkeypatch.setenv("STREAMSEG_CACHE", str(tmp_path / "cache"))
        for name in ("HF_HUB_OFFLINE", "STREAMSEG_OFFLINE", "HTTP_PROXY", "http_proxy"):
            monkeypatch.delenv(name, raising=False)
        server.serve(
            "/org/repo/resolve/main/x.pte",
            DATA,
            etag=f'"{hashlib.sha256(DATA).hexdigest()}"',
            headers={"X-Repo-Commit": "c0ffee" * 6 + "c0ff"},
            pause_s=0.05,
        )
        with parent_of_a_helper(FETCHING, "hf://org/repo/x.pte") as parent:
            assert parent.stdout is not None
            with anyio.fail_after(30):
                assert await anyio.to_thread.run_sync(parent.stdout.readline) == b"paused\n"
            child = child_of(parent)
            with anyio.fail_after(5):
                while not is_stopped(child):
                    await anyio.sleep(0.01)

            assert await anyio.to_thread.run_sync(killed_with, parent, child)
    # What it had is there for the next call.
    [entry] = Cache(tmp_path / "cache").entries()
    assert (entry.source, entry.is_complete) == ("hf://org/repo/x.pte", False)
    assert 0 < entry.size_bytes < len(DATA)


async def test_a_stopped_model() -> None:
    with parent_of_a_helper(SEGMENTING) as parent:
        assert parent.stdout is not None
        with anyio.fail_after(60):
            assert await anyio.to_thread.run_sync(parent.stdout.readline) == b"loaded\n"
        child = child_of(parent)
        os.kill(child, signal.SIGSTOP)

        assert await anyio.to_thread.run_sync(killed_with, parent, child)


async def test_a_stopped_conversion(tmp_path: Path) -> None:
    # It reads from here, so it is known how far it is, and does not end.
    pipe = tmp_path / "x.tflite"
    os.mkfifo(pipe)
    with parent_of_a_helper(CONVERTING, str(pipe)) as parent:
        with anyio.fail_after(30):
            while True:
                try:
                    writer = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
                    break
                except OSError:  # nobody reads yet
                    await anyio.sleep(0.02)
        try:
            child = child_of(parent)
            os.kill(child, signal.SIGSTOP)

            assert await anyio.to_thread.run_sync(killed_with, parent, child)
        finally:
            os.close(writer)
