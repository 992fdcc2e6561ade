"""Episodes of videos: pools of sequences, lists of annotated frames and points, pairs of frames that train."""

import dataclasses
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from fewseg.datasets import Davis
from fewseg.datasets.base import FewShotDataset, Index
from fewseg.datasets.video import VideoDataset
from fewseg.datasets.voc import write_label
from fewseg.errors import FewsegError
from fewseg.protocols import CLEAN, INTERACTIVE, INTERACTIVE_VIDEO, VIDEO
from fewseg.sampling import (
    EpisodeList,
    VideoPool,
    VideoSampler,
    check_videos,
    evaluation_list,
    frozen_list,
    objects_of,
    pair_list,
    training_pool,
    validation_list,
    video_dataset,
    video_list,
    video_pool,
)
from test_sampling import TinyDataset

FIRST, RANDOM = VIDEO.evaluation, INTERACTIVE_VIDEO.evaluation
TRAINING = dataclasses.replace(VIDEO.training, min_area=3, hold_out_tenth=False)


class Videos(VideoDataset):
    """Sequences in memory: name -> object maps; ``every`` as in Davis."""

    name = "videos"
    root = Path("nowhere")

    def __init__(self, maps, every=1, **lists):
        self.maps_of, self.every, self.lists = maps, every, lists
        self.splits = tuple(lists)

    def sequences(self, split=None):
        if split not in self.lists:
            raise FewsegError("videos split", split, "a list", "choose another")
        return self.lists[split]

    def frames(self, sequence):
        return tuple(f"{sequence}/{i:05d}" for i in range(len(self.maps_of[sequence])))

    def ids(self, split):
        return tuple(f for s in self.sequences(split) for f in self.frames(s)[:: self.every])

    def objects(self, image_id):
        sequence, frame = image_id.split("/")
        return self.maps_of[sequence][int(frame)]

    def image(self, image_id):
        return np.zeros((*self.objects(image_id).shape, 3), np.uint8)

    def index(self):
        return Index({i: {} for split in self.splits for i in self.ids(split)}, "videos")

    _object_index = FewShotDataset._object_index

    def image_path(self, image_id):
        return self.root / image_id

    def label_paths(self, image_id):
        return ()

    def list_path(self, split):
        return self.root / split

    def settings(self):
        return []


def frame(*values, shape=(20, 30)):
    """Stripes of six columns: ``values[i]`` in stripe i, background below row 15 and right of the stripes."""
    objects = np.zeros(shape, np.uint8)
    for i, value in enumerate(values):
        objects[:15, 6 * i : 6 * (i + 1)] = value
    return objects


def tens(n, length=6):
    """``n`` sequences with objects 1 and 2 in every frame."""
    return {f"s{i:02d}": [frame(1, 2)] * length for i in range(n)}


@pytest.fixture
def videos():
    """``goat`` has objects 1 and 3 at first, 2 appears in frame 2 and 4 in frame 3; ``ant`` has one, and void."""
    maps = {
        "goat": [frame(1, 0, 3), frame(1, 0, 3), frame(1, 2, 3), frame(4, 2, 3), frame(4, 2, 3)],
        "ant": [frame(1, 255, 1), frame(255, 1), frame(0, 0, 1), frame()],
    }
    return Videos(maps, val=("goat", "ant"))


# ---- evaluation lists


def test_one_episode_for_each_sequence_with_its_first_frames(videos):
    one, two = (video_list(videos, FIRST, k, None, None) for k in (1, 2))
    assert [spec.query_id for spec in one] == ["goat", "ant"]
    assert [spec.support_ids for spec in one] == [("goat/00000",), ("ant/00000",)]
    assert two[1].support_ids == ("ant/00000", "ant/00001")
    assert {(s.class_id, s.object_id, s.points, s.clicks, s.group) for s in one} == {(1, None, None, (), None)}
    assert [s.seed for s in one] == [s.seed for s in two]
    assert len({s.seed for s in one}) == 2
    assert video_list(videos, FIRST, 1, None, 1) == one[:1]
    assert video_list(videos, FIRST, 1, None, 9) == one
    episodes = evaluation_list(videos, VIDEO, 0, 1, 3)
    assert episodes.specs == video_list(videos, FIRST, 1, 3, None)
    assert EpisodeList.from_text(episodes.text()) == episodes
    assert evaluation_list(videos, VIDEO, 0, 1, 3, 1).specs == episodes.specs[:1]


