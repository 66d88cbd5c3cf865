"""Downloads from a real server that fails as told."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import random
import signal
import ssl
import subprocess
import sys
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import anyio
import pytest

from streamseg.downloads.cache import Cache
from streamseg.downloads.control import DownloadControl
from streamseg.downloads.fetching import fetch
from streamseg.downloads.limits import DownloadLimits
from streamseg.downloads.locations import WebFile
from streamseg.errors import DownloadError, DownloadInterruptedError, OfflineError
from tests.unit.downloads.server import Fault, FileServer, file_server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

DATA = random.Random(1).randbytes(3_000_000)
SHA256 = hashlib.sha256(DATA).hexdigest()
OTHER = random.Random(2).randbytes(len(DATA))
LIMITS = DownloadLimits(
    connect_timeout_s=2.0, read_timeout_s=0.4, attempts=3, backoff_s=0.01, max_retry_after_s=1.0
)
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*PROXIES, "STREAMSEG_OFFLINE", "HF_HUB_OFFLINE", "STREAMSEG_CACHE"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture
async def server() -> AsyncIterator[FileServer]:
    async with file_server() as running:
        yield running


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def about(begins: list[int], *cuts: int) -> bool:
    """Tell whether requests began where the connections were cut.

    What lay in aiohttp's buffer when one was cut can be lost: two of its limits and one read.
    """
    return len(begins) == len(cuts) and all(
        cut - (6 << 16) <= begin <= cut for begin, cut in zip(begins, cuts, strict=True)
    )


def left_over(cache: Cache) -> list[str]:
    """Names of all files in the cache but locks."""
    return sorted(p.name for p in (cache.folder / "files").rglob("*") if p.is_file())


async def test_a_file_is_fetched_once_and_then_taken_from_the_cache(
    server: FileServer, cache: Cache
) -> None:
    url = server.serve("/models/x.pte", DATA)
    seen: list[float] = []

    path = await fetch(url, cache=cache, limits=LIMITS, sha256=SHA256, on_progress=seen.append)
    again = await fetch(url, cache=cache, limits=LIMITS, size_bytes=len(DATA))

    assert path.read_bytes() == DATA
    assert path.name == "x.pte"
    assert again == path
    assert len(server.requests) == 1
    assert seen == sorted(set(seen))
    assert len(seen) > 5
    assert seen[-1] == 1.0
    assert left_over(cache) == ["record.json", "x.pte"]
    [entry] = cache.entries()
    assert (entry.source, entry.size_bytes, entry.sha256) == (url, len(DATA), SHA256)


async def test_a_cut_connection_goes_on_where_it_stopped(server: FileServer, cache: Cache) -> None:
    url = server.serve("/x.pte", DATA, Fault(cut_after=1_000_000), Fault(cut_after=1_500_000))
    seen: list[float] = []

    path = await fetch(url, cache=cache, limits=LIMITS, on_progress=seen.append)

    assert path.read_bytes() == DATA
    first, *others = server.requests
    assert "range" not in first.headers
    assert about([r.begin for r in others], 1_000_000, others[0].begin + 1_500_000)
    assert {r.headers["if-range"] for r in others} == {'"one"'}
    assert server.sent_bytes < len(DATA) + (1 << 19)
    assert seen == sorted(seen)


async def test_a_download_that_was_given_up_goes_on_in_the_next_call(
    server: FileServer, cache: Cache
) -> None:
    url = server.serve("/x.pte", DATA, Fault(cut_after=500_000), Fault(cut_after=0), forever=True)

    with pytest.raises(DownloadInterruptedError, match=r"connection was cut .* fetch it again"):
        await fetch(url, cache=cache, limits=LIMITS)
    [entry] = cache.entries()
    assert (entry.is_complete, entry.source) == (False, url)
    assert about([entry.size_bytes], 500_000)

    server.files["/x.pte"].faults.clear()
    server.requests.clear()
    path = await fetch(url, cache=cache, limits=LIMITS, sha256=SHA256)

    assert path.read_bytes() == DATA
    assert [r.begin for r in server.requests] == [entry.size_bytes]


async def test_cuts_that_are_far_apart_are_forgiven(server: FileServer, cache: Cache) -> None:
    data = DATA * 3
    url = server.serve("/x.pte", data, *[Fault(cut_after=1_100_000)] * 7)

    path = await fetch(url, cache=cache, limits=LIMITS)

    assert path.read_bytes() == data
    assert len(server.requests) == 8


async def test_a_server_that_ignores_ranges_starts_from_zero(
    server: FileServer, cache: Cache
) -> None:
    url = server.serve("/x.pte", DATA, Fault(cut_after=2_000_000), ranges=False)
    seen: list[float] = []

    path = await fetch(url, cache=cache, limits=LIMITS, on_progress=seen.append)

    assert path.read_bytes() == DATA
    assert server.sent_bytes == 2_000_000 + len(DATA)
    assert seen == sorted(seen)


async def test_a_file_that_changed_meanwhile_is_fetched_anew(
    server: FileServer, cache: Cache
) -> None:
    url = server.serve("/x.pte", DATA, Fault(cut_after=900_000), Fault(cut_after=0), forever=True)
    with pytest.raises(DownloadInterruptedError):
        await fetch(url, cache=cache, limits=LIMITS)

    server.serve("/x.pte", OTHER, etag='"two"')
    path = await fetch(url, cache=cache, limits=LIMITS)

    assert path.read_bytes() == OTHER


async def test_two_halves_of_two_versions_are_noticed(server: FileServer, cache: Cache) -> None:
    """The server says that it is the same file, and it is not."""
    url = server.serve("/x.pte", OTHER, Fault(cut_after=900_000), Fault(cut_after=0), forever=True)
    with pytest.raises(DownloadInterruptedError):
        await fetch(url, cache=cache, limits=LIMITS)

    server.serve("/x.pte", DATA)
    server.requests.clear()
    path = await fetch(url, cache=cache, limits=LIMITS, sha256=SHA256)

    assert path.read_bytes() == DATA
    assert ["range" in r.headers for r in server.requests] == [True, False]


async def test_without_a_strong_validator_nothing_is_gone_on_with(
    server: FileServer, cache: Cache
) -> None:
    url = server.serve("/x.pte", DATA, Fault(cut_after=1_000_000), etag='W/"weak"')

    path = await fetch(url, cache=cache, limits=LIMITS)

    assert path.read_bytes() == DATA
    assert ["range" in r.headers for r in server.requests] == [False, False]


async def test_a_range_that_begins_elsewhere_is_not_believed(
    server: FileServer, cache: Cache
) -> None:
    url = server.serve("/x.pte", DATA, Fault(cut_after=1_000_000), Fault(begin=1_000_001))

    path = await fetch(url, cache=cache, limits=LIMITS)

    assert path.read_bytes() == DATA


@pytest.mark.parametrize("known", [{"sha256": SHA256}, {"size_bytes": len(DATA)}])
async def test_wrong_bytes_are_refused_and_not_kept(
    server: FileServer, cache: Cache, known: dict[str, object]
) -> None:
    url = server.serve("/x.pte", OTHER[:-1])

    with pytest.raises(DownloadError, match="expected") as caught:
        await fetch(url, cache=cache, limits=LIMITS, **known)  # type: ignore[arg-type]

    assert "\n" not in str(caught.value)
    assert [name for name in left_over(cache) if name != "part.json"] == []


async def test_a_cached_file_of_another_version_is_fetched_again(
    server: FileServer, cache: Cache
) -> None:
    url = server.serve("/x.pte", OTHER)
    await fetch(url, cache=cache, limits=LIMITS)
    server.serve("/x.pte", DATA)

    path = await fetch(url, cache=cache, limits=LIMITS, sha256=SHA256)

    assert path.read_bytes() == DATA


async def test_a_range_that_is_shorter_than_it_says(server: FileServer, cache: Cache) -> None:
    url = server.serve("/x.pte", DATA, Fault(cut_after=1_000_000), Fault(length=500_000))

    path = await fetch(url, cache=cache, limits=LIMITS)

    assert path.read_bytes() == DATA
    first, second, third = server.requests
    assert first.begin < second.begin < third.begin == second.begin + 500_000


@pytest.mark.parametrize("digits", ["9" * 5000, "9" * 19, "²"])
async def test_a_range_whose_numbers_no_file_has(
    server: FileServer, cache: Cache, digits: str
) -> None:
    """Python itself refuses to make a number of more than 4300 digits."""
    lie = {"Content-Range": f"bytes 1-2/{digits}"}
    url = server.serve(
        "/x.pte", DATA, Fault(cut_after=1_000_000), Fault(begin=1, headers=lie), Fault()
    )

    path = await fetch(url, cache=cache, limits=LIMITS, sha256=SHA256)

    assert path.read_bytes() == DATA
    assert "range" not in server.requests[-1].headers


@pytest.mark.parametrize("digits", ["9" * 5000, "9" * 25])
async def test_a_content_length_that_no_file_has(
    server: FileServer, cache: Cache, digits: str
) -> None:
    url = server.serve("/x.pte", DATA, Fault(headers={"Content-Length": digits}), forever=True)
    with pytest.raises(DownloadError) as caught:
        await fetch(url, cache=cache, limits=LIMITS)
    assert "\n" not in str(caught.value)


async def test_a_content_length_that_is_too_long(server: FileServer, cache: Cache) -> None:
    url = server.serve("/x.pte", DATA, Fault(length=len(DATA) + 9), forever=True)

    # The next answer is 416 and names the true size.
    path = await fetch(url, cache=cache, limits=LIMITS, sha256=SHA256)

    assert path.read_bytes() == DATA


async def test_a_content_length_that_is_too_long_and_stays_so(
    server: FileServer, cache: Cache
) -> None:
    url = server.serve("/x.pte", DATA, Fault(length=len(DATA) + 9), forever=True, ranges=False)
    with pytest.raises(DownloadInterruptedError, match="cut"):
        await fetch(url, cache=cache, limits=LIMITS)
    assert "x.pte" not in left_over(cache)


@pytest.mark.parametrize("known", [{"sha256": SHA256}, {"size_bytes": len(DATA)}])
async def test_a_content_length_that_is_too_short(
    server: FileServer, cache: Cache, known: dict[str, object]
) -> None:
    url = server.serve("/x.pte", DATA, Fault(length=len(DATA) - 9), forever=True)
    with pytest.raises(DownloadError, match="expected"):
        await fetch(url, cache=cache, limits=LIMITS, **known)  # type: ignore[arg-type]
    assert "x.pte" not in left_over(cache)


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_file_that_is_too_large_is_not_fetched_to_its_end(
    server: FileServer, cache: Cache, chunked: bool
) -> None:
    url = server.serve("/x.pte", DATA * 4, chunked=chunked)
    limits = DownloadLimits(max_bytes=1_000_000)

    with pytest.raises(DownloadError, match="larger than 1000000 bytes"):
        await fetch(url, cache=cache, limits=limits)

    assert server.sent_bytes < len(DATA) * 4
    assert not [name for name in left_over(cache) if name.startswith("x.pte")]


async def test_a_file_of_unknown_size_is_fetched(server: FileServer, cache: Cache) -> None:
    url = server.serve("/x.pte", DATA, chunked=True)
    seen: list[float] = []

    path = await fetch(url, cache=cache, limits=LIMITS, on_progress=seen.append)

    assert path.read_bytes() == DATA
    assert seen == [1.0]


async def test_a_server_that_hangs_is_left_and_asked_again(
    server: FileServer, cache: Cache
) -> None:
    url = server.serve("/x.pte", DATA, Fault(hang_after=700_000))

    with anyio.fail_after(5):
        path = await fetch(url, cache=cache, limits=LIMITS)

    assert path.read_bytes() == DATA
    assert about([r.begin for r in server.requests], 0, 700_000)


@pytest.mark.parametrize("fault", [Fault(hang_after=0), Fault(mute=True)])
async def test_a_server_that_always_hangs_is_given_up(
    server: FileServer, cache: Cache, fault: Fault
) -> None:
    url = server.serve("/x.pte", DATA, fault, forever=True)
    with (
        anyio.fail_after(5),
        pytest.raises(DownloadInterruptedError, match=r"nothing for 0\.4 s; tried 3"),
    ):
        await fetch(url, cache=cache, limits=LIMITS)


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (404, r"no such file on the server; check the address \(404\)"),
        (410, "no such file"),
        (401, "may need a login or a token"),
        (403, r"not allowed; .* \(403\)"),
        (400, r"refuses it; .* \(400\)"),
        (204, "refuses it"),
    ],
)
async def test_a_refusal_is_told_at_once(
    server: FileServer, cache: Cache, status: int, message: str
) -> None:
    url = server.serve("/x.pte", DATA, Fault(status=status), forever=True)
    with pytest.raises(DownloadError, match=message) as caught:
        await fetch(url, cache=cache, limits=LIMITS)
    assert len(server.requests) == 1
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("status", [429, 503, 500])
async def test_a_busy_server_is_asked_again(server: FileServer, cache: Cache, status: int) -> None:
    url = server.serve("/x.pte", DATA, *[Fault(status=status, headers={"Retry-After": "0"})] * 2)

    path = await fetch(url, cache=cache, limits=LIMITS)

    assert path.read_bytes() == DATA
    assert len(server.requests) == 3


async def test_retry_after_is_waited_for(server: FileServer, cache: Cache) -> None:
    url = server.serve("/x.pte", DATA, Fault(status=503, headers={"Retry-After": "1"}))
    started = anyio.current_time()

    await fetch(url, cache=cache, limits=LIMITS)

    assert 0.9 < anyio.current_time() - started < 3


@pytest.mark.parametrize(
    "when", ["3600", (datetime.now(UTC) + timedelta(hours=2)).strftime("%a, %d %b %Y %H:%M:%S GMT")]
)
async def test_a_long_retry_after_is_told_instead_of_waited_for(
    server: FileServer, cache: Cache, when: str
) -> None:
    url = server.serve("/x.pte", DATA, Fault(status=429, headers={"Retry-After": when}))
    with pytest.raises(DownloadError, match=r"asked too often \(429\); .* come back in \d{4} s"):
        await fetch(url, cache=cache, limits=LIMITS)


@pytest.mark.parametrize(
    "when", ["Mon, 01 Jan 99999999999 00:00:00 GMT", "9" * 5000, "Mon, 99 Jan 2026", "soon", "-1"]
)
async def test_a_retry_after_that_is_none(server: FileServer, cache: Cache, when: str) -> None:
    url = server.serve("/x.pte", DATA, Fault(status=503, headers={"Retry-After": when}))
    try:
        await fetch(url, cache=cache, limits=LIMITS)
    except DownloadError as exc:
        assert "it asks to come back in 999999999 s" in str(exc)  # noqa: PT017 - either is right
    else:
        assert len(server.requests) == 2


async def test_a_server_that_stays_busy_is_given_up(server: FileServer, cache: Cache) -> None:
    url = server.serve("/x.pte", DATA, Fault(status=503), forever=True)
    with pytest.raises(DownloadInterruptedError, match=r"not available \(503\); tried 3 times"):
        await fetch(url, cache=cache, limits=LIMITS)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_followed(server: FileServer, cache: Cache, status: int) -> None:
    server.serve("/there/y.pte", DATA, Fault(cut_after=1_000_000))
    url = server.serve("/x.pte", b"", headers={"Location": "/there/y.pte"})
    server.files["/x.pte"].faults.append(Fault(status=status))
    server.files["/x.pte"].forever = True

    path = await fetch(url, cache=cache, limits=LIMITS)

    assert path.read_bytes() == DATA
    assert path.name == "x.pte"
    assert about([r.begin for r in server.asked_for("/there/y.pte")], 0, 1_000_000)


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("/x.pte", "in a circle"),
        ("file:///etc/passwd", "which is no web address"),
        ("ftp://example.org/x.pte", "which is no web address"),
        ("", "in a circle"),
        ("http://[", "no web address"),
    ],
)
async def test_redirects_that_lead_nowhere(
    server: FileServer, cache: Cache, location: str, message: str
) -> None:
    fault = Fault(status=302, headers={"Location": location})
    url = server.serve("/x.pte", b"", fault, forever=True)
    with pytest.raises(DownloadError, match=message):
        await fetch(url, cache=cache, limits=LIMITS)


async def test_endless_redirects(server: FileServer, cache: Cache) -> None:
    for index in range(30):
        fault = Fault(status=302, headers={"Location": f"/{index + 1}"})
        server.serve(f"/{index}", b"", fault, forever=True)
    with pytest.raises(DownloadError, match="redirects more than 8 times"):
        await fetch(server.url("/0"), cache=cache, limits=LIMITS)
    assert len(server.requests) == 9


async def test_a_web_page_is_no_file(server: FileServer, cache: Cache) -> None:
    page = {"Content-Type": "text/html; charset=utf-8"}
    url = server.serve("/x.pte", b"<html>log in</html>", headers=page)
    with pytest.raises(DownloadError, match="a web page instead of the file"):
        await fetch(url, cache=cache, limits=LIMITS)


async def test_a_compressed_answer_is_refused(server: FileServer, cache: Cache) -> None:
    url = server.serve("/x.pte", DATA, headers={"Content-Encoding": "gzip"})
    with pytest.raises(DownloadError, match="compressed"):
        await fetch(url, cache=cache, limits=LIMITS)
    assert server.requests[0].headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("host", ["a..b", "xn--", "a" * 70, "a\\b", "127.0.0.1:1\\@host"])
async def test_a_host_whose_name_is_none(cache: Cache, host: str) -> None:
    with pytest.raises(DownloadError, match="not a valid address; check it"):
        await fetch(f"https://{host}/x.pte", cache=cache, limits=LIMITS)


async def test_nobody_listens(cache: Cache, server: FileServer, unused_port: int) -> None:
    with anyio.fail_after(5), pytest.raises(DownloadInterruptedError, match="cannot connect"):
        await fetch(f"http://127.0.0.1:{unused_port}/x.pte", cache=cache, limits=LIMITS)


@pytest.fixture
def unused_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def test_a_cancelled_task_keeps_what_it_has(server: FileServer, cache: Cache) -> None:
    url = server.serve("/x.pte", DATA, pause_s=0.02)
    control = DownloadControl()
    halfway = asyncio.Event()

    def watch(progress: float) -> None:
        if progress > 0.3:
            halfway.set()

    task = asyncio.create_task(
        fetch(url, cache=cache, limits=LIMITS, control=control, on_progress=watch)
    )
    await halfway.wait()
    task.cancel()
    with anyio.fail_after(2), pytest.raises(asyncio.CancelledError):
        await task
    [entry] = cache.entries()
    assert not entry.is_complete
    assert entry.path.read_bytes() == DATA[: entry.size_bytes]
    assert entry.size_bytes == control.received_bytes > len(DATA) * 0.3

    server.files["/x.pte"].pause_s = 0.0
    server.requests.clear()
    path = await fetch(url, cache=cache, limits=LIMITS, sha256=SHA256)

    assert path.read_bytes() == DATA
    assert [r.begin for r in server.requests] == [entry.size_bytes]


async def test_its_control_cancels_it(server: FileServer, cache: Cache) -> None:
    url = server.serve("/x.pte", DATA, Fault(hang_after=1_000_000), forever=True)
    control = DownloadControl()

    def watch(progress: float) -> None:
        if progress > 0.3:
            control.cancel()

    with anyio.fail_after(2), pytest.raises(DownloadInterruptedError, match="cancelled"):
        await fetch(url, cache=cache, control=control, on_progress=watch)

    server.files["/x.pte"].faults.clear()
    assert (await fetch(url, cache=cache, control=control)).read_bytes() == DATA
    assert control.progress == 1.0


async def test_a_pause_stops_the_bytes(server: FileServer, cache: Cache) -> None:
    data = DATA * 4  # more than the sockets in between can hold
    url = server.serve("/x.pte", data)
    control = DownloadControl()
    paused = asyncio.Event()

    def watch(progress: float) -> None:
        if progress > 0.2 and not paused.is_set():
            control.pause()
            paused.set()

    async with anyio.create_task_group() as group:
        found: list[Path] = []

        async def work() -> None:
            found.append(
                await fetch(url, cache=cache, limits=LIMITS, control=control, on_progress=watch)
            )

        group.start_soon(work)
        await paused.wait()
        received = control.received_bytes
        await anyio.sleep(0.6)  # longer than the read timeout: pausing is not hanging
        assert control.is_paused
        assert control.received_bytes == received < len(data)
        control.resume()

    assert found[0].read_bytes() == data
    assert server.sent_bytes < len(data) * 1.5


async def test_the_loop_goes_on_meanwhile(server: FileServer, cache: Cache) -> None:
    url = server.serve("/x.pte", DATA * 10)
    longest, last = 0.0, anyio.current_time()

    async def tick() -> None:
        nonlocal longest, last
        while True:
            await anyio.sleep(0.002)
            longest, last = max(longest, anyio.current_time() - last), anyio.current_time()

    async with anyio.create_task_group() as group:
        group.start_soon(tick)
        await fetch(url, cache=cache, limits=LIMITS)
        group.cancel_scope.cancel()

    assert longest < 0.5


async def test_offline_takes_what_is_here_and_fetches_nothing(
    server: FileServer, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = server.serve("/x.pte", DATA)
    with pytest.raises(OfflineError, match=r"x\.pte: is not in the cache, .* switched off"):
        await fetch(url, cache=cache, offline=True)
    for name in ("STREAMSEG_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.setenv(name, "1")
        with pytest.raises(OfflineError):
            await fetch(url, cache=cache)
        monkeypatch.delenv(name)
    assert server.requests == []

    path = await fetch(url, cache=cache)
    monkeypatch.setenv("STREAMSEG_OFFLINE", "true")

    assert await fetch(url, cache=cache) == path


async def test_credentials_are_used_and_never_told(
    server: FileServer, cache: Cache, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    server.serve("/x.pte?token=s3cret", DATA, Fault(cut_after=1_000_000), Fault(cut_after=0))
    url = server.url("/x.pte?token=s3cret", user="me:pa55word")

    await fetch(url, cache=cache, limits=LIMITS)
    with pytest.raises(DownloadError) as caught:
        await fetch(server.url("/y.pte?token=s3cret", user="me:pa55word"), cache=cache)

    assert server.requests[0].headers["authorization"].startswith("Basic ")
    stored = "".join(p.read_text() for p in cache.folder.rglob("*.json"))
    names = "".join(map(str, cache.folder.rglob("*")))
    for text in (caplog.text, str(caught.value), stored, names, repr(cache.entries())):
        assert "s3cret" not in text
        assert "pa55word" not in text
    assert "trying again" in caplog.text


async def test_a_proxy_is_used(
    server: FileServer,
    cache: Cache,
    monkeypatch: pytest.MonkeyPatch,
    unused_port: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The server is asked as a proxy for a host that does not exist."""
    server.serve("/x.pte", DATA, Fault(cut_after=1_000_000))
    monkeypatch.setenv("HTTP_PROXY", server.url(""))

    path = await fetch("http://models.invalid/x.pte", cache=cache, limits=LIMITS)

    assert path.read_bytes() == DATA
    assert {r.headers["host"] for r in server.requests} == {"models.invalid"}
    assert "over plain HTTP and without a checksum" in caplog.text

    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{unused_port}")
    with pytest.raises(DownloadInterruptedError, match=r"proxy cannot be reached: .* HTTPS_PROXY"):
        await fetch("http://models.invalid/y.pte", cache=cache, limits=LIMITS)


