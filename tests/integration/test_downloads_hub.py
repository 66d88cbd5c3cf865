"""Files of the Hugging Face Hub, fetched from a mirror on this machine."""

from __future__ import annotations

import asyncio
import hashlib
import random
from typing import TYPE_CHECKING

import anyio
import pytest

from streamseg.downloads.cache import Cache
from streamseg.downloads.control import DownloadControl
from streamseg.downloads.fetching import fetch
from streamseg.downloads.limits import DownloadLimits
from streamseg.downloads.locations import HubFile
from streamseg.errors import DownloadError, DownloadInterruptedError, OfflineError
from tests.unit.downloads.server import Fault, FileServer, file_server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

DATA = random.Random(3).randbytes(2_000_000)
SHA256 = hashlib.sha256(DATA).hexdigest()
COMMIT = "c0ffee" * 6 + "c0ff"
FILE = HubFile("org/repo", "xnnpack/x.pte", "v1")
TARGET = "/org/repo/resolve/v1/xnnpack/x.pte"


@pytest.fixture
async def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FileServer]:
    """A server that answers as the Hub, and an environment that leads there."""
    for name in ("HF_HUB_OFFLINE", "STREAMSEG_OFFLINE", "HTTP_PROXY", "http_proxy", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    async with file_server() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url(""))
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
        monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
        yield server


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def serve(
    server: FileServer, data: bytes, *faults: Fault, target: str = TARGET, **more: object
) -> None:
    headers = {"X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
    etag = f'"{hashlib.sha256(data).hexdigest()}"'
    server.serve(target, data, *faults, etag=etag, headers=headers, **more)


def hub_files(tmp_path: Path) -> list[str]:
    return sorted(p.name for p in (tmp_path / "hub" / "hub").rglob("*") if p.is_file())


async def test_it_lies_in_the_cache_of_the_hub(
    mirror: FileServer, cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(mirror, DATA, pause_s=0.01)
    monkeypatch.setenv("HF_TOKEN", "hf_s3cret")
    seen: list[float] = []

    path = await fetch(str(FILE), cache=cache, sha256=SHA256, on_progress=seen.append)

    assert path.read_bytes() == DATA
    assert path.is_relative_to(tmp_path / "hub" / "hub" / "models--org--repo")
    assert seen == sorted(set(seen))
    assert seen[-1] == 1.0
    assert len(seen) > 2
    assert {r.headers["authorization"] for r in mirror.requests} == {"Bearer hf_s3cret"}
    assert "s3cret" not in "".join(p.read_text() for p in cache.folder.rglob("*.json"))

    # Again, by the address of the same file: nobody is asked, not even with a process.
    mirror.requests.clear()
    assert await fetch(mirror.url(TARGET), cache=cache, size_bytes=len(DATA)) == path
    assert await fetch(f"https://huggingface.co{TARGET}", cache=cache) == path
    assert mirror.requests == []

    # What another program fetched is found offline.
    other = Cache(tmp_path / "other")
    assert await fetch(str(FILE), cache=other, offline=True) == path
    assert mirror.requests == []

    assert cache.remove(FILE) == len(DATA)
    assert cache.find(FILE) is None
    assert not path.exists()
    assert SHA256 not in hub_files(tmp_path)
    with pytest.raises(OfflineError, match="not in the cache, and fetching is switched off"):
        await fetch(str(FILE), cache=other, offline=True)


async def test_a_cut_is_gone_on_after(mirror: FileServer, cache: Cache) -> None:
    serve(mirror, DATA)
    # The answer to HEAD takes the first fault.
    mirror.files[TARGET].faults.extend([Fault(), Fault(cut_after=1_000_000)])

    path = await fetch(str(FILE), cache=cache, sha256=SHA256)

    assert path.read_bytes() == DATA
    first, second = mirror.asked_for(TARGET)
    assert first.begin == 0
    assert 0 < second.begin <= 1_000_000


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (404, "RepoNotFound", "no such repository, or only for others"),
        (404, "EntryNotFound", "no such file in this repository"),
        (404, "RevisionNotFound", "no such revision"),
        (403, "GatedRepo", "gives access on request"),
        (401, "", "no such repository, or only for others"),
        (404, "", "the Hub has no such file; check the repository, the revision"),
    ],
)
async def test_refusals_are_told(
    mirror: FileServer, cache: Cache, status: int, code: str, message: str
) -> None:
    serve(mirror, DATA, Fault(status=status, headers={"X-Error-Code": code}), forever=True)
    with pytest.raises(DownloadError, match=message) as caught:
        await fetch(str(FILE), cache=cache)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("hf://org/repo@v1/xnnpack/x.pte: ")


async def test_a_mirror_that_is_none(mirror: FileServer, cache: Cache) -> None:
    mirror.serve(TARGET, DATA)
    with pytest.raises(DownloadError, match="HF_ENDPOINT names does not answer as the Hub"):
        await fetch(str(FILE), cache=cache)


