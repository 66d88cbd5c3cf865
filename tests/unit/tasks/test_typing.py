"""What a type checker makes of labels. Quick after ``scripts/check``, whose cache it finds."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]

PROGRAM = """
from typing import assert_type
import numpy as np
from numpy.typing import NDArray
from streamseg.tasks.classifier import Classifier
from streamseg.tasks.labels import SelfieLabel, VocLabel
from streamseg.tasks.semantic import SemanticSegmenter
from streamseg.tasks.semantic_result import SemanticResult

def anything(segmenter: SemanticSegmenter) -> None: ...

async def main() -> None:
    async with await SemanticSegmenter.load("deeplab-v3-resnet50", queue=True) as voc:
        assert_type(voc, SemanticSegmenter[VocLabel])
        assert_type(await voc.forward("a.jpg", "all"), SemanticResult[VocLabel])
        some = await voc.forward("a.jpg", [VocLabel.CAT, VocLabel.DOG], False)
        assert_type(some[VocLabel.CAT], NDArray[np.float32])
        assert_type(some["ARGMAX"], NDArray[np.int32])
        assert_type(some.ARGMAX, NDArray[np.int32])
        assert_type(some.CAT, NDArray[np.float32])
        text = await voc.forward("a.jpg", ["cat"])
        assert_type(text["cat"], NDArray[np.float32])
        some[SelfieLabel.SELFIE]  # wrong: of another model
        nothing = await voc.forward("a.jpg")
        nothing[VocLabel.CAT]  # wrong: was not asked for
        anything(voc)
    async with await SemanticSegmenter.load("selfie") as selfie:
        assert_type(selfie, SemanticSegmenter[SelfieLabel])
    async with await SemanticSegmenter.load("my.pte") as own:
        anything(own)
    with SemanticSegmenter.blocking("selfie") as blocking:
        result = blocking.forward("a.jpg", [SelfieLabel.SELFIE])
        assert_type(result, SemanticResult[SelfieLabel])
    async with await Classifier.load("efficientnet-v2-s") as classifier:
        assert_type((await classifier.forward("a.jpg")).top_k(1), list[tuple[str, float]])
"""


def test_labels_are_a_part_of_the_types(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    wrong = [number for number, line in enumerate(PROGRAM.split("\n"), 1) if "# wrong" in line]

    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", "pyproject.toml", str(program)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=110,
    )

    told = [int(line) for line in re.findall(r"program\.py:(\d+): error", done.stdout)]
    assert told == wrong, done.stdout + done.stderr
