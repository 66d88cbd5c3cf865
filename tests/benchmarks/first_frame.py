"""How long after its process was asked for a file job has its first frame out; prints seconds.

python -m tests.benchmarks.first_frame IN OUT SECONDS_SINCE_THE_EPOCH
"""

from __future__ import annotations

import sys
import time

import anyio

from streamseg.config import load_config
from streamseg.engine import Pipeline
from streamseg.session.files import run_file

times: list[float] = []


def note(_: Pipeline) -> None:
    times.append(time.time())


config = load_config(None, {"output.overwrite": True, "source.duration_s": 1.0})
anyio.run(lambda: run_file(sys.argv[1], sys.argv[2], config, on_progress=note))
print(times[0] - float(sys.argv[3]))
