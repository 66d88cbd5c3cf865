"""Names: looks up the addresses of STUN and TURN servers, away from all other work.

asyncio and aioice look names up in the threads that encode pictures: a name server that does not
answer, and a few offers, would stop all calls.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import logging
import socket
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Names"]

_log = logging.getLogger(__name__)

_KNOWN_S = 60.0

_Waiter = asyncio.Future[tuple[str, ...]]


class Names:
    """Looks each name up once at a time, in a thread of its own, and remembers it for a minute.

    There are as many names as servers in the configuration; so many threads there are at most. They
    are daemons: nothing ends a system's look-up, and a process that ends does not wait for one.

    Args:
        clock: Seconds that only grow.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()  # held for a few instructions
        self._known: dict[str, tuple[float, tuple[str, ...]]] = {}  # bounded by the names
        # Who waits for which name; bounded by the names, and by the offers that wait.
        self._waiting: dict[str, list[tuple[asyncio.AbstractEventLoop, _Waiter]]] = {}

    async def addresses(self, host: str) -> tuple[str, ...]:
        """Return the IP addresses of a host, best first, at least one.

        Raises:
            OSError: If it has none (``socket.gaierror``).
        """
        with contextlib.suppress(ValueError):
            return (str(ipaddress.ip_address(host)),)
        loop = asyncio.get_running_loop()
        waiter: _Waiter = loop.create_future()
        with self._lock:
            until_s, known = self._known.get(host, (0.0, ()))
            if known and self._clock() < until_s:
                return known
            begins = host not in self._waiting
            self._waiting.setdefault(host, []).append((loop, waiter))
        if begins:
            self._begin(host)
        return await waiter

    def _begin(self, host: str) -> None:
        looking = threading.Thread(target=self._look_up, args=(host,), name="names", daemon=True)
        try:
            looking.start()
        except RuntimeError:  # so many threads that the system gives no more; later it may
            self._settle_all(host, (), OSError(errno.EAGAIN, "no thread can be started"))

    def _look_up(self, host: str) -> None:
        found: tuple[str, ...] = ()
        error: OSError = socket.gaierror(socket.EAI_FAIL, "it could not be looked up")
        try:
            entries = socket.getaddrinfo(host, None, type=socket.SOCK_DGRAM)
            found = tuple(dict.fromkeys(str(entry[4][0]) for entry in entries))
        except OSError as exc:
            error = exc
        except ValueError:  # no name at all, such as one with a label of over 63 letters
            error = socket.gaierror(socket.EAI_NONAME, "this is no name")
        except Exception:
            _log.debug("a name could not be looked up", exc_info=True)
        finally:  # whatever went wrong: nobody may wait for ever
            self._settle_all(host, found, None if found else error)

    def _settle_all(self, host: str, found: tuple[str, ...], error: OSError | None) -> None:
        with self._lock:
            if found:
                self._known[host] = (self._clock() + _KNOWN_S, found)
            waiting = self._waiting.pop(host, [])
        for loop, waiter in waiting:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(_settle, waiter, found, error)


def _settle(waiter: _Waiter, found: tuple[str, ...], error: OSError | None) -> None:
    if waiter.done():  # cancelled
        return
    if error is None:
        waiter.set_result(found)
    else:
        waiter.set_exception(error)
