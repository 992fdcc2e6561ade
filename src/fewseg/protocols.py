"""The named protocols: which images train, which episodes test, and how they are scored.

``clean`` is ours and the default. The others repeat what published code bases do; their figures are not comparable
with each other, and each ``note`` says what is exact and what is not. Sources with their commits are
lzzcd001/OSLSM d5312de, xiaomengyc/SG-One 7436ca4, juhongm999/hsnet 6b1bc12, dvlab-research/PFENet a505675,
kaixin96/PANet 1695bf3, shelhamer/revolver df5b72b and bethgelab/siamese-mask-rcnn 49e7048. None of them repeats its
authors' choice of the best snapshot on test classes. The interactive protocols ask for objects of novel classes and
draw one and the same list of them, so that their figures can be paired. The one-shot protocols ask for all instances of
a class.
"""

from __future__ import annotations

import dataclasses

from fewseg.errors import FewsegError
from fewseg.sampling import EvaluationPart, Interaction, Protocol, Search, TrainingPart, Video

__all__ = ["PROTOCOLS", "EvaluationPart", "Interaction", "Protocol", "Search", "TrainingPart", "Video", "get_protocol"]

_MORE_THAN_TWO_CELLS = 3
_HSNET_FOLDS = range(4)
_LEAST_OBJECT = (
    64  # pixels: 8 x 8; what is smaller vanishes at network size, and components of masks leave such slivers
)

CLEAN = Protocol(
    "clean",
    TrainingPart(hold_out_tenth=True),
    EvaluationPart(),
    "Ours. Images with novel classes never train; a fixed tenth of the base images selects models; classes and queries "
    "take turns; query and supports are all different; scored at original size, void ignored.",
)

CLEAN_MIXED = Protocol(
    "clean-mixed",
    CLEAN.training,
    dataclasses.replace(CLEAN.evaluation, counts="mixed"),
    "As clean, but the number of annotated pixels differs by label and shot: 0, 1, 2, 5, 10 or n_points each, with at "
    "least one positive in the first support.",
)

CLEAN_ABSENT = Protocol(
    "clean-absent",
    CLEAN.training,
    dataclasses.replace(CLEAN.evaluation, absent=0.5),
    "As clean, but half of the queries do not show their class: images of the same split with another novel class of "
    "the fold, so that whether the class is there must be told from the class. The other half and all supports are "
    "those of clean, and one training serves both.",
)

ORACLE = Protocol(
    "oracle",
    dataclasses.replace(CLEAN.training, classes="all"),
    CLEAN.evaluation,
    "As clean, but training has seen the novel classes: an upper bound. Where a data set uses one list for train and "
    "val it has seen the test images as well.",
)

OSLSM = Protocol(
    "oslsm",
    TrainingPart(heldout="background", min_cells=_MORE_THAN_TWO_CELLS, void="background", support_void="background"),
    EvaluationPart(
        draw="oslsm",
        seed=1385,
        min_cells=_MORE_THAN_TWO_CELLS,
        scoring_size=(500, 500),
        resize="stretch",
        void="background",
        support_void="background",
    ),
    "OSLSM: its episode list (Python-2 shuffle, seed 1385), novel pixels train as background, scored at 500 x 500, "
    "void counts as background. Approximate: training images are the data set's own train split, not SBD train plus "
    "VOC 2012 train; the grid of its small-object filter is read at the first pixel of each cell.",
)

SGONE = Protocol(
    "sgone",
    TrainingPart(single_class=True, void="foreground", support_void="foreground"),
    dataclasses.replace(OSLSM.evaluation, scoring_size="original", resize="pad", swap_roles=True),
    "SG-One: trains on images of a single class with void as foreground; tests on OSLSM's list, at 1 shot with query "
    "and support exchanged, at original size with void as background. Approximate: training images are the data set's "
    "own train split, in RGB throughout (its code trained in BGR and tested in RGB); queries pass through the canvas "
    "of the data module.",
)

SGONE_MULTICLASS = Protocol(
    "sgone-multiclass",
    SGONE.training,
    dataclasses.replace(SGONE.evaluation, draw="oslsm_every_class", swap_roles=False),
    "SG-One's multi-class test: trains as sgone; 1000 queries, each with one support set for every class of the fold "
    "and one label map, in which a pixel goes to the class with the largest margin. Approximate, for no code of it is "
    "known: queries and the supports of the class that each was drawn for are OSLSM's list, without exchange of "
    "roles; the supports of the other classes are drawn by us.",
)