def test_random_frames_are_a_permutation_of_the_whole_video_and_nested():
    videos = Videos(tens(30, length=10), val=tuple(tens(30)))
    whole, three = (video_list(videos, RANDOM, k, None, None) for k in (10, 3))
    for a, b in zip(whole, three, strict=True):
        assert sorted(a.support_ids) == list(videos.frames(a.query_id))
        assert a.support_ids[:3] == b.support_ids
    firsts = Counter(spec.support_ids[0][-1] for spec in whole)
    assert len(firsts) > 5  # each sequence has its own permutation
    assert max(firsts.values()) < 12
    other = video_list(videos, dataclasses.replace(RANDOM, seed=1), 3, None, None)
    assert sum(a.support_ids == b.support_ids for a, b in zip(three, other, strict=True)) < 3


def test_a_sequence_keeps_its_draw_whatever_else_is_listed(videos):
    alone = Videos(videos.maps_of, val=("ant",))
    for part in (FIRST, RANDOM):
        assert video_list(alone, part, 2, 4, None) == video_list(videos, part, 2, 4, None)[1:]


@pytest.mark.parametrize("part", [FIRST, RANDOM])
def test_points_have_object_numbers_are_nested_in_p_and_the_same_for_any_k(videos, part):
    few, many, more_shots = (video_list(videos, part, k, p, None) for k, p in ((2, 2), (2, 9), (4, 9)))
    for a, b, c in zip(few, many, more_shots, strict=True):
        assert set(a.points) < set(b.points)
        assert b.points == tuple(p for p in c.points if p.shot < 2)
        assert len(set(c.points)) == len(c.points)
        asked = objects_of(videos, c, part)
        for shot, image_id in enumerate(c.support_ids):
            objects = videos.objects(image_id)
            counts = Counter(p.label for p in c.points if p.shot == shot)
            assert counts == dict.fromkeys({int(v) for v in np.unique(objects) if v <= asked}, 9)
            for p in c.points:
                if p.shot == shot:
                    value = int(objects[p.row, p.col])
                    assert value != 255
                    assert p.label == (value if value <= asked else 0)


def test_points_of_one_frame_differ_from_those_of_the_next_and_of_other_videos():
    videos = Videos({"a": [frame(1, 2)] * 3, "b": [frame(1, 2)] * 3}, val=("a", "b"))
    a, b = video_list(videos, FIRST, 2, 5, None)
    places = [{p[1:] for p in s.points if p.shot == shot} for s in (a, b) for shot in (0, 1)]
    assert all(x != y for i, x in enumerate(places) for y in places[:i])


def test_a_label_with_too_few_pixels_gives_all_or_none():
    objects = np.uint8([[0, 1, 1, 255], [0, 0, 0, 2]])
    videos = Videos({"a": [objects] * 3}, val=("a",))
    (spec,) = video_list(videos, FIRST, 1, 3, None)
    labels = Counter(p.label for p in spec.points)
    assert labels == {0: 3, 1: 2, 2: 1}
    assert {p[1:] for p in spec.points if p.label} == {(0, 1, 1), (0, 2, 1), (1, 3, 2)}
    (spec,) = video_list(videos, dataclasses.replace(FIRST, short_label="none"), 1, 2, None)
    assert Counter(p.label for p in spec.points) == {0: 2, 1: 2}


def test_which_objects_are_asked_for(videos):
    goat, ant = video_list(videos, FIRST, 1, None, None)
    assert objects_of(videos, goat, FIRST) == 3  # 2 is asked for although frame 0 lacks it, 4 is background
    assert objects_of(videos, goat, RANDOM) == 4
    assert objects_of(videos, ant, FIRST) == objects_of(videos, ant, RANDOM) == 1  # 255 is no object
    five = video_list(videos, FIRST, 5, 40, 1)[0]
    assert {p.label for p in five.points if p.shot == 0} == {0, 1, 3}
    later = [p for p in five.points if p.shot == 3]
    assert {p.label for p in later} == {0, 2, 3}
    on_four = [p for p in later if p.row < 15 and p.col < 6]
    assert on_four  # the object that comes too late is background, and points fall on it
    assert {p.label for p in on_four} == {0}


