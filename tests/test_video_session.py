"""Video sessions: every answer is that of a new session with the same annotations, and nothing is computed twice."""

import contextlib
import gc
import inspect
import os
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

import fewseg
import fewseg.models
import fewseg.video_session
from fewseg import frame_annotations
from fewseg.episode import Features
from fewseg.errors import FewsegError
from fewseg.network import SegmentorNetwork
from fewseg.session import InteractiveSession
from fewseg.video_session import VideoSession

torch.set_num_threads(1)

HEIGHT, WIDTH, SIDE, LENGTH = 22, 30, 32, 6


def picture(seed, height=HEIGHT, width=WIDTH):
    return np.random.RandomState(seed).randint(0, 256, (height, width, 3)).astype(np.uint8)


def annotation(seed, height=HEIGHT, width=WIDTH):
    return np.random.RandomState(100 + seed).randint(0, 2, (height, width)).astype(np.uint8)


def label_map(seed, highest=2):
    rng = np.random.RandomState(200 + seed)
    labels = rng.randint(0, highest + 1, (HEIGHT, WIDTH)).astype(np.uint8)
    labels[rng.random(labels.shape) < 0.2] = 255
    return labels


class Frames:
    """Frames that are made when they are asked for, and remember it."""

    def __init__(self, n=LENGTH):
        self.n, self.read = n, []

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        self.read.append(i)
        return picture(i)


def model(name, noise=0.05, **hyper_parameters):
    """Away from the start, where all scores are next to zero."""
    torch.manual_seed(0)
    made = fewseg.create_model(name, encoder="tiny", **hyper_parameters)
    with torch.no_grad():
        for parameter in made.network.parameters():
            parameter.add_(noise * torch.randn_like(parameter))
    return made


def quick(name):
    """Few steps for what learns at test time."""
    asks = inspect.signature(getattr(fewseg.models, name)).parameters
    return {key: 3 for key in ("steps",) if key in asks}


OPTIONS = {
    **{name: (name, quick(name)) for name in fewseg.list_models()},
    "local": ("GuidedNet", {"locality": "local"}),
    "early": ("GuidedNet", {"fusion": "early"}),
    "nearest": ("GuidedNet", {"inference": "nearest", "locality": "local"}),
    "similar": ("GuidedNet", {"similarity": "both"}),
    "per shot": ("GuidedNet", {"merge": "logits"}),
    "two encoders": ("GuidedNet", {"support_grid": "atrous"}),
    "tune all": ("FineTune", {"tune": "all", "steps": 3}),
}
NOISE = dict.fromkeys(("GuidedNet", "per shot", "two encoders"), 0.1)  # others saturate with so much
BUILT = {}


def built(name):
    if name not in BUILT:
        cls, hyper_parameters = OPTIONS[name]
        BUILT[name] = model(cls, NOISE.get(name, 0.05), **hyper_parameters)
    return BUILT[name]


def conditioned(name):
    return built(name).network.uses_support


RUNNING = [name for name in OPTIONS if conditioned(name) or not built(name).network.uses_clicks]
CLICKS_ONLY = [name for name in OPTIONS if name not in RUNNING]


def same(actual, expected):
    np.testing.assert_allclose(actual.probs, expected.probs, atol=1e-5)
    assert np.array_equal(actual.labels, expected.labels)


class Spy(SegmentorNetwork):
    """A network that can be computed by hand and counts its calls.

    The only feature is the red channel; z is the mean red of positive minus that of negative pixels, of all shots. The
    margin is z times (red - 100).
    """

    def __init__(self, limit=None, shared=True):
        super().__init__()
        self.queries, self.supports, self.guided, self.segmented = 0, 0, [], []
        self.max_shot, self.shared_encoder = limit, shared

    def encode_query(self, images):
        self.queries += len(images)
        return Features((images[:, :1].float(),), tuple(images.shape[-2:]))

    def encode_support(self, images):
        self.supports += images.shape[1]
        return Features((images[:, :, :1].float(),), tuple(images.shape[-2:]))

    def guide(self, features, annotations):
        self.guided.append(annotations.clone())
        red = features.maps[0][:, :, 0]
        means = [(red * (annotations == label)).sum((1, 2, 3)) / (annotations == label).sum((1, 2, 3)).clamp(min=1)
                 for label in (1, 0)]  # fmt: skip
        return means[0] - means[1]  # (B,)

    def segment(self, features, guidance, clicks=None):
        self.segmented.append(len(guidance))
        margin = guidance[:, None, None, None] * (features.maps[0] - 100) / 1000
        return torch.cat([torch.zeros_like(margin), margin], 1)


