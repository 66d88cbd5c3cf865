"""SessionPipeline: the pipeline of one session of a server, and what its user may change."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread

from streamseg.effects.registry import create_effect, option_names
from streamseg.engine import Pipeline
from streamseg.errors import ConfigError, StreamsegError
from streamseg.flow import FlowLimit
from streamseg.masks.motion import MotionCompensation
from streamseg.session.parts import NO_EFFECT, check_effect, mask_filters
from streamseg.session.shown import shown_model
from streamseg.webrtc.adapting_source import AdaptingSource, usage

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractContextManager

    from streamseg.abc import Sink, Source
    from streamseg.effects.base import VideoEffect
    from streamseg.runtime.sharing import SharedModel
    from streamseg.session.serve_config import ServeConfig
    from streamseg.telemetry import PipelineStatistics
    from streamseg.webrtc.adapting_source import Usage
    from streamseg.webrtc.choices import EffectChoice
    from streamseg.webrtc.control import Change

__all__ = ["SessionPipeline", "make_effect"]

_MASK_EFFECT = "mask"


class SessionPipeline:
    """One session's pipeline over the shared model.

    Args:
        config: The server's configuration.
        model: The model of all sessions.
        source: Where its frames come from.
        sinks: Where its pictures go.
        effect: Its effect, with the name it has.
        running: Returns what is entered while it runs.
    """

    def __init__(
        self,
        config: ServeConfig,
        model: SharedModel,
        source: Source,
        sinks: Sequence[Sink],
        effect: tuple[str, VideoEffect],
        *,
        running: Callable[[SessionPipeline], AbstractContextManager[None]],
    ) -> None:
        self._config = config
        self._model = model
        self._name, self._effect = effect
        self._mask: VideoEffect | None = None
        self._running = running
        self._bypass = False
        self._changing = anyio.Lock()
        self._sinks = sinks
        # Without adapting, too, it keeps to the most pictures a second that are worked on.
        self._adapting = AdaptingSource(source, self._usage, adapt=config.webrtc.adapt)
        flow = config.flow
        self._pipeline = Pipeline(
            self._adapting,
            segmenter=model.segmenter(),
            mask_filters=mask_filters(config.mask),
            effect=None,
            sinks=sinks,
            limit=FlowLimit(
                flow.when_busy,
                max_mask_age_s=flow.max_mask_age_s,
                on_missing_mask=flow.on_missing_mask,
            ),
            # Without motion, too, a mask from before a scene cut must not be used.
            motion=MotionCompensation(follow=flow.motion) if flow.when_busy == "reuse" else None,
        )
        self._apply()

    async def run(self) -> None:
        """Open everything, work until the source ends, close everything.

        Raises:
            StreamsegError: If a part fails for good.
        """
        with self._running(self):
            async with self._pipeline as pipeline:
                await pipeline.run()

    async def control(self, change: Change) -> None:
        """Change the effect, or what is shown instead of it, from the next frame on.

        Raises:
            StreamsegError: If the effect cannot be made; everything stays as it was.
        """
        async with self._changing:
            if change.effect is not None:
                name = change.effect.name
                self._effect = await make_effect(self._config, self._model, change.effect)
                self._name = name
            if change.mask is not None:
                mask = None
                if change.mask:
                    mask = await _create(_MASK_EFFECT, {})
                    check_effect(_MASK_EFFECT, mask, self._model.pool.model.card)
                self._mask = mask
            if change.bypass is not None:
                self._bypass = change.bypass
            self._apply()

    def _apply(self) -> None:
        if self._bypass:
            self._pipeline.effect = None
        elif self._mask is not None:
            self._pipeline.effect = self._mask
        else:
            # Without an effect frames are shown as they are: asked for, unlike a missing mask.
            self._pipeline.effect = None if self._name == NO_EFFECT else self._effect
        self._pipeline.settings = {
            "model": shown_model(self._config.model.name),
            "effect": self._name,
        }

    def statistics(self) -> PipelineStatistics:
        """Return the counters of this moment; never waits."""
        statistics = self._pipeline.statistics()
        if not self._config.webrtc.adapt:
            return statistics
        return replace(statistics, settings={**statistics.settings, **self._adapting.settings})

    @property
    def adaptations(self) -> dict[str, int]:
        """How many steps ``down`` and ``up`` there were because the processor was short."""
        return self._adapting.adaptation.steps

    def _usage(self) -> Usage:
        pipeline = self._pipeline
        lost = sum(outlet.dropped["sink busy"] for outlet in pipeline.outlets)
        return usage(pipeline.frames_out - lost, pipeline.window(1.0), self._sinks)


async def make_effect(
    config: ServeConfig, model: SharedModel, choice: EffectChoice | None
) -> VideoEffect:
    """Return an effect that a session asks for, over what the operator configured.

    Args:
        config: The server's configuration; its effect is what a session begins with, and its
            options are what the same effect has where the session says nothing.
        model: The model, whose labels decide what can be asked for.
        choice: What the session asks for; None takes the configured effect.

    Raises:
        ConfigError: If it cannot be made, or needs masks that the model does not return here.
    """
    configured = config.effect
    name = configured.name if choice is None else choice.name
    options = dict(configured.options) if name == configured.name else {}
    if choice is not None:
        options.update(choice.options)
    effect = await _create(name, options)
    if name == NO_EFFECT:
        return effect
    check_effect(name, effect, model.pool.model.card)
    returned = _returned(model)
    if returned is None or effect.needs != "masks":
        return effect
    if set(effect.wanted_labels(model.pool.labels)) <= set(returned):
        return effect
    if "subject" in option_names(name) and not options.get("subject"):
        # All classes, where nothing was said, are all that there are masks of.
        return await _create(name, {**options, "subject": returned})
    raise ConfigError(
        f"effect {name!r} needs masks that this server's model is not asked for: "
        f"{', '.join(returned)} can be had"
    )


def _returned(model: SharedModel) -> tuple[str, ...] | None:
    """Return the labels whose masks the model returns; None while it is loading."""
    pool: Any = model.pool
    return pool.returned if pool.labels else None


async def _create(name: str, options: Mapping[str, Any]) -> VideoEffect:
    try:
        return await anyio.to_thread.run_sync(create_effect, name, dict(options))
    except StreamsegError as exc:
        raise ConfigError(_without_paths(str(exc), options)) from exc
    except (ArithmeticError, LookupError, TypeError, ValueError, RecursionError) as exc:
        # Of values that no file or command line can have, such as a number of 3000 digits.
        raise ConfigError(f"effect {name!r} cannot be made with these options") from exc


def _without_paths(text: str, options: Mapping[str, Any]) -> str:
    """Return a message without the paths of this machine: it goes to the user far away."""
    for option, value in options.items():
        if isinstance(value, Path):
            text = text.replace(str(value), option)
    return text if len(text) <= 500 else f"{text[:499]}…"
