"""The vocabulary of one episode: what is drawn (specs), what a network reads (batches), what is scored (rows).

Axes: B episodes, K shots, C channels, H x W pixels, N clicks. Annotation maps are uint8: 0 negative, 1 positive,
255 unknown, so a dense mask, points, a scribble and a box are one type. Query masks use 0, 1 and 255 = void.
This file needs no torch at run time: planning and reports read specs and rows only.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch
    from torch import Tensor

NEGATIVE, POSITIVE, UNKNOWN = 0, 1, 255  # annotation maps
VOID = 255  # query masks and label images
NO_CLICK = -1  # label of a padding row in (B, N, 3) clicks

_Record = TypeVar("_Record", "Instances", "EpisodeBatch")

Task = Literal["semantic", "interactive", "video", "interactive_video", "instance"]


class Point(NamedTuple):
    """One annotated pixel of one support image, at original resolution."""

    shot: int
    row: int
    col: int
    label: int


class Click(NamedTuple):
    """One annotated pixel of the query, at original resolution; clicks are ordered."""

    row: int
    col: int
    label: int


@dataclasses.dataclass(frozen=True)
class EpisodeSpec:
    """One drawn task as plain data: what a frozen episode list holds.

    Args:
        query_id: image to segment.
        support_ids: the K annotated images.
        class_id: the class that is foreground (the data set's own numbering).
        object_id: the instance that is foreground, where the task has instances.
        points: annotated pixels of the supports; ``None`` means dense masks.
        clicks: annotated pixels of the query, in order.
        seed: seeds whatever the episode still draws (augmentation).
        group: episodes with the same group are the binary parts of one multi-way task.
        present: False for a negative query, which does not contain the class.
        support_objects: the object of each support that is cropped out of it as a reference, where supports are.
    """

    query_id: str
    support_ids: tuple[str, ...]
    class_id: int
    object_id: int | None = None
    points: tuple[Point, ...] | None = None
    clicks: tuple[Click, ...] = ()
    seed: int = 0
    group: int | None = None
    present: bool = True
    support_objects: tuple[int, ...] | None = None

    def to_json(self) -> str:
        """One line of text; equal specs give equal lines. What only references have is left out elsewhere.

        >>> spec = EpisodeSpec("q", ("s",), 3, points=(Point(0, 1, 2, 1),))
        >>> EpisodeSpec.from_json(spec.to_json()) == spec
        True
        """
        data = dataclasses.asdict(self)
        if self.support_objects is None:  # so that lists keep their hashes
            del data["support_objects"]
        return json.dumps(data, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, line: str) -> EpisodeSpec:
        """The spec that ``to_json`` wrote."""
        data = json.loads(line)
        data["support_ids"] = tuple(data["support_ids"])
        data["points"] = None if data["points"] is None else tuple(Point(*p) for p in data["points"])
        data["clicks"] = tuple(Click(*c) for c in data["clicks"])
        if "support_objects" in data:
            data["support_objects"] = tuple(data["support_objects"])
        return cls(**data)


class Box(NamedTuple):
    """A rectangle of pixels."""

    top: int
    left: int
    height: int
    width: int


@dataclasses.dataclass(frozen=True)
class Frame:
    """How an image lies in the network's canvas: ``original`` (H, W) was resized onto ``box`` of ``network`` (H, W).

    ``functional.restore`` turns logits at network size into logits at original size with it.
    """

    original: tuple[int, int]
    network: tuple[int, int]
    box: Box

    def to_network(self, row: int, col: int) -> tuple[int, int]:
        """Where the centre of an original pixel falls.

        >>> Frame((100, 200), (64, 64), Box(0, 0, 32, 64)).to_network(99, 0)
        (31, 0)
        """
        y = int((row + 0.5) * self.box.height / self.original[0])
        x = int((col + 0.5) * self.box.width / self.original[1])
        return self.box.top + min(y, self.box.height - 1), self.box.left + min(x, self.box.width - 1)


class Features(NamedTuple):
    """What an encoder returns: ``maps``, one (B, C, h, w) tensor per tap, or (B, K, C, h, w) for supports, and the
    ``image_size`` (H, W) that they describe. Features pass through an encoder unchanged.
    """

    maps: tuple[Tensor, ...]
    image_size: tuple[int, int]

    def to(self, *args: Any, **kwargs: Any) -> Features:
        """The same features elsewhere: arguments of ``Tensor.to``."""
        return Features(tuple(m.to(*args, **kwargs) for m in self.maps), self.image_size)

    def pin_memory(self) -> Features:
        """The same features in page-locked memory."""
        return Features(tuple(m.pin_memory() for m in self.maps), self.image_size)


@dataclasses.dataclass(frozen=True)
class Instances:
    """Instances of one image: ``boxes`` (n, 4) as x0, y0, x1, y1 in pixels, ``masks`` (n, H, W) uint8, ``labels`` (n,)
    and, for detections, ``scores`` (n,) in [0, 1], highest first; ``crowd`` (n,) bool marks regions that the evaluator
    ignores. Labels are class ids, but for detections of a reference, which all have label 1.
    """

    boxes: Tensor
    masks: Tensor
    labels: Tensor
    scores: Tensor | None = None
    crowd: Tensor | None = None

    def where(self, kept: Tensor | slice) -> Instances:
        """Some of them: a mask (n,) bool, places, or a slice."""
        return _each_tensor(self, lambda t: t[kept])

    def to(self, *args: Any, **kwargs: Any) -> Instances:
        """The same instances elsewhere: arguments of ``Tensor.to``."""
        return _each_tensor(self, lambda t: t.to(*args, **kwargs))

    def pin_memory(self) -> Instances:
        """The same instances in page-locked memory."""
        return _each_tensor(self, lambda t: t.pin_memory())


@dataclasses.dataclass(frozen=True)
class EpisodeBatch:
    """B episodes of one task, as every network reads them.

    Integer images are raw pixels and are normalised by the encoder, on the device; float images are already
    normalised; ``Features`` pass through an encoder unchanged. Support and query sizes may differ.

    Args:
        support_images: (B, K, 3, Hs, Ws) uint8 RGB, or Features.
        support_annotations: (B, K, Hs, Ws) uint8: 0 negative, 1 positive, 255 unknown.
        query_images: (B, 3, H, W) uint8 RGB, or Features.
        query_clicks: (B, N, 3) int32 rows of (row, col, label), label -1 = padding; N = 0 where the task has none.
        query_masks: (B, H, W) uint8 at network size, for the loss only: 0, 1, 255 = void.
        targets: per episode the mask (H, W) at scoring size, or None.
        frames: per episode how the query lies in the network's canvas.
        specs: per episode what was drawn.
        instances: per episode the detection targets, or None.
        task: the task the episodes belong to.
    """

    support_images: Tensor | Features
    support_annotations: Tensor
    query_images: Tensor | Features
    query_clicks: Tensor
    query_masks: Tensor
    targets: tuple[Tensor | None, ...]
    frames: tuple[Frame, ...]
    specs: tuple[EpisodeSpec, ...]
    instances: tuple[Instances, ...] | None = None
    task: Task = "semantic"

    def __len__(self) -> int:
        return len(self.specs)

    @property
    def n_shot(self) -> int:
        """K, the number of annotated support images."""
        return int(self.support_annotations.shape[1])

    def to(self, device: torch.device | str, non_blocking: bool = False) -> EpisodeBatch:
        """The same batch on a device; dtypes stay."""
        return _each_tensor(self, lambda t: t.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> EpisodeBatch:
        """The same batch in page-locked memory."""
        return _each_tensor(self, lambda t: t.pin_memory())


def _each_tensor(record: _Record, change: Callable[[Tensor], Tensor]) -> _Record:
    """A copy of a frozen dataclass with ``change`` applied to every tensor in it."""

    def visit(value: Any) -> Any:
        if isinstance(value, Features):
            return Features(tuple(change(m) for m in value.maps), value.image_size)
        if isinstance(value, Instances):
            return _each_tensor(value, change)
        if isinstance(value, tuple) and not hasattr(value, "_fields"):
            return tuple(visit(v) for v in value)
        return change(value) if hasattr(value, "pin_memory") else value

    return dataclasses.replace(record, **{f.name: visit(getattr(record, f.name)) for f in dataclasses.fields(record)})


@dataclasses.dataclass(frozen=True)
class VideoEpisode:
    """One video to evaluate on, never held in memory whole; training uses EpisodeBatches of frame pairs.

    The points of its spec are labelled with the number of an object, 0 for the background: what is positive for one
    object is negative for the others.

    Args:
        frames: lazy sequence of (H, W, 3) uint8 RGB arrays.
        annotations: frame index -> (objects, H, W) uint8 annotation maps; object ``i + 1`` has map ``i``.
        targets: lazy sequence of (objects, H, W) uint8 masks, or None where a frame has no truth.
        spec: what was drawn; ``query_id`` names the sequence, ``support_ids`` the annotated frames.
        frame_ids: of all frames, in order of time.
    """

    frames: Sequence[npt.NDArray[np.uint8]]
    annotations: Mapping[int, npt.NDArray[np.uint8]]
    targets: Sequence[npt.NDArray[np.uint8] | None]
    spec: EpisodeSpec
    frame_ids: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.frame_ids)

    @property
    def n_objects(self) -> int:
        """Objects that are asked for, numbered from 1."""
        return len(next(iter(self.annotations.values())))

    def to(self, device: torch.device | str, non_blocking: bool = False) -> VideoEpisode:
        """Itself: frames go to the device one by one."""
        return self

    def pin_memory(self) -> VideoEpisode:
        """Itself."""
        return self


ROW_SCHEMA_VERSION = 3  # 2 added the columns of instances, 3 added box; what older rows lack is read as None


class Row(NamedTuple):
    """The integer counts of one scored prediction: a line of ``episodes.parquet``, one schema for all tasks.

    Columns that do not apply are None. Every metric and interval can be recomputed from rows without a GPU.
    ``boundary_*`` count boundary pixels of the prediction, of the truth, and those matched by the other side
    (DAVIS F); ``seconds_*`` are wall-clock seconds per episode. ``box`` counts the pixels of the smallest rectangle
    around the true foreground, those that are scored (``functional.trivial``).

    An episode that asks for instances has one row without a ``score``, whose counts are those of the union of its
    detections and whose ``truth`` says how many objects of each class the image shows, crowds left out (``"3:2 17:1"``
    is two of class 3 and one of class 17); and one row per detection, with its ``score``, its rank as ``object_id``
    and the counts of its mask against all pixels of the class. In ``matched_*`` and ``ignored_*`` bit i tells whether
    COCO's evaluator matches or ignores it at IoU 0.5 + 0.05 i; ``matched_classes`` are the classes, parted by spaces,
    as whose detection its box would be matched at IoU 0.5.
    """

    episode: int
    query: str
    support: str  # ids joined by a space
    class_id: int
    tp: int
    fp: int
    fn: int
    tn: int
    object_id: int | None = None
    click: int | None = None
    frame: int | None = None
    group: int | None = None
    present: bool = True
    boundary_pred: int | None = None
    boundary_true: int | None = None
    boundary_pred_matched: int | None = None
    boundary_true_matched: int | None = None
    score: float | None = None
    seconds_encode: float | None = None
    seconds_guide: float | None = None
    seconds_segment: float | None = None
    seconds_refine: float | None = None
    seconds_robot: float | None = None
    truth: str | None = None
    matched_boxes: int | None = None
    matched_masks: int | None = None
    ignored_boxes: int | None = None
    ignored_masks: int | None = None
    matched_classes: str | None = None
    box: int | None = None
