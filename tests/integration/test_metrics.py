"""Metrics over HTTP, asked for as Prometheus asks, while a pipeline runs."""

from __future__ import annotations

import http.client
import logging
import socket
import threading
import time
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from prometheus_client.parser import text_string_to_metric_families

from streamseg.engine import Pipeline
from streamseg.errors import ConfigError
from streamseg.monitoring.prometheus import MetricsServer
from streamseg.sinks.null import NullSink
from streamseg.sources.file import FileSource
from streamseg.telemetry import PipelineStatistics
from tests.unit.monitoring.examples import running

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

SAMPLE = Path(__file__).parents[1] / "media" / "sample.mp4"


def get(
    address: str, path: str = "/metrics", *, method: str = "GET", **headers: str
) -> tuple[int, dict[str, str], str]:
    connection = http.client.HTTPConnection(address, timeout=5)
    try:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read().decode()
    finally:
        connection.close()


async def ask(
    address: str, path: str = "/metrics", *, method: str = "GET", **headers: str
) -> tuple[int, dict[str, str], str]:
    return await anyio.to_thread.run_sync(lambda: get(address, path, method=method, **headers))


def counters(body: str) -> dict[str, float]:
    return {
        sample.name: sample.value
        for family in text_string_to_metric_families(body)
        for sample in family.samples
        if not sample.labels
    }


async def talk(address: str, request: bytes) -> bytes:
    """Send some bytes and return all that comes back until the server closes."""
    host, _, port = address.rpartition(":")
    answer = b""
    async with await anyio.connect_tcp(host, int(port)) as stream:
        await stream.send(request)
        with anyio.fail_after(5):
            try:
                while True:
                    answer += await stream.receive()
            except anyio.EndOfStream:
                return answer


async def test_a_running_pipeline_is_scraped() -> None:
    scrapes: list[dict[str, float]] = []
    async with Pipeline(FileSource(SAMPLE), sinks=[NullSink()]) as pipeline:
        async with MetricsServer("127.0.0.1:0", pipeline.statistics) as server:

            async def scrape_often() -> None:
                while True:
                    status, headers, body = await ask(server.address)
                    assert status == 200
                    assert headers["Content-Type"].startswith("text/plain; version=")
                    scrapes.append(counters(body))

            async with anyio.create_task_group() as group:
                group.start_soon(scrape_often)
                statistics = await pipeline.run()
                group.cancel_scope.cancel()
            last = counters((await ask(server.address))[2])

    captured = [scrape["streamseg_frames_captured_total"] for scrape in scrapes]
    assert captured == sorted(captured)
    assert last["streamseg_frames_captured_total"] == statistics.frames_in == 175
    assert last["streamseg_frames_delivered_total"] == 175
    assert last["streamseg_frames_in_flight"] == 0
    assert last["process_resident_memory_bytes"] > 1e6


async def test_the_port_taken_is_told_and_free_again_afterwards() -> None:
    async with MetricsServer("127.0.0.1:0", running) as server:
        assert server.address.startswith("127.0.0.1:")
        assert not server.address.endswith(":0")
        assert (await ask(server.address))[0] == 200
    with pytest.raises(OSError, match="refused"):
        await ask(server.address)
    async with MetricsServer(server.address, running) as again:
        assert again.address == server.address
        assert (await ask(again.address))[0] == 200


@pytest.mark.parametrize("address", ["0", ":0", "localhost:0", " 127.0.0.1:0 "])
async def test_loopback_is_where_it_listens(address: str) -> None:
    async with MetricsServer(address, running) as server:
        assert (await ask(server.address))[0] == 200


async def test_an_address_in_use_is_one_line_that_names_it() -> None:
    async with MetricsServer("127.0.0.1:0", running) as first:
        with pytest.raises(ConfigError, match="already in use") as caught:
            async with MetricsServer(first.address, running):
                pytest.fail("two servers on one address")
    assert first.address in str(caught.value)
    assert "port 0 takes a free one" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("address", ["192.0.2.1:0", "no-such-host.invalid:0"])
