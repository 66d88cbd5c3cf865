"""StreamSink: live pictures and sound to a network address.

    async with StreamSink("rtmp://live.example.org/app/key", bitrate="4M") as sink:
        await sink.open(info)
        ...
        await sink.send(frame)
        await sink.send_packets(source.take_packets())
        await sink.finish()

A connection that breaks is made again while pictures go on coming; those that come meanwhile are
dropped and counted. See docs/decisions/0005-recordings.md.
"""

from __future__ import annotations

import logging
import math
import random
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from streamseg.abc import SinkStatistics
from streamseg.errors import ConfigError, SinkOpenError, SinkWriteError
from streamseg.ffmpeg_log import quiet_ffmpeg
from streamseg.sinks.connection import Connection
from streamseg.sinks.encoder import choose_encoder
from streamseg.sinks.live_muxing import tune_for_streaming
from streamseg.sinks.relay import Broken, State
from streamseg.sinks.remux import SideStreams
from streamseg.sinks.stream_target import parse_bitrate, shown_url, target_for
from streamseg.sinks.threaded import ThreadedSink, Writer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from streamseg.frames import Frame, StreamInfo
    from streamseg.segmentation import Segmentation

__all__ = ["StreamSink"]

_log = logging.getLogger(__name__)

_FIRST_DELAY_S = 0.25
_LONGEST_DELAY_S = 8.0
_FINISH_S = 5.0
_GRACE_S = 0.3  # for a peer to be told that the stream ends here
_DEFAULT_BITRATE, _DEFAULT_PIXELS = 2_500_000, 1280 * 720
_LOWEST_BITRATE = 300_000


class StreamSink(ThreadedSink):
    """Encodes with as little delay as possible and sends to a URL that FFmpeg knows.

    ``rtmp``, ``rtmps`` (FLV), ``rtsp`` (announced, over TCP), ``srt``, ``udp``, ``tcp`` and ``http``
    (MPEG-TS; ``http`` by POST). ``srt`` needs an ``ffmpeg`` on the path that can; its arguments, and
    so a passphrase in the URL, can be read by the machine's other users. WebRTC is another sink's:
    ``streamseg.webrtc.client.WhipSink``.

    Pictures keep their own times, moved so that each connection begins at 0, with a keyframe at the
    beginning and every two seconds. AAC is sent as it is, but for AAC out of MPEG-TS over RTMP and
    RTSP, which lacks a header there; that and other sound is converted, with a notice.

    Args:
        url: Where to stream to. Credentials and stream keys in it are never shown.
        encoder: FFmpeg's name of a video encoder; None for H.264.
        bitrate: Bits per second, as a number or as ``2500k`` or ``4M``; None chooses by the size,
            2.5 Mbit/s at 1280x720.
        preset: Speed by the encoder's own names; None for a fast one.
        audio: Whether audio is sent.
        options: Further options of FFmpeg's muxer.
        reconnect: Whether a broken connection is made again; if not, it is an error.
        connect_timeout_s: How long connecting may take, in seconds.
        reconnect_window_s: After how many seconds of trying in vain it is an error.

    Raises:
        ConfigError: If a number is out of its range.
    """

    def __init__(
        self,
        url: str,
        *,
        encoder: str | None = None,
        bitrate: int | str | None = None,
        preset: str | None = None,
        audio: bool = True,
        options: Mapping[str, str] | None = None,
        reconnect: bool = True,
        connect_timeout_s: float = 10.0,
        reconnect_window_s: float = 60.0,
    ) -> None:
        for name, value in (
            ("connect_timeout_s", connect_timeout_s),
            ("reconnect_window_s", reconnect_window_s),
        ):
            if not (math.isfinite(value) and value > 0):
                raise ConfigError(f"{name} is {value}, expected more than 0 seconds")
        super().__init__(shown_url(url))
        self._url = url
        self._bitrate = None if bitrate is None else parse_bitrate(bitrate)
        self._asked = {"encoder": encoder, "preset": preset}
        self._audio = audio
        self._options = dict(options or {})
        self._reconnect = reconnect
        self._connect_timeout_s = connect_timeout_s
        self._window_s = reconnect_window_s
        self._streamer: _StreamWriter | None = None

    def _make_writer(self) -> Writer:
        self._streamer = _StreamWriter(
            self._url,
            self._asked,
            self._options,
            bitrate=self._bitrate,
            audio=self._audio,
            connect_timeout_s=self._connect_timeout_s,
            window_s=self._window_s if self._reconnect else 0.0,
        )
        return self._streamer

    def statistics(self) -> SinkStatistics:
        """Return the counters of this moment.

        ``dropped``: ``disconnected`` pictures that came while there was no connection or were
        lost with one, ``abandoned`` pictures that closing left in the queue.
        """
        streamer = self._streamer
        if streamer is None:
            return SinkStatistics()
        lost, written = streamer.lost, streamer.written
        dropped = {"disconnected": lost} if lost else {}
        if self._state.done.is_set() and (rest := self._accepted - written - lost) > 0:
            dropped["abandoned"] = rest
        return SinkStatistics(
            self._accepted, written, dropped, streamer.reconnects, streamer.bytes_written
        )


