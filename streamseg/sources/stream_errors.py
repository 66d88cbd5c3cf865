"""What went wrong with a stream, in words, and without the credentials of its URL."""

from __future__ import annotations

import errno
import socket
from urllib.parse import urlsplit

import av
import av.error

from streamseg.redact import redact

__all__ = ["clean", "explain"]


def clean(error: Exception) -> Exception:
    """Return an error like this one without credentials; it names what was opened."""
    if not isinstance(error, av.FFmpegError):
        return type(error)(redact(str(error)))
    code, text = error.errno or 0, error.strerror or ""
    return type(error)(code, text, redact(error.filename or "") or None)


def explain(error: Exception, url: str, *, timeout_s: float) -> str:
    """Return why opening failed and what to try; may ask for the host's address.

    Args:
        error: What FFmpeg, or reading from a pipe, raised.
        url: What was opened.
        timeout_s: How long it was tried, in seconds.
    """
    if isinstance(error, av.error.HTTPUnauthorizedError):
        return (
            "the server refuses the user name or password (401); give them in the URL, "
            "user:password@host, with special characters percent-encoded"
        )
    if isinstance(error, av.error.HTTPForbiddenError):
        return "the server forbids it (403); is the token or the user's right still valid?"
    if isinstance(error, av.error.HTTPNotFoundError):
        return "the server has nothing under this path (404); check the path"
    if isinstance(error, av.error.HTTPClientError | av.error.HTTPServerError):
        return f"the server answered: {error.strerror}; try it in a browser or in ffplay"
    if isinstance(error, ConnectionRefusedError):
        return "the connection was refused; does the server run, and is the port right?"
    if isinstance(error, av.error.ExitError | TimeoutError):
        return f"nothing came within {timeout_s:g} s; is the sender sending, is a firewall between?"
    if isinstance(error, av.error.ProtocolNotFoundError | av.error.DemuxerNotFoundError):
        return "PyAV's FFmpeg was built without this protocol; send it over rtsp, tcp or http"
    if isinstance(error, av.error.OptionNotFoundError):
        return "FFmpeg does not know one of the options; check their names"
    if isinstance(error, av.error.InvalidDataError | av.error.EOFError | av.error.ArgumentError):
        return "what comes is not video in a format that FFmpeg knows; does ffplay show it?"
    host = _unknown_host(url)
    if host is not None:
        return f"the host {host} is not known; check its name and the network"
    if getattr(error, "errno", None) == errno.EIO:
        return "the connection ended before there was any video; does ffplay show it?"
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return f"it cannot be opened: {redact(reason)}; does ffplay show it?"


def _unknown_host(url: str) -> str | None:
    """Return the URL's host if it has no address: FFmpeg calls that an I/O error."""
    try:
        host = urlsplit(url).hostname
        if host:
            socket.getaddrinfo(host, None)
    except socket.gaierror:
        return host
    except (ValueError, OSError):
        return None
    return None
