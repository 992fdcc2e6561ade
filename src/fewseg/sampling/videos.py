"""Which videos train and test, which of their frames are annotated, and the points drawn from those."""

from __future__ import annotations

import contextlib
import hashlib
import json
from typing import NamedTuple

import numpy as np

from fewseg.datasets.base import FewShotDataset
from fewseg.datasets.video import VideoDataset
from fewseg.episode import NEGATIVE, POSITIVE, VOID, EpisodeSpec, Point
from fewseg.errors import FewsegError
from fewseg.functional.label_maps import Map, draw_points, random_state, sub_seed
from fewseg.sampling.parts import EvaluationPart, Protocol, TrainingPart, Video
from fewseg.sampling.pools import check_held_out, order_by_hash

OBJECT = 1  # the class id of every object: videos name no classes
LEAST_FRAMES = 3  # the first and the last frame of a video are never scored


class VideoPool(NamedTuple):
    """What training pairs are drawn from: ``objects`` maps a sequence to its objects, and each object number to the ids
    of the frames that show enough of it, in order of time. No sequence and no object is without a frame.
    """

    objects: dict[str, dict[int, tuple[str, ...]]]


def video_dataset(dataset: FewShotDataset) -> VideoDataset:
    """The data set itself, which must be one of videos.

    Raises:
        FewsegError: it has no videos.
    """
    if not isinstance(dataset, VideoDataset):
        raise _no_videos(type(dataset))
    return dataset


def check_videos(kind: type[FewShotDataset], protocol: Protocol) -> None:
    """Checks that data sets of a class can be tested under a protocol, before one is made and perhaps generated.

    Data sets of images may train where videos test.

    Raises:
        FewsegError: the protocol asks for videos, and the class has none.

    >>> from fewseg.datasets import ShapesVideo
    >>> check_videos(ShapesVideo, Protocol("mine", TrainingPart(), EvaluationPart(video=Video()), ""))
    """
    if protocol.evaluation.video is not None and not issubclass(kind, VideoDataset):
        raise _no_videos(kind)


def _no_videos(kind: type[FewShotDataset]) -> FewsegError:
    remedy = "choose Davis or ShapesVideo, or a protocol that asks for images"
    return FewsegError("--data.dataset", f"{kind.__name__}, which has no videos", "videos", remedy)


