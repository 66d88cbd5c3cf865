"""A web server for tests that fails as told: it cuts, lies, hangs, redirects, refuses."""

from __future__ import annotations

import asyncio
import re
from collections import deque
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Mapping


@dataclass(frozen=True)
class Request:
    method: str
    target: str
    headers: Mapping[str, str]

    @property
    def begin(self) -> int:
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("range", ""))
        return int(match[1]) if match else 0


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What is different in one answer.

    Attributes:
        status: Another status than 200 or 206; there is no body then.
        headers: Further headers, or other values.
        cut_after: The connection ends after so many bytes of the body.
        hang_after: Nothing more comes after so many bytes of the body.
        mute: There is no answer at all, and the connection stays open.
        length: What Content-Length says.
        begin: Where the body begins, whatever was asked for.
    """

    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    cut_after: int | None = None
    hang_after: int | None = None
    mute: bool = False
    length: int | None = None
    begin: int | None = None


@dataclass
class Served:
    """A file, and the faults of the next answers; the last fault stays if ``forever``."""

    data: bytes = b""
    etag: str = '"one"'
    faults: deque[Fault] = field(default_factory=deque)
    forever: bool = False
    ranges: bool = True
    if_range: bool = True
    chunked: bool = False
    pause_s: float = 0.0  # between blocks of 64 KiB
    headers: Mapping[str, str] = field(default_factory=dict)

    def next_fault(self) -> Fault:
        if not self.faults:
            return Fault()
        return self.faults[0] if self.forever and len(self.faults) == 1 else self.faults.popleft()


class FileServer:
    def __init__(self) -> None:
        self.files: dict[str, Served] = {}
        self.requests: list[Request] = []
        self.sent_bytes = 0
        self.port = 0
        self.scheme = "http"

    def url(self, target: str, *, user: str = "") -> str:
        return f"{self.scheme}://{user and user + '@'}127.0.0.1:{self.port}{target}"

    def serve(self, target: str, data: bytes, *faults: Fault, **options: object) -> str:
        self.files[target] = Served(data, faults=deque(faults), **options)  # type: ignore[arg-type]
        return self.url(target)

    def asked_for(self, target: str, method: str = "GET") -> list[Request]:
        return [r for r in self.requests if r.target == target and r.method == method]

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                while await self._answer(reader, writer):
                    pass
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        method, target, _ = head[0].split(" ")
        headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in head[1:] if line)}
        target = re.sub(r"^https?://[^/]+", "", target)  # as a proxy is asked
        request = Request(method, target, headers)
        self.requests.append(request)
        served = self.files.get(target)
        if served is None:
            writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
            return True
        fault = served.next_fault()
        if fault.mute:
            await asyncio.sleep(60)
        begin, status = 0, 200
        same = not served.if_range or headers.get("if-range") in (None, served.etag)
        if "range" in headers and served.ranges and same:
            begin, status = request.begin, 206
        if fault.begin is not None:
            begin, status = fault.begin, 206
        body = served.data[begin:]
        answer = {"ETag": served.etag, "Content-Type": "application/octet-stream"}
        if status == 206 and begin >= len(served.data):
            status, body = 416, b""
            answer["Content-Range"] = f"bytes */{len(served.data)}"
        elif status == 206:
            answer["Content-Range"] = f"bytes {begin}-{len(served.data) - 1}/{len(served.data)}"
        if fault.status:
            status, body = fault.status, b""
        if served.chunked:
            answer["Transfer-Encoding"] = "chunked"
        else:
            answer["Content-Length"] = str(len(body) if fault.length is None else fault.length)
        answer |= {**served.headers, **fault.headers}
        lines = [f"HTTP/1.1 {status} X", *(f"{k}: {v}" for k, v in answer.items() if v)]
        writer.write("\r\n".join([*lines, "", ""]).encode())
        if method == "HEAD":
            return True
        return await self._send(writer, body, served, fault)

    async def _send(
        self, writer: asyncio.StreamWriter, body: bytes, served: Served, fault: Fault
    ) -> bool:
        end = fault.cut_after if fault.cut_after is not None else fault.hang_after
        body = body if end is None else body[:end]
        for start in range(0, len(body), 1 << 16):
            block = body[start : start + (1 << 16)]
            writer.write(b"%x\r\n%b\r\n" % (len(block), block) if served.chunked else block)
            await writer.drain()
            self.sent_bytes += len(block)
            await asyncio.sleep(served.pause_s)
        if fault.hang_after is not None:
            await asyncio.sleep(60)
        if fault.cut_after is not None or fault.length is not None:
            return False
        if served.chunked:
            writer.write(b"0\r\n\r\n")
        return True


@asynccontextmanager
async def file_server(context: ssl.SSLContext | None = None) -> AsyncIterator[FileServer]:
    server = FileServer()
    tasks: set[asyncio.Task[None]] = set()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(server._connection(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    listening = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=context)
    server.port = listening.sockets[0].getsockname()[1]
    server.scheme = "https" if context else "http"
    try:
        yield server
    finally:
        listening.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
