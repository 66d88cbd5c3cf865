"""One graph in one engine, in a process of its own: engine, file or name, threads, seconds.

Prints one JSON object: how long loading took (the engine's own import included) and a run, in
milliseconds, and the process's memory in MB.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

_FEWEST = 5

started = time.perf_counter()
engine, graph, threads, seconds = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])


def executorch() -> Callable[[], Any]:
    from streamseg.runtime.child import _import_bare
    from streamseg.runtime.program import Program

    model = Program(_import_bare(), graph, "forward", threads, threads)
    assert model.describe()["threads"] == threads
    return lambda: model._module.forward((model._tensor,), clone_outputs=False)


def litert() -> Callable[[], Any]:
    import numpy as np
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(graph, num_threads=threads)
    interpreter.allocate_tensors()
    (picture,) = interpreter.get_input_details()
    interpreter.set_tensor(picture["index"], np.zeros(picture["shape"], picture["dtype"]))
    return interpreter.invoke


def eager() -> Callable[[], Any]:
    import torch

    from streamseg.convert.torchvision_models import build_torchvision
    from tests.support.torchvision_models import import_models

    name, height, width = graph.split(":")
    import_models()
    module, _ = build_torchvision(name, random_seed=0, size=(int(height), int(width)))
    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    picture = torch.zeros(1, 3, int(height), int(width))
    return lambda: module(picture)


def rss_mb() -> float:
    import psutil

    return psutil.Process().memory_info().rss / 1e6


run = {"executorch": executorch, "litert": litert, "eager": eager}[engine]()
run()
load_ms = (time.perf_counter() - started) * 1e3
times: list[float] = []
ends = time.perf_counter() + seconds
while time.perf_counter() < ends or len(times) < _FEWEST:
    before = time.perf_counter()
    run()
    times.append((time.perf_counter() - before) * 1e3)
print(json.dumps({"load_ms": load_ms, "ms": statistics.median(times), "memory_mb": rss_mb()}))
