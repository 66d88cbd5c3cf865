"""NullSink: takes everything, keeps nothing; for benchmarks and dry runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

from streamseg.abc import Sink, SinkStatistics

if TYPE_CHECKING:
    from streamseg.frames import Frame, StreamInfo
    from streamseg.segmentation import Segmentation

__all__ = ["NullSink"]


class NullSink(Sink):
    """Counts the frames and lets them go."""

    name = "null"

    def __init__(self) -> None:
        self._open = False
        self._finished = False
        self._accepted = 0

    async def open(self, info: StreamInfo) -> None:
        """Start counting.

        Raises:
            RuntimeError: If it is open already.
        """
        if self._open:
            raise RuntimeError("NullSink.open() was called twice")
        self._open = True
        self._accepted = 0

    async def send(self, frame: Frame, segmentation: Segmentation | None = None) -> None:
        """Count the frame.

        Raises:
            anyio.ClosedResourceError: If the sink is closed, finished, or was never opened.
        """
        if not self._open:
            raise anyio.ClosedResourceError
        self._accepted += 1

    async def finish(self) -> None:
        """End the stream.

        Raises:
            anyio.ClosedResourceError: If the sink is not open.
        """
        if not self._open:
            raise anyio.ClosedResourceError
        self._open, self._finished = False, True

    async def commit(self) -> None:
        """Do nothing, as often as wanted.

        Raises:
            anyio.ClosedResourceError: If the sink was not finished.
        """
        if not self._finished:
            raise anyio.ClosedResourceError

    async def aclose(self) -> None:
        """Close it; may be called twice."""
        self._open = False

    def statistics(self) -> SinkStatistics:
        """Return the counters of this moment."""
        return SinkStatistics(accepted=self._accepted, written=self._accepted)