async def test_a_cache_that_cannot_be_written_is_told(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    url = server.serve("/x.pte", DATA)
    with pytest.raises(DownloadError, match=r"cannot be written: .* STREAMSEG_CACHE"):
        await fetch(url, cache=Cache(tmp_path / "file"), limits=LIMITS)


async def test_a_disk_without_room_is_told_before(server: FileServer, cache: Cache) -> None:
    url = server.serve("/x.pte", DATA, Fault(length=1 << 50), forever=True)
    with pytest.raises(DownloadError, match="are free, the file needs"):
        await fetch(url, cache=cache, limits=DownloadLimits(max_bytes=1 << 60))


CHILD = """
import asyncio, sys
from streamseg.downloads.fetching import fetch
try:
    print(asyncio.run(fetch(sys.argv[1], sha256=sys.argv[2])))
except Exception as exc:
    print(f"{type(exc).__name__}: {exc}")
"""


def start_child(url: str, cache: Cache, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, url, SHA256],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "STREAMSEG_CACHE": str(cache.folder), **environment},
    )


async def output_of(child: subprocess.Popen[str]) -> str:
    out, _ = await anyio.to_thread.run_sync(lambda: child.communicate(timeout=30))
    return str(out).strip()


async def test_two_tasks_fetch_it_once(server: FileServer, cache: Cache) -> None:
    url = server.serve("/x.pte", DATA, pause_s=0.002)
    seen: list[float] = []

    first, second = await asyncio.gather(
        fetch(url, cache=cache), fetch(url, cache=cache, on_progress=seen.append)
    )

    assert first == second
    assert first.read_bytes() == DATA
    assert len(server.requests) == 1
    assert seen[-1] == 1.0


