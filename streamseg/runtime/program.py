"""A program in the model process: checked, loaded, run.

Whatever cannot be used is refused before or while it is loaded, in words for the user.
"""

from __future__ import annotations

import math
import re
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["ModelProblem", "Program", "check_identifier", "explain", "normalisation"]

_FLOAT32 = 6  # ScalarType::Float of ExecuTorch's scalar_type.h
_OUTPUT_TYPES = {0, 3, 4, _FLOAT32, 11}  # Byte, Int, Long, Float, Bool: all are given as float32
_MAX_PIXELS = 4096 * 4096
_MAX_VALUES = 1 << 28  # of one output
_SMALL_INPUT = 256 * 256  # up to this many pixels one thread is as fast as several

_ERROR_CODE = re.compile(r"\b0x:?([0-9a-fA-F]{1,4})\b")  # one of its messages has a colon inside
# runtime/core/error.h of ExecuTorch
_RUNTIME_ERRORS = {
    0x10: "an operation is not supported",
    0x12: "it is not valid",
    0x14: "an operator that it uses is not part of this ExecuTorch",
    0x20: "a backend that it was exported for is not part of this ExecuTorch",
    0x21: "there is not enough memory for it",
    0x22: "the file cannot be read",
    0x23: "it is not a valid ExecuTorch program",
    0x24: "its external data is not valid",
    0x25: "there are not enough resources for it",
    0x30: "it was exported for another version of its backend",
    0x31: "its backend cannot get enough memory",
    0x32: "its backend lost the model",
}


class ModelProblem(Exception):
    """The model cannot be used.

    Args:
        text: For the user.
        about: ``input``, ``output``, or None for what cannot be named.
    """

    def __init__(self, text: str, about: str | None = None) -> None:
        super().__init__(text)
        self.about = about


def check_identifier(path: str) -> None:
    """Refuse what is no program at all; the runtime aborts on some of it."""
    try:
        with open(path, "rb") as file:
            start = file.read(8)
    except OSError as exc:
        raise ModelProblem(f"the file cannot be read: {exc.strerror}") from exc
    if start[4:6] != b"ET":  # the flatbuffer's file identifier, ET and two digits
        raise ModelProblem("it is not an ExecuTorch program")


