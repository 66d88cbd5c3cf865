"""Fixtures for all tests."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import av  # noqa: F401 - before cv2: the other way round, FFmpeg's x11grab crashes the process
import pytest

from tests.support.command import Command
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
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the programs of ``tests/support/models.py``; made once per version of it."""
    script = Path(__file__).parent / "support" / "models.py"
    room = Path(__file__).parents[1] / "streamseg" / "convert"
    sources = [script, room / "export.py", room / "_lowering.py", room / "_comparison.py"]
    key = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:16]
    folder = Path(__file__).parents[1] / ".cache" / "test-models" / key
    if not folder.exists():
        made = tmp_path_factory.mktemp("models")
        subprocess.run(
            [sys.executable, "-m", "tests.support.models", str(made)],
            check=True,
            capture_output=True,
            cwd=Path(__file__).parents[1],
            timeout=300,
        )
        folder.parent.mkdir(parents=True, exist_ok=True)
        mine = folder.with_name(f"{folder.name}.{os.getpid()}")
        shutil.copytree(made, mine)
        try:
            mine.rename(folder)
        except OSError:  # another test process was quicker
            shutil.rmtree(mine)
            assert folder.exists()
    return folder
