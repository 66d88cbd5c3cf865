"""Models of all tasks for the pipeline's tests; made by the real exporter, in its own process.

    python -m tests.support.pipeline_models FOLDER
    python -m tests.support.pipeline_models FOLDER DEEPLAB.tflite

``discs`` finds red and green discs, which it calls PERSON, and blue ones, DOG; ``tones`` says which
colour prevails. ``deeplab`` is the real DeepLab with so many convolutions beside it that it takes
as long as a large model does: what they add to its scores is nothing.
"""

from __future__ import annotations

import sys
from pathlib import Path

SIZE = (96, 160)  # (height, width) of the input of all but DeepLab
_EXTRA_LAYERS = 45


def make_small_models(folder: Path) -> None:
    import torch
    from torch import nn

    from streamseg.convert.export import export_module

    height, width = SIZE

    def excess(picture: torch.Tensor) -> torch.Tensor:
        """How much more of each primary colour there is than of the others: [1, 3, H, W]."""
        red, green, blue = picture[:, 0:1], picture[:, 1:2], picture[:, 2:3]
        return torch.cat(
            [
                red - torch.maximum(green, blue),
                green - torch.maximum(red, blue),
                blue - torch.maximum(red, green),
            ],
            dim=1,
        )

    class Discs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("x", torch.arange(width, dtype=torch.float32).reshape(1, 1, -1))
            self.register_buffer("y", torch.arange(height, dtype=torch.float32).reshape(1, 1, -1))
            self.register_buffer("classes", torch.tensor([[[0.0], [0.0], [1.0]]]))

        def forward(self, picture: torch.Tensor) -> tuple[torch.Tensor, ...]:
            logits = (excess(picture) - 0.3) * 40.0
            columns, rows = torch.amax(logits, dim=2), torch.amax(logits, dim=3)
            far = torch.full((1, 1, 1), 1e4)
            left = torch.amin(torch.where(columns > 0, self.x, far), dim=2)
            right = torch.amax(torch.where(columns > 0, self.x + 1.0, -far), dim=2)
            top = torch.amin(torch.where(rows > 0, self.y, far), dim=2)
            bottom = torch.amax(torch.where(rows > 0, self.y + 1.0, -far), dim=2)
            boxes = torch.stack([left, top, right, bottom], dim=2)
            score = torch.sigmoid(torch.amax(columns, dim=2)).unsqueeze(2)
            return boxes, torch.cat([score, self.classes], dim=2), logits

    class Tones(nn.Module):
        def forward(self, picture: torch.Tensor) -> torch.Tensor:
            return torch.mean(picture, dim=(2, 3)) * 8.0

    shape = (1, 3, height, width)
    export_module(Discs().eval(), shape, folder / "discs.pte", delegate="any")
    _card(folder / "discs.toml", "instance-segmentation", ("PERSON", "DOG"))
    export_module(Tones().eval(), shape, folder / "tones.pte", delegate="any")
    _card(folder / "tones.toml", "classification", ("RED", "GREEN", "BLUE"))


def make_deeplab(folder: Path, tflite: Path) -> None:
    import torch
    from torch import nn

    from streamseg.convert.export import export_module
    from streamseg.convert.tflite import load_tflite, to_module

    class Slower(nn.Module):
        """A model that gives what the given one gives, and takes longer."""

        def __init__(self, model: nn.Module, classes: int) -> None:
            super().__init__()
            self.model = model
            widths = (3, *(32 for _ in range(_EXTRA_LAYERS)))
            self.extra = nn.Sequential(
                *(nn.Conv2d(before, 32, 3, padding=1) for before in widths),
                nn.Conv2d(32, classes, 1),
            )
            nn.init.constant_(self.extra[-1].weight, 1e-9)
            nn.init.zeros_(self.extra[-1].bias)

        def forward(self, picture: torch.Tensor) -> torch.Tensor:
            return self.model(picture) + self.extra(picture)

    torch.manual_seed(0)
    graph = load_tflite(tflite)
    model = Slower(to_module(graph), graph.output_shape[1]).eval()
    export_module(model, graph.input_shape, folder / "deeplab.pte")
    (folder / "deeplab.toml").write_text(
        'name = "deeplab"\nlabels = "voc"\noutput = "logits"\n'
        "mean = [0.5, 0.5, 0.5]\nstd = [0.5, 0.5, 0.5]\n"
    )


def _card(path: Path, task: str, labels: tuple[str, ...]) -> None:
    path.write_text(f'name = "{path.stem}"\ntask = "{task}"\nlabels = {list(labels)}\n')


if __name__ == "__main__":
    if len(sys.argv) > 2:
        make_deeplab(Path(sys.argv[1]), Path(sys.argv[2]))
    else:
        make_small_models(Path(sys.argv[1]))
