"""Label sets that several models share."""

from __future__ import annotations

__all__ = ["VOC_LABELS"]

VOC_LABELS: tuple[str, ...] = (
    "BACKGROUND",
    "AEROPLANE",
    "BICYCLE",
    "BIRD",
    "BOAT",
    "BOTTLE",
    "BUS",
    "CAR",
    "CAT",
    "CHAIR",
    "COW",
    "DININGTABLE",
    "DOG",
    "HORSE",
    "MOTORBIKE",
    "PERSON",
    "POTTEDPLANT",
    "SHEEP",
    "SOFA",
    "TRAIN",
    "TVMONITOR",
)
"""The 21 classes of PASCAL VOC 2012, in the order of its annotation values."""
