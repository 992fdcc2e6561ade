"""Which images train and test a fold, and which episodes are drawn from them. Needs no torch.

A protocol is plain data: a ``TrainingPart`` and an ``EvaluationPart``; ``fewseg.protocols`` names those in use.
Evaluation episodes are frozen lists, known by their SHA-256. Training episode i is a pure function of (seed, i).
"""

from fewseg.sampling.draws import python2_shuffle
from fewseg.sampling.instances import (
    InstancePool,
    InstanceSampler,
    asked_classes,
    check_search,
    instance_list,
    instance_pool,
    search_dataset,
)
from fewseg.sampling.lists import (
    LIST_VERSION,
    MIXED_COUNTS,
    EpisodeList,
    evaluation_list,
    frozen_list,
    frozen_text,
    groups,
    validation_list,
)
from fewseg.sampling.parts import (
    Draw,
    Entry,
    EvaluationPart,
    Interaction,
    ObjectPool,
    PointMode,
    Pool,
    Protocol,
    ScoringSize,
    Search,
    Target,
    TrainingDraw,
    TrainingPart,
    Video,
)
from fewseg.sampling.pools import evaluation_pool, object_pool, training_pool, validation_pool
from fewseg.sampling.training import MAX_TRAINING_POINTS, ObjectSampler, TrainingSampler, VideoSampler
from fewseg.sampling.videos import (
    VideoPool,
    check_videos,
    objects_of,
    pair_list,
    video_dataset,
    video_list,
    video_pool,
)

__all__ = [
    "LIST_VERSION",
    "MAX_TRAINING_POINTS",
    "MIXED_COUNTS",
    "Draw",
    "Entry",
    "EpisodeList",
    "EvaluationPart",
    "InstancePool",
    "InstanceSampler",
    "Interaction",
    "ObjectPool",
    "ObjectSampler",
    "PointMode",
    "Pool",
    "Protocol",
    "ScoringSize",
    "Search",
    "Target",
    "TrainingDraw",
    "TrainingPart",
    "TrainingSampler",
    "Video",
    "VideoPool",
    "VideoSampler",
    "asked_classes",
    "check_search",
    "check_videos",
    "evaluation_list",
    "evaluation_pool",
    "frozen_list",
    "frozen_text",
    "groups",
    "instance_list",
    "instance_pool",
    "object_pool",
    "objects_of",
    "pair_list",
    "python2_shuffle",
    "search_dataset",
    "training_pool",
    "validation_list",
    "validation_pool",
    "video_dataset",
    "video_list",
    "video_pool",
]
