"""Live streams from end to end: real clips in real time, real model processes, real signals."""

from __future__ import annotations

import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import anyio
import av
import cv2
import numpy as np
import pytest

from streamseg.abc import Sink, SinkStatistics, Source, SourceStatistics
from streamseg.config import load_live_config
from streamseg.errors import ConfigError
from streamseg.frames import Frame, StreamInfo, luma_plane
from streamseg.runtime.segmenter import ModelSegmenter
from streamseg.segmentation import Segmentation
from streamseg.session.live import LiveSession
from streamseg.sources.paced import PacedSource
from streamseg.telemetry import PipelineStatistics

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

SAMPLE = Path(__file__).parents[1] / "media" / "sample.mp4"


def detail(luma: np.ndarray[Any, Any]) -> float:
    """How much of the finest structure there is: what a blurred room has not."""
    return float(cv2.Laplacian(luma, cv2.CV_32F).var())


class Tap(Source):
    """A source that remembers how much detail each of its pictures had."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.raw: dict[int, np.ndarray[Any, Any]] = {}

    async def open(self) -> StreamInfo:
        return await self.source.open()

    async def receive(self) -> Frame:
        frame = await self.source.receive()
        self.raw[frame.index] = luma_plane(frame.video).copy()
        return frame

    def take_packets(self) -> list[Any]:
        return self.source.take_packets()

    def statistics(self) -> SourceStatistics:
        return self.source.statistics()

    async def aclose(self) -> None:
        await self.source.aclose()


class Viewer(Sink):
    """What a viewer saw."""

    def __init__(self) -> None:
        self.seen: list[tuple[Frame, Segmentation | None]] = []
        self.finished = False

    async def open(self, info: StreamInfo) -> None:
        pass

    async def send(self, frame: Frame, segmentation: Segmentation | None = None) -> None:
        self.seen.append((frame, segmentation))

    async def finish(self) -> None:
        self.finished = True

    async def commit(self) -> None:
        pass

    async def aclose(self) -> None:
        pass

    def statistics(self) -> SinkStatistics:
        return SinkStatistics(len(self.seen), len(self.seen))

    @property
    def masked(self) -> int:
        return sum(segmentation is not None for _, segmentation in self.seen)


class Running:
    """A session that runs beside the test, seen through a tap and a viewer."""

    def __init__(self, settings: Mapping[str, Any] | None = None) -> None:
        self.tap = Tap(PacedSource(SAMPLE, loop=True))
        self.viewer = Viewer()
        config = load_live_config(None, {"effect.name": "blur", **(settings or {})})
        self.session = LiveSession(config, source=self.tap, sinks=(self.viewer,))
        self.statistics: PipelineStatistics | None = None

    async def run(self, script: Callable[[], Any]) -> PipelineStatistics:
        async with self.session, anyio.create_task_group() as group:

            async def work() -> None:
                self.statistics = await self.session.run()

            group.start_soon(work)
            with anyio.fail_after(60):
                await script()
            started = time.monotonic()
            self.session.stop()
        assert time.monotonic() - started < 2, "stopping took too long"
        assert self.statistics is not None
        assert self.statistics.in_flight == 0
        return self.statistics

    async def masks(self, count: int) -> None:
        """Wait until that many more pictures with a mask were seen."""
        wanted = self.viewer.masked + count
        while self.viewer.masked < wanted:
            await anyio.sleep(0.01)

    @property
    def worker(self) -> int:
        segmenter = self.session.pipeline.segmenter
        assert isinstance(segmenter, ModelSegmenter)
        return segmenter.pool.pids[0]

    def check_nobody_saw_the_room(self) -> None:
        for frame, segmentation in self.viewer.seen:
            raw, shown = self.tap.raw[frame.index], luma_plane(frame.video)
            if segmentation is None:
                assert detail(shown) < 0.2 * detail(raw), f"frame {frame.index} shows the room"
                continue
            mask = cv2.resize(segmentation.mask_of(["SELFIE"]), raw.shape[::-1])
            room = cv2.erode((mask < 0.02).astype(np.uint8), np.ones((15, 15), np.uint8)) > 0
            if room.mean() < 0.05:
                continue
            fine = [cv2.Laplacian(picture, cv2.CV_32F)[room].var() for picture in (shown, raw)]
            assert fine[0] < 0.3 * fine[1], f"frame {frame.index} shows the room behind the person"


async def test_the_first_picture_and_those_around_a_death_of_the_model_are_hidden() -> None:
    running = Running()

    async def script() -> None:
        await running.masks(15)
        os.kill(running.worker, signal.SIGKILL)
        before = len(running.viewer.seen)
        while all(mask is not None for _, mask in running.viewer.seen[before:]):
            await anyio.sleep(0.01)
        await running.masks(15)

    statistics = await running.run(script)
    seen = running.viewer.seen
    assert seen[0][1] is None
    assert statistics.hidden == len(seen) - running.viewer.masked
    assert statistics.worker_restarts == 1
    running.check_nobody_saw_the_room()
    # The picture went on: no gap was longer than a few frames.
    steps = np.diff([frame.index for frame, _ in seen])
    assert steps.max() <= 5


async def test_a_model_killed_every_second_never_shows_the_room_and_never_stops_the_output() -> (
    None
):
    running = Running({"flow.when_busy": "reuse", "flow.max_mask_age_s": 0.3})

    async def script() -> None:
        for _ in range(4):
            await running.masks(3)
            os.kill(running.worker, signal.SIGKILL)
            await anyio.sleep(0.3)
        await running.masks(3)

    statistics = await running.run(script)
    assert statistics.worker_restarts == 4
    assert statistics.reused > 0
    assert np.diff([frame.index for frame, _ in running.viewer.seen]).max() <= 3
    running.check_nobody_saw_the_room()


async def test_the_effect_the_model_and_pause_change_without_a_gap() -> None:
    running = Running()
    kept: list[Path] = []

    async def script() -> None:
        await running.masks(5)
        await running.session.set_effect("pixelate", {"strength": 90})
        await running.masks(5)
        await running.session.set_model("selfie-landscape")
        await running.masks(5)
        running.session.pause()
        await anyio.sleep(0.3)
        running.session.pause(False)
        running.session.ask("next-effect")
        await running.masks(5)
        with pytest.raises(ConfigError, match="blurr"):
            await running.session.set_effect("blurr")
        await running.masks(5)

    statistics = await running.run(script)
    assert statistics.settings == {"model": "selfie-landscape", "effect": "blur"}
    assert not kept
    seen = running.viewer.seen
    shapes = {mask.mask_of(["SELFIE"]).shape for _, mask in seen if mask is not None}
    assert len(shapes) >= 1
    assert np.diff([frame.index for frame, _ in seen]).max() <= 5
    pts = [frame.pts_s for frame, _ in seen]
    assert all(a is not None and b is not None and a < b for a, b in pairwise(pts))
    assert statistics.dropped["paused"] >= 5
    first = next(index for index, (_, mask) in enumerate(seen) if mask is not None)
    assert all(mask is not None for _, mask in seen[first:]), "hidden while something changed"


async def test_a_snapshot_is_a_picture_with_the_effect(tmp_path: Path) -> None:
    running = Running({"effect.name": "replace", "effect.background": "#00ff00"})
    running.session = LiveSession(
        running.session.config, source=running.tap, sinks=(running.viewer,), snapshots=tmp_path
    )
    path: list[Path] = []

    async def script() -> None:
        await running.masks(10)
        path.append(await running.session.snapshot())

    await running.run(script)
    picture = cv2.imread(str(path[0]))
    assert picture is not None
    corner = picture[:8, :8].reshape(-1, 3).mean(axis=0)
    assert np.allclose(corner, (0, 255, 0), atol=12)


# -- the command ----------------------------------------------------------------------------


class Command:
    """``streamseg live`` in a process of its own."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-m", "streamseg", "live", *arguments],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def lines(self) -> list[dict[str, Any]]:
        path = self.folder / "stats.jsonl"
        text = path.read_text() if path.exists() else ""
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def wait_until(self, true: Callable[[dict[str, Any]], bool]) -> None:
        deadline = time.monotonic() + 30
        while not any(true(line) for line in self.lines()):
            assert time.monotonic() < deadline, self.lines()[-1:]
            assert self.process.poll() is None, self.process.communicate()
            time.sleep(0.05)

    def end(self, number: int = signal.SIGINT) -> tuple[int, str, str]:
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=15)
        return self.process.returncode, out, err


