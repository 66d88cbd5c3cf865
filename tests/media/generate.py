"""Makes ``sample.mp4``, the clip that demonstrations and tests share.

    python tests/media/generate.py [target.mp4]

A woman moves (sways, comes closer, tilts) before a detailed wall that moves slowly the other way.
Each second begins with a beep of 0.2 s and, as long as it sounds, a white square in the upper left
corner, so that sound and picture can be checked against each other; two notes take turns. A quiet
low tone goes on all the time, so that a gap in the sound can be heard.

640x360, 25 frames a second, 7 s, H.264 (BT.709, limited range) and AAC, in MP4 with the index at
the front. The picture is a function of the frame's number only; the encoders' output may differ
from one version to the next. The committed file was made with the command above and Python 3.11,
PyAV 18.1.0 (FFmpeg 8.1, libx264), NumPy 2.4.6, OpenCV 5.0.0, scikit-image 0.26.0.

Origin: the portrait is ``skimage.data.astronaut()`` (Eileen Collins, NASA), public domain. The rest
is computed here; like the clip as a whole, it is released under the project's licence.
"""

from __future__ import annotations

import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from numpy.typing import NDArray
from skimage.data import astronaut

WIDTH, HEIGHT, RATE, SECONDS = 640, 360, 25, 7
SAMPLE_RATE = 48_000
BEEP_S = 0.2
NOTES_HZ = (523.25, 783.99)  # C5, G5
MARK_PX = 36

Picture = NDArray[np.uint8]


def cut_out() -> tuple[Picture, NDArray[np.float32]]:
    """Return the portrait (512, 512, 3) uint8 RGB and its alpha (512, 512) float32 in [0, 1]."""
    portrait: Picture = astronaut()
    # Roughly where she is: head and hair, shoulders, body. The edge is found between that and what
    # is certainly background.
    marks = np.full(portrait.shape[:2], cv2.GC_BGD, np.uint8)
    outer = np.array(
        [(150, 0), (300, 0), (320, 150), (330, 205), (430, 250), (470, 330), (500, 511), (0, 511),
         (0, 420), (40, 260), (120, 215), (150, 180), (135, 90)]
    )  # fmt: skip
    inner = np.array(
        [(185, 35), (255, 25), (280, 110), (270, 170), (330, 240), (400, 300), (420, 511),
         (60, 511), (75, 330), (150, 240), (190, 190), (165, 110)]
    )  # fmt: skip
    cv2.fillPoly(marks, [outer], cv2.GC_PR_BGD)
    cv2.fillPoly(marks, [inner], cv2.GC_PR_FGD)
    cv2.ellipse(marks, (222, 120), (45, 65), 0, 0, 360, cv2.GC_FGD, -1)
    cv2.fillPoly(marks, [np.array([(130, 300), (330, 300), (360, 511), (100, 511)])], cv2.GC_FGD)
    cv2.setRNGSeed(1)
    cv2.grabCut(
        cv2.cvtColor(portrait, cv2.COLOR_RGB2BGR), marks, None,
        np.zeros((1, 65)), np.zeros((1, 65)), 6, cv2.GC_INIT_WITH_MASK,
    )  # fmt: skip
    person = np.isin(marks, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.uint8)
    count, labels, statistics, _ = cv2.connectedComponentsWithStats(person)
    largest = 1 + int(np.argmax(statistics[1:count, cv2.CC_STAT_AREA]))
    outlines, _ = cv2.findContours(
        (labels == largest).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
    )
    person = cv2.drawContours(np.zeros_like(person), outlines, -1, 1, -1)  # without holes
    alpha = cv2.GaussianBlur(person.astype(np.float32), (0, 0), 1.2)
    return portrait, alpha


