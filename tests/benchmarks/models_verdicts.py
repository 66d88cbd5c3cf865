"""The bars that the models are held to, and whether they are met.

A figure is judged by its median over the rounds. Two engines are compared round by round: both run
within seconds of each other there, so that what else the machine does hits both.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

OF_LITERT = 1.1
OF_INT8 = 1.8
OWN_MS = 2.0


@dataclass(frozen=True)
class Verdict:
    """What a bar says of the figures of all rounds.

    Attributes:
        subject: What was measured.
        values: One of each round.
        bar: What the median is held against.
        at_least: Whether it must reach the bar, rather than stay below it.
        unit: Of the values, for people.
    """

    subject: str
    values: tuple[float, ...]
    bar: float
    at_least: bool = False
    unit: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def met(self) -> bool:
        return self.median >= self.bar if self.at_least else self.median <= self.bar

    def __str__(self) -> str:
        limit = "at least" if self.at_least else "at most"
        rounds = f"{len(self.values)} round{'' if len(self.values) == 1 else 's'}"
        return (
            f"{'met   ' if self.met else 'missed'}  {self.subject}: {self.median:.3f}{self.unit} "
            f"({min(self.values):.3f}-{max(self.values):.3f} in {rounds}), "
            f"{limit} {self.bar:g}{self.unit}"
        )


def beside_litert(
    graph: str, threads: int, own: Sequence[float], litert: Sequence[float]
) -> Verdict:
    """Judge a graph that both engines run.

    Args:
        graph: Its name.
        threads: Of both engines.
        own: ms of a run, one of each round.
        litert: The same of LiteRT, in the same rounds.
    """
    ratios = tuple(mine / other for mine, other in zip(own, litert, strict=True))
    return Verdict(f"{graph}, {_threads(threads)}, of LiteRT's time", ratios, OF_LITERT)


def of_int8(graph: str, threads: int, plain: Sequence[float], int8: Sequence[float]) -> Verdict:
    """Judge how much faster an int8 program is than its float32 one; ms of each round."""
    ratios = tuple(slow / quick for slow, quick in zip(plain, int8, strict=True))
    return Verdict(
        f"{graph}, {_threads(threads)}, int8 beside fp32", ratios, OF_INT8, at_least=True
    )


def of_forward(model: str, own_ms: Sequence[float]) -> Verdict:
    """Judge what a call takes beside the model; the median ms of each round."""
    return Verdict(f"{model}, forward without the model", tuple(own_ms), OWN_MS, unit=" ms")


def _threads(count: int) -> str:
    return f"{count} thread{'' if count == 1 else 's'}"
