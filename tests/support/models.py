"""Small programs to test the model processes with; made by the real exporter, in its own process.

    python -m tests.support.models FOLDER

They have random weights: what they say is meaningless, but always the same.
"""

from __future__ import annotations

import sys
from pathlib import Path

NAMES = ("quick", "slow", "very_slow", "classes", "vector", "classifier", "types")


def make_models(folder: Path) -> None:
    import torch
    from torch import nn

    from streamseg.convert.export import export_module

    class Stack(nn.Module):
        """As slow as its depth: 3x3 convolutions of 32 channels on 256x256 pixels."""

        def __init__(self, depth: int, outputs: int = 1) -> None:
            super().__init__()
            self.first = nn.Conv2d(3, 32, 3, padding=1)
            self.middle = nn.ModuleList(nn.Conv2d(32, 32, 3, padding=1) for _ in range(depth))
            self.last = nn.Conv2d(32, outputs, 1)

        def forward(self, picture: torch.Tensor) -> torch.Tensor:
            maps = self.first(picture)
            for layer in self.middle:
                maps = torch.relu(layer(maps))
            maps = self.last(maps)
            return torch.sigmoid(maps) if maps.shape[1] == 1 else maps

    torch.manual_seed(0)
    picture = (1, 3, 256, 256)
    export_module(Stack(0).eval(), picture, folder / "quick.pte")
    export_module(Stack(20).eval(), picture, folder / "slow.pte")
    export_module(Stack(100).eval(), picture, folder / "very_slow.pte", tolerance=1e-2)
    export_module(Stack(0, outputs=3).eval(), (1, 3, 32, 48), folder / "classes.pte")
    head = nn.Sequential(nn.Conv2d(3, 3, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    export_module(head.eval(), (1, 3, 32, 48), folder / "classifier.pte")
    export_module(nn.Sequential(nn.Linear(8, 4), nn.ReLU()).eval(), (1, 8), folder / "vector.pte")
    _write_types(folder / "types.pte")


def _write_types(path: Path) -> None:
    """A program with two methods: one takes float64, the other returns int64."""
    import torch
    from executorch.exir import to_edge
    from torch import nn

    class Doubles(nn.Module):
        def forward(self, picture: torch.Tensor) -> torch.Tensor:
            return picture.float()

    class Indices(nn.Module):
        def forward(self, picture: torch.Tensor) -> torch.Tensor:
            return torch.argmax(picture, dim=1, keepdim=True)

    shape = (1, 3, 4, 4)
    methods = {
        "doubles": torch.export.export(Doubles(), (torch.zeros(shape, dtype=torch.float64),)),
        "indices": torch.export.export(Indices(), (torch.zeros(shape),)),
    }
    path.write_bytes(to_edge(methods).to_executorch().buffer)


if __name__ == "__main__":
    make_models(Path(sys.argv[1]))
