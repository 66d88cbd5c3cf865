from __future__ import annotations

import subprocess
import sys


def test_a_pool_can_be_prepared_before_anything_large_is_imported() -> None:
    heavy = ("numpy", "av", "cv2", "torch")
    code = (
        "import sys, streamseg.runtime.pool, streamseg.runtime.segmenter, streamseg.models.registry;"
        f"print([m for m in {heavy!r} if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout.strip() == "[]"
