"""Programs that tests need and a machine may lack.

In CI (``CI=true``) a test whose program is missing fails: what is skipped there is tested nowhere.
"""

from __future__ import annotations

import os
import shutil

import pytest

__all__ = ["lack", "needs_program", "require"]


def require(*programs: str) -> None:
    """Skip a test, or what it is made with, where a program is missing; in CI it fails."""
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        lack(f"{' and '.join(missing)} is not installed")


def lack(why: str) -> None:
    """Skip a test for want of what CI has; there it fails."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{why}: in CI it must be", pytrace=False)
    pytest.skip(why)


def needs_program(*programs: str) -> pytest.MarkDecorator:
    """Mark tests that need programs; `tests/conftest.py` calls ``require`` for them."""
    return pytest.mark.needs_program(*programs)
