"""YOLO26's segmentation architecture, small, with random weights, from a wheel not installed.

    python -m tests.support.yolo_model FOLDER PICTURE

writes ``yolo.pte`` with its card, the picture at the model's size, and ``expected.npz``: what
Ultralytics' own code makes of it.
"""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path
from typing import Any

import numpy as np

from tests.support.torchvision_models import import_models, unpacked

__all__ = ["SIDE"]

SIDE = 384
_OBJECTS = 100
_ULTRALYTICS = "ultralytics==8.4.190"
_TORCHVISION = "0.29.2"


def _import() -> Any:
    """Import what is needed; torchvision is there without having been installed."""
    import_models()
    version = importlib.metadata.version
    importlib.metadata.version = lambda name: (
        _TORCHVISION if name == "torchvision" else version(name)
    )
    sys.path.append(str(unpacked(_ULTRALYTICS, lambda name: name.startswith("ultralytics/"))))
    import ultralytics.nn.tasks
    import ultralytics.utils.ops

    return ultralytics


def _build(ultralytics: Any) -> Any:
    import torch

    torch.manual_seed(3)
    model = ultralytics.nn.tasks.SegmentationModel("yolo26n-seg.yaml", ch=3, nc=80, verbose=False)
    model.eval()
    head = model.model[-1]
    with torch.no_grad():
        # Initialised for training, all objects are about the same.
        for part in model.modules():
            if isinstance(part, torch.nn.BatchNorm2d):
                part.weight.uniform_(0.8, 1.6)
                part.bias.uniform_(-0.3, 0.3)
        for branch in head.one2one_cv3:
            branch[-1].weight.mul_(12)
            branch[-1].bias.fill_(-3)
    head.end2end = True
    head.export = True
    head.max_det = _OBJECTS
    return model


def main(folder: Path, picture: str) -> None:
    import torch
    from PIL import Image

    from streamseg.convert import export_module
    from streamseg.models.card import Card, InstanceRule

    ultralytics = _import()
    model = _build(ultralytics)

    class Objects(torch.nn.Module):
        """Returns what a card for instance segmentation promises."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, pixels: Any) -> Any:
            found, prototypes = self.model(pixels)
            count, height, width = prototypes.shape[1:]
            masks = found[..., 6:] @ prototypes.reshape(1, count, height * width)
            return found[..., :4], found[..., 4:6], masks.reshape(1, -1, height, width)

    with Image.open(picture) as image:
        small = image.convert("RGB").resize((SIDE, SIDE))
    small.save(folder / "picture.png")
    pixels = torch.from_numpy(np.array(small)).permute(2, 0, 1)[None].float() / 255
    with torch.no_grad():
        found, prototypes = model(pixels)
    scores = found[0, :, 4].sort(descending=True).values
    confidence = float((scores[19] + scores[20]) / 2)
    rows = found[0][found[0, :, 4] > confidence]
    masks = ultralytics.utils.ops.process_mask(
        prototypes[0], rows[:, 6:], rows[:, :4], (SIDE, SIDE), upsample=True
    )
    np.savez(folder / "expected.npz", rows=rows[:, :6].numpy(), masks=masks.numpy() > 0)
    card = Card(
        name="yolo",
        task="instance-segmentation",
        labels="coco",
        input_size=(SIDE, SIDE),
        instance=InstanceRule(confidence=confidence, suppress=False),
    )
    export_module(
        Objects().eval(), (1, 3, SIDE, SIDE), folder / "yolo.pte", card=card, delegate="any"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
