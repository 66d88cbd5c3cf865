"""Control: what a sender says over the data channel, checked, carried out and answered."""

from __future__ import annotations

import json
import logging
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol

import anyio
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

from streamseg.errors import ConfigError, StreamsegError
from streamseg.webrtc.bodies import explain
from streamseg.webrtc.peer_messages import MAX_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

    from streamseg.telemetry import PipelineStatistics
    from streamseg.webrtc.choices import EffectChoice, Menu
    from streamseg.webrtc.statistics import PeerStatistics
    from streamseg.webrtc.uploads import Uploads

__all__ = ["Change", "Control", "ControlMessage", "Options", "figures"]

_log = logging.getLogger(__name__)

_LONGEST_ERROR = 500  # bytes as JSON, which has up to twelve for a letter
_WAITING = 8  # messages that nobody has answered yet; more are refused
_PER_S = 10.0
_BURST = 20.0

Options = Annotated[dict[str, JsonValue], Field(max_length=16)]
EffectName = Annotated[str, Field(min_length=1, max_length=32)]


class ControlMessage(BaseModel):
    """One message: exactly one wish.

    Attributes:
        effect: Another effect.
        options: Its options; only with ``effect``.
        mask: Whether the mask is shown instead.
        bypass: Whether the picture is shown as it came.
        statistics: Send figures now.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    effect: EffectName | None = None
    options: Options | None = None
    mask: bool | None = None
    bypass: bool | None = None
    statistics: Literal[True] | None = None

    @model_validator(mode="after")
    def _one_wish(self) -> ControlMessage:
        wishes = (self.effect, self.mask, self.bypass, self.statistics)
        if sum(wish is not None for wish in wishes) != 1:
            raise ValueError("expected exactly one of effect, mask, bypass, statistics")
        if self.options is not None and self.effect is None:
            raise ValueError("options are an effect's: name it")
        return self


@dataclass(frozen=True, slots=True)
class Change:
    """What a pipeline is asked to change; one of these."""

    effect: EffectChoice | None = None
    mask: bool | None = None
    bypass: bool | None = None


class _Processing(Protocol):
    async def control(self, change: Change) -> None: ...

    def statistics(self) -> PipelineStatistics: ...


class _Peer(Protocol):
    def send_message(self, text: str) -> None: ...

    def statistics(self) -> PeerStatistics: ...


class Control:
    """Answers messages one after the other; more than a few that wait are refused.

    Args:
        peer: Where the answers go.
        processing: What is controlled.
        uploads: Backgrounds that may be named.
        menu: The effects that may be asked for, and whether the untouched picture may be.
        clock: Seconds that only grow.
    """

    def __init__(
        self,
        peer: _Peer,
        processing: _Processing,
        uploads: Uploads,
        *,
        menu: Menu,
        clock: Callable[[], float] = anyio.current_time,
    ) -> None:
        self._peer = peer
        self._processing = processing
        self._uploads = uploads
        self._menu = menu
        self._clock = clock
        self._waiting: deque[str] = deque()  # bounded by _WAITING
        self._arrived = anyio.Event()
        self._left, self._since = _BURST, clock()

    def receive(self, text: str) -> None:
        """Take a message; never waits."""
        now = self._clock()
        self._left = min(_BURST, self._left + (now - self._since) * _PER_S)
        self._since = now
        if self._left < 1.0 or len(self._waiting) >= _WAITING:
            return  # unanswered: an answer to each would be a second flood
        self._left -= 1.0
        self._waiting.append(text)
        self._arrived.set()

    async def run(self) -> None:
        """Answer until cancelled."""
        while True:
            while self._waiting:
                self._say(await self._answer(self._waiting.popleft()))
            self._arrived = anyio.Event()
            await self._arrived.wait()

    async def tell_figures(self, interval_s: float = 1.0) -> None:
        """Send figures every second until cancelled."""
        while True:
            await anyio.sleep(interval_s)
            self._say({"statistics": self._figures()})

    async def _answer(self, text: str) -> dict[str, Any]:
        try:
            return await self._carry_out(_parse(text))
        except StreamsegError as exc:
            return {"error": _cut(str(exc))}
        except Exception as exc:
            _log.error("a control message failed: %s", type(exc).__name__)
            _log.debug("it failed here:", exc_info=exc)
            return {"error": "this could not be done"}

    async def _carry_out(self, message: ControlMessage) -> dict[str, Any]:
        if message.statistics:
            return {"statistics": self._figures()}
        if message.effect is not None:
            choice = self._menu.choose(message.effect, message.options or {}, self._uploads)
            await self._processing.control(Change(effect=choice))
            told = {"effect": choice.name, "options": choice.said}
            # What was written shorter than it is said here is not repeated.
            return told if len(_json(told)) <= MAX_BYTES else {"effect": choice.name}
        if message.mask is not None:
            await self._processing.control(Change(mask=message.mask))
            return {"mask": message.mask}
        if not self._menu.may_bypass:
            raise ConfigError("this server does not show pictures without their effect")
        await self._processing.control(Change(bypass=message.bypass))
        return {"bypass": message.bypass}

    def _figures(self) -> dict[str, Any]:
        return figures(self._processing.statistics(), self._peer.statistics())

    def _say(self, message: dict[str, Any]) -> None:
        try:
            self._peer.send_message(_json(message))
        except Exception as exc:  # what cannot be said must not end the call
            _log.error("a control message could not be answered: %s", type(exc).__name__)
            _log.debug("it failed here:", exc_info=exc)


def figures(pipeline: PipelineStatistics, peer: PeerStatistics) -> dict[str, Any]:
    """Return what a user is told every second."""
    dropped = dict(pipeline.dropped)
    for sink in pipeline.sinks.values():
        for cause, count in sink.dropped.items():
            dropped[cause] = dropped.get(cause, 0) + count
    total = pipeline.recent.get("total")
    model = pipeline.recent.get("model")
    told = pipeline.settings
    adapted = {"scale": float(told["scale"]), "fps": int(told["fps"])} if "scale" in told else None
    return {
        "fps": round(pipeline.recent_fps, 1),
        "latency_ms": round(total.p50_ms, 1) if total is not None else None,
        "model_ms": round(model.p50_ms, 1) if model is not None else None,
        "frames": pipeline.frames_out,
        "hidden": pipeline.hidden,
        "dropped": {cause: count for cause, count in dropped.items() if count},
        "bitrate_in": peer.bitrate_in,
        "bitrate_out": peer.bitrate_out,
        "packets_lost": peer.packets_lost,
        "rtt_ms": None if peer.rtt_ms is None else round(peer.rtt_ms, 1),
        "encode_ms": None if peer.encode_ms is None else round(peer.encode_ms, 1),
        "size": peer.size,
        "codec": peer.codec,
        "adapted": adapted,
    }


def _json(message: dict[str, Any]) -> str:
    return json.dumps(message, allow_nan=False)


def _cut(text: str) -> str:
    """Return as much of a text as has few enough bytes as JSON."""
    size = len(json.dumps("…"))
    for place, letter in enumerate(text):
        size += len(json.dumps(letter)) - 2
        if size > _LONGEST_ERROR:
            return f"{text[:place]}…"
    return text


def _parse(text: str) -> ControlMessage:
    if len(text.encode("utf-8", "replace")) > MAX_BYTES:
        raise ConfigError(f"the message is over {MAX_BYTES} bytes")
    try:
        return ControlMessage.model_validate_json(text)
    except ValidationError as exc:
        raise ConfigError(explain(ControlMessage, exc)) from exc
