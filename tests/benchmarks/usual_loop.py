"""What is usually written: OpenCV reads, MediaPipe segments, numpy composites, OpenCV writes.

Runs in an environment of its own: MediaPipe 0.10.21 needs an older numpy.
"""

import sys

import cv2
import mediapipe as mp
import numpy as np

reader = cv2.VideoCapture(sys.argv[1])
size = (int(reader.get(cv2.CAP_PROP_FRAME_WIDTH)), int(reader.get(cv2.CAP_PROP_FRAME_HEIGHT)))
writer = cv2.VideoWriter(
    sys.argv[2], cv2.VideoWriter_fourcc(*"mp4v"), reader.get(cv2.CAP_PROP_FPS), size
)
frames = 0
with mp.solutions.selfie_segmentation.SelfieSegmentation(model_selection=0) as segmenter:
    while True:
        ok, frame = reader.read()
        if not ok:
            break
        result = segmenter.process(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))
        person = np.stack((result.segmentation_mask,) * 3, axis=-1) > 0.5
        blurred = cv2.GaussianBlur(frame, (55, 55), 0)
        writer.write(np.where(person, frame, blurred))
        frames += 1
writer.release()
print(frames)
