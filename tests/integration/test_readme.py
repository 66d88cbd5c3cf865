"""What the README says, done."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import streamseg
from streamseg.effects.registry import EFFECTS

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_python_example_runs_unguarded_and_as_it_stands(tmp_path: Path) -> None:
    code = re.search(r"```python\n(.*?)```", README, re.DOTALL)
    assert code is not None
    shutil.copy(ROOT / "tests" / "media" / "sample.mp4", tmp_path / "in.mp4")
    (tmp_path / "example.py").write_text(code[1])

    done = subprocess.run(
        [sys.executable, "example.py"], cwd=tmp_path, capture_output=True, text=True, timeout=100
    )

    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout.count("PipelineStatistics") == 1
    assert "frames_out=175" in done.stdout
    assert len((tmp_path / "masks.jsonl").read_text().splitlines()) == 175


def test_every_effect_is_named() -> None:
    for name in EFFECTS:
        assert f"`{name}`" in README


def test_files_that_are_named_exist() -> None:
    for name in re.findall(r"`((?:docs|configs|scripts|tests|streamseg)/[\w./-]+)`", README):
        assert (ROOT / name).exists(), name
    for name in re.findall(r"\((docs/[\w./-]+)\)", README):
        assert (ROOT / name).exists(), name


def test_public_names_are_there_and_documented() -> None:
    for name in streamseg.__all__:
        value = getattr(streamseg, name)
        if name != "__version__":
            assert value.__doc__, name
