"""What a protocol is made of, as plain data, and the small records that draws hand around. Needs no torch."""

from __future__ import annotations

import dataclasses
from typing import Literal, NamedTuple

from fewseg.episode import EpisodeSpec, Task
from fewseg.functional.iou import Void

Draw = Literal["uniform", "oslsm", "oslsm_every_class", "hsnet", "pfenet", "panet", "every_mask"]
ScoringSize = Literal["original", "longer_square"] | tuple[int, int]
PointMode = Literal["dense", "sparse", "mixed"]
Entry = tuple[str, int]  # (image id, class id): one mask
Target = tuple[str, int]  # (image id, object id): one object


@dataclasses.dataclass(frozen=True)
class TrainingPart:
    """Which images a fold trains on, and what their pixels mean.

    Args:
        split: list of the data set, where ``image_lists`` is empty.
        heldout: ``"drop"`` leaves out every image with a novel class; ``"background"`` keeps it, novel pixels negative.
        single_class: keep only images that show one class.
        min_area: pixels that a class needs in an image to be drawn from it.
        min_cells: cells of OSLSM's 32-pixel grid that a class needs (see ``oslsm_cells``).
        void: what void pixels are in the loss.
        support_void: what void pixels are in dense support annotations.
        class_balanced: subsample the images of every class to the number of the rarest one.
        hold_out_tenth: keep a tenth of the images, fixed by the SHA-256 of their ids, for model selection.
        classes: ``"base"``, or ``"all"`` for the oracle that has seen the novel classes too.
        image_lists: foreign lists that replace the split.
    """

    split: str = "train"
    heldout: Literal["drop", "background"] = "drop"
    single_class: bool = False
    min_area: int = 1
    min_cells: int = 0
    void: Void = "ignore"
    support_void: Void = "ignore"
    class_balanced: bool = False
    hold_out_tenth: bool = False
    classes: Literal["base", "all"] = "base"
    image_lists: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Interaction:
    """How the object of an interactive episode is annotated in the query.

    Args:
        source: a robot clicks in the region that was segmented wrongly, at its largest inscribed disk (``inscribed``:
            f-BRS, RITM) or in its largest component (``component``: BRS, DIOS); or ``points`` are drawn with the
            episode, ``n_points`` of each label at random (the guided networks).
        n_clicks: of the robot, which does not stop early.
    """

    source: Literal["inscribed", "component", "points"] = "inscribed"
    n_clicks: int = 20


@dataclasses.dataclass(frozen=True)
class Video:
    """Which frames of a video are annotated; every object of the data set's maps is asked for, and all frames follow.

    Args:
        frames: ``first``, the first K frames in order (semi-supervised DAVIS), or ``random``, K frames drawn at random
            from the whole video (interactive video of the guided networks; nested in K).
    """

    frames: Literal["first", "random"] = "first"


@dataclasses.dataclass(frozen=True)
class Search:
    """How episodes ask for all instances of a class, which crops of other objects show: one for each image and class.

    Args:
        reference: the crops come from ``other`` images than the query, or from ``any``.
        classes: those asked for: ``novel``, ``base`` or ``all``.
    """

    reference: Literal["other", "any"] = "other"
    classes: Literal["novel", "base", "all"] = "novel"


