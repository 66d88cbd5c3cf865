"""Configuration: what a scenario of ``configs/*.toml`` may say, and its defaults.

``Config`` is a file job's (``streamseg run``), ``LiveConfig`` a live stream's (``streamseg live``);
model, masks and effect are said alike in both.

Values come from a file, options of the command line override them, and everything is validated at
once: an unknown key or a wrong value is an error that names the key, what was expected, and the
nearest right name.
"""

from __future__ import annotations

import difflib
import tomllib
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, get_args

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from streamseg.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pydantic_core import ErrorDetails

__all__ = [
    "Config",
    "EffectConfig",
    "FlowConfig",
    "LiveConfig",
    "LiveSourceConfig",
    "MaskConfig",
    "ModelConfig",
    "OutputConfig",
    "Scenario",
    "SinkConfig",
    "SourceConfig",
    "Table",
    "TelemetryConfig",
    "kind_of",
    "load_config",
    "load_live_config",
    "load_scenario",
    "to_toml",
]

_MAX_BYTES = 1 << 20

Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Text = Annotated[str, Field(min_length=1)]
Ratio = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


S = TypeVar("S", bound="Scenario")


class Table(BaseModel):
    """A table of a configuration: frozen, and without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class SourceConfig(Table):
    """``[source]``: which part of the input.

    Attributes:
        start_s: Where to begin, in seconds from the beginning of the file.
        duration_s: How much to take, in seconds.
        rate: Pictures per second of a numbered image sequence.
    """

    start_s: Seconds | None = None
    duration_s: Positive | None = None
    rate: Positive | None = None


class ModelConfig(Table):
    """``[model]``: what finds the people.

    Attributes:
        name: A model's name (``streamseg models list``), or the path or address of a .pte; fetched
            where that is needed.
        workers: Number of model processes.
        threads: Threads of each; 0 chooses by the model's input size.
        timeout_s: A frame that takes longer has its process killed and is tried again, in seconds.
    """

    name: str = "selfie"
    workers: Annotated[int, Field(ge=1, le=64)] = 1
    threads: Annotated[int, Field(ge=0, le=256)] = 0
    timeout_s: Positive = 30.0


class MaskConfig(Table):
    """``[mask]``: what is done to the model's masks.

    Attributes:
        smoothing: How much an uncertain pixel follows the frame before, 0 to 1; 0 is off.
        refine: Whether mask edges are made to follow the picture's own edges.
    """

    smoothing: Ratio = 0.7
    refine: bool = True


class EffectConfig(BaseModel):
    """``[effect]``: ``name``, and that effect's own options beside it.

    The options are checked by the effect itself when it is made.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    name: str = "blur"

    @property
    def options(self) -> dict[str, Any]:
        """The effect's options without its name."""
        return dict(self.model_extra or {})


class OutputConfig(Table):
    """``[output]``: how the result is written.

    Attributes:
        encoder: FFmpeg's name of a video encoder; None chooses by the container.
        crf: Constant quality of the encoder, lower is better; None is the encoder's default here.
        preset: The encoder's speed preset; None is the encoder's default here.
        audio: Whether sound is carried over.
        overwrite: Whether an existing target is replaced.
        masks: Where to write the masks as well: a video, ``%05d.png``, or ``.jsonl``.
    """

    encoder: str | None = None
    crf: Annotated[int, Field(ge=0, le=63)] | None = None
    preset: str | None = None
    audio: bool = True
    overwrite: bool = False
    masks: str | None = None


class Scenario(Table):
    """What every scenario can say; the base of the configurations."""

    model: ModelConfig = ModelConfig()
    mask: MaskConfig = MaskConfig()
    effect: EffectConfig = EffectConfig()


class Config(Scenario):
    """Everything that can be configured for a file job."""

    source: SourceConfig = SourceConfig()
    output: OutputConfig = OutputConfig()


