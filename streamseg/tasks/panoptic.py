"""PanopticSegmenter: the segments of a picture, for every kind of segmentation that transformers knows.

async with await PanopticSegmenter.load("mask2former.pte") as segmenter:
    found = await segmenter.forward("street.jpg")
    for segment in found.segments:
        segmenter.labels[segment.label_id], segment.score, found.mask(segment)
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, ClassVar, get_args

import numpy as np

from streamseg.errors import InvalidConfigError, InvalidModelOutputError, InvalidUserInputError
from streamseg.models.card import Task
from streamseg.tasks.base import StillTask
from streamseg.tasks.images import content_box, load_image
from streamseg.tasks.mask_rules import (
    SegmentMap,
    Subtask,
    Thresholds,
    class_segments,
    largest_class,
    query_class_maps,
    query_segments,
)
from streamseg.tasks.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from streamseg.models.card import MaskRule, Model
    from streamseg.runtime.process import LoadedModel
    from streamseg.tasks.images import ImageSource, Picture
    from streamseg.tasks.threads import Check

__all__ = ["PanopticSegmenter"]

_TASKS: tuple[Task, ...] = ("mask-classification", "semantic-segmentation")


class PanopticSegmenter(StillTask):
    """A model that divides pictures into segments. See ``StillTask`` for its arguments and state.

    It takes models of mask classification (MaskFormer, Mask2Former, DETR), and those of semantic
    segmentation, whose segments are the classes.
    """

    task: ClassVar[Task] = "mask-classification"
    raw = True

    @property
    def subtasks(self) -> tuple[Subtask, ...]:
        """What the model can be asked for, the default first.

        Raises:
            ModuleNotLoadedError: If the model is not known yet.
        """
        rule = self.card.masks
        return ("semantic",) if rule is None else rule.subtasks

    async def forward(
        self,
        image: ImageSource,
        subtask: Subtask | None = None,
        *,
        thresholds: Thresholds | None = None,
        timeout_s: float = 30.0,
    ) -> SegmentMap:
        """Return the segments of a picture.

        Args:
            image: See ``load_image``.
            subtask: One of ``subtasks``; the first of them if it is not given.
            thresholds: What counts as a segment; not used by ``semantic``.
            timeout_s: How long a picture's URL may take, in seconds.

        Raises:
            ModuleNotLoadedError: If the model is not loaded.
            ModelGeneratingError: If another call is running, without ``queue``.
            InvalidUserInputError: If the model cannot do the subtask, or the picture is none.
            FileReadFailedError: If the picture cannot be read.
            WorkerError: If the model's process failed.
        """
        async with self._turn():
            wanted = self._wanted_subtask(subtask)
            picture = await load_image(image, max_pixels=self._max_pixels, timeout_s=timeout_s)
            _, result = await self._run(picture.pixels)
            # Seconds for a large picture and many classes: whoever cancels does not wait for it.
            return await in_thread(
                partial(self._finish, result.raw, picture, wanted, thresholds or Thresholds())
            )

    def _wanted_subtask(self, subtask: str | None) -> Subtask:
        if subtask is None:
            return self.subtasks[0]
        for known in self.subtasks:
            if subtask == known:
                return known
        some = subtask if subtask in get_args(Subtask) else repr(subtask)
        raise InvalidUserInputError(
            f"Subtask {some} is not supported for model {self.card.name}, "
            f"expected one of {', '.join(self.subtasks)}"
        )

    def _finish(
        self,
        raw: tuple[NDArray[np.float32], ...],
        picture: Picture,
        subtask: Subtask,
        thresholds: Thresholds,
        check: Check,
    ) -> SegmentMap:
        size, rule = picture.size, self.card.masks
        if rule is None:
            return class_segments(self._classes(raw[0][0], picture, check))
        class_logits = raw[0][0]
        mask_logits = np.stack(list(self._on_picture(raw[1][0], picture)))
        if subtask == "semantic":
            maps = query_class_maps(rule.family, class_logits, mask_logits)
            return class_segments(largest_class(_checked(maps, check), size))
        fused = {self.labels.index(label) for label in rule.fused}
        return query_segments(
            rule.family, subtask, class_logits, mask_logits, size, thresholds, fused=fused
        )

    def _classes(
        self, maps: NDArray[np.float32], picture: Picture, check: Check
    ) -> NDArray[np.int32]:
        scores = _checked(self._on_picture(maps, picture), check)
        if len(maps) > 1:
            return largest_class(scores, picture.size)
        # Of one channel, which says how much of the first label there is; the rest is the second.
        middle = np.float32(0.0 if self.card.output == "logits" else 0.5)
        first = next(scores)
        # Of equals ``largest_class`` takes the first: the background, as the reference does.
        return 1 - largest_class((np.full_like(first, middle), first), picture.size)

    def _on_picture(
        self, maps: NDArray[np.float32], picture: Picture
    ) -> Iterator[NDArray[np.float32]]:
        """Yield maps of the model without what is not of the picture, on its pixels' centres."""
        top, left, bottom, right = content_box(
            picture.size, self.card, (maps.shape[1], maps.shape[2])
        )
        for each in maps:
            inside = each[top:bottom, left:right]
            if self.card.sampling == "corner":
                from streamseg.runtime.preprocess import to_centres

                inside = to_centres(np.ascontiguousarray(inside), picture.size)
            yield inside

    async def _obtain(self) -> Model:
        model = await super()._obtain()
        if model.card.task not in _TASKS:
            raise InvalidConfigError(
                f"{model.card.name} is a model for {model.card.task}, "
                f"expected one for {' or '.join(_TASKS)}"
            )
        # The base compares it with the card: this is the one task with two kinds of models.
        self.task = model.card.task  # type: ignore[misc]
        return model

    def _labels_of(self, model: Model, loaded: LoadedModel) -> tuple[str, ...]:
        rule, shapes = model.card.masks, loaded.output_shapes
        if rule is not None:
            return _query_labels(model, rule, shapes)
        if len(shapes[0]) != 4 or shapes[0][0] != 1:
            raise InvalidModelOutputError(
                f"{model.card.name} returns {list(shapes[0])}, expected [1, classes, height, width]"
            )
        return model.labels_for(shapes[0][1])


