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
    best = _best(maps, class_map)
    if output == "probability":
        for position, index in enumerate(classes):
            masks[position].copy_(maps[index])
    elif classes:
        _write_softmax(maps, best, classes, masks)


def _write_softmax(maps: Any, best: Any, classes: Sequence[int], masks: Any) -> None:
    """Write the softmax of the wanted classes; that of the others is only summed up."""
    import torch

    total, unwanted = torch.zeros_like(best), torch.empty_like(best)
    place = {index: position for position, index in enumerate(classes)}
    for index in range(maps.shape[0]):
        power = masks[place[index]] if index in place else unwanted
        torch.sub(maps[index], best, out=power)
        total.add_(power.exp_())
    for position in place.values():
        masks[position].div_(total)
    for position, index in enumerate(classes):
        if place[index] != position:  # asked for twice
            masks[position].copy_(masks[place[index]])


def _best(maps: Any, class_map: Any | None) -> Any:
    """Return the largest value of each pixel, and write whose it is.

    Channel by channel, in operations that fill whole vectors: ``torch.argmax`` over the first
    dimension takes ten times as long.
    """
    import torch

    best = maps[0].clone()
    if class_map is None:
        for index in range(1, maps.shape[0]):
            torch.maximum(best, maps[index], out=best)
        return best
    class_map.zero_()
    larger = torch.empty_like(class_map)
    for index in range(1, maps.shape[0]):
        # Strictly larger, so that of equal ones the first stays; and the index only grows, so that
        # its maximum is the newest.
        torch.gt(maps[index], best, out=larger)
        torch.maximum(class_map, larger.mul_(index), out=class_map)
        torch.maximum(best, maps[index], out=best)
    return best
