"""Backpressure: what happens to a frame while the model is generating.

``FlowLimit`` is the policy, a value chosen once; ``FlowLimiter`` carries it out. The limiter neither
waits for a clock nor runs anything by itself: frames arrive, the model answers or fails, and each of
these events decides what happens next, so that the same events always give the same result.

    wait    Every frame waits for its own mask; the source waits when too many are under way.
    drop    A frame that finds the model busy waits in a place for one; a newer frame takes that
            place, and the older one is dropped. So the newest frame is always the next one
            segmented, and no frame is shown later than one model time and one frame time after it
            came, with nothing that could pile up.
    reuse   Every frame is shown at once, with the newest mask that is young enough. While the model
            is faster than the frames come, a frame waits for its own, at most until the next frame.

With ``drop`` and ``reuse`` nobody waits for a mask that is not to be had: before the first one, while
a model process is started again, or when the model does not answer, the limiter is *blind*, and each
frame goes out at once as ``on_missing_mask`` says: hidden, as it is, or not at all.
"""

from __future__ import annotations

import asyncio
import statistics
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import anyio

from streamseg.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from streamseg.frames import Frame
    from streamseg.segmentation import Segmentation

__all__ = ["FlowCounts", "FlowLimit", "FlowLimiter", "Ticket"]

WhenBusy = Literal["wait", "drop", "reuse"]
OnMissingMask = Literal["hide", "pass", "drop"]

_TYPICAL_OF = 5  # the model's last answers, whose median is its typical time
_STALLED_AFTER_S = 1.0
_STALLED_FACTOR = 4  # typical times
_GIVE_UP_AFTER_S = 30.0


@dataclass(frozen=True, slots=True)
class FlowLimit:
    """What happens while the model is busy.

    Attributes:
        when_busy: ``wait`` (files), ``drop`` (the default for live streams) or ``reuse``.
        max_in_flight: How many frames may be between the source and the sinks; None chooses by
            the number of model processes: ``4 + 2 * workers`` to wait, so that decoding, model,
            effect and encoding overlap, and ``workers + 1`` for live streams, so that nothing
            piles up.
        max_mask_age_s: ``reuse``: how much older than the frame the frame of its mask may be, in
            seconds.
        on_missing_mask: ``drop`` and ``reuse``: what is shown of a frame without a mask. ``hide``:
            the effect over the whole picture. ``pass``: the picture as it is. ``drop``: nothing.

    Raises:
        ConfigError: If a value is not one of these, or out of range.
    """

    when_busy: WhenBusy = "wait"
    max_in_flight: int | None = None
    max_mask_age_s: float = 1.0
    on_missing_mask: OnMissingMask = "hide"

    def __post_init__(self) -> None:
        if self.when_busy not in ("wait", "drop", "reuse"):
            raise ConfigError(f"when_busy is {self.when_busy!r}, expected wait, drop or reuse")
        if self.on_missing_mask not in ("hide", "pass", "drop"):
            raise ConfigError(
                f"on_missing_mask is {self.on_missing_mask!r}, expected hide, pass or drop"
            )
        if self.max_in_flight is not None and self.max_in_flight < 1:
            raise ConfigError(f"max_in_flight is {self.max_in_flight}, expected at least 1")
        if not self.max_mask_age_s > 0:
            raise ConfigError(f"max_mask_age_s is {self.max_mask_age_s}, expected more than 0")

    @property
    def live(self) -> bool:
        """Whether frames may be dropped rather than be late."""
        return self.when_busy != "wait"

    def places(self, workers: int) -> int:
        """Return how many frames may be under way with this many model processes."""
        if self.max_in_flight is not None:
            return self.max_in_flight
        return workers + 1 if self.live else 4 + 2 * workers


