"""streamseg: segmentation of live and recorded video on ExecuTorch.

Public names are imported when they are first used, so that ``import streamseg`` stays cheap and the
model process, which imports this package too, loads nothing that it does not need.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from streamseg.abc import Effect, MaskFilter, Segmenter, Sink, Source
    from streamseg.config import Config, LiveConfig, load_config, load_live_config
    from streamseg.effects.registry import create_effect
    from streamseg.errors import (
        ConfigError,
        EffectError,
        ModelError,
        SinkError,
        SourceError,
        StreamsegError,
        WorkerError,
    )
    from streamseg.flow import FlowLimit
    from streamseg.frames import Frame, StreamInfo
    from streamseg.masks.refinement import EdgeRefinement
    from streamseg.masks.smoothing import TemporalSmoothing
    from streamseg.pipeline import Pipeline
    from streamseg.runtime.pool import WorkerPool
    from streamseg.segmentation import Segmentation
    from streamseg.session.files import process_file, run_file
    from streamseg.session.live import LiveSession
    from streamseg.session.parts import load_segmenter
    from streamseg.sinks.file import FileSink
    from streamseg.sinks.masks import MaskSink
    from streamseg.sources.file import FileSource
    from streamseg.telemetry import PipelineStatistics

__version__ = "0.1.0"

_HOME = {
    "Config": "config",
    "ConfigError": "errors",
    "EdgeRefinement": "masks.refinement",
    "EffectError": "errors",
    "FileSink": "sinks.file",
    "FileSource": "sources.file",
    "Frame": "frames",
    "MaskSink": "sinks.masks",
    "ModelError": "errors",
    "Pipeline": "pipeline",
    "PipelineStatistics": "telemetry",
    "Segmentation": "segmentation",
    "SinkError": "errors",
    "SourceError": "errors",
    "StreamInfo": "frames",
    "StreamsegError": "errors",
    "TemporalSmoothing": "masks.smoothing",
    "WorkerError": "errors",
    "WorkerPool": "runtime.pool",
    "create_effect": "effects.registry",
    "load_config": "config",
    "load_live_config": "config",
    "load_segmenter": "session.parts",
    "process_file": "session.files",
    "run_file": "session.files",
}

__all__ = [
    "Config",
    "ConfigError",
    "EdgeRefinement",
    "EffectError",
    "FileSink",
    "FileSource",
    "Frame",
    "MaskSink",
    "ModelError",
    "Pipeline",
    "PipelineStatistics",
    "Segmentation",
    "SinkError",
    "SourceError",
    "StreamInfo",
    "StreamsegError",
    "TemporalSmoothing",
    "WorkerError",
    "WorkerPool",
    "__version__",
    "create_effect",
    "load_config",
    "load_segmenter",
    "process_file",
    "run_file",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