HSNET = Protocol(
    "hsnet",
    TrainingPart(heldout="background", image_lists=tuple(f"hsnet/trn/fold{f}" for f in _HSNET_FOLDS)),
    EvaluationPart(
        draw="hsnet",
        image_lists=tuple(f"hsnet/val/fold{f}" for f in _HSNET_FOLDS),
        scoring_size=(400, 400),
        resize="stretch",
    ),
    "HSNet: its lists of (image, class) pairs, queries in list order round and round, numpy seed 0, supports may "
    "repeat each other, scored at 400 x 400, void ignored. Needs its lists and every image they name.",
)

PFENET = Protocol(
    "pfenet",
    TrainingPart(heldout="background", min_area=2048, image_lists=("pfenet/voc_original_train", "pfenet/sbd_data")),
    EvaluationPart(
        draw="pfenet",
        n_episodes=5001,  # the guard of its loop of 5000 lets one more through
        seed=321,
        min_area=2048,
        image_lists=("pfenet/val",),
        scoring_size="longer_square",
    ),
    "PFENet: its image lists, objects of at least 2048 pixels, seed 321, scored on a square of the longer side, void "
    "ignored. Approximate: the episodes are ours, drawn as its code draws them, because its own depend on the number "
    "of its loader's workers. Needs its lists and every image they name.",
)

PANET = Protocol(
    "panet",
    TrainingPart(split="trainaug", heldout="background", support_void="background"),
    EvaluationPart(
        split="trainaug",
        draw="panet",
        n_episodes=5000,
        seed=1234,
        scoring_size=(417, 417),
        resize="stretch",
        support_void="background",
        runs=5,
    ),
    "PANet: trains and tests on trainaug (novel images have trained as background), five runs of 1000 episodes with "
    "seeds 1234 to 1238 and the mean over runs, scored at 417 x 417, void ignored but background in supports. "
    "Approximate: the episodes are ours, drawn as its code draws them, because its class lists are not at hand.",
)

REVOLVER = Protocol(
    "revolver",
    TrainingPart(split="trainaug", heldout="background", class_balanced=True),
    EvaluationPart(draw="every_mask", n_episodes=None, seed=1337, short_label="none"),
    "revolver, the guided networks: trains on trainaug, every class subsampled to the rarest one; tests every mask "
    "once, the support may be the query, a label with too few pixels gives no points, pooled positive IoU at original "
    "size, void ignored. Approximate: its test list is lost, VOC val stands in for it, and which images its "
    "subsampling kept is not known.",
)

INTERACTIVE = Protocol(
    "interactive",
    dataclasses.replace(CLEAN.training, min_area=_LEAST_OBJECT),
    EvaluationPart(n_episodes=500, min_area=_LEAST_OBJECT, threshold=0.49, interaction=Interaction("inscribed", 20)),
    "Ours, with the robot of f-BRS and RITM: trains as clean; asks for objects of novel classes with at least 64 "
    "pixels, each once; 20 clicks at the centre of the largest disk in an error; other instances of the class are "
    "background; threshold 0.49 as in the code of f-BRS; scored at original size, void ignored.",
)

INTERACTIVE_COMPONENT = Protocol(
    "interactive-component",
    INTERACTIVE.training,
    dataclasses.replace(INTERACTIVE.evaluation, interaction=Interaction("component", 20)),
    "As interactive, with the robot of BRS and DIOS, which clicks inside the largest connected error.",
)

INTERACTIVE_POINTS = Protocol(
    "interactive-points",
    INTERACTIVE.training,
    dataclasses.replace(INTERACTIVE.evaluation, threshold=0.5, interaction=Interaction("points")),
    "Section 5.1 of the guided networks' papers: n_points pixels of each label at random in the query, dense where "
    "n_points is null, which is its own support; no robot; pooled positive IoU. Approximate: objects of novel classes "
    "and of at least 64 pixels instead of all of VOC val; a label with too few pixels gives all it has, where "
    "revolver gives none, so that a curve over P does not fall because small objects lose their annotation.",
)

THESIS = Protocol(
    "thesis",
    TrainingPart(heldout="background", min_area=_LEAST_OBJECT),
    dataclasses.replace(INTERACTIVE.evaluation, threshold=0.5, interaction=Interaction("inscribed", 1)),
    "The few-shot interactive thesis: images with novel classes train, novel pixels negative; one instance of a novel "
    "class and one click on it; supports with class masks. Approximate, because the thesis leaves it open: the click "
    "is the robot's first, other instances of the class are background, the threshold is 0.5, the list is that of "
    "interactive. It evaluated fold 0 alone and trained on VOC train with SBD; here train is the data set's own.",
)

