from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

OTHER_VERSION = """
import sys
sys.path.insert(0, sys.argv[1])
from streamseg.runtime.bare_torch import load
try:
    load()
except ImportError as exc:
    print(exc, "torch" in sys.modules)
"""


def test_another_version_of_torch_is_not_touched(tmp_path: Path) -> None:
    package = tmp_path / "torch"
    package.mkdir()
    (package / "__init__.py").write_text("raise SystemExit('imported')")
    (package / "version.py").write_text("__version__ = '2.14.0+cpu'\n")

    done = subprocess.run(
        [sys.executable, "-c", OTHER_VERSION, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )

    assert done.stdout.strip() == "this torch is not version 2.13.* False"


@pytest.mark.skipif(sys.platform != "linux", reason="it is loaded so on Linux only")
def test_it_brings_neither_numpy_nor_the_python_part() -> None:
    code = (
        "import sys; from streamseg.runtime.bare_torch import load; load();"
        "print([m for m in ('numpy', 'torch.nn.modules', 'torch.utils', 'inspect')"
        " if sys.modules.get(m)])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True
    )
    assert (done.stdout.strip(), done.stderr) == ("[]", "")
