"""The command line within this process, and what it said."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from streamseg.cli.app import run_command

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

__all__ = ["Command", "Result", "one_line"]


class Result:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def json(self) -> dict[str, Any]:
        value = json.loads(self.out)
        assert isinstance(value, dict)
        return value


class Command:
    """Calls ``streamseg`` with arguments."""

    def __init__(self, capture: pytest.CaptureFixture[str]) -> None:
        self._capture = capture

    def __call__(self, *arguments: str | Path) -> Result:
        self._capture.readouterr()
        code = run_command([str(argument) for argument in arguments])
        return Result(code, *self._capture.readouterr())


def one_line(result: Result, code: int, *words: str) -> None:
    """Check that a command failed with this exit code and one line that has these words."""
    assert result.code == code, result.err
    lines = result.err.strip().splitlines()
    assert len(lines) == 1, result.err
    assert lines[0].startswith("streamseg: ")
    for word in words:
        assert word in lines[0]
