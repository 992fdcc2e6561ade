"""The papers' numbers, most of them for few-shot segmentation on PASCAL-5i, in percent and as they were printed.

Numbers are never corrected. What is odd about one stands in its ``caveat``: a printed mean that its own folds
contradict, a number known only from quotations, another data set split, post-processing. They are the numbers of other
code on other images than any of ours, and between themselves they follow several protocols (docs/protocols.md).
"""

from __future__ import annotations

from typing import NamedTuple

Folds = tuple[float, float, float, float]


class Published(NamedTuple):
    """One line of a paper's table.

    Args:
        method: its name in the source.
        our_class: the method's class here, None where it has none.
        source: the paper that was read for it.
        place: table or section of the source; empty where it is not known.
        dataset: where it was measured.
        setting: what is not plain about it: variant, fusion of shots, annotation.
        metric: "mIoU" (mean over classes), "FB-IoU" (mean of foreground and background) or "positive IU" (pooled);
            of objects with the number of clicks, e.g. "mIoU, 1 click"; "J" (mean IoU over the frames of videos);
            "AP50 of boxes" and "AP50 of masks" (of instances, mean over classes).
        n_shot: K; 0 where no support is read.
        folds: in percent, as printed; None where the source has none. Splits 1 to 4 of COCO are folds 0 to 3.
        mean: in percent, as printed.
        caveat: what a reader must know; empty where nothing is odd.
    """

    method: str
    our_class: str | None
    source: str
    place: str
    dataset: str
    setting: str
    metric: str
    n_shot: int
    folds: Folds | None
    mean: float
    caveat: str

    @property
    def mean_of_folds(self) -> float | None:
        """What the mean should be by the printed folds.

        >>> round(of("SGOne")[0].mean_of_folds, 2)
        46.35
        """
        return None if self.folds is None else sum(self.folds) / len(self.folds)

    @property
    def contradicts_itself(self) -> bool:
        """Whether the printed mean is further from the mean of its folds than rounding of both can explain.

        >>> [row.setting for row in of("SGOne") if row.contradicts_itself]
        ['maximum of the five predictions']
        """
        mean = self.mean_of_folds
        return mean is not None and round(abs(mean - self.mean), 6) > 0.1


_SG_ONE = "Zhang et al., SG-One, arXiv 1810.09091"
_PANET = "Wang et al., PANet, ICCV 2019", ""
_GUIDED = "Rakelly et al., guided networks, arXiv 1806.07373"
_ONE_SHOT = "Michaelis et al., one-shot instance segmentation, arXiv 1811.11507"
_THESIS = "Bhatia, few-shot interactive segmentation, thesis"
_TUNED = "the five classes of table 2.1 average 27.2"
_BJ = "the five classes of table 2.1 average 33.3"
_LATER = "later papers", ""
_RECALLED = "as quoted by later papers, not re-read"
_BY_OSLSM = "quoted by SG-One from the paper of OSLSM"
_AGAIN = "an implementation by the authors of SG-One, which is not published"
_QUOTED = "quoted by SG-One"
_CRF = "post-processed with a CRF; " + _QUOTED
_TRAINAUG = "mean of five runs, tested on trainaug and not on val"


def _mious(
    method: str,
    our_class: str | None,
    source: tuple[str, str],
    n_shot: int,
    folds: Folds | None,
    mean: float,
    caveat: str = "",
    setting: str = "",
) -> Published:
    return Published(method, our_class, *source, "PASCAL-5i", setting, "mIoU", n_shot, folds, mean, caveat)


def _fb_iou(
    method: str,
    our_class: str | None,
    source: tuple[str, str],
    n_shot: int,
    mean: float,
    caveat: str = "",
    setting: str = "",
) -> Published:
    return Published(method, our_class, *source, "PASCAL-5i", setting, "FB-IoU", n_shot, None, mean, caveat)