def playing(path: Path) -> tuple[int, list[str]]:
    with av.open(str(path)) as container:
        kinds = [stream.type for stream in container.streams]
        return sum(1 for _ in container.decode(video=0)), kinds


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_stream_and_completes_the_recording(tmp_path: Path, number: int) -> None:
    arguments = [str(SAMPLE), "--loop", "--sink", "out.mp4", "--sink", "null"]
    command = Command(tmp_path, *arguments, "--stats", "stats.jsonl")
    command.wait_until(lambda line: line["frames_out"] >= 40)
    code, out, err = command.end(number)

    assert code == 0, err
    assert "frames captured" in out
    last = command.lines()[-1]
    frames, kinds = playing(tmp_path / "out.mp4")
    written = last["sinks"]["out.mp4"]["accepted"]
    assert frames >= written
    assert frames == last["frames_out"] - sum(last["sinks"]["out.mp4"]["dropped"].values())
    assert kinds == ["video", "audio"]


def test_sighup_reads_the_configuration_again(tmp_path: Path) -> None:
    config = tmp_path / "scenario.toml"
    text = f"[source]\nuri = '{SAMPLE}'\nloop = true\n[[sink]]\nuri = 'null'\n"
    stats = "[telemetry]\nstats = 'stats.jsonl'\ninterval_s = 0.1\n"
    config.write_text(text + stats + "[effect]\nname = 'blur'\n")
    command = Command(tmp_path, "--config", str(config))
    command.wait_until(lambda line: line["frames_out"] >= 20)

    config.write_text(text + stats + "[effect]\nname = 'blur'\nstrenth = 3\n")
    command.process.send_signal(signal.SIGHUP)
    time.sleep(0.3)
    config.write_text(text + stats + "[effect]\nname = 'pixelate'\n[mask]\nsmoothing = 0\n")
    command.process.send_signal(signal.SIGHUP)
    command.wait_until(lambda line: line["settings"]["effect"] == "pixelate")
    code, _, err = command.end()

    assert code == 0, err
    assert "strenth" in err, "a wrong configuration must be told"
    assert "Traceback" not in err
    gaps = np.diff([line["frames_out"] for line in command.lines()[3:-1]])
    assert gaps.min() > 0, "the output stood still"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.mp4"], "nowhere.mp4"),
        (["camera:77"], "77"),
        (["rtsp://127.0.0.1:9/x"], "refused"),
        (["gopher://127.0.0.1/x"], "gopher"),
        (["test:", "--sink", "rtmp://127.0.0.1:9/live/x"], "refused"),
        (["test:", "--sink", "/nowhere/out.mp4"], "/nowhere"),
        (["test:", "--sink", "null", "--effect", "blurr"], "did you mean 'blur'"),
        (["test:", "--sink", "null", "--model", "nothing"], "nothing"),
        (["test:", "--sink", "null", "--when-busy", "skip"], "skip"),
        (["test:", "--sink", "null", "--metrics", "256.0.0.1:1"], "256.0.0.1"),
        (["test:", "--sink", "null", "--config", "none.toml"], "none.toml"),
        (["test:big", "--sink", "null"], "test:WIDTHxHEIGHT"),
        (["camera:abc", "--sink", "null"], "camera:abc:"),
        (["test:", "--sink", "displya"], "did you mean 'display'"),
        (["test:", "--sink", "a.mp4", "--sink", "./a.mp4"], "two sinks write to"),
        (["test:", "--sink", "a.mp4", "--duration", "0"], "--duration is 0"),
        (["test:", "--sink", "a.mp4", "--effect", "cutout"], "alpha"),
        (["test:", "--sink", "a.mp4", "--model", __file__], "unknown model"),
        (["", "--sink", "null"], "source.uri"),
    ],
)
def test_bad_input_is_one_line(tmp_path: Path, arguments: list[str], message: str) -> None:
    if "--sink" not in arguments:
        arguments = [*arguments, "--sink", "null"]
    environment = {key: value for key, value in os.environ.items() if key != "DISPLAY"}
    result = subprocess.run(
        [sys.executable, "-m", "streamseg", "live", *arguments],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert result.returncode == 2, result.stderr
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1, result.stderr
    assert "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_model_is_told_before_anything_is_recorded(tmp_path: Path) -> None:
    (tmp_path / "x.pte").write_bytes(b"garbage" * 100)
    result = subprocess.run(
        [sys.executable, "-m", "streamseg", "live", "test:", "-s", "a.mp4", "--model", "x.pte"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert result.returncode == 2
    assert "not an ExecuTorch program" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["x.pte"]


@pytest.mark.parametrize("after_s", [0.7, 1.2, 3.0])
def test_two_signals_end_it_at_once_from_any_state(tmp_path: Path, after_s: float) -> None:
    command = Command(tmp_path, str(SAMPLE), "--loop", "--sink", "null")
    time.sleep(after_s)
    command.process.send_signal(signal.SIGINT)
    time.sleep(0.02)
    started = time.monotonic()
    code, _, err = command.end()
    assert time.monotonic() - started < 2
    # The second one may come while Python itself starts or ends.
    assert code in (0, 130, -signal.SIGINT)
    assert "Traceback" not in err or code == -signal.SIGINT


def test_no_display_is_told_with_what_to_do(tmp_path: Path) -> None:
    environment = {
        key: value for key, value in os.environ.items() if key not in ("DISPLAY", "WAYLAND_DISPLAY")
    }
    result = subprocess.run(
        [sys.executable, "-m", "streamseg", "live", "test:"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert result.returncode == 2
    assert len(result.stderr.strip().splitlines()) == 1
    assert "--sink" in result.stderr


def test_credentials_of_the_source_are_printed_nowhere(tmp_path: Path) -> None:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, directory=str(SAMPLE.parent))

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        host = f"127.0.0.1:{server.server_port}"
        url = f"http://bob:hunter2@{host}/{SAMPLE.name}?token=abcdef"
        arguments = [url, "--sink", "null", "--json", "--stats", "stats.jsonl", "--duration", "2"]
        result = subprocess.run(
            [sys.executable, "-m", "streamseg", "--verbose", "live", *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=30,
        )
        server.shutdown()
    assert result.returncode == 0, result.stderr
    told = json.loads(result.stdout)
    assert told["status"] == "ok"
    assert SAMPLE.name in told["source"]
    everything = result.stdout + result.stderr + (tmp_path / "stats.jsonl").read_text()
    for secret in ("hunter2", "abcdef", "bob"):
        assert secret not in everything
