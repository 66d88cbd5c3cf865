"""One model process, seen from the parent: start, exchange lines, end.

The child is a plain subprocess that is told what to import, not a ``multiprocessing`` child: that
would import the user's ``__main__`` again, which runs a script a second time if it is not guarded.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anyio

from streamseg.errors import (
    InvalidModelOutputError,
    ModelError,
    WorkerDiedError,
    WorkerError,
    WorkerTimeoutError,
    WrongDimensionsError,
)
from streamseg.runtime.memory import SharedMemory

if TYPE_CHECKING:
    from pathlib import Path

    from streamseg.runtime.layout import SlotLayout, SlotViews

__all__ = ["LoadedModel", "ModelProcess", "usable_cores"]

_log = logging.getLogger(__name__)

# Installed packages first: what lies about in the parent's folders must not stand for them.
_BOOT = (
    "import sys, json; a = json.loads(sys.argv[1]); "
    "sys.path += [p for p in a['path'] if p and p not in sys.path]; "
    "from streamseg.runtime.child import main; main(a)"
)
_LINE_LIMIT = 1 << 20  # bytes of one reply; a reply is a few hundred
_STDERR_LINES = 20
_CHATTER = ("[cpuinfo", "[threadpool")  # what ExecuTorch prints when all is well
# What the child says is wrong with a model
_KINDS: dict[str | None, type[ModelError]] = {
    "input": WrongDimensionsError,
    "output": InvalidModelOutputError,
}


def usable_cores() -> int:
    """Return how many cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """What the child found in the .pte.

    Attributes:
        input_shape: [1, 3, H, W].
        output_shapes: Of each output; [1, K, H, W] where it segments into classes.
        load_ms: Time to load the program, in milliseconds.
        threads: Threads of the model's thread pool.
    """

    input_shape: tuple[int, ...]
    output_shapes: tuple[tuple[int, ...], ...]
    load_ms: float
    threads: int