class _StreamWriter:
    """Keeps a connection; its methods are called in the sink's thread."""

    def __init__(
        self,
        url: str,
        asked: dict[str, Any],
        options: dict[str, str],
        *,
        bitrate: int | None,
        audio: bool,
        connect_timeout_s: float,
        window_s: float,
    ) -> None:
        self.notices: list[str] = []
        self.lost = 0
        self.reconnects = 0
        self._url = url
        self._asked = asked
        self._options = options
        self._bitrate = bitrate
        self._audio = audio
        self._timeout_s = connect_timeout_s
        self._window_s = window_s
        self._stopped = threading.Event()
        self._connection: Connection | None = None
        self._connected = False
        self._sent_before = self._bytes_before = 0
        self._plan: SideStreams | None = None
        self._failures = 0
        self._down_since_s = 0.0
        self._retry_at_s = 0.0

    @property
    def written(self) -> int:
        """Pictures that went to the network."""
        connection = self._connection
        if connection is None:
            return self._sent_before
        connection.poll()
        return self._sent_before + connection.relay.sent

    @property
    def bytes_written(self) -> int:
        """Encoded bytes that went out."""
        connection = self._connection
        return self._bytes_before + (0 if connection is None else connection.relay.bytes)

    def open(self, info: StreamInfo) -> None:
        """Connect.

        Raises:
            SinkOpenError: If that fails.
        """
        quiet_ffmpeg()
        self._target = target_for(self._url, self._options)
        self._info = info
        choose_encoder(self._target.container, self._target.shown, **self._asked)
        if self._bitrate is None:
            size = info.width * info.height / _DEFAULT_PIXELS
            self._bitrate = max(_LOWEST_BITRATE, round(_DEFAULT_BITRATE * size**0.75))
        self._plan = SideStreams(
            [s for s in info.side_streams if s.type == "audio"],
            self._target.container,
            audio=self._audio,
            chapters=False,
            notices=self.notices,
            stopped=self._stopped,
        )
        self._connection = self._connect()
        try:
            self._connection.relay.wait_open(self._timeout_s)
        except Broken as exc:
            raise SinkOpenError(
                f"cannot stream to {self._target.shown}: {exc}; {self._target.advice(str(exc))}"
            ) from exc
        self._connected = True

    def write(self, frame: Frame, segmentation: Segmentation | None = None) -> None:
        """Send one picture, or drop it where there is no connection.

        Raises:
            SinkWriteError: If there is none for too long.
        """
        if not self._ready():
            self.lost += 1
            return
        assert self._connection is not None
        try:
            self._connection.write(frame)
        except Broken as exc:
            self._lose(str(exc))

    def write_packets(self, packets: Sequence[Any]) -> None:
        """Send side packets, in time with their pictures."""
        if self._connection is not None and self._connected:
            self._connection.write_packets(packets)

    def finish(self) -> None:
        """End the stream in good order."""
        connection = self._connection
        if connection is not None and self._connected:
            try:
                connection.finish(_FINISH_S)
            except Broken as exc:
                self.notices.append(f"the end of the stream did not get through: {exc}")
        else:
            self.notices.append("the stream was not connected at its end")
        self._drop_connection()

    def commit(self) -> None:
        """Nothing is left to do: what was sent is sent."""

    def abort(self) -> None:
        """End the connection."""
        self._drop_connection(grace_s=_GRACE_S)
        if self._plan is not None:
            self._plan.close()

    def stop(self) -> None:
        """End every wait."""
        self._stopped.set()

    def discard(self) -> None:
        """End the relay, whatever the thread is doing."""
        if (connection := self._connection) is not None:
            connection.relay.kill()

    def _ready(self) -> bool:
        """Whether there is a connection; makes one when it is time to, without waiting for it.

        Raises:
            SinkWriteError: If there was none for too long.
        """
        now = time.monotonic()
        if self._connection is None:
            if now < self._retry_at_s:
                return False
            self._connection = self._connect()
        connection = self._connection
        state = connection.poll()
        if state is State.CONNECTING and now - connection.relay.started_s > self._timeout_s:
            self._lose(f"no answer within {self._timeout_s:g} s")
            return False
        if state in {State.FAILED, State.ENDED}:
            self._lose(connection.relay.reason)
            return False
        if state is State.OPEN and not self._connected:
            self._connected = True
            self.reconnects += 1
            _log.info("stream to %s is connected again", self._target.shown)
        if self._connected and connection.relay.sent:
            self._failures = 0  # it is the first picture that shows that the peer takes any
        return self._connected

    def _connect(self) -> Connection:
        assert self._plan is not None
        assert self._bitrate is not None
        tune = partial(tune_for_streaming, bitrate=self._bitrate)
        return Connection(
            self._info,
            self._target,
            self._asked,
            tune,
            self._plan.fork(),
            self.notices,
            self._stopped,
        )

    def _lose(self, reason: str) -> None:
        """Give a connection up and say when to make another one.

        Raises:
            SinkWriteError: If there was none for too long.
        """
        now = time.monotonic()
        if not self._failures:
            self._down_since_s = now
            _log.warning("stream to %s broke: %s", self._target.shown, reason)
        self._drop_connection()
        down_s = now - self._down_since_s
        if down_s >= self._window_s:
            what = f"for {down_s:.0f} s" if self._window_s else "any more"
            raise SinkWriteError(
                f"cannot stream to {self._target.shown} {what}: {reason}; "
                f"{self._target.advice(reason)}"
            )
        delay_s = min(_LONGEST_DELAY_S, _FIRST_DELAY_S * 2**self._failures)
        # Jitter: all that were cut off together must not come back together.
        delay_s *= random.uniform(0.5, 1)
        self._retry_at_s = now + min(delay_s, self._window_s - down_s)
        self._failures += 1

    def _drop_connection(self, *, grace_s: float = 0.0) -> None:
        connection, connected = self._connection, self._connected
        self._connected = False
        if connection is None:
            return
        connection.close(grace_s=grace_s if connected else 0.0)
        sent, self._connection = connection.relay.sent, None
        self._sent_before += sent
        self._bytes_before += connection.relay.bytes
        self.lost += max(0, connection.taken - sent)
