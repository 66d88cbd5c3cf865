"""Segmentation models of Hugging Face transformers as ExecuTorch programs.

SegFormer and others of ``AutoModelForSemanticSegmentation`` become models of semantic segmentation;
MaskFormer, Mask2Former and DETR become models of mask classification, read by
``streamseg.pipeline``. transformers is taken from the user's environment and imported when it is
needed. Weights are read from safetensors only, and no code that comes with a model is run.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from streamseg.convert._lowering import no_step
from streamseg.convert.on_pictures import export_on_pictures
from streamseg.convert.transformers_models_norms import write_out_norms
from streamseg.convert.transformers_models_processor import (
    Preprocessing,
    Subtask,
    check_semantic,
    found_subtasks,
    read_preprocessing,
)
from streamseg.convert.transformers_models_source import (
    quiet_transformers,
    read_configuration,
    read_model,
    read_processor,
)
from streamseg.errors import ModelError
from streamseg.models.card import Card, MaskRule
from streamseg.models.labels import distinct_labels

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from streamseg.convert.export import ExportReport

__all__ = ["TransformersModel", "export_transformers", "load_transformers"]

_Family = Literal["maskformer", "mask2former", "detr"]

# Type of a configuration -> family of the rules and the class of the model.
_FAMILIES: dict[str, tuple[_Family, str]] = {
    "maskformer": ("maskformer", "MaskFormerForInstanceSegmentation"),
    "mask2former": ("mask2former", "Mask2FormerForUniversalSegmentation"),
    "detr": ("detr", "DetrForSegmentation"),
}


@dataclass(frozen=True)
class TransformersModel:
    """A model of transformers, ready for ``export_module``.

    Attributes:
        module: Takes float32 [1, 3, H, W]; returns the tensors of the card's task.
        card: What is known of it; ``export_module`` completes it.
        input_shape: NCHW.
    """

    module: nn.Module
    card: Card
    input_shape: tuple[int, int, int, int]


def export_transformers(
    source: str | Path,
    pte_path: str | Path,
    *,
    size: tuple[int, int] | None = None,
    subtasks: Sequence[str] | None = None,
    tolerance: float = 1e-3,
    calibrate: Sequence[Path] | None = None,
    picture: Path | None = None,
    on_step: Callable[[str], None] | None = None,
) -> ExportReport:
    """Export a model of transformers for XNNPACK, with a card beside it.

    What XNNPACK does not do, such as the sampling of deformable attention, is left to ExecuTorch's
    own kernels. In int8 are convolutions and linear layers, where nearly all weights are.

    Args:
        source: See ``load_transformers``, as ``size`` and ``subtasks``.
        pte_path: Where the program goes; the card has the same name, with ``.toml``.
        size: (H, W) of the input in pixels.
        subtasks: What it is to be used for.
        tolerance: Largest difference to the model in PyTorch, relative to the largest magnitude of
            the output or to 1, whichever is larger.
        calibrate: Pictures, or folders of pictures, to calibrate an int8 program with.
        picture: A picture to compare the program on, instead of streamseg's own.
        on_step: Called with a word or two for each step.

    Raises:
        ModelError: As ``load_transformers`` and ``export_module``.
    """
    (on_step or no_step)("loading the model")
    model = load_transformers(source, name=Path(pte_path).stem, size=size, subtasks=subtasks)
    return export_on_pictures(
        model.module,
        model.input_shape,
        pte_path,
        model.card,
        calibrate=calibrate,
        picture=picture,
        tolerance=tolerance,
        delegate="any",
        products_only=True,
        on_step=on_step,
    )


def load_transformers(
    source: str | Path,
    *,
    name: str | None = None,
    size: tuple[int, int] | None = None,
    subtasks: Sequence[str] | None = None,
) -> TransformersModel:
    """Load a segmentation model of transformers and describe it.

    Args:
        source: A folder with ``config.json``, ``preprocessor_config.json`` and weights as
            safetensors, or the name of such a repository on the Hugging Face Hub.
        name: For the card; the last part of ``source`` if it is not given.
        size: (H, W) of the input in pixels; by default what the image processor makes of a
            picture, of a 4:3 one where it keeps their shape. The exported model has this one size
            and pictures are stretched to it.
        subtasks: ``panoptic``, ``instance``, ``semantic``: what it is to be used for. By default
            all that its image processor can do.

    Raises:
        ModelError: If transformers is not there, the model cannot be loaded, is of another kind,
            or its image processor does what a card cannot say.
        OfflineError: If it is not here, and the environment switches fetching off.
    """
    with quiet_transformers() as transformers:
        config = read_configuration(transformers, source)
        known = transformers.AutoModelForSemanticSegmentation._model_mapping
        if config.model_type not in _FAMILIES and type(config) not in known:
            raise ModelError(
                f"{source}: is a model of type {config.model_type}, expected maskformer, "
                "mask2former, detr, or one for semantic segmentation such as segformer"
            )
        processor = read_processor(transformers, source)
        family, kind = _FAMILIES.get(config.model_type, (None, "AutoModelForSemanticSegmentation"))
        chosen = _choose(found_subtasks(processor), subtasks, processor)
        try:
            preprocessing = read_preprocessing(processor, size)
        except ModelError as exc:
            raise ModelError(f"{source}: {exc}") from exc
        model = read_model(transformers, kind, source)
        shape = (1, 3, *preprocessing.size)
        write_out_norms(model)
        module = _Wrapped(model, family or "semantic").eval()
        labels = _labels(config)
        if family is None:
            try:
                labels = _check_semantic(model, processor, shape, labels)
            except ModelError as exc:
                raise ModelError(f"{source}: {exc}") from exc
    card = Card(
        name=name or Path(source).name,
        title=f"{type(model).__name__} of transformers",
        description=_description(preprocessing),
        task="semantic-segmentation" if family is None else "mask-classification",
        labels=labels,
        input_size=preprocessing.size,
        mean=preprocessing.mean,
        std=preprocessing.std,
        resample=preprocessing.resample,
        antialias=True,
        output="logits" if family is None else None,
        source=f"{Path(source).name}, {type(model).__name__}, transformers {transformers.__version__}",
        source_sha256=_weights_sha256(Path(source)),
        masks=None if family is None else MaskRule(family=family, subtasks=chosen),
    )
    return TransformersModel(module, card, shape)


class _Wrapped(nn.Module):  # type: ignore[misc]  # torch is not checked
    """A model that takes a picture alone and returns tensors."""

    def __init__(self, model: nn.Module, kind: _Family | Literal["semantic"]) -> None:
        super().__init__()
        self.model = model
        self.kind = kind

    def forward(self, pixels: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        found = self.model(pixel_values=pixels, return_dict=True)
        if self.kind == "semantic":
            logits: Tensor = found.logits
            return logits
        if self.kind == "detr":
            return found.logits, found.pred_masks
        return found.class_queries_logits, found.masks_queries_logits


def _choose(
    possible: tuple[Subtask, ...], wanted: Sequence[str] | None, processor: Any
) -> tuple[Subtask, ...]:
    if not possible:
        raise ModelError(
            f"{type(processor).__name__} makes no segments of its model's outputs: "
            "give the folder of a segmentation model"
        )
    if wanted is None:
        return possible
    unknown = [each for each in wanted if each not in possible]
    if unknown or not wanted:
        raise ModelError(
            f"{type(processor).__name__} cannot do {', '.join(unknown) or 'nothing'}: "
            f"choose from {', '.join(possible)}"
        )
    return tuple(each for each in possible if each in wanted)


def _check_semantic(
    model: nn.Module, processor: Any, shape: tuple[int, int, int, int], labels: tuple[str, ...]
) -> tuple[str, ...]:
    """Compare a model's first output with its labels and its processor's reading of it."""
    with torch.no_grad():
        outputs = model(pixel_values=torch.zeros(shape), return_dict=True)
    logits = outputs.logits
    if logits.ndim != 4 or logits.shape[1] < 2:
        raise ModelError(
            f"its logits are {list(logits.shape)}, expected [1, classes, height, width] "
            "of 2 classes or more"
        )
    generator = torch.Generator().manual_seed(0)
    check_semantic(processor, outputs, torch.randn(logits.shape, generator=generator))
    return labels


def _labels(config: Any) -> tuple[str, ...]:
    """Return the labels in the order of the classes, each different from the others."""
    count = config.num_labels
    # COCO's list has many that are called N/A.
    return distinct_labels(str(config.id2label.get(each, f"LABEL_{each}")) for each in range(count))


def _description(preprocessing: Preprocessing) -> str:
    height, width = preprocessing.size
    if preprocessing.keeps_shape:
        return (
            f"Pictures are stretched to {width}x{height}; transformers keeps their shape, "
            "so its masks differ where a picture has another one."
        )
    return f"Pictures are stretched to {width}x{height}, as transformers does it."


def _weights_sha256(folder: Path) -> str:
    weights = folder / "model.safetensors"
    if not weights.is_file():  # on the Hub, or in several files
        return ""
    with weights.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
