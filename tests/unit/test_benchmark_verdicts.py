"""What the benchmark of the models says of its bars."""

from __future__ import annotations

import pytest

from tests.benchmarks.models import verdicts
from tests.benchmarks.models_verdicts import Verdict, beside_litert, of_forward, of_int8


def test_the_median_decides_and_the_spread_is_told() -> None:
    verdict = beside_litert("selfie", 2, [1.0, 3.0, 1.1], [1.0, 1.0, 1.0])
    assert verdict.met
    assert str(verdict) == (
        "met     selfie, 2 threads, of LiteRT's time: 1.100 (1.000-3.000 in 3 rounds), at most 1.1"
    )


def test_engines_are_compared_round_by_round() -> None:
    busy = beside_litert("selfie", 1, [1.0, 10.0, 1.0], [1.0, 10.0, 1.0])
    assert busy.values == (1.0, 1.0, 1.0)
    with pytest.raises(ValueError, match="shorter"):
        beside_litert("selfie", 1, [1.0, 2.0], [1.0])


@pytest.mark.parametrize(
    ("verdict", "met"),
    [
        (beside_litert("a", 1, [1.11], [1.0]), False),
        (of_int8("a", 1, [18.0, 18.0, 18.0], [10.0, 10.1, 9.9]), True),
        (of_int8("a", 1, [17.9], [10.0]), False),
        (of_forward("a", [1.2, 1.9, 2.6]), True),
        (of_forward("a", [1.9, 2.1, 2.6]), False),
        (Verdict("a", (2.0,), 2.0), True),
    ],
)
def test_what_is_missed_says_so(verdict: Verdict, met: bool) -> None:
    assert verdict.met is met
    assert str(verdict).startswith("met " if met else "missed ")


def test_every_bar_has_its_line() -> None:
    engines = {
        "selfie": ("streamseg", "LiteRT"),
        "deeplabv3_resnet50": ("streamseg", "streamseg int8", "eager PyTorch"),
        "mobilenet_v2": ("streamseg", "streamseg int8", "eager PyTorch"),
    }
    rows = [
        {"graph": graph, "engine": engine, "threads": threads, "times_ms": [1.0, 1.0, 1.0]}
        for graph, names in engines.items()
        for engine in names
        for threads in (1, 2)
    ]
    lines = [str(each) for each in verdicts(rows, {"selfie": [{"own_ms": 0.8}, {"own_ms": 0.9}]})]
    assert [line.partition(": ")[0] for line in lines] == [
        "met     selfie, 1 thread, of LiteRT's time",
        "met     selfie, 2 threads, of LiteRT's time",
        "missed  deeplabv3_resnet50, 1 thread, int8 beside fp32",
        "missed  deeplabv3_resnet50, 2 threads, int8 beside fp32",
        "met     selfie, forward without the model",
    ]
