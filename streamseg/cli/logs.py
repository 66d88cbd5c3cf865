"""Log lines: one an event, for people with a terminal or for programs that collect them.

Events are logged with the standard library; values go into ``extra``, not into the message::

    _log.warning("model process started again", extra={"worker": 1, "restarts": 2})

becomes, as text and as JSON::

    2026-03-01T12:00:00.123Z warning runtime.pool: model process started again worker=1 restarts=2
    {"time":"2026-03-01T12:00:00.123Z","level":"warning","logger":"streamseg.runtime.pool",
     "event":"model process started again","worker":1,"restarts":2}
"""

from __future__ import annotations

import json
import logging
import re
import sys
from datetime import UTC, datetime
from pathlib import PurePath
from typing import Any, Literal, TextIO

from streamseg.redact import redact

__all__ = ["JsonFormatter", "LogFormat", "RedactingFilter", "TextFormatter", "setup_logging"]

LogFormat = Literal["text", "json"]

_PLAIN = re.compile(r"[^\s\"'=]+")
# What every record has; the rest came with extra={...}.
_STANDARD = frozenset(
    (*vars(logging.LogRecord("", 0, "", 0, "", (), None)), "message", "asctime", "taskName")
)


def setup_logging(*, verbose: bool = False, log_format: LogFormat = "text") -> None:
    """Send log lines to standard error; replaces what was set up before.

    Args:
        verbose: All events with tracebacks, instead of warnings and errors.
        log_format: ``text`` for people, ``json`` for programs.
    """
    handler = _StderrHandler()
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    handler.addFilter(RedactingFilter())
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
        old.close()
    root.addHandler(handler)
    root.setLevel(logging.DEBUG if verbose else logging.WARNING)
    for noisy in ("asyncio", "libav"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


class TextFormatter(logging.Formatter):
    """``TIME LEVEL LOGGER: EVENT KEY=VALUE ...``; a traceback follows on lines of its own."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        name = record.name.removeprefix("streamseg.")
        words = [_time(record), record.levelname.lower(), f"{name}:", _one_line(_event(record))]
        words += [f"{key}={_quoted(value)}" for key, value in _fields(record).items()]
        trace = self._traceback(record)
        return " ".join(words) + (f"\n{trace}" if trace else "")

    def _traceback(self, record: logging.LogRecord) -> str:
        return record.exc_text or (self.formatException(record.exc_info) if record.exc_info else "")


class JsonFormatter(TextFormatter):
    """One JSON object a line: time, level, logger, event, the event's fields, traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": _event(record),
        }
        # A field never takes the place of what every line has.
        line |= {key: value for key, value in _fields(record).items() if key not in line}
        if trace := self._traceback(record):
            line["traceback"] = trace
        return json.dumps(line, default=str, separators=(",", ":"))


class RedactingFilter(logging.Filter):
    """Removes credentials from everything that a record says: the last defence, not the first."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Clean the record in place; none is held back."""
        record.msg, record.args = redact(_event(record)), None
        for key, value in _fields(record).items():
            setattr(record, key, _cleaned(value))
        if record.exc_info:
            # Formatters use this text instead of making their own.
            record.exc_text = redact(logging.Formatter().formatException(record.exc_info))
        return True


class _StderrHandler(logging.StreamHandler[TextIO]):
    """Writes to what standard error is now: a live status line replaces it to stay below."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


def _time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _event(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except (TypeError, ValueError):  # placeholders and values that do not fit: tell what there is
        return f"{record.msg} {record.args!r}"


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    return {key: value for key, value in vars(record).items() if key not in _STANDARD}


def _one_line(text: str) -> str:
    return text.replace("\r", "\\r").replace("\n", "\\n")


def _quoted(value: Any) -> str:
    """Return a value as one word, or in JSON's quotes if it is none."""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, (dict, list, tuple)):
        return json.dumps(value, default=str, separators=(",", ":"), ensure_ascii=False)
    text = str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False)


def _cleaned(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, dict):
        return {str(key): _cleaned(each) for key, each in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_cleaned(each) for each in value]
    if isinstance(value, PurePath):
        return str(value)
    return redact(str(value))