class LiveSourceConfig(Table):
    """``[source]`` of a live stream.

    Attributes:
        uri: ``camera:0``, a device's path, a URL that FFmpeg reads, ``screen:``, ``test:``, or a
            file, which is played in real time.
        width: Width to ask a camera, the screen or the test pattern for, in pixels.
        height: Height likewise.
        fps: Frames per second likewise.
        mirror: Whether a camera's picture is mirrored, as one expects of a mirror.
        loop: Whether a file begins again at its end.
        options: Further options of FFmpeg's demuxer and protocol, by FFmpeg's names.
        open_timeout_s: How long opening may take, in seconds.
        read_timeout_s: After how many seconds without a frame the connection counts as broken.
        reconnect: Whether a broken connection is made again.
        give_up_after_s: For how long that is tried without success, in seconds.
    """

    uri: Text = "camera:0"
    width: Annotated[int, Field(ge=16, le=16384)] | None = None
    height: Annotated[int, Field(ge=16, le=16384)] | None = None
    fps: Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)] | None = None
    mirror: bool = False
    loop: bool = False
    options: dict[str, str] = Field(default_factory=dict)
    open_timeout_s: Positive = 10.0
    read_timeout_s: Positive = 5.0
    reconnect: bool = True
    give_up_after_s: Positive = 60.0


class FlowConfig(Table):
    """``[flow]``: what happens while the model is busy.

    Attributes:
        when_busy: ``drop``: a frame that finds the model busy is dropped for the next one.
            ``reuse``: every frame is shown, with the newest mask. ``wait``: as for files.
        max_mask_age_s: ``reuse``: how old a mask may be, in seconds.
        motion: ``reuse``: whether an older mask is moved along with what moves in the picture.
        on_missing_mask: What is shown of a frame without a mask: ``hide``, ``pass`` or ``drop``.
    """

    when_busy: Literal["drop", "reuse", "wait"] = "drop"
    max_mask_age_s: Positive = 1.0
    motion: bool = True
    on_missing_mask: Literal["hide", "pass", "drop"] = "hide"


class SinkConfig(Table):
    """``[[sink]]``: one of the places where the pictures go.

    Attributes:
        uri: ``display``, ``virtual-camera``, ``mjpeg://127.0.0.1:8090``, ``null``, a URL that
            FFmpeg writes, or a file, which becomes a recording.
        encoder: FFmpeg's name of a video encoder, for recordings and streams.
        preset: The encoder's speed preset.
        crf: Recordings: constant quality, lower is better.
        bitrate: Streams: bits per second.
        quality: ``mjpeg``: quality of the pictures, 1 to 100.
        audio: Whether sound is carried over.
        overwrite: Recordings: whether an existing file is replaced.
        segment_s: Recordings: how long a file becomes before the next one begins, in seconds.
        device: ``virtual-camera``: its device, where there are several.
        options: Streams: further options of FFmpeg's muxer and protocol.
    """

    uri: Text
    encoder: str | None = None
    preset: str | None = None
    crf: Annotated[int, Field(ge=0, le=63)] | None = None
    bitrate: Annotated[int, Field(ge=10_000, le=1_000_000_000)] | None = None
    quality: Annotated[int, Field(ge=1, le=100)] | None = None
    audio: bool = True
    overwrite: bool = False
    segment_s: Positive | None = None
    device: str | None = None
    options: dict[str, str] = Field(default_factory=dict)


class TelemetryConfig(Table):
    """``[telemetry]``: what is told of a live stream while it runs.

    Attributes:
        stats: A file for one JSON line each interval, or ``-`` for standard output.
        interval_s: That interval, in seconds.
        metrics: ``host:port`` at which Prometheus may ask.
    """

    stats: str | None = None
    interval_s: Annotated[float, Field(ge=0.1, le=3600, allow_inf_nan=False)] = 1.0
    metrics: str | None = None


class LiveConfig(Scenario):
    """Everything that can be configured for a live stream."""

    source: LiveSourceConfig = LiveSourceConfig()
    flow: FlowConfig = FlowConfig()
    sink: tuple[SinkConfig, ...] = ()
    telemetry: TelemetryConfig = TelemetryConfig()


