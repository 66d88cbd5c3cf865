"""The limiter under events in any order: nothing is lost, doubled, out of order or too old."""

from __future__ import annotations

import random

import av
import pytest

from streamseg.errors import WorkerDiedError
from streamseg.flow import FlowLimit, FlowLimiter, Ticket
from streamseg.frames import Frame
from streamseg.segmentation import Segmentation
from tests.unit.virtual_time import run_in_virtual_time

PICTURE = av.VideoFrame(16, 16, "yuv420p")


class Play:
    """One random run."""

    def __init__(self, when_busy: str, seed: int) -> None:
        self.dice = random.Random(seed)
        self.now_s = 0.0
        self.frames = 0
        self.flights: list[Ticket] = []
        self.held: list[Ticket] = []
        self.out: list[Ticket] = []
        self.limit = FlowLimit(
            when_busy,  # type: ignore[arg-type]
            max_in_flight=self.dice.choice([None, None, 1, 2, 5]),
            max_mask_age_s=self.dice.choice([0.05, 0.3, 1.0]),
            on_missing_mask=self.dice.choice(["hide", "pass", "drop"]),
        )
        self.limiter = FlowLimiter(
            self.limit,
            start=self.flights.append,
            segmenting=self.dice.random() < 0.9,
            clock=lambda: self.now_s,
        )
        self.workers = self.dice.choice([1, 2, 3])

    async def run(self) -> None:
        for _ in range(400):
            self.now_s += 1.5 if self.dice.random() < 0.01 else self.dice.choice([0.001, 0.033])
            await self.event(self.dice.random())
            self.check()
        self.limiter.ended()
        while self.flights:
            self.answer(0)
            await self.deliver(len(self.held) + 100)
            self.check()
        if self.limit.live:
            self.limiter.abandon("end")
        await self.deliver(len(self.held) + 100)
        self.check()
        assert self.limiter.in_flight == 0

    async def event(self, number: float) -> None:
        live = self.limit.live
        if number < 0.4:
            if live or self.limiter.in_flight < self.limit.places(self.workers):
                self.limiter.arrived(self.frame())
        elif number < 0.45:
            self.limiter.model_ready(self.workers)
        elif number < 0.7 and self.flights:
            place = self.dice.randrange(len(self.flights)) if self.dice.random() < 0.3 else 0
            if live and self.dice.random() < 0.1 and self.now_s < 25:
                self.limiter.failed(self.flights.pop(place), WorkerDiedError("died"))
            else:
                self.answer(place)
        elif number < 0.9:
            await self.deliver(1)
        elif number < 0.92 and live:
            self.limiter.abandon("paused")
        elif number < 0.93:
            self.frame()
            self.limiter.leave_out("paused")

    def frame(self) -> Frame:
        self.frames += 1
        return Frame(PICTURE, self.frames, self.now_s)

    def answer(self, place: int) -> None:
        ticket = self.flights.pop(place)
        self.limiter.answered(ticket, Segmentation(ticket.frame.index, ("SELFIE",)))

    async def deliver(self, count: int) -> None:
        line = self.limiter._line
        while self.limiter._head < len(line) and line[self.limiter._head].state == "shown":
            self.held.append(await self.limiter.next())
        for ticket in self.held[:count]:
            self.held.remove(ticket)
            old = ticket.made_for is not None and ticket.made_for is not ticket.frame
            if old and self.dice.random() < 0.3 and not self.limiter.unmask(ticket):
                continue
            self.limiter.done(ticket)
            self.out.append(ticket)

    def check(self) -> None:
        counts, limiter = self.limiter.counts, self.limiter
        dropped = sum(counts.dropped.values())
        assert counts.arrived == self.frames
        assert counts.arrived == len(self.out) + dropped + limiter.in_flight
        assert 0 <= counts.reused + counts.hidden <= counts.arrived
        indices = [ticket.frame.index for ticket in self.out]
        assert indices == sorted(set(indices))
        for ticket in self.out[-3:]:
            if ticket.made_for is None:
                continue
            age_s = ticket.frame.captured_s - ticket.made_for.captured_s
            limit_s = self.limit.max_mask_age_s if self.limit.when_busy == "reuse" else 0.0
            assert 0 <= age_s <= limit_s + 1e-9


@pytest.mark.parametrize("when_busy", ["drop", "reuse", "wait"])
def test_frames_are_counted_once_and_stay_in_order_whatever_happens(when_busy: str) -> None:
    async def work() -> None:
        for seed in range(100):
            await Play(when_busy, seed).run()

    run_in_virtual_time(work())
