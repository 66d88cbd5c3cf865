"""Pictures for ``async for``: a sink whose target is the caller's own loop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import anyio

from streamseg.abc import Sink, SinkStatistics

if TYPE_CHECKING:
    from streamseg.frames import Frame, StreamInfo
    from streamseg.segmentation import Segmentation

__all__ = ["PictureIterator"]


class PictureIterator(Sink):
    """Gives each picture with its masks to ``async for``; one waits at most."""

    name = "async for"

    def __init__(self) -> None:
        self._into, self._out_of = anyio.create_memory_object_stream[
            "tuple[Frame, Segmentation | None]"
        ](0)
        self._accepted = 0
        self._error: BaseException | None = None

    async def open(self, info: StreamInfo) -> None:
        """Do nothing: there is nothing to prepare."""

    async def send(self, frame: Frame, segmentation: Segmentation | None = None) -> None:
        """Wait until the loop takes the picture."""
        await self._into.send((frame, segmentation))
        self._accepted += 1

    async def finish(self) -> None:
        """Do nothing: what was sent has been taken."""

    async def commit(self) -> None:
        """Do nothing: there is no target to replace."""

    def end(self, error: BaseException | None = None) -> None:
        """End the iteration after what was sent, with an error if there is one."""
        self._error = error
        self._into.close()

    async def aclose(self) -> None:
        """End both sides."""
        self._into.close()
        self._out_of.close()

    def statistics(self) -> SinkStatistics:
        """Return the counters of this moment."""
        return SinkStatistics(accepted=self._accepted, written=self._accepted)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> tuple[Frame, Segmentation | None]:
        try:
            return await self._out_of.receive()
        except (anyio.EndOfStream, anyio.ClosedResourceError):
            error, self._error = self._error, None
            if error is not None:
                raise error from error.__cause__
            raise StopAsyncIteration from None
