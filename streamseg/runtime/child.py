"""The model process: loads one .pte, then answers one line for every line that it is sent.

It is started by ``process.py`` with nothing but its arguments, speaks JSON lines over standard
input and output, and exchanges pixels and masks through shared memory:

    <- {"loaded": {"input": [...], "outputs": [...], ...}}    or {"error": "..."} and it ends
    -> {"attach": {"size": N, "layout": {...}, ...}}
    -> {"run": {"slot": 0, "index": 12}}
    <- {"done": {"slot": 0, "index": 12, "ms": 3.6, "inference_ms": 3.3}}
                                                              or {"failed": {..., "text": "..."}}

With an error comes what it is about: ``input``, ``output``, or nothing that can be named.

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
import signal
import sys
import time
from types import ModuleType
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

from streamseg.parent_death import die_with_parent
from streamseg.runtime.program import (
    ModelProblem,
    Program,
    check_identifier,
    explain,
    normalisation,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from streamseg.runtime.layout import Region

__all__ = ["main"]

_WHOLE_TORCH = "STREAMSEG_WHOLE_TORCH"


def main(arguments: dict[str, Any]) -> None:
    """Run the process.

    Args:
        arguments: ``model`` path of the .pte, ``method`` of it, ``threads`` (0 chooses, up to
            ``cores``), ``memory`` handle.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    gc.disable()  # importing torch makes 300,000 objects and no garbage
    die_with_parent()
    # Native code prints to descriptor 1 as it likes; replies have a descriptor of their own.
    with os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1) as replies:
        os.dup2(2, 1)
        try:
            check_identifier(arguments["model"])
            model = _load(arguments, replies)
        except ModelProblem as problem:
            _reply(replies, {"error": str(problem), "about": problem.about})
            return
        gc.freeze()
        gc.enable()
        _reply(replies, {"loaded": model.describe()})
        _serve(model, arguments["memory"], replies)


def _load(arguments: dict[str, Any], replies: TextIO) -> Program:
    model = [arguments[name] for name in ("model", "method", "threads", "cores")]
    if os.environ.get(_WHOLE_TORCH):
        return Program(_import_all(), *model)
    try:
        loaded = Program(_import_bare(), *model)
        _rehearse()
    except Exception:  # the model's fault or torch's: the next attempt tells
        _start_over(replies)
    return loaded


def _rehearse() -> None:
    """Do once what is done with every result: what this torch lacks shows before a promise."""
    import torch

    from streamseg.runtime.layout import SlotLayout
    from streamseg.runtime.postprocess import ResultWriter

    for channels in (1, 2):
        layout = SlotLayout((1, 1), (2, 2), mask_classes=(0, 1), class_map=True, wide_classes=False)
        memory = bytearray(layout.slot_bytes)
        masks, class_map = (_tensor_at(memory, region) for region in layout.regions(0)[1:3])
        for output in ("logits", "probability"):
            maps = torch.zeros((channels, 2, 2))
            ResultWriter().write(maps, output, (0, 1), masks, class_map)
            ResultWriter().write(maps, output, (0, 1), masks, None)


def _start_over(replies: TextIO) -> NoReturn:
    """Run this process from its beginning with all of torch; nothing has been answered yet."""
    os.environ[_WHOLE_TORCH] = "1"
    os.dup2(replies.fileno(), 1)
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


class _Job:
    """What ``attach`` agreed on: the memory, its layout, how to normalise and what to return."""

    def __init__(self, attach: dict[str, Any], memory_handle: str) -> None:
        from streamseg.runtime.layout import SlotLayout
        from streamseg.runtime.memory import SharedMemory
        from streamseg.runtime.postprocess import ResultWriter

        layout = SlotLayout.from_json(attach["layout"])
        memory = SharedMemory.attach(memory_handle, attach["size"])
        self._slots = []
        for slot in range(attach["slots"]):
            *arrays, raw = layout.regions(slot)
            raw_tensors = [_tensor_at(memory, region) for region in raw]
            self._slots.append(([_tensor_at(memory, region) for region in arrays], raw_tensors))
        self._classes = layout.mask_classes
        self._class_map = layout.class_map
        self._scale, self._offset = normalisation(attach["mean"], attach["std"])
        self._output: str = attach["output"]
        self._writer = ResultWriter()

    def run(
        self, model: Program, slot: int, classes: Sequence[int] | None
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
        (pixels, masks, class_map), raw = self._slots[slot]
        outputs = model.run(pixels, self._scale, self._offset)
        if raw:
            for output, target in zip(outputs, raw, strict=True):
                target.reshape(-1)[: output.numel()].copy_(output.reshape(-1))
            return [tuple(output.shape) for output in outputs]
        self._writer.write(
            outputs[0][0],
            self._output,
            self._classes if classes is None else classes,
            masks,
            class_map if self._class_map else None,
        )
        return None


def _tensor_at(memory: Any, region: Region) -> Any:
    """Return a tensor over a part of the shared memory."""
    import torch

    dtype = getattr(torch, region.dtype)
    count = math.prod(region.shape)
    if count == 0:
        return torch.empty(region.shape, dtype=dtype)
    flat = torch.frombuffer(memory, dtype=dtype, count=count, offset=region.offset)
    return flat.reshape(region.shape)


def _serve(model: Program, memory_handle: str, replies: TextIO) -> None:
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
            _reply(replies, {"failed": {**run, "text": explain(exc)}})
        else:
            ms = (time.perf_counter() - started) * 1e3
            done = {**run, "ms": ms, "inference_ms": model.inference_ms}
            if shapes is not None:
                done["shapes"] = shapes
            _reply(replies, {"done": done})


def _reply(replies: TextIO, message: dict[str, Any]) -> None:
    replies.write(json.dumps(message) + "\n")
    replies.flush()


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
