"""TaskPool: a WorkerPool for a model of any task, which knows what the masks will be of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from streamseg.errors import InvalidModelOutputError
from streamseg.runtime.classes import choose_classes
from streamseg.runtime.pool import WorkerPool

if TYPE_CHECKING:
    from collections.abc import Sequence

    from streamseg.models.card import Model
    from streamseg.runtime.classes import WantedLabels
    from streamseg.runtime.layout import SlotLayout
    from streamseg.runtime.process import LoadedModel

__all__ = ["TaskPool"]

_MAPS = "semantic-segmentation"

# Nothing that is large may be imported here: the pool can be at work before numpy is there.


class TaskPool(WorkerPool):
    """A pool whose model's card says what its outputs are.

    Models of semantic segmentation return maps of the wanted classes from the model process. The
    outputs of others come as they are, and a ``ModelSegmenter`` makes masks or scores of them.

    Args:
        model: The .pte and its card.
        labels: See ``WorkerPool``, as the others.
        options: Further arguments of ``WorkerPool``.
    """

    def __init__(self, model: Model, *, labels: WantedLabels = "people", **options: Any) -> None:
        super().__init__(model, labels=labels, raw=model.card.task != _MAPS, **options)
        self._returned: tuple[str, ...] = ()

    @property
    def returned(self) -> tuple[str, ...]:
        """The labels whose masks are returned; of a model that has none, nothing."""
        return self._returned

    def _make_layout(self, loaded: LoadedModel) -> SlotLayout:
        layout = super()._make_layout(loaded)
        if self.model.card.task == _MAPS:
            self._returned = tuple(self._labels[index] for index in layout.mask_classes)
            return layout
        self._labels = labels = self._labels_of(loaded.output_shapes)
        if self.model.card.task != "classification":
            chosen = choose_classes(labels, self._wanted)
            self._returned = tuple(labels[index] for index in chosen)
        return layout

    def _labels_of(self, shapes: Sequence[Sequence[int]]) -> tuple[str, ...]:
        """Return the model's labels.

        Raises:
            InvalidModelOutputError: If its outputs are not those of its task, or its card has other
                labels, or none where they must be.
        """
        card, path = self.model.card, self.model.path
        shown = ", ".join(str(list(shape)) for shape in shapes)
        if card.task == "instance-segmentation":
            from streamseg.masks.instances import check_instance_shapes, instance_labels

            try:
                check_instance_shapes(shapes)
                return instance_labels(card.labels)
            except InvalidModelOutputError as exc:
                raise InvalidModelOutputError(f"{path}: {exc}") from exc
        if card.task == "classification":
            if len(shapes) != 1 or len(shapes[0]) != 2 or shapes[0][0] != 1:
                raise InvalidModelOutputError(
                    f"{path}: its outputs are {shown}: a classifier has one, [1, classes]; "
                    "correct the task in its card"
                )
            return self._counted(shapes[0][1])
        fits = len(shapes) == 2 and len(shapes[0]) == 3 and len(shapes[1]) == 4
        if not fits or shapes[0][:2] != shapes[1][:2] or shapes[0][0] != 1:
            raise InvalidModelOutputError(
                f"{path}: its outputs are {shown}: a model of mask classification has class logits "
                "[1, Q, classes + 1] and mask logits [1, Q, H, W]; correct the task in its card"
            )
        return self._counted(shapes[0][2] - 1)

    def _counted(self, count: int) -> tuple[str, ...]:
        labels = self.model.card.labels
        if labels is None:
            return tuple(f"CLASS_{index}" for index in range(count))
        if len(labels) != count:
            raise InvalidModelOutputError(
                f"{self.model.path}: its card has {len(labels)} labels, but its output has "
                f"{count} classes: correct the card"
            )
        return labels
