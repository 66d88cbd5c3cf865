"""What ``streamseg serve`` says."""

from __future__ import annotations

import pytest

from streamseg.cli.serve import _shown


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8080", "https://192.0.2.7:8443", "https://[2001:db8::1]:8443"]
)
def test_an_address_is_shown_as_it_is(url: str) -> None:
    assert _shown(url) == url


@pytest.mark.parametrize("url", ["https://0.0.0.0:8443", "https://[::]:8443"])
def test_instead_of_all_addresses_one_is_shown_that_can_be_opened(url: str) -> None:
    shown, _, remark = _shown(url).partition(" ")
    assert shown.startswith("https://")
    assert shown.endswith(":8443")
    assert "0.0.0.0" not in shown
    assert "::" not in shown
    assert remark == "(all addresses of this machine)"
