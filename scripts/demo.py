"""One frame of the sample clip under each effect, as one picture; see scripts/demo."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import av
import cv2
import numpy as np

from streamseg import process_file

SAMPLE = Path(__file__).parents[1] / "tests" / "media" / "sample.mp4"
PANELS = (
    ("none", {}),
    ("blur", {}),
    ("replace", {"background": "#1f3a5f"}),
    ("pixelate", {"on": "subject"}),
    ("tint", {}),
    ("mask", {}),
)


def panel(effect: str, options: dict[str, str], folder: Path) -> np.ndarray:
    target = folder / f"{effect}.mkv"
    process_file(SAMPLE, target, effect=effect, **options)
    with av.open(str(target)) as container:
        frames = container.decode(video=0)
        picture = next(frame for number, frame in enumerate(frames) if number == 20)
        bgr = picture.to_ndarray(format="bgr24")
    label = f"{effect} ({options['on']})" if "on" in options else effect
    if effect == "none":
        label = "input"
    for colour, width in (((0, 0, 0), 5), ((255, 255, 255), 2)):
        cv2.putText(bgr, label, (14, 340), cv2.FONT_HERSHEY_SIMPLEX, 0.9, colour, width)
    return bgr


with tempfile.TemporaryDirectory() as folder:
    panels = [panel(effect, options, Path(folder)) for effect, options in PANELS]
rows = [np.hstack(panels[:3]), np.hstack(panels[3:])]
sheet = cv2.resize(np.vstack(rows), (1440, 540), interpolation=cv2.INTER_AREA)
cv2.imwrite(sys.argv[1], sheet, [cv2.IMWRITE_JPEG_QUALITY, 82])
print(sys.argv[1])
