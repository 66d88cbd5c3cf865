"""Small .tflite files, for all tests of their conversion."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.tflite_graphs import Graph

__all__ = ["Graph"]


@pytest.fixture
def graph() -> Graph:
    return Graph()


@pytest.fixture
def save(tmp_path: Path) -> Callable[[Graph], Path]:
    """Write a graph to a file."""

    def write(graph: Graph) -> Path:
        path = tmp_path / "model.tflite"
        path.write_bytes(graph.to_bytes())
        return path

    return write
