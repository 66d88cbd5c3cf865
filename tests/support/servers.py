"""Senders of real streams that do what a test says: send, stall, jump, break, refuse.

chunks = chunks_of(make_clip(tmp_path / "clip.ts", frames=50).path, "mpegts")
with Server(lambda peer: peer.play(chunks)) as server:
    ... StreamSource(server.url("http")) ...
    server.kill()       # as the process would be: sockets are reset
    server.start()      # on the same port
"""

from __future__ import annotations

import base64
import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

import av

__all__ = ["Chunk", "Gone", "Peer", "Server", "chunks_of", "free_port", "serve_folder"]

Chunk = tuple[float, bytes]
"""When it is to be sent, in seconds after the beginning, and what."""

_LINGER_NOT = struct.pack("ii", 1, 0)  # closing sends a reset, as a process that is killed does


class Gone(Exception):
    """The other side left, or the server was stopped."""


class _Writer:
    def __init__(self) -> None:
        self.data = bytearray()

    def write(self, data: bytes) -> int:
        self.data += data
        return len(data)

    def take(self) -> bytes:
        taken = bytes(self.data)
        self.data.clear()
        return taken


def chunks_of(
    path: Path | str, format_name: str, *, offset_s: float = 0.0, only: str | None = None
) -> list[Chunk]:
    """Remux a file and return it in pieces, each with its time.

    Args:
        path: The file.
        format_name: Of the stream: ``mpegts``, ``mpjpeg``, ``flv``.
        offset_s: Added to the time stamps in the stream, not to when the pieces are due.
        only: Leave out the packets of streams of another type than this; the streams remain.
    """
    writer = _Writer()
    chunks: list[Chunk] = []
    with av.open(str(path)) as source:
        streams = [s for s in source.streams if s.type in ("video", "audio")]
        target: Any = av.open(writer, "w", format=format_name, options={"flush_packets": "1"})
        copies = {s.index: target.add_stream_from_template(s, opaque=True) for s in streams}
        begin = None
        for packet in source.demux(*streams):
            if packet.dts is None or only not in (None, packet.stream.type):
                continue
            moment = float(packet.dts * packet.time_base)
            begin = moment if begin is None else begin
            ticks = round(offset_s / packet.time_base)
            packet.dts += ticks
            packet.pts = (packet.pts if packet.pts is not None else packet.dts) + ticks
            packet.stream = copies[packet.stream_index]
            target.mux_one(packet)
            chunks.append((moment - begin, writer.take()))
        target.close()
        chunks.append((chunks[-1][0], writer.take()))
    return chunks


@dataclass
class Peer:
    """One connection to a server.

    Attributes:
        number: Counts the server's connections from 0.
        headers: Of the HTTP request, names in lower case; empty over plain TCP.
    """

    connection: socket.socket
    number: int
    stopped: threading.Event
    path: str = ""
    headers: dict[str, str] = field(default_factory=dict)

    def send(self, data: bytes) -> None:
        if self.stopped.is_set():
            raise Gone
        try:
            self.connection.sendall(data)
        except OSError as error:
            raise Gone from error

    def respond(self, status: str, *headers: str) -> None:
        self.send("\r\n".join([f"HTTP/1.1 {status}", *headers, "", ""]).encode())

    def accept(self, content_type: str = "video/mp2t") -> None:
        """Begin the answer to an HTTP request whose end is the end of the connection."""
        if self.headers:
            self.respond("200 OK", f"Content-Type: {content_type}", "Connection: close")

    def wait(self, seconds: float) -> None:
        if self.stopped.wait(max(0.0, seconds)):
            raise Gone

    def play(self, chunks: Sequence[Chunk], *, until_s: float | None = None) -> None:
        """Send pieces in real time, those that are due before ``until_s``."""
        begin_s = time.monotonic()
        for moment_s, data in chunks:
            if until_s is not None and moment_s >= until_s:
                return
            self.wait(begin_s + moment_s - time.monotonic())
            self.send(data)

    def play_for_ever(self, chunks: Sequence[Chunk]) -> None:
        """Send pieces again and again; the stream's clock jumps back each time."""
        while True:
            self.play(chunks)

    def stall(self) -> None:
        """Keep the connection open and send nothing."""
        self.wait(3600)

    def authorised(self, user: str, password: str) -> bool:
        """Check HTTP's basic credentials."""
        wanted = base64.b64encode(f"{user}:{password}".encode()).decode()
        return self.headers.get("authorization") == f"Basic {wanted}"


class Server:
    """A TCP server on the loopback interface; speaks HTTP to those who do.

    Args:
        script: What to do for each connection, in a thread of its own; the end closes it.
        http: Whether to read an HTTP request first.
    """

    def __init__(self, script: Callable[[Peer], None], *, http: bool = True) -> None:
        self.script = script
        self.port = free_port()
        self.accepted = 0
        self._http = http
        self._listener: socket.socket | None = None
        self._stopped = threading.Event()
        self._connections: list[socket.socket] = []
        self._threads: list[threading.Thread] = []

    def url(self, scheme: str, path: str = "live", user: str = "") -> str:
        return f"{scheme}://{user + '@' if user else ''}127.0.0.1:{self.port}/{path}"

    def start(self) -> None:
        self._stopped = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", self.port), reuse_port=False)
        self._start(self._accept, self._listener, self._stopped)

    def kill(self) -> None:
        """End as a process does that is killed."""
        self._stopped.set()
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)
        self._connections.clear()
        self._threads.clear()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def _start(self, target: Callable[..., None], *args: Any) -> None:
        thread = threading.Thread(target=target, args=args, name="test-server", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket, stopped: threading.Event) -> None:
        while not stopped.is_set():
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            self._connections.append(connection)
            self._start(self._serve, Peer(connection, self.accepted, stopped))
            self.accepted += 1

    def _serve(self, peer: Peer) -> None:
        with peer.connection, contextlib.suppress(Gone, OSError):
            if self._http:
                request = b""
                while b"\r\n\r\n" not in request:
                    received = peer.connection.recv(4096)
                    if not received:
                        return
                    request += received
                first, *lines = request.decode("latin-1").split("\r\n\r\n")[0].split("\r\n")
                peer.path = first.split(" ")[1]
                fields = (line.partition(":") for line in lines)
                peer.headers = {name.lower(): value.strip() for name, _, value in fields}
            self.script(peer)


@contextlib.contextmanager
def serve_folder(folder: Path) -> Iterator[str]:
    """Serve files over HTTP; the value is the folder's URL."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def copyfile(self, *args: Any) -> None:
            with contextlib.suppress(ConnectionError):
                super().copyfile(*args)

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join(5)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
