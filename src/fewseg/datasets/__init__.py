"""Data sets: folders of images and masks behind one interface, ``FewShotDataset``. No torch in here."""

from fewseg.datasets.base import FewShotDataset
from fewseg.datasets.clicks import ClickFolder
from fewseg.datasets.coco import Coco20i, CocoOneShot
from fewseg.datasets.davis import Davis
from fewseg.datasets.pascal import Pascal5i, Voc400
from fewseg.datasets.shapes import Shapes5i
from fewseg.datasets.shapes_coco import ShapesCoco
from fewseg.datasets.shapes_video import ShapesVideo
from fewseg.datasets.voc import VocDataset

__all__ = [
    "ClickFolder",
    "Coco20i",
    "CocoOneShot",
    "Davis",
    "FewShotDataset",
    "Pascal5i",
    "Shapes5i",
    "ShapesCoco",
    "ShapesVideo",
    "Voc400",
    "VocDataset",
]
