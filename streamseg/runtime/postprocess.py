"""From a model's raw maps to probabilities and classes, in the model process.

The rules are those of the models' own pipelines: with several channels a stable softmax over them,
with one channel that channel already is the foreground's probability and the background is its
complement. The class of a pixel is the most probable one, the lowest index on ties.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["ResultWriter"]


class ResultWriter:
    """Writes results into slots; all arrays are torch tensors.

    It keeps the memory that it works in from picture to picture: memory that is new to the process
    costs it a page fault for every 4 KiB, which at 257x257 takes as long as all else here.
    """

    def __init__(self) -> None:
        self._scratch: dict[str, Any] = {}

    def write(
        self, maps: Any, output: str, classes: Sequence[int], masks: Any, class_map: Any | None
    ) -> None:
        """Write what was asked for.

        Args:
            maps: (K, H, W) float32, as the model returned it.
            output: ``logits`` or ``probability``.
            classes: Indices of the wanted classes.
            masks: (len(classes), H, W) float32, written.
            class_map: (H, W) uint8 or int32, written; None if it is not wanted.
        """
        if maps.shape[0] == 1:
            _write_foreground(maps[0], output, classes, masks, class_map)
            return
        if output == "probability":
            for position, index in enumerate(classes):
                masks[position].copy_(maps[index])
            if class_map is not None:
                self._best_and_whose(maps, class_map)
        elif class_map is not None:
            best = self._best_and_whose(maps, class_map)
            if classes:
                self._write_softmax(maps, best, classes, masks)
        elif classes:
            self._write_softmax(maps, self._best(maps), classes, masks)

    def _write_softmax(self, maps: Any, best: Any, classes: Sequence[int], masks: Any) -> None:
        """Write the softmax of the wanted classes; that of the others is only summed up."""
        import torch

        total = self._kept("total", maps.shape[1:], torch.float32).zero_()
        unwanted = self._kept("unwanted", maps.shape[1:], torch.float32)
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

    def _best(self, maps: Any) -> Any:
        import torch

        return torch.amax(maps, 0, out=self._kept("best", maps.shape[1:], torch.float32))

    def _best_and_whose(self, maps: Any, class_map: Any) -> Any:
        """Return the largest value of each pixel, and write whose it is.

        A pooling over the classes, with the pixels for channels, which is how the maps lie in
        memory: it keeps the first of equal values, takes a fifth of the time of comparing map by
        map, and a fiftieth of that of ``torch.argmax`` over the first dimension.
        """
        import torch

        count, height, width = maps.shape
        pixels = height * width
        # As [1, channels, rows, 1] with its channels last.
        across = torch.as_strided(
            maps.contiguous(), (1, pixels, count, 1), (count * pixels, 1, pixels, pixels)
        )
        best = self._kept("best", (height, width), torch.float32)
        index = self._kept("index", (height, width), torch.int64)
        shape = (1, pixels, 1, 1)
        torch._C._nn.max_pool2d_with_indices(
            across, (count, 1), out=(best.view(shape), index.view(shape))
        )
        class_map.copy_(index)
        return best

    def _kept(self, name: str, shape: Sequence[int], dtype: Any) -> Any:
        import torch

        tensor = self._scratch.get(name)
        if tensor is None or tuple(tensor.shape) != tuple(shape):
            tensor = self._scratch[name] = torch.empty(shape, dtype=dtype)
        return tensor


def _write_foreground(
    channel: Any, output: str, classes: Sequence[int], masks: Any, class_map: Any | None
) -> None:
    import torch

    foreground = channel if output == "probability" else torch.sigmoid(channel)
    for position, index in enumerate(classes):
        if index == 0:
            masks[position].copy_(foreground).clamp_(0.0, 1.0)
        else:
            torch.sub(1.0, foreground, out=masks[position]).clamp_(0.0, 1.0)
    if class_map is not None:
        class_map.copy_(foreground <= 0.5)
