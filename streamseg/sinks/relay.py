"""Relay: one connection, in a process of its own, seen from the sink's thread.

Nothing here waits longer than it was told to, and a relay that does not answer is killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from enum import Enum
from typing import TYPE_CHECKING, Any

from streamseg.sinks.muxed_file import Stopped
from streamseg.sinks.relay_child import HEADER, KEY, NO_TIME

if TYPE_CHECKING:
    from av.packet import Packet

    from streamseg.sinks.stream_target import StreamTarget

__all__ = ["Broken", "Relay", "State"]

_STEP_S = 0.05  # how often a wait looks whether it should end
# Installed packages first: what lies about in the parent's folders must not stand for them.
_BOOT = (
    "import sys, json; sys.path += [p for p in json.loads(sys.argv[1]) if p not in sys.path]; "
    "from streamseg.sinks.relay_child import main; main()"
)


class Broken(Exception):
    """The connection is gone; the message says why, without a URL."""


class State(Enum):
    """What a relay is doing."""

    CONNECTING = "connecting"
    OPEN = "open"
    ENDED = "ended"
    FAILED = "failed"


class Relay:
    """A process that carries packets to a URL. Starting one does not wait for anything.

    Args:
        target: Where to.
        header: The streams, as NUT.
        stopped: Once set, every wait ends with ``Stopped``.

    Attributes:
        state: As far as ``poll`` has seen.
        sent: Pictures that went to the network.
        bytes: Encoded bytes that were handed over.
        reason: Why it failed, without a URL.
    """

    def __init__(self, target: StreamTarget, header: bytes, stopped: threading.Event) -> None:
        self.state = State.CONNECTING
        self.sent = 0
        self.bytes = 0
        self.reason = ""
        self.errno = 0
        self.started_s = time.monotonic()
        self._stopped = stopped
        self._lines = b""
        self._reading = threading.Lock()
        config = {
            "url": target.url,
            "format": target.container.format,
            "options": dict(target.options),
            "host": target.host,
            "relay": target.relay,
            "header": len(header),
        }
        # The URL goes by the pipe: arguments can be read by every user of the machine.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _BOOT, json.dumps([p for p in sys.path if p])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # the terminal's Ctrl-C is the parent's; and killed with all its own
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in, self._out = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._in, False)
        os.set_blocking(self._out, False)
        # A few hundred bytes into an empty pipe of 64 KB. A process that is gone says so to `poll`.
        with contextlib.suppress(OSError):
            os.write(self._in, json.dumps(config).encode() + b"\n" + header)

    def poll(self) -> State:
        """Read what the process has said; never waits. May be called from any thread."""
        with self._reading:
            self._read()
            return self.state

    def _read(self) -> None:
        while self.state in {State.CONNECTING, State.OPEN}:
            try:
                data = os.read(self._out, 1 << 16)
            except BlockingIOError:
                break
            except OSError:
                data = b""
            if not data:
                self._fail("the process that carries the stream ended")
                break
            *lines, self._lines = (self._lines + data).split(b"\n")
            for line in lines:
                self._take(line.decode(errors="replace"))

    def wait_open(self, timeout_s: float) -> None:
        """Wait until it is connected.

        Raises:
            Broken: If it does not connect in time.
            Stopped: If the sink was stopped.
        """
        while self.poll() is State.CONNECTING:
            self._pause(reading=True)
            if time.monotonic() - self.started_s > timeout_s:
                self._fail(f"no answer within {timeout_s:g} s")
        if self.state is not State.OPEN:
            raise Broken(self.reason)

    def mux(self, packet: Packet[Any], timeout_s: float) -> None:
        """Hand one packet over, waiting while the peer is slow.

        Args:
            packet: With its stream's index and its time base.
            timeout_s: How long the peer may take nothing at all.

        Raises:
            Broken: If the connection is gone, or the peer takes nothing.
            Stopped: If the sink was stopped.
        """
        data, base = bytes(packet), packet.time_base
        head = HEADER.pack(
            len(data),
            packet.stream_index,
            KEY if packet.is_keyframe else 0,
            NO_TIME if packet.pts is None else packet.pts,
            NO_TIME if packet.dts is None else packet.dts,
            packet.duration or 0,
            base.numerator,
            base.denominator,
        )
        view = memoryview(head + data)
        moved_s = time.monotonic()
        while view:
            if self.poll() is not State.OPEN:
                raise Broken(self.reason)
            try:
                done = os.write(self._in, view)
            except BlockingIOError:
                done = 0
            except OSError as exc:
                self._wait_for_reason()
                raise Broken(self.reason) from exc
            if done:
                view = view[done:]
                moved_s = time.monotonic()
            elif time.monotonic() - moved_s > timeout_s:
                self._fail(f"the server took nothing for {timeout_s:g} s")
            else:
                self._pause(reading=False)
        self.bytes += len(data)

    def finish(self, timeout_s: float) -> None:
        """End the stream in good order; what does not end is killed.

        Raises:
            Broken: If the end did not get through.
            Stopped: If the sink was stopped.
        """
        self._close_input()
        deadline = time.monotonic() + timeout_s
        while self.poll() is State.OPEN:
            self._pause(reading=True)
            if time.monotonic() > deadline:
                self._fail(f"the server did not take the end within {timeout_s:g} s")
        if self.state is not State.ENDED:
            raise Broken(self.reason)

    def kill(self) -> None:
        """End the process and all its own. May be called from any thread, any number of times."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if self._process.returncode is None:
                os.killpg(self._process.pid, signal.SIGKILL)

    def close(self, *, grace_s: float = 0.0) -> None:
        """Let the process end by itself for a moment, then kill it; release everything."""
        self._close_input()
        with contextlib.suppress(subprocess.TimeoutExpired):
            if grace_s and self.state is State.OPEN:
                self._process.wait(grace_s)
        self.kill()
        self._process.wait()
        with self._reading:
            self._read()  # to the end
            if self.state is not State.FAILED:
                self.state = State.ENDED
            assert self._process.stdout is not None
            self._process.stdout.close()

    def _take(self, line: str) -> None:
        if line == "sent":
            self.sent += 1
        elif line == "open":
            self.state = State.OPEN
        elif line == "end":
            self.state = State.ENDED
        elif line.startswith("failed "):
            said = json.loads(line.removeprefix("failed "))
            self.errno = said["errno"]
            self._fail(said["reason"])

    def _fail(self, reason: str) -> None:
        self.state, self.reason = State.FAILED, reason

    def _wait_for_reason(self) -> None:
        """Give a process that is ending the moment that it needs to say why."""
        deadline = time.monotonic() + 0.5
        while self.poll() is State.OPEN and time.monotonic() < deadline:
            self._pause(reading=True)
        if self.state is not State.FAILED:
            self._fail("the connection was closed")

    def _pause(self, *, reading: bool) -> None:
        if self._stopped.is_set():
            raise Stopped
        select.select([self._out], [] if reading else [self._in], [], _STEP_S)

    def _close_input(self) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
