"""Conversion of models from other formats to ExecuTorch programs.

Nothing is imported before it is used: the work needs torch and the export stack of
ExecuTorch, which take seconds to load and which no running pipeline needs.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from streamseg.convert.agreement import Agreement
    from streamseg.convert.export import ExportReport, export_module
    from streamseg.convert.module import export_function
    from streamseg.convert.on_pictures import export_on_pictures
    from streamseg.convert.tflite import TFLiteGraph, export_tflite, load_tflite, to_module
    from streamseg.convert.torchvision_models import export_torchvision
    from streamseg.convert.transformers_models import export_transformers

__all__ = [
    "Agreement",
    "ExportReport",
    "TFLiteGraph",
    "export_function",
    "export_module",
    "export_on_pictures",
    "export_tflite",
    "export_torchvision",
    "export_transformers",
    "load_tflite",
    "to_module",
]

_HOME = {
    "Agreement": "streamseg.convert.agreement",
    "ExportReport": "streamseg.convert.export",
    "export_function": "streamseg.convert.module",
    "export_module": "streamseg.convert.export",
    "export_on_pictures": "streamseg.convert.on_pictures",
    "export_torchvision": "streamseg.convert.torchvision_models",
    "export_transformers": "streamseg.convert.transformers_models",
    "TFLiteGraph": "streamseg.convert.tflite",
    "export_tflite": "streamseg.convert.tflite",
    "load_tflite": "streamseg.convert.tflite",
    "to_module": "streamseg.convert.tflite",
}


def __getattr__(name: str) -> object:
    """Import a public name when it is first asked for (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
