"""Many still pictures through one loaded model: what ``segment`` and ``classify`` do.

A picture that fails is told and the others go on. Every result is whole or absent.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamseg.errors import InvalidConfigError, SinkOpenError, StreamsegError
from streamseg.runtime.classes import choose_classes
from streamseg.session.parts import obtain_configured
from streamseg.session.still_effects import effect_on_pictures
from streamseg.session.still_files import (
    CocoFile,
    ResultWriter,
    fill_json,
    fill_npz,
    fill_palette_png,
)
from streamseg.session.still_reading import read_pixels
from streamseg.session.still_records import of_instances, of_segments, of_semantic
from streamseg.tasks.obtaining import obtain
from streamseg.tasks.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

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
    classes: Sequence[str] | None = None,
    on_done: Callable[[Item, str | None], None],
    on_progress: Callable[[float], None] | None = None,
) -> StillReport:
    """Segment pictures and write the results.

    Args:
        plan: The pictures and their targets.
        config: Model, and whether existing files are replaced; for an effect also masks and effect.
        form: One of ``FORMATS``; ``png`` is the configured effect, which draws the mask by default,
            or with ``classes`` the index of every pixel's class.
        classes: The labels that are of interest, ``all`` of them, or none for all but the
            background; None for an effect, which has its own.
        on_done: Called with each picture, and with the reason if it failed.
        on_progress: Called with the share of the model's download that is done.

    Raises:
        StreamsegError: If the model cannot be used, or nothing can be written where it should be.
    """
    writer = await in_thread(lambda check: _writer(plan, config))
    single = plan.single
    if single is not None:
        await in_thread(lambda check: writer.check(single))
    if classes is None:
        model = await obtain_configured(config, on_progress)
    else:
        model = await obtain(config.model.name, on_progress=on_progress)
        if form == "png" and model.card.task != "semantic-segmentation":
            raise InvalidConfigError(
                f"{model.card.name} is a model for {model.card.task}: a PNG of class indices needs "
                "one for semantic-segmentation; use --format json, npz or coco"
            )
    await in_thread(lambda check: _make_folders(plan))
    report = StillReport()
    if classes is None:
        async with effect_on_pictures(model, config, writer) as apply:

            async def one(item: Item) -> str:
                await apply(item)
                return str(item.target)

            await _each(plan, one, report, on_done)
        return report
    async with _finder(model, config, classes, indices_only=form == "png") as find:
        if form == "coco":
            coco = CocoFile(model.card.name)

            async def annotate(item: Item) -> str:
                found = await find(item)
                await in_thread(partial(coco.add, found))
                return str(single)

            await _each(plan, annotate, report, on_done)
            assert single is not None
            await in_thread(partial(writer.write, single, coco.fill))
            return report
        fill = {"npz": fill_npz, "json": fill_json, "png": fill_palette_png}[form]

        async def store(item: Item) -> str:
            target = item.target
            assert target is not None
            await in_thread(lambda check: writer.check(target))
            found = await find(item)
            await in_thread(partial(writer.write, target, partial(fill, found)))
            return str(target)

        await _each(plan, store, report, on_done)
    return report


def _writer(plan: Plan, config: Config) -> ResultWriter:
    protected = [item.source for item in plan.items if not isinstance(item.source, str)]
    protected += plan.protected
    background = config.effect.options.get("background")
    if isinstance(background, str):
        protected.append(Path(background))
    return ResultWriter(overwrite=config.output.overwrite, protected=protected)


async def classify_pictures(
    plan: Plan,
    model: str | Path,
    *,
    top: int,
    threads: int | None,
    on_done: Callable[[Item, str | None], None],
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
    async with await Classifier.load(model, threads=threads, on_progress=on_progress) as classifier:

        async def one(item: Item) -> list[tuple[str, float]]:
            pixels = await read_pixels(item.source)
            return (await classifier.forward(pixels)).top_k(top)

        await _each(plan, one, report, on_done)
    return report


async def _each(
    plan: Plan,
    work: Callable[[Item], Awaitable[Any]],
    report: StillReport,
    on_done: Callable[[Item, str | None], None],
) -> None:
    """Do one picture after the other; an error that is only its own is noted."""
    for item in plan.items:
        name, failed = item.name, None
        try:
            report.results[name] = await work(item)
        except StreamsegError as exc:
            failed = report.failed[name] = str(exc)
        on_done(item, failed)


@asynccontextmanager
async def _finder(
    model: Model, config: Config, classes: Sequence[str], *, indices_only: bool
) -> AsyncIterator[Callable[[Item], Awaitable[Found]]]:
    """Load the model and yield what finds the classes, objects or segments of a picture.

    With ``indices_only`` nobody wants the probabilities of classes, whichever are asked for.
    """
    options: dict[str, Any] = {
        "threads": config.model.threads or None,
        "timeout_s": config.model.timeout_s,
    }
    everything = tuple(classes) == ("all",)
    some = () if everything else tuple(classes)

    # A wrong class is told once, not of each picture.
    if model.card.task == "semantic-segmentation":
        from streamseg.tasks.semantic import SemanticSegmenter

        async with await SemanticSegmenter.load(model, **options) as semantic:
            choose_classes(semantic.labels, some)
            wanted = "all" if everything else some
            if indices_only:
                # In a large picture's size those of all classes are gigabytes. What is no number
                # becomes the first class, or with one channel the second: these tell of it.
                wanted = semantic.labels[:2]
            yield _reading(partial(of_semantic, semantic), wanted)
    elif model.card.task == "instance-segmentation":
        from streamseg.tasks.instance import InstanceSegmenter

        async with await InstanceSegmenter.load(model, **options) as instances:
            choose_classes(instances.labels, some)
            yield _reading(partial(of_instances, instances), some)
    elif model.card.task == "mask-classification":
        from streamseg.tasks.panoptic import PanopticSegmenter

        async with await PanopticSegmenter.load(model, **options) as panoptic:
            choose_classes(panoptic.labels, some)
            yield _reading(partial(of_segments, panoptic), some)
    else:
        raise InvalidConfigError(
            f"{model.card.name} is a model for {model.card.task}, which this command cannot use: "
            "choose one that segments into classes, objects or segments"
        )


def _reading(
    find: Callable[[NDArray[np.uint8], str, Any], Awaitable[Found]],
    classes: Any,
) -> Callable[[Item], Awaitable[Found]]:
    async def one(item: Item) -> Found:
        pixels = await read_pixels(item.source)
        return await find(pixels, item.name, classes)

    return one


def _make_folders(plan: Plan) -> None:
    for folder in plan.folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise SinkOpenError(
                f"cannot make the folder {folder}: {exc.strerror}; choose another one"
            ) from exc