@dataclasses.dataclass(frozen=True)
class EvaluationPart:
    """Which episodes test a fold, and how they are scored.

    Args:
        split: list of the data set, where ``image_lists`` is empty.
        draw: how episodes that ask for a class are drawn, see the ``_draw_*`` functions.
        n_episodes: length of the list over all runs; None = every mask once, or every image with every class that it
            shows where instances are asked for. ``oslsm_every_class`` counts queries here, each of which has as many
            episodes as the fold has classes.
        seed: of the draw.
        min_area: pixels that a class needs in an image to be drawn from it, and an object to be asked for.
        min_cells: cells of OSLSM's 32-pixel grid that a class needs (see ``oslsm_cells``).
        image_lists: foreign lists that replace the split.
        scoring_size: where predictions and masks are compared: the image's size, a square of its longer side (the
            added part is void), or (height, width).
        resize: how queries enter the network's canvas: ``"pad"`` keeps their proportions, ``"stretch"`` does not.
        void: what void pixels are in the metric.
        support_void: what void pixels are in dense support annotations; points are never drawn from void.
        swap_roles: 1-shot episodes exchange query and support (SG-One).
        counts: ``"equal"`` draws as many points of each label in each support; ``"mixed"`` draws the counts as well.
        short_label: a label with fewer pixels than points gives ``"all"`` it has, or ``"none"`` (revolver).
        runs: the list is this many runs in a row, each with its own seed; figures are means over runs.
        threshold: on the foreground probability, or on the score of a detection whose pixels count as foreground.
        interaction: how queries are clicked; None where episodes ask for a class, not for an object.
        video: which frames are annotated, where an episode is a whole video; else None.
        search: how instances are asked for, where an episode is an image and a class; else None.
        absent: share of the episodes whose query does not show the class, in (0, 1), where episodes ask for a class
            and each by itself; None = as they are drawn.
    """

    split: str = "val"
    draw: Draw = "uniform"
    n_episodes: int | None = 1000
    seed: int = 0
    min_area: int = 1
    min_cells: int = 0
    image_lists: tuple[str, ...] = ()
    scoring_size: ScoringSize = "original"
    resize: Literal["pad", "stretch"] = "pad"
    void: Literal["ignore", "background"] = "ignore"
    support_void: Void = "ignore"
    swap_roles: bool = False
    counts: Literal["equal", "mixed"] = "equal"
    short_label: Literal["all", "none"] = "all"
    runs: int = 1
    threshold: float = 0.5
    interaction: Interaction | None = None
    video: Video | None = None
    search: Search | None = None
    absent: float | None = None

    @property
    def task(self) -> Task:
        """The task of the episodes."""
        if self.search is not None:
            return "instance"
        if self.video is not None:
            return "video" if self.video.frames == "first" else "interactive_video"
        return "semantic" if self.interaction is None else "interactive"

    @property
    def robot(self) -> Literal["inscribed", "component"] | None:
        """The robot that clicks, where one does."""
        return None if self.interaction is None or self.interaction.source == "points" else self.interaction.source

    @property
    def support_may_equal_query(self) -> bool:
        """Whether this draw may hand out the query as its own support."""
        return self.draw == "every_mask"

    @property
    def supports_may_repeat(self) -> bool:
        """Whether this draw may hand out the same support twice."""
        return self.draw in ("every_mask", "hsnet")

    def run_of(self, episode: int, n_episodes: int) -> int:
        """The run that episode number ``episode`` of a list of ``n_episodes`` belongs to.

        >>> [EvaluationPart(runs=2).run_of(e, 5) for e in range(5)]
        [0, 0, 0, 1, 1]
        """
        return episode * self.runs // n_episodes


class Protocol(NamedTuple):
    """A named variant of a benchmark; ``note`` says what it reproduces and what it only approximates."""

    name: str
    training: TrainingPart
    evaluation: EvaluationPart
    note: str


class Pool(NamedTuple):
    """What episodes are drawn from: ``by_class`` maps a class id to the ids of images that show enough of it, in the
    list's order; ``images`` are all ids that appear in it, each once.
    """

    by_class: dict[int, tuple[str, ...]]
    images: tuple[str, ...]


class ObjectPool(NamedTuple):
    """What interactive episodes are drawn from, by class id and in the list's order: ``objects``, the (image id, object
    id) of those that are large enough; ``images``, the images that may support the class.
    """

    objects: dict[int, tuple[Target, ...]]
    images: dict[int, tuple[str, ...]]


class TrainingDraw(NamedTuple):
    """One training episode and its annotated pixels per label and support, None = dense."""

    spec: EpisodeSpec
    n_points: int | None


class Episode(NamedTuple):
    """An episode as it was drawn, before it has a seed, points or clicks."""

    query_id: str
    support_ids: tuple[str, ...]
    class_id: int
    group: int | None = None
    object_id: int | None = None
