"""Segmentation models of Hugging Face transformers as ExecuTorch programs.

SegFormer and others of ``AutoModelForSemanticSegmentation`` become models of semantic segmentation;
MaskFormer, Mask2Former and DETR become models of mask classification, read by
``streamseg.pipeline``. transformers is taken from the user's environment and imported when it is
needed. Weights are read from safetensors only, and no code that comes with a model is run.
"""

from __future__ import annotations

import hashlib
import importlib
import os
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from streamseg.convert._lowering import first_line
from streamseg.convert.transformers_models_norms import write_out_norms
from streamseg.convert.transformers_models_processor import (
    Preprocessing,
    Subtask,
    check_semantic,
    found_subtasks,
    read_preprocessing,
)
from streamseg.errors import ModelError
from streamseg.models.card import Card, MaskRule

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

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
_INSTALL = "install it with: pip install transformers pillow"
_MAX_MISSING_SHOWN = 3


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
    picture: Tensor | None = None,
    on_step: Callable[[str], None] | None = None,
) -> ExportReport:
    """Export a model of transformers for XNNPACK, with a card beside it.

    What XNNPACK does not do, such as the sampling of deformable attention, is left to ExecuTorch's
    own kernels.

    Args:
        source: See ``load_transformers``, as ``size`` and ``subtasks``.
        pte_path: Where the program goes; the card has the same name, with ``.toml``.
        size: (H, W) of the input in pixels.
        subtasks: What it is to be used for.
        tolerance: Largest difference to the model in PyTorch, relative to the largest magnitude of
            the output or to 1, whichever is larger.
        picture: A picture as the module takes it, to compare the program on as well.
        on_step: Called with a word or two for each step.

    Raises:
        ModelError: As ``load_transformers`` and ``export_module``.
    """
    from streamseg.convert.export import export_module

    if on_step is not None:
        on_step("loading the model")
    model = load_transformers(source, name=Path(pte_path).stem, size=size, subtasks=subtasks)
    return export_module(
        model.module,
        model.input_shape,
        pte_path,
        tolerance=tolerance,
        card=model.card,
        delegate="any",
        picture=picture,
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
    """
    with _quiet_transformers() as transformers:
        config, processor = _described(transformers, source)
        family, kind = _FAMILIES.get(config.model_type, (None, "AutoModelForSemanticSegmentation"))
        chosen = _choose(found_subtasks(processor), subtasks, processor)
        try:
            preprocessing = read_preprocessing(processor, size)
        except ModelError as exc:
            raise ModelError(f"{source}: {exc}") from exc
        model = _loaded(transformers, kind, source)
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


@contextmanager
def _quiet_transformers() -> Iterator[Any]:
    """Import transformers; what it has to say of its own defaults is not for our users."""
    try:
        transformers: Any = importlib.import_module("transformers")
        loggers: list[Any] = [
            importlib.import_module("transformers.utils.logging"),
            importlib.import_module("huggingface_hub.utils.logging"),
        ]
    except ImportError as exc:
        raise ModelError(
            f"transformers cannot be imported ({first_line(exc)}): {_INSTALL}"
        ) from exc
    except Exception as exc:  # a torchvision of another build than torch breaks it in many ways
        raise ModelError(
            f"transformers cannot be imported: {type(exc).__name__}: {first_line(exc)}: "
            "check that torchvision was built for this torch, or remove it"
        ) from exc
    own, _ = loggers
    bars = own.is_progress_bar_enabled()
    with ExitStack() as undo:
        for logger in loggers:
            undo.callback(logger.set_verbosity, logger.get_verbosity())
            logger.set_verbosity(logger.CRITICAL)
        if bars:
            own.disable_progress_bar()
            undo.callback(own.enable_progress_bar)
        yield transformers


def _described(transformers: Any, source: str | Path) -> tuple[Any, Any]:
    """Return a model's configuration and its image processor."""
    folder = Path(source)
    if not folder.is_dir() and (isinstance(source, Path) or _is_path(source)):
        raise ModelError(f"{source}: no such folder; check the path, or give a name of the Hub")
    if folder.is_dir() and not (folder / "config.json").exists():
        raise ModelError(f"{source}: has no config.json; give a folder of save_pretrained")
    options = {"trust_remote_code": False, "local_files_only": folder.is_dir()}
    with _errors_of(source, "its configuration cannot be read"):
        config = transformers.AutoConfig.from_pretrained(str(source), **options)
    known = transformers.AutoModelForSemanticSegmentation._model_mapping
    if config.model_type not in _FAMILIES and type(config) not in known:
        raise ModelError(
            f"{source}: is a model of type {config.model_type}, expected maskformer, mask2former, "
            "detr, or one for semantic segmentation such as segformer"
        )
    with _errors_of(source, "its image processor cannot be read"):
        # Pillow's is the one that trained models were made with, and needs no torchvision.
        processor = transformers.AutoImageProcessor.from_pretrained(
            str(source), backend="pil", **options
        )
    return config, processor


def _is_path(source: str) -> bool:
    """Return whether a text can be no name of the Hub, which are ``name`` or ``owner/name``."""
    return source[:1] in (".", "~", os.sep) or source.count("/") > 1


def _loaded(transformers: Any, kind: str, source: str | Path) -> nn.Module:
    with _errors_of(source, "its weights cannot be read"):
        model, about = getattr(transformers, kind).from_pretrained(
            str(source),
            trust_remote_code=False,
            local_files_only=Path(source).is_dir(),
            use_safetensors=True,
            dtype=torch.float32,
            # Written out, attention is fewer operators than PyTorch's own, which guards itself
            # against masks that hide everything.
            attn_implementation="eager",
            output_loading_info=True,
        )
    missing = sorted({*about["missing_keys"], *(key for key, *_ in about["mismatched_keys"])})
    if missing:
        shown = ", ".join(missing[:_MAX_MISSING_SHOWN])
        raise ModelError(
            f"{source}: its weights lack {len(missing)} tensors of {type(model).__name__} "
            f"({shown}): it was trained for another task"
        )
    module: nn.Module = model.eval()
    with torch.no_grad():
        # See ``export_module``: a tensor must have the strides of a new one.
        for parameter in module.parameters():
            parameter.data = torch.empty(parameter.shape).copy_(parameter.data)
    return module


@contextmanager
def _errors_of(source: str | Path, what: str) -> Iterator[None]:
    try:
        yield
    except Exception as exc:  # its loaders raise whatever is wrong with a file
        # The first sentence says what is wrong, the others are for programmers.
        text = " ".join(str(exc).split()).partition(". ")[0][:200] or type(exc).__name__
        raise ModelError(f"{source}: {what}: {text}") from exc


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
    with torch.inference_mode():
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
    labels: list[str] = []
    for index in range(config.num_labels):
        label = str(config.id2label.get(index, f"LABEL_{index}")).strip() or f"LABEL_{index}"
        # COCO's list has many that are called N/A.
        labels.append(f"{label}_{index}" if label in labels else label)
    return tuple(labels)


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
