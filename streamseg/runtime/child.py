"""The model process: loads one .pte, then answers one line for every line that it is sent.

It is started by ``process.py`` with nothing but its arguments, speaks JSON lines over standard
input and output, and exchanges pixels and masks through shared memory:

    <- {"loaded": {"input": [...], "outputs": [...], ...}}    or {"error": "..."} and it ends
    -> {"attach": {"size": N, "layout": {...}, ...}}
    -> {"run": {"slot": 0, "index": 12}}
    <- {"done": {"slot": 0, "index": 12, "ms": 3.6}}          or {"failed": {..., "text": "..."}}

End of input means: stop. Whatever native code prints goes to standard error.

``executorch.runtime`` imports the whole export stack (3 to 7 s, 360 MB), so the extension module
behind it is imported directly. That needs torch's C++ library but none of its Python part, which
``bare_torch.py`` leaves out. Whatever fails with it is tried again with all of torch, in the same
process started over; the environment variable STREAMSEG_WHOLE_TORCH does so from the beginning.
"""

from __future__ import annotations

import gc
import json
import math
import os
import re
import signal
import sys
import time
from types import ModuleType
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

if TYPE_CHECKING:
    from collections.abc import Sequence

    from streamseg.runtime.layout import Region

__all__ = ["main"]

_WHOLE_TORCH = "STREAMSEG_WHOLE_TORCH"
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


