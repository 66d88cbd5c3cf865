from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from streamseg.cli.logs import JsonFormatter, RedactingFilter, TextFormatter, setup_logging

URL = "rtsp://me:geheim@cam.example/1?token=abc123"


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    """The root logger, as it was afterwards; pytest's own handlers are not closed."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers.clear()
    yield root
    root.handlers[:] = handlers
    root.setLevel(level)


def record(event: str, /, *args: object, **fields: Any) -> logging.LogRecord:
    made = logging.getLogger("streamseg.runtime.pool").makeRecord(
        "streamseg.runtime.pool", logging.WARNING, "pool.py", 1, event, args, None, extra=fields
    )
    made.created = 1_772_366_400.123
    return made


def test_text_is_one_line_with_the_fields_behind() -> None:
    line = TextFormatter().format(
        record("model process %d started again", 1, restarts=2, cause="no answer", after_s=1.25)
    )
    assert line == (
        "2026-03-01T12:00:00.123Z warning runtime.pool: model process 1 started again "
        'restarts=2 cause="no answer" after_s=1.25'
    )


def test_json_is_one_object() -> None:
    line = JsonFormatter().format(
        record("model process %d started again", 1, restarts=2, cause="no answer", path=Path("a"))
    )
    assert json.loads(line) == {
        "time": "2026-03-01T12:00:00.123Z",
        "level": "warning",
        "logger": "streamseg.runtime.pool",
        "event": "model process 1 started again",
        "restarts": 2,
        "cause": "no answer",
        "path": "a",
    }


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("plain", "plain"),
        ("two words", '"two words"'),
        ("", '""'),
        ('a"b', '"a\\"b"'),
        ("a\nb", '"a\\nb"'),
        ("k=v", '"k=v"'),
        (0.1 + 0.2, "0.3"),
        (None, "None"),
        ([1, "x"], '[1,"x"]'),
        ("größe", "größe"),
    ],
)
def test_values_are_one_word_each(value: object, shown: str) -> None:
    assert TextFormatter().format(record("event", key=value)).endswith(f": event key={shown}")


@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()])
def test_an_event_of_two_lines_becomes_one(formatter: logging.Formatter) -> None:
    assert "\n" not in formatter.format(record("first\nsecond\r", key="a\r\nb"))


def test_a_field_cannot_take_the_place_of_the_event() -> None:
    line = json.loads(JsonFormatter().format(record("it happened", event="no", level="no")))
    assert (line["event"], line["level"]) == ("it happened", "warning")


@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()])
def test_placeholders_that_do_not_fit_are_told_as_they_are(formatter: logging.Formatter) -> None:
    assert "%d of %d" in formatter.format(record("%d of %d", 1))


@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()])
def test_credentials_never_come_out(formatter: logging.Formatter) -> None:
    try:
        raise OSError(f"cannot open {URL}")
    except OSError:
        failed = record(
            "cannot open %s",
            URL,
            url=URL,
            urls=[URL, {"inner": URL}],
            error=OSError(URL),
            count=3,
        )
        failed.exc_info = sys.exc_info()
    assert RedactingFilter().filter(failed)
    line = formatter.format(failed)
    assert "geheim" not in line
    assert "abc123" not in line
    assert line.count("cam.example") == 6, "event, four in fields, traceback"
    assert "Traceback" in line


def test_numbers_stay_numbers_behind_the_filter() -> None:
    made = record("event", count=3, share=0.5, on=True, none=None)
    RedactingFilter().filter(made)
    line = json.loads(JsonFormatter().format(made))
    assert (line["count"], line["share"], line["on"], line["none"]) == (3, 0.5, True, None)


def test_warnings_go_to_standard_error_and_debugging_does_not(
    root: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    setup_logging()
    setup_logging()  # again: each event still comes once
    log = logging.getLogger("streamseg.sources.live")
    log.info("not told")
    log.warning("connection lost", extra={"url": URL, "attempt": 1})
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert "warning sources.live: connection lost url=" in line
    assert line.endswith("attempt=1")
    assert "geheim" not in line


def test_verbose_tells_all_and_json_is_chosen(
    root: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    setup_logging(verbose=True, log_format="json")
    logging.getLogger("streamseg.x").debug("detail")
    logging.getLogger("asyncio").debug("of no interest")
    assert [json.loads(line)["event"] for line in capsys.readouterr().err.splitlines()] == [
        "detail"
    ]


def test_lines_follow_standard_error_to_where_it_is_now(
    root: logging.Logger, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    setup_logging()
    monkeypatch.setattr(sys, "stderr", sys.stdout)
    logging.getLogger("streamseg.x").warning("above the status line")
    out, err = capsys.readouterr()
    assert "above the status line" in out
    assert err == ""
