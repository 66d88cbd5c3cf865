"""What every ``streamseg export`` does around its work: checks before it, a report after it."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape

from streamseg.cli.report import print_json, print_notices
from streamseg.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from streamseg.convert import ExportReport

__all__ = ["exporting"]

# Below this an int8 program is worth a second look.
_LOW_IOU = 0.9


@contextmanager
def exporting(
    output: Path, overwrite: bool, quiet: bool, as_json: bool
) -> Iterator[tuple[Callable[[str], None], Callable[[ExportReport], None]]]:
    """Check the target, run the block quietly, then print the report that it hands over.

    Args:
        output: Where the program goes.
        overwrite: Whether an older program and its card may be replaced.
        quiet: No status line and no report.
        as_json: The report as one JSON object.

    Yields:
        What takes the words for a step, and what takes the report.

    Raises:
        ConfigError: If the program cannot go there.
    """
    from streamseg.cli.quiet import quiet_work

    if output.suffix.lower() != ".pte":
        raise ConfigError(f"--output is {output}: expected a name that ends with .pte")
    if not output.parent.is_dir():
        raise ConfigError(f"--output is {output}: there is no such folder; make it first")
    for path in (output, output.with_suffix(".toml")):
        if path.exists() and not overwrite:
            raise ConfigError(f"{path} exists: give another --output, or --overwrite")
    reports: list[ExportReport] = []
    with quiet_work("loading PyTorch", quiet=quiet or as_json) as step:
        yield step, reports.append
    for report in reports:
        if as_json:
            print_json({"status": "ok", **report.to_json()})
        elif not quiet:
            _print(report)
        if not as_json:
            print_notices(_notices(report))


def _print(report: ExportReport) -> None:
    console = Console(highlight=False, soft_wrap=True, emoji=False)
    kind = "int8" if report.quantized else "float32"
    console.print(
        f"[bold]{escape(str(report.path))}[/]: {decimal(report.size_bytes)}, {kind}, "
        f"input {_shape(report.input_shape)}, "
        f"output {', '.join(map(_shape, report.output_shapes))}, in {report.export_s:.0f} s"
    )
    if report.card_path is not None:
        console.print(f"card: {escape(str(report.card_path))}")
    console.print(
        f"compared with PyTorch on {report.compared_with}: "
        f"largest difference {report.max_abs_difference:.2g}"
    )
    if report.agreement is not None:
        against = " with float32" if report.quantized else ""
        console.print(f"agreement{against}: {report.agreement.in_words}")
    console.print(f"one run: {report.run_ms:.1f} ms")
    if report.outside:
        console.print(
            f"{report.delegates} XNNPACK delegates; not in them: {', '.join(report.outside)}"
        )


def _notices(report: ExportReport) -> Sequence[str]:
    notices = list(report.notices)
    agreement = report.agreement
    if report.quantized and agreement is not None:
        worth = agreement.share if agreement.iou is None else agreement.iou
        if worth < _LOW_IOU:
            notices.append(
                f"int8 says the same as float32 to {worth:.0%} only: "
                "calibrate with more pictures of the kind that it will see"
            )
    return notices


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
