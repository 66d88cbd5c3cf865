"""Which encoder, with which options: names, defaults, hardware probes and what they fall back to."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
from typing import TYPE_CHECKING

import av
import av.codec.codec
import av.error
from av.codec.codec import PixFmtLoss, find_best_pix_fmt_of_list
from av.codec.hwaccel import HWAccel

from streamseg.errors import SinkOpenError
from streamseg.sinks.container import EXTENSIONS, Container, can_hold
from streamseg.sinks.pixels import (
    Picture,
    can_pad,
    choose_format,
    has_alpha,
    output_colour,
    software_formats,
)
from streamseg.sinks.target import printable, reason

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from streamseg.frames import Colour

__all__ = ["EncoderChoice", "choose_encoder", "choose_picture", "find_encoder"]

_HARDWARE_SUFFIXES = ("nvenc", "qsv", "vaapi", "videotoolbox", "amf", "v4l2m2m", "mf", "vulkan")
_SOFTWARE = {
    "h264": "libx264",
    "hevc": "libx265",
    "av1": "libsvtav1",
    "vp9": "libvpx-vp9",
    "vp8": "libvpx",
}
_ALIASES = {"h265": "libx265", "x264": "libx264", "x265": "libx265", "prores": "prores_ks"}
# H.264 and HEVC crop in steps of the chroma grid, SVT-AV1 refuses odd sizes outright.
_EVEN = frozenset({"h264", "hevc", "av1"})

# Options of each encoder where nobody asks otherwise; those with a "crf" have the quality setting.
_DEFAULTS: dict[str, dict[str, str]] = {
    "libx264": {"crf": "21", "preset": "veryfast"},
    "libx264rgb": {"crf": "21", "preset": "veryfast"},
    "libx265": {"crf": "24", "preset": "veryfast"},
    "libsvtav1": {"crf": "32", "preset": "9"},
    # auto-alt-ref hides pictures in others, which alpha does not survive.
    "libvpx-vp9": {
        "crf": "31",
        "b": "0",
        "deadline": "realtime",
        "cpu-used": "6",
        "row-mt": "1",
        "auto-alt-ref": "0",
    },
    "dnxhd": {"profile": "dnxhr_hq"},
    "libvpx": {
        "crf": "10",
        "b": "4M",
        "deadline": "realtime",
        "cpu-used": "5",
        "auto-alt-ref": "0",
    },
}
_QUALITY_OPTION = {"nvenc": "cq", "qsv": "global_quality", "amf": "qvbr_quality_level"}
_QSCALE = frozenset(
    "mpeg4 mpeg2video mpeg1video mjpeg h263 h263p flv msmpeg4 msmpeg4v2 wmv1 wmv2".split()
)
_QSCALE_DEFAULT = 3  # of 1 (best) to 31


# x264 and x265 know these by number, too. Asked for another, x264 writes to stderr by itself.
_X26X_PRESETS = (
    "ultrafast superfast veryfast faster fast medium slow slower veryslow placebo".split()
)
_X264_TUNES = "film animation grain stillimage psnr ssim fastdecode zerolatency touhou".split()
_X264_PROFILES = "baseline main high high10 high422 high444".split()
_X26X = frozenset({"libx264", "libx264rgb", "libx265"})


@dataclass(slots=True)
class EncoderChoice:
    """An encoder with its options.

    Attributes:
        codec: The encoder.
        options: By name, as FFmpeg takes them.
        qscale: Fixed quantiser for the encoders that have no other quality setting.
        notices: What the user should know.
    """

    codec: av.Codec
    options: dict[str, str]
    qscale: int | None = None
    notices: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """FFmpeg's name of the encoder."""
        return self.codec.name


def find_encoder(name: str) -> av.Codec:
    """Return FFmpeg's video encoder of this name.

    Raises:
        SinkOpenError: With the nearest names, if there is none.
    """
    try:
        codec = av.Codec(_ALIASES.get(name, name), "w")
    except (av.codec.codec.UnknownCodecError, av.error.FFmpegError, ValueError) as exc:
        near = difflib.get_close_matches(name, _video_encoders(), n=4, cutoff=0.5)
        hint = f"did you mean {', '.join(near)}?" if near else "libx264 works everywhere"
        raise SinkOpenError(
            f"this FFmpeg has no video encoder '{printable(name)}'; {hint}"
        ) from exc
    if codec.type != "video":
        raise SinkOpenError(f"'{name}' encodes {codec.type}, not video; libx264 works everywhere")
    return codec