async def test_an_address_of_another_machine_is_told(address: str) -> None:
    with pytest.raises(ConfigError, match=f"cannot serve metrics on {address}: "):
        async with MetricsServer(address, running):
            pytest.fail("it listens there")


@pytest.mark.parametrize("address", ["", "localhost", "127.0.0.1:", "a:b", "a:-1", "a:65536"])
async def test_what_is_no_address_is_told(address: str) -> None:
    with pytest.raises(ConfigError, match="is not HOST:PORT"):
        MetricsServer(address, running)


async def test_other_paths_and_methods_are_refused() -> None:
    async with MetricsServer("0", running) as server:
        assert (await ask(server.address, "/"))[::2] == (404, "the metrics are at /metrics\n")
        assert (await ask(server.address, "/metrics?name[]=x"))[0] == 200
        status, headers, _ = await ask(server.address, method="POST")
        assert (status, headers["Allow"]) == (405, "GET, HEAD")
        status, headers, body = await ask(server.address, method="HEAD")
        assert (status, body) == (200, "")
        assert int(headers["Content-Length"]) > 1_000


@pytest.mark.parametrize("request_", [b"what?\r\n\r\n", b"\r\n\r\n", b"G" * 40_000])
async def test_what_is_no_request_is_refused(request_: bytes) -> None:
    async with MetricsServer("0", running) as server:
        assert (await talk(server.address, request_)).startswith(b"HTTP/1.1 400 ")
        assert (await ask(server.address))[0] == 200


async def test_who_hangs_up_or_says_nothing_harms_nobody() -> None:
    async with MetricsServer("0", running) as server:
        host, _, port = server.address.rpartition(":")
        silent = [socket.create_connection((host, int(port))) for _ in range(3)]
        gone = socket.create_connection((host, int(port)))
        gone.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        gone.close()
        assert (await ask(server.address))[0] == 200
        closing = time.monotonic()
    assert time.monotonic() - closing < 1
    for connection in silent:
        with anyio.fail_after(5):
            assert await anyio.to_thread.run_sync(connection.recv, 1) == b"", "it was closed"
        connection.close()


async def test_who_asks_for_too_long_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamseg.monitoring.prometheus._ANSWERING_S", 0.1)
    async with MetricsServer("0", running) as server:
        assert await talk(server.address, b"GET /metrics HTTP/1.1\r\n") == b""


async def test_more_than_a_few_at_once_are_sent_away() -> None:
    async with MetricsServer("0", running) as server:
        host, _, port = server.address.rpartition(":")
        silent = [socket.create_connection((host, int(port))) for _ in range(8)]
        answers = {(await ask(server.address))[0]}
        for connection in silent:
            connection.close()
        with anyio.fail_after(5):
            while 200 not in answers:
                answers.add((await ask(server.address))[0])
    assert answers == {503, 200}


async def test_statistics_that_fail_are_told_and_asked_for_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    failing = True

    def statistics() -> PipelineStatistics:
        if failing:
            raise RuntimeError("broke")
        return running()

    async with MetricsServer("0", statistics) as server:
        assert (await ask(server.address))[0] == 500
        failing = False
        assert (await ask(server.address))[0] == 200
    assert [vars(record)["error"] for record in caplog.records] == ["RuntimeError: broke"]


async def test_scraping_logs_nothing(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO)
    async with MetricsServer("0", running) as server:
        await ask(server.address)
        await ask(server.address, "/nothing")
    assert not caplog.records
    assert capfd.readouterr() == ("", "")


async def test_nothing_is_left_after_closing_twice() -> None:
    async with MetricsServer("0", running) as server:
        await ask(server.address)
    # Threads that were needed belong to the event loop, which keeps them for the next who asks.
    threads = set(threading.enumerate())
    for _ in range(3):
        async with MetricsServer("0", running) as server:
            await ask(server.address)
        await server.aclose()
    assert set(threading.enumerate()) <= threads


async def test_closing_from_another_task_than_the_one_that_opened() -> None:
    server = MetricsServer("0", running)
    await server.__aenter__()
    async with anyio.create_task_group() as group:
        group.start_soon(server.aclose)
    with pytest.raises(OSError, match="refused"):
        await ask(server.address)
