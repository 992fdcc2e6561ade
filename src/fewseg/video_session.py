"""For people with videos: frames annotated at any moment, for any object, and every frame segmented after them."""

from __future__ import annotations

import hashlib
import math
import mmap
import tempfile
import warnings
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fewseg.episode import NEGATIVE, POSITIVE, UNKNOWN, Features
from fewseg.errors import FewsegError
from fewseg.functional.clicks import no_clicks
from fewseg.functional.fuse import fuse
from fewseg.functional.geometry import restore
from fewseg.functional.timing import Seconds, now
from fewseg.network import SegmentorNetwork
from fewseg.pictures import Picture, checked_annotation, checked_image, checked_labels, on_canvas, whole
from fewseg.transforms import FitMode, channels_first, fit, frame_of

MULTIPLE = 32  # canvas sides are multiples of it, so that the grids of all encoders fit
RECENT = 8  # one part in so many of the budget keeps answers and earlier guidance

Map = npt.NDArray[np.uint8]


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


class _Labels(NamedTuple):
    """A label map of a frame, which speaks of these objects and of those that it shows."""

    labels: Map
    known: tuple[int, ...]


class _Own(NamedTuple):
    """An annotation map of one object."""

    labels: Map
    object_id: int


class _Pixel(NamedTuple):
    row: int
    col: int
    object_id: int
    positive: bool


class _Cleared(NamedTuple):
    object_id: int


class _Said(NamedTuple):
    """All that was said of one frame, in order, and the objects that this names."""

    edits: tuple[_Labels | _Own | _Pixel | _Cleared, ...]
    objects: frozenset[int]


class _Support(NamedTuple):
    """The annotation (1, 1, h, w) of one object in one frame, on the canvas, and its content as a key."""

    annotation: Tensor
    digest: bytes


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