class Holder:
    image_size, image_resize = None, None

    def __init__(self, **options):
        self.network = Spy(**options)


# -------------------------------------------------------------------------------------------------------- the answers


def test_without_annotations_all_is_background_and_nothing_is_computed():
    holder, frames = Holder(), Frames()
    session = VideoSession(holder, frames)
    answer = session.answer(3)
    assert (answer.labels.shape, answer.labels.dtype, answer.labels.any()) == ((HEIGHT, WIDTH), np.uint8, False)
    assert (answer.probs.shape, answer.probs.dtype) == ((0, HEIGHT, WIDTH), np.float32)
    assert (sum(answer.seconds), holder.network.queries, session.objects, session.n_frames) == (0, 0, (), LENGTH)


@pytest.mark.parametrize("name", ["GuidedNet", "PANet", "FSIS", "FineTune", "early", "two encoders"])
def test_one_object_and_one_support_is_segment_image(name):
    # frames of 32 x 32 fill both canvases, so that nothing but the path differs
    frames = [picture(i, 32, 32) for i in range(3)]
    labels = annotation(0, 32, 32)
    session = VideoSession(built(name), frames, size=32)
    session.annotate(0, labels, object_id=1)
    one = InteractiveSession(built(name), frames[2], 32)
    one.add_shot(frames[0], labels)
    np.testing.assert_allclose(session.answer(2).probs[0], one.answer().probs, atol=1e-5)
    assert one.answer().probs.std() > 1e-3
    expected = fewseg.segment_image(built(name), [(frames[0], labels)], frames[2], 32)
    assert np.array_equal(session.answer(2).labels, expected)


@pytest.mark.parametrize("name", RUNNING)
def test_methods_run_on_video_with_two_objects(name):
    session = VideoSession(built(name), Frames(), SIDE)
    session.annotate(0, label_map(0))
    session.click(3, 4, 5, object_id=2)
    answers = list(session.segment())
    assert len(answers) == LENGTH
    assert all(a.probs.shape == (2, HEIGHT, WIDTH) and np.isfinite(a.probs).all() for a in answers)
    alone = VideoSession(built(name), Frames(), SIDE)
    alone.annotate(0, np.where(label_map(0) == 255, 255, label_map(0) == 2).astype(np.uint8), object_id=2)
    alone.click(3, 4, 5, object_id=2)
    np.testing.assert_allclose(alone.answer(4).probs[0], answers[4].probs[1], atol=1e-5)


@pytest.mark.parametrize("name", CLICKS_ONLY)
def test_methods_that_read_clicks_only_say_so(name):
    with pytest.raises(
        FewsegError, match=r"which reads clicks only, expected .*choose another, or an InteractiveSession"
    ):
        VideoSession(built(name), Frames())


def test_the_zoo_has_both_kinds():
    assert {"GuidedNet", "FgBg", "FSIS", "FineTune"} <= set(RUNNING)
    assert {"DIOS"} <= set(CLICKS_ONLY)


def test_a_class_blind_network_gives_every_object_its_answer_and_reads_no_support():
    frames = Frames()
    session = VideoSession(built("FgBg"), frames, SIDE)
    session.annotate(5, label_map(0))
    answer = session.answer(2)
    np.testing.assert_allclose(answer.probs[0], answer.probs[1], rtol=1e-6)
    assert set(np.unique(answer.labels)) <= {0, 1}
    assert frames.read == [0, 2]  # the first tells the size


def test_the_largest_margin_wins_and_the_threshold_decides():
    holder = Holder()
    red = np.zeros((1, 32, 32, 3), np.uint8)
    red[0, :, :10, 0], red[0, :, 10:20, 0] = 200, 50  # z of the bright object is positive, of the dark one negative
    session = VideoSession(holder, red)
    labels = np.full((32, 32), 255, np.uint8)
    labels[:, :10], labels[:, 10:20], labels[:, 20:] = 7, 3, 0
    session.annotate(0, labels)
    # object 7: 200 - mean(50, 0) = 200 - 50 * 10 / 22;   object 3: 50 - 200 * 10 / 22 (the wider rest is 0)
    seven, three = 200 - 500 / 22, 50 - 2000 / 22
    answer = session.answer(0)
    assert session.objects == (3, 7)
    for column, value in ((0, 200), (10, 50), (31, 0)):
        margins = [z * (value - 100) / 1000 for z in (three, seven)]
        np.testing.assert_allclose(answer.probs[:, 5, column], [1 / (1 + np.exp(-m)) for m in margins], rtol=1e-4)
        wins = [0, 3, 7][int(np.argmax([0.0, *margins]))]
        assert answer.labels[5, column] == wins
    assert [answer.labels[5, c] for c in (0, 10, 31)] == [7, 3, 3]
    strict = VideoSession(holder, red, threshold=0.9)
    strict.annotate(0, labels)
    assert [strict.answer(0).labels[5, c] for c in (0, 10, 31)] == [7, 0, 3]  # 0.99999, 0.88, 0.98


