"""What an error in signalling is to others."""

from __future__ import annotations

from typing import NoReturn

import anyio
from aiortc.exceptions import OperationError

from streamseg.webrtc.errors import SignalError

__all__ = ["MisuseError", "raise_refusal"]


class MisuseError(RuntimeError):
    """A mistake of the caller's, not of the other side."""


def raise_refusal(exc: BaseException, what: str) -> NoReturn:
    """Raise what an error in signalling is to others."""
    if isinstance(exc, OperationError):
        raise SignalError(
            f"the {what} has no codec in common: H264 or VP8, and Opus, are taken", status=406
        ) from exc
    ours = isinstance(exc, SignalError | anyio.ClosedResourceError | MisuseError)
    if ours or not isinstance(exc, Exception):
        raise exc
    # The text of the error may repeat what came; its kind does not.
    raise SignalError(f"the {what} cannot be understood ({type(exc).__name__})") from exc
