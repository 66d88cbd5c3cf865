"""Checks of this machine: each says OK, or what to do."""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from fractions import Fraction
from importlib import metadata
from pathlib import Path
from typing import Literal

import anyio.to_thread

from streamseg.errors import StreamsegError
from streamseg.sources.cameras_list import list_cameras

__all__ = ["Check", "run_checks"]

State = Literal["ok", "missing", "failed"]

_PACKAGES = ("streamseg", "av", "executorch", "torch", "numpy", "opencv-python", "anyio", "aiortc")
_ENCODERS = {
    "H.264": ("libx264", "h264_nvenc", "h264_qsv", "h264_vaapi", "h264_videotoolbox", "h264_amf"),
    "HEVC": ("libx265", "hevc_nvenc", "hevc_qsv", "hevc_vaapi", "hevc_videotoolbox", "hevc_amf"),
    "VP9": ("libvpx-vp9",),
    "AV1": ("libsvtav1", "av1_nvenc", "av1_qsv", "av1_vaapi"),
    "ProRes": ("prores_ks", "prores_videotoolbox"),
    "FFV1": ("ffv1",),
}


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the report.

    Attributes:
        name: What was looked at.
        state: ``ok``; ``missing`` for what only some uses need; ``failed`` for what all need.
        detail: What was found.
        hint: What to do about it.
    """

    name: str
    state: State
    detail: str
    hint: str = ""


async def run_checks() -> list[Check]:
    """Look at everything; takes about three seconds, most of it loading the model."""
    checks = [_check_python(), _check_packages()]
    checks.append(await anyio.to_thread.run_sync(_check_ffmpeg))
    checks += await anyio.to_thread.run_sync(_check_encoders)
    checks.append(_check_shared_memory())
    checks.append(await _guarded("model", _check_model))
    checks.append(_check_display())
    checks.append(await anyio.to_thread.run_sync(_check_cameras))
    return checks


async def _guarded(name: str, check: Callable[[], Awaitable[Check]]) -> Check:
    try:
        return await check()
    except StreamsegError as exc:
        return Check(name, "failed", str(exc), "install the project again: scripts/install")


def _check_python() -> Check:
    version = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    return Check("python", "ok", version)


def _check_packages() -> Check:
    found, missing = [], []
    for package in _PACKAGES:
        try:
            found.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            missing.append(package)
    if missing == ["opencv-python"]:
        return Check(
            "packages",
            "missing",
            ", ".join(found),
            "OpenCV is here without windows: the preview needs libgl1, libglib2.0-0 and "
            "opencv-python",
        )
    if missing:
        hint = f"pip install {' '.join(missing)}"
        return Check("packages", "failed", f"missing: {', '.join(missing)}", hint)
    return Check("packages", "ok", ", ".join(found))


def _check_ffmpeg() -> Check:
    import av

    versions = av.library_versions
    names = ("libavcodec", "libavformat", "libavfilter", "libswscale")
    text = ", ".join(f"{name} {'.'.join(map(str, versions[name]))}" for name in names)
    return Check("ffmpeg", "ok", f"{text} (inside PyAV, no program needed)")


def _check_encoders() -> list[Check]:
    checks = []
    for codec, encoders in _ENCODERS.items():
        working = [encoder for encoder in encoders if _opens(encoder)]
        name = f"encoder {codec}"
        if working:
            checks.append(Check(name, "ok", ", ".join(working)))
        else:
            checks.append(Check(name, "missing", "none opens", "install a PyAV wheel that has it"))
    return checks


def _opens(encoder: str) -> bool:
    import av
    from av.codec.context import CodecContext

    from streamseg.ffmpeg_log import quiet_ffmpeg

    quiet_ffmpeg()
    try:
        context = CodecContext.create(encoder, "w")
        assert isinstance(context, av.VideoCodecContext)
        context.width, context.height, context.time_base = 640, 360, Fraction(1, 30)
        formats = context.codec.video_formats or []
        context.pix_fmt = formats[0].name if formats else "yuv420p"
        if encoder == "libx265":
            context.options = {"x265-params": "log-level=none"}  # it does not use FFmpeg's log
        context.open()
    except (av.FFmpegError, ValueError):
        return False
    return True


def _check_shared_memory() -> Check:
    from streamseg.runtime.memory import SharedMemory

    memory = SharedMemory()
    try:
        view = memory.resize(1 << 20)
        view[:5] = b"hello"
        view.flush()
    except (OSError, ValueError) as exc:
        return Check("shared memory", "failed", str(exc), "free some memory; check ulimit -v")
    finally:
        memory.close()
    return Check("shared memory", "ok", "1 MiB mapped and written")


async def _check_model() -> Check:
    import numpy as np

    from streamseg.models.registry import find_model
    from streamseg.runtime.pool import WorkerPool

    started = time.perf_counter()
    async with WorkerPool(find_model("selfie")) as pool:
        ready_s = time.perf_counter() - started
        result = await pool.run(np.zeros((*pool.layout.input_size, 3), np.uint8))
    return Check(
        "model", "ok", f"selfie ready in {ready_s:.1f} s, one frame in {result.model_ms:.1f} ms"
    )


def _check_display() -> Check:
    if sys.platform in ("darwin", "win32"):
        return Check("display", "ok", "the system's own")
    display = os.environ.get("WAYLAND_DISPLAY") or os.environ.get("DISPLAY")
    if display:
        return Check("display", "ok", display)
    hint = "only a preview window needs one: log in on a desktop, or set DISPLAY"
    return Check("display", "missing", "DISPLAY and WAYLAND_DISPLAY are not set", hint)


def _check_cameras() -> Check:
    if sys.platform != "linux":
        return Check("cameras", "ok", "looked for when one is opened")
    devices = sorted(Path("/dev").glob("video*"))
    closed = [str(device) for device in devices if not os.access(device, os.R_OK | os.W_OK)]
    if closed:
        hint = "add yourself to the group 'video' and log in again"
        return Check("cameras", "missing", f"no permission for {', '.join(closed)}", hint)
    found = list_cameras()
    if not found:
        hint = "only live use needs one: plug it in, or load its driver"
        return Check("cameras", "missing", "none found", hint)
    names = [f"{camera.device} {camera.name}" for camera in found]
    return Check("cameras", "ok", f"{', '.join(names)}; streamseg cameras lists their modes")
