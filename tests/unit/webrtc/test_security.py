from __future__ import annotations

from typing import Any

import pytest
from aiohttp.test_utils import make_mocked_request

from streamseg.errors import ConfigError
from streamseg.webrtc.refusal import Refusal
from streamseg.webrtc.security import Guard, RateLimit, Tokens, parse_tokens, read_tokens
from streamseg.webrtc.server_options import ServerOptions, is_loopback

TOKEN = "correct-horse-battery"
OTHER = "staple-staple-staple"


def request(method: str = "POST", path: str = "/offer", **headers: str) -> Any:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return make_mocked_request(method, path, headers={"Host": "127.0.0.1:8080", **named})


def test_tokens_are_compared_whole() -> None:
    tokens = Tokens((TOKEN, OTHER))
    assert tokens.fits(f"Bearer {TOKEN}")
    assert tokens.fits(f"bearer {OTHER}")
    for wrong in (None, "", "Bearer", "Bearer ", f"Basic {TOKEN}", f"Bearer {TOKEN[:-1]}", TOKEN):
        assert not tokens.fits(wrong)
    assert not tokens.fits("Bearer \udce4\udcff")


def test_without_tokens_everybody_is_let_in() -> None:
    assert Tokens(()).fits(None)
    assert not Tokens(())


def test_tokens_of_a_file(tmp_path) -> None:
    file = tmp_path / "tokens"
    file.write_text(f"# of the lobby\n{TOKEN}\n\n{OTHER}\n{TOKEN}\n")
    assert read_tokens(file) == (TOKEN, OTHER)


@pytest.mark.parametrize(
    "text", ["", "# nothing\n", "short", "x" * 600, "ümlaut-token-token-token"]
)
def test_unsafe_tokens_are_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_tokens(text, where="the file")
    assert not text or text not in str(caught.value).replace("the file", "")


def test_missing_token_file_is_one_line(tmp_path) -> None:
    with pytest.raises(ConfigError, match="cannot read the tokens"):
        read_tokens(tmp_path / "none")
    (tmp_path / "binary").write_bytes(b"\xff\xfe" * 20)
    with pytest.raises(ConfigError, match="not text"):
        read_tokens(tmp_path / "binary")


def test_tokens_are_in_no_repr() -> None:
    assert TOKEN not in repr(ServerOptions(tokens=(TOKEN,)))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "localhost", "::1", "[::1]"])
def test_loopback_needs_no_certificate(host: str) -> None:
    assert is_loopback(host)
    ServerOptions(host=host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org", ""])
def test_other_hosts_need_a_certificate_or_a_proxy(host: str, tmp_path) -> None:
    with pytest.raises(ConfigError, match="--tls-cert"):
        ServerOptions(host=host)
    ServerOptions(host=host, behind_proxy=True)
    ServerOptions(host=host, tls_cert=tmp_path / "c", tls_key=tmp_path / "k")
    with pytest.raises(ConfigError, match="--tls-key"):
        ServerOptions(host=host, tls_cert=tmp_path / "c")


@pytest.mark.parametrize(
    "origin",
    ["example.org", "https://", "https://a/b", "https://a@b", "HTTPS://a", "null", "*", "ftp://a"],
)
def test_origins_must_be_exact(origin: str) -> None:
    with pytest.raises(ConfigError, match="origin"):
        ServerOptions(origins=(origin,))


def test_own_and_friendly_origins_may_change_something() -> None:
    guard = Guard(ServerOptions(origins=("https://friend.example",)))
    guard.check_origin(request(Origin="http://127.0.0.1:8080"))
    guard.check_origin(request(Origin="https://friend.example"))
    guard.check_origin(request())  # no browser
    guard.check_origin(request("GET", Origin="https://evil.example"))  # changes nothing


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "null",
        "",
        "https://127.0.0.1:8080",  # another scheme
        "http://127.0.0.1:8081",
        "http://127.0.0.1",
        "http://localhost:8080",  # another host than was asked for
        "https://friend.example.evil.example",
        "https://friend.example:443",
    ],
)
@pytest.mark.parametrize("method", ["POST", "DELETE", "PATCH", "PUT"])
def test_foreign_origins_may_not(origin: str, method: str) -> None:
    guard = Guard(ServerOptions(origins=("https://friend.example",)))
    with pytest.raises(Refusal) as caught:
        guard.check_origin(request(method, Origin=origin))
    assert caught.value.status == 403


def test_rebound_names_are_refused_on_loopback() -> None:
    guard = Guard(ServerOptions())
    for host in ("127.0.0.1:8080", "localhost:1", "[::1]:8080", "LOCALHOST", "127.0.0.1"):
        guard.check_host(request(Host=host))
    for host in ("evil.example:8080", "127.0.0.1.evil.example", "", "localhost.evil:8080", "[::2]"):
        with pytest.raises(Refusal) as caught:
            guard.check_host(request(Host=host))
        assert caught.value.status == 421


def test_proxy_tells_who_asks_and_by_which_scheme() -> None:
    guard = Guard(ServerOptions(behind_proxy=True))
    asked = request(
        X_Forwarded_For="10.0.0.1, 203.0.113.7",
        Host="calls.example",
        Origin="https://calls.example",
    )
    assert guard.address(asked) == "203.0.113.7"
    guard.check_host(asked)
    guard.check_origin(asked)


def test_without_a_proxy_nobody_tells_who_asks() -> None:
    asked = request(X_Forwarded_For="203.0.113.7", X_Forwarded_Proto="https")
    guard = Guard(ServerOptions())
    assert guard.address(asked) != "203.0.113.7"
    assert not guard.is_own(asked, "https://127.0.0.1:8080")


@pytest.mark.parametrize(
    ("forwarded", "address"),
    [
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("nonsense", "unknown"),
    ],
)
def test_addresses_are_counted_by_network(forwarded: str, address: str) -> None:
    guard = Guard(ServerOptions(behind_proxy=True))
    assert guard.address(request(X_Forwarded_For=forwarded)) == address


def test_rate_is_a_burst_and_then_so_many_a_minute() -> None:
    now = [100.0]
    limit = RateLimit(60, clock=lambda: now[0])
    assert [limit.take("a") for _ in range(30)] == [0.0] * 30
    assert limit.take("a") == pytest.approx(1.0)
    assert limit.take("b") == 0.0
    now[0] += 1.0
    assert limit.take("a") == 0.0
    assert limit.take("a") > 0.0


def test_rate_forgets_who_was_quiet_longest() -> None:
    limit = RateLimit(2, clock=lambda: 0.0)
    assert limit.take("first") == 0.0
    assert limit.take("first") > 0.0
    for number in range(5000):
        limit.take(str(number))
    assert len(limit._left) == 4096
    assert limit.take("first") == 0.0


def test_two_authorization_headers_are_none() -> None:
    guard = Guard(ServerOptions(tokens=(TOKEN,)))
    guard.check_token(request(Authorization=f"Bearer {TOKEN}"))
    with pytest.raises(Refusal) as caught:
        guard.check_token(request())
    assert caught.value.status == 401
    assert "WWW-Authenticate" in caught.value.headers
