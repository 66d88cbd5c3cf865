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
    from streamseg.engine import Pipeline
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
    from streamseg.masks.motion import MotionCompensation
    from streamseg.masks.refinement import EdgeRefinement
    from streamseg.masks.smoothing import TemporalSmoothing
    from streamseg.runtime.pool import WorkerPool
    from streamseg.segmentation import Segmentation
    from streamseg.session.files import process_file, run_file
    from streamseg.session.live import LiveSession
    from streamseg.session.parts import load_segmenter
    from streamseg.sinks.display import DisplaySink
    from streamseg.sinks.file import FileSink
    from streamseg.sinks.masks import MaskSink
    from streamseg.sinks.mjpeg import MjpegSink
    from streamseg.sinks.null import NullSink
    from streamseg.sinks.recording import RecordingSink
    from streamseg.sinks.stream import StreamSink
    from streamseg.sinks.virtual_camera import VirtualCameraSink
    from streamseg.sources.camera import CameraSource
    from streamseg.sources.file import FileSource
    from streamseg.sources.paced import PacedSource
    from streamseg.sources.reconnect import Reconnect
    from streamseg.sources.screen import ScreenSource
    from streamseg.sources.stream import StreamSource
    from streamseg.sources.synthetic import TestSource
    from streamseg.tasks.classifier import Classification, Classifier
    from streamseg.tasks.image_segmenter import ImageSegmenter
    from streamseg.tasks.images import load_image
    from streamseg.tasks.instance import Instance, InstanceSegmenter
    from streamseg.tasks.labels import SelfieLabel, VocLabel
    from streamseg.tasks.module import ClassificationModule, ImageSegmentationModule
    from streamseg.tasks.semantic import SemanticSegmenter
    from streamseg.tasks.semantic_result import SemanticResult
    from streamseg.tasks.transformers_pipeline import pipeline
    from streamseg.telemetry import PipelineStatistics

__version__ = "0.1.0"

_HOME = {
    "CameraSource": "sources.camera",
    "Classification": "tasks.classifier",
    "ClassificationModule": "tasks.module",
    "Classifier": "tasks.classifier",
    "Config": "config",
    "ConfigError": "errors",
    "DisplaySink": "sinks.display",
    "EdgeRefinement": "masks.refinement",
    "Effect": "abc",
    "EffectError": "errors",
    "FileSink": "sinks.file",
    "FileSource": "sources.file",
    "FlowLimit": "flow",
    "Frame": "frames",
    "ImageSegmentationModule": "tasks.module",
    "ImageSegmenter": "tasks.image_segmenter",
    "Instance": "tasks.instance",
    "InstanceSegmenter": "tasks.instance",
    "LiveConfig": "config",
    "LiveSession": "session.live",
    "MaskFilter": "abc",
    "MaskSink": "sinks.masks",
    "MjpegSink": "sinks.mjpeg",
    "ModelError": "errors",
    "MotionCompensation": "masks.motion",
    "NullSink": "sinks.null",
    "PacedSource": "sources.paced",
    "Pipeline": "engine",
    "PipelineStatistics": "telemetry",
    "Reconnect": "sources.reconnect",
    "RecordingSink": "sinks.recording",
    "ScreenSource": "sources.screen",
    "Segmentation": "segmentation",
    "Segmenter": "abc",
    "SelfieLabel": "tasks.labels",
    "SemanticResult": "tasks.semantic_result",
    "SemanticSegmenter": "tasks.semantic",
    "Sink": "abc",
    "SinkError": "errors",
    "Source": "abc",
    "SourceError": "errors",
    "StreamInfo": "frames",
    "StreamSink": "sinks.stream",
    "StreamSource": "sources.stream",
    "StreamsegError": "errors",
    "TemporalSmoothing": "masks.smoothing",
    "TestSource": "sources.synthetic",
    "VirtualCameraSink": "sinks.virtual_camera",
    "VocLabel": "tasks.labels",
    "WorkerError": "errors",
    "WorkerPool": "runtime.pool",
    "create_effect": "effects.registry",
    "load_config": "config",
    "load_image": "tasks.images",
    "load_live_config": "config",
    "load_segmenter": "session.parts",
    "pipeline": "tasks.transformers_pipeline",
    "process_file": "session.files",
    "run_file": "session.files",
}

__all__ = [
    "CameraSource",
    "Classification",
    "ClassificationModule",
    "Classifier",
    "Config",
    "ConfigError",
    "DisplaySink",
    "EdgeRefinement",
    "Effect",
    "EffectError",
    "FileSink",
    "FileSource",
    "FlowLimit",
    "Frame",
    "ImageSegmentationModule",
    "ImageSegmenter",
    "Instance",
    "InstanceSegmenter",
    "LiveConfig",
    "LiveSession",
    "MaskFilter",
    "MaskSink",
    "MjpegSink",
    "ModelError",
    "MotionCompensation",
    "NullSink",
    "PacedSource",
    "Pipeline",
    "PipelineStatistics",
    "Reconnect",
    "RecordingSink",
    "ScreenSource",
    "Segmentation",
    "Segmenter",
    "SelfieLabel",
    "SemanticResult",
    "SemanticSegmenter",
    "Sink",
    "SinkError",
    "Source",
    "SourceError",
    "StreamInfo",
    "StreamSink",
    "StreamSource",
    "StreamsegError",
    "TemporalSmoothing",
    "TestSource",
    "VirtualCameraSink",
    "VocLabel",
    "WorkerError",
    "WorkerPool",
    "__version__",
    "create_effect",
    "load_config",
    "load_image",
    "load_live_config",
    "load_segmenter",
    "pipeline",
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