@pytest.mark.parametrize(
    "wanted", [{"size_bytes": 1}, {"limits": DownloadLimits(max_bytes=1000)}, {"sha256": "0" * 64}]
)
async def test_another_file_than_expected(
    mirror: FileServer, cache: Cache, wanted: dict[str, object], tmp_path: Path
) -> None:
    serve(mirror, DATA)
    with pytest.raises(DownloadError, match=r"expected|larger than 1000"):
        await fetch(str(FILE), cache=cache, **wanted)  # type: ignore[arg-type]
    assert cache.entries() == []
    assert not [name for name in hub_files(tmp_path) if "incomplete" in name]


async def test_cancelling_ends_it_at_once_and_cleanly(
    mirror: FileServer, cache: Cache, tmp_path: Path
) -> None:
    serve(mirror, DATA, pause_s=0.05)
    started = asyncio.Event()
    control = DownloadControl()
    task = asyncio.create_task(
        fetch(str(FILE), cache=cache, control=control, on_progress=lambda _: started.set())
    )
    with anyio.fail_after(20):
        await started.wait()

    control.cancel()
    with anyio.fail_after(2), pytest.raises(DownloadInterruptedError, match="cancelled"):
        await task

    assert not [name for name in hub_files(tmp_path) if "incomplete" in name]


async def cut_at(server: FileServer, cache: Cache, share: float) -> int:
    """Cancel a download of ``FILE`` half-way and return how much of it is kept."""
    server.files[TARGET].pause_s = 0.03
    control = DownloadControl()

    def watch(progress: float) -> None:
        if progress > share:
            control.cancel()

    with pytest.raises(DownloadInterruptedError, match="cancelled; fetch it again to go on"):
        await fetch(str(FILE), cache=cache, control=control, on_progress=watch)
    server.files[TARGET].pause_s = 0.0
    server.requests.clear()
    [entry] = cache.entries()
    assert (entry.source, entry.is_complete) == (str(FILE), False)
    return entry.size_bytes


async def test_the_next_call_goes_on_where_the_last_was_cancelled(
    mirror: FileServer, cache: Cache
) -> None:
    serve(mirror, DATA)
    kept = await cut_at(mirror, cache, 0.4)
    assert len(DATA) * 0.3 < kept < len(DATA)
    seen: list[float] = []

    path = await fetch(str(FILE), cache=cache, sha256=SHA256, on_progress=seen.append)

    assert path.read_bytes() == DATA
    assert [request.begin for request in mirror.asked_for(TARGET)] == [kept]
    assert seen[0] > 0.3
    [entry] = cache.entries()
    assert (entry.is_complete, entry.path) == (True, path)
    assert [p.name for p in cache.place(FILE).folder.iterdir()] == ["record.json"]


async def test_a_server_that_ignores_ranges_starts_from_zero(
    mirror: FileServer, cache: Cache
) -> None:
    serve(mirror, DATA, ranges=False)
    await cut_at(mirror, cache, 0.4)

    assert (await fetch(str(FILE), cache=cache, sha256=SHA256)).read_bytes() == DATA


async def test_a_pause_stops_it(mirror: FileServer, cache: Cache) -> None:
    serve(mirror, DATA, pause_s=0.03)
    control = DownloadControl()
    started = asyncio.Event()
    task = asyncio.create_task(
        fetch(str(FILE), cache=cache, control=control, on_progress=lambda _: started.set())
    )
    with anyio.fail_after(20):
        await started.wait()
    control.pause()
    await anyio.sleep(0.15)  # what the process had told before it was stopped
    received = control.received_bytes
    await anyio.sleep(0.3)

    assert control.received_bytes == received < len(DATA)
    control.resume()
    with anyio.fail_after(20):
        assert (await task).read_bytes() == DATA


async def test_what_several_repositories_share_is_no_damage(
    mirror: FileServer, cache: Cache, tmp_path: Path
) -> None:
    """The Hub's library keeps such a file under another hash, and a link under its SHA-256."""
    serve(mirror, DATA)
    path = await fetch(str(FILE), cache=cache)
    blob, shared = path.resolve(), tmp_path / "hub" / "hub" / "blobs" / "be" / ("be" * 32)
    shared.parent.mkdir(parents=True)
    blob.rename(shared)
    blob.symlink_to(shared)

    assert await fetch(str(FILE), cache=Cache(tmp_path / "other"), offline=True) == path


async def test_a_damaged_file_of_the_hub_is_noticed(
    mirror: FileServer, cache: Cache, tmp_path: Path
) -> None:
    serve(mirror, DATA)
    path = await fetch(str(FILE), cache=cache)
    with path.resolve().open("r+b") as file:
        file.write(b"other")

    assert "SHA-256" in cache.verify(cache.entries()[0])
    with pytest.raises(DownloadError, match="is damaged; delete it"):
        await fetch(str(FILE), cache=Cache(tmp_path / "other"))
