"""The import rule of ARCHITECTURE.md, read from the imports themselves."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "streamseg"

# A room imports only from rooms of lower levels. Level 0 may import itself.
LEVELS = (
    (
        "errors",
        "frames",
        "segmentation",
        "abc",
        "commands",
        "handoff",
        "flow",
        "redact",
        "references",
        "telemetry",
        "ffmpeg_log",
        "side_data",
        "priorities",
        "parent_death",
        "whole_file",
        "picture_files",
    ),
    ("downloads",),
    ("models", "masks"),
    ("runtime", "effects", "convert"),
    ("sources", "sinks", "engine", "monitoring", "webrtc", "tasks"),
    ("config",),
    ("session",),
    ("doctor",),
    ("cli",),
)
LEVEL = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}
ANYWHERE = {"__init__", "__main__"}  # the package's front door: lazy names, and the command line


def room_of(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            modules = [node.module or ""]
            if node.module == "streamseg":
                modules = [f"streamseg.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        else:
            continue
        rooms |= {m.split(".")[1] for m in modules if m.startswith("streamseg.")}
    return rooms


MODULES = sorted(PACKAGE.rglob("*.py"))
INSIDE = [path for path in MODULES if room_of(path) not in ANYWHERE]


def test_every_room_has_a_level() -> None:
    rooms = {room_of(path) for path in MODULES} - ANYWHERE
    assert rooms <= set(LEVEL), f"rooms without a level: {rooms - set(LEVEL)}"


@pytest.mark.parametrize("path", INSIDE, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_room_imports_only_from_lower_levels(path: Path) -> None:
    room = room_of(path)
    for other in imported_rooms(path) - {room} - {"__version__"}:
        assert other in LEVEL, f"{path}: imports unknown room {other}"
        assert LEVEL[other] < LEVEL[room] or LEVEL[other] == LEVEL[room] == 0, (
            f"{path}: {room} (level {LEVEL[room]}) imports {other} (level {LEVEL[other]})"
        )


def test_only_the_webrtc_room_imports_aiortc() -> None:
    users = {room_of(p) for p in MODULES if "aiortc" in p.read_text()}
    assert users <= {"webrtc", "doctor"}


@pytest.mark.parametrize("module", ["streamseg", "streamseg.runtime.child"])
def test_import_stays_cheap(module: str) -> None:
    """The model process and every command line start with these."""
    heavy = ("torch", "av", "cv2", "numpy", "pydantic", "typer", "executorch")
    code = f"import sys, {module}; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("path", INSIDE, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_av_is_imported_before_cv2(path: Path) -> None:
    # Both bring libraries of X11. With OpenCV's loaded first, FFmpeg's x11grab ends the process.
    if path.name == "window_child.py":  # a process of its own, without FFmpeg
        return
    modules = [
        name
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
        )
    ]
    roots = [name.partition(".")[0] for name in modules]
    if "cv2" in roots:
        assert "av" in roots[: roots.index("cv2")], f"{path} imports cv2 without av before it"
