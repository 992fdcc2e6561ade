"""For people with videos: frames annotated at any moment, for any object, and every frame segmented after them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fewseg.episode import UNKNOWN, Features
from fewseg.errors import FewsegError
from fewseg.feature_store import FeatureStore, RecentStore, apart
from fewseg.frame_annotations import (
    Cleared,
    Edit,
    Known,
    LabelMap,
    Map,
    ObjectMap,
    Pixel,
    Said,
    added,
    annotation_of,
    replay,
)
from fewseg.functional.clicks import no_clicks
from fewseg.functional.fuse import fuse
from fewseg.functional.geometry import restore
from fewseg.functional.timing import Clock, Seconds
from fewseg.network import SegmentorNetwork
from fewseg.pictures import (
    Picture,
    checked_annotation,
    checked_image,
    checked_labels,
    checked_network,
    checked_threshold,
    on_canvas,
    resize_of,
    whole,
)
from fewseg.transforms import FitMode, channels_first, fit, frame_of

MULTIPLE = 32  # canvas sides are multiples of it, so that the grids of all encoders fit
BUDGET = 2**30  # bytes that features and answers may take unless a session is told otherwise
RECENT = 8  # one part in so many of the budget keeps answers and earlier guidance


class VideoAnswer(NamedTuple):
    """What a session says about one frame.

    Args:
        labels: (H, W) uint8 numbers of the objects, 0 background, at the frame's original size.
        probs: (objects, H, W) float32, the probability of each object, in the order of ``VideoSession.objects``.
        seconds: what the answer cost beyond what was kept from earlier ones, up to the fused labels; reading frames and
            putting annotations on the canvas are not included.
    """

    labels: Map
    probs: npt.NDArray[np.float32]
    seconds: Seconds


class _Support(NamedTuple):
    """The annotation (1, 1, h, w) of one object in one frame, on the canvas, and its content as a key."""

    annotation: Tensor
    digest: bytes


class _Supports(NamedTuple):
    """What a frame says of the objects of which something was said, and of all others; None where it is nothing."""

    said: Said
    named: dict[int, _Support | None]
    others: _Support | None


def check_follows(network: SegmentorNetwork, name: str, argument: str = "model") -> None:
    """Checks that a method can carry an object from frame to frame, or is class-blind.

    Args:
        network: of the method.
        name: of the method, for the message.
        argument: that chose the method, for the message.

    Raises:
        FewsegError: it reads clicks only.

    >>> import fewseg
    >>> check_follows(fewseg.create_model("GuidedNet").network, "GuidedNet")
    """
    if network.uses_clicks and not network.uses_support:
        expected, remedy = "a method that reads annotated frames", "choose another, or an InteractiveSession for images"
        raise FewsegError(argument, f"{name}, which reads clicks only", expected, remedy)


_State = dict[int, Said]  # by frame; never changed once it is in the history
_Key = tuple[tuple[int, bytes], ...]  # (frame, digest) of an object's supports: equal keys are equal guidance


class VideoSession:
    """A video, segmented after annotations that may come, change and go in any frame and for any object.

    What a change does not touch is kept, as long as the weights of the network stay as they are: a frame is encoded
    once for all objects, the guidance of an object is made anew only where its own annotations changed. Every answer is
    that of a new session with the same annotations.

    The supports of an object are the frames in which any pixel is known of it, in order of time. A pixel that belongs
    to one object is negative for all others, also for those that are added later, so that a frame in which only others
    were annotated shows an object what it is not. The last word on a pixel counts. An object without a known pixel is
    nowhere; a class-blind network gives every object the same answer, and the lowest number wins.

    Memory. Frames are read one by one and not kept. Their features stay on the network's device while they fit into
    seven eighths of ``budget``; those of further frames go to a temporary file without a name, of which nothing is left
    however the process ends. It is mapped for one access at a time. Where it cannot be written, frames are encoded
    again when they are asked for. Answers and earlier guidance are kept in the last eighth, the most recently used.
    Beyond the budget there are the annotations, the present guidance of every object, and what one frame, or the
    supports of one object, need while they are worked on. ``budget=0`` keeps all features in the file.

    Args:
        model: from ``create_model`` or ``load_model``; one that reads annotated examples, or a class-blind one.
        frames: (H, W, 3) uint8 RGB images of one size, a sequence that may read them when it is asked.
        size: longer side in pixels of the canvas on which the network works; None = that of its training, else the
            frames' own. The canvas has the proportions of the frames, its sides rounded up to multiples of 32; where
            the training stretched images, it is a square of that side.
        budget: bytes that features and answers may take.
        threshold: of the masks, on the probability.
        resize: how frames come onto the canvas, ``letterbox`` or ``square``; None = as in the training.

    Raises:
        FewsegError: no model, no frames or a frame that is no image, an option out of range, or a network that reads
            clicks only.

    >>> import fewseg
    >>> frames = np.zeros((4, 20, 30, 3), np.uint8)
    >>> session = VideoSession(fewseg.create_model("GuidedNet"), frames)
    >>> session.annotate(0, np.eye(20, 30, dtype=np.uint8))
    >>> session.click(2, 5, 7, object_id=2)
    >>> [answer.probs.shape for answer in session.segment(stop=2)], session.objects
    ([(2, 20, 30), (2, 20, 30)], (1, 2))
    """

    def __init__(
        self,
        model: Any,
        frames: Sequence[Picture],
        size: int | None = None,
        budget: int = BUDGET,
        threshold: float = 0.5,
        resize: FitMode | None = None,
    ) -> None:
        self.network = checked_network(model)
        self.name = type(model).__name__
        check_follows(self.network, self.name)
        if isinstance(frames, Mapping | str) or not (hasattr(frames, "__len__") and hasattr(frames, "__getitem__")):
            raise FewsegError("frames", type(frames).__name__, "a sequence of images", "pass a list")
        if not len(frames):
            raise FewsegError("frames", "an empty sequence", "at least one frame", "check where the frames come from")
        if size is not None and not (whole((size,), 1) and size >= 1):
            raise FewsegError("size", size, "a side of at least 1 pixel, or None", "leave it out")
        if not (whole((budget,), 1) and budget >= 0):
            raise FewsegError("budget", budget, "a whole number of bytes, 0 or more", "leave it out")
        self.frames, self.threshold = frames, checked_threshold(threshold)
        self.mode = resize_of(model, resize)
        height, width = checked_image(frames[0], "frames[0]").shape[:2]
        longer = size or getattr(model, "image_size", None) or max(height, width)
        self.canvas = _canvas((height, width), longer, self.network.min_size, self.mode)
        self.frame = frame_of((height, width), self.canvas, self.mode)
        self.device = next(iter(self.network.parameters()), torch.zeros(0)).device
        self._history: list[_State] = [{}]
        self._features = FeatureStore(budget - budget // RECENT, self.device)
        self._recent = RecentStore(budget // RECENT)
        self._supports: dict[int, _Supports] = {}  # by frame
        self._guided: dict[_Key, Any] = {}  # of the objects as they are annotated now

    # ------------------------------------------------------------------------------------------------------ edits

    @property
    def n_frames(self) -> int:
        """Frames of the video."""
        return len(self.frames)

    @property
    def objects(self) -> tuple[int, ...]:
        """Numbers of the objects that annotations name, ascending."""
        return tuple(sorted({number for said in self._history[-1].values() for number in said.objects}))

    def annotate(self, frame: int, labels: Picture, object_id: int | None = None) -> None:
        """Annotates a frame, in place of what was said of it before.

        Args:
            frame: its index, from 0.
            labels: (H, W) uint8 at the frame's size. Without ``object_id`` a label map: 0 background, the numbers of
                objects, 255 unknown; new numbers become objects, and the background is negative for all objects that
                the session has by now, not for those that are added later. With ``object_id`` the annotation map of
                that object alone: 0 negative, 1 positive, 255 unknown; what was said of other objects stays.
            object_id: number of the object, 1 to 254, or None.

        Raises:
            FewsegError: no such frame or object number, a map of another type, size or value, or more annotated frames
                of an object than the network takes.
        """
        self._check_frame(frame)
        check = checked_labels if object_id is None else checked_annotation
        array = check(labels, "labels").copy()  # the caller may go on painting
        if array.shape != self.frame.original:
            expected = f"the frames' {self.frame.original}"
            raise FewsegError("labels", array.shape, expected, "annotate the frame at its original size")
        if object_id is None:
            self._say(frame, LabelMap(array, self.objects))
        else:
            self._check_object(object_id)
            self._say(frame, ObjectMap(array, int(object_id)))

    def click(self, frame: int, row: int, col: int, object_id: int = 1, positive: bool = True) -> None:
        """Says of a pixel that it belongs to an object, and so to no other, or that it does not belong to that object.

        Args:
            frame: index, from 0.
            row: of the pixel, at the frame's size.
            col: likewise.
            object_id: number of the object, 1 to 254.
            positive: False says nothing about other objects.

        Raises:
            FewsegError: no such frame, pixel or object number, or more annotated frames of an object than the network
                takes.
        """
        self._check_frame(frame)
        self._check_object(object_id)
        height, width = self.frame.original
        if not whole((row, col), 2):
            raise FewsegError("click", (row, col), "two whole numbers, row and column", "round them")
        if not (0 <= row < height and 0 <= col < width):
            expected = f"a pixel of the frames of {height} x {width} (height x width)"
            raise FewsegError("click", (row, col), expected, "click inside it")
        self._say(frame, Pixel(int(row), int(col), int(object_id), bool(positive)))

    def clear(self, frame: int, object_id: int | None = None) -> None:
        """Takes back all annotations of a frame, or what they say of one object.

        Raises:
            FewsegError: there is none.
        """
        self._check_frame(frame)
        state = self._history[-1]
        if frame not in state:
            got = f"{frame}, which is not annotated"
            expected = f"one of {sorted(state)}" if state else "an annotated frame, of which there is none so far"
            raise FewsegError("frame", got, expected, "annotate it first")
        if object_id is None:
            self._edit({place: said for place, said in state.items() if place != frame})
            return
        self._check_object(object_id)
        named = self._supports_in(frame).named
        if object_id not in named:
            got = f"{object_id}, of which frame {frame} says nothing"
            expected = f"one of {sorted(named)}" if named else "an annotated object, of which there is none in it"
            raise FewsegError("object_id", got, expected, "annotate it first")
        self._say(frame, Cleared(int(object_id)))

    def undo(self) -> None:
        """Takes back the last edit, whatever it was.

        Raises:
            FewsegError: there is none.
        """
        if len(self._history) == 1:
            raise FewsegError("undo", "a session without edits", "at least one edit", "annotate a frame first")
        self._history.pop()

    # ----------------------------------------------------------------------------------------------------- answers

    def answer(self, frame: int) -> VideoAnswer:
        """The segmentation of a frame after all annotations; all background while there are none.

        Raises:
            FewsegError: no such frame, or one that is no image of the first frame's size.
        """
        self._check_frame(frame)
        clock = Clock(self.device)
        objects = self.objects
        with torch.inference_mode():
            keys = self._guide(objects, clock)
            margins = self._margins(int(frame), keys, clock)
            if not objects:
                shape = self.frame.original
                return VideoAnswer(np.zeros(shape, np.uint8), np.zeros((0, *shape), np.float32), clock.seconds)
            with clock.running("segment"):
                nowhere = torch.full(self.frame.original, -math.inf, device=self.device)
                stacked = torch.stack([nowhere if key is None else margins[key] for key in keys])  # (objects, H, W)
                parts = fuse(stacked - math.log(self.threshold / (1 - self.threshold)))
                numbers = torch.tensor((0, *objects), dtype=torch.uint8, device=self.device)
                labels, probs = numbers[parts].cpu().numpy(), torch.sigmoid(stacked).cpu().numpy()
            return VideoAnswer(labels, probs, clock.seconds)

    def segment(self, start: int = 0, stop: int | None = None, step: int = 1) -> Iterator[VideoAnswer]:
        """The answers for a range of frames, each made when it is asked for, after the annotations of that moment.

        Args:
            start: first frame.
            stop: the frame before which to stop; None = the end of the video.
            step: 1 takes every frame.

        Raises:
            FewsegError: the range is not one of frames of the video, in order of time.
        """
        stop = self.n_frames if stop is None else stop
        if not (whole((start, stop, step), 3) and 0 <= start <= stop <= self.n_frames and step >= 1):
            expected = f"0 <= start <= stop <= {self.n_frames} and a step of at least 1"
            raise FewsegError("start, stop, step", (start, stop, step), expected, "leave them out for the whole video")
        return (self.answer(frame) for frame in range(start, stop, step))

    def _guide(self, objects: Sequence[int], clock: Clock) -> list[_Key | None]:
        """Makes the guidance that is missing; per object the key of its own, None where nothing is known of it.

        Every object is guided alone, so that its guidance depends on nothing but its own annotations.
        """
        keys: list[_Key | None] = []
        needed: dict[_Key, list[Tensor]] = {}
        for number in objects:
            if not self.network.uses_support:  # class-blind: one answer for all
                keys.append(())
                needed[()] = []
                continue
            supports = self._supports_of(number)
            key = tuple((frame, support.digest) for frame, support in supports.items())
            keys.append(key or None)
            if key:
                needed[key] = [support.annotation for support in supports.values()]
        for key, value in self._guided.items():
            if key not in needed:
                self._recent.put(("guidance", key), value)
        guided = {}
        for key, known in needed.items():
            guided[key] = self._guided[key] if key in self._guided else self._recent.get(("guidance", key))
            if guided[key] is None:
                guided[key] = self._guidance(key, known, clock)
        self._guided = guided
        return keys

    def _guidance(self, key: _Key, annotations: list[Tensor], clock: Clock) -> Any:
        if not key:
            nothing = torch.zeros(1, 0, 3, *self.canvas, dtype=torch.uint8, device=self.device)
            return self.network.guide(self.network.encode_support(nothing), nothing[:, :, 0])
        shots = [self._encoded("support", frame, clock) for frame, _ in key]
        with clock.running("guide"):
            maps = tuple(torch.cat(taps, 1) for taps in zip(*(shot.maps for shot in shots), strict=True))
            known = torch.cat(annotations, 1).to(self.device)
            return self.network.guide(Features(maps, shots[0].image_size), known)

    def _margins(self, frame: int, keys: Sequence[_Key | None], clock: Clock) -> dict[_Key, Tensor]:
        """Foreground minus background logit (H, W) after every guidance, at the frame's size."""
        margins: dict[_Key, Tensor] = {}
        groups: dict[Hashable, list[_Key]] = {}  # guidances of one shape are one batch
        for key in dict.fromkeys(keys):
            if key is None:
                continue
            kept = self._recent.get(("margins", frame, key))
            if kept is not None:
                margins[key] = kept
            else:
                groups.setdefault(_form(self._guided[key]), []).append(key)
        if not groups:
            return margins
        features = self._encoded("query", frame, clock)
        clicks = no_clicks(features.maps[0]) if self.network.uses_clicks else None
        for members in groups.values():
            with clock.running("segment"):
                logits = self.network.segment(features, _joined([self._guided[key] for key in members]), clicks)
                found = restore((logits[:, 1:] - logits[:, :1]).float(), self.frame)  # (n, 1, H, W)
            for key, margin in zip(members, found, strict=True):
                margins[key] = apart(margin[0])
                self._recent.put(("margins", frame, key), margins[key])
        return margins

    # ------------------------------------------------------------------------------------------------------- frames

    def _encoded(self, role: str, frame: int, clock: Clock) -> Features:
        """The features of a frame: (1, C, h, w) as a query, (1, 1, C, h, w) as a support."""
        shared = role == "query" or self.network.shared_encoder
        key = ("query" if shared else role, frame)
        with clock.running("encode"):
            features = self._features.get(key)
        if features is None:
            images = self._images(frame)
            with clock.running("encode"):
                images = images.to(self.device)
                encode = self.network.encode_query if shared else self.network.encode_support
                features = encode(images if shared else images[:, None])
                self._features.put(key, features)
        if role == "support" and shared:
            return Features(tuple(m[:, None] for m in features.maps), features.image_size)
        return features

    def _images(self, frame: int) -> Tensor:
        """A frame (1, 3, h, w) uint8 on the canvas."""
        pixels = checked_image(self.frames[frame], f"frames[{frame}]")
        if pixels.shape[:2] != self.frame.original:
            got, expected = (" x ".join(map(str, size)) for size in (pixels.shape[:2], self.frame.original))
            remedy = "all frames of a video have one size"
            raise FewsegError(f"frames[{frame}]", got, f"{expected} (height x width), as frames[0]", remedy)
        return torch.from_numpy(channels_first([fit(pixels, None, self.canvas, self.mode)[0]]))

    # -------------------------------------------------------------------------------------------------- annotations

    def _supports_of(self, number: int) -> dict[int, _Support]:
        """The annotated frames of an object, in order of time."""
        found = {}
        for frame in sorted(self._history[-1]):
            supports = self._supports_in(frame)
            support = supports.named.get(number, supports.others)
            if support is not None:
                found[frame] = support
        return found

    def _supports_in(self, frame: int) -> _Supports:
        """What an annotated frame says of every object; kept until something else is said."""
        said = self._history[-1][frame]
        if frame not in self._supports or self._supports[frame].said is not said:
            known = replay(said, self.frame.original)
            named = {number: self._support(known, number) for number in known.negatives}
            self._supports[frame] = _Supports(said, named, self._support(known, None))
        return self._supports[frame]

    def _support(self, known: Known, number: int | None) -> _Support | None:
        annotation = annotation_of(known, number)
        if (annotation == UNKNOWN).all():
            return None
        fitted = np.ascontiguousarray(on_canvas(annotation, self.frame, self.mode))
        digest = hashlib.blake2b(fitted.tobytes(), digest_size=16).digest()
        return _Support(torch.from_numpy(fitted)[None, None], digest)

    def _say(self, frame: int, edit: Edit) -> None:
        state = self._history[-1]
        self._edit({**state, frame: added(state.get(frame, Said()), edit)})

    def _edit(self, state: _State) -> None:
        """Adds a state to the history, if the network takes it."""
        self._history.append(state)
        self._supports = {frame: kept for frame, kept in self._supports.items() if frame in state}
        limit = self.network.max_shot
        for number in self.objects if limit is not None else ():
            n_shot = len(self._supports_of(number))
            if limit is not None and n_shot > limit:
                self._history.pop()
                expected = f"at most {limit} for {self.name}"
                raise FewsegError(f"annotated frames of object {number}", n_shot, expected, "clear one of them first")

    def _check_frame(self, frame: int) -> None:
        if not (whole((frame,), 1) and 0 <= frame < self.n_frames):
            raise FewsegError("frame", frame, f"a number from 0 to {self.n_frames - 1}", f"there are {self.n_frames}")

    def _check_object(self, number: int) -> None:
        if not (whole((number,), 1) and 1 <= number < UNKNOWN):
            raise FewsegError("object_id", number, "a number from 1 to 254", "0 is background, 255 unknown")