VIDEO = Protocol(
    "video",
    TrainingPart(min_area=_LEAST_OBJECT, hold_out_tenth=True, classes="all"),
    EvaluationPart(n_episodes=None, min_area=1, void="background", support_void="background", video=Video("first")),
    "Semi-supervised DAVIS: the first K frames are annotated, all objects of the first frame are followed, scored at "
    "original size without the first and the last frame, void is background; J and F are means over objects. Trains "
    "on pairs of frames of the training videos, one random object each. Approximate where points are given: revolver's "
    "are not known, these are drawn from the first frames once per video.",
)

INTERACTIVE_VIDEO = Protocol(
    "interactive-video",
    VIDEO.training,
    dataclasses.replace(VIDEO.evaluation, video=Video("random")),
    "Section 5.4 of the guided networks' papers: K random frames of the video are annotated, with P points per object "
    "and for the background; positive IU over all frames but the first and the last. Lists are nested in K and in P. "
    "All objects of the video are asked for, so that figures for different K share their objects; one that none of the "
    "annotated frames shows is answered with background. Approximate: the papers' own draws are not known.",
)

ONE_SHOT = Protocol(
    "one-shot",
    TrainingPart(heldout="background"),
    EvaluationPart(n_episodes=None, runs=5, search=Search("other", "novel")),
    "Siamese Mask R-CNN: in each test image all instances of each novel class that it shows are asked for, by crops of "
    "objects in other images of the list; five times with different references, figures are means over these. Images "
    "with novel objects train, these objects without annotation; the last 3000 images of train2017 do not train. "
    "Crowds are void: what is found in them does not count. Exact: splits, images, queries, and AP50 at original size. "
    "Approximate: the paper says one evaluation run per split, the README of its code five, and five are taken here; "
    "the references are ours, an image uniformly and then one of its objects; the score threshold, NMS and the number "
    "of detections are options of the method.",
)

ONE_SHOT_BASE = Protocol(
    "one-shot-base",
    ONE_SHOT.training,
    dataclasses.replace(ONE_SHOT.evaluation, search=Search("other", "base")),
    "As one-shot, asking for the classes that trained, which the paper calls background. One training serves both.",
)

ONE_SHOT_ALL = Protocol(
    "one-shot-all",
    dataclasses.replace(ONE_SHOT.training, classes="all"),
    dataclasses.replace(ONE_SHOT.evaluation, search=Search("other", "all")),
    "As one-shot, training and asking for all classes: table 1 of the paper, the comparison with Mask R-CNN. Folds "
    "differ in the classes of model selection only, so one is enough.",
)

ONE_SHOT_CODE = Protocol(
    "one-shot-code",
    ONE_SHOT.training,
    dataclasses.replace(ONE_SHOT.evaluation, search=Search("any", "novel")),
    "As one-shot, with references of any image of the list as in the authors' code: the query's own objects may be "
    "asked for by their own crop. One training serves both. Approximate: the other differences of the code (score "
    "threshold 0.7, NMS at 0.5, references whose mean is not subtracted at test time) are options of the method.",
)

_ALL = (
    *(CLEAN, CLEAN_MIXED, CLEAN_ABSENT, ORACLE, OSLSM, SGONE, SGONE_MULTICLASS, HSNET, PFENET, PANET, REVOLVER),
    *(INTERACTIVE, INTERACTIVE_COMPONENT, INTERACTIVE_POINTS, THESIS),
    *(VIDEO, INTERACTIVE_VIDEO),
    *(ONE_SHOT, ONE_SHOT_BASE, ONE_SHOT_ALL, ONE_SHOT_CODE),
)
PROTOCOLS: dict[str, Protocol] = {protocol.name: protocol for protocol in _ALL}


def get_protocol(name: str) -> Protocol:
    """The protocol with a name.

    Raises:
        FewsegError: no protocol has the name.

    >>> get_protocol("oslsm").evaluation.seed
    1385
    """
    if name not in PROTOCOLS:
        raise FewsegError("protocol", name, f"one of {', '.join(PROTOCOLS)}", "choose a protocol from the list")
    return PROTOCOLS[name]