# ------------------------------------------------------------------------------------------------- what is kept


@pytest.mark.parametrize("budget", [0, 2**30])
def test_each_frame_is_encoded_once_whatever_is_edited(budget):
    holder, frames = Holder(), Frames()
    network = holder.network
    session = VideoSession(holder, frames, budget=budget)
    session.annotate(0, label_map(0, highest=1))
    list(session.segment())
    assert network.queries == LENGTH
    session.click(2, 5, 5, object_id=2)  # an object in the middle
    session.annotate(4, annotation(3), object_id=1)
    list(session.segment())
    session.undo()
    session.clear(2)
    list(session.segment())
    assert (network.queries, network.supports) == (LENGTH, 0)
    assert frames.read == [0, *range(LENGTH)]


def test_supports_of_another_encoder_are_kept_likewise():
    holder = Holder(shared=False)
    session = VideoSession(holder, Frames())
    session.annotate(0, label_map(0, highest=1))
    session.annotate(3, label_map(1, highest=1))
    list(session.segment(stop=2))
    session.click(3, 1, 1, object_id=1)
    list(session.segment(stop=2))
    assert (holder.network.queries, holder.network.supports) == (2, 2)


def test_only_needed_frames_are_read():
    frames = Frames()
    session = VideoSession(Holder(), frames)
    session.annotate(4, label_map(0))
    assert frames.read == [0]  # for the size
    session.answer(2)
    assert frames.read == [0, 4, 2]
    iterator = session.segment(1)
    assert frames.read == [0, 4, 2]
    next(iterator)
    assert frames.read == [0, 4, 2, 1]


def test_an_update_encodes_nothing_and_guides_only_what_changed():
    holder = Holder()
    network = holder.network
    session = VideoSession(holder, Frames())
    everything = np.ones((HEIGHT, WIDTH), np.uint8)
    everything[:11] = 2
    session.annotate(0, everything)
    session.answer(3)
    assert (network.queries, len(network.guided), network.segmented) == (2, 2, [2])
    session.click(0, 20, 20, object_id=2, positive=False)  # says nothing about object 1, and nothing new about 2
    answer = session.answer(3)
    assert (network.queries, len(network.guided), network.segmented) == (2, 2, [2])
    assert (answer.seconds.encode, answer.seconds.guide) == (0, 0)
    session.click(3, 2, 2, object_id=2, positive=False)
    answer = session.answer(3)
    assert (network.queries, len(network.guided), network.segmented) == (2, 3, [2, 1])
    assert min(answer.seconds.encode, answer.seconds.guide, answer.seconds.segment) > 0  # features are found again
    session.click(0, 20, 20, object_id=2)  # taken from object 1: both change
    session.answer(3)
    assert (network.queries, len(network.guided), network.segmented) == (2, 5, [2, 1, 2])
    session.undo()
    session.undo()
    session.answer(3)
    assert (network.queries, len(network.guided), network.segmented) == (2, 5, [2, 1, 2])  # earlier answers are kept


def test_without_a_budget_earlier_answers_are_made_again():
    holder = Holder()
    session = VideoSession(holder, Frames(), budget=0)
    session.annotate(0, label_map(0))
    first = session.answer(3)
    second = session.answer(3)
    assert (len(holder.network.guided), holder.network.segmented) == (2, [2, 2])
    same(first, second)


def test_the_same_question_costs_nothing_but_joining_the_answer(monkeypatch):
    session = VideoSession(built("GuidedNet"), Frames(), SIDE)
    session.annotate(0, label_map(0))
    first = session.answer(2)
    assert all(s > 0 for s in first.seconds[:3])
    for verb in ("encode_query", "encode_support", "guide", "segment"):
        monkeypatch.setattr(session.network, verb, None)  # not called
    again = session.answer(2)
    assert (again.seconds.encode, again.seconds.guide, again.seconds.refine) == (0, 0, 0)
    assert again.seconds.segment > 0, "the labels are made from kept margins"
    same(again, first)