def _canvas(original: tuple[int, int], longer: int, min_size: int, mode: FitMode) -> tuple[int, int]:
    """Sides of the canvas for frames of a size."""
    if mode == "square":
        return max(longer, min_size), max(longer, min_size)
    sides = [max(round(side * longer / max(original)), 1, min_size) for side in original]
    height, width = (-(-side // MULTIPLE) * MULTIPLE for side in sides)
    return height, width


def _form(guidance: Any) -> Hashable:
    """Equal for guidances that can be one batch: structure, shapes without the leading axis, types, other values."""
    if isinstance(guidance, Tensor):
        return (tuple(guidance.shape[1:]), guidance.dtype)
    if isinstance(guidance, tuple):
        return (type(guidance), *map(_form, guidance))
    return ("value", guidance)


def _joined(guidances: Sequence[Any]) -> Any:
    """Guidances of one form as one, with leading axis n.

    >>> _joined([(torch.zeros(1, 3), ()), (torch.ones(1, 3), ())])[0].shape
    torch.Size([2, 3])
    """
    first = guidances[0]
    if isinstance(first, Tensor):
        return first if len(guidances) == 1 else torch.cat(list(guidances))
    if not isinstance(first, tuple):
        return first
    make: Callable[..., Any] = type(first) if hasattr(first, "_fields") else lambda *parts: parts
    return make(*(_joined(parts) for parts in zip(*guidances, strict=True)))
