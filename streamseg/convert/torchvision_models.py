"""torchvision's architectures, with a user's weights, as ExecuTorch programs.

torchvision's wheels on PyPI are built for one torch with CUDA. Beside another one, or beside a CPU
torch, its compiled operators do not load, and then its import ends with "operator torchvision::nms
does not exist", for it describes operators that nobody has declared. Such an operator is declared
here, without an implementation, and the import repeated. That is safe: no model below uses one of
them (they belong to detection), all models are written in torch's own operators, and torchvision
itself refuses to call what was not loaded ("Couldn't load custom C++ ops").
"""

from __future__ import annotations

import hashlib
import importlib
import logging
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from streamseg.convert._lowering import first_line, no_step
from streamseg.convert.on_pictures import export_on_pictures
from streamseg.errors import ModelError
from streamseg.models.card import Card
from streamseg.models.labels import IMAGENET_LABELS, VOC_LABELS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import ModuleType

    from torch import Tensor

    from streamseg.convert.export import ExportReport
    from streamseg.models.card import Task

__all__ = ["ARCHITECTURES", "build_torchvision", "export_torchvision", "import_torchvision_models"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Architecture:
    """How one of torchvision's models is made and described.

    Attributes:
        title: For people.
        last_layer: The weights whose first axis is the number of classes.
        size: (H, W) in pixels where none is given.
        task: Of the card.
    """

    title: str
    last_layer: str
    size: tuple[int, int] = (224, 224)
    task: Task = "semantic-segmentation"

    @property
    def labels(self) -> tuple[str, ...]:
        return VOC_LABELS if self.task == "semantic-segmentation" else IMAGENET_LABELS


_HEAD = "classifier.4.weight"

ARCHITECTURES = {
    "deeplabv3_resnet50": _Architecture("DeepLabV3, ResNet-50", _HEAD),
    "deeplabv3_resnet101": _Architecture("DeepLabV3, ResNet-101", _HEAD),
    "deeplabv3_mobilenet_v3_large": _Architecture("DeepLabV3, MobileNetV3-Large", _HEAD),
    "lraspp_mobilenet_v3_large": _Architecture(
        "LR-ASPP, MobileNetV3-Large", "classifier.low_classifier.weight"
    ),
    "fcn_resnet50": _Architecture("FCN, ResNet-50", _HEAD),
    "fcn_resnet101": _Architecture("FCN, ResNet-101", _HEAD),
    "mobilenet_v2": _Architecture("MobileNetV2", "classifier.1.weight", task="classification"),
    "efficientnet_v2_s": _Architecture(
        "EfficientNetV2-S", "classifier.1.weight", (384, 384), "classification"
    ),
}
"""What can be exported: torchvision's name -> how."""

# Of ImageNet, which all of these are trained with.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_MAX_WEIGHTS_BYTES = 1 << 31
_MAX_CLASSES = 100_000
_UNDECLARED = re.compile(r"operator torchvision::(\w+) does not exist")
_MOST_DECLARED = 16
_WARM_UP = (8, 3, 64, 64)  # pictures of noise that random weights get their batch statistics from

# An operator is declared as long as its library lives.
_declared: list[torch.library.Library] = []


def export_torchvision(
    name: str,
    pte_path: str | Path,
    *,
    weights: Path | None = None,
    random_seed: int | None = None,
    size: tuple[int, int] | None = None,
    calibrate: Sequence[Path] | None = None,
    picture: Path | None = None,
    on_step: Callable[[str], None] | None = None,
) -> ExportReport:
    """Export one of torchvision's models, with its card.

    Args:
        name: One of ``ARCHITECTURES``.
        pte_path: Where the program goes; the card goes beside it.
        weights: A .pth file with the model's state.
        random_seed: Instead of weights, for measurements of speed: what the model says then is
            meaningless, and the card says so.
        size: (H, W) of the input in pixels.
        calibrate: Pictures, or folders of pictures, to calibrate an int8 program with.
        picture: A picture to compare the program on, instead of streamseg's own.
        on_step: Called with a few words for each step.

    Raises:
        ModelError: See ``build_torchvision`` and ``export_module``.
    """
    (on_step or no_step)(f"building {name}")
    module, card = build_torchvision(name, weights=weights, random_seed=random_seed, size=size)
    assert card.input_size is not None
    height, width = card.input_size
    if calibrate is not None:
        card = card.model_copy(update={"name": f"{name}_int8", "title": f"{card.title}, int8"})
    return export_on_pictures(
        module,
        (1, 3, height, width),
        pte_path,
        card,
        calibrate=calibrate,
        picture=picture,
        on_step=on_step,
    )


def build_torchvision(
    name: str,
    *,
    weights: Path | None = None,
    random_seed: int | None = None,
    size: tuple[int, int] | None = None,
) -> tuple[nn.Module, Card]:
    """Build one of torchvision's models and the card that describes it.

    Args:
        name: One of ``ARCHITECTURES``.
        weights: A .pth file with the model's state, as torchvision publishes them or its
            reference scripts write them; for any number of classes.
        random_seed: Instead of weights.
        size: (H, W) of the input in pixels.

    Returns:
        A module in evaluation mode that returns logits, [1, K, H, W] or [1, K]; and its card.

    Raises:
        ModelError: If the name is unknown, the weights cannot be read or do not fit, neither
            weights nor a seed were given, or torchvision cannot be imported.
    """
    if name not in ARCHITECTURES:
        raise ModelError(f"unknown model {name!r}: choose one of {', '.join(ARCHITECTURES)}")
    architecture = ARCHITECTURES[name]
    if (weights is None) == (random_seed is None):
        raise ModelError(
            f"{name} needs its weights: give the .pth file that torchvision publishes or that you "
            "trained, or ask for random weights with a seed to measure speed with"
        )
    state: dict[str, Tensor] = {}
    source, digest = f"torchvision's {name} with random weights", ""
    classes = len(architecture.labels)
    if weights is not None:
        state, digest = _read_state(weights)
        if architecture.last_layer not in state:
            raise ModelError(f"{weights}: has no {architecture.last_layer}: is it for {name}?")
        classes = len(state[architecture.last_layer])
        source = f"torchvision's {name} with the weights of {weights.name}"
        if not 0 < classes <= _MAX_CLASSES:
            raise ModelError(f"{weights}: has {classes} classes, expected 1 to {_MAX_CLASSES}")
    models = import_torchvision_models()
    # Nothing is fetched: neither the model's weights nor its backbone's.
    options: dict[str, Any] = {"weights": None, "num_classes": classes}
    if architecture.task == "semantic-segmentation":
        options |= {"weights_backbone": None, "aux_loss": False}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(random_seed or 0)
        try:
            module = models.get_model(name, **options)
        except Exception as error:
            raise ModelError(
                f"torchvision cannot build {name}: {type(error).__name__}: {first_line(error)}: "
                "install a newer torchvision"
            ) from error
        if weights is None:
            _warm_up(module)
    if weights is not None:
        _load_state(module, state, weights, name)
    card = Card(
        name=name,
        title=architecture.title,
        description=(
            f"Random weights, seed {random_seed}: for measurements of speed, says nothing."
            if weights is None
            else ""
        ),
        task=architecture.task,
        labels=architecture.labels if classes == len(architecture.labels) else None,
        input_size=size or architecture.size,
        mean=_MEAN,
        std=_STD,
        antialias=True,
        output="logits",
        source=source,
        source_sha256=digest,
    )
    wrapped: nn.Module = _Out(module) if architecture.task == "semantic-segmentation" else module
    return wrapped.eval(), card


def import_torchvision_models() -> ModuleType:
    """Return the module ``torchvision.models``, declaring operators that could not be loaded.

    Raises:
        ModelError: If torchvision is not installed, or does not import beside this torch.
    """
    for _ in range(_MOST_DECLARED):
        try:
            importlib.import_module("torchvision")
            return importlib.import_module("torchvision.models")
        except ModuleNotFoundError as error:
            if error.name == "torchvision":
                raise ModelError(
                    "torchvision is not installed: pip install torchvision, built for "
                    f"torch {torch.__version__}"
                ) from error
            raise _does_not_import(error) from error
        except Exception as error:
            undeclared = _UNDECLARED.search(str(error))
            _forget_torchvision()
            if undeclared is None:
                raise _does_not_import(error) from error
            _declare(undeclared[1])
    raise ModelError(
        f"torchvision does not import beside torch {torch.__version__}: it lacks more than "
        f"{_MOST_DECLARED} operators: install the torchvision that was built for this torch"
    )


def _declare(operator: str) -> None:
    _log.debug("torchvision's operators do not load: one is declared", extra={"operator": operator})
    library = torch.library.Library("torchvision", "FRAGMENT")
    # Any signature does, for there is nothing to call; this one is that of nms.
    library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _declared.append(library)


def _forget_torchvision() -> None:
    """Drop what a failed import left behind, so that the next one begins anew."""
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]