def main(arguments: dict[str, Any]) -> None:
    """Run the process.

    Args:
        arguments: ``model`` path of the .pte, ``method`` of it, ``threads`` (0 chooses, up to
            ``cores``), ``memory`` handle.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    gc.disable()  # importing torch makes 300,000 objects and no garbage
    _die_with_parent()
    # Native code prints to descriptor 1 as it likes; replies have a descriptor of their own.
    with os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1) as replies:
        os.dup2(2, 1)
        try:
            _check_identifier(arguments["model"])
            model = _load(arguments, replies)
        except _ModelProblem as problem:
            _reply(replies, {"error": str(problem)})
            return
        gc.freeze()
        gc.enable()
        _reply(replies, {"loaded": model.describe()})
        _serve(model, arguments["memory"], replies)


class _ModelProblem(Exception):
    """The model cannot be used; the text is for the user."""


def _load(arguments: dict[str, Any], replies: TextIO) -> _Model:
    model = [arguments[name] for name in ("model", "method", "threads", "cores")]
    if os.environ.get(_WHOLE_TORCH):
        return _Model(_import_all(), *model)
    try:
        loaded = _Model(_import_bare(), *model)
        _rehearse()
    except Exception:  # the model's fault or torch's: the next attempt tells
        _start_over(replies)
    return loaded


def _rehearse() -> None:
    """Do once what is done with every result: what this torch lacks shows before a promise."""
    import torch

    from streamseg.runtime.layout import SlotLayout
    from streamseg.runtime.postprocess import write_result

    for channels in (1, 2):
        layout = SlotLayout((1, 1), (2, 2), mask_classes=(0, 1), class_map=True, wide_classes=False)
        memory = bytearray(layout.slot_bytes)
        masks, class_map = (_tensor_at(memory, region) for region in layout.regions(0)[1:3])
        for output in ("logits", "probability"):
            write_result(torch.zeros((channels, 2, 2)), output, (0, 1), masks, class_map)


def _start_over(replies: TextIO) -> NoReturn:
    """Run this process from its beginning with all of torch; nothing has been answered yet."""
    os.environ[_WHOLE_TORCH] = "1"
    os.dup2(replies.fileno(), 1)
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


class _Model:
    """A loaded .pte of which one method takes [1, 3, H, W] float32 and returns tensors."""

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
                raise _ModelProblem(
                    f"it has no method {method!r} but {', '.join(methods)}: name one in its card"
                )
            meta = program.method_meta(method)
        except (RuntimeError, MemoryError, ValueError) as exc:
            raise _ModelProblem(_explain(exc)) from exc
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
            outputs = self.run(black, *_normalisation((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)))
        except (RuntimeError, MemoryError, ValueError) as exc:
            raise _ModelProblem(_explain(exc)) from exc
        for returned, said in zip(outputs, self._outputs, strict=True):
            # What it says is an upper bound: how many objects there are depends on the picture.
            if returned.dim() != len(said) or any(map(int.__gt__, returned.shape, said)):
                raise _ModelProblem(f"it returned {list(returned.shape)}, but says {list(said)}")
        self._load_ms = (time.perf_counter() - started) * 1e3

    @staticmethod
    def _checked_input(meta: Any) -> tuple[int, ...]:
        if meta.num_inputs() != 1:
            raise _ModelProblem(f"it takes {meta.num_inputs()} inputs, expected one picture")
        info = meta.input_tensor_meta(0)
        sizes = tuple(info.sizes())
        if len(sizes) != 4 or sizes[0] != 1 or sizes[1] != 3 or min(sizes) < 1:
            raise _ModelProblem(f"its input is {list(sizes)}, expected [1, 3, height, width]")
        if sizes[2] * sizes[3] > _MAX_PIXELS:
            raise _ModelProblem(f"its input {list(sizes)} has over {_MAX_PIXELS} pixels")
        if info.dtype() != _FLOAT32:
            raise _ModelProblem(f"its input has scalar type {info.dtype()}, expected float32 (6)")
        return sizes

    @staticmethod
    def _checked_outputs(meta: Any) -> list[tuple[int, ...]]:
        if meta.num_outputs() < 1:
            raise _ModelProblem("it returns nothing, expected [1, classes, height, width]")
        found = []
        for index in range(meta.num_outputs()):
            info = meta.output_tensor_meta(index)
            sizes = tuple(info.sizes())
            if min(sizes, default=1) < 1:
                raise _ModelProblem(f"its output is {list(sizes)}, expected sizes above 0")
            if math.prod(sizes[-2:]) > _MAX_PIXELS or math.prod(sizes) > _MAX_VALUES:
                raise _ModelProblem(f"its output {list(sizes)} has over {_MAX_PIXELS} pixels")
            if info.dtype() not in _OUTPUT_TYPES or (index == 0 and info.dtype() != _FLOAT32):
                raise _ModelProblem(
                    f"its output has scalar type {info.dtype()}, expected float32 (6)"
                )
            found.append(sizes)
        return found

    def describe(self) -> dict[str, Any]:
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
        return self._module.run_method(self._method, (self._tensor,), clone_outputs=False)


class _Job:
    """What ``attach`` agreed on: the memory, its layout, how to normalise and what to return."""

    def __init__(self, attach: dict[str, Any], memory_handle: str) -> None:
        from streamseg.runtime.layout import SlotLayout
        from streamseg.runtime.memory import SharedMemory

        layout = SlotLayout.from_json(attach["layout"])
        memory = SharedMemory.attach(memory_handle, attach["size"])
        self._slots = []
        for slot in range(attach["slots"]):
            *arrays, raw = layout.regions(slot)
            raw_tensors = [_tensor_at(memory, region) for region in raw]
            self._slots.append(([_tensor_at(memory, region) for region in arrays], raw_tensors))
        self._classes = layout.mask_classes
        self._class_map = layout.class_map
        self._scale, self._offset = _normalisation(attach["mean"], attach["std"])
        self._output: str = attach["output"]

    def run(
        self, model: _Model, slot: int, classes: Sequence[int] | None
    ) -> list[tuple[int, ...]] | None:
        """Run the model on a slot's pixels and write what was agreed on.

        Args:
            model: The model.
            slot: Index of the slot.
            classes: Indices of those classes, among the agreed ones, whose masks are wanted;
                None for all of them.

        Returns:
            The shapes of the raw outputs, where these were agreed on.
        """
        from streamseg.runtime.postprocess import write_result

        (pixels, masks, class_map), raw = self._slots[slot]
        outputs = model.run(pixels, self._scale, self._offset)
        if raw:
            for output, target in zip(outputs, raw, strict=True):
                target.reshape(-1)[: output.numel()].copy_(output.reshape(-1))
            return [tuple(output.shape) for output in outputs]
        write_result(
            outputs[0][0],
            self._output,
            self._classes if classes is None else classes,
            masks,
            class_map if self._class_map else None,
        )
        return None


def _normalisation(mean: Sequence[float], std: Sequence[float]) -> tuple[Any, Any]:
    """Return the scale and the offset that ``_Model.run`` takes.

    Functions instead of operators: ``bare_torch`` has not all of these.
    """
    import torch

    means = torch.tensor(mean, dtype=torch.float32).reshape(3, 1, 1)
    deviations = torch.tensor(std, dtype=torch.float32).reshape(3, 1, 1)
    scale = torch.reciprocal(torch.mul(deviations, 255.0))
    return scale, torch.div(torch.neg(means), deviations)


def _tensor_at(memory: Any, region: Region) -> Any:
    """Return a tensor over a part of the shared memory."""
    import torch

    dtype = getattr(torch, region.dtype)
    count = math.prod(region.shape)
    if count == 0:
        return torch.empty(region.shape, dtype=dtype)
    flat = torch.frombuffer(memory, dtype=dtype, count=count, offset=region.offset)
    return flat.reshape(region.shape)


def _serve(model: _Model, memory_handle: str, replies: TextIO) -> None:
    job: _Job | None = None
    for line in sys.stdin:
        message = json.loads(line)
        if "attach" in message:
            job = _Job(message["attach"], memory_handle)
            continue
        if job is None:
            raise RuntimeError("run before attach")
        run = message["run"]
        started = time.perf_counter()
        try:
            shapes = job.run(model, run["slot"], run.pop("classes", None))
        except (RuntimeError, MemoryError, ValueError) as exc:
            _reply(replies, {"failed": {**run, "text": _explain(exc)}})
        else:
            ms = (time.perf_counter() - started) * 1e3
            done = {**run, "ms": ms} if shapes is None else {**run, "ms": ms, "shapes": shapes}
            _reply(replies, {"done": done})


def _reply(replies: TextIO, message: dict[str, Any]) -> None:
    replies.write(json.dumps(message) + "\n")
    replies.flush()


def _check_identifier(path: str) -> None:
    """Refuse what is no program at all; the runtime aborts on some of it."""
    try:
        with open(path, "rb") as file:
            start = file.read(8)
    except OSError as exc:
        raise _ModelProblem(f"the file cannot be read: {exc.strerror}") from exc
    if start[4:6] != b"ET":  # the flatbuffer's file identifier, ET and two digits
        raise _ModelProblem("it is not an ExecuTorch program")


def _import_bare() -> Any:
    from streamseg.runtime.bare_torch import load

    load()
    from executorch.extension.pybindings import _C

    return _C


def _import_all() -> Any:
    # Shape functions of torch's compilers, a quarter of its import, of no use to a finished
    # program: an empty module stands for them.
    sys.modules.setdefault("torch._meta_registrations", ModuleType("torch._meta_registrations"))
    try:
        import torch  # noqa: F401 - the extension finds torch's libraries only after this
        from executorch.extension.pybindings import _C
    except ImportError:  # another layout of the package: the public way, slower
        from executorch.extension.pybindings import portable_lib

        return portable_lib
    return _C


def _explain(exc: BaseException) -> str:
    text = " ".join(str(exc).split())
    code = _ERROR_CODE.search(text)
    reason = _RUNTIME_ERRORS.get(int(code[1], 16)) if code else None
    if code and reason:
        return f"{reason} (ExecuTorch error 0x{code[1]})"
    return text[:300] or type(exc).__name__


def _die_with_parent() -> None:
    """Have Linux kill this process when its parent is gone, even in the middle of a model run."""
    if sys.platform != "linux":
        return
    import ctypes

    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
