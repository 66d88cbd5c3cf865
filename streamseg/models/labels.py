"""Label sets that several models share; a card takes one by its name: ``labels = "voc"``."""

from __future__ import annotations

from importlib import resources
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = [
    "CLASS_MAP",
    "COCO_CATEGORY_LABELS",
    "COCO_LABELS",
    "IMAGENET_LABELS",
    "LABEL_SETS",
    "SELFIE_LABELS",
    "VOC_LABELS",
    "distinct_labels",
]

CLASS_MAP = "ARGMAX"
"""What the map of all classes is called among the results of a segmentation: no class is."""

SELFIE_LABELS: tuple[str, ...] = ("SELFIE", "BACKGROUND")
"""The two classes of models with one channel, which is the probability of SELFIE."""

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

# The 91 categories in the order of their ids, from 1. Those in parentheses are in the paper that
# introduced the data set, but in none of its annotations: the other 80 are what detectors know.
# Source: Lin et al., "Microsoft COCO: Common Objects in Context", 2014, appendix II.
_COCO = """
    PERSON BICYCLE CAR MOTORCYCLE AIRPLANE BUS TRAIN TRUCK BOAT TRAFFIC_LIGHT FIRE_HYDRANT
    (STREET_SIGN) STOP_SIGN PARKING_METER BENCH BIRD CAT DOG HORSE SHEEP COW ELEPHANT BEAR ZEBRA
    GIRAFFE (HAT) BACKPACK UMBRELLA (SHOE) (EYE_GLASSES) HANDBAG TIE SUITCASE FRISBEE SKIS SNOWBOARD
    SPORTS_BALL KITE BASEBALL_BAT BASEBALL_GLOVE SKATEBOARD SURFBOARD TENNIS_RACKET BOTTLE (PLATE)
    WINE_GLASS CUP FORK KNIFE SPOON BOWL BANANA APPLE SANDWICH ORANGE BROCCOLI CARROT HOT_DOG PIZZA
    DONUT CAKE CHAIR COUCH POTTED_PLANT BED (MIRROR) DINING_TABLE (WINDOW) (DESK) TOILET (DOOR) TV
    LAPTOP MOUSE REMOTE KEYBOARD CELL_PHONE MICROWAVE OVEN TOASTER SINK REFRIGERATOR (BLENDER) BOOK
    CLOCK VASE SCISSORS TEDDY_BEAR HAIR_DRIER TOOTHBRUSH (HAIR_BRUSH)
""".split()

COCO_LABELS: tuple[str, ...] = tuple(name for name in _COCO if not name.startswith("("))
"""The 80 classes of COCO that are annotated, without gaps: what YOLO models return."""

COCO_CATEGORY_LABELS: tuple[str, ...] = ("BACKGROUND", *(name.strip("()") for name in _COCO))
"""The 91 categories of COCO by their ids, 1 to 91, after BACKGROUND: what RF-DETR returns."""

IMAGENET_LABELS: tuple[str, ...] = tuple(
    (resources.files("streamseg.models") / "imagenet_labels.txt").read_text("ascii").split()
)
"""The 1000 classes of ImageNet (ILSVRC 2012), in the order of their WordNet ids, all different.

Three names would be there twice. They are CRANE_BIRD (134) and CRANE_MACHINE (517), CARDIGAN (264,
the dog) and CARDIGAN_474 (the jacket), MAILLOT (638, tights) and MAILLOT_639 (a bathing suit).
"""

LABEL_SETS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "selfie": SELFIE_LABELS,
        "voc": VOC_LABELS,
        "coco": COCO_LABELS,
        "coco-categories": COCO_CATEGORY_LABELS,
        "imagenet": IMAGENET_LABELS,
    }
)
"""The label sets by the names that cards use."""


def distinct_labels(labels: Iterable[str]) -> tuple[str, ...]:
    """Return labels of somebody else's list as a card takes them.

    Lists that come with models repeat names (COCO's "N/A"), or tell two by their case. The first
    one keeps its name, others get their index: ``N/A``, ``N/A_7``. What is blank is ``CLASS_7``.

    Args:
        labels: In the order of the classes.
    """
    taken = {CLASS_MAP.casefold()}
    distinct = []
    for index, label in enumerate(labels):
        name = label.strip() or f"CLASS_{index}"
        while name.casefold() in taken:
            name = f"{name}_{index}"
        taken.add(name.casefold())
        distinct.append(name)
    return tuple(distinct)