async def test_waiting_for_another_can_be_cancelled(server: FileServer, cache: Cache) -> None:
    url = server.serve("/x.pte", DATA, Fault(hang_after=1_000_000), forever=True)
    one, two = DownloadControl(), DownloadControl()
    halfway = asyncio.Event()

    def watch(progress: float) -> None:
        halfway.set()

    tasks = [asyncio.create_task(fetch(url, cache=cache, control=one, on_progress=watch))]
    await halfway.wait()
    tasks.append(asyncio.create_task(fetch(url, cache=cache, control=two)))
    await anyio.wait_all_tasks_blocked()
    with anyio.fail_after(2):
        two.cancel()
        with pytest.raises(DownloadInterruptedError, match="cancelled"):
            await tasks[1]
        assert not tasks[0].done()
        one.cancel()
        with pytest.raises(DownloadInterruptedError, match="cancelled"):
            await tasks[0]


async def test_two_processes_fetch_it_once(server: FileServer, cache: Cache) -> None:
    url = server.serve("/x.pte", DATA, pause_s=0.01)
    children = [start_child(url, cache) for _ in range(2)]

    first, second = [await output_of(child) for child in children]

    assert first == second == str(cache.place(WebFile(url)).target)
    assert len(server.requests) == 1
    assert cache.place(WebFile(url)).target.read_bytes() == DATA


