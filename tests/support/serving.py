"""``streamseg serve`` in a process of its own, reachable where a machine has no network.

    with Serving("--effect", "blur") as server:
        ... server.url ...

aioice leaves 127.0.0.1 out of the addresses it offers, so this process adds it.
"""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import threading
from pathlib import Path
from typing import Self

__all__ = ["Serving", "use_loopback_too"]

_ROOT = Path(__file__).parents[2]
_START_S = 30.0
_STOP_S = 10.0


class Serving:
    """A server with these options; the port is a free one unless it is given.

    Args:
        options: Of the command line.
        environment: Further variables.
        module: Another program to run, without options.

    Attributes:
        url: Where it listens.
        said: What it said afterwards, a line each: nothing as long as all is well.
    """

    def __init__(
        self,
        *options: str,
        environment: dict[str, str] | None = None,
        module: str = "",
    ) -> None:
        port = () if "--port" in options else ("--port", "0")
        self._command = [sys.executable, "-m"]
        self._command += [module] if module else ["tests.support.serving", "serve", *port, *options]
        self._environment = {**os.environ, **(environment or {})}
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        # The server says little: a line when it listens, further ones only when something fails.
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self.url = ""
        self.said: list[str] = []

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def start(self) -> None:
        self._lines = queue.SimpleQueue()  # an earlier process may have left something in it
        self._process = subprocess.Popen(
            self._command,
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            cwd=_ROOT,
            env=self._environment,
        )
        self._reader = threading.Thread(target=self._read, args=(self._process, self._lines))
        self._reader.start()
        said = []
        while (line := self._lines.get(timeout=_START_S)) is not None:
            said.append(line)
            if line.startswith("listening on "):
                self.url = line.split()[-1]
                return
        self.stop()
        raise AssertionError("the server did not start:\n" + "".join(said))

    def stop(self) -> None:
        """End it as an operator would."""
        if self._process is None:
            return
        self._process.terminate()
        self._wait()

    def kill(self) -> None:
        """End it as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._wait()

    def _wait(self) -> None:
        assert self._process is not None
        assert self._reader is not None
        try:
            self._process.wait(_STOP_S)
        finally:
            self._process.kill()
            self._process.wait()
            self._reader.join()
            assert self._process.stderr is not None
            self._process.stderr.close()
            self._process = None
        while not self._lines.empty():
            line = self._lines.get()
            if line is not None:
                self.said.append(line)

    @staticmethod
    def _read(process: subprocess.Popen[str], lines: queue.SimpleQueue[str | None]) -> None:
        assert process.stderr is not None
        for line in process.stderr:
            if os.environ.get("STREAMSEG_TEST_SHOW"):
                sys.stderr.write(line)
            lines.put(line)
        lines.put(None)


def use_loopback_too() -> None:
    """Have aioice offer 127.0.0.1 besides what it offers by itself."""
    from aioice import ice

    offered = ice.get_host_addresses

    def with_loopback(use_ipv4: bool, use_ipv6: bool) -> list[str]:
        return [*offered(use_ipv4, use_ipv6), "127.0.0.1"]

    ice.get_host_addresses = with_loopback


def _main() -> None:
    from streamseg.__main__ import main

    use_loopback_too()
    main()


if __name__ == "__main__":
    _main()