def error(expected, call, *args):
    with pytest.raises(FewsegError) as caught:
        call(*args)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_a_list_refuses(videos):
    for part in (FIRST, RANDOM):
        error("n_shot: got 5 with 4 frames in ant", video_list, videos, part, 5, None, None)
        error("n_shot: got 0, expected 1 or more", video_list, videos, part, 0, None, None)
        error("n_points: got 0, expected 1 or more", video_list, videos, part, 1, 0, None)
    error("n_shot: got 0", evaluation_list, videos, VIDEO, 0, 0, None)
    error("n_episodes: got 0", evaluation_list, videos, VIDEO, 0, 1, None, 0)
    error("fold: got 1", evaluation_list, videos, VIDEO, 1, 1, None)
    short = Videos({"ant": [frame(1)] * 2}, val=("ant",))
    error("videos ant: got a video of 2 frames, expected at least 3", video_list, short, FIRST, 1, None, None)
    absent = Videos({"ant": [frame(), frame(1), frame(1)]}, val=("ant",))
    error("videos ant: got no object in its first frame", video_list, absent, FIRST, 1, None, None)
    assert objects_of(absent, video_list(absent, RANDOM, 1, None, None)[0], RANDOM) == 1
    empty = Videos({"ant": [frame(), frame(255), frame()]}, val=("ant",))
    error("videos ant: got no object in any frame", video_list, empty, RANDOM, 1, None, None)
    error("protocol: got one that asks for images", video_list, videos, CLEAN.evaluation, 1, None, None)


def test_a_data_set_without_videos_is_refused():
    expected = "--data.dataset: got TinyDataset, which has no videos, expected videos; choose Davis"
    tiny = TinyDataset()
    error(expected.split(";")[0], video_dataset, tiny)
    for protocol in (VIDEO, INTERACTIVE_VIDEO):
        error(expected, check_videos, TinyDataset, protocol)  # of the class: nothing is made
        check_videos(Davis, protocol)
    check_videos(TinyDataset, CLEAN)
    check_videos(Davis, CLEAN)
    error(expected.split(";")[0], video_pool, tiny, TRAINING, False)
    error(expected.split(";")[0], evaluation_list, tiny, VIDEO, 0, 1, None)
    error(expected.split(";")[0], validation_list, tiny, VIDEO, 0, 1, None, 4)
    error(expected.split(";")[0], frozen_list, "evaluation", tiny, VIDEO, 0, 1, None, None)


# ---- pools


def test_a_pool_by_hand():
    """``a`` loses object 1 after frame 1, and object 2 is small in frame 0; ``b`` has nothing large enough."""
    small = frame(1)
    small[19, 28:] = 2
    videos = Videos({"a": [small, frame(1, 2), frame(0, 2)], "b": [small * 0, (small == 2) * np.uint8(7)]}, train="ab")
    whole = {"a": {1: ("a/00000", "a/00001"), 2: ("a/00001", "a/00002")}}
    assert video_pool(videos, TRAINING, held_out=False) == VideoPool(whole)
    every_second = Videos(videos.maps_of, every=2, train="ab")
    assert video_pool(every_second, TRAINING, False).objects == {"a": {1: ("a/00000",), 2: ("a/00002",)}}
    small_ones = dataclasses.replace(TRAINING, min_area=2)  # the area of the small one
    assert video_pool(videos, small_ones, False).objects["a"][2] == ("a/00000", "a/00001", "a/00002")
    assert video_pool(videos, small_ones, False).objects["b"] == {7: ("b/00001",)}
    none = dataclasses.replace(TRAINING, min_area=1000)
    error("sequences: got 0 on the list train of videos", video_pool, videos, none, False)


@pytest.mark.parametrize(("n", "held"), [(2, 1), (3, 1), (19, 1), (25, 2)])
def test_a_tenth_of_the_sequences_is_held_out(n, held):
    part = dataclasses.replace(TRAINING, hold_out_tenth=True)
    names = tuple(tens(n))
    rest, tenth = (video_pool(Videos(tens(n), train=names), part, h).objects for h in (False, True))
    assert len(tenth) == held
    assert sorted([*rest, *tenth]) == sorted(names)
    turned = Videos(tens(n), train=names[::-1])
    assert set(video_pool(turned, part, True).objects) == set(tenth)  # whatever their order on the list
    assert list(video_pool(turned, part, False).objects) == list(rest)[::-1]


def test_one_sequence_trains_and_is_not_held_out():
    part, alone = dataclasses.replace(TRAINING, hold_out_tenth=True), Videos(tens(1), train=("s00",))
    assert set(video_pool(alone, part, False).objects) == {"s00"}
    error("expected at least 2 that the list val lacks", video_pool, alone, part, True)
    error("protocol: got one that keeps no images for model selection", video_pool, alone, TRAINING, True)


