"""From a model's raw maps to probabilities and classes, in the model process.

The rules are those of the models' own pipelines: with several channels a stable softmax over them,
with one channel that channel already is the foreground's probability and the background is its
complement. The class of a pixel is the most probable one, the lowest index on ties.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from streamseg.runtime.layout import SlotLayout, SlotViews

__all__ = ["write_result"]


def write_result(maps: Any, output: str, layout: SlotLayout, views: SlotViews) -> None:
    """Write what was asked for into a slot.

    Args:
        maps: (K, H, W) float32 torch tensor, as the model returned it.
        output: ``logits`` or ``probability``.
        layout: Which classes are wanted.
        views: The slot's arrays; ``masks`` and ``class_map`` are written.
    """
    import torch

    masks = torch.from_numpy(views.masks)
    classes = torch.from_numpy(views.class_map) if layout.class_map else None
    if maps.shape[0] == 1:
        foreground = maps[0] if output == "probability" else torch.sigmoid(maps[0])
        for position, index in enumerate(layout.mask_classes):
            if index == 0:
                masks[position].copy_(foreground).clamp_(0.0, 1.0)
            else:
                torch.sub(1.0, foreground, out=masks[position]).clamp_(0.0, 1.0)
        if classes is not None:
            classes.copy_(foreground <= 0.5)
        return
    if classes is not None:
        classes.copy_(torch.argmax(maps, dim=0))
    if layout.mask_classes:
        probabilities = maps if output == "probability" else torch.softmax(maps, dim=0)
        for position, index in enumerate(layout.mask_classes):
            masks[position].copy_(probabilities[index])
