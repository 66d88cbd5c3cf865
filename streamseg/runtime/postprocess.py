"""From a model's raw maps to probabilities and classes, in the model process.

The rules are those of the models' own pipelines: with several channels a stable softmax over them,
with one channel that channel already is the foreground's probability and the background is its
complement. The class of a pixel is the most probable one, the lowest index on ties.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["write_result"]


def write_result(
    maps: Any, output: str, classes: Sequence[int], masks: Any, class_map: Any | None
) -> None:
    """Write what was asked for into a slot; all arrays are torch tensors.

    Args:
        maps: (K, H, W) float32, as the model returned it.
        output: ``logits`` or ``probability``.
        classes: Indices of the wanted classes.
        masks: (len(classes), H, W) float32, written.
        class_map: (H, W) uint8 or int32, written; None if it is not wanted.
    """
    import torch

    if maps.shape[0] == 1:
        foreground = maps[0] if output == "probability" else torch.sigmoid(maps[0])
        for position, index in enumerate(classes):
            if index == 0:
                masks[position].copy_(foreground).clamp_(0.0, 1.0)
            else:
                torch.sub(1.0, foreground, out=masks[position]).clamp_(0.0, 1.0)
        if class_map is not None:
            class_map.copy_(foreground <= 0.5)
        return
    if class_map is not None:
        class_map.copy_(torch.argmax(maps, dim=0))
    if classes:
        probabilities = maps if output == "probability" else torch.softmax(maps, dim=0)
        for position, index in enumerate(classes):
            masks[position].copy_(probabilities[index])
