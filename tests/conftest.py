"""Fixtures for all tests."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import av  # noqa: F401 - before cv2: the other way round, FFmpeg's x11grab crashes the process
import pytest

from tests.support.command import Command
from tests.support.made_once import digest_of, made_once
from tests.support.programs import require

# A shell that runs the tests in the background has them ignore Ctrl-C, and what they start, too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give tests with real servers, browsers and clocks a second chance on a busy machine.

    A test that needed it is counted as rerun in the summary; one that is wrong fails again.
    """
    for item in items:
        marked = item.get_closest_marker
        # Not in a browser: it and its server are shared by a module, and may be what failed.
        if marked("integration") is not None and marked("browser") is None:
            item.add_marker(pytest.mark.flaky(reruns=2, reruns_delay=1))


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in item.iter_markers("needs_program"):
        require(*mark.args)


@pytest.fixture
def streamseg(capfd: pytest.CaptureFixture[str]) -> Command:
    """The command line within this process: ``streamseg("run", "a.mp4", "b.mp4")``."""
    return Command(capfd)


@pytest.fixture(scope="session")
def assets() -> Path:
    """Folder of real media and weights; tests that need it skip where it is not there."""
    folder = os.environ.get("STREAMSEG_TEST_ASSETS")
    if not folder:
        pytest.skip("STREAMSEG_TEST_ASSETS is not set: no real media to test with")
    return Path(folder)


@pytest.fixture(scope="session")
def models() -> Path:
    """Folder of the programs of ``tests/support/models.py``; made once per version of it."""
    root = Path(__file__).parents[1]
    room = root / "streamseg" / "convert"
    script = root / "tests" / "support" / "models.py"
    sources = [script, room / "export.py", room / "_lowering.py", room / "_comparison.py"]

    def make(folder: Path) -> None:
        command = [sys.executable, "-m", "tests.support.models", str(folder)]
        subprocess.run(command, check=True, capture_output=True, cwd=root, timeout=300)

    return made_once(f"small-{digest_of(sources)}", make)
