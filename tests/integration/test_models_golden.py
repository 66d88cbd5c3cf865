"""The bundled models against MediaPipe's own masks; see tests/golden/README.md."""

import hashlib
import importlib.util
import os
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
BUNDLED = ROOT / "streamseg" / "models" / "bundled"


def load_golden() -> ModuleType:
    path = ROOT / "tests" / "golden" / "selfie_golden.py"
    spec = importlib.util.spec_from_file_location("selfie_golden", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # Its dataclass looks itself up there.
    spec.loader.exec_module(module)
    return module


golden = load_golden()


@pytest.fixture(scope="module", params=sorted(golden.MODELS))
def model(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def program(model: str) -> Any:
    import torch  # noqa: F401  # The extension finds torch's libraries only after this.
    from executorch.extension.pybindings._C import _load_for_executorch

    return _load_for_executorch(str(BUNDLED / f"{model}.pte"))


@pytest.fixture(scope="module")
def segment(program: Any) -> Callable[[np.ndarray], np.ndarray]:
    import torch

    def run(image: np.ndarray) -> np.ndarray:
        return program.forward([torch.from_numpy(image)])[0][0, 0].numpy()

    return run


@pytest.mark.parametrize("case", golden.CASES, ids=lambda case: case.name)
def test_mask_is_mediapipes(
    model: str, program: Any, segment: Callable[[np.ndarray], np.ndarray], case: Any
) -> None:
    assets = os.environ.get("STREAMSEG_TEST_ASSETS")
    if case.asset and not assets:
        pytest.skip(f"STREAMSEG_TEST_ASSETS is not set: {case.asset} is there")
    picture = golden.read_picture(case, Path(assets) if assets else None)
    shape = program.method_meta("forward").input_tensor_meta(0).sizes()
    mask = segment(golden.sample(picture, *shape[2:]))
    iou, difference = golden.compare(mask, golden.read_golden(case, model))
    assert iou >= golden.MIN_IOU, f"mean difference {difference:.5f}"
    assert difference < golden.MAX_MEAN_DIFFERENCE, f"IoU {iou:.4f}"


def test_picture_of_nobody_has_an_empty_mask(
    program: Any, segment: Callable[[np.ndarray], np.ndarray]
) -> None:
    picture = golden.read_picture(golden.Case("nobody"), None)
    shape = program.method_meta("forward").input_tensor_meta(0).sizes()
    assert segment(golden.sample(picture, *shape[2:])).max() < 0.5


def test_card_tells_the_truth_of_its_file(model: str, program: Any) -> None:
    card = tomllib.loads((BUNDLED / f"{model}.toml").read_text(encoding="utf-8"))
    content = (BUNDLED / f"{model}.pte").read_bytes()
    meta = program.method_meta("forward")
    assert card["sha256"] == hashlib.sha256(content).hexdigest()
    assert card["size_bytes"] == len(content) < 1_000_000
    assert tuple(meta.input_tensor_meta(0).sizes()) == (1, 3, *card["input_size"])
    assert tuple(meta.output_tensor_meta(0).sizes()) == (1, 1, *card["input_size"])
