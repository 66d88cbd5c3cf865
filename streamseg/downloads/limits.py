"""What a download may take."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["DownloadLimits"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadLimits:
    """What a download may take.

    Attributes:
        max_bytes: The largest file.
        connect_timeout_s: Seconds to reach the server.
        read_timeout_s: Seconds without a byte before the connection counts as cut.
        attempts: Failures in a row, less than 1 MiB apart, before it is given up.
        backoff_s: Wait before the second attempt in seconds; it doubles, and half of it is chance.
        max_backoff_s: What it doubles to.
        max_retry_after_s: A server that asks to come back later than this is not waited for.
        max_redirects: Redirects that are followed.
    """

    max_bytes: int = 4 << 30
    connect_timeout_s: float = 15.0
    read_timeout_s: float = 30.0
    attempts: int = 6
    backoff_s: float = 0.5
    max_backoff_s: float = 20.0
    max_retry_after_s: float = 60.0
    max_redirects: int = 8
