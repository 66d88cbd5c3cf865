"""Networks of this machine's own: namespaces with links between them, and things that go wrong there.

    with Network() as network:
        server, client = network.add("server"), network.add("client")
        network.link(server, "10.77.1.1/24", client, "10.77.1.2/24")
        with server.serving("--host", "10.77.1.1", "--behind-proxy") as running:
            client.run(some_coroutine_function, running.url)

Nothing outside is changed, and everything is removed in the end; what a killed run has left behind
is removed by the next one. It needs root, ``ip`` and ``iptables``.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import fcntl
import itertools
import os
import re
import select
import shutil
import struct
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self, TypeVar

import aiohttp

from tests.support.programs import lack
from tests.support.serving import Serving

__all__ = [
    "Namespace",
    "Network",
    "UnalteredServing",
    "metric",
    "require_namespaces",
    "room_filled",
]

T = TypeVar("T")

_CLONE_NEWNET = 0x40000000
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
_TUNNEL = "to-far"
_PREFIX = "streamseg-"
_numbers = itertools.count()
_libc = ctypes.CDLL(None, use_errno=True)


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


def require_namespaces(*programs: str) -> None:
    """Skip a test where there can be no namespaces; in CI it fails."""
    missing = [name for name in ("ip", "iptables", *programs) if shutil.which(name) is None]
    if missing:
        lack(f"{' and '.join(missing)} is not installed")
    name = f"{_PREFIX}{os.getpid()}-probe"
    try:
        _run("ip", "netns", "add", name)
    except RuntimeError as exc:
        lack(f"network namespaces cannot be had: {exc}")
    try:
        _run("ip", "netns", "exec", name, "iptables", "-L")
    except RuntimeError as exc:
        lack(f"packets cannot be filtered: {exc}")
    finally:
        _run("ip", "netns", "del", name)


class UnalteredServing(Serving):
    """``streamseg serve`` without the addresses that other tests add to it."""

    def __init__(self, *options: str, prefix: Sequence[str] = ()) -> None:
        super().__init__(*options)
        port = () if "--port" in options else ("--port", "0")
        self._command = [*prefix, sys.executable, "-m", "streamseg", "serve", *port, *options]


class Namespace:
    """A machine's worth of network, with ``lo`` up."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.prefix = ["ip", "netns", "exec", name]

    def command(self, *command: str) -> str:
        """Run a command inside and return what it says."""
        return _run(*self.prefix, *command)

    def set(self, name: str, value: int) -> None:
        """Set a number of the kernel's, by its path under ``/proc/sys``."""
        self.command("sh", "-c", f"[ ! -e /proc/sys/{name} ] || echo {value} > /proc/sys/{name}")

    def start(self, *command: str, **options: Any) -> subprocess.Popen[str]:
        """Start a process inside; who starts it ends it. Its pid is the command's own."""
        return subprocess.Popen([*self.prefix, *command], text=True, **options)

    @contextmanager
    def serving(self, *options: str) -> Iterator[Serving]:
        """Run ``streamseg serve`` inside, as a user would."""
        with UnalteredServing(*options, prefix=self.prefix) as server:
            yield server

    def run(self, function: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Run a coroutine function inside, in a loop of its own; return its result."""
        return self.call(lambda: asyncio.run(_call(function, args)))

    def call(self, function: Callable[..., T], *args: Any) -> T:
        """Run a function inside, in a thread of its own; return its result.

        Only what this thread opens is inside, and those threads and processes that it starts.
        """
        result: Future[T] = Future()

        def work() -> None:
            try:
                self._enter()
                result.set_result(function(*args))
            except BaseException as exc:
                result.set_exception(exc)

        thread = threading.Thread(target=work, name=f"in {self.name}")
        thread.start()
        thread.join()
        return result.result()

    def _enter(self) -> None:
        with Path("/var/run/netns", self.name).open("rb") as place:
            if _libc.setns(place.fileno(), _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")

    def lose(self, share: float) -> None:
        """Let this share of all UDP packets that arrive get lost from now on; 0 for none."""
        self.command("iptables", "-F", "INPUT")
        if share:
            chance = ["-m", "statistic", "--mode", "random", "--probability", str(share)]
            self.command("iptables", "-A", "INPUT", "-p", "udp", *chance, "-j", "DROP")

    def dropped(self, chain: str) -> int:
        """Return how many packets the rules of a chain have dropped."""
        listed = self.command("iptables", "-L", chain, "-v", "-x", "-n")
        return sum(int(line.split()[0]) for line in listed.splitlines() if " DROP " in line)

    def link_up(self, up: bool) -> None:
        """Pull the plug of all links, or put it in again; addresses stay."""
        for name in self._links():
            self.command("ip", "link", "set", name, "up" if up else "down")

    def readdress(self, address: str) -> None:
        """Give the only link another address, as another network would."""
        (name,) = self._links()
        self.command("ip", "addr", "flush", "dev", name)
        self.command("ip", "addr", "add", address, "dev", name)

    def _links(self) -> list[str]:
        return re.findall(r"^\d+: (to-[^@:]+)", self.command("ip", "-o", "link"), re.MULTILINE)


async def _call(function: Callable[..., Awaitable[T]], args: tuple[Any, ...]) -> T:
    return await function(*args)


async def metric(url: str, name: str) -> float:
    """Return a value of a server's metrics, by its name with labels; 0 if there is none."""
    async with aiohttp.ClientSession() as client, client.get(f"{url}/metrics") as response:
        lines = [line.rpartition(" ") for line in (await response.text()).splitlines()]
    return sum(float(value) for found, _, value in lines if found == name)


async def room_filled(url: str) -> None:
    """Wait until a server has put its source into a room."""
    async with asyncio.timeout(15):
        while await metric(url, "streamseg_rooms") < 1:
            await asyncio.sleep(0.05)


class Network:
    """Namespaces and the links between them, as long as the block runs."""

    def __init__(self) -> None:
        self._namespaces: list[Namespace] = []
        self._lines: list[_Line] = []

    def add(self, name: str) -> Namespace:
        namespace = Namespace(f"{_PREFIX}{os.getpid()}-{next(_numbers)}-{name}")
        _run("ip", "netns", "add", namespace.name)
        self._namespaces.append(namespace)
        namespace.command("ip", "link", "set", "lo", "up")
        return namespace

    def link(self, one: Namespace, address: str, other: Namespace, its_address: str) -> None:
        """Lay a cable between two of them."""
        ends = [f"to-{space.name.rpartition('-')[2]}"[:15] for space in (other, one)]
        _run(
            *("ip", "link", "add", ends[0], "netns", one.name, "type", "veth"),
            *("peer", "name", ends[1], "netns", other.name),
        )
        for space, end, its in ((one, ends[0], address), (other, ends[1], its_address)):
            # IPv6 would find ways that a test of IPv4 knows nothing of, after its own delays.
            space.set(f"net/ipv6/conf/{end}/disable_ipv6", 1)
            space.command("ip", "addr", "add", its, "dev", end)
            space.command("ip", "link", "set", end, "up")

    def link_far(
        self, one: Namespace, address: str, other: Namespace, its_address: str, *, delay_s: float
    ) -> None:
        """Let two of them be so far apart that a packet takes this long, each way."""
        ends = []
        for space, its in ((one, address), (other, its_address)):
            ends.append(space.call(_open_tunnel))
            space.command("ip", "addr", "add", its, "dev", _TUNNEL)
            space.command("ip", "link", "set", _TUNNEL, "up")
        self._lines.append(_Line(ends[0], ends[1], delay_s))

    def __enter__(self) -> Self:
        _remove_leftovers()
        return self

    def __exit__(self, *exc: object) -> None:
        while self._lines:
            self._lines.pop().close()
        while self._namespaces:
            _run("ip", "netns", "del", self._namespaces.pop().name)


def _open_tunnel() -> int:
    try:
        end = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(end, _TUNSETIFF, struct.pack("16sH", _TUNNEL.encode(), _IFF_TUN | _IFF_NO_PI))
    except OSError as exc:
        lack(f"a tunnel between namespaces cannot be had: {exc.strerror}")
    return end


class _Line(threading.Thread):
    """Carries packets between two tunnels, each a while after it came; ``netem`` is not everywhere."""

    def __init__(self, one: int, other: int, delay_s: float) -> None:
        super().__init__(name="line")
        self._other = {one: other, other: one}
        self._delay_s = delay_s
        self._stopped = threading.Event()
        self.start()

    def close(self) -> None:
        self._stopped.set()
        self.join()
        for end in self._other:
            os.close(end)

    def run(self) -> None:
        under_way: deque[tuple[float, int, bytes]] = deque()
        while not self._stopped.is_set():
            wait_s = 0.05 if not under_way else max(0.0, under_way[0][0] - time.monotonic())
            for end in select.select(list(self._other), [], [], min(wait_s, 0.05))[0]:
                with contextlib.suppress(BlockingIOError):
                    while True:
                        packet = os.read(end, 2048)
                        under_way.append(
                            (time.monotonic() + self._delay_s, self._other[end], packet)
                        )
            while under_way and under_way[0][0] <= time.monotonic():
                _, end, packet = under_way.popleft()
                with contextlib.suppress(OSError):  # its link is down
                    os.write(end, packet)


def _remove_leftovers() -> None:
    """Remove the namespaces of processes that are no more."""
    for line in _run("ip", "netns", "list").splitlines():
        match = re.match(rf"({_PREFIX}(\d+)-\S+)", line)
        if match is not None and not Path("/proc", match[2]).exists():
            subprocess.run(["ip", "netns", "del", match[1]], capture_output=True, timeout=10)
