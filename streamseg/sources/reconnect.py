"""When to try a broken connection again: exponential backoff with jitter, and an end to it."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

from streamseg.errors import ConfigError

__all__ = ["Backoff", "Reconnect"]


@dataclass(frozen=True, slots=True)
class Reconnect:
    """How to go about a broken connection.

    Attributes:
        first_delay_s: Wait before the first attempt, in seconds, 0 or more.
        factor: What each further wait is longer by, 1 or more.
        max_delay_s: The longest wait in seconds.
        jitter: Each wait is made shorter or longer by up to this fraction, 0 to 1, so that many
            clients of one server do not all come back at once.
        give_up_after_s: Seconds of failure without one picture in between after which the source
            fails; None never gives up.

    Raises:
        ConfigError: If a number is out of its range.
    """

    first_delay_s: float = 0.5
    factor: float = 2.0
    max_delay_s: float = 10.0
    jitter: float = 0.2
    give_up_after_s: float | None = 60.0

    def __post_init__(self) -> None:
        self._check("first_delay_s", self.first_delay_s, 0, math.inf)
        self._check("factor", self.factor, 1, math.inf)
        self._check("max_delay_s", self.max_delay_s, 0, math.inf)
        self._check("jitter", self.jitter, 0, 1)
        if self.give_up_after_s is not None:
            self._check("give_up_after_s", self.give_up_after_s, 0, math.inf)

    @staticmethod
    def _check(name: str, value: float, low: float, high: float) -> None:
        if not (math.isfinite(value) and low <= value <= high):
            wanted = f"{low:g} to {high:g}" if math.isfinite(high) else f"{low:g} or more"
            raise ConfigError(f"reconnect: {name} is {value}, expected {wanted}")


class Backoff:
    """The waits of one uninterrupted failure.

    Args:
        plan: How to wait.
        now_s: When the failure began, in seconds of any clock that does not jump.
        uniform: Returns a random number between its two arguments.
    """

    def __init__(
        self,
        plan: Reconnect,
        now_s: float,
        *,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._plan = plan
        self._began_s = now_s
        self._uniform = uniform
        self._delay_s = plan.first_delay_s

    def next_delay_s(self, now_s: float) -> float | None:
        """Return how long to wait before the next attempt, in seconds; None to give up."""
        plan = self._plan
        left_s = math.inf
        if plan.give_up_after_s is not None:
            left_s = self._began_s + plan.give_up_after_s - now_s
            if left_s <= 0:
                return None
        delay_s = min(self._delay_s, plan.max_delay_s)
        self._delay_s = delay_s * plan.factor
        jittered_s = delay_s * self._uniform(1 - plan.jitter, 1 + plan.jitter)
        return min(jittered_s, left_s)
