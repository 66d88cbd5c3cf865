"""The command line on real files: whole jobs, bad input, interruption, killed workers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import psutil
import pytest
from pycocotools import mask as coco

from streamseg.cli.app import run_command
from tests.support.clips import make_clip, read_frame_number
from tests.support.command import Result, one_line

pytestmark = pytest.mark.integration

SAMPLE = Path(__file__).parents[1] / "media" / "sample.mp4"
EFFECTS = ("none", "blur", "replace", "tint", "pixelate", "grayscale", "mask")
REAL_CLIPS = (
    "03_skateboarder.mp4",
    "04_coffee.mp4",
    "05_default_juggle.mp4",
    "06_pingpong.mp4",
    "bt709_full_range.mp4",
)


def frames_of(path: Path | str) -> list[av.VideoFrame]:
    with av.open(str(path)) as container:
        return list(container.decode(video=0))


def times_of(path: Path) -> list[float]:
    with av.open(str(path)) as container:
        packets = [p for p in container.demux(video=0) if p.pts is not None]
        return sorted(float(packet.pts * packet.time_base) for packet in packets)


def sound_of(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        if not container.streams.audio:
            return []
        return [bytes(packet) for packet in container.demux(audio=0) if packet.size]


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if "part" in path.name]


# -- whole jobs -------------------------------------------------------------------------------


def test_main_job_on_the_sample(streamseg: Any, tmp_path: Path) -> None:
    out = tmp_path / "out.mp4"

    result = streamseg("run", SAMPLE, out, "--effect", "blur", "--json")

    assert result.code == 0, result.err
    assert result.err == ""
    report = result.json
    assert report["status"] == "ok"
    assert report["frames_in"] == report["frames_out"] == len(frames_of(SAMPLE))
    assert report["dropped"] == {}
    assert report["notices"] == []
    assert {"read", "segment", "model", "effect", "write", "total"} == set(report["stages"])
    assert times_of(out) == times_of(SAMPLE)
    assert sound_of(out) == sound_of(SAMPLE)
    assert leftovers(tmp_path) == []
    check_blurred(SAMPLE, out)


def check_blurred(before: Path, after: Path) -> None:
    """The background has lost its detail, the person's face has not."""
    source, result = frames_of(before)[10], frames_of(after)[10]
    detail = []
    for frame in (source, result):
        grey = frame.to_ndarray(format="gray")
        height, width = grey.shape
        edges = np.abs(cv2.Laplacian(grey, cv2.CV_32F))
        background = edges[: height // 4, : width // 4].mean()
        face = edges[height // 8 : height // 3, width * 46 // 100 : width * 56 // 100].mean()
        detail.append((background, face))
    assert detail[1][0] < 0.2 * detail[0][0]
    assert detail[1][1] > 0.7 * detail[0][1]


@pytest.mark.parametrize("name", REAL_CLIPS)
def test_real_clips_keep_frames_times_sound_and_colours(
    streamseg: Any, tmp_path: Path, assets: Path, name: str
) -> None:
    source, out = assets / "media" / name, tmp_path / "out.mp4"

    result = streamseg("run", source, out, "--duration", "2.5", "--json")

    assert result.code == 0, result.err
    expected = [time for time in times_of(source) if time < 2.5]
    assert times_of(out) == pytest.approx(expected, abs=1e-6)
    assert (len(sound_of(out)) > 0) == (len(sound_of(source)) > 0)
    before, after = frames_of(source)[0], frames_of(out)[0]
    assert (after.width, after.height) == (before.width, before.height)
    assert after.colorspace == before.colorspace
    assert (after.color_range or 1) == (before.color_range or 1)
    assert after.color_primaries == before.color_primaries


@pytest.mark.parametrize("effect", EFFECTS)
def test_every_effect_keeps_every_frame(streamseg: Any, tmp_path: Path, effect: str) -> None:
    out = tmp_path / "out.mp4"

    result = streamseg(
        "run", SAMPLE, out, "--effect", effect, "--duration", "1", "--model", "selfie-landscape"
    )

    assert result.code == 0, result.err
    assert len(frames_of(out)) == 25
    assert f"{out}: 25 frames in, 25 out, none dropped" in result.out


@pytest.mark.parametrize(
    ("name", "pixel_format"),
    [
        ("out.webm", "yuva420p"),
        ("out.mov", "yuva444p"),
        ("out.mkv", "yuva420p"),
        ("out_%04d.png", "rgba"),
    ],
)
def test_cutout_has_alpha_everywhere(
    streamseg: Any, tmp_path: Path, name: str, pixel_format: str
) -> None:
    result = streamseg(
        "run", SAMPLE, tmp_path / name, "--effect", "cutout", "--duration", "0.4", "--no-audio"
    )

    assert result.code == 0, result.err
    with av.open(str(tmp_path / name)) as container:
        stream = container.streams.video[0]
        decoder: Any = stream.codec_context
        if name.endswith("webm"):  # FFmpeg's own VP9 decoder leaves the alpha plane out
            decoder = av.CodecContext.create("libvpx-vp9", "r")
        frames = [f for packet in container.demux(stream) for f in decoder.decode(packet)]
    assert len(frames) == 10
    assert frames[0].format.name.startswith(pixel_format)
    alpha = frames[5].to_ndarray(format="rgba")[..., 3]
    assert alpha[:40, :40].max() < 20
    assert alpha[150:170, 300:330].min() > 235


def test_anonymising_changes_the_person_and_not_the_room(streamseg: Any, tmp_path: Path) -> None:
    out = tmp_path / "out.mkv"
    result = streamseg(
        "run", SAMPLE, out, "--effect", "pixelate", "--subject", "--duration", "0.5",
        "--encoder", "ffv1",
    )  # fmt: skip

    assert result.code == 0, result.err
    before = frames_of(SAMPLE)[10].to_ndarray(format="gray").astype(int)
    after = frames_of(out)[10].to_ndarray(format="gray").astype(int)
    changed = np.abs(before - after)
    assert changed[:60, :60].max() <= 1
    assert changed[40:110, 290:350].mean() > 10


# pycocotools 2.0 does not yet speak numpy 2's copy protocol; its result is right.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_masks_beside_the_video(streamseg: Any, tmp_path: Path) -> None:
    out, lines = tmp_path / "out.mp4", tmp_path / "masks.jsonl"

    result = streamseg("run", SAMPLE, out, "--masks", lines, "--duration", "1")

    assert result.code == 0, result.err
    records = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [record["index"] for record in records] == list(range(25))
    assert [record["time_s"] for record in records] == pytest.approx(times_of(out), abs=1e-6)
    entry = records[10]["masks"][0]
    mask = coco.decode({"size": entry["size"], "counts": entry["counts"].encode()})
    assert mask.shape == (frames_of(SAMPLE)[0].height, frames_of(SAMPLE)[0].width)
    assert entry["label"] == "SELFIE"
    assert 0.1 < mask.mean() < 0.6
    assert mask.sum() == entry["area"]


@pytest.mark.parametrize("name", ["mask.mkv", "mask_%03d.png"])
def test_masks_as_pictures(streamseg: Any, tmp_path: Path, name: str) -> None:
    out = tmp_path / "out.mp4"

    result = streamseg("run", SAMPLE, out, "--masks", tmp_path / name, "--duration", "0.4")

    assert result.code == 0, result.err
    masks = [frame.to_ndarray(format="gray") for frame in frames_of(tmp_path / name)]
    assert len(masks) == 10
    assert masks[5][:40, :40].max() < 30
    assert masks[5][150:170, 300:330].min() > 225


def test_start_and_duration_are_exact(streamseg: Any, tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", frames=75, audio_tracks=1)
    out = tmp_path / "out.mp4"

    result = streamseg(
        "run", clip.path, out, "--effect", "none", "--start", "1", "--duration", "0:01"
    )

    assert result.code == 0, result.err
    assert [read_frame_number(frame) for frame in frames_of(out)] == list(range(25, 50))
    assert times_of(out)[0] == pytest.approx(0.0, abs=1e-6)


def test_configuration_is_used_and_options_override_it(streamseg: Any, tmp_path: Path) -> None:
    config = tmp_path / "job.toml"
    config.write_text(
        "[effect]\nname='replace'\nbackground='#ff0000'\n[output]\naudio=false\n"
        "[source]\nduration_s=5.0\n"
    )
    out = tmp_path / "out.mp4"

    result = streamseg("run", SAMPLE, out, "--config", config, "--duration", "0.4")

    assert result.code == 0, result.err
    assert len(frames_of(out)) == 10
    assert sound_of(out) == []
    red, green, blue = frames_of(out)[5].to_ndarray(format="rgb24")[10, 10]
    assert red > 200
    assert green < 50
    assert blue < 50


# -- a worker that is killed, a run that is interrupted -----------------------------------------


def start(*arguments: str | Path, **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "streamseg", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def workers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    try:
        children = psutil.Process(process.pid).children()
        return [c for c in children if any("runtime.child" in part for part in c.cmdline())]
    except psutil.Error:
        return []


def wait_for_writing(folder: Path, size: int = 10_000) -> None:
    """Wait until a part file beside the target has grown: the job is in its middle."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        parts = [path for path in folder.iterdir() if "part" in path.name]
        if parts and parts[0].stat().st_size > size:
            return
        time.sleep(0.01)
    raise AssertionError("the job never began to write")


def test_a_worker_killed_in_mid_job_changes_nothing(tmp_path: Path) -> None:
    undisturbed, disturbed = tmp_path / "a" / "out.mkv", tmp_path / "b" / "out.mkv"
    for path in (undisturbed, disturbed):
        path.parent.mkdir()
    with start("run", SAMPLE, undisturbed, "--json") as process:
        out, err = process.communicate(timeout=100)
    assert process.returncode == 0, err
    with start("run", SAMPLE, disturbed, "--json") as process:
        wait_for_writing(disturbed.parent)
        workers_of(process)[0].send_signal(signal.SIGKILL)
        out, err = process.communicate(timeout=100)

    assert process.returncode == 0, err
    assert json.loads(out)["worker_restarts"] == 1
    with av.open(str(undisturbed)) as a, av.open(str(disturbed)) as b:
        expected = [(p.pts, bytes(p)) for p in a.demux(video=0) if p.size]
        received = [(p.pts, bytes(p)) for p in b.demux(video=0) if p.size]
    assert received == expected


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_ends_cleanly(tmp_path: Path, number: int, code: int) -> None:
    out = tmp_path / "out.mp4"
    out.write_bytes(b"older")
    with start("run", SAMPLE, out, "--overwrite") as process:
        wait_for_writing(tmp_path)
        workers = workers_of(process)
        sent = time.monotonic()
        process.send_signal(number)
        _, err = process.communicate(timeout=20)

    assert process.returncode == code
    assert time.monotonic() - sent < 4
    assert "Traceback" not in err
    assert out.read_bytes() == b"older"
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]
    assert workers
    assert not any(worker.is_running() for worker in workers)


def test_a_killed_run_leaves_no_process_and_the_next_one_cleans_up(tmp_path: Path) -> None:
    out = tmp_path / "out.mp4"
    out.write_bytes(b"older")
    with start("run", SAMPLE, out, "--overwrite") as process:
        wait_for_writing(tmp_path)
        workers = workers_of(process)
        process.kill()
        process.communicate(timeout=20)
    assert workers
    _, alive = psutil.wait_procs(workers, timeout=5)
    assert not alive
    assert out.read_bytes() == b"older"

    assert (
        run_command(["run", str(SAMPLE), str(out), "--overwrite", "--duration", "0.2", "-q"]) == 0
    )
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]
    assert len(frames_of(out)) == 5


# -- bad input ----------------------------------------------------------------------------------


def test_no_such_file(streamseg: Any, tmp_path: Path) -> None:
    one_line(streamseg("run", tmp_path / "no.mp4", tmp_path / "o.mp4"), 2, "no.mp4", "no such file")
    assert list(tmp_path.iterdir()) == []


def test_inputs_that_are_no_video(streamseg: Any, tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("this is not a film\n" * 100)
    make_clip(tmp_path / "clip.mp4", frames=5, audio_tracks=1)
    with av.open(str(tmp_path / "clip.mp4")) as source:
        with av.open(str(tmp_path / "sound.m4a"), "w", format="mp4") as target:
            stream = target.add_stream_from_template(source.streams.audio[0])
            for packet in source.demux(audio=0):
                if packet.size:
                    packet.stream = stream
                    target.mux(packet)
    for name in ("empty.mp4", "text.mp4", "sound.m4a", "."):
        one_line(streamseg("run", tmp_path / name, tmp_path / "o.mp4"), 2)
    assert not (tmp_path / "o.mp4").exists()


def test_targets_that_cannot_be_written(streamseg: Any, tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", frames=5).path
    old = tmp_path / "old.mp4"
    old.write_bytes(b"older")

    one_line(streamseg("run", clip, tmp_path / "no" / "o.mp4"), 2, "folder")
    one_line(streamseg("run", clip, clip, "--overwrite"), 2, "clip.mp4")
    one_line(streamseg("run", clip, tmp_path), 2)
    one_line(streamseg("run", clip, old), 2, "exists", "--overwrite")
    one_line(streamseg("run", clip, tmp_path / "o.xyz"), 2, ".xyz")
    one_line(streamseg("run", clip, tmp_path / "o.mp4", "--encoder", "libx246"), 2, "libx264")
    one_line(streamseg("run", clip, tmp_path / "o.mp4", "--effect", "cutout"), 2, "alpha", ".webm")
    assert old.read_bytes() == b"older"
    assert len(frames_of(clip)) == 5
    assert leftovers(tmp_path) == []


def test_unknown_names_are_told_with_the_nearest(streamseg: Any, tmp_path: Path) -> None:
    out = tmp_path / "o.mp4"
    one_line(streamseg("run", SAMPLE, out, "--effect", "blurr"), 2, "'blurr'", "'blur'")
    one_line(streamseg("run", SAMPLE, out, "--model", "selfy"), 2, "'selfy'", "selfie")
    one_line(streamseg("run", SAMPLE, out, "--strength", "101"), 2, "strength", "101")
    one_line(streamseg("run", SAMPLE, out, "--fit", "cover"), 2, "'blur'", "'fit'")
    one_line(streamseg("run", SAMPLE, out, "--start", "soon"), 2, "--start", "'soon'")
    one_line(streamseg("run", SAMPLE, out, "--start", "900"), 2, "7")
    one_line(streamseg("run", SAMPLE, out, "-e", "replace", "--background", tmp_path / "no.png"), 2)
    assert not out.exists()


@pytest.mark.parametrize("kind", ["truncated", "random", "vector", "unknown_backend"])
def test_broken_models_are_one_line(
    streamseg: Any, tmp_path: Path, models: Path, kind: str
) -> None:
    good = (models / "quick.pte").read_bytes()
    path = tmp_path / "bad.pte"
    path.write_bytes(
        {
            "truncated": good[:3000],
            "random": np.random.default_rng(1).bytes(5000),
            "vector": (models / "vector.pte").read_bytes(),
            "unknown_backend": good.replace(b"XnnpackBackend", b"XnnpackBackenX"),
        }[kind]
    )
    one_line(streamseg("run", SAMPLE, tmp_path / "o.mp4", "--model", path), 2, "bad.pte")
    assert not (tmp_path / "o.mp4").exists()


def test_a_failed_job_says_so_in_json_too(streamseg: Any, tmp_path: Path) -> None:
    result = streamseg("run", tmp_path / "no.mp4", tmp_path / "o.mp4", "--json")

    assert result.code == 2
    assert result.json["status"] == "error"
    assert result.json["exit_code"] == 2
    assert "no.mp4" in result.json["error"]


def test_a_wrong_option_says_so_in_json_too(streamseg: Any, tmp_path: Path) -> None:
    result = streamseg("run", SAMPLE, tmp_path / "o.mp4", "--json", "--crf", "99")

    assert result.code == result.json["exit_code"] == 2
    assert "output.crf" in result.json["error"]


@pytest.mark.parametrize("name", ["rec 9.41\u202fAM.mp4", "ünïcode %d.mp4", 'a\'b "c".mp4'])
def test_an_input_is_never_overwritten_whatever_its_name(
    streamseg: Any, tmp_path: Path, name: str
) -> None:
    clip = make_clip(tmp_path / "clip.mp4", frames=5).path
    before = clip.read_bytes()
    clip.rename(tmp_path / name)
    (tmp_path / "link.mp4").symlink_to(tmp_path / name)

    for target in (name, "link.mp4"):
        one_line(streamseg("run", tmp_path / name, tmp_path / target, "-y", "-e", "none"), 2)
    assert (tmp_path / name).read_bytes() == before


def test_nothing_that_a_job_reads_is_overwritten(streamseg: Any, tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", frames=5).path
    pictures = tmp_path / "in_%05d.png"
    assert streamseg("run", clip, pictures, "-e", "none").code == 0
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}

    one_line(streamseg("run", pictures, pictures, "-e", "grayscale", "-y"), 2)
    one_line(streamseg("run", SAMPLE, clip, "-e", "replace", "--background", clip, "-y"), 2)

    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_masks_cannot_take_the_videos_place(streamseg: Any, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    out = tmp_path / "real" / "o.mkv"

    result = streamseg("run", SAMPLE, out, "--masks", tmp_path / "link" / "o.mkv", "-y")

    one_line(result, 2, "same file")
    assert list((tmp_path / "real").iterdir()) == []


@pytest.mark.parametrize("name", ["astronaut.png", "three_people.jpg", "grace_hopper.jpg"])
def test_photographs_become_videos_and_masks(tmp_path: Path, assets: Path, name: str) -> None:
    """In a process of its own: metadata of pictures has crashed the interpreter at its exit."""
    for command in (
        ("run", assets / "media" / name, tmp_path / "o.mp4"),
        ("segment", assets / "media" / name, "-o", tmp_path / "o.png"),
    ):
        with start(*command) as process:
            _, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
    assert len(frames_of(tmp_path / "o.mp4")) == len(frames_of(tmp_path / "o.png")) == 1


def test_an_encoder_that_cannot_take_the_size_is_one_line(streamseg: Any, tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", frames=5).path
    result = streamseg("run", clip, tmp_path / "o.avi", "--encoder", "dvvideo", "--effect", "none")
    one_line(result, 2, "dvvideo")
    assert not (tmp_path / "o.avi").exists()


def test_odd_sizes_come_out_and_are_told(streamseg: Any, tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mkv", frames=5, size=(321, 181), codec="ffv1").path

    result = streamseg("run", clip, tmp_path / "o.mp4")

    assert result.code == 0, result.err
    assert len(frames_of(tmp_path / "o.mp4")) == 5


def test_a_cut_file_is_kept_as_far_as_it_goes_and_told(streamseg: Any, tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", frames=100, faststart=True).path
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])

    result = streamseg("run", cut, tmp_path / "o.mp4", "--json", "--effect", "none")

    assert result.code == 0, result.err
    frames = frames_of(tmp_path / "o.mp4")
    assert 10 < len(frames) < 100
    assert [read_frame_number(frame) for frame in frames] == list(range(len(frames)))
    assert result.json["notices"]


def test_a_full_disk_is_one_line_and_nothing_is_lost(streamseg: Any, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(disk)], capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.decode().strip()}")
    try:
        (disk / "o.mp4").write_bytes(b"older")
        result = streamseg("run", SAMPLE, disk / "o.mp4", "-y", "--effect", "none", "--crf", "0")
        one_line(result, 1, "o.mp4")
        assert (disk / "o.mp4").read_bytes() == b"older"
        assert [path.name for path in disk.iterdir()] == ["o.mp4"]
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_no_permission_is_one_line(tmp_path: Path) -> None:
    """Root may do everything, so another user does it."""
    clip = make_clip(tmp_path / "clip.mp4", frames=5).path
    closed = tmp_path / "closed.mp4"
    closed.write_bytes(clip.read_bytes())
    closed.chmod(0)
    folder = tmp_path / "folder"
    folder.mkdir(mode=0o755)
    for parent in (tmp_path, *tmp_path.parents):
        if parent != Path("/") and parent.stat().st_uid == os.getuid():
            parent.chmod(parent.stat().st_mode | 0o055)
    # The other user may not be able to read this Python's libraries: a good run loads them first.
    for arguments in ((closed, tmp_path / "o.mp4"), (clip, folder / "o.mp4")):
        done = subprocess.run(
            [sys.executable, "-c", AS_NOBODY, clip, tmp_path / "good.mp4", *arguments],
            capture_output=True, text=True, timeout=60, cwd="/",
        )  # fmt: skip
        one_line(Result(done.returncode, done.stdout, done.stderr), 2, "ermission")
        (tmp_path / "good.mp4").unlink()


AS_NOBODY = """
import os, sys
from streamseg.cli.app import run_command
clip, good, source, target = sys.argv[1:]
assert run_command(["run", clip, good, "-e", "none", "-q"]) == 0
if os.getuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
sys.exit(run_command(["run", source, target, "-e", "none", "-q"]))
"""


# -- the rest -------------------------------------------------------------------------------------


def test_doctor_finds_this_machine_fit(streamseg: Any) -> None:
    result = streamseg("doctor", "--json")

    assert result.code == 0, result.out
    states = {check["name"]: check["state"] for check in result.json["checks"]}
    assert states["model"] == states["encoder H.264"] == states["shared memory"] == "ok"
    assert {"display", "cameras", "packages", "ffmpeg"} <= set(states)
    assert result.err == ""


def test_version_and_help_and_usage_errors(streamseg: Any) -> None:
    assert streamseg("--version").out.startswith("streamseg ")
    helped = streamseg("run", "--help")
    assert helped.code == 0
    assert "streamseg run talk.mp4 blurred.mp4" in helped.out
    wrong = streamseg("run", "--efect", "x", "y", "z")
    assert wrong.code == 2
    assert "--effect" in wrong.err
    assert "Traceback" not in wrong.err


def test_process_file_is_the_same_from_python(tmp_path: Path) -> None:
    import streamseg as package

    out = tmp_path / "out.mp4"
    statistics = package.process_file(
        SAMPLE, out, effect="tint", strength=40, config=None, model="selfie"
    )

    assert statistics.frames_out == len(frames_of(out)) == len(frames_of(SAMPLE))
    with pytest.raises(package.SinkError, match="exists"):
        package.process_file(SAMPLE, out, effect="tint")