def test_sequences_of_the_test_list_never_train_nor_validate():
    names = tuple(tens(20))
    videos = Videos(tens(20), train=names, val=names[::2])
    part = dataclasses.replace(TRAINING, hold_out_tenth=True)
    used = [*video_pool(videos, part, True).objects, *video_pool(videos, part, False).objects]
    assert sorted(used) == list(names[1::2])
    videos.splits = ("train",)  # the list is there, although this data set does not use it
    assert set(video_pool(videos, part, False).objects) < set(names[1::2])


# ---- validation


def test_pairs_of_frames_of_the_held_out_sequences():
    maps = {name: [frame(1), frame(1, 2), frame(1, 2, 3), frame(0, 2), frame(1, 2)] for name in tens(25)}
    videos = Videos(maps, train=tuple(maps))
    held = video_pool(videos, VIDEO.training, True).objects
    specs = pair_list(videos, VIDEO, 1, None, 40)
    assert validation_list(videos, VIDEO, 0, 1, None, 40).specs == specs
    assert specs[:7] == pair_list(videos, VIDEO, 1, None, 7)
    assert len({s.seed for s in specs}) == 40
    for e, spec in enumerate(specs):
        (support,), sequence = spec.support_ids, spec.query_id.split("/")[0]
        assert sequence == list(held)[e % 2]
        assert spec.object_id == 1 + e // 2 % 2  # 3 is shown once, so that it has no pair
        assert support.startswith(sequence + "/")
        assert support < spec.query_id
        assert {support, spec.query_id} <= set(held[sequence][spec.object_id])
        assert (spec.class_id, spec.points) == (1, None)
    assert len({(s.query_id, s.support_ids, s.object_id) for s in specs}) > 15


def test_pairs_with_points_say_nothing_about_other_objects():
    maps = {name: [frame(1, 2, 255)] * 4 for name in tens(12)}
    videos = Videos(maps, train=tuple(maps))
    for spec in pair_list(videos, VIDEO, 2, 5, 12):
        assert len(spec.support_ids) == 2
        assert max(spec.support_ids) < spec.query_id
        assert Counter((p.shot, p.label) for p in spec.points) == dict.fromkeys(((0, 0), (0, 1), (1, 0), (1, 1)), 5)
        assert len({p[1:] for p in spec.points}) > 10  # the frames are alike, their points are not
        for p in spec.points:
            assert videos.objects(spec.support_ids[p.shot])[p.row, p.col] == (spec.object_id if p.label else 0)


def test_too_few_frames_for_a_pair():
    videos = Videos(tens(10, length=3), train=tuple(tens(10)))
    assert all(not s.support_ids for s in pair_list(videos, VIDEO, 0, None, 5))
    error("train_shot: got 3 with at most 3 frames of an object in the held-out", pair_list, videos, VIDEO, 3, None, 5)
    error("; lower train_shot, switch validation off", pair_list, videos, VIDEO, 3, None, 5)


@pytest.mark.parametrize("protocol", [CLEAN, INTERACTIVE])
def test_videos_do_not_train_a_protocol_for_classes(protocol):
    videos = Videos(tens(10), train=tuple(tens(10)), val=("s00",))
    for ask in (
        lambda: training_pool(videos, protocol.training, 0),
        lambda: validation_list(videos, protocol, 0, 1, None, 5),
    ):
        error("pool: got no class that trains: object is all that videos has, and fold 0 holds it out", ask)
        error(
            "; choose the protocol video or interactive-video, or train on a data set with base classes and test", ask
        )


def test_videos_as_single_images_have_no_class_that_others_could_show(videos):
    expected = "; ask for n_shot 0, or choose the protocol video or interactive-video"
    error(expected, evaluation_list, videos, INTERACTIVE, 0, 1, None)
    error("fold: got 1, expected 0; choose 0, the only fold", evaluation_list, videos, VIDEO, 1, 1, None)
    error("fold: got 9, expected 0 to 3; choose one of the 4 folds", evaluation_list, TinyDataset(), CLEAN, 9, 1, None)


# ---- training

POOL = VideoPool({
    "a": {1: tuple(f"a/{i}" for i in range(4)), 2: ("a/7", "a/8")},
    "b": {3: ("b/5",)},
    "c": {1: tuple(f"c/{i}" for i in range(50))},
})  # fmt: skip


