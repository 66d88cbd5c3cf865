"""Torch modules as ExecuTorch programs for the CPU, verified before they are kept."""

from __future__ import annotations

import hashlib
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamseg.convert._comparison import Comparison, run_eager
from streamseg.convert._lowering import Delegate, Program, lower, no_step
from streamseg.convert._staging import Staging
from streamseg.convert._trials import Trials
from streamseg.convert.cards import card_to_toml, check_card, complete_card
from streamseg.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor, nn

    from streamseg.convert.agreement import Agreement
    from streamseg.models.card import Card

__all__ = ["ExportReport", "export_module"]

_TIMED_RUNS = 5


@dataclass(frozen=True)
class ExportReport:
    """What an export wrote.

    Attributes:
        path: The program.
        sha256: Of the program, in hexadecimal.
        size_bytes: Of the program.
        input_shape: NCHW, float32.
        output_shapes: Of all outputs, in their order.
        max_abs_difference: Largest difference of a value to the eager float32 module, over all
            inputs that were tried.
        run_ms: The fastest of a few runs of the verified program.
        delegates: How many parts of the graph XNNPACK runs.
        outside: The operators that it does not run, sorted; ExecuTorch's own kernels do.
        quantized: Whether it computes in int8.
        agreement: How far what the masks or the classes say of the pictures is the same as the
            eager module's; None where the outputs are neither, or there were no pictures.
        compared_with: On what inputs it was compared, in words.
        export_s: How long all of it took, in seconds.
        card_path: The card, where one was written.
        notices: What the user should know, a line each.
    """

    path: Path
    sha256: str
    size_bytes: int
    input_shape: tuple[int, ...]
    output_shapes: tuple[tuple[int, ...], ...]
    max_abs_difference: float
    run_ms: float
    delegates: int = 1
    outside: tuple[str, ...] = ()
    quantized: bool = False
    agreement: Agreement | None = None
    compared_with: str = ""
    export_s: float = 0.0
    card_path: Path | None = None
    notices: tuple[str, ...] = ()

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Of the first output."""
        return self.output_shapes[0]

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        values = asdict(self)
        values["path"] = str(self.path)
        values["card_path"] = str(self.card_path) if self.card_path else None
        return values


def export_module(
    module: nn.Module,
    input_shape: tuple[int, ...],
    pte_path: str | Path,
    *,
    tolerance: float = 1e-3,
    card: Card | None = None,
    delegate: Delegate = "whole",
    quantize: Sequence[Tensor] | None = None,
    products_only: bool = False,
    picture: Tensor | None = None,
    picture_name: str = "",
    on_step: Callable[[str], None] | None = None,
) -> ExportReport:
    """Export a module for XNNPACK, run the program, compare it, and only then keep it.

    It is compared with the eager module on noise, on a ramp, and on pictures: those that are given,
    or else, where the input is [1, 3, H, W], one that comes with streamseg.

    Args:
        module: Takes one float32 tensor and returns one tensor or a tuple of tensors, the first
            of them float32; put in evaluation mode by the caller. Its weights have the strides of
            a new tensor: ExecuTorch 1.5 takes others, on axes of size 1 too, for NHWC, and the
            program then fails when it runs.
        input_shape: NCHW.
        pte_path: Where the program goes. An older file there stays until the new one is
            whole and verified.
        tolerance: Largest difference to the eager module, relative to the largest
            magnitude of its output or to 1, whichever is larger. With ``quantize`` the
            program's error (RMS) may be this and twice that of the quantised module in PyTorch.
        card: Written beside the program as TOML, with its size, its checksum and what it was
            verified with filled in. Without one, an older card beside the program is removed: it
            would be read as this program's.
        delegate: ``whole``: the graph is one XNNPACK delegate, or it is refused. ``any``:
            operators may stay outside, where the installed ExecuTorch runs them.
        quantize: Pictures as the module takes them, to calibrate an int8 program with.
        products_only: Whether int8 is for convolutions and matrix products alone, see
            ``quantize_module``.
        picture: A picture as the module takes it, to compare the program on.
        picture_name: What the report calls it.
        on_step: Called with a word or two for each step.

    Raises:
        ModelError: The module cannot be exported like this, the program differs from the
            module, the card does not fit it, or a file cannot be written.
    """
    started = time.monotonic()
    step = on_step or no_step
    pte_path = Path(pte_path)
    card_path = pte_path.with_suffix(".toml")
    if card_path == pte_path:
        raise ModelError(f"{pte_path}: a program's name ends with .pte, .toml is for its card")
    trials = Trials(input_shape, card, picture, picture_name, quantize)
    shapes = tuple(tuple(each.shape) for each in run_eager(module, trials.noise))
    if card is not None:
        check_card(card, shapes, pte_path)
    reference = module
    if quantize is not None:
        from streamseg.convert.quantize import quantize_module

        reference = quantize_module(
            module, trials.noise.clone(), quantize, products_only=products_only, on_step=step
        )
    step("lowering to XNNPACK")
    lowered = lower(reference, trials.noise.clone(), delegate)
    sha256 = hashlib.sha256(lowered.content).hexdigest()
    with Staging() as staging:
        program = Program(str(staging.add(pte_path, lowered.content)))
        step("comparing with PyTorch")
        comparison = Comparison(pte_path, card)
        for trial in trials:
            comparison.add(module, reference, program, trial, tolerance)
        report = ExportReport(
            path=pte_path,
            sha256=sha256,
            size_bytes=len(lowered.content),
            input_shape=tuple(input_shape),
            output_shapes=shapes,
            max_abs_difference=comparison.largest,
            run_ms=_fastest_ms(program, trials.noise),
            delegates=lowered.delegates,
            outside=lowered.outside,
            quantized=quantize is not None,
            agreement=comparison.agreement(),
            compared_with=trials.in_words,
            export_s=time.monotonic() - started,
            card_path=card_path if card is not None else None,
        )
        if card is None:
            staging.remove(card_path)
        else:
            complete = complete_card(
                card,
                input_shape=input_shape,
                sha256=sha256,
                size_bytes=report.size_bytes,
                verified_with=_verified_with(report, 0 if quantize is None else len(quantize)),
            )
            staging.add(card_path, card_to_toml(complete))
        staging.commit()
    return report


def _fastest_ms(program: Program, trial: Tensor) -> float:
    times = []
    for _ in range(_TIMED_RUNS):
        start = time.perf_counter()
        program(trial)
        times.append(time.perf_counter() - start)
    return min(times) * 1e3


def _verified_with(report: ExportReport, calibrated_with: int) -> str:
    text = (
        f"the PyTorch module, on {report.compared_with}: "
        f"largest difference {report.max_abs_difference:.2g}"
    )
    if report.agreement is not None:
        text += f", {report.agreement.in_words}"
    if calibrated_with:
        plural = "s" if calibrated_with > 1 else ""
        text = f"int8, calibrated with {calibrated_with} picture{plural}, against float32: {text}"
    return text
