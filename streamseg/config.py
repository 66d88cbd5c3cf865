"""Configuration: what a scenario of ``configs/*.toml`` may say, and its defaults.

Values come from a file, options of the command line override them, and everything is validated at
once: an unknown key or a wrong value is an error that names the key, what was expected, and the
nearest right name.
"""

from __future__ import annotations

import difflib
import tomllib
from typing import TYPE_CHECKING, Annotated, Any

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
    "MaskConfig",
    "ModelConfig",
    "OutputConfig",
    "SourceConfig",
    "load_config",
    "to_toml",
]

_MAX_BYTES = 1 << 20

Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Ratio = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SourceConfig(_Table):
    """``[source]``: which part of the input.

    Attributes:
        start_s: Where to begin, in seconds from the beginning of the file.
        duration_s: How much to take, in seconds.
        rate: Pictures per second of a numbered image sequence.
    """

    start_s: Seconds | None = None
    duration_s: Positive | None = None
    rate: Positive | None = None


class ModelConfig(_Table):
    """``[model]``: what finds the people.

    Attributes:
        name: A bundled model's name, or the path of a .pte.
        workers: Number of model processes.
        threads: Threads of each; 0 chooses by the model's input size.
        timeout_s: A frame that takes longer has its process killed and is tried again, in seconds.
    """

    name: str = "selfie"
    workers: Annotated[int, Field(ge=1, le=64)] = 1
    threads: Annotated[int, Field(ge=0, le=256)] = 0
    timeout_s: Positive = 30.0


class MaskConfig(_Table):
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


class OutputConfig(_Table):
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


class Config(_Table):
    """Everything that can be configured for a file job."""

    source: SourceConfig = SourceConfig()
    model: ModelConfig = ModelConfig()
    mask: MaskConfig = MaskConfig()
    effect: EffectConfig = EffectConfig()
    output: OutputConfig = OutputConfig()


def load_config(path: Path | None = None, overrides: Mapping[str, Any] | None = None) -> Config:
    """Return the configuration of a file with some values overridden.

    Args:
        path: A TOML file; None starts from the defaults.
        overrides: Dotted key -> value, for example ``{"effect.strength": 80}``; None values are
            left out. Naming another effect than the file's leaves the file's effect options out.

    Raises:
        ConfigError: If the file cannot be read, or a key or value is wrong.
    """
    values: dict[str, Any] = {} if path is None else _read(path)
    given = {key: value for key, value in (overrides or {}).items() if value is not None}
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
        return Config.model_validate(values)
    except ValidationError as exc:
        where = f"{path}: " if path is not None else ""
        raise ConfigError(where + _explain(exc.errors()[0])) from exc


def to_toml(config: Config) -> str:
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


def _explain(error: ErrorDetails) -> str:
    location = [str(part) for part in error["loc"]]
    key = ".".join(location)
    if error["type"] == "extra_forbidden":
        known = _known_keys(location[:-1])
        near = difflib.get_close_matches(location[-1], known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(known)}"
        return f"unknown key {key!r}: {hint}"
    return f"{key} is {error['input']!r}: {error['msg'][:1].lower()}{error['msg'][1:]}"


def _known_keys(parents: list[str]) -> list[str]:
    table: type[BaseModel] = Config
    for parent in parents:
        annotation = table.model_fields[parent].annotation
        assert isinstance(annotation, type)
        table = annotation
    return list(table.model_fields)
