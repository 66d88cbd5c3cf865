"""From a torch module to the bytes of a program whose work XNNPACK does."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch

from streamseg.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["Delegate", "Lowered", "Program", "first_line", "lower", "no_step"]

Delegate = Literal["whole", "any"]

_CALL = "executorch_call_delegate"
_NOT_IN_INT8 = (
    "int8 needs a model of which XNNPACK takes every operator that becomes int8, and some stay "
    "outside: export it in float32"
)
_PLUMBING = {"getitem", _CALL}
_ARITHMETIC = {
    getattr(getattr(torch.ops.aten, name), overload)
    for name in ("add", "sub", "mul", "div")
    for overload in ("Tensor", "Scalar")
} | {torch.ops.aten.rsub.Scalar}


@dataclass(frozen=True)
class Lowered:
    """A program that has not been run yet.

    Attributes:
        content: The bytes of the .pte.
        delegates: How many parts of the graph XNNPACK runs.
        outside: The operators that it does not run, sorted.
    """

    content: bytes
    delegates: int
    outside: tuple[str, ...]


def lower(module: nn.Module, example: Tensor, delegate: Delegate) -> Lowered:
    """Export a module for XNNPACK.

    Args:
        module: Takes one tensor.
        example: An input of the fixed shape.
        delegate: ``whole`` refuses a graph of which an operator stays outside of one delegate,
            ``any`` only one with an operator that the installed ExecuTorch has no kernel for.

    Raises:
        ModelError: If it cannot be exported like this.
    """
    # Imported here: the export stack takes seconds, and a caller that only reads a report
    # or gets an early error need not wait for it.
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import EdgeCompileConfig, to_edge_transform_and_lower

    # Operators that are not in ATen's core set are fine where there is a kernel for them.
    config = EdgeCompileConfig(_check_ir_validity=delegate == "whole")
    try:
        with torch.no_grad():
            exported = torch.export.export(module, (example,), strict=False)
        _use_float_scalars(exported.graph)
        edge = to_edge_transform_and_lower(
            exported, partitioner=[XnnpackPartitioner()], compile_config=config
        )
        delegates, outside = _count(edge.exported_program().graph.nodes)
        if delegate == "whole" and (outside or delegates != 1):
            raise ModelError(
                f"{delegates} XNNPACK delegates, expected 1; operators left outside: "
                f"{', '.join(outside) or 'none'}: replace these operators in the model"
            )
        program = edge.to_executorch()
    except ModelError:
        raise
    except Exception as error:
        if "quantized_decomposed::" in str(error):
            raise ModelError(_NOT_IN_INT8) from error
        raise ModelError(
            f"export failed: {type(error).__name__}: {first_line(error)}: "
            "use a module of plain tensor operations with a fixed input size"
        ) from error
    _expect_kernels(program.exported_program().graph.nodes)
    return Lowered(program.buffer, delegates, outside)


class Program:
    """A loaded program.

    Args:
        path: The .pte.

    Raises:
        ModelError: If it does not load.
    """

    def __init__(self, path: str) -> None:
        # The library itself: its Python wrapper warns at every import.
        from executorch.extension.pybindings._C import _load_for_executorch

        try:
            self._loaded = _load_for_executorch(path)
        except RuntimeError as error:
            raise ModelError(
                f"the exported program does not load: {first_line(error)}: report this model"
            ) from error

    def __call__(self, picture: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs, in memory of their own.

        Raises:
            ModelError: If it does not run.
        """
        try:
            return tuple(each.clone() for each in self._loaded.run_method("forward", [picture]))
        except RuntimeError as error:
            raise ModelError(
                f"the exported program does not run: {first_line(error)}: report this model"
            ) from error


def _use_float_scalars(graph: Any) -> None:
    """Give arithmetic on float tensors float scalars: ``2 * x`` becomes ``2.0 * x``.

    ExecuTorch turns the scalar into a tensor of its own type, and an integer one into a copy to
    float that stays outside of the delegate. Its decomposition of hardsigmoid has such scalars.
    """
    aten = torch.ops.aten
    for node in list(graph.nodes):
        value = node.meta.get("val")
        if node.op != "call_function" or not isinstance(value, torch.Tensor):
            continue
        if not value.is_floating_point():
            continue
        if node.target in _ARITHMETIC:
            node.args = tuple(float(a) if type(a) is int else a for a in node.args)
        in_place = node.target is aten.hardsigmoid_.default
        if node.target is aten.hardsigmoid.default or (in_place and len(node.args[0].users) == 1):
            with graph.inserting_before(node):
                moved = graph.call_function(aten.add.Tensor, (node.args[0], 3.0))
                clamped = graph.call_function(aten.clamp.default, (moved, 0.0, 6.0))
                scaled = graph.call_function(aten.div.Tensor, (clamped, 6.0))
            for new in (moved, clamped, scaled):
                new.meta = dict(node.meta)
            node.replace_all_uses_with(scaled)
            graph.erase_node(node)


def _count(nodes: Any) -> tuple[int, tuple[str, ...]]:
    names = Counter(_name(node.target) for node in nodes if node.op == "call_function")
    return names[_CALL], tuple(sorted(set(names) - _PLUMBING))


def _expect_kernels(nodes: Any) -> None:
    from executorch.extension.pybindings._C import _get_operator_names

    known = set(_get_operator_names())
    targets = {node.target for node in nodes if node.op == "call_function"}
    used = {target.name() for target in targets if isinstance(target, torch._ops.OpOverload)}
    missing = sorted(used - known)
    if any(name.startswith("quantized_decomposed::") for name in missing):
        raise ModelError(_NOT_IN_INT8)
    if missing:
        raise ModelError(
            f"the installed ExecuTorch has no kernel for {', '.join(missing)}: "
            "replace these operators in the model"
        )


def _name(target: Any) -> str:
    return str(getattr(target, "__name__", target))


def no_step(step: str) -> None:
    """Take the words for a step, where nobody wants to read them."""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text."""
    return next(iter(str(error).splitlines()), "")
