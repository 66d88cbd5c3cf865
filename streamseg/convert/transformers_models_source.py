"""Where models of transformers come from: a folder of ``save_pretrained``, or the Hub.

Weights are read from safetensors only, and no code that comes with a model is run. What is not here
is fetched by transformers itself, unless the environment switches fetching off.
"""

from __future__ import annotations

import importlib
import os
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from streamseg.convert._lowering import first_line
from streamseg.downloads.fetching import is_offline
from streamseg.errors import ModelError, OfflineError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

__all__ = ["quiet_transformers", "read_configuration", "read_model", "read_processor"]

_INSTALL = "install it with: pip install transformers pillow"
_MAX_MISSING_SHOWN = 3


@contextmanager
def quiet_transformers() -> Iterator[Any]:
    """Import transformers; what it has to say of its own defaults is not for our users.

    Where fetching is switched off, no request leaves this process meanwhile: a library that is told
    to use local files only still asks the Hub about other things.

    Raises:
        ModelError: If it cannot be imported.
    """
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
    hub: Any = importlib.import_module("huggingface_hub.constants")
    own, _ = loggers
    bars = own.is_progress_bar_enabled()
    with ExitStack() as undo:
        if is_offline():
            undo.callback(setattr, hub, "HF_HUB_OFFLINE", hub.HF_HUB_OFFLINE)
            hub.HF_HUB_OFFLINE = True
        for logger in loggers:
            undo.callback(logger.set_verbosity, logger.get_verbosity())
            logger.set_verbosity(logger.CRITICAL)
        if bars:
            own.disable_progress_bar()
            undo.callback(own.enable_progress_bar)
        yield transformers


def read_configuration(transformers: Any, source: str | Path) -> Any:
    """Return a model's configuration.

    Raises:
        ModelError: If there is none.
        OfflineError: If it would have to be fetched, but that is switched off.
    """
    folder = Path(source)
    if not folder.is_dir() and (isinstance(source, Path) or _is_path(source)):
        raise ModelError(f"{source}: no such folder; check the path, or give a name of the Hub")
    if folder.is_dir() and not (folder / "config.json").exists():
        raise ModelError(f"{source}: has no config.json; give a folder of save_pretrained")
    with _errors_of(source, "its configuration cannot be read"):
        return transformers.AutoConfig.from_pretrained(str(source), **_options(source))


def read_processor(transformers: Any, source: str | Path) -> Any:
    """Return a model's image processor.

    Raises:
        ModelError: If there is none.
        OfflineError: If it would have to be fetched, but that is switched off.
    """
    with _errors_of(source, "its image processor cannot be read"):
        # Pillow's is the one that trained models were made with, and needs no torchvision.
        return transformers.AutoImageProcessor.from_pretrained(
            str(source), backend="pil", **_options(source)
        )


def read_model(transformers: Any, kind: str, source: str | Path) -> nn.Module:
    """Return a model with its weights, in evaluation mode.

    Args:
        transformers: The library.
        kind: The name of the model's class.
        source: Where it is.

    Raises:
        ModelError: If its weights cannot be read, or some are missing.
        OfflineError: If they would have to be fetched, but that is switched off.
    """
    with _errors_of(source, "its weights cannot be read"):
        model, about = getattr(transformers, kind).from_pretrained(
            str(source),
            **_options(source),
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


def _options(source: str | Path) -> dict[str, Any]:
    here = Path(source).is_dir() or is_offline()
    return {"trust_remote_code": False, "local_files_only": here}


def _is_path(source: str) -> bool:
    """Return whether a text can be no name of the Hub, which are ``name`` or ``owner/name``."""
    return source[:1] in (".", "~", os.sep) or source.count("/") > 1


@contextmanager
def _errors_of(source: str | Path, what: str) -> Iterator[None]:
    try:
        yield
    except Exception as exc:  # its loaders raise whatever is wrong with a file
        if isinstance(exc, OSError) and is_offline() and not Path(source).is_dir():
            raise OfflineError(
                f"hf://{source}: is not in the cache, and fetching is switched off; unset "
                "STREAMSEG_OFFLINE and HF_HUB_OFFLINE, or fetch it before"
            ) from exc
        # The first sentence says what is wrong, the others are for programmers.
        text = " ".join(str(exc).split()).partition(". ")[0][:200] or type(exc).__name__
        raise ModelError(f"{source}: {what}: {text}") from exc