def video_pool(dataset: FewShotDataset, part: TrainingPart, held_out: bool) -> VideoPool:
    """The objects of the training sequences, in the frames that stand for single images (``dataset.ids``).

    A sequence that is on the data set's list ``val`` too is left out: it tests. Where the part holds out a tenth, it is
    a tenth of the sequences that have an object, fixed by the SHA-256 of their names: at least one, but never all.

    Args:
        dataset: with videos.
        part: which list, how large an object must be, and whether a tenth is held out.
        held_out: the tenth, for model selection; else the rest.

    Raises:
        FewsegError: a data set without videos, a part that holds nothing out, or no object that is large enough.
    """
    videos = video_dataset(dataset)
    if held_out:
        check_held_out(part)
    listed, entries = set(videos.ids(part.split)), videos.object_index()
    tested = _tested(videos)
    found: dict[str, dict[int, tuple[str, ...]]] = {}
    for sequence in videos.sequences(part.split):
        if sequence in tested:
            continue
        objects: dict[int, list[str]] = {}
        for image_id in videos.frames(sequence):
            for number, entry in entries[image_id].items() if image_id in listed else ():
                if entry.area >= part.min_area:
                    objects.setdefault(number, []).append(image_id)
        if objects:
            found[sequence] = {number: tuple(ids) for number, ids in sorted(objects.items())}
    n_held = min(max(1, len(found) // 10), len(found) - 1) if part.hold_out_tenth else 0
    tenth = set(order_by_hash(found)[: max(n_held, 0)])
    pool = VideoPool({name: objects for name, objects in found.items() if (name in tenth) == held_out})
    if not pool.objects:
        got = f"{len(found)} on the list {part.split} of {videos.name} with an object that is large enough"
        expected = f"at least {2 if held_out else 1} that the list val lacks"
        remedy = "switch validation off, or use" if held_out else "use"
        raise FewsegError("sequences", got, expected, f"{remedy} another data set or split")
    return pool


def video_list(
    dataset: FewShotDataset, part: EvaluationPart, n_shot: int, n_points: int | None, n_videos: int | None
) -> tuple[EpisodeSpec, ...]:
    """One episode for each sequence of the list, in its order.

    The annotated frames are nested in K and the points in P. The points of a frame are the same for any K.

    Args:
        dataset: with videos.
        part: which list, and which frames are annotated.
        n_shot: K annotated frames: the first ones, or the first of a random permutation of all frames.
        n_points: of each label in each annotated frame, None = dense. A label is the number of an object that the frame
            shows, or 0 for the background, to which objects belong that are not asked for (see ``objects_of``).
        n_videos: the first so many sequences; None = all.

    Returns:
        Specs whose ``query_id`` is a sequence, whose ``support_ids`` are its annotated frames and whose points have
        object numbers as labels.

    Raises:
        FewsegError: a data set without videos, K or P below 1, K above the frames of a video, a video without a frame
            that is scored, or one without an object to ask for.
    """
    videos, video = video_dataset(dataset), _video(part)
    if n_shot < 1:
        remedy = "ask for at least one annotated frame"
        raise FewsegError("n_shot", n_shot, "1 or more, the annotated frames of a video", remedy)
    if n_points is not None and n_points < 1:
        raise FewsegError("n_points", n_points, "1 or more", "ask for a number of pixels, or None for dense masks")
    specs = []
    for sequence in videos.sequences(part.split)[:n_videos]:
        frames = videos.frames(sequence)
        if len(frames) < LEAST_FRAMES:
            expected = f"at least {LEAST_FRAMES}, of which the first and the last are not scored"
            got = f"a video of {len(frames)} frame{'s' * (len(frames) != 1)}"
            raise FewsegError(f"{videos.name} {sequence}", got, expected, "take it off the list")
        if n_shot > len(frames):
            got, expected = f"{n_shot} with {len(frames)} frames in {sequence}", "no more than a video has frames"
            raise FewsegError("n_shot", got, expected, "lower n_shot, or take the video off the list")
        if video.frames == "random":
            order = random_state("video frames", part.seed, sequence).permutation(len(frames))
            frames = tuple(frames[i] for i in order)
        seed = sub_seed("video", part.seed, sequence)
        spec = EpisodeSpec(sequence, frames[:n_shot], OBJECT, seed=seed)
        specs.append(_with_points(videos, part, spec, objects_of(videos, spec, part), n_points))
    return tuple(specs)


def objects_of(dataset: VideoDataset, spec: EpisodeSpec, part: EvaluationPart) -> int:
    """How many objects of its video an episode asks for; they are numbered from 1.

    Where the first frames are annotated it is the largest number in the first frame, as in the official evaluation of
    DAVIS; a larger number that comes later is background. Where random frames are, it is the largest number in any
    frame, so that episodes with different K ask for the same objects. A smaller number that a frame lacks is asked for
    all the same: without a positive pixel there.

    Raises:
        FewsegError: there is no object, or a mask is absent.
    """
    first, *others = dataset.frames(spec.query_id)
    ids = [first] if _video(part).frames == "first" else [first, *others]
    largest = max(_largest(dataset.objects(image_id)) for image_id in ids)
    if not largest:
        where = "in its first frame" if len(ids) == 1 else "in any frame"
        remedy = "take it off the list, or restore its masks"
        raise FewsegError(f"{dataset.name} {spec.query_id}", f"no object {where}", "an object to ask for", remedy)
    return largest


def pair_list(
    dataset: FewShotDataset, protocol: Protocol, n_shot: int, n_points: int | None, n_episodes: int
) -> tuple[EpisodeSpec, ...]:
    """Frames of the held-out training sequences, for model selection: one object, shown by earlier frames.

    Sequences take turns, and within a sequence its objects. Frames are drawn at random among those that show the
    object: the latest is the query, the others support it. Nothing is said about the other objects, so no point lies on
    them.

    Args:
        dataset: with videos.
        protocol: its training part names the sequences, its evaluation part the seed.
        n_shot: K earlier frames, the ``train_shot`` of a training.
        n_points: of the object and of the background in each support, None = dense.
        n_episodes: length of the list.

    Raises:
        FewsegError: as ``video_pool``, or no object that K + 1 frames show.
    """
    videos, part = video_dataset(dataset), protocol.evaluation
    pool = video_pool(videos, protocol.training, held_out=True)
    kept = [[(number, ids) for number, ids in o.items() if len(ids) > n_shot] for o in pool.objects.values()]
    turns = [objects for objects in kept if objects]
    if not turns:
        most = max(len(ids) for objects in pool.objects.values() for ids in objects.values())
        got = f"{n_shot} with at most {most} frames of an object in the held-out sequences"
        expected = f"an object that {n_shot + 1} frames show"
        remedy = "lower train_shot, switch validation off (n_val_episodes 0), or use longer videos"
        raise FewsegError("train_shot", got, expected, remedy)
    specs = []
    for e in range(n_episodes):
        lap, which = divmod(e, len(turns))
        number, ids = turns[which][lap % len(turns[which])]
        chosen = random_state("video pairs", part.seed, e).permutation(len(ids))[: n_shot + 1].tolist()
        latest = max(chosen)
        supports = tuple(ids[i] for i in chosen if i != latest)
        seed = sub_seed("video pairs", part.seed, e, "episode")
        points = None
        if n_points is not None:
            points = tuple(
                Point(shot, row, col, POSITIVE if label == number else NEGATIVE)
                for shot, image_id in enumerate(supports)
                for row, col, label in draw_points(
                    videos.objects(image_id), n_points, seed + shot, part.short_label, labels=(0, number)
                )
            )
        specs.append(EpisodeSpec(ids[latest], supports, OBJECT, number, points=points, seed=seed))
    return tuple(specs)


def video_stamp(dataset: VideoDataset, split: str) -> str:
    """Text that differs where the frames of a list or their masks do: SHA-256 over names, sizes and times of change.

    The fingerprints of a data set cover its ``ids`` only, which need not be all frames.
    """
    states: list[object] = [sorted(_tested(dataset))]
    for sequence in dataset.sequences(split):
        for image_id in dataset.frames(sequence):
            found = [path.stat() for path in dataset.object_paths(image_id) if path.is_file()]
            states.append([image_id, *((state.st_size, state.st_mtime_ns) for state in found)])
    return hashlib.sha256(json.dumps(states).encode()).hexdigest()


def _video(part: EvaluationPart) -> Video:
    if part.video is None:
        raise FewsegError("protocol", "one that asks for images", "one that asks for videos", "use the protocol video")
    return part.video


def _tested(dataset: VideoDataset) -> set[str]:
    """The sequences of the list ``val``; none where there is no such list."""
    with contextlib.suppress(FewsegError):
        return set(dataset.sequences("val"))
    return set()


def _largest(objects: Map) -> int:
    """The largest object number of a map (H, W)."""
    return int(np.max(objects, where=objects != VOID, initial=0))


def _with_points(
    dataset: VideoDataset, part: EvaluationPart, spec: EpisodeSpec, n_objects: int, n_points: int | None
) -> EpisodeSpec:
    """The episode with the points of its annotated frames, each frame's seeded by its own id."""
    if n_points is None:
        return spec
    points: list[Point] = []
    for shot, image_id in enumerate(spec.support_ids):
        objects = dataset.objects(image_id)
        asked = np.where((objects > n_objects) & (objects != VOID), np.uint8(0), objects)
        labels = tuple(int(label) for label in np.unique(asked) if label != VOID)
        seed = sub_seed("video points", part.seed, image_id)
        points += [Point(shot, *point) for point in draw_points(asked, n_points, seed, part.short_label, labels)]
    return EpisodeSpec(spec.query_id, spec.support_ids, spec.class_id, points=tuple(points), seed=spec.seed)
