"""Torch modules as ExecuTorch programs for the CPU, verified before they are kept."""

import contextlib
import hashlib
import os
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from streamseg.errors import ModelError

_SEED = 20210119
_DELEGATE_CALL = "executorch_call_delegate"
_PLUMBING = {"getitem", _DELEGATE_CALL}


@dataclass(frozen=True)
class ExportReport:
    """What an export wrote.

    Attributes:
        path: The program.
        sha256: Of the program, in hexadecimal.
        size_bytes: Of the program.
        input_shape: NCHW, float32.
        output_shape: NCHW, float32.
        max_abs_difference: Largest difference to the eager module on the trial inputs.
        run_ms: The fastest of a few runs of the verified program.
    """

    path: Path
    sha256: str
    size_bytes: int
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    max_abs_difference: float
    run_ms: float


def export_module(
    module: nn.Module,
    input_shape: tuple[int, ...],
    pte_path: str | Path,
    *,
    tolerance: float = 1e-3,
) -> ExportReport:
    """Export a module to one XNNPACK delegate, run it, compare it, and only then keep it.

    Args:
        module: Takes and returns one float32 tensor; put in evaluation mode by the caller.
            Its weights have the strides of a new tensor: ExecuTorch 1.5 takes others, on axes
            of size 1 too, for NHWC, and the program then fails when it runs.
        input_shape: NCHW.
        pte_path: Where the program goes. An older file there stays until the new one is
            whole and verified.
        tolerance: Largest difference to the eager module, relative to the largest
            magnitude of its output or to 1, whichever is larger.

    Raises:
        ModelError: An operator stays outside of the delegate, the program differs from the
            module, or the file cannot be written.
    """
    pte_path = Path(pte_path)
    trials = _trial_inputs(input_shape)
    with torch.inference_mode():
        expected = [module(trial) for trial in trials]
    program = _lower(module, trials[0].clone())
    temporary = _write_beside(pte_path, program)
    try:
        results, run_ms = _run(temporary, trials)
        difference = _compare(results, expected, tolerance, pte_path)
        os.replace(temporary, pte_path)
    except OSError as error:
        raise ModelError(
            f"cannot write {pte_path}: {error.strerror or error}: check the folder"
        ) from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
    return ExportReport(
        path=pte_path,
        sha256=hashlib.sha256(program).hexdigest(),
        size_bytes=len(program),
        input_shape=input_shape,
        output_shape=tuple(expected[0].shape),
        max_abs_difference=difference,
        run_ms=run_ms,
    )


def _trial_inputs(shape: tuple[int, ...]) -> list[torch.Tensor]:
    """Return noise and a smooth ramp in [0, 1]; the same ones in every run."""
    generator = torch.Generator().manual_seed(_SEED)
    noise = torch.rand(shape, generator=generator)
    ramp = torch.linspace(0, 1, shape[-1]).expand(shape).contiguous()
    return [noise, ramp]


def _lower(module: nn.Module, example: torch.Tensor) -> bytes:
    # Imported here: the export stack takes seconds, and a caller that only reads a report
    # or gets an early error need not wait for it.
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    try:
        with torch.no_grad():
            exported = torch.export.export(module, (example,), strict=False)
        edge = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()])
    except Exception as error:
        raise ModelError(
            f"export failed: {type(error).__name__}: {_first_line(error)}: "
            "use a module of plain tensor operations with a fixed input size"
        ) from error
    _expect_one_delegate(edge.exported_program().graph.nodes)
    program: bytes = edge.to_executorch().buffer
    return program


def _expect_one_delegate(nodes: Iterable[Any]) -> None:
    names = [_target_name(node) for node in nodes if node.op == "call_function"]
    outside = sorted(set(names) - _PLUMBING)
    delegates = names.count(_DELEGATE_CALL)
    if outside or delegates != 1:
        raise ModelError(
            f"{delegates} XNNPACK delegates, expected 1; operators left outside: "
            f"{', '.join(outside) or 'none'}: replace these operators in the model"
        )


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "")


def _target_name(node: Any) -> str:
    target = node.target
    return str(getattr(target, "__name__", target))


def _write_beside(path: Path, content: bytes) -> Path:
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp keeps others out, which a finished file has no reason to.
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(name, 0o666 & ~umask)
    except OSError as error:
        raise ModelError(
            f"cannot write beside {path}: {error.strerror or error}: check the folder"
        ) from error
    return Path(name)


def _run(path: Path, trials: list[torch.Tensor]) -> tuple[list[torch.Tensor], float]:
    # The library itself: its Python wrapper warns at every import.
    from executorch.extension.pybindings._C import _load_for_executorch

    try:
        loaded = _load_for_executorch(str(path))
        results = [loaded.run_method("forward", [trial])[0].clone() for trial in trials]
        times = []
        for _ in range(5):
            start = time.perf_counter()
            loaded.run_method("forward", [trials[0]])
            times.append(time.perf_counter() - start)
    except RuntimeError as error:
        raise ModelError(
            f"the exported program does not run: {error}: report this model"
        ) from error
    return results, min(times) * 1e3


def _compare(
    results: list[torch.Tensor], expected: list[torch.Tensor], tolerance: float, path: Path
) -> float:
    largest = 0.0
    for result, reference in zip(results, expected, strict=True):
        if result.shape != reference.shape or result.dtype != reference.dtype:
            raise ModelError(
                f"the program for {path} returns {result.dtype} {list(result.shape)}, the "
                f"module {reference.dtype} {list(reference.shape)}: report this model"
            )
        difference = float((result - reference).abs().max())
        allowed = tolerance * max(1.0, float(reference.abs().max()))
        # Written so that a NaN fails too.
        if not difference <= allowed:
            raise ModelError(
                f"the program for {path} differs from the module by {difference:.2g}, "
                f"expected at most {allowed:.2g}: report this model"
            )
        largest = max(largest, difference)
    return largest