def test_what_was_said_of_a_frame_is_replayed_once(monkeypatch):
    replayed = []

    def spy(said, size):
        replayed.append(len(said.edits))
        return frame_annotations.replay(said, size)

    monkeypatch.setattr(fewseg.video_session, "replay", spy)
    session = VideoSession(Holder(), Frames())
    session.annotate(0, label_map(0, highest=5))
    session.click(3, 1, 1, object_id=6)
    session.answer(0), session.answer(1)
    assert replayed == [1, 1], "two frames, whatever the objects"
    session.click(3, 2, 2, object_id=2)
    session.click(3, 2, 3, object_id=1)
    session.answer(1)
    assert replayed == [1, 1, 3], "the state in between was not asked for"


def test_answers_are_dropped_before_they_outgrow_their_share():
    holder = Holder()
    one = HEIGHT * WIDTH * 4
    session = VideoSession(holder, Frames(), budget=8 * 3 * one)  # three answers of one object
    session.annotate(0, label_map(0, highest=1))
    list(session.segment())
    assert session._recent.n_bytes <= 3 * one
    before = len(holder.network.segmented)
    session.answer(LENGTH - 1)
    assert len(holder.network.segmented) == before
    session.answer(0)
    assert len(holder.network.segmented) == before + 1


def random_edit(rng, session):
    """One edit, as a function of a session; some are refused."""
    frame, number = int(rng.randint(LENGTH)), int(rng.randint(1, 4))
    kind = rng.choice(["labels", "own", "click", "click", "click", "clear", "clear object", "undo"])
    seed, row, col, positive = rng.randint(99), int(rng.randint(HEIGHT)), int(rng.randint(WIDTH)), bool(rng.randint(2))
    sparse = np.full((HEIGHT, WIDTH), 255, np.uint8)
    sparse[row, col] = positive
    own = sparse if rng.randint(2) else annotation(seed)
    return kind, {
        "labels": lambda s: s.annotate(frame, label_map(seed, number)),
        "own": lambda s: s.annotate(frame, own, object_id=number),
        "click": lambda s: s.click(frame, row, col, number, positive),
        "clear": lambda s: s.clear(frame),
        "clear object": lambda s: s.clear(frame, number),
        "undo": lambda s: s.undo(),
    }[kind]


TWICE = ("GuidedNet", "local", "nearest", "similar", "early", "PANet", "FSIS", "FgBg", "SGOne")
ONCE = ("FineTune", "LogReg", "OSLSM", "NearestNeighbor", "OSVOS", "per shot", "two encoders", "tune all")
STORIES = [(name, seed) for seed in range(2) for name in (*TWICE, *(ONCE if seed == 0 else ()))]


@pytest.mark.parametrize(("name", "seed"), STORIES)
def test_every_answer_is_that_of_a_new_session(name, seed):
    rng = np.random.RandomState(seed)
    budget = [2**30, 200_000, 0][rng.randint(3)]
    session, kept = VideoSession(built(name), Frames(), SIDE, budget), []
    for _ in range(10):
        kind, edit = random_edit(rng, session)
        try:
            edit(session)
        except FewsegError:
            continue
        kept = kept[:-1] if kind == "undo" else [*kept, edit]
        if rng.randint(2):
            session.answer(int(rng.randint(LENGTH)))
    fresh = VideoSession(built(name), Frames(), SIDE)
    for edit in kept:
        edit(fresh)
    assert session.objects == fresh.objects
    for frame in (0, 3):
        same(session.answer(frame), fresh.answer(frame))


def test_stories_end_with_objects():
    rng = np.random.RandomState(0)
    session = VideoSession(Holder(), Frames())
    for _ in range(10):
        try:
            random_edit(rng, session)[1](session)
        except FewsegError:
            continue
    assert session.objects


# -------------------------------------------------------------------------------------------------------- annotations


def guided_by(*edits, size=32):
    """Annotation maps (K, H, W) of all objects, in their order, of frames that fill the canvas."""
    holder = Holder()
    session = VideoSession(holder, np.zeros((4, size, size, 3), np.uint8))
    for edit in edits:
        edit(session)
    session.answer(0)
    return session.objects, [a[0].numpy() for a in holder.network.guided]


def filled(value, **places):
    labels = np.full((32, 32), value, np.uint8)
    for place, label in places.items():
        row = int(place[1:])
        labels[row] = label
    return labels


def test_a_pixel_of_an_object_is_negative_for_all_others_also_for_later_ones():
    objects, maps = guided_by(
        lambda s: s.click(0, 3, 4, object_id=1),
        lambda s: s.click(2, 6, 7, object_id=2),
    )
    assert objects == (1, 2)
    one, two = maps
    assert [np.argwhere(m == 1).tolist() for m in one] == [[[3, 4]], []]
    assert [np.argwhere(m == 0).tolist() for m in one] == [[], [[6, 7]]]
    assert [np.argwhere(m == 1).tolist() for m in two] == [[], [[6, 7]]]
    assert [np.argwhere(m == 0).tolist() for m in two] == [[[3, 4]], []]


