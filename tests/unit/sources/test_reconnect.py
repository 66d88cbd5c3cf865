from __future__ import annotations

import math

import pytest

from streamseg.errors import ConfigError
from streamseg.sources.reconnect import Backoff, Reconnect


def delays(plan: Reconnect, uniform: float, count: int) -> list[float | None]:
    now_s = 100.0
    backoff = Backoff(plan, now_s, uniform=lambda low, high: low + (high - low) * uniform)
    result = []
    for _ in range(count):
        delay_s = backoff.next_delay_s(now_s)
        result.append(delay_s)
        now_s += delay_s or 0
    return result


def test_waits_grow_up_to_the_longest() -> None:
    plan = Reconnect(first_delay_s=0.5, factor=2, max_delay_s=3, give_up_after_s=None)
    assert delays(plan, 0.5, 5) == pytest.approx([0.5, 1, 2, 3, 3])


@pytest.mark.parametrize(("uniform", "share"), [(0.0, 0.8), (1.0, 1.2)])
def test_jitter_makes_each_wait_shorter_or_longer(uniform: float, share: float) -> None:
    plan = Reconnect(first_delay_s=1, factor=2, max_delay_s=10, jitter=0.2, give_up_after_s=None)
    assert delays(plan, uniform, 3) == pytest.approx([share, 2 * share, 4 * share])


def test_it_gives_up_in_time_and_tries_once_more_at_the_end() -> None:
    plan = Reconnect(first_delay_s=1, factor=3, max_delay_s=100, give_up_after_s=5)
    assert delays(plan, 0.5, 4) == [pytest.approx(1), pytest.approx(3), pytest.approx(1), None]


def test_no_wait_at_all_is_possible_and_gives_up_as_well() -> None:
    backoff = Backoff(Reconnect(first_delay_s=0, give_up_after_s=1), 0.0)
    assert backoff.next_delay_s(0.5) == 0
    assert backoff.next_delay_s(1.0) is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("first_delay_s", -1),
        ("first_delay_s", math.nan),
        ("factor", 0.5),
        ("max_delay_s", math.inf),
        ("jitter", 1.5),
        ("give_up_after_s", -0.1),
    ],
)
def test_a_wrong_number_is_named(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"{name} is {value}"):
        Reconnect(**{name: value})