@dataclass(slots=True, eq=False)
class Ticket:
    """A frame on its way from the source to the sinks.

    Attributes:
        frame: The frame as it came.
        state: ``waiting`` until decided, then ``shown`` (see the other fields), or ``dropped``.
        segmentation: The model's answer to show it with; None if there is none.
        made_for: The frame that the answer belongs to; this or, with ``reuse``, an older one.
        hidden: Whether it is shown without a mask, wholly hidden.
        raw: Whether it is shown as it is, without mask and effect, because the policy says so.
        handed_on: By how many sinks it has been taken; for whoever delivers it.
    """

    frame: Frame
    state: Literal["waiting", "shown", "dropped"] = "waiting"
    segmentation: Segmentation | None = None
    made_for: Frame | None = None
    hidden: bool = False
    raw: bool = False
    handed_on: int = 0


@dataclass(slots=True, eq=False)
class _Flight:
    """A frame in the model."""

    ticket: Ticket
    started_s: float


@dataclass(slots=True)
class FlowCounts:
    """What became of the frames: ``dropped`` by cause; ``hidden`` and ``reused`` were shown."""

    arrived: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    hidden: int = 0
    reused: int = 0


class FlowLimiter:
    """Decides for each frame whether and when it is segmented, and what it is shown with.

    All methods belong to the event loop. ``next`` returns the frames in their order::

        await limiter.place()
        limiter.arrived(frame)               # calls start(ticket) when the model may have it
        limiter.answered(ticket, masks)      # or limiter.failed(ticket, error)
        ticket = await limiter.next()
        limiter.done(ticket)

    Args:
        limit: The policy.
        start: Called to have a ticket's frame segmented; must not wait.
        segmenting: Whether there is a model at all; without one every frame is shown as it comes.
            The attribute of this name may be changed later.
        clock: Seconds that only grow; the event loop's by default.
    """

    def __init__(
        self,
        limit: FlowLimit,
        *,
        start: Callable[[Ticket], None],
        segmenting: bool = True,
        clock: Callable[[], float] = anyio.current_time,
    ) -> None:
        self.limit = limit
        self.counts = FlowCounts()
        self._start = start
        self.segmenting = segmenting
        self._clock = clock
        self._workers = 0
        # Bounded by `limit.places`: under way, in order, from admission to `done`.
        self._line: deque[Ticket] = deque()
        self._head = 0  # how many of the line `next` has returned
        self._flights: dict[Ticket, _Flight] = {}  # bounded by the number of workers, or the line
        self._waiting: Ticket | None = None
        self._blind = True
        self._newest: tuple[Segmentation, Frame] | None = None
        self._own: Ticket | None = None  # reuse: the frame that waits for its own mask
        self._answers: deque[float] = deque(maxlen=_TYPICAL_OF)
        self._interval_s: float | None = None
        self._arrived_s: float | None = None
        self._failing_since_s: float | None = None
        self._ended = False
        self._changed = asyncio.Event()
        self._room = asyncio.Event()

    # -- the model ---------------------------------------------------------------------------

    def model_ready(self, workers: int) -> None:
        """Say that the model takes this many frames at once from now on; 0: none for now."""
        self._workers = workers
        self._room.set()
        self._start_waiting()

    def answered(self, ticket: Ticket, segmentation: Segmentation) -> None:
        """Take the model's answer."""
        flight = self._flights.pop(ticket)
        self._answers.append(self._clock() - flight.started_s)
        self._failing_since_s = None
        self._blind = False
        if self._newest is None or ticket.frame.index > self._newest[1].index:
            self._newest = (segmentation, ticket.frame)
        if ticket.state == "waiting":
            self._show(ticket, (segmentation, ticket.frame))
        self._start_waiting()
        self._changed.set()

    def failed(self, ticket: Ticket, error: Exception) -> None:
        """Take it that the model failed on this frame.

        Raises:
            Exception: The error itself, if the policy is to wait for every mask, or if nothing but
                errors came for 30 seconds.
        """
        del self._flights[ticket]
        if not self.limit.live:
            raise error
        now = self._clock()
        if self._failing_since_s is None:
            self._failing_since_s = now
        elif now - self._failing_since_s > _GIVE_UP_AFTER_S:
            raise error
        self._lose_sight()
        if ticket is self._own:
            self._settle_own()
        elif ticket.state == "waiting":
            self._show_missing(ticket)
        self._changed.set()

    # -- frames ------------------------------------------------------------------------------

    async def place(self) -> None:
        """Wait until a frame may come; with ``drop`` and ``reuse`` it always may."""
        while not self.limit.live and len(self._line) >= self._places:
            self._room.clear()
            await self._room.wait()

    def arrived(self, frame: Frame) -> None:
        """Take the newest frame."""
        self.counts.arrived += 1
        ticket = Ticket(frame)
        now = self._clock()
        self._measure_interval(now)
        if not self.limit.live:
            self._line.append(ticket)
            if self.segmenting:
                self._launch(ticket)
            else:
                self._show(ticket, None)
        elif not self.segmenting:
            if self._enter(ticket):
                self._show(ticket, None)
        elif self.limit.when_busy == "drop":
            self._arrived_drop(ticket, now)
        else:
            self._arrived_reuse(ticket)
        self._changed.set()

    def leave_out(self, cause: str) -> None:
        """Count a frame that came and is not to be shown, for example while paused."""
        self.counts.arrived += 1
        self.counts.dropped[cause] += 1

    def ended(self) -> None:
        """Say that no more frames come; those under way still go out.

        One that still waits for a busy model does not: it would be later than any other.
        """
        self._ended = True
        if self._waiting is not None and self._to_come:
            self._drop(self._waiting, "stream ended")
        self._waiting = None
        self._changed.set()

    def unmask(self, ticket: Ticket) -> bool:
        """Take it that the mask of a ticket of ``next`` is of another scene: it counts as none.

        Returns:
            Whether the ticket is to be shown, as it is if it is ``raw`` now, else wholly hidden; if
            not, it has been dropped.
        """
        self.counts.reused -= 1
        if self.limit.on_missing_mask == "drop":
            self._head -= 1
            self._drop(ticket, "no mask")
            self._made_room()
            return False
        ticket.raw = self.limit.on_missing_mask == "pass"
        ticket.hidden = not ticket.raw
        self.counts.hidden += ticket.hidden
        return True

    def abandon(self, cause: str) -> None:
        """Drop what is not decided yet: the stream ends, or stands still, now."""
        self._settle_own()
        if self._waiting is not None and self._to_come:
            self._drop(self._waiting, cause)
        self._waiting = None
        for ticket in [ticket for ticket in self._line if ticket.state == "waiting"]:
            self._drop(ticket, cause)
        self._changed.set()

    async def next(self) -> Ticket:
        """Return the next frame to show, in order, once it is decided.

        Raises:
            anyio.EndOfStream: After the last one.
        """
        while True:
            if self._head < len(self._line):
                ticket = self._line[self._head]
                if ticket.state == "shown":
                    self._head += 1
                    return ticket
            elif self._ended:
                raise anyio.EndOfStream
            self._changed.clear()
            await self._changed.wait()

    def done(self, ticket: Ticket) -> None:
        """Say that a ticket of ``next`` has been delivered; its place is free again."""
        self._line.remove(ticket)
        self._head -= 1
        self._made_room()

    @property
    def patience_s(self) -> float:
        """How long the model may take for a frame before nobody waits for it any more."""
        return max(_STALLED_AFTER_S, _STALLED_FACTOR * self._typical_s)

    @property
    def depths(self) -> dict[str, int]:
        """How many frames are in the model, and under way in all."""
        return {"model": len(self._flights), "in_flight": self.in_flight}

    @property
    def in_flight(self) -> int:
        """How many frames are under way, neither delivered nor dropped."""
        return len(self._line) + self._to_come

    @property
    def _to_come(self) -> bool:
        """Whether a frame waits for the model, and is not in the line yet."""
        return self._waiting is not None and self._waiting.state == "waiting"

    # -- drop --------------------------------------------------------------------------------

    def _arrived_drop(self, ticket: Ticket, now: float) -> None:
        self._check_stalled(now)
        if self._blind:
            self._show_without(ticket)
            return
        self._drop_waiting()
        self._waiting = ticket
        self._start_waiting()

    def _start_waiting(self) -> None:
        ticket = self._waiting
        if ticket is None or not self._model_free:
            return
        if ticket.state == "waiting":
            if not self._has_room:
                return
            self._line.append(ticket)
        # else, with `reuse`, it is decided already: the model has it for its mask only
        self._waiting = None
        self._launch(ticket)

    def _drop_waiting(self) -> None:
        ticket, self._waiting = self._waiting, None
        if ticket is not None and ticket.state == "waiting":
            self._drop(ticket, "effect busy" if self._model_free else "model busy")

    def _check_stalled(self, now: float) -> None:
        """Give up waiting for a model that does not answer."""
        limit = self.patience_s
        stalled = [flight for flight in self._flights.values() if now - flight.started_s > limit]
        for flight in stalled:
            if flight.ticket.state == "waiting":
                # Too old to be shown: newer ones follow at once.
                self._drop(flight.ticket, "model stalled")
        if stalled and not self._blind:
            self._lose_sight()

    # -- reuse -------------------------------------------------------------------------------

    def _arrived_reuse(self, ticket: Ticket) -> None:
        self._settle_own()
        if not self._enter(ticket):
            return
        if not self._model_free:
            self._waiting = ticket
            self._show_newest(ticket)
            return
        self._waiting = None
        self._launch(ticket)
        interval = self._interval_s
        if interval is not None and 0 < self._typical_s < 0.9 * interval and not self._blind:
            self._own = ticket
        else:
            self._show_newest(ticket)

    def _settle_own(self) -> None:
        ticket, self._own = self._own, None
        if ticket is not None and ticket.state == "waiting":
            self._show_newest(ticket)

    def _show_newest(self, ticket: Ticket) -> None:
        newest = self._newest
        if newest is not None:
            age_s = ticket.frame.captured_s - newest[1].captured_s
            if age_s <= self.limit.max_mask_age_s:
                self._show(ticket, newest)
                return
        self._show_missing(ticket)

    # -- both --------------------------------------------------------------------------------

    @property
    def _model_free(self) -> bool:
        return len(self._flights) < self._workers

    @property
    def _places(self) -> int:
        return self.limit.places(max(1, self._workers))

    @property
    def _has_room(self) -> bool:
        return len(self._line) < self._places

    @property
    def _typical_s(self) -> float:
        return statistics.median(self._answers) if self._answers else 0.0

    def _measure_interval(self, now: float) -> None:
        if self._arrived_s is not None:
            step = now - self._arrived_s
            known = self._interval_s
            self._interval_s = step if known is None else known + 0.2 * (step - known)
        self._arrived_s = now

    def _launch(self, ticket: Ticket) -> None:
        self._flights[ticket] = _Flight(ticket, self._clock())
        self._start(ticket)

    def _enter(self, ticket: Ticket) -> bool:
        """Give a frame a place in the line, or drop it: what comes after the model is behind."""
        if self._has_room:
            self._line.append(ticket)
            return True
        self._drop(ticket, "effect busy")
        return False

    def _show_without(self, ticket: Ticket) -> None:
        """Show a frame at once, and have it segmented if the model is free: to see again."""
        if self._enter(ticket):
            self._show_missing(ticket)
        if self._model_free:
            self._launch(ticket)

    def _lose_sight(self) -> None:
        self._blind = True
        ticket, self._waiting = self._waiting, None
        if ticket is not None and ticket.state == "waiting" and self._enter(ticket):
            self._show_missing(ticket)

    def _show_missing(self, ticket: Ticket) -> None:
        if self.limit.on_missing_mask == "drop":
            self._drop(ticket, "no mask")
            return
        ticket.raw = self.limit.on_missing_mask == "pass"
        ticket.hidden = not ticket.raw
        self.counts.hidden += ticket.hidden
        self._show(ticket, None)

    def _show(self, ticket: Ticket, mask: tuple[Segmentation, Frame] | None) -> None:
        ticket.state = "shown"
        if mask is not None:
            ticket.segmentation, ticket.made_for = mask
            self.counts.reused += mask[1].index != ticket.frame.index

    def _drop(self, ticket: Ticket, cause: str) -> None:
        ticket.state = "dropped"
        self.counts.dropped[cause] += 1
        if ticket in self._line:
            self._line.remove(ticket)
            self._room.set()

    def _made_room(self) -> None:
        self._room.set()
        self._start_waiting()
        self._changed.set()