def test_a_negative_click_says_nothing_about_others():
    _, maps = guided_by(
        lambda s: s.annotate(0, filled(255, r0=1), object_id=1),
        lambda s: s.annotate(0, filled(255, r9=1), object_id=2),
        lambda s: s.click(0, 20, 5, object_id=1, positive=False),
    )
    one, two = maps
    assert (one[0, 20, 5], two[0, 20, 5]) == (0, 255)
    assert (one[0, 9] == 0).all()
    assert (two[0, 0] == 0).all()


def test_the_background_of_a_label_map_is_for_objects_of_that_moment():
    _, maps = guided_by(
        lambda s: s.annotate(0, filled(0, r0=1, r5=255)),
        lambda s: s.annotate(2, filled(255, r9=2)),
        lambda s: s.annotate(3, filled(0, r4=2)),
    )
    one, two = maps
    assert one.shape[0] == two.shape[0] == 3
    assert [set(np.unique(one[0, row])) for row in (0, 5, 9)] == [{1}, {255}, {0}]
    assert [set(np.unique(two[0, row])) for row in (0, 5, 9)] == [
        {0},
        {255},
        {255},
    ]
    assert [set(np.unique(one[1, row])) for row in (8, 9)] == [{255}, {0}]
    assert [set(np.unique(one[2, row])) for row in (4, 5)] == [{0}, {0}]
    assert [set(np.unique(two[2, row])) for row in (4, 5)] == [{1}, {0}]


def test_the_last_word_counts():
    _, (one, two) = guided_by(
        lambda s: s.annotate(0, filled(1, r0=2)),
        lambda s: s.click(0, 20, 20, object_id=2),  # was of object 1
        lambda s: s.click(0, 0, 3, object_id=2, positive=False),  # was its own
        lambda s: s.click(0, 10, 3, object_id=1, positive=False),
        lambda s: s.click(0, 10, 3, object_id=1),
    )
    assert (one[0, 20, 20], two[0, 20, 20]) == (0, 1)
    assert two[0, 0, 3] == 0
    assert (one[0, 10, 3], two[0, 10, 3]) == (1, 0)
    _, (one, two) = guided_by(
        lambda s: s.annotate(0, filled(255, r0=1, r1=1), object_id=1),
        lambda s: s.annotate(0, filled(255, r1=1, r2=0), object_id=2),
        lambda s: s.annotate(0, filled(255, r1=1, r3=1), object_id=2),  # in place of the one before
    )
    assert [set(np.unique(one[0, r])) for r in range(4)] == [{1}, {0}, {255}, {0}]
    assert [set(np.unique(two[0, r])) for r in range(4)] == [{0}, {1}, {255}, {1}]


def test_a_new_label_map_replaces_all_that_was_said_of_the_frame():
    objects, (one,) = guided_by(
        lambda s: s.annotate(0, filled(0, r0=2)),
        lambda s: s.click(0, 9, 9, object_id=3),
        lambda s: s.annotate(0, filled(255, r7=1)),
    )
    assert objects == (1,)
    assert (one[0] == filled(255, r7=1)).all()


def test_clearing_an_object_leaves_what_is_said_of_others():
    objects, (two,) = guided_by(
        lambda s: s.annotate(0, filled(255, r0=1), object_id=1),
        lambda s: s.annotate(0, filled(255, r9=1, r3=0), object_id=2),
        lambda s: s.clear(0, 1),
    )
    assert objects == (2,)
    assert (two[0] == filled(255, r9=1, r3=0)).all()


def test_an_object_of_which_nothing_is_known_is_nowhere():
    holder = Holder()
    session = VideoSession(holder, Frames())
    session.annotate(0, np.full((HEIGHT, WIDTH), 255, np.uint8), object_id=4)
    answer = session.answer(1)
    assert (session.objects, answer.probs.shape, answer.probs.any()) == ((4,), (1, HEIGHT, WIDTH), False)
    assert not answer.labels.any()
    assert (holder.network.guided, holder.network.queries) == ([], 0)


def test_supports_are_in_order_of_time_whenever_they_came():
    _, (one,) = guided_by(
        lambda s: s.annotate(3, filled(255, r3=1), object_id=1),
        lambda s: s.annotate(1, filled(255, r1=1), object_id=1),
    )
    assert [int(np.argwhere(m == 1)[0, 0]) for m in one] == [1, 3]


