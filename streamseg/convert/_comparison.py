"""Whether a program does what the module does that it was made of."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from streamseg.convert._lowering import Program, first_line
from streamseg.convert._object_rows import are_objects, paired_objects
from streamseg.convert.agreement import Agreement, AgreementMeter
from streamseg.errors import ModelError

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn

    from streamseg.convert._trials import Trial
    from streamseg.models.card import Card

__all__ = ["Comparison", "run_eager"]

# Of the values of an integer output, such as a class map: ties fall this way or that.
_TOLERATED_SHARE = 0.01
# An int8 program may be off by so many times what the quantised module in PyTorch is off.
_INT8_SLACK = 2.0


class Comparison:
    """Compares a program with the module it was made of, one input after the other.

    Args:
        path: Of the program, for messages.
        card: Says how the outputs are read; without one their shape does.

    Attributes:
        largest: Largest difference of a value to the float32 module so far.
    """

    def __init__(self, path: Path, card: Card | None) -> None:
        self._path = path
        self._agreement = AgreementMeter(card)
        self._finds_objects = card is not None and card.task == "instance-segmentation"
        self.largest = 0.0

    def add(
        self,
        module: nn.Module,
        reference: nn.Module,
        program: Program,
        trial: Trial,
        tolerance: float,
    ) -> None:
        """Compare on one input.

        Args:
            module: The float32 module.
            reference: What was lowered: the same module, or its quantised version in PyTorch.
            program: The program.
            trial: The input; agreement on pictures counts.
            tolerance: See ``export_module``.

        Raises:
            ModelError: If the program differs by more than is tolerated.
        """
        results = program(trial.values)
        eager = run_eager(module, trial.values)
        same = eager if reference is module else run_eager(reference, trial.values)
        if len(results) != len(eager):
            raise ModelError(
                f"the program for {self._path} returns {len(results)} outputs, "
                f"the module {len(eager)}: report this model"
            )
        for result, exact in zip(results, eager, strict=True):
            _expect_kind(result, exact, self._path)
        if self._finds_objects and reference is module and are_objects(eager):
            results, eager = paired_objects(results, eager, tolerance)
            same = eager
        for result, exact, quantized in zip(results, eager, same, strict=True):
            if reference is module:
                _expect_equal(result, exact, tolerance, self._path)
            else:
                _expect_no_worse(result, quantized, exact, tolerance, self._path)
            if exact.is_floating_point():
                self.largest = max(self.largest, _largest_difference(result, exact))
        if trial.is_picture:
            self._agreement.add(results, eager)

    def agreement(self) -> Agreement | None:
        """Return the agreement on the pictures so far, None where there were none."""
        return self._agreement.result()


def run_eager(module: nn.Module, trial: Tensor) -> tuple[Tensor, ...]:
    """Return the outputs of a module in PyTorch.

    Raises:
        ModelError: If it fails, or returns anything but tensors, the first of them float32.
    """
    try:
        # Not inference mode: what a module keeps for later, such as anchors, must stay exportable.
        with torch.no_grad():
            outputs = module(trial)
    except Exception as error:
        raise ModelError(
            f"the module does not run on a picture of {list(trial.shape)}: "
            f"{type(error).__name__}: {first_line(error)}: correct the module or the size"
        ) from error
    if isinstance(outputs, torch.Tensor):
        outputs = (outputs,)
    if (
        not isinstance(outputs, (tuple, list))
        or not outputs
        or not all(isinstance(each, torch.Tensor) for each in outputs)
        or outputs[0].dtype != torch.float32
    ):
        raise ModelError(
            f"the module returns {_described(outputs)}, expected a tensor or a tuple of tensors, "
            "the first of float32: wrap it in a module that returns its tensors"
        )
    return tuple(outputs)


def _described(outputs: object) -> str:
    if isinstance(outputs, (tuple, list)):
        kinds = [str(getattr(each, "dtype", type(each).__name__)) for each in outputs]
        return f"({', '.join(kinds)})"
    return type(outputs).__name__


def _largest_difference(result: Tensor, expected: Tensor) -> float:
    if not expected.numel():
        return 0.0
    # Equal infinities are no difference; a NaN is one that no bound allows.
    apart = torch.where(result == expected, torch.zeros_like(expected), (result - expected).abs())
    return float(apart.max())


def _expect_kind(result: Tensor, expected: Tensor, path: Path) -> None:
    if result.shape != expected.shape or result.dtype != expected.dtype:
        raise ModelError(
            f"the program for {path} returns {result.dtype} {list(result.shape)}, the "
            f"module {expected.dtype} {list(expected.shape)}: report this model"
        )


def _expect_equal(result: Tensor, expected: Tensor, tolerance: float, path: Path) -> None:
    if not expected.is_floating_point():
        apart = _share_apart(result, expected)
        if apart > _TOLERATED_SHARE:
            raise ModelError(
                f"the program for {path} differs from the module in {apart:.1%} of the values "
                f"of an output, expected at most {_TOLERATED_SHARE:.0%}: report this model"
            )
        return
    difference = _largest_difference(result, expected)
    allowed = tolerance * _magnitude(expected)
    # Written so that a NaN fails too.
    if not difference <= allowed:
        raise ModelError(
            f"the program for {path} differs from the module by {difference:.2g}, "
            f"expected at most {allowed:.2g}: report this model"
        )


def _expect_no_worse(
    result: Tensor, quantized: Tensor, exact: Tensor, tolerance: float, path: Path
) -> None:
    """Compare the error of an int8 program with that of the quantised module in PyTorch.

    Not the values: one step of rounding apart in the first layer is many in the last.
    """
    if exact.is_floating_point():
        ours, theirs = _rms(result - exact), _rms(quantized - exact)
        allowed = _INT8_SLACK * theirs + tolerance * _magnitude(exact)
    else:
        ours, theirs = _share_apart(result, exact), _share_apart(quantized, exact)
        allowed = _INT8_SLACK * theirs + _TOLERATED_SHARE
    if not ours <= allowed:
        raise ModelError(
            f"the int8 program for {path} is {ours:.2g} off the float32 module, the quantised "
            f"module in PyTorch only {theirs:.2g}: report this model"
        )


def _share_apart(result: Tensor, expected: Tensor) -> float:
    return float((result != expected).float().mean()) if expected.numel() else 0.0


def _rms(difference: Tensor) -> float:
    return float(difference.double().square().mean().sqrt()) if difference.numel() else 0.0


def _magnitude(expected: Tensor) -> float:
    """Return the largest finite magnitude, at least 1."""
    finite = expected[torch.isfinite(expected)]
    return max(1.0, float(finite.abs().max()) if finite.numel() else 0.0)
