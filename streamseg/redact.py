"""Removes credentials from URLs, before they get into a message, a log or a name."""

from __future__ import annotations

import re
from urllib.parse import unquote

__all__ = ["redact", "redacted_url"]

_HIDDEN = "***"
_URL = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*://)([^\s'\"<>]*)")
# By RFC 3986 the user's name and password end at the "@" of the authority.
_AUTHORITY = re.compile(r"[^/?#]*")
# A password with an unescaped "/", "?" or "#" is not valid, but it is still a password. What looks
# like a host with a port, or an IPv6 address, is none.
_HOST = re.compile(r"(\[[0-9a-fA-F:.%]*\]|[^:]*)(:\d*)?")
_FIELD = re.compile(r"([?&;#])([^=&;#]+)=([^&#]*)")
_SECRET = re.compile(
    r"token|key|secret|pass|pwd|signature|sig$|^sig|auth(?!or)|credential|session|jwt|streamid",
    re.IGNORECASE,
)
# host/application/key
_STREAM_KEY = re.compile(r"^([^/?#]*/[^?#]*/)[^/?#\s]+")
# Some cameras take them in the path: /user=admin_password=secret_channel=1_stream=0.sdp
_IN_PATH = re.compile(r"((?:pass(?:word|wd|phrase)?|pwd|token|secret)=)[^&;/?#]*", re.IGNORECASE)


def redact(text: str) -> str:
    """Return a text with the credentials of all URLs in it hidden.

    Hidden are user name and password, and the values of query fields that are called token, key,
    secret, password, streamid or the like, also in the path. The rest of the path is not: it is what
    tells streams apart. Only RTMP has its stream key there, after host and application.
    """
    return _URL.sub(lambda match: match[1] + _hide(match[1], match[2]), text)


def redacted_url(url: str) -> str:
    """Return a URL for messages: one printable line without credentials."""
    text = "".join(letter if letter.isprintable() else "\ufffd" for letter in url)
    # A blank or a quote would end the URL for `redact`; one that is alone has no end.
    scheme, separator, rest = text.partition("://")
    return scheme + separator + _hide(scheme, rest) if separator else text


def _hide(scheme: str, rest: str) -> str:
    """Hide what is secret in a URL's part after ``://``."""
    match = _AUTHORITY.match(rest)
    authority = match[0] if match else ""
    end = authority.rfind("@")
    if end < 0 and not _HOST.fullmatch(authority):
        end = rest.rfind("@")
    if end >= 0:
        rest = f"{_HIDDEN}@{rest[end + 1 :]}"
    if scheme.lower().startswith("rtmp"):
        rest = _STREAM_KEY.sub(rf"\1{_HIDDEN}", rest)
    return _IN_PATH.sub(rf"\1{_HIDDEN}", _FIELD.sub(_hide_field, rest))


def _hide_field(match: re.Match[str]) -> str:
    if not _SECRET.search(unquote(match[2])):
        return match[0]
    return f"{match[1]}{match[2]}={_HIDDEN}"