def test_what_the_caller_paints_later_does_not_count():
    labels = filled(255, r0=1)
    holder = Holder()
    session = VideoSession(holder, np.zeros((1, 32, 32, 3), np.uint8))
    session.annotate(0, labels)
    labels[:] = 0
    session.answer(0)
    assert (holder.network.guided[0][0, 0, 0] == 1).all()


def test_single_pixels_reach_a_smaller_canvas():
    holder = Holder()
    session = VideoSession(holder, np.zeros((2, 300, 400, 3), np.uint8), size=64)
    places = [(3, 5), (299, 399), (151, 211)]
    for row, col in places:
        session.click(0, row, col)
    session.answer(1)
    (given,) = holder.network.guided
    scale = session.frame.box.height / 300
    assert np.argwhere(given[0, 0].numpy() == 1).tolist() == sorted(
        [min(int((r + 0.5) * scale), 63), int((c + 0.5) * session.frame.box.width / 400)] for r, c in places
    )


# -------------------------------------------------------------------------------------------------------- the canvas


@pytest.mark.parametrize(
    ("original", "size", "resize", "canvas", "box"),
    [
        ((480, 854), None, None, (480, 864), (480, 854)),
        ((480, 854), 854, None, (480, 864), (480, 854)),
        ((480, 854), 427, None, (256, 448), (252, 448)),
        ((480, 854), 427, "square", (427, 427), (427, 427)),
        ((854, 480), 320, None, (320, 192), (320, 180)),
        ((20, 30), None, None, (32, 32), (21, 32)),
        ((10, 1000), 64, None, (32, 64), (1, 64)),
    ],
)
def test_the_canvas_keeps_proportions_in_multiples_of_32(original, size, resize, canvas, box):
    session = VideoSession(Holder(), np.zeros((1, *original, 3), np.uint8), size, resize=resize)
    assert session.canvas == canvas
    assert session.frame.box[2:] == box


def test_size_854_puts_480_x_854_on_the_canvas_unscaled(monkeypatch):
    holder, frame = Holder(), picture(0, 480, 854)
    seen = []
    encode = holder.network.encode_query
    monkeypatch.setattr(holder.network, "encode_query", lambda images: seen.append(images) or encode(images))
    session = VideoSession(holder, [frame], 854)
    labels = np.random.RandomState(1).choice([0, 1, 255], (480, 854)).astype(np.uint8)
    session.annotate(0, labels, object_id=1)
    session.click(0, 479, 853)
    labels[479, 853] = 1
    session.answer(0)
    (images,), (given,) = seen, holder.network.guided
    assert (tuple(images.shape), tuple(given.shape)) == ((1, 3, 480, 864), (1, 1, 480, 864))
    assert np.array_equal(images[0, :, :, :854].permute(1, 2, 0), frame)
    assert np.array_equal(given[0, 0, :, :854], labels)
    assert (given[0, 0, :, 854:] == 255).all()


def test_the_canvas_is_that_of_the_training_and_large_enough():
    holder = Holder()
    holder.image_size, holder.image_resize = 100, "square"
    assert VideoSession(holder, Frames()).canvas == (100, 100)
    assert VideoSession(holder, Frames(), 40, resize="letterbox").canvas == (32, 64)  # 29 x 40, rounded up
    holder.network.min_size = 150
    assert VideoSession(holder, Frames(), 40, resize="letterbox").canvas == (160, 160)
    assert VideoSession(holder, Frames()).canvas == (150, 150)


# ------------------------------------------------------------------------------------------------------ many shapes


class Odd(NamedTuple):
    z: Tensor
    nested: tuple
    name: str


class OddNetwork(Spy):
    """Guidance whose shape depends on K, nested, with bools and a plain value."""

    def guide(self, features, annotations):
        z = super().guide(features, annotations)
        positive = (annotations == 1).flatten(2).any(2)  # (B, K)
        return Odd(z, (positive, (), (annotations.float().mean((2, 3)),)), "odd")

    def segment(self, features, guidance, clicks=None):
        assert guidance.name == "odd"
        assert len(guidance.nested[0]) == len(guidance.nested[2][0]) == len(guidance.z)
        assert guidance.nested[0].dtype == torch.bool
        return super().segment(features, guidance.z)


def test_guidances_of_one_form_are_one_batch_and_others_their_own():
    holder = Holder()
    holder.network = OddNetwork()
    session = VideoSession(holder, Frames(), budget=0)
    for number in (1, 2, 3):
        session.annotate(number, annotation(number), object_id=number)
    session.annotate(4, np.full((HEIGHT, WIDTH), 255, np.uint8), object_id=2)
    session.click(4, 2, 2, object_id=1, positive=False)  # object 1 alone has a fourth support
    session.answer(0)
    assert sorted(holder.network.segmented) == [1, 2]
    assert [g.shape[1] for g in holder.network.guided] == [4, 3, 3]