def _checked(maps: Iterable[NDArray[np.float32]], check: Check) -> Iterator[NDArray[np.float32]]:
    for each in maps:
        check()
        yield each


def _query_labels(
    model: Model, rule: MaskRule, shapes: tuple[tuple[int, ...], ...]
) -> tuple[str, ...]:
    name = model.card.name
    classes = shapes[0] if shapes else ()
    masks = shapes[1] if len(shapes) > 1 else ()
    if (
        (len(classes), len(masks)) != (3, 4)
        or (classes[0], masks[0]) != (1, 1)
        or classes[1] != masks[1]
        or classes[2] < 2
    ):
        returned = ", ".join(str(list(shape)) for shape in shapes) or "nothing"
        raise InvalidModelOutputError(
            f"{name} returns {returned}, "
            "expected class logits [1, Q, K + 1] and mask logits [1, Q, H, W]"
        )
    labels = model.card.labels
    if labels is None:
        labels = tuple(f"LABEL_{index}" for index in range(classes[2] - 1))
    if len(labels) != classes[2] - 1:
        raise InvalidModelOutputError(
            f"{name} has {len(labels)} labels in its card, but returns logits of "
            f"{classes[2] - 1} classes and of nothing: correct the card"
        )
    unknown = [label for label in rule.fused if label not in labels]
    if unknown:
        raise InvalidModelOutputError(
            f"{name} fuses {unknown[0]!r} in its card, which is none of its labels: correct the card"
        )
    return labels
