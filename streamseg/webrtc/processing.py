"""What the server asks of the processing of a session, which is made elsewhere."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from streamseg.abc import Sink, Source
    from streamseg.telemetry import PipelineStatistics
    from streamseg.webrtc.choices import EffectChoice
    from streamseg.webrtc.control import Change

__all__ = ["Processing", "SessionFactory", "SessionRequest"]


@dataclass(frozen=True, slots=True)
class SessionRequest:
    """What a session begins with.

    Attributes:
        name: Of the session, for logs.
        effect: What was asked for; None takes the server's own.
    """

    name: str
    effect: EffectChoice | None = None


class Processing(Protocol):
    """A pipeline from one source to its sinks."""

    async def run(self) -> None:
        """Open everything, work until the source ends, close everything.

        Raises:
            StreamsegError: If a part fails for good.
        """

    async def control(self, change: Change) -> None:
        """Change something from the next frame on.

        Raises:
            StreamsegError: If that cannot be done; everything stays as it was.
        """

    def statistics(self) -> PipelineStatistics:
        """Return the counters of this moment; never waits."""


SessionFactory = Callable[["Source", Sequence["Sink"], SessionRequest], Awaitable[Processing]]
"""Makes the processing of a session; raises StreamsegError if the effect cannot be made."""