_State = dict[int, _Said]  # by frame; never changed once it is in the history
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
        FewsegError: no frames or a frame that is no image, an option out of range, or a network that reads clicks only.

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
        budget: int = 2**30,
        threshold: float = 0.5,
        resize: FitMode | None = None,
    ) -> None:
        self.network: SegmentorNetwork = model.network
        self.name = type(model).__name__
        check_follows(self.network, self.name)
        if not (hasattr(frames, "__len__") and hasattr(frames, "__getitem__")):
            raise FewsegError("frames", type(frames).__name__, "a sequence of images", "pass a list")
        if not len(frames):
            raise FewsegError("frames", "an empty sequence", "at least one frame", "check where the frames come from")
        if size is not None and not (whole((size,), 1) and size >= 1):
            raise FewsegError("size", size, "a side of at least 1 pixel, or None", "leave it out")
        if not (whole((budget,), 1) and budget >= 0):
            raise FewsegError("budget", budget, "a whole number of bytes, 0 or more", "leave it out")
        if not 0 < threshold < 1:
            raise FewsegError("threshold", threshold, "a probability between 0 and 1", "leave it out")
        self.frames, self.threshold = frames, threshold
        self.mode: FitMode = resize or getattr(model, "image_resize", None) or "letterbox"
        height, width = checked_image(frames[0], "frames[0]").shape[:2]
        longer = size or getattr(model, "image_size", None) or max(height, width)
        self.canvas = _canvas((height, width), longer, self.network.min_size, self.mode)
        self.frame = frame_of((height, width), self.canvas, self.mode)
        self.device = next(iter(self.network.parameters()), torch.zeros(0)).device
        self._history: list[_State] = [{}]
        self._features = FeatureStore(budget - budget // RECENT, self.device)
        self._recent = _Recent(budget // RECENT)
        self._supports: dict[tuple[int, int], tuple[_Said, _Support | None]] = {}  # by frame and object
        self._guided: dict[_Key, Any] = {}  # of the objects as they are annotated now

    # ------------------------------------------------------------------------------------------------------ edits

    @property
    def n_frames(self) -> int:
        """Frames of the video."""
        return len(self.frames)

    @property
    def objects(self) -> tuple[int, ...]:
        """Numbers of the objects that annotations name, ascending."""
        return _objects(self._history[-1])

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
            named = frozenset(map(int, np.unique(array))) - {NEGATIVE, UNKNOWN}
            self._replace(frame, _Said((_Labels(array, self.objects),), named))
        else:
            self._check_object(object_id)
            self._append(frame, _Own(array, int(object_id)), {int(object_id)})

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
        self._append(frame, _Pixel(int(row), int(col), int(object_id), bool(positive)), {int(object_id)})

    def clear(self, frame: int, object_id: int | None = None) -> None:
        """Takes back all annotations of a frame, or what they say of one object.

        Raises:
            FewsegError: there is none.
        """
        self._check_frame(frame)
        state = self._history[-1]
        if frame not in state:
            got = f"{frame}, which is not annotated"
            raise FewsegError("frame", got, f"one of {sorted(state) or 'none so far'}", "annotate it first")
        if object_id is None:
            self._edit({place: said for place, said in state.items() if place != frame})
            return
        self._check_object(object_id)
        said = state[frame]
        _, negatives = _replay(said, self.frame.original)
        if object_id not in said.objects and object_id not in negatives:
            got = f"{object_id}, of which frame {frame} says nothing"
            raise FewsegError("object_id", got, f"one of {sorted(said.objects | set(negatives))}", "choose one of them")
        self._replace(frame, _Said((*said.edits, _Cleared(int(object_id))), said.objects - {object_id}))

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
        clock = _Clock(self.device)
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

    def _guide(self, objects: Sequence[int], clock: _Clock) -> list[_Key | None]:
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
                self._recent.put(("guidance", key), value, _nbytes(value))
        guided = {}
        for key, known in needed.items():
            guided[key] = self._guided[key] if key in self._guided else self._recent.get(("guidance", key))
            if guided[key] is None:
                guided[key] = self._guidance(key, known, clock)
        self._guided = guided
        return keys

    def _guidance(self, key: _Key, annotations: list[Tensor], clock: _Clock) -> Any:
        if not key:
            nothing = torch.zeros(1, 0, 3, *self.canvas, dtype=torch.uint8, device=self.device)
            return self.network.guide(self.network.encode_support(nothing), nothing[:, :, 0])
        shots = [self._encoded("support", frame, clock) for frame, _ in key]
        with clock.running("guide"):
            maps = tuple(torch.cat(taps, 1) for taps in zip(*(shot.maps for shot in shots), strict=True))
            known = torch.cat(annotations, 1).to(self.device)
            return self.network.guide(Features(maps, shots[0].image_size), known)

    def _margins(self, frame: int, keys: Sequence[_Key | None], clock: _Clock) -> dict[_Key, Tensor]:
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
                margins[key] = _apart(margin[0])
                self._recent.put(("margins", frame, key), margins[key], _nbytes(margins[key]))
        return margins

    # ------------------------------------------------------------------------------------------------------- frames

    def _encoded(self, role: str, frame: int, clock: _Clock) -> Features:
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
        for frame, said in sorted(self._history[-1].items()):
            support = self._support(frame, said, number)
            if support is not None:
                found[frame] = support
        return found

    def _support(self, frame: int, said: _Said, number: int) -> _Support | None:
        """What a frame says of an object, None where it says nothing; kept until something else is said."""
        kept = self._supports.get((frame, number))
        if kept is None or kept[0] is not said:
            annotation = _annotation_of(*_replay(said, self.frame.original), number)
            support = None
            if (annotation != UNKNOWN).any():
                fitted = np.ascontiguousarray(on_canvas(annotation, self.frame, self.mode))
                digest = hashlib.blake2b(fitted.tobytes(), digest_size=16).digest()
                support = _Support(torch.from_numpy(fitted)[None, None], digest)
            kept = self._supports[frame, number] = (said, support)
        return kept[1]

    def _append(self, frame: int, edit: _Own | _Pixel, named: set[int]) -> None:
        before = self._history[-1].get(frame, _Said((), frozenset()))
        self._replace(frame, _Said((*before.edits, edit), before.objects | named))

    def _replace(self, frame: int, said: _Said) -> None:
        self._edit({**self._history[-1], frame: said})

    def _edit(self, state: _State) -> None:
        """Adds a state to the history, if the network takes it."""
        self._history.append(state)
        self._supports = {place: kept for place, kept in self._supports.items() if place[0] in state}
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


class FeatureStore:
    """Features by key: in memory while they fit into a budget, beyond it in a file.

    What came first stays in memory: a video is mostly read in order, again and again, and whatever is evicted in that
    order would always be what is needed next. The file has no name, so nothing is left of it however the process ends.
    It is mapped for the time of one access, because mapped pages count as resident. After the first failure to write,
    nothing further is written; what could not be kept is not there when it is asked for.

    Args:
        budget: bytes in memory.
        device: where features come back; those in memory stay there.

    >>> store = FeatureStore(0, torch.device("cpu"))
    >>> store.put("a", Features((torch.arange(6.0).view(1, 2, 1, 3),), (4, 12)))
    >>> store.get("a").maps[0][0, :, 0].tolist(), store.get("b"), store.n_memory, store.n_file
    ([[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]], None, 0, 24)
    """

    def __init__(self, budget: int, device: torch.device) -> None:
        self.budget, self.device = budget, device
        self.n_memory = self.n_file = 0  # bytes
        self.file: IO[bytes] | None = None  # once there is one
        self._kept: dict[Hashable, Features] = {}
        self._filed: dict[Hashable, _Filed] = {}
        self._fails = False

    def __del__(self) -> None:
        if self.file is not None:
            self.file.close()

    def get(self, key: Hashable) -> Features | None:
        """The features, or None where they are not there."""
        if key in self._kept:
            return self._kept[key]
        filed = self._filed.get(key)
        return None if filed is None else Features(tuple(self._read(*at) for at in filed.places), filed.image_size)

    def put(self, key: Hashable, features: Features) -> None:
        """Keeps features where there is room."""
        size = _nbytes(features.maps)
        if self.n_memory + size <= self.budget:
            self._kept[key] = Features(tuple(map(_apart, features.maps)), features.image_size)
            self.n_memory += size
        elif not self._fails:
            try:
                self._filed[key] = _Filed(tuple(map(self._write, features.maps)), features.image_size)
            except OSError as error:
                self._fails = True
                says = f"features beyond the budget are computed again where they are needed: OSError: {error}"
                warnings.warn(says, stacklevel=2)

    def _write(self, values: Tensor) -> _Place:
        if self.file is None:
            # unbuffered: what a full disk leaves in a buffer would fail again when the file is closed
            self.file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115  (closed with the store)
        place = _Place(self.n_file, tuple(values.shape), values.dtype)
        raw = values.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
        self.file.seek(self.n_file)
        left = raw.data
        while left.nbytes:  # a full disk takes a part and fails at the next
            left = left[self.file.write(left) :]
        self.n_file += raw.nbytes
        return place

    def _read(self, offset: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        size = math.prod(shape) * dtype.itemsize
        if not size:
            return torch.zeros(shape, dtype=dtype, device=self.device)
        assert self.file is not None
        mapped = np.memmap(self.file, np.uint8, "r", offset, (size,))
        return torch.from_numpy(np.array(mapped)).view(dtype).view(shape).to(self.device)  # the map ends here


class _Place(NamedTuple):
    offset: int
    shape: tuple[int, ...]
    dtype: torch.dtype


class _Filed(NamedTuple):
    places: tuple[_Place, ...]
    image_size: tuple[int, int]


class _Recent:
    """The most recently used values, as many as fit into a number of bytes."""

    def __init__(self, budget: int) -> None:
        self.budget, self.n_bytes = budget, 0
        self._kept: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()

    def get(self, key: Hashable) -> Any:
        if key not in self._kept:
            return None
        self._kept.move_to_end(key)
        return self._kept[key][0]

    def put(self, key: Hashable, value: Any, size: int) -> None:
        if size > self.budget or key in self._kept:
            return
        self._kept[key] = (value, size)
        self.n_bytes += size
        while self.n_bytes > self.budget:
            self.n_bytes -= self._kept.popitem(last=False)[1][1]


class _Clock:
    """Seconds of the three verbs, added up."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.seconds = device, Seconds()

    def running(self, verb: str) -> _Running:
        return _Running(self, verb)


class _Running:
    """The time inside a ``with`` block goes to one verb."""

    def __init__(self, clock: _Clock, verb: str) -> None:
        self.clock, self.verb, self.start = clock, verb, 0.0

    def __enter__(self) -> None:
        self.start = now(self.clock.device)

    def __exit__(self, *error: object) -> None:
        spent = getattr(self.clock.seconds, self.verb) + now(self.clock.device) - self.start
        self.clock.seconds = self.clock.seconds._replace(**{self.verb: spent})


def _canvas(original: tuple[int, int], longer: int, min_size: int, mode: FitMode) -> tuple[int, int]:
    """Sides of the canvas for frames of a size."""
    if mode == "square":
        return max(longer, min_size), max(longer, min_size)
    sides = [max(round(side * longer / max(original)), 1, min_size) for side in original]
    height, width = (-(-side // MULTIPLE) * MULTIPLE for side in sides)
    return height, width


def _objects(state: _State) -> tuple[int, ...]:
    return tuple(sorted({number for said in state.values() for number in said.objects}))


def _replay(said: _Said, size: tuple[int, int]) -> tuple[Map, dict[int, npt.NDArray[np.bool_]]]:
    """What was said of a frame: whose every pixel is (H, W), 0 where nobody's, and per object what it is not."""
    owner = np.zeros(size, np.uint8)
    negatives: dict[int, npt.NDArray[np.bool_]] = {}
    for edit in said.edits:
        if isinstance(edit, _Labels):
            owner = np.where(edit.labels == UNKNOWN, 0, edit.labels).astype(np.uint8)
            numbers = {*edit.known, *map(int, np.unique(owner))} - {0}
            negatives = {number: np.equal(edit.labels, 0) for number in numbers}  # each its own: clicks write there
            continue
        number = edit.object_id
        if isinstance(edit, _Pixel):
            if number not in negatives:
                negatives[number] = np.zeros(size, bool)
            negatives[number][edit.row, edit.col] = not edit.positive
            if edit.positive or owner[edit.row, edit.col] == number:
                owner[edit.row, edit.col] = number if edit.positive else 0
            continue
        owner[owner == number] = 0
        negatives.pop(number, None)
        if isinstance(edit, _Own):
            owner[edit.labels == POSITIVE] = number
            negatives[number] = edit.labels == NEGATIVE
    return owner, negatives


def _annotation_of(owner: Map, negatives: dict[int, npt.NDArray[np.bool_]], number: int) -> Map:
    """The annotation map (H, W) of one object."""
    annotation = np.full(owner.shape, UNKNOWN, np.uint8)
    if number in negatives:
        annotation[negatives[number]] = NEGATIVE
    annotation[owner != 0] = NEGATIVE
    annotation[owner == number] = POSITIVE
    return annotation


def _nbytes(value: Any) -> int:
    """Bytes of all tensors in a tensor or tuple."""
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    return sum(map(_nbytes, value)) if isinstance(value, tuple) else 0


def _apart(values: Tensor) -> Tensor:
    """A copy to keep. On the host it has pages of its own: among short-lived blocks it would fragment the heap."""
    if values.device.type != "cpu" or not values.numel():
        return values.clone()
    copy = torch.frombuffer(mmap.mmap(-1, _nbytes(values)), dtype=values.dtype).view(values.shape)
    return copy.copy_(values)


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