def _thesis(
    method: str, our_class: str, miou: float, pooled: float, setting: str = "", caveat: str = ""
) -> tuple[Published, Published]:
    """The two means of a line of the thesis's table 2.2; it calls the pooled IoU FB-IoU."""
    place = _THESIS, "table 2.2", "PASCAL-5i, fold 0", setting
    named = (caveat, "called FB-IoU there")
    return (
        Published(method, our_class, *place, "mIoU, 1 click", 1, None, miou, caveat),
        Published(method, our_class, *place, "positive IU, 1 click", 1, None, pooled, "; ".join(filter(None, named))),
    )


def _ap50(
    method: str,
    place: str,
    setting: str,
    boxes: tuple[Folds | None, float],
    masks: tuple[Folds | None, float],
    caveat: str,
    our_class: str = "SiameseMaskRCNN",
    n_shot: int = 1,
) -> tuple[Published, Published]:
    """The two lines of a detector in the tables of one-shot instance segmentation."""
    source = _ONE_SHOT, place, "COCO 2017", setting
    return (
        Published(method, our_class, *source, "AP50 of boxes", n_shot, *boxes, caveat),
        Published(method, our_class, *source, "AP50 of masks", n_shot, *masks, caveat),
    )


_TABLE_2, _TABLE_3, _TABLE_4, _TABLE_5, _TABLE_6 = ((_SG_ONE, f"table {i}") for i in range(2, 7))
_ABLATION = _SG_ONE, "section 4.5"
_ONE_LOGREG = _BY_OSLSM + "; the folds average 31.3, which rounding may explain"
_FIVE_LOGREG = _BY_OSLSM + "; the folds average 39.4, which rounding may explain"
_COSEG = _BY_OSLSM + "; the folds average 27.0, which rounding may explain"
_OSVOS = _BY_OSLSM + "; fine-tuning on the support at test time, listed under the name OSVOS"
_BINARY = "one object a video; the paper also snaps masks to contours, which its PyTorch code and ours do not"
_MAX = "the folds average 45.6: the printed mean contradicts them"
_AVERAGE = "the text gives the gain over co-FCN as 5.2 points; the table gives 5.7, and 3.2 over OSLSM"
_MASKING = "the text calls the main network best on every data set; this one is better on fold 0"
_CONCAT = "the only mean with two decimals; the folds average 41.78"
_PANET_FOLDS = f"folds {_RECALLED}; the mean stands in the paper's abstract; {_TRAINAUG}"
_PANET_FB = f"{_RECALLED}; {_TRAINAUG}"
_DIFFERS = "; differs from the table of SG-One"
_INSTANCES = (
    "trained on instances and not on classes, guided by one positive and one negative pixel; the folds are only in a "
    'figure; "+6" at 10 pixels'
)
_RUNS = (
    "one evaluation run per split (section 5.2), mean of five runs (README of the code); the code drops scores below "
    "0.7, does not subtract the mean from references at test time, and may crop them from the query"
)
_SHIFTED = (
    "annotated boxes and masks, shifted at random; the code shifts detections and permutes their scores, and which of "
    "both was printed is not known"
)
_FIXED_CLASSES = "320,000 steps with the losses unweighted; it knows its classes and reads no reference"
_AROUND_17 = 'the text says "around 17%" and "around 15%"; ' + _RUNS

