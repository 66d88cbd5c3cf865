from __future__ import annotations

import pytest

from streamseg.cli.options import parse_seconds
from streamseg.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("1.5", 1.5),
        ("1:30", 90),
        ("01:02:03.5", 3723.5),
        (" 7 ", 7),
        ("10m", 600),
        ("1h30m", 5400),
        ("2m30.5s", 150.5),
        (None, None),
    ],
)
def test_times_are_read(text: str | None, seconds: float | None) -> None:
    assert parse_seconds("--start", text) == seconds


@pytest.mark.parametrize("text", ["", "-3", "1:2:3:4", "soon", "1e3", "nan", "1.2.3"])
def test_what_is_no_time_is_told(text: str) -> None:
    with pytest.raises(ConfigError, match="--start is"):
        parse_seconds("--start", text)