async def test_a_process_that_is_killed_leaves_no_lock_and_its_bytes(
    server: FileServer, cache: Cache
) -> None:
    url = server.serve("/x.pte", DATA, Fault(hang_after=2_900_000))
    child = start_child(url, cache)
    part = cache.place(WebFile(url)).part
    with anyio.fail_after(20):
        while not part.exists() or part.stat().st_size < 2_000_000:
            await anyio.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    await output_of(child)
    size = part.stat().st_size

    path = await fetch(url, cache=cache, limits=LIMITS, sha256=SHA256)

    assert path.read_bytes() == DATA
    assert server.requests[-1].begin == size >= 2_000_000


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1 that nobody knows, with its key."""
    from ipaddress import ip_address

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + made.public_bytes(serialization.Encoding.PEM)
    )
    return path


@asynccontextmanager
async def tunnel() -> AsyncIterator[tuple[str, list[str]]]:
    """A proxy that knows CONNECT; its address, and where it was asked to lead."""
    hosts: list[str] = []
    tasks: set[asyncio.Task[None]] = set()

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        method, target, _ = (await reader.readuntil(b"\r\n\r\n")).decode().split(" ", 2)
        assert method == "CONNECT"
        hosts.append(target)
        host, _, port = target.rpartition(":")
        there = await asyncio.open_connection(host, int(port))
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        await asyncio.gather(copy(reader, there[1]), copy(there[0], writer), return_exceptions=True)

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    listening = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}", hosts
    finally:
        listening.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_https(server: FileServer, cache: Cache, certificate: Path) -> None:
    """An unknown certificate is refused, a proxy is tunnelled, https never leads to http."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    async with file_server(context) as secure:
        url = secure.serve("/x.pte", DATA)
        down = secure.serve(
            "/down.pte",
            b"",
            Fault(status=302, headers={"Location": server.serve("/x.pte", DATA)}),
            forever=True,
        )
        with pytest.raises(DownloadError, match="certificate is not trusted"):
            await fetch(url, cache=cache, limits=LIMITS)
        known = {"SSL_CERT_FILE": str(certificate)}
        async with tunnel() as (proxy, hosts):
            good = start_child(url, cache, **known, HTTPS_PROXY=proxy)
            bad = start_child(down, cache, **known)

            assert await output_of(good) == str(cache.place(WebFile(url)).target)
            assert "redirects from https to http" in await output_of(bad)
            assert hosts == [f"127.0.0.1:{secure.port}"]
    assert server.requests == []


