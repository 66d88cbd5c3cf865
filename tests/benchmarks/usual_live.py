"""What is usually written for a camera: OpenCV, MediaPipe, numpy; here a clip in real time.

Like a camera it gives the newest picture: those that came while it worked are skipped. Prints JSON.
Runs in an environment of its own: MediaPipe 0.10.21 needs an older numpy.
"""

import json
import resource
import sys
import time

import cv2
import mediapipe as mp
import numpy as np

clip, recording, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
reader = cv2.VideoCapture(clip)
rate = reader.get(cv2.CAP_PROP_FPS)
size = (int(reader.get(cv2.CAP_PROP_FRAME_WIDTH)), int(reader.get(cv2.CAP_PROP_FRAME_HEIGHT)))
writer = cv2.VideoWriter(recording, cv2.VideoWriter_fourcc(*"mp4v"), rate, size)
ages, number = [], 0
with mp.solutions.selfie_segmentation.SelfieSegmentation(model_selection=0) as segmenter:
    segmenter.process(np.zeros((size[1], size[0], 3), np.uint8))  # loading does not count
    begun = resource.getrusage(resource.RUSAGE_SELF)
    started = time.monotonic()
    while time.monotonic() - started < seconds:
        newest = int((time.monotonic() - started) * rate)
        while number < newest:
            if not reader.grab():
                reader.set(cv2.CAP_PROP_POS_FRAMES, 0)
                reader.grab()
            number += 1
        due = started + number / rate
        time.sleep(max(0.0, due - time.monotonic()))
        ok, frame = reader.read()
        if not ok:
            reader.set(cv2.CAP_PROP_POS_FRAMES, 0)
            ok, frame = reader.read()
        number += 1
        result = segmenter.process(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))
        person = np.stack((result.segmentation_mask,) * 3, axis=-1) > 0.5
        writer.write(np.where(person, frame, cv2.GaussianBlur(frame, (55, 55), 0)))
        ages.append((time.monotonic() - due) * 1e3)
    wall = time.monotonic() - started
    ended = resource.getrusage(resource.RUSAGE_SELF)
writer.release()
cpu = ended.ru_utime + ended.ru_stime - begun.ru_utime - begun.ru_stime
print(
    json.dumps(
        {
            "fps": len(ages) / wall,
            "p50_ms": float(np.percentile(ages, 50)),
            "p99_ms": float(np.percentile(ages, 99)),
            "cores": cpu / wall,
            "cpu_ms_per_frame": cpu * 1e3 / len(ages),
        }
    )
)
