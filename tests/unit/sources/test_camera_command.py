from __future__ import annotations

import json

import pytest

from streamseg.cli.cameras import cameras
from streamseg.sources import cameras_list
from streamseg.sources.cameras_list import CameraInfo, CameraMode

FOUND = [
    CameraInfo(
        "/dev/video0",
        "HD Webcam [x]",
        (CameraMode("MJPG", 1280, 720, (30.0, 7.5)), CameraMode("YUYV", 640, 480, (), up_to=True)),
    ),
    CameraInfo("/dev/video2", "Other", problem="no permission"),
]


def test_cameras_are_listed_with_their_modes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cameras_list, "list_cameras", lambda: FOUND)
    cameras()
    assert capsys.readouterr().out.splitlines() == [
        "camera:/dev/video0  HD Webcam [x]",
        "    MJPG  1280x720          30, 7.5 fps",
        "    YUYV  up to 640x480",
        "camera:/dev/video2  Other",
        "    no permission",
    ]


def test_cameras_are_listed_as_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cameras_list, "list_cameras", lambda: FOUND)
    cameras(as_json=True)
    first, second = json.loads(capsys.readouterr().out)["cameras"]
    assert first["modes"][0] == {
        "pixel_format": "MJPG",
        "width": 1280,
        "height": 720,
        "fps": [30.0, 7.5],
        "up_to": False,
    }
    assert second["problem"] == "no permission"


def test_without_a_camera_it_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cameras_list, "list_cameras", list)
    cameras()
    assert "no camera found; plug one in" in capsys.readouterr().out
