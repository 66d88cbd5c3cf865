"""Pipeline: Source -> Segmenter -> MaskFilter* -> Effect -> Sink(s); it knows no concrete class."""

from streamseg.engine.pipeline import Pipeline

__all__ = ["Pipeline"]