def choose_encoder(
    container: Container,
    shown: str,
    *,
    encoder: str | None = None,
    crf: float | None = None,
    preset: str | None = None,
    options: Mapping[str, str] | None = None,
    alpha: bool = False,
) -> EncoderChoice:
    """Return the encoder for a kind of file, probed if it needs a device.

    Args:
        container: The kind of file.
        shown: The target, for messages.
        encoder: What the user asked for, None for the default.
        crf: Quality on the encoder's own scale, None for the default.
        preset: Speed, by the encoder's own names, None for the default.
        options: Further options of the encoder; they win over the defaults.
        alpha: Whether the pictures have an alpha channel.

    Raises:
        SinkOpenError: If the encoder is unknown, or nothing can be encoded in that container.
    """
    notices: list[str] = []
    if encoder is None:
        if alpha and container.alpha is None:
            raise SinkOpenError(f"cannot write {shown}: {_alpha_hint(container)}")
        codec = find_encoder(container.alpha[0] if alpha and container.alpha else container.encoder)
    else:
        codec = find_encoder(encoder)
        if not can_hold(container, codec.name):
            fits = sorted(ext for ext, kind in EXTENSIONS.items() if can_hold(kind, codec.name))
            places = ", ".join(f".{ext}" for ext in fits) or "none of the known extensions"
            raise SinkOpenError(
                f"cannot write {shown}: {container.format} does not hold {codec.canonical_name} "
                f"(encoder {codec.name}); these do: {places}"
            )
        codec, fallback = _probed(codec)
        if fallback:
            if preset is not None or options:
                # "p7" or "rc=vbr" mean nothing to the other encoder.
                preset, options = None, None
                fallback += ", with its own preset and options"
            notices.append(fallback)
        if alpha and not any(has_alpha(name) for name in software_formats(codec)):
            raise SinkOpenError(
                f"cannot write {shown}: encoder {codec.name} has no alpha; {_alpha_hint(container)}"
            )
    name = codec.name
    chosen = dict(_DEFAULTS.get(name, {}))
    qscale = None
    if crf is not None:
        hardware = name.rsplit("_", 1)[-1]
        if name in _QSCALE:
            qscale = round(crf)
        elif hardware in _QUALITY_OPTION:
            chosen[_QUALITY_OPTION[hardware]] = f"{crf:g}"
        elif "crf" in chosen:
            chosen["crf"] = f"{crf:g}"
        else:
            raise SinkOpenError(f"cannot write {shown}: encoder {name} has no quality setting")
    elif name in _QSCALE:
        qscale = _QSCALE_DEFAULT
    if preset is not None:
        chosen["preset"] = preset
    if codec.canonical_name == "prores" and alpha:
        chosen["profile"] = "4444"
    if not container.reorders:
        chosen["bf"] = "0"  # the container has no room for two time stamps
    chosen.update(options or {})
    _check_words(name, shown, chosen)
    if name == "libx265" and "log-level" not in chosen.get("x265-params", ""):
        # x265 writes to stderr past FFmpeg's log.
        others = chosen.get("x265-params")
        chosen["x265-params"] = "log-level=none" + (f":{others}" if others else "")
    return EncoderChoice(codec, chosen, qscale, notices)


def choose_picture(
    choice: EncoderChoice, container: Container, frame: av.VideoFrame, stream: Colour
) -> tuple[Picture, PixFmtLoss]:
    """Return what the encoder gets for pictures like this one, and what that loses.

    Odd sizes are padded to even ones where the codec's 4:2:0 cannot be odd: the last column or row
    is repeated, so that nothing of the picture is lost and no edge appears.

    Args:
        choice: The encoder.
        container: The kind of file.
        frame: The first picture.
        stream: The stream's colour, where the frame does not say.
    """
    source = frame.format.name
    target, loss = choose_format(source, choice.codec)
    if container.alpha is not None and container.alpha[1] and has_alpha(source):
        wanted = container.alpha[1]
        if wanted in software_formats(choice.codec):
            best = find_best_pix_fmt_of_list([wanted], source, True)
            target, loss = wanted, PixFmtLoss(best[1])
    pad_right = pad_bottom = 0
    if choice.codec.canonical_name in _EVEN:
        chroma = av.VideoFormat(target)
        pad_right = -frame.width % (2 if chroma.chroma_width(16) == 8 else 1)
        pad_bottom = -frame.height % (2 if chroma.chroma_height(16) == 8 else 1)
        if (pad_right or pad_bottom) and not can_pad(target):
            planar = "yuv420p" if chroma.components[0].bits == 8 else "yuv420p10le"
            target = planar if planar in software_formats(choice.codec) else target
    return (
        Picture(
            target,
            frame.width + pad_right,
            frame.height + pad_bottom,
            pad_right,
            pad_bottom,
            output_colour(frame, stream, target),
        ),
        loss,
    )


