"""Outlet: one sink of a running pipeline, with the queue in front of it.

Each sink has a task of its own, so that a slow one holds up no other. In a file job the queue is
bounded by the frames that the pipeline lets under way; in a live one by the sink's
``live_capacity``: when as many pictures wait, the oldest is dropped and counted. Side packets are
never dropped for a picture's sake: they are small, and sound with a hole is heard.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anyio

from streamseg.errors import StreamsegError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from streamseg.abc import Sink
    from streamseg.flow import Ticket
    from streamseg.frames import Frame
    from streamseg.segmentation import Segmentation
    from streamseg.telemetry import StageTimer

__all__ = ["Outlet", "Picture"]

_MAX_PACKETS = 4096  # about a minute of sound: a sink that is so far behind has failed anyway


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """What a sink gets: the frame with the effect applied, and its masks."""

    frame: Frame
    segmentation: Segmentation | None
    ticket: Ticket | None = None
    """None for a picture that is shown again while the pipeline is paused."""


class Outlet:
    """Hands pictures and packets to one sink, in a task of its own.

    Args:
        sink: Where they go; open. A live outlet closes it when it fails.
        live: Whether pictures are dropped rather than be late, and whether the sink may fail
            without the others.
        on_sent: Called with each picture that the sink has taken.
        on_failed: Called when a live outlet's sink has failed; ``error`` is set.
        timer: Gets the time that the sink takes for each picture.
    """

    def __init__(
        self,
        sink: Sink,
        *,
        live: bool,
        on_sent: Callable[[Picture], None],
        on_failed: Callable[[Outlet], None],
        timer: StageTimer,
    ) -> None:
        self.sink = sink
        self.error: StreamsegError | None = None
        self.dropped: Counter[str] = Counter()
        self._live = live
        self._on_sent = on_sent
        self._on_failed = on_failed
        self._timer = timer
        self._pictures: deque[Picture] = deque()
        # The sequence numbers say in which order pictures and packets came.
        self._packets: deque[tuple[int, Sequence[Any]]] = deque()
        self._numbers: deque[int] = deque()
        self._number = 0
        self._sending = False
        self._ended = False
        self._changed = asyncio.Event()

    def __len__(self) -> int:
        return len(self._pictures)

    def put(self, picture: Picture) -> None:
        """Queue a picture; never waits."""
        if self.error is not None:
            self.dropped["sink failed"] += 1
            return
        if self._live and len(self._pictures) >= self.sink.live_capacity:
            self._pictures.popleft()
            self._numbers.popleft()
            self.dropped["sink busy"] += 1
        self._pictures.append(picture)
        self._numbers.append(self._next_number())
        self._changed.set()

    def put_packets(self, packets: Sequence[Any]) -> None:
        """Queue side packets; never waits."""
        if self.error is not None:
            return
        if self._live and len(self._packets) >= _MAX_PACKETS:
            self._packets.popleft()
            self.dropped["packets: sink busy"] += 1
        self._packets.append((self._next_number(), packets))
        self._changed.set()

    def end(self) -> None:
        """Say that nothing more comes; ``run`` ends when the queue is empty."""
        self._ended = True
        self._changed.set()

    async def run(self) -> None:
        """Send what is queued until the end.

        Raises:
            StreamsegError: If the sink fails, and this is not live. A live outlet keeps the error
                in ``error`` instead and counts what it cannot send any more.
        """
        try:
            await self._send_all()
        except StreamsegError as exc:
            if not self._live:
                raise
            self.error = exc
            self.dropped["sink failed"] += len(self._pictures) + self._sending
            self._pictures.clear()
            self._numbers.clear()
            self._packets.clear()
            self._on_failed(self)
            with anyio.CancelScope(shield=True):
                await self.sink.aclose()

    async def _send_all(self) -> None:
        while True:
            if self._packets and not (self._numbers and self._numbers[0] < self._packets[0][0]):
                await self.sink.send_packets(self._packets.popleft()[1])
            elif self._pictures:
                picture = self._pictures.popleft()
                self._numbers.popleft()
                self._sending = True
                with self._timer.measure():
                    await self.sink.send(picture.frame, picture.segmentation)
                self._sending = False
                self._on_sent(picture)
            elif self._ended:
                return
            else:
                self._changed.clear()
                await self._changed.wait()

    def _next_number(self) -> int:
        self._number += 1
        return self._number
