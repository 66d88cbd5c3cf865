"""Refusal: a request that is answered with an error of its own making."""

from __future__ import annotations

from typing import TYPE_CHECKING

from streamseg.errors import StreamsegError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Refusal"]


class Refusal(StreamsegError):
    """A request is not carried out.

    Args:
        status: HTTP status, 400 to 503.
        reason: One line for whoever asked: what was wrong, and what to try.
        headers: Further headers of the answer.
    """

    def __init__(
        self, status: int, reason: str, *, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(reason)
        self.status = status
        self.headers = dict(headers or {})
