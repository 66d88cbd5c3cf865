"""Many still pictures through one loaded model: what ``segment`` and ``classify`` do.

A picture that fails is told and the others go on. Every result is whole or absent.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread

from streamseg.errors import InvalidConfigError, SinkOpenError, StreamsegError
from streamseg.runtime.classes import choose_classes
from streamseg.session.parts import obtain
from streamseg.session.still_effects import check_picture_name, effect_on_pictures
from streamseg.session.still_records import CocoFile, write_json, write_npz, write_palette_png

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
    from pathlib import Path

    from streamseg.config import Config
    from streamseg.models.card import Model
    from streamseg.session.pictures import Item, Plan
    from streamseg.session.still_records import Found

__all__ = ["FORMATS", "StillReport", "classify_pictures", "segment_pictures"]

FORMATS = ("png", "npz", "json", "coco")
"""What ``segment`` writes."""


@dataclass(slots=True)
class StillReport:
    """What became of the pictures.

    Attributes:
        results: Source -> where its result is, or what it is.
        failed: Source -> why there is none.
    """

    results: dict[str, Any] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def exit_code(self) -> int:
        """0 if all went well."""
        return 1 if self.failed else 0


async def segment_pictures(
    plan: Plan,
    config: Config,
    *,
    form: str,
    classes: Sequence[str] = (),
    single: Path | None = None,
    on_done: Callable[[Path, str | None], None],
    on_progress: Callable[[float], None] | None = None,
) -> StillReport:
    """Segment pictures and write the results.

    Args:
        plan: The pictures and their targets.
        config: Model, masks, effect, and whether existing files are replaced.
        form: One of ``FORMATS``; ``png`` is the configured effect, which draws the mask by default,
            or with the classes ``all`` the index of every pixel's class.
        classes: The labels that are of interest; none means what the effect means by its subject,
            or all classes but the background.
        single: The one file of the format ``coco``.
        on_done: Called with each picture, and with the reason if it failed.
        on_progress: Called with the share of the model's download that is done.

    Raises:
        StreamsegError: If the model cannot be used, or nothing can be written where it should be.
    """
    effect = form == "png" and tuple(classes) != ("all",)
    for item in plan.items:
        if form == "png" and item.target is not None:
            check_picture_name(item.target, indices=not effect)
    model = await obtain(config.model.name, on_progress)
    if form == "png" and not effect and model.card.task != "semantic-segmentation":
        raise InvalidConfigError(
            f"{model.card.name} is a model for {model.card.task}: a PNG of class indices needs one "
            "for semantic-segmentation; use --format json, npz or coco"
        )
    await anyio.to_thread.run_sync(_make_folders, plan)
    report = StillReport()
    if effect:
        await _apply_effect(plan, config, model, classes, report, on_done)
        return report
    overwrite = config.output.overwrite
    async with _finder(model, config, classes) as find:
        if form == "coco":
            assert single is not None
            coco = CocoFile(
                single,
                model.card.name,
                overwrite=overwrite,
                protected=[item.source for item in plan.items],
            )

            async def annotate(item: Item) -> str:
                found = await find(item.source)
                await anyio.to_thread.run_sync(coco.add, item.source, found)
                return str(single)

            await _each(plan, annotate, report, on_done)
            await anyio.to_thread.run_sync(coco.write)
            return report
        write = {"npz": write_npz, "json": write_json, "png": write_palette_png}[form]

        async def store(item: Item) -> str:
            assert item.target is not None
            found = await find(item.source)
            await anyio.to_thread.run_sync(partial(write, item.target, found, overwrite=overwrite))
            return str(item.target)

        await _each(plan, store, report, on_done)
    return report


async def classify_pictures(
    plan: Plan,
    model: str | Path,
    *,
    top: int,
    threads: int | None,
    on_done: Callable[[Path, str | None], None],
    on_progress: Callable[[float], None] | None = None,
) -> StillReport:
    """Classify pictures; the results are lists of (label, probability), the best one first.

    Args:
        plan: The pictures.
        model: A classifier's name, or the path of a .pte.
        top: How many labels of each.
        threads: Threads of the model; None chooses.
        on_done: Called with each picture, and with the reason if it failed.
        on_progress: Called with the share of the model's download that is done.

    Raises:
        StreamsegError: If the model cannot be used.
    """
    from streamseg.tasks.classifier import Classifier

    report = StillReport()
    loaded = await obtain(model, on_progress)
    async with await Classifier.load(loaded, threads=threads) as classifier:

        async def one(item: Item) -> list[tuple[str, float]]:
            return (await classifier.forward(item.source)).top_k(top)

        await _each(plan, one, report, on_done)
    return report


async def _each(
    plan: Plan,
    work: Callable[[Item], Awaitable[Any]],
    report: StillReport,
    on_done: Callable[[Path, str | None], None],
) -> None:
    """Do one picture after the other; an error that is only its own is noted."""
    for item in plan.items:
        name, failed = str(item.source), None
        try:
            report.results[name] = await work(item)
        except StreamsegError as exc:
            failed = report.failed[name] = str(exc)
        on_done(item.source, failed)


@asynccontextmanager
async def _finder(
    model: Model, config: Config, classes: Sequence[str]
) -> AsyncIterator[Callable[[Path], Awaitable[Found]]]:
    """Load the model and yield what finds the classes or objects of a picture."""
    from streamseg.session.still_records import of_instances, of_semantic

    options: dict[str, Any] = {
        "threads": config.model.threads or None,
        "timeout_s": config.model.timeout_s,
    }
    chosen: Any = "all" if tuple(classes) == ("all",) else tuple(classes)
    if model.card.task == "semantic-segmentation":
        from streamseg.tasks.semantic import SemanticSegmenter

        async with await SemanticSegmenter.load(model, **options) as segmenter:
            choose_classes(
                segmenter.labels, chosen
            )  # a wrong one is told once, not of each picture
            yield lambda path: of_semantic(segmenter, path, chosen)
    elif model.card.task == "instance-segmentation":
        from streamseg.tasks.instance import InstanceSegmenter

        async with await InstanceSegmenter.load(model, **options) as instances:
            chosen = () if chosen == "all" else chosen
            if instances.labels:
                choose_classes(instances.labels, chosen)
            yield lambda path: of_instances(instances, path, chosen)
    else:
        raise InvalidConfigError(
            f"{model.card.name} is a model for {model.card.task}, which this command cannot use: "
            "choose one that segments into classes or instances"
        )


async def _apply_effect(
    plan: Plan,
    config: Config,
    model: Model,
    classes: Sequence[str],
    report: StillReport,
    on_done: Callable[[Path, str | None], None],
) -> None:
    """Write the effect of every picture; all have one model."""
    async with effect_on_pictures(model, config, classes) as apply:

        async def one(item: Item) -> str:
            assert item.target is not None
            await apply(item.source, item.target)
            return str(item.target)

        await _each(plan, one, report, on_done)


def _make_folders(plan: Plan) -> None:
    for folder in plan.folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise SinkOpenError(
                f"cannot make the folder {folder}: {exc.strerror}; choose another one"
            ) from exc
