"""PerClassEffect: another effect for each class, such as people blurred and cars in squares."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from streamseg.effects.base import (
    HIDING_STRENGTH,
    VideoEffect,
    blurred_whole,
    kept_picture,
    usable_mask,
)
from streamseg.effects.blur import blur_sigma
from streamseg.effects.colours import parse_colour
from streamseg.effects.formats import Working
from streamseg.effects.graph import FilterGraph
from streamseg.effects.options import (
    EffectOptions,
    check_number,
    nearest,
    resolve_subject,
)
from streamseg.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import av

    from streamseg.frames import Frame
    from streamseg.segmentation import Segmentation

__all__ = ["PerClassEffect", "PerClassOptions", "altered_classes"]

_ABLE = ("blur", "replace", "pixelate", "grayscale", "tint", "none")
_MOST = 16  # each costs as much as the effect alone
_SET_HERE = ("subject", "on")


@dataclass(frozen=True, kw_only=True, slots=True)
class PerClassOptions(EffectOptions):
    """Options of ``per-class``.

    Attributes:
        classes: Label -> an effect's name, or its name and options
            (``{name = "pixelate", strength = 80}``). Empty: people are blurred.
        threshold: As for other effects, for all classes that do not say another.
        feather: Likewise.
    """

    classes: Mapping[str, str | Mapping[str, Any]] = field(default_factory=dict)
    threshold: float = 0.5
    feather: float = 0.0

    def _check(self) -> None:
        check_number("threshold", self.threshold, 0.0, 1.0, open_ends=True)
        check_number("feather", self.feather, 0.0, 20.0, open_ends=False)
        given: Any = self.classes
        if not isinstance(given, Mapping) or not all(isinstance(label, str) for label in given):
            raise ConfigError(
                f'classes must map labels to effects, such as PERSON = "blur", got {given!r}'
            )
        if len(given) > _MOST:
            raise ConfigError(f"classes has {len(given)} effects, at most {_MOST} are taken")
        for label, wish in given.items():
            _read(label, wish)


class PerClassEffect(VideoEffect):
    """Applies an effect to the pixels of each class, one after the other.

    What belongs to no class that is named stays as it is; ``BACKGROUND`` can be named too. As soon
    as the mask of one class is missing the whole picture is fully blurred.

    Args:
        options: See ``PerClassOptions``.

    Raises:
        ConfigError: If an option of one of the effects is wrong.
    """

    options_type: ClassVar[type[EffectOptions]] = PerClassOptions

    def __init__(self, options: PerClassOptions) -> None:
        self._options = options
        self._effects = _make(options)
        self._working = Working()
        self._copy = FilterGraph([("copy", "")])
        self._hidden: av.VideoFrame | None = None

    def wanted_labels(self, model_labels: Sequence[str]) -> tuple[str, ...]:
        """Return the labels that are named; those of people if there are none."""
        return resolve_subject(tuple(self._options.classes), model_labels, option="classes")

    def output_format(self, pixel_format: str) -> str:
        """Return the format that the last of the effects gives."""
        for effect in self._effects:
            pixel_format = effect.output_format(pixel_format)
        return pixel_format

    def close(self) -> None:
        """Release what the effects hold."""
        for effect in self._effects:
            effect.close()
        self._working.close()
        self._copy.close()
        self._hidden = None

    def _render(self, frame: Frame, segmentation: Segmentation | None) -> av.VideoFrame:
        if not self._effects:
            return frame.video
        if segmentation is None or not self._all_known(segmentation):
            return self._hide(frame)
        for effect in self._effects:
            frame = effect.apply(frame, segmentation)
        return frame.video

    def _all_known(self, segmentation: Segmentation) -> bool:
        try:
            labels = self.wanted_labels(tuple(segmentation.masks))
        except ConfigError:
            return False
        return all(usable_mask(segmentation.masks[label]) for label in labels)

    def _hide(self, frame: Frame) -> av.VideoFrame:
        # Through one of them where there is one that changes the format, such as grey to colour
        wanted = self.output_format(frame.pixel_format)
        video = self._working_for(wanted).convert(frame.video)
        out = self._hidden = kept_picture(self._hidden, video)
        blurred_whole(video, out, blur_sigma(HIDING_STRENGTH, video.width, video.height))
        return self._copy.process(out)

    def _working_for(self, wanted: str) -> Working:
        coloured = not wanted.startswith("gray")
        if self._working.coloured != coloured:
            self._working.close()
            self._working = Working(coloured=coloured)
        return self._working


def altered_classes(options: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the labels that these options of ``per-class`` do something to; none means people.

    Raises:
        ConfigError: If they are wrong.
    """
    classes = PerClassOptions(**options).classes
    return tuple(label for label, wish in classes.items() if _read(label, wish)[0] != "none")


def _make(options: PerClassOptions) -> tuple[VideoEffect, ...]:
    from streamseg.effects.registry import create_effect, option_names

    wishes: list[tuple[tuple[str, ...], str, dict[str, Any]]] = [
        ((label,), *_read(label, wish)) for label, wish in options.classes.items()
    ]
    effects = []
    for subject, name, own in wishes or [((), "blur", {})]:
        if name == "none" or own.get("strength") == 0:
            continue
        shared = {"threshold": options.threshold, "feather": options.feather}
        whose = {"subject": subject}
        if "on" in option_names(name):
            whose["on"] = "subject"  # type: ignore[assignment]
        try:
            effects.append(create_effect(name, {**shared, **own, **whose}))
        except ConfigError as exc:
            raise ConfigError(f"classes: {', '.join(subject) or 'people'}: {exc}") from exc
    return tuple(effects)


def _read(label: str, wish: Any) -> tuple[str, dict[str, Any]]:
    """Return the effect that is wished for a class, and its options."""
    options = {"name": wish} if isinstance(wish, str) else wish
    if not isinstance(options, Mapping) or "name" not in options:
        raise ConfigError(
            f"classes: {label} must have an effect's name, or a table with its name, got {wish!r}"
        )
    own = dict(options)
    name = own.pop("name")
    if not isinstance(name, str) or name not in _ABLE:
        hint = nearest(name, _ABLE) if isinstance(name, str) else ""
        raise ConfigError(
            f"classes: {label} must have one of {', '.join(_ABLE)}, got {name!r}{hint}"
        )
    for key in _SET_HERE:
        if key in own:
            raise ConfigError(f"classes: {label}: option {key!r} is the class itself, leave it out")
    if "background" in own:
        # Not a file: these options may come from far away, deep in what was said there.
        if not isinstance(own["background"], str):
            raise ConfigError(f"classes: {label}: background must be a colour")
        try:
            parse_colour(own["background"])
        except ConfigError as exc:
            raise ConfigError(f"classes: {label}: background of a class: {exc}") from exc
    return name, own