def _check_words(encoder: str, shown: str, options: Mapping[str, str]) -> None:
    """Refuse presets, tunes and profiles that the encoder does not know.

    Raises:
        SinkOpenError: With those that it knows.
    """
    preset, tune = options.get("preset"), options.get("tune")
    profile = options.get("profile")
    known: Sequence[str] = ()
    if encoder in _X26X:
        if preset is not None and preset not in (*_X26X_PRESETS, *"0123456789"):
            raise _unknown_word(encoder, shown, "preset", preset, _X26X_PRESETS)
        if encoder != "libx265" and profile is not None and profile.lower() not in _X264_PROFILES:
            raise _unknown_word(encoder, shown, "profile", profile, _X264_PROFILES)
        # x264 takes several tunes at once, and ignores case.
        if encoder != "libx265" and tune is not None:
            words = [word for word in re.split(r"[,./+-]", tune.lower()) if word]
            known = _X264_TUNES
            if not all(word in known for word in words):
                raise _unknown_word(encoder, shown, "tune", tune, known)
    elif encoder == "libsvtav1" and preset is not None:
        known = [str(number) for number in range(-1, 14)]
        if preset not in known:
            raise _unknown_word(encoder, shown, "preset", preset, known)


def _unknown_word(
    encoder: str, shown: str, what: str, word: str, known: Sequence[str]
) -> SinkOpenError:
    return SinkOpenError(
        f"cannot write {shown}: encoder {encoder} has no {what} '{printable(word)}'; "
        f"it has: {', '.join(known)}"
    )


def _alpha_hint(container: Container) -> str:
    return (
        f"{container.format} holds no alpha channel; these do: .webm (VP9), .mov (ProRes 4444), "
        ".mkv (FFV1), and PNG pictures (name_%05d.png)"
    )


def _probed(codec: av.Codec) -> tuple[av.Codec, str | None]:
    """The encoder itself if it works on this machine, else the software one of the same codec."""
    if codec.name.rsplit("_", 1)[-1] not in _HARDWARE_SUFFIXES:
        return codec, None
    failure = _probe(codec.name)
    if failure is None:
        return codec, None
    software = _SOFTWARE.get(codec.canonical_name, codec.canonical_name)
    try:
        return find_encoder(software), (
            f"encoder {codec.name} does not work on this machine ({failure}); "
            f"{software} is used instead"
        )
    except SinkOpenError:
        raise SinkOpenError(
            f"encoder {codec.name} does not work on this machine ({failure})"
        ) from None


@lru_cache(maxsize=32)
def _probe(name: str) -> str | None:
    """Open the encoder with a small picture; None if that works, else why not."""
    try:
        codec = av.Codec(name, "w")
        formats = software_formats(codec)
        memory_only = bool(codec.video_formats) and not formats
        device = HWAccel(name.rsplit("_", 1)[-1]) if memory_only else None
        context = av.CodecContext.create(codec, "w", hwaccel=device)
        context.width, context.height = 256, 256  # type: ignore[attr-defined]
        context.pix_fmt = "nv12" if "nv12" in formats or not formats else formats[0]  # type: ignore[attr-defined]
        context.time_base = Fraction(1, 25)
        context.framerate = Fraction(25)  # type: ignore[attr-defined]
        context.open()
    except (av.error.FFmpegError, OSError, ValueError, RuntimeError, NotImplementedError) as exc:
        return f"{reason(exc)}; is there such a device, and its driver?"
    return None


@lru_cache(maxsize=1)
def _video_encoders() -> tuple[str, ...]:
    names = []
    for name in sorted(av.codec.codec.codecs_available):
        try:
            if av.Codec(name, "w").type == "video":
                names.append(name)
        except (av.codec.codec.UnknownCodecError, av.error.FFmpegError, ValueError):
            continue
    return tuple(names)