async def test_local_files_are_checked_in_place(tmp_path: Path, cache: Cache) -> None:
    path = tmp_path / "x.pte"
    path.write_bytes(DATA)
    seen: list[float] = []

    assert await fetch(str(path), sha256=SHA256, cache=cache, on_progress=seen.append) == path
    assert await fetch(path.as_uri(), size_bytes=len(DATA), cache=cache) == path
    assert seen == [1.0]
    with pytest.raises(DownloadError, match=r"SHA-256 is .* expected 000"):
        await fetch(str(path), sha256="0" * 64, cache=cache)
    with pytest.raises(DownloadError, match="no such file"):
        await fetch(str(tmp_path / "y.pte"), cache=cache)
    with pytest.raises(DownloadError, match="is a folder"):
        await fetch(str(tmp_path), cache=cache)


@pytest.mark.parametrize("by", ["its control", "its task"])
async def test_cancelling_does_not_wait_for_the_checksum(
    tmp_path: Path, cache: Cache, by: str
) -> None:
    path = tmp_path / "large.pte"
    with path.open("wb") as file:
        file.truncate(32 << 30)  # sparse: of no size on the disk, and half a minute to read
    control = DownloadControl()
    task = asyncio.create_task(fetch(str(path), sha256=SHA256, cache=cache, control=control))
    while threads_reading(path) == 0:
        await anyio.sleep(0.01)

    if by == "its task":
        task.cancel()
    control.cancel()
    with anyio.fail_after(2):
        with pytest.raises((DownloadInterruptedError, asyncio.CancelledError)):
            await task
        while threads_reading(path):
            await anyio.sleep(0.01)


def threads_reading(path: Path) -> int:
    """How often this process has a file open."""
    found = 0
    for entry in os.scandir("/proc/self/fd"):
        with suppress(OSError):
            found += os.readlink(entry.path) == str(path)
    return found


async def test_removing_waits_for_nobody(server: FileServer, cache: Cache) -> None:
    url = server.serve("/x.pte", DATA, Fault(hang_after=1_000_000), forever=True)
    control = DownloadControl()
    halfway = asyncio.Event()

    def watch(progress: float) -> None:
        if progress > 0.3:
            halfway.set()

    task = asyncio.create_task(fetch(url, cache=cache, control=control, on_progress=watch))
    await halfway.wait()
    with pytest.raises(DownloadError, match="is being fetched now"):
        cache.remove(WebFile(url))
    control.cancel()
    with pytest.raises(DownloadInterruptedError):
        await task

    assert cache.total_bytes() == cache.remove(WebFile(url)) > 900_000
    assert cache.entries() == []
    assert json.dumps(left_over(cache)) == "[]"