PUBLISHED: tuple[Published, ...] = (
    # the main tables of SG-One
    _mious("SG-One", "SGOne", _TABLE_2, 1, (40.2, 58.4, 48.4, 38.4), 46.3),
    _mious(
        "SG-One", "SGOne", _TABLE_3, 5, (40.8, 57.2, 46.0, 38.5), 46.2, _MAX, setting="maximum of the five predictions"
    ),
    _mious("SG-One", "SGOne", _TABLE_3, 5, (41.9, 58.6, 48.6, 39.4), 47.1, _AVERAGE, setting="average of the vectors"),
    _fb_iou("SG-One", "SGOne", _TABLE_4, 1, 63.1),
    _fb_iou("SG-One", "SGOne", _TABLE_4, 5, 65.9),
    _fb_iou("SG-One", "SGOne", _LATER, 1, 63.9, _RECALLED + _DIFFERS),
    _fb_iou("SG-One", "SGOne", _LATER, 5, 65.9, _RECALLED),
    # its ablations; what the text alone gives has no folds
    _mious(
        "SG-One-concat",
        "SGOne",
        _TABLE_5,
        1,
        (38.4, 51.4, 44.8, 32.5),
        41.75,
        _CONCAT,
        setting="five input channels, second encoder",
    ),
    _mious(
        "SG-One-masking",
        "SGOne",
        _TABLE_5,
        1,
        (41.9, 55.3, 47.4, 35.5),
        45.0,
        _MASKING,
        setting="support image multiplied by its mask",
    ),
    _mious("SG-One", "SGOne", _ABLATION, 1, None, 42.2, setting="support mask not used"),
    _mious("SG-One", "SGOne", _ABLATION, 1, None, 45.5, setting="ReLU after the third convolutions"),
    _mious("SG-One", "SGOne", _ABLATION, 1, None, 30.7, setting="2-norm distance instead of cosine"),
    _mious("SG-One", "SGOne", _ABLATION, 1, None, 43.1, setting="no segmentation branch"),
    _mious("SG-One", "SGOne", _ABLATION, 1, None, 45.7, setting="branches not concatenated"),
    _mious("SG-One-separate", "SGOne", _TABLE_6, 1, None, 44.8, setting="a network of its own for the support"),
    _mious(
        "SG-One",
        "SGOne",
        (_SG_ONE, "section 4.4"),
        1,
        None,
        29.4,
        "1000 random entries, other episodes than the tables",
        setting="five classes at once",
    ),
    # baselines
    _mious("1-NN", "NearestNeighbor", _TABLE_2, 1, (25.3, 44.9, 41.7, 18.4), 32.6, _BY_OSLSM),
    _mious("1-NN", "NearestNeighbor", _TABLE_3, 5, (34.5, 53.0, 46.9, 25.6), 40.0, _BY_OSLSM),
    _mious("LogReg", "LogReg", _TABLE_2, 1, (26.9, 42.9, 37.1, 18.4), 31.4, _ONE_LOGREG),
    _mious("LogReg", "LogReg", _TABLE_3, 5, (35.9, 51.6, 44.5, 25.6), 39.3, _FIVE_LOGREG),
    _mious("Siamese", "Siamese", _TABLE_2, 1, (28.1, 39.9, 31.8, 25.8), 31.4, _BY_OSLSM),
    _mious("OSVOS", "OSVOS", _TABLE_2, 1, (24.9, 38.8, 36.5, 30.1), 32.6, _OSVOS),
    _mious("Co-segmentation", None, _TABLE_3, 5, (25.1, 28.9, 27.7, 26.3), 27.1, _COSEG),
    _fb_iou("FG-BG", "FgBg", _TABLE_4, 1, 55.1, _QUOTED + " from the paper of co-FCN"),
    _fb_iou("FG-BG", "FgBg", _TABLE_4, 5, 55.6, _QUOTED + " from the paper of co-FCN"),
    # OSLSM
    _mious("OSLSM", "OSLSM", _TABLE_2, 1, (33.6, 55.3, 40.9, 33.5), 40.8, _QUOTED),
    _mious("OSLSM", "OSLSM", _TABLE_3, 5, (35.9, 58.1, 42.7, 39.1), 43.9, _QUOTED),
    _fb_iou("OSLSM", "OSLSM", _TABLE_4, 1, 55.2, _QUOTED),
    _fb_iou("OSLSM", "OSLSM", _LATER, 1, 61.3, _RECALLED + _DIFFERS),
    _fb_iou("OSLSM", "OSLSM", _LATER, 5, 61.5, _RECALLED),
    # co-FCN
    _mious("co-FCN", "CoFCN", _TABLE_2, 1, (36.7, 50.6, 44.9, 32.4), 41.1, _AGAIN),
    _mious("co-FCN", "CoFCN", _TABLE_3, 5, (37.5, 50.0, 44.1, 33.9), 41.4, _AGAIN),
    _fb_iou("co-FCN", "CoFCN", _TABLE_4, 1, 60.1, _QUOTED),
    _fb_iou("co-FCN", "CoFCN", _TABLE_4, 5, 60.8, _QUOTED),
    _fb_iou("co-FCN", "CoFCN", _LATER, 1, 60.1, _RECALLED),
    _fb_iou("co-FCN", "CoFCN", _LATER, 5, 60.2, _RECALLED + _DIFFERS),
    # prototypes
    _fb_iou("PL+SEG", "PL", _TABLE_4, 1, 61.2, _CRF),
    _fb_iou("PL+SEG", "PL", _TABLE_4, 5, 62.3, _CRF),
    _mious("PANet", "PANet", _PANET, 1, (42.3, 58.0, 51.1, 41.2), 48.1, _PANET_FOLDS),
    _mious("PANet", "PANet", _PANET, 5, (51.8, 64.6, 59.8, 46.5), 55.7, _PANET_FOLDS),
    _fb_iou("PANet", "PANet", _PANET, 1, 66.5, _PANET_FB),
    _fb_iou("PANet", "PANet", _PANET, 5, 70.7, _PANET_FB),
    # the guided networks print one semantic number; the others are in figures
    Published(
        "revolver",
        "GuidedNet",
        _GUIDED,
        "section 5.2",
        "PASCAL VOC, four class-wise splits",
        "1 positive and 1 negative pixel",
        "positive IU",
        1,
        None,
        26.4,
        _INSTANCES,
    ),
    *_thesis("f-BRS", "FBRSNet", 25.4, 26.3),
    *_thesis("f-BRS", "FBRSNet", 27.5, 28.6, "tuned on the support, mean of five seeds", _TUNED),
    *_thesis("FSIS", "FSIS", 33.2, 34.3, "f-BRS before the junction (BJ)", _BJ),
    *_thesis("FSIS", "FSIS", 34.3, 35.7, "f-BRS after the junction (AJ)"),
    # videos: the first frame's mask is the support
    Published(
        "OSVOS",
        "OSVOS",
        "Caelles et al., OSVOS, arXiv 1611.05198",
        "abstract",
        "DAVIS 2016",
        "mask of the first frame",
        "J",
        1,
        None,
        79.8,
        _BINARY,
    ),
    # instances: trained on all classes, then on 60 with 20 held out
    *_ap50("Mask R-CNN", "table 1", "all classes", (None, 42.5), (None, 40.1), _FIXED_CLASSES, "MaskRCNN", n_shot=0),
    *_ap50("Siamese Mask R-CNN", "table 1", "all classes", (None, 35.7), (None, 33.4), _RUNS),
    *_ap50(
        "Siamese Mask R-CNN",
        "table 2",
        "background classes, which train",
        ((38.9, 37.1, 37.8, 36.6), 37.6),
        ((36.6, 33.7, 35.1, 33.9), 34.8),
        _RUNS,
    ),
    *_ap50(
        "Siamese Mask R-CNN",
        "table 2",
        "one-shot classes",
        ((15.3, 17.6, 17.4, 17.0), 16.8),
        ((13.2, 15.4, 16.3, 14.7), 14.9),
        _AROUND_17,
    ),
    *_ap50(
        "random boxes",
        "table 2",
        "one-shot classes",
        ((2.3, 2.0, 1.7, 2.7), 2.2),
        ((1.2, 1.0, 1.0, 1.2), 1.1),
        _SHIFTED,
    ),
)


def of(our_class: str) -> tuple[Published, ...]:
    """What papers printed about a method, in the order of ``PUBLISHED``; empty where nothing is known.

    >>> [row.mean for row in of("PL")]
    [61.2, 62.3]
    """
    return tuple(row for row in PUBLISHED if row.our_class == our_class)