def _does_not_import(error: Exception) -> ModelError:
    return ModelError(
        f"torchvision does not import beside torch {torch.__version__}: {first_line(error)}: "
        "install the torchvision that was built for this torch (a CPU torch needs its CPU build)"
    )


class _Out(nn.Module):  # type: ignore[misc]  # torch is read without types
    """Returns the entry "out" of what a segmentation model returns: logits in the input's size."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, picture: Tensor) -> Tensor:
        result: Tensor = self.model(picture)["out"]
        return result


def _warm_up(module: nn.Module) -> None:
    """Give random weights the batch statistics of noise.

    With those of a new module activations shrink from layer to layer, to numbers so small that
    processors take longer for them and that int8 makes zero of all.
    """
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.reset_running_stats()
            layer.momentum = None  # the mean over all batches
    # Each of another colour and contrast, as pictures are.
    colour, contrast = torch.randn(*_WARM_UP[:2], 1, 1), torch.rand(_WARM_UP[0], 1, 1, 1)
    module.train()
    with torch.no_grad():
        module(colour + contrast * torch.randn(_WARM_UP))
    module.eval()


def _read_state(path: Path) -> tuple[dict[str, Tensor], str]:
    """Return the tensors of a .pth file by name, and its SHA-256; nothing in it is executed."""
    try:
        if path.stat().st_size > _MAX_WEIGHTS_BYTES:
            raise ModelError(f"{path}: over {_MAX_WEIGHTS_BYTES} bytes, expected a model's weights")
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ModelError(f"{path}: cannot read the weights: {error.strerror or error}") from error
    except ModelError:
        raise
    except Exception as error:  # pickle, zip and torch have many ways to refuse a file
        raise ModelError(
            f"{path}: is no file of weights that can be read safely (tensors only): "
            "save the model's state_dict() with torch.save"
        ) from error
    if isinstance(state, dict):
        state = next((state[key] for key in ("model", "state_dict") if key in state), state)
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise ModelError(f"{path}: holds no state_dict: save the model's state_dict()")
    # The auxiliary head is for training; "module." is what DataParallel puts in front.
    plain = {str(name).removeprefix("module."): value for name, value in state.items()}
    return {k: v for k, v in plain.items() if not k.startswith("aux_classifier.")}, digest


def _load_state(module: nn.Module, state: dict[str, Tensor], path: Path, name: str) -> None:
    try:
        missing, unexpected = module.load_state_dict(state, strict=False)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise ModelError(f"{path}: does not fit {name}: {reason}") from error
    for keys, what in ((missing, "lacks"), (unexpected, "has unknown")):
        if keys:
            raise ModelError(f"{path}: does not fit {name}: {what} {keys[0]} ({len(keys)} in all)")
