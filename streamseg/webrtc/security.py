"""Who may ask for what: tokens, origins, host names, rates, and the headers of every answer.

The threats that each of these is against are listed in ``docs/threat-model.md``.
"""

from __future__ import annotations

import hmac
import ipaddress
import math
from collections import OrderedDict
from typing import TYPE_CHECKING

import anyio

from streamseg.errors import ConfigError
from streamseg.webrtc.refusal import Refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from aiohttp import web

    from streamseg.webrtc.server_options import ServerOptions

__all__ = [
    "SECURITY_HEADERS",
    "Guard",
    "RateLimit",
    "Tokens",
    "network_of",
    "parse_tokens",
    "read_tokens",
]

SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; media-src 'self' blob:; img-src 'self' blob: data:; "
        "object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(self), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""Of every answer: no script but the page's own files, no embedding, no sniffing of types."""

_SHORTEST_TOKEN = 16
_LONGEST_TOKEN = 512
_MOST_TOKENS = 64
_MAX_TOKEN_FILE = 1 << 16
_CHANGING = frozenset({"POST", "PUT", "PATCH", "DELETE"})
_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
_KNOWN_ADDRESSES = 4096  # of a RateLimit; 1 MB


def network_of(text: str) -> str:
    """Return what an address is counted as: an IPv4 one itself, an IPv6 one as its /64 network.

    Args:
        text: An IP address; anything else is ``unknown``.
    """
    try:
        address = ipaddress.ip_address(text.partition("%")[0].strip("[]"))
    except ValueError:
        return "unknown"
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)


class Tokens:
    """Bearer tokens, compared in constant time.

    Args:
        tokens: Those that are let in; none lets everybody in.
    """

    def __init__(self, tokens: Iterable[str]) -> None:
        self._tokens = tuple(token.encode() for token in tokens)

    def __bool__(self) -> bool:
        return bool(self._tokens)

    def fits(self, header: str | None) -> bool:
        """Return whether an ``Authorization`` header has one of the tokens."""
        if not self._tokens:
            return True
        scheme, _, given = (header or "").partition(" ")
        if scheme.lower() != "bearer":
            return False
        sent = given.strip().encode("utf-8", "surrogateescape")
        found = False
        for token in self._tokens:  # all of them: the time tells neither which nor whether
            found |= hmac.compare_digest(token, sent)
        return found


def parse_tokens(text: str, *, where: str) -> tuple[str, ...]:
    """Return the tokens of a text: one a line or between blanks, ``#`` begins a comment line.

    Args:
        text: Its content, which no message repeats.
        where: Where it is from, for messages.

    Raises:
        ConfigError: If there is none, or one is too short to be safe.
    """
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    tokens = tuple(dict.fromkeys(" ".join(lines).split()))
    if not tokens:
        raise ConfigError(f"{where} has no token: write one there, or leave it out")
    if len(tokens) > _MOST_TOKENS:
        raise ConfigError(f"{where} has {len(tokens)} tokens, at most {_MOST_TOKENS} are taken")
    for number, token in enumerate(tokens, 1):
        if not (token.isascii() and token.isprintable()):
            raise ConfigError(f"{where}: token {number} has letters that no header can have")
        if not _SHORTEST_TOKEN <= len(token) <= _LONGEST_TOKEN:
            raise ConfigError(
                f"{where}: token {number} has {len(token)} letters, expected {_SHORTEST_TOKEN} to "
                f"{_LONGEST_TOKEN}; 'openssl rand -hex 16' makes one"
            )
    return tokens


def read_tokens(path: Path) -> tuple[str, ...]:
    """Return the tokens of a file; see ``parse_tokens``.

    Raises:
        ConfigError: If it cannot be read or has none.
    """
    try:
        if path.stat().st_size > _MAX_TOKEN_FILE:
            raise ConfigError(f"{path}: over {_MAX_TOKEN_FILE} bytes, not a file of tokens")
        text = path.read_text(encoding="utf-8")
    except OSError as exc:
        raise ConfigError(f"{path}: cannot read the tokens: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise ConfigError(f"{path}: is not text: a file of tokens has one a line") from exc
    return parse_tokens(text, where=str(path))


class RateLimit:
    """So many requests a minute for each address, half of them at once (a token bucket).

    Args:
        per_minute: How many.
        clock: Seconds that only grow.
    """

    def __init__(self, per_minute: int, *, clock: Callable[[], float] = anyio.current_time) -> None:
        self._per_s = per_minute / 60.0
        self._burst = max(1.0, per_minute / 2)
        self._clock = clock
        # Address -> what is left, and when; bounded, the one longest quiet goes first.
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, address: str) -> float:
        """Count a request; return 0.0 if it may go on, else for how many seconds it may not."""
        now = self._clock()
        left, since = self._left.pop(address, (self._burst, now))
        left = min(self._burst, left + (now - since) * self._per_s)
        wait_s = 0.0
        if left >= 1.0:
            left -= 1.0
        else:
            wait_s = (1.0 - left) / self._per_s
        self._left[address] = (left, now)
        if len(self._left) > _KNOWN_ADDRESSES:
            self._left.popitem(last=False)
        return wait_s