class ModelProcess:
    """A running child with one model loaded. Make one with ``start``; end it with ``aclose``."""

    def __init__(self, process: asyncio.subprocess.Process, memory: SharedMemory) -> None:
        self._process = process
        self._memory = memory
        self._stderr: deque[str] = deque(maxlen=_STDERR_LINES)
        self._stderr_task = asyncio.create_task(self._collect_stderr())
        self._views: list[SlotViews] = []

    @classmethod
    async def start(
        cls,
        model: Path,
        *,
        method: str = "forward",
        threads: int,
        cores: int,
        timeout_s: float,
        whole_torch: bool = False,
    ) -> tuple[ModelProcess, LoadedModel]:
        """Start a child and have it load a model.

        Args:
            model: Path of the .pte.
            method: Which of its methods is run.
            threads: Threads that the model uses; 0 has the child choose by the input's size.
            cores: How many it may choose at most.
            timeout_s: How long importing and loading may take, in seconds.
            whole_torch: Whether the child imports all of torch, not only what it needs.

        Raises:
            ModelError: If the child says that the model cannot be used: WrongDimensionsError and
                InvalidModelOutputError, two of its kinds, for its input and its outputs.
            WorkerError: If it cannot be started.
            WorkerDiedError: If it ended without saying anything.
            WorkerTimeoutError: If it was not ready in time; it has been killed.
        """
        try:
            memory = SharedMemory()
        except OSError as exc:
            raise WorkerError(
                f"no shared memory for a model process: {exc.strerror or exc}; "
                "close other programs, or use fewer workers"
            ) from exc
        arguments = {
            "path": sys.path,
            "model": os.fspath(model),
            "method": method,
            "threads": threads,
            "cores": cores,
            "memory": memory.handle,
        }
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        if whole_torch:
            environment["STREAMSEG_WHOLE_TORCH"] = "1"
        options: dict[str, Any] = {}
        if sys.platform != "win32":
            # Its own session: the terminal's Ctrl-C reaches the parent, which then ends the child.
            options = {"pass_fds": memory.inherited_fds, "start_new_session": True}
        try:
            # Shielded: cancelled half-way, it would leave a child that nobody knows.
            with anyio.CancelScope(shield=True):
                process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-P",  # or a json.py in the user's current folder would be imported
                    "-c",
                    _BOOT,
                    json.dumps(arguments),
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=asyncio.subprocess.PIPE,
                    limit=_LINE_LIMIT,
                    env=environment,
                    **options,
                )
        except OSError as exc:
            memory.close()
            raise WorkerError(
                f"a model process cannot be started: {exc.strerror or exc}; "
                "close other programs, or use fewer workers"
            ) from exc
        except BaseException:
            memory.close()
            raise
        self = cls(process, memory)
        try:
            async with asyncio.timeout(timeout_s):
                reply = await self.receive()
        except TimeoutError as exc:
            await self.aclose()
            raise WorkerTimeoutError(
                f"loading {model} took over {timeout_s:g} s; the process was killed: "
                "try a smaller model or a longer time"
            ) from exc
        except BaseException:
            await self.aclose()
            raise
        if "error" in reply:
            await self.aclose()
            raise _KINDS.get(reply.get("about"), ModelError)(
                f"{model}: cannot be used as a model: {reply['error']}; "
                "export it again, or check the download"
            )
        loaded = reply["loaded"]
        return self, LoadedModel(
            input_shape=tuple(loaded["input"]),
            output_shapes=tuple(tuple(shape) for shape in loaded["outputs"]),
            load_ms=loaded["load_ms"],
            threads=loaded["threads"],
        )

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._process.pid

    def attach(
        self,
        layout: SlotLayout,
        slots: int,
        *,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        output: str,
    ) -> list[SlotViews]:
        """Give the child its slots and say how to treat pixels and results; return the slots.

        Raises:
            WorkerError: If there is not enough memory.
        """
        size = max(1, slots * layout.slot_bytes)
        try:
            buffer = self._memory.resize(size)
        except (OSError, ValueError) as exc:
            raise WorkerError(
                f"no shared memory of {size} bytes for a model process: {exc}; close other programs"
            ) from exc
        self._views = [layout.views(buffer, slot) for slot in range(slots)]
        self.send(
            {
                "attach": {
                    "size": size,
                    "slots": slots,
                    "layout": layout.to_json(),
                    "mean": mean,
                    "std": std,
                    "output": output,
                }
            }
        )
        return self._views

    def send(self, message: dict[str, Any]) -> None:
        """Send one line. Never waits: the pool bounds how many are unanswered, to the slots."""
        stdin = self._process.stdin
        assert stdin is not None
        # A child that is gone is noticed by whoever receives.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError, RuntimeError):
            stdin.write(json.dumps(message).encode() + b"\n")

    async def receive(self) -> dict[str, Any]:
        """Return the child's next reply.

        Raises:
            WorkerDiedError: If the child has ended.
        """
        stdout = self._process.stdout
        assert stdout is not None
        try:
            line = await stdout.readline()
            if line.endswith(b"\n"):
                reply: dict[str, Any] = json.loads(line)
                return reply
        except ValueError as exc:  # no JSON, or a line without an end: not our child any more
            self.kill()
            raise WorkerDiedError("the model process wrote what is no reply") from exc
        await self._process.wait()
        raise WorkerDiedError(f"the model process {self._how_it_ended()}")

    def kill(self) -> None:
        """End the child at once, whatever it does; ``receive`` then raises."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    async def aclose(self) -> None:
        """End the child and release everything. It holds nothing worth an orderly good-bye."""
        self.kill()
        stdin = self._process.stdin
        assert stdin is not None
        stdin.close()
        # The child is dead: each of these ends in milliseconds, and must, to leave nothing behind.
        with anyio.CancelScope(shield=True):
            await self._process.wait()
            stdout = self._process.stdout
            assert stdout is not None
            await stdout.read()
            await self._stderr_task
        self._views.clear()
        self._memory.close()

    def _how_it_ended(self) -> str:
        code = self._process.returncode
        last = self._stderr[-1] if self._stderr else ""
        if code is None or code >= 0:
            # Python ended by itself: the last line is the exception.
            return f"ended with exit code {code}" + (f": {last}" if last else "")
        if last:
            _log.debug("model process %d wrote last: %s", self._process.pid, last)
        try:
            return f"was ended by signal {-code} ({signal.Signals(-code).name})"
        except ValueError:
            return f"was ended by signal {-code}"

    async def _collect_stderr(self) -> None:
        stderr = self._process.stderr
        assert stderr is not None
        while True:
            try:
                line = await stderr.readline()
            except ValueError:  # a line over the limit: readline has thrown it away
                continue
            if not line:
                return
            text = line.decode(errors="replace").strip()
            if text and not text.startswith(_CHATTER):
                self._stderr.append(text[:300])
