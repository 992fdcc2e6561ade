"""What answers without any learning would score, from the rows of whichever method was evaluated. Needs no torch."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd

from fewseg.episode import VOID
from fewseg.functional.iou import Void

ALL_BACKGROUND, ALL_FOREGROUND, TRUE_BOX = "all background", "all foreground", "true box"

_UNKNOWN = ["boundary_pred", "boundary_true", "boundary_pred_matched", "boundary_true_matched"]


def box_area(target: npt.NDArray[np.uint8], void: Void = "ignore") -> int:
    """Pixels that count inside the smallest rectangle, parallel to the axes, around the true foreground.

    Args:
        target: (H, W) uint8: 0, 1, 255 = void.
        void: what void pixels are, as in ``iou.confusion_counts``: where they are left out they do not count here.

    Returns:
        a number of pixels; 0 where there is no foreground.

    >>> truth = np.array([[0, 0, 0, 0], [0, 1, 255, 0], [0, 0, 1, 0]], np.uint8)
    >>> box_area(truth), box_area(truth, "background"), box_area(truth, "foreground")
    (3, 4, 4)
    """
    truth = (target == 1) | (target == VOID) if void == "foreground" else target == 1
    left, top, width, height = cv2.boundingRect(truth.view(np.uint8))
    if void != "ignore":
        return int(width * height)
    inside = target[top : top + height, left : left + width]
    return int(inside.size - np.count_nonzero(inside == VOID))


def trivial_rows(final: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The rows that trivial answers would have had to the same questions.

    How many pixels of a question are foreground and background does not depend on what was answered, so the rows of any
    method serve, those of class-blind ones and of several classes in one label map too. But each question is answered
    by itself: where the classes of a query or the objects of a video share one label map, "all foreground" and "true
    box" claim some pixels several times, which a label map could not. That is the better deal for them.

    Args:
        final: rows that count for accuracy, as from ``run_figures.final_rows``; of a search for instances, the rows of
            the unions, so that the box is one around all objects of the class.

    Returns:
        by name the same rows with other counts: ``ALL_BACKGROUND``, ``ALL_FOREGROUND``, and ``TRUE_BOX``, the smallest
        rectangle around the true foreground, which is absent where rows were written without ``box``. Boundaries are
        not known, and nothing took any time.

    >>> from fewseg.episode import Row
    >>> rows = trivial_rows(pd.DataFrame([Row(0, "q", "s", 1, tp=2, fp=5, fn=1, tn=12, box=4)]))
    >>> {name: one[["tp", "fp", "fn", "tn"]].values.tolist()[0] for name, one in rows.items()}
    {'all background': [0, 0, 3, 17], 'all foreground': [3, 17, 0, 0], 'true box': [3, 1, 0, 16]}
    """
    positives, negatives = final["tp"] + final["fn"], final["fp"] + final["tn"]
    seconds = [name for name in final.columns if name.startswith("seconds_")]
    bare = final.assign(**dict.fromkeys([*_UNKNOWN, *seconds]))
    found = {
        ALL_BACKGROUND: bare.assign(tp=0, fp=0, fn=positives, tn=negatives),
        ALL_FOREGROUND: bare.assign(tp=positives, fp=negatives, fn=0, tn=0),
    }
    if final["box"].notna().all():
        extra = final["box"].astype("int64") - positives
        found[TRUE_BOX] = bare.assign(tp=positives, fp=extra, fn=0, tn=negatives - extra)
    return found
