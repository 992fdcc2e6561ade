"""Connected components in place of instances, for data sets that have class masks only."""

from __future__ import annotations

import cv2
import numpy as np

from fewseg.datasets.base import LabelMap
from fewseg.episode import VOID

MIN_AREA = 16  # pixels; smaller components are specks of an annotation, not objects to ask for
MAX_OBJECTS = VOID - 1


def components(label: LabelMap, min_area: int = MIN_AREA) -> LabelMap:
    """The 8-connected components of every class of a label map, numbered from 1.

    This is a fallback: touching objects of a class are one component, and an object that is cut in two by an occluder
    is two. Components come in the order of their class ids, and those of a class in the order of their first pixels,
    row by row. Components below ``min_area`` pixels, and all but the 254 largest, are void: neither positive nor
    negative for any other object.

    Args:
        label: (H, W) uint8 class ids, 0 background, 255 void.
        min_area: pixels of the smallest component that is an object.

    Returns:
        (H, W) uint8 object numbers, 0 background, 255 void.

    >>> components(np.uint8([[2, 0, 1, 1], [0, 2, 0, 1], [255, 0, 3, 0]]), min_area=2)
    array([[  2,   0,   1,   1],
           [  0,   2,   0,   1],
           [255,   0, 255,   0]], dtype=uint8)
    """
    areas: list[int] = []  # of each component
    numbered = np.zeros(label.shape, np.int32)
    for class_id in np.unique(label):
        if class_id in (0, VOID):
            continue
        n, parts, stats, _ = cv2.connectedComponentsWithStats((label == class_id).astype(np.uint8), connectivity=8)
        tops = stats[:, cv2.CC_STAT_TOP]
        # OpenCV does not promise an order of its numbers
        order = sorted(range(1, n), key=lambda i: (tops[i], int((parts[tops[i]] == i).argmax())))
        lookup = np.zeros(n, np.int32)
        for number in order:
            areas.append(int(stats[number, cv2.CC_STAT_AREA]))
            lookup[number] = len(areas)
        numbered += lookup[parts]
    kept = [i for i, area in enumerate(areas) if area >= min_area]
    kept = sorted(sorted(kept, key=lambda i: (-areas[i], i))[:MAX_OBJECTS])
    final = np.full(len(areas) + 1, VOID, np.uint8)
    final[0] = 0
    final[np.asarray(kept, np.intp) + 1] = np.arange(1, len(kept) + 1)
    objects: LabelMap = final[numbered]
    objects[label == VOID] = VOID
    return objects
