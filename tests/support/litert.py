"""What LiteRT makes of a .tflite file, and what the module makes that is rebuilt of it."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
import pytest

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["litert", "rebuilt"]


def litert(path: Path, image: np.ndarray) -> np.ndarray:
    """Run a file's only input to its only output; skips the test where LiteRT is not installed."""
    pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed: no reference to run")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(model_path=str(path), num_threads=1)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image)
    interpreter.invoke()
    result: np.ndarray = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    return result


def rebuilt(path: Path, image: np.ndarray) -> np.ndarray:
    """Run the rebuilt module on an NHWC array of real numbers and give back NHWC."""
    import torch

    from streamseg.convert import load_tflite, to_module

    module = to_module(load_tflite(path))
    with torch.inference_mode():
        result = module(torch.from_numpy(image).permute(0, 3, 1, 2).contiguous())
    return np.asarray(result.permute(0, 2, 3, 1).numpy())