class Guard:
    """Checks of a request before anything else looks at it."""

    def __init__(self, options: ServerOptions) -> None:
        self.tokens = Tokens(options.tokens)
        self._proxy = options.behind_proxy
        self._tls = options.tls
        self._origins = frozenset(options.origins)
        self._rate = RateLimit(options.offers_per_minute)
        # Who resolves a name of his own to 127.0.0.1 reaches the server through his visitor's
        # browser, but the browser says that name.
        self._hosts: frozenset[str] | None = None
        if options.loopback and not options.behind_proxy:
            host = options.host.lower()
            self._hosts = _LOOPBACK_NAMES | {f"[{host}]" if ":" in host else host}

    def address(self, request: web.BaseRequest) -> str:
        """Return who asks, for counting: an IPv4 address, or the /64 network of an IPv6 one."""
        text = request.remote or ""
        if self._proxy:
            forwarded = request.headers.getall("X-Forwarded-For", [])
            text = forwarded[-1].rpartition(",")[2].strip() if forwarded else text
        return network_of(text)

    def check_host(self, request: web.BaseRequest) -> None:
        """Refuse a name of the server that it does not have.

        Raises:
            Refusal: 400 without a name, 421 with a foreign one.
        """
        host = request.headers.get("Host")
        if host is None or len(request.headers.getall("Host")) != 1:
            raise Refusal(400, "a request needs one Host header")
        if self._hosts is None:
            return
        name = host.lower()
        if not name.endswith("]"):
            name = name.rpartition(":")[0] or name
        if name not in self._hosts:
            raise Refusal(421, "this server is not the host that was asked for; use 127.0.0.1")

    def check_origin(self, request: web.BaseRequest) -> None:
        """Refuse what a page of a foreign origin wants to change.

        Without an ``Origin`` it is no browser, and the token decides.

        Raises:
            Refusal: 403.
        """
        origin = request.headers.get("Origin")
        if request.method not in _CHANGING or origin is None:
            return
        if not self.is_own(request, origin) and origin not in self._origins:
            raise Refusal(403, "pages of this origin may not use this server (see --origin)")

    def is_own(self, request: web.BaseRequest, origin: str) -> bool:
        """Return whether an origin is the server's own."""
        return origin == f"{self._scheme(request)}://{request.headers.get('Host', '').lower()}"

    def is_friend(self, origin: str | None) -> bool:
        """Return whether pages of this other origin may use the server."""
        return origin in self._origins

    def check_token(self, request: web.BaseRequest) -> None:
        """Refuse who has no token where tokens are wanted.

        Raises:
            Refusal: 401.
        """
        if not self.has_token(request):
            raise Refusal(
                401,
                "a bearer token is needed: 'Authorization: Bearer TOKEN'",
                headers={"WWW-Authenticate": 'Bearer realm="streamseg"'},
            )

    def has_token(self, request: web.BaseRequest) -> bool:
        """Return whether a request has a token, or needs none."""
        headers = request.headers.getall("Authorization", [])
        return self.tokens.fits(headers[0] if len(headers) == 1 else None)

    def check_rate(self, request: web.BaseRequest) -> None:
        """Count a request that costs something.

        Raises:
            Refusal: 429.
        """
        wait_s = self._rate.take(self.address(request))
        if wait_s > 0:
            raise Refusal(
                429,
                "too many requests of one address in a short time; try again later",
                headers={"Retry-After": str(math.ceil(wait_s))},
            )

    def _scheme(self, request: web.BaseRequest) -> str:
        if self._proxy:
            told = request.headers.get("X-Forwarded-Proto", "https").lower()
            return told if told in ("http", "https") else "https"
        return "https" if self._tls else "http"
