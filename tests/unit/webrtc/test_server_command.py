"""What ``streamseg serve`` says."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from typing import Any

import pytest
from typer.testing import CliRunner

from streamseg.cli.app import app
from streamseg.cli.serve import _shown


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8080", "https://192.0.2.7:8443", "https://[2001:db8::1]:8443"]
)
def test_an_address_is_shown_as_it_is(url: str) -> None:
    assert _shown(url) == url


@pytest.mark.parametrize(("own", "place"), [("2001:db8::7", "[2001:db8::7]"), (None, "localhost")])
def test_an_address_of_the_kind_that_is_listened_on_is_shown(
    own: str | None, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def towards(asker: str) -> str | None:
        asked.append(asker)
        return own if ":" in asker else "192.0.2.7"

    monkeypatch.setattr("streamseg.webrtc.tuning_gathering.address_towards", towards)
    assert _shown("https://[::]:8443") == f"https://{place}:8443 (all addresses of this machine)"
    assert asked == ["2001:db8::1"]
    assert "192.0.2.7" in _shown("https://0.0.0.0:8443")


@pytest.mark.parametrize("url", ["https://0.0.0.0:8443", "https://[::]:8443"])
def test_instead_of_all_addresses_one_is_shown_that_can_be_opened(url: str) -> None:
    shown, _, remark = _shown(url).partition(" ")
    assert shown.startswith("https://")
    assert shown.endswith(":8443")
    assert "0.0.0.0" not in shown
    assert "[::]" not in shown
    assert remark == "(all addresses of this machine)"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_second_signal_tells_the_exit_code(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run_server(config: Any, *, on_cancel: Callable[[int], None], **rest: Any) -> None:
        on_cancel(number)
        raise asyncio.CancelledError

    monkeypatch.setattr("streamseg.session.serve.run_server", run_server)
    assert CliRunner().invoke(app, ["serve", "--quiet"]).exit_code == 128 + number