def wall() -> Picture:
    """Return a wall of shelves with books, wider than the picture: (360, 1280, 3) uint8 RGB."""
    random = np.random.default_rng(7)
    picture = np.full((HEIGHT, 2 * WIDTH, 3), (92, 70, 52), np.uint8)
    for shelf in range(4):
        floor = 84 + shelf * 90
        left = 4
        while left < 2 * WIDTH - 30:
            thick, tall = int(random.integers(9, 26)), int(random.integers(50, 76))
            colour = random.integers(40, 225, 3)
            picture[floor - tall : floor, left : left + thick] = colour
            picture[floor - tall + 8 : floor - tall + 11, left + 2 : left + thick - 2] = (
                255 - colour
            )
            title = floor - tall + 18
            for line in range(title, floor - 10, 5):
                width = int(random.integers(1, max(2, thick - 5)))
                picture[line : line + 2, left + 3 : left + 3 + width] = (colour // 3) + 150
            left += thick + int(random.integers(1, 4))
        picture[floor : floor + 6] = (150, 118, 84)
    return picture


def draw(number: int, portrait: Picture, alpha: NDArray[np.float32], scenery: Picture) -> Picture:
    """Return frame ``number``: (360, 640, 3) uint8 RGB."""
    time = number / RATE
    offset = round(160 + 140 * np.sin(2 * np.pi * time / SECONDS))
    picture = scenery[:, offset : offset + WIDTH].astype(np.float32)
    scale = 0.72 + 0.09 * np.sin(2 * np.pi * time / 3.5)
    angle = 4 * np.sin(2 * np.pi * time / 2.8)
    matrix = cv2.getRotationMatrix2D((225, 512), angle, scale)
    matrix[0, 2] += WIDTH / 2 - 225 + 70 * np.sin(2 * np.pi * time / SECONDS)
    matrix[1, 2] += HEIGHT - 512 + 26
    size = (WIDTH, HEIGHT)
    person = cv2.warpAffine(portrait, matrix, size, flags=cv2.INTER_AREA).astype(np.float32)
    cover = cv2.warpAffine(alpha, matrix, size)[..., None]
    picture = picture * (1 - cover) + person * cover
    if number % RATE < BEEP_S * RATE:
        picture[:MARK_PX, :MARK_PX] = 255
    return np.clip(picture.round(), 0, 255).astype(np.uint8)


def sound() -> NDArray[np.float32]:
    """Return the whole sound: (samples,) float32 in [-1, 1]."""
    time = np.arange(SECONDS * SAMPLE_RATE) / SAMPLE_RATE
    note = np.where(time.astype(int) % 2 == 0, *NOTES_HZ)
    phase = time % 1
    edge = np.clip(np.minimum(phase, BEEP_S - phase) / 0.005, 0, 1)
    beep = 0.5 * edge * np.sin(2 * np.pi * note * time)
    ground = 0.04 * np.sin(2 * np.pi * 130.81 * time)
    return (beep + ground).astype(np.float32)


def main(target: Path) -> None:
    """Write the clip."""
    portrait, alpha = cut_out()
    scenery = wall()
    with av.open(
        str(target), "w", options={"movflags": "+faststart", "fflags": "+bitexact"}
    ) as out:
        out.metadata["title"] = "streamseg sample"
        video: Any = out.add_stream(
            "libx264", rate=RATE, options={"preset": "slow", "crf": "25", "threads": "1"}
        )
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        context = video.codec_context
        context.colorspace = context.color_primaries = context.color_trc = 1
        context.color_range = 1
        context.gop_size = 2 * RATE
        audio: Any = out.add_stream("aac", rate=SAMPLE_RATE, layout="mono")
        audio.bit_rate = 64_000
        samples = sound()
        for number in range(SECONDS * RATE):
            picture = av.VideoFrame.from_ndarray(draw(number, portrait, alpha, scenery), "rgb24")
            frame = picture.reformat(format="yuv420p", dst_colorspace=1, dst_color_range=1)
            frame.pts, frame.time_base = number, Fraction(1, RATE)
            out.mux(video.encode(frame))
            step = SAMPLE_RATE // RATE
            part = samples[None, number * step : (number + 1) * step]
            tone = av.AudioFrame.from_ndarray(part, "fltp", "mono")
            tone.sample_rate, tone.pts = SAMPLE_RATE, number * step
            tone.time_base = Fraction(1, SAMPLE_RATE)
            out.mux(audio.encode(tone))
        out.mux(video.encode())
        out.mux(audio.encode())


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("sample.mp4"))