# ------------------------------------------------------------------------------------------------------ the memory


def test_features_beyond_the_budget_go_to_a_file_that_goes_with_the_session(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    whole = VideoSession(built("GuidedNet"), Frames(), SIDE)
    filed = VideoSession(built("GuidedNet"), Frames(), SIDE, budget=0)
    for session in (whole, filed):
        session.annotate(0, label_map(0))
    expected = list(whole.segment())
    for _ in range(2):  # made, and read from the file
        for answer, wanted in zip(filed.segment(), expected, strict=True):
            same(answer, wanted)
    store = filed._features
    assert (store.n_memory, whole._features.n_file, whole._features.file) == (0, 0, None)
    status = os.fstat(store.file.fileno())
    assert store.n_file == whole._features.n_memory == status.st_size
    assert not list(tmp_path.iterdir()), "whatever kills the process leaves nothing behind"
    assert (status.st_dev, status.st_ino) in opened()
    del session, filed, store
    gc.collect()
    assert (status.st_dev, status.st_ino) not in opened()


def opened():
    """Device and inode of every file that this process holds open."""
    found = set()
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # the one of the folder itself
            status = path.stat()
            found.add((status.st_dev, status.st_ino))
    return found


def full(*_arguments, **_options):
    raise OSError(28, "No space left on device")


def test_frames_are_encoded_again_where_nothing_can_be_written(monkeypatch):
    holder = Holder()
    session = VideoSession(holder, Frames())
    session.annotate(0, label_map(0, highest=1))
    expected = session.answer(1)

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    session = VideoSession(holder, Frames(), budget=0)
    session.annotate(0, label_map(0, highest=1))
    with pytest.warns(UserWarning, match="computed again where they are needed"):
        same(session.answer(1), expected)
    before = holder.network.queries
    same(session.answer(1), expected)
    assert holder.network.queries == before + 1


# ---------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda s: s.annotate(LENGTH, label_map(0)), "frame: got 6, expected a number from 0 to 5"),
        (lambda s: s.annotate(-1, label_map(0)), "frame: got -1, expected"),
        (lambda s: s.annotate(1.0, label_map(0)), "frame: got 1.0, expected"),
        (lambda s: s.annotate(0, annotation(0, 9, 9)), "labels: got (9, 9), expected the frames' (22, 30)"),
        (lambda s: s.annotate(0, picture(0)), "labels: got (22, 30, 3), expected (H, W)"),
        (lambda s: s.annotate(0, label_map(0).astype(int)), "labels: got int64, expected uint8"),
        (lambda s: s.annotate(0, label_map(0), 1), "labels: got uint8 with values [2], expected uint8 of 0, 1 and 255"),
        (lambda s: s.annotate(0, annotation(0), 0), "object_id: got 0, expected a number from 1 to 254"),
        (lambda s: s.annotate(0, annotation(0), 255), "object_id: got 255, expected"),
        (lambda s: s.annotate(0, annotation(0), "1"), "object_id: got 1, expected"),
        (lambda s: s.click(0, HEIGHT, 0), "click: got (22, 0), expected a pixel of the frames of 22 x 30"),
        (lambda s: s.click(0, 0, -1), "click: got (0, -1), expected a pixel"),
        (lambda s: s.click(0, 1.5, 0), "click: got (1.5, 0), expected two whole numbers"),
        (lambda s: s.click(0, 0, 0, object_id=300), "object_id: got 300, expected"),
        (lambda s: s.click(9, 0, 0), "frame: got 9, expected"),
        (lambda s: s.clear(1), "frame: got 1, which is not annotated, expected one of [0]"),
        (lambda s: s.clear(0, 5), "object_id: got 5, of which frame 0 says nothing, expected one of [1, 2]"),
        (lambda s: s.answer(LENGTH), "frame: got 6, expected"),
        (lambda s: s.segment(3, 2), "start, stop, step: got (3, 2, 1), expected 0 <= start <= stop <= 6"),
        (lambda s: s.segment(0, 7), "start, stop, step: got (0, 7, 1), expected"),
        (lambda s: s.segment(step=0), "start, stop, step: got (0, 6, 0), expected"),
    ],
)
def test_a_bad_edit_is_one_line_and_changes_nothing(edit, message):
    session = VideoSession(Holder(), Frames())
    session.annotate(0, label_map(0))
    before = session.answer(1)
    with pytest.raises(FewsegError) as error:
        edit(session)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)
    same(session.answer(1), before)
    session.undo()
    with pytest.raises(FewsegError, match="undo: got a session without edits"):
        session.undo()