def load_config(path: Path | None = None, overrides: Mapping[str, Any] | None = None) -> Config:
    """Return the configuration of a file job: a file's, with some values overridden.

    Args:
        path: A TOML file; None starts from the defaults.
        overrides: Dotted key -> value, for example ``{"effect.strength": 80}``; None values are
            left out. Naming another effect than the file's leaves the file's effect options out.

    Raises:
        ConfigError: If the file cannot be read, or a key or value is wrong.
    """
    return load_scenario(Config, path, overrides or {})


def load_live_config(
    path: Path | None = None, overrides: Mapping[str, Any] | None = None
) -> LiveConfig:
    """Return the configuration of a live stream; see ``load_config``."""
    return load_scenario(LiveConfig, path, overrides or {})


def kind_of(path: Path) -> Literal["file", "live", "serve"]:
    """Return which command a configuration is for, by the tables that it has.

    Raises:
        ConfigError: If the file cannot be read.
    """
    values = _read(path)
    if {"server", "limits", "webrtc", "room"} & set(values):
        return "serve"
    source = values.get("source")
    if {"sink", "flow", "telemetry"} & set(values) or (
        isinstance(source, dict) and "uri" in source
    ):
        return "live"
    return "file"


def load_scenario(kind: type[S], path: Path | None, overrides: Mapping[str, Any]) -> S:
    """Return a configuration of any kind; see ``load_config``."""
    values: dict[str, Any] = {} if path is None else _read(path)
    given = {key: value for key, value in overrides.items() if value is not None}
    effect = values.get("effect")
    if (
        isinstance(effect, dict)
        and "effect.name" in given
        and given["effect.name"] != effect.get("name", EffectConfig().name)
    ):
        values["effect"] = {}
    for key, value in given.items():
        table = values
        *parents, name = key.split(".")
        for parent in parents:
            table = table.setdefault(parent, {})
            if not isinstance(table, dict):
                raise ConfigError(f"{path}: {parent} is {table!r}, expected a table [{parent}]")
        table[name] = value
    try:
        return kind.model_validate(values)
    except ValidationError as exc:
        where = f"{path}: " if path is not None else ""
        raise ConfigError(where + _explain(kind, exc.errors()[0])) from exc


def to_toml(config: Scenario) -> str:
    """Return the configuration as TOML; what is None is left out, as TOML has no such value."""
    return tomli_w.dumps(config.model_dump(exclude_none=True))


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ConfigError(f"{path}: over {_MAX_BYTES} bytes, not a configuration")
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise ConfigError(f"{path}: cannot read the configuration: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise ConfigError(f"{path}: is not text: a configuration is a TOML file") from exc
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError(f"{path}: is not valid TOML: {exc}") from exc


def _explain(kind: type[Scenario], error: ErrorDetails) -> str:
    location = [str(part) for part in error["loc"]]
    key = ".".join(location)
    if error["type"] == "extra_forbidden":
        other = LiveConfig if kind is Config else Config
        if len(location) <= 2 and location[-1] in _known_keys(other, location[:-1]):
            command = "live" if other is LiveConfig else "run"
            return f"unknown key {key!r}: it belongs to 'streamseg {command}'"
        known = _known_keys(kind, location[:-1])
        near = difflib.get_close_matches(location[-1], known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(known)}"
        return f"unknown key {key!r}: {hint}"
    if error["type"] == "missing":
        return f"{key} is missing: it must be given"
    return f"{key} is {error['input']!r}: {error['msg'][:1].lower()}{error['msg'][1:]}"


def _known_keys(kind: type[BaseModel], parents: list[str]) -> list[str]:
    table = kind
    for parent in parents:
        if parent.isdigit():  # a table of an array of tables
            continue
        if parent not in table.model_fields:
            return []
        annotation = table.model_fields[parent].annotation
        inside = [item for item in get_args(annotation) if item is not Ellipsis]
        annotation = inside[0] if inside else annotation
        assert isinstance(annotation, type)
        table = annotation
    return list(table.model_fields)