def test_training_draws_are_pure_functions_of_seed_and_number():
    sampler, again = (VideoSampler(POOL, 2, "mixed", seed=5) for _ in range(2))
    forwards = [sampler.draw(i) for i in range(50)]
    assert [again.draw(i) for i in reversed(range(50))] == forwards[::-1]
    other = VideoSampler(POOL, 2, "mixed", seed=6)
    assert sum(other.draw(i) == drawn for i, drawn in enumerate(forwards)) < 3
    assert len({drawn.spec.seed for drawn in forwards}) == 50


def test_training_draws_a_sequence_then_an_object_then_its_frames():
    sampler = VideoSampler(POOL, 3, "dense", seed=0)
    draws = [sampler.draw(i) for i in range(3000)]
    assert {drawn.n_points for drawn in draws} == {None}
    tasks = Counter((d.spec.query_id[0], d.spec.object_id) for d in draws)
    assert set(tasks) == {("a", 1), ("a", 2), ("b", 3), ("c", 1)}
    wanted = {("a", 1): 500, ("a", 2): 500, ("b", 3): 1000, ("c", 1): 1000}
    assert all(abs(tasks[task] - count) < 110 for task, count in wanted.items())  # more than four deviations
    same = 0
    for spec in (d.spec for d in draws):
        ids = POOL.objects[spec.query_id[0]][spec.object_id]
        assert {spec.query_id, *spec.support_ids} <= set(ids)
        assert len(spec.support_ids) == 3
        assert len(set(spec.support_ids)) == 3 or len(ids) < 3
        same += len(ids) == 4 and spec.query_id in spec.support_ids
        assert (spec.class_id, spec.points) == (1, None)
    assert abs(same - 0.75 * tasks["a", 1]) < 45  # three of four frames support it: the query is drawn on its own
    queries = Counter(d.spec.query_id for d in draws if d.spec.query_id[0] == "a" and d.spec.object_id == 1)
    assert min(queries.values()) > 85  # of 125 expected


def test_training_points_and_bad_requests():
    counts = [VideoSampler(POOL, 1, "sparse", seed=0).draw(i).n_points for i in range(300)]
    assert min(counts) >= 0
    assert max(counts) <= 99
    assert len(set(counts)) > 80
    assert VideoSampler(POOL, 0, "dense", 0).draw(0).spec.support_ids == ()
    error("points: got few", VideoSampler, POOL, 1, "few", 0)
    error("n_shot: got -1", VideoSampler, POOL, -1, "dense", 0)
    error("pool: got no sequence", VideoSampler, VideoPool({}), 1, "dense", 0)


# ---- on disk


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """DAVIS 2017: ``goat`` and ``ant`` of 5 frames with objects 1 and 2, on the list of the test."""
    monkeypatch.setenv("FEWSEG_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "davis"
    for name in ("goat", "ant"):
        for folder in ("JPEGImages", "Annotations"):
            (root / folder / "480p" / name).mkdir(parents=True)
        for i in range(5):
            cv2.imwrite(str(root / f"JPEGImages/480p/{name}/{i:05d}.jpg"), np.full((20, 30, 3), 40 * i, np.uint8))
            write_label(root / f"Annotations/480p/{name}/{i:05d}.png", frame(1, 2))
    (root / "ImageSets/2017").mkdir(parents=True)
    (root / "ImageSets/2017/val.txt").write_text("goat\nant\n")
    return root


def test_frozen_lists_of_videos_are_kept_until_any_frame_changes(tree, tmp_path, monkeypatch):
    def listed():
        return frozen_list("evaluation", Davis(str(tree), year=2017, every=10), VIDEO, 0, 2, 3, None)

    first = listed()
    assert first == evaluation_list(Davis(str(tree), year=2017), VIDEO, 0, 2, 3)
    monkeypatch.setattr("fewseg.sampling.lists.evaluation_list", lambda *args: pytest.fail("drawn again"))
    assert listed() == first
    monkeypatch.undo()
    monkeypatch.setenv("FEWSEG_CACHE", str(tmp_path / "cache"))
    write_label(tree / "Annotations/480p/ant/00001.png", frame(0, 0, 0, 2))  # no frame that stands for a single image
    changed = listed()
    assert changed.specs[0] == first.specs[0]
    assert {p.label for p in changed.specs[1].points if p.shot == 1} == {0, 2}


def test_a_missing_mask_of_an_annotated_frame_is_named(tree):
    (tree / "Annotations/480p/ant/00001.png").unlink()
    davis = Davis(str(tree), year=2017)
    assert len(video_list(davis, FIRST, 1, 3, None)) == 2
    error("ant/00001.png", video_list, davis, FIRST, 2, 3, None)
