"""Training episodes without end: episode i is a pure function of (seed, i)."""

from __future__ import annotations

import math
from typing import get_args

import numpy as np

from fewseg.episode import EpisodeSpec
from fewseg.errors import FewsegError
from fewseg.functional.label_maps import sub_seed
from fewseg.sampling.parts import ObjectPool, PointMode, Pool, TrainingDraw
from fewseg.sampling.pools import check_n_shot, check_objects, check_pool
from fewseg.sampling.videos import OBJECT, VideoPool

MAX_TRAINING_POINTS = 99  # the guided networks train on 0 to 99 points a label


class TrainingSampler:
    """Training episodes without end: ``draw(i)`` is a pure function of (seed, i), so that a training can be resumed.

    Args:
        pool: what to draw from.
        n_shot: K distinct supports, none of which is the query; 0 for class-blind methods.
        points: ``"dense"`` masks; ``"sparse"``, 0 to 99 points a label, uniform (the guided networks); ``"mixed"``,
            ours: dense half of the time, else 1 to 99 points a label, uniform in the logarithm.
        seed: of the training.

    Raises:
        FewsegError: a class has too few images for K, or no class at all.

    >>> sampler = TrainingSampler(Pool({1: ("a", "b")}, ("a", "b")), n_shot=1, points="dense", seed=0)
    >>> sampler.draw(3) == sampler.draw(3)
    True
    """

    def __init__(self, pool: Pool, n_shot: int, points: PointMode, seed: int) -> None:
        if points not in get_args(PointMode):
            raise FewsegError("points", points, "dense, sparse or mixed", "choose one of the three")
        check_n_shot(n_shot)
        check_pool(pool.by_class, n_shot, 1 + n_shot)
        self.pool, self.n_shot, self.points, self.seed = pool, n_shot, points, seed
        self._classes = tuple(pool.by_class)
        self._state = np.random.RandomState(0)

    def draw(self, index: int) -> TrainingDraw:
        """Episode number ``index``; points are left to the loader: ``draw_points(..., seed=spec.seed + shot)``."""
        rng = self._state
        rng.seed(sub_seed("training", self.seed, index))  # a tenth of the time of a new RandomState
        class_id = self._classes[rng.randint(len(self._classes))]
        ids = self.pool.by_class[class_id]
        query, *supports = (ids[i] for i in rng.permutation(len(ids))[: self.n_shot + 1])
        spec = EpisodeSpec(query, tuple(supports), class_id, seed=sub_seed("training", self.seed, index, "episode"))
        return TrainingDraw(spec, _training_points(self.points, rng))


class ObjectSampler:
    """Training episodes that ask for one object, without end: ``draw(i)`` is a pure function of (seed, i).

    A class is drawn first and then one of its objects, so that classes count alike. Clicks are left to the loader.

    Args:
        pool: what to draw from.
        n_shot: K distinct supports; 0 where clicks alone say what is asked for.
        points: of the supports, as for ``TrainingSampler``.
        seed: of the training.
        crops: supports are crops of the query, K times; else other images of the object's class.

    Raises:
        FewsegError: a class without an object or with too few images for K, or no class at all.

    >>> sampler = ObjectSampler(ObjectPool({1: (("a", 2),)}, {1: ("a", "b")}), n_shot=1, points="dense", seed=0)
    >>> sampler.draw(3).spec.support_ids, sampler.draw(3).spec.object_id
    (('b',), 2)
    """

    def __init__(self, pool: ObjectPool, n_shot: int, points: PointMode, seed: int, crops: bool = False) -> None:
        if points not in get_args(PointMode):
            raise FewsegError("points", points, "dense, sparse or mixed", "choose one of the three")
        check_n_shot(n_shot)
        check_objects(pool, 0 if crops else n_shot)
        self.pool, self.n_shot, self.points, self.seed, self.crops = pool, n_shot, points, seed, crops
        self._classes = tuple(pool.objects)
        self._state = np.random.RandomState(0)

    def draw(self, index: int) -> TrainingDraw:
        """Episode number ``index``."""
        rng = self._state
        rng.seed(sub_seed("training objects", self.seed, index))
        class_id = self._classes[rng.randint(len(self._classes))]
        objects = self.pool.objects[class_id]
        query, object_id = objects[rng.randint(len(objects))]
        seed = sub_seed("training objects", self.seed, index, "episode")
        if self.crops:
            supports = (query,) * self.n_shot
        else:
            ids = self.pool.images[class_id]
            some = rng.permutation(len(ids))[: self.n_shot + 1]  # one more, for the query may be among them
            supports = tuple(ids[i] for i in some if ids[i] != query)[: self.n_shot]
        spec = EpisodeSpec(query, supports, class_id, object_id, seed=seed)
        return TrainingDraw(spec, _training_points(self.points, rng))


class VideoSampler:
    """Training pairs of frames without end, each for one object: ``draw(i)`` is a pure function of (seed, i).

    A sequence is drawn first, then one of its objects, then frames that show it. Query and support may be one frame, as
    in the guided networks' code; the supports differ where there are enough frames.

    Args:
        pool: what to draw from.
        n_shot: K supports.
        points: of the supports, as for ``TrainingSampler``.
        seed: of the training.

    Raises:
        FewsegError: no sequence, or a number of supports or kind of points that there is not.

    >>> sampler = VideoSampler(VideoPool({"goat": {2: ("goat/00000",)}}), n_shot=1, points="dense", seed=0)
    >>> sampler.draw(3).spec.query_id, sampler.draw(3).spec.support_ids, sampler.draw(3).spec.object_id
    ('goat/00000', ('goat/00000',), 2)
    """

    def __init__(self, pool: VideoPool, n_shot: int, points: PointMode, seed: int) -> None:
        if points not in get_args(PointMode):
            raise FewsegError("points", points, "dense, sparse or mixed", "choose one of the three")
        check_n_shot(n_shot)
        if not pool.objects:
            raise FewsegError("pool", "no sequence", "one or more", "check the data set and the split")
        self.pool, self.n_shot, self.points, self.seed = pool, n_shot, points, seed
        self._sequences = [list(objects.items()) for objects in pool.objects.values()]
        self._state = np.random.RandomState(0)

    def draw(self, index: int) -> TrainingDraw:
        """Episode number ``index``; points are left to the loader: ``draw_points(..., seed=spec.seed + shot)``."""
        rng = self._state
        rng.seed(sub_seed("training videos", self.seed, index))
        objects = self._sequences[rng.randint(len(self._sequences))]
        object_id, ids = objects[rng.randint(len(objects))]
        query = ids[rng.randint(len(ids))]
        places = rng.choice(len(ids), self.n_shot, replace=self.n_shot > len(ids))
        seed = sub_seed("training videos", self.seed, index, "episode")
        spec = EpisodeSpec(query, tuple(ids[i] for i in places), OBJECT, object_id, seed=seed)
        return TrainingDraw(spec, _training_points(self.points, rng))


def _training_points(points: PointMode, rng: np.random.RandomState) -> int | None:
    """Annotated pixels per label of a training episode, None = dense."""
    if points == "sparse":
        return int(rng.randint(0, MAX_TRAINING_POINTS + 1))
    if points == "dense" or rng.random_sample() < 0.5:
        return None
    count = math.floor(math.exp(rng.random_sample() * math.log(MAX_TRAINING_POINTS + 1)))
    return min(count, MAX_TRAINING_POINTS)  # exp may round up to the excluded end
