"""SignalError: what an offer or an answer is refused with."""

from __future__ import annotations

from streamseg.errors import StreamsegError

__all__ = ["SignalError"]


class SignalError(StreamsegError):
    """A session description cannot be used; the message is one line without any of its content.

    Attributes:
        status: The HTTP status that says it best: 400 malformed, 406 no common codec or direction,
            413 too large, 415 not what is expected at all, 422 well-formed but not to be served.
    """

    exit_code = 1

    def __init__(self, message: str, *, status: int = 400) -> None:
        super().__init__(message)
        self.status = status
