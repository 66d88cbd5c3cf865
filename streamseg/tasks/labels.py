"""Labels as enumerations, for editors and type checkers; each member is the label's own text."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

__all__ = ["SelfieLabel", "SelfieModel", "VocLabel", "VocModel"]


class VocLabel(StrEnum):
    """The 21 classes of PASCAL VOC 2012, in the order of their indices."""

    BACKGROUND = "BACKGROUND"
    AEROPLANE = "AEROPLANE"
    BICYCLE = "BICYCLE"
    BIRD = "BIRD"
    BOAT = "BOAT"
    BOTTLE = "BOTTLE"
    BUS = "BUS"
    CAR = "CAR"
    CAT = "CAT"
    CHAIR = "CHAIR"
    COW = "COW"
    DININGTABLE = "DININGTABLE"
    DOG = "DOG"
    HORSE = "HORSE"
    MOTORBIKE = "MOTORBIKE"
    PERSON = "PERSON"
    POTTEDPLANT = "POTTEDPLANT"
    SHEEP = "SHEEP"
    SOFA = "SOFA"
    TRAIN = "TRAIN"
    TVMONITOR = "TVMONITOR"


class SelfieLabel(StrEnum):
    """The two classes of the selfie models, in the order of their indices."""

    SELFIE = "SELFIE"
    BACKGROUND = "BACKGROUND"


SelfieModel = Literal["selfie", "selfie-landscape", "selfie-segmentation"]
"""Names of the models with the labels of ``SelfieLabel``."""

VocModel = Literal[
    "deeplab-v3-mobilenet-v3-large",
    "deeplab-v3-mobilenet-v3-large-int8",
    "deeplab-v3-resnet50",
    "deeplab-v3-resnet50-int8",
    "deeplab-v3-resnet101",
    "deeplab-v3-resnet101-int8",
    "fcn-resnet50",
    "fcn-resnet50-int8",
    "fcn-resnet101",
    "fcn-resnet101-int8",
    "lraspp-mobilenet-v3-large",
    "lraspp-mobilenet-v3-large-int8",
]
"""Names of the models with the labels of ``VocLabel``."""