class Program:
    """A loaded .pte of which one method takes [1, 3, H, W] float32 and returns tensors.

    Args:
        pybindings: ExecuTorch's extension module.
        path: Of the .pte.
        method: Which of its methods is run.
        threads: Threads of the model; 0 chooses by the input's size.
        cores: How many may be chosen at most.

    Raises:
        ModelProblem: If it cannot be used.

    Attributes:
        inference_ms: How long that method took the last time, in milliseconds.
    """

    def __init__(self, pybindings: Any, path: str, method: str, threads: int, cores: int) -> None:
        import torch

        torch.set_num_threads(1)
        torch._C._set_grad_enabled(False)
        self._method = method
        started = time.perf_counter()
        try:
            program = pybindings._load_program(path)
            methods = [program.get_method_name(index) for index in range(program.num_methods())]
            if method not in methods:
                raise ModelProblem(
                    f"it has no method {method!r} but {', '.join(methods)}: name one in its card"
                )
            meta = program.method_meta(method)
        except (RuntimeError, MemoryError, ValueError) as exc:
            raise ModelProblem(explain(exc)) from exc
        self._input = self._checked_input(meta)
        self._outputs = self._checked_outputs(meta)
        if threads < 1:
            small = self._input[2] * self._input[3] <= _SMALL_INPUT
            threads = 1 if small else cores
        # Before the delegates are loaded: one that is keeps the thread pool that it found.
        pybindings._unsafe_reset_threadpool(threads)
        self._threads = pybindings._threadpool_get_thread_count()
        # Contiguous NCHW: any other layout of the input gives wrong masks without an error.
        self._tensor = torch.zeros(self._input)
        # The first run loads the delegates: what is wrong with them shows here, not at a frame.
        try:
            self._module = pybindings._load_for_executorch(path)
            black = torch.zeros((*self._input[2:], 3), dtype=torch.uint8)
            outputs = self.run(black, *normalisation((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)))
        except (RuntimeError, MemoryError, ValueError) as exc:
            raise ModelProblem(explain(exc)) from exc
        for returned, said in zip(outputs, self._outputs, strict=True):
            # What it says is an upper bound: how many objects there are depends on the picture.
            if returned.dim() != len(said) or any(map(int.__gt__, returned.shape, said)):
                raise ModelProblem(
                    f"it returned {list(returned.shape)}, but says {list(said)}", "output"
                )
        self._load_ms = (time.perf_counter() - started) * 1e3

    @staticmethod
    def _checked_input(meta: Any) -> tuple[int, ...]:
        if meta.num_inputs() != 1:
            raise ModelProblem(
                f"it takes {meta.num_inputs()} inputs, expected one picture", "input"
            )
        info = meta.input_tensor_meta(0)
        sizes = tuple(info.sizes())
        if len(sizes) != 4 or sizes[0] != 1 or sizes[1] != 3 or min(sizes) < 1:
            raise ModelProblem(
                f"its input is {list(sizes)}, expected [1, 3, height, width]", "input"
            )
        if sizes[2] * sizes[3] > _MAX_PIXELS:
            raise ModelProblem(f"its input {list(sizes)} has over {_MAX_PIXELS} pixels", "input")
        if info.dtype() != _FLOAT32:
            raise ModelProblem(
                f"its input has scalar type {info.dtype()}, expected float32 (6)", "input"
            )
        return sizes

    @staticmethod
    def _checked_outputs(meta: Any) -> list[tuple[int, ...]]:
        if meta.num_outputs() < 1:
            raise ModelProblem("it returns nothing, expected [1, classes, height, width]", "output")
        found = []
        for index in range(meta.num_outputs()):
            info = meta.output_tensor_meta(index)
            sizes = tuple(info.sizes())
            if min(sizes, default=1) < 1:
                raise ModelProblem(f"its output is {list(sizes)}, expected sizes above 0", "output")
            if math.prod(sizes[-2:]) > _MAX_PIXELS or math.prod(sizes) > _MAX_VALUES:
                raise ModelProblem(
                    f"its output {list(sizes)} has over {_MAX_PIXELS} pixels", "output"
                )
            if info.dtype() not in _OUTPUT_TYPES or (index == 0 and info.dtype() != _FLOAT32):
                raise ModelProblem(
                    f"its output has scalar type {info.dtype()}, expected float32 (6)", "output"
                )
            found.append(sizes)
        return found

    def describe(self) -> dict[str, Any]:
        """Return what the parent is told of it: see ``LoadedModel``."""
        return {
            "input": self._input,
            "outputs": self._outputs,
            "load_ms": self._load_ms,
            "threads": self._threads,
        }

    def run(self, pixels: Any, scale: Any, offset: Any) -> Any:
        """Return the outputs, tensors in the model's own memory: the next run overwrites them.

        Args:
            pixels: (H, W, 3) uint8 RGB, a tensor as the others.
            scale: (3, 1, 1) float32: 1 / (255 * std).
            offset: (3, 1, 1) float32: -mean / std.
        """
        tensor = self._tensor[0]
        tensor.copy_(pixels.permute(2, 0, 1))
        tensor.mul_(scale).add_(offset)
        started = time.perf_counter()
        outputs = self._module.run_method(self._method, (self._tensor,), clone_outputs=False)
        self.inference_ms = (time.perf_counter() - started) * 1e3
        return outputs


def normalisation(mean: Sequence[float], std: Sequence[float]) -> tuple[Any, Any]:
    """Return the scale and the offset that ``Program.run`` takes.

    Functions instead of operators: ``bare_torch`` has not all of these.
    """
    import torch

    means = torch.tensor(mean, dtype=torch.float32).reshape(3, 1, 1)
    deviations = torch.tensor(std, dtype=torch.float32).reshape(3, 1, 1)
    scale = torch.reciprocal(torch.mul(deviations, 255.0))
    return scale, torch.div(torch.neg(means), deviations)


def explain(exc: BaseException) -> str:
    """Return what an error of the runtime means, in one line."""
    text = " ".join(str(exc).split())
    code = _ERROR_CODE.search(text)
    reason = _RUNTIME_ERRORS.get(int(code[1], 16)) if code else None
    if code and reason:
        return f"{reason} (ExecuTorch error 0x{code[1]})"
    return text[:300] or type(exc).__name__