@pytest.mark.parametrize(
    ("frames", "options", "message"),
    [
        ([], {}, "frames: got an empty sequence, expected at least one frame"),
        (np.zeros((0, 4, 4, 3), np.uint8), {}, "frames: got an empty sequence"),
        (iter([picture(0)]), {}, "frames: got list_iterator, expected a sequence of images"),
        ([picture(0).astype(float)], {}, r"frames\[0\]: got float64 \(22, 30, 3\), expected uint8"),
        (Frames(), {"size": 0}, "size: got 0, expected a side of at least 1 pixel"),
        (Frames(), {"size": "256"}, "size: got 256, expected"),
        (Frames(), {"budget": -1}, "budget: got -1, expected a whole number of bytes"),
        (Frames(), {"budget": 1e9}, "budget: got 1000000000.0, expected"),
        ({0: picture(0), 1: picture(1)}, {}, "frames: got dict, expected a sequence of images; pass a list"),
        ("video.mp4", {}, "frames: got str, expected a sequence of images"),
        (7, {}, "frames: got int, expected a sequence of images"),
        (Frames(), {"threshold": 1.0}, "threshold: got 1.0, expected a probability"),
        (Frames(), {"threshold": "a"}, "threshold: got a, expected a probability between 0 and 1; leave it out"),
        (Frames(), {"threshold": None}, "threshold: got None, expected a probability"),
        (Frames(), {"threshold": float("nan")}, "threshold: got nan, expected a probability"),
        (Frames(), {"resize": "foo"}, "resize: got 'foo', expected 'letterbox' or 'square'; or leave it out"),
    ],
)
def test_bad_options_are_one_line(frames, options, message):
    with pytest.raises(FewsegError, match=message):
        VideoSession(Holder(), frames, **options)


@pytest.mark.parametrize("what", [None, "GuidedNet", Spy()])
def test_what_is_no_model_is_one_line(what):
    with pytest.raises(FewsegError) as error:
        VideoSession(what, Frames())
    kind = type(what).__name__
    assert str(error.value) == f"model: got {kind}, expected a model; pass what create_model or load_model returns"


def test_clearing_where_nothing_was_said_is_one_line():
    session = VideoSession(Holder(), Frames())
    with pytest.raises(FewsegError) as error:
        session.clear(0)
    expected = "an annotated frame, of which there is none so far; annotate it first"
    assert str(error.value) == f"frame: got 0, which is not annotated, expected {expected}"
    session.click(0, 1, 1)
    session.clear(0, 1)
    with pytest.raises(FewsegError) as error:
        session.clear(0, 1)
    expected = "an annotated object, of which there is none in it; annotate it first"
    assert str(error.value) == f"object_id: got 1, of which frame 0 says nothing, expected {expected}"


def test_a_frame_of_another_size_is_named():
    frames = [picture(0), picture(1), picture(2, 20, 31)]
    session = VideoSession(Holder(), frames)
    session.annotate(0, label_map(0))
    session.answer(1)
    with pytest.raises(FewsegError, match=r"frames\[2\]: got 20 x 31, expected 22 x 30"):
        session.answer(2)
    broken = VideoSession(Holder(), [picture(0), picture(1)[..., 0]])
    broken.annotate(0, label_map(0))
    with pytest.raises(FewsegError, match=r"frames\[1\]: got uint8 \(22, 30\), expected uint8 \(H, W, 3\)"):
        broken.answer(1)


def test_one_annotated_frame_too_many_is_refused_and_changes_nothing():
    session = VideoSession(Holder(limit=2), Frames())
    session.annotate(0, label_map(0, 1))
    session.annotate(1, label_map(1, 1))
    session.annotate(1, label_map(2, 1))  # in place of the one before
    before = session.answer(3)
    with pytest.raises(FewsegError, match="annotated frames of object 1: got 3, expected at most 2 for Holder; clear"):
        session.annotate(2, label_map(3, 1))
    same(session.answer(3), before)
    session.clear(0)
    session.annotate(2, label_map(3, 1))


def test_it_is_in_the_package_and_reads_pictures_of_pillow():
    from PIL import Image

    frames = [Image.fromarray(picture(i)).convert("L") for i in range(2)]
    session = fewseg.VideoSession(Holder(), frames)
    session.annotate(0, Image.fromarray(label_map(0)))
    assert session.answer(1).labels.shape == (HEIGHT, WIDTH)
