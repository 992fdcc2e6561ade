"""Interactive episodes: which objects are drawn, what is clicked, and what batches hold."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from fewseg.datamodules import FewShotDataModule
from fewseg.datamodules.assembler import collate
from fewseg.datamodules.few_shot import _Training
from fewseg.datasets.base import FewShotDataset, Index
from fewseg.episode import Box, Frame
from fewseg.errors import FewsegError
from fewseg.functional.label_maps import draw_object_clicks
from fewseg.models import GuidedNet
from fewseg.protocols import INTERACTIVE, INTERACTIVE_COMPONENT, INTERACTIVE_POINTS, THESIS
from fewseg.sampling import (
    ObjectPool,
    ObjectSampler,
    evaluation_list,
    frozen_list,
    object_pool,
    training_pool,
    validation_list,
)

torch.set_num_threads(1)

PARTNER = {1: 2, 2: 1, 3: 4, 4: 3}  # of the same fold
AREAS = {1: 400, 2: 100, 3: 1, 4: 200}


def toy(number):
    """40 x 60: a large and a small object of a class and one of a single pixel, sometimes one of another class."""
    label, objects = np.zeros((40, 60), np.uint8), np.zeros((40, 60), np.uint8)
    class_id = 1 + number % 4
    places = {1: np.s_[5:25, 5:25], 2: np.s_[5:15, 30:40], 3: np.s_[35:36, 50:51]}
    for object_id, place in places.items():
        label[place], objects[place] = class_id, object_id
    if number % 3 == 0:
        label[26:36, 5:25], objects[26:36, 5:25] = PARTNER[class_id], 4
    label[5:25, 26], objects[5:25, 27] = 255, 255  # either map may call a pixel void
    return label, objects


class Toys(FewShotDataset):
    """40 images in memory, two folds of two classes; one test image shows nothing."""

    name = "toys"
    class_names = ("a", "b", "c", "d")
    n_folds = 2

    def __init__(self):
        self.made = {f"im{i:02d}": toy(i) for i in range(40)}
        self.made["nothing"] = (np.zeros((40, 60), np.uint8),) * 2
        self.lists = {"train": tuple(self.made)[:24], "val": tuple(self.made)[24:]}

    def ids(self, split):
        return self.lists[split]

    def image(self, image_id):
        seed = list(self.made).index(image_id)
        return np.random.RandomState(seed).randint(0, 256, (*self.made[image_id][0].shape, 3)).astype(np.uint8)

    def label(self, image_id):
        return self.made[image_id][0]

    def objects(self, image_id):
        return self.made[image_id][1]

    def index(self):
        areas = {
            i: {int(c): int((label == c).sum()) for c in np.unique(label) if c not in (0, 255)}
            for i, (label, _) in self.made.items()
        }
        return Index(areas, "toys")


class Blind(Toys):
    """The same images without classes, as folders of objects to click have them."""

    class_names = ("object",)
    n_folds = 1

    def __init__(self):
        super().__init__()
        self.made = {
            i: (np.where(label == 255, 255, label > 0).astype(np.uint8), o) for i, (label, o) in self.made.items()
        }


class Specks(Toys):
    """Only the objects of a single pixel."""

    def __init__(self):
        super().__init__()
        self.made = {
            i: (np.where(objects == 3, label, 0).astype(np.uint8), np.where(objects == 3, 3, 0).astype(np.uint8))
            for i, (label, objects) in self.made.items()
        }


SMALLEST = INTERACTIVE._replace(
    training=dataclasses.replace(INTERACTIVE.training, min_area=1),
    evaluation=dataclasses.replace(INTERACTIVE.evaluation, min_area=1),
)


@pytest.fixture
def toys():
    return Toys()


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FEWSEG_CACHE", str(tmp_path))


@pytest.fixture
def smallest(monkeypatch):
    """Protocols under which an object may have one pixel."""
    from fewseg.protocols import PROTOCOLS

    monkeypatch.setitem(PROTOCOLS, "interactive", SMALLEST)
    points = dataclasses.replace(INTERACTIVE_POINTS.evaluation, min_area=1)
    monkeypatch.setitem(PROTOCOLS, "interactive-points", INTERACTIVE_POINTS._replace(evaluation=points))


def module(dataset, protocol="interactive", **options):
    defaults = {"size": 48, "augmentation": "none", "n_shot": 0, "batch_size": 4, "n_val_episodes": 6}
    return FewShotDataModule(dataset, protocol, **{**defaults, **options})


def training_batches(data, n=3):
    drawn = _Training(data.assembler, data.training_sampler())
    per = data.batch_size
    return [collate([drawn[i] for i in range(b * per, b * per + per)], data.assembler.size) for b in range(n)]


# ---- lists


def test_every_large_object_of_a_novel_class_is_asked_for_once_and_classes_take_turns(toys):
    specs = evaluation_list(toys, INTERACTIVE, 0, 1, None).specs
    index = toys.object_index()
    wanted = {(i, o) for i in toys.ids("val") for o, e in index[i].items() if e.class_id in (1, 2) and e.area >= 64}
    assert len(specs) == len(wanted) == 19  # 8 images with two, three of them with a third
    assert {(s.query_id, s.object_id) for s in specs} == wanted
    assert all(index[s.query_id][s.object_id].class_id == s.class_id for s in specs)
    shorter = min(sum(s.class_id == c for s in specs) for c in (1, 2))
    assert [s.class_id for s in specs[: 2 * shorter]] == [1, 2] * shorter
    assert "nothing" not in {s.query_id for s in specs}


def test_lists_are_nested_in_shots_and_length_and_supports_are_other_images_of_the_class(toys):
    one, three = (evaluation_list(toys, INTERACTIVE, 1, k, None).specs for k in (0, 3))
    for a, b in zip(one, three, strict=True):
        assert dataclasses.replace(b, support_ids=()) == a
        assert len({b.query_id, *b.support_ids}) == 4
        assert all(b.class_id in toys.index().areas[i] for i in b.support_ids)
    two = evaluation_list(toys, INTERACTIVE, 1, 2, None, 7).specs
    assert [s.support_ids for s in two] == [s.support_ids[:2] for s in three[:7]]


def test_robots_and_the_thesis_ask_for_the_same_episodes(toys):
    digests = {evaluation_list(toys, p, 0, 1, None).sha256 for p in (INTERACTIVE, INTERACTIVE_COMPONENT, THESIS)}
    # a new digest means that every list changes: results of before and after can no longer be paired
    assert digests == {"71123483aa0cdd150e0421265c586ce60e90a33e233933c9b014281a89e53f2f"}
    points = evaluation_list(toys, INTERACTIVE_POINTS, 0, 1, 5)
    assert points.sha256 == "6662cd76be4a21eee7879ea22ed93cc878683c774218ce97d1433fc3efdb71eb"
    robot = evaluation_list(toys, INTERACTIVE, 0, 1, None)
    assert tuple(dataclasses.replace(s, clicks=()) for s in points.specs) == robot.specs


def test_supports_may_be_sparse(toys):
    for spec in evaluation_list(toys, INTERACTIVE, 0, 2, 3, 6).specs:
        assert [p.shot for p in spec.points] == [0] * 6 + [1] * 6
        assert all((toys.label(spec.support_ids[s])[r, c] == spec.class_id) == label for s, r, c, label in spec.points)
        assert spec.clicks == ()


def test_points_lie_on_their_label_and_never_on_void_and_are_nested(toys):
    few, many = (evaluation_list(toys, INTERACTIVE_POINTS, 0, 0, p).specs for p in (2, 7))
    for a, b in zip(few, many, strict=True):
        assert b.clicks[:4] == a.clicks
        assert [c.label for c in b.clicks] == [1, 0] * 7
        label, objects = toys.maps(b.query_id)
        for row, col, positive in b.clicks:
            assert (objects[row, col] == b.object_id) == positive
            assert 255 not in (label[row, col], objects[row, col])
    whole = draw_object_clicks(np.uint8([[0, 0, 1, 255]]), 9, seed=1)
    assert [c.label for c in whole] == [1, 0, 0]  # a label gives what it has
    assert [c.label for c in draw_object_clicks(np.uint8([[0, 0, 1, 255]]), 2, 1, "none")] == [0, 0]


def test_other_instances_of_the_class_are_negative(toys):
    many = evaluation_list(toys, INTERACTIVE_POINTS, 0, 0, 2200, 4).specs
    spec = next(s for s in many if s.object_id == 1)
    clicked = {(row, col): label for row, col, label in spec.clicks}
    assert clicked[10, 35] == 0  # object 2
    assert sum(clicked.values()) == AREAS[1]
    assert len(clicked) == len(spec.clicks) == 40 * 60 - 40  # all but void


def test_images_without_classes_take_no_supports():
    blind = Blind()
    specs = evaluation_list(blind, INTERACTIVE, 0, 0, None).specs
    assert {s.class_id for s in specs} == {1}
    with pytest.raises(FewsegError, match=r"n_shot: got 1, expected 0 for toys, .*; ask for n_shot 0"):
        evaluation_list(blind, INTERACTIVE, 0, 1, None)
    with pytest.raises(FewsegError, match="pool: got no class"):
        module(blind).training_sampler()


def test_a_fold_without_objects_is_one_line():
    with pytest.raises(FewsegError, match="pool: got no object that is large enough, expected at least 1"):
        evaluation_list(Specks(), INTERACTIVE, 0, 0, None)
    data = Toys()
    for label, objects in data.made.values():
        objects[label == 2] = 0
    with pytest.raises(FewsegError, match="pool: got no object of class 2 that is large enough") as caught:
        evaluation_list(data, INTERACTIVE, 0, 0, None)
    assert "\n" not in str(caught.value)
    with pytest.raises(FewsegError, match="pool: got no object that is large enough"):
        module(Specks()).training_sampler()  # min_area holds for masks and objects alike


def test_the_cached_list_knows_the_instances(toys):
    def ask(data):
        return frozen_list("evaluation", data, INTERACTIVE_POINTS, 0, 0, 3, 9)

    first = ask(toys)
    assert ask(Toys()) == first
    moved = Toys()
    for _, objects in moved.made.values():
        objects[12:15, 30:40] = 0  # classes and their index stay
    assert ask(moved).sha256 != first.sha256


def test_validation_asks_for_objects_of_held_out_base_images_with_one_click_of_each_label(toys):
    toys.lists["train"] = tuple(toys.made)[:40]
    specs = validation_list(toys, INTERACTIVE, 0, 1, None, 50).specs
    trained = training_pool(toys, INTERACTIVE.training, 0)
    assert {s.query_id for s in specs}.isdisjoint(trained.images)
    assert {s.class_id for s in specs} <= {3, 4}
    assert len({(s.query_id, s.object_id) for s in specs}) == len(specs) > 2
    for spec in specs:
        assert [c.label for c in spec.clicks] == [1, 0]
        assert toys.objects(spec.query_id)[spec.clicks[0][:2]] == spec.object_id
    assert all(s.support_ids == () for s in validation_list(toys, INTERACTIVE, 0, 0, None, 5).specs)


# ---- training draws


def test_training_objects_are_pure_large_and_of_base_classes(toys):
    pool = object_pool(toys, training_pool(toys, INTERACTIVE.training, 1), 64)
    first, second = (ObjectSampler(pool, 2, "mixed", seed=5) for _ in range(2))
    draws = [first.draw(i) for i in range(200)]
    assert [second.draw(i) for i in reversed(range(200))] == draws[::-1]
    assert [ObjectSampler(pool, 2, "mixed", seed=6).draw(i) for i in range(9)] != draws[:9]
    index = toys.object_index()
    for spec, _ in draws:
        entry = index[spec.query_id][spec.object_id]
        assert entry.class_id == spec.class_id in (1, 2)
        assert entry.area >= 64
        assert len({spec.query_id, *spec.support_ids}) == 3
        assert set(spec.support_ids) <= set(pool.images[spec.class_id])
    assert {s.object_id for s, _ in draws} == {1, 2, 4}
    assert {n is None for _, n in draws} == {True, False}
    assert all(ObjectSampler(pool, 0, "dense", 0).draw(i).spec.support_ids == () for i in range(9))


def test_crops_are_drawn_from_the_query(toys):
    pool = ObjectPool({3: (("im02", 1),)}, {3: ("im02",)})  # no second image is needed
    assert ObjectSampler(pool, 2, "dense", 0, crops=True).draw(0).spec.support_ids == ("im02", "im02")
    with pytest.raises(FewsegError, match="n_shot: got 1 with 1 images of class 3"):
        ObjectSampler(pool, 1, "dense", 0)
    with pytest.raises(FewsegError, match="points: got some"):
        ObjectSampler(pool, 0, "some", 0)


# ---- batches


@pytest.mark.parametrize("n_shot", [0, 2])
def test_a_robots_batch_holds_one_query_at_its_original_size(toys, n_shot):
    data = module(toys, n_shot=n_shot, eval_batch_size=8, cache="images")
    batches = list(data.test_dataloader())
    specs = data.episode_list().specs
    assert [b.specs for b in batches] == [(s,) for s in specs]
    for batch in batches:
        spec = batch.specs[0]
        label, objects = toys.maps(spec.query_id)
        image = torch.from_numpy(toys.image(spec.query_id))
        assert torch.equal(batch.query_images[0], image.permute(2, 0, 1))
        assert batch.query_images.dtype == torch.uint8
        assert batch.frames == (Frame((40, 60), (40, 60), Box(0, 0, 40, 60)),)
        truth = np.where((label == 255) | (objects == 255), 255, objects == spec.object_id)
        assert np.array_equal(batch.targets[0], truth)
        assert np.array_equal(batch.query_masks[0], truth)
        assert batch.query_clicks.shape == (1, 0, 3)
        assert batch.support_images.shape == (1, n_shot, 3, 48, 48)
        assert batch.support_annotations.shape == (1, n_shot, 48, 48)
        assert batch.task == "interactive"
    if n_shot:  # class masks: 3 objects of the class, or two and one
        support, annotation = data.pictures_of_supports(specs[0])[0]
        assert ((annotation == 1) == (toys.label(specs[0].support_ids[0]) == specs[0].class_id)).all()
        assert support.shape == (40, 60, 3)
    assert torch.equal(data.batch_of([specs[3]]).query_images, batches[3].query_images)
    assert data.places() == list(range(len(specs)))


def test_points_are_moved_with_the_canvas_and_never_contradict_each_other(toys):
    data = module(toys, "interactive-points", n_points=300, size=20, eval_batch_size=4)
    for batch in data.test_dataloader():
        assert batch.query_images.shape[1:] == (3, 20, 20)
        assert batch.task == "interactive"
        for spec, frame, clicks, target in zip(
            batch.specs, batch.frames, batch.query_clicks, batch.targets, strict=True
        ):
            assert target.shape == (40, 60)
            shown = [tuple(c) for c in clicks.tolist() if c[2] != -1]
            assert len({c[:2] for c in shown}) == len(shown)  # three pixels share a cell
            positive = {frame.to_network(*c[:2]) for c in spec.clicks if c.label == 1}
            negative = {frame.to_network(*c[:2]) for c in spec.clicks if c.label == 0}
            assert {c[:2] for c in shown if c[2] == 1} == positive
            assert {c[:2] for c in shown if c[2] == 0} == negative - positive


def test_dense_points_are_the_whole_mask(toys):
    data = module(toys, "interactive-points", eval_batch_size=2)
    batch = next(iter(data.test_dataloader()))
    for mask, clicks in zip(batch.query_masks, batch.query_clicks, strict=True):
        known = [c for c in clicks.tolist() if c[2] != -1]
        drawn = torch.full((48, 48), 255, dtype=torch.uint8)
        for row, col, label in known:
            drawn[row, col] = label
        assert torch.equal(drawn, mask)
        assert len(known) == int((mask != 255).sum())


@pytest.mark.parametrize("augmentation", ["none", "flip", "full"])
@pytest.mark.parametrize("how", ["uniform", "dios", "fbrs"])
def test_training_clicks_lie_on_the_augmented_mask(toys, augmentation, how):
    data = module(toys, train_shot=1, train_clicks=how, augmentation=augmentation)
    clicks = 0
    for batch in training_batches(data):
        assert batch.task == "interactive"
        assert batch.support_images.shape == (4, 1, 3, 48, 48)
        assert batch.query_clicks.dtype == torch.int32
        for mask, rows in zip(batch.query_masks, batch.query_clicks, strict=True):
            for row, col, label in rows.tolist():
                assert label == -1 or mask[row, col] == label
                clicks += label != -1
    assert clicks > 20
    again = training_batches(data)[0]
    assert torch.equal(again.query_clicks, training_batches(data)[0].query_clicks)
    assert again.specs == training_batches(data)[0].specs


def test_a_training_query_shows_one_object_and_keeps_void(toys):
    data = module(toys, train_shot=0, size=60)  # no scale: 40 rows and 20 of padding
    batch = training_batches(data, 1)[0]
    assert batch.support_images.shape == (4, 0, 3, 60, 60)
    for spec, mask in zip(batch.specs, batch.query_masks.numpy(), strict=True):
        label, objects = toys.maps(spec.query_id)
        truth = np.where((label == 255) | (objects == 255), 255, objects == spec.object_id)
        assert np.array_equal(mask[:40], truth)
        assert (mask[40:] == 255).all()


@pytest.mark.parametrize(("void", "value"), [("background", 0), ("foreground", 1)])
def test_void_counts_as_the_protocol_says_but_is_never_clicked(toys, monkeypatch, void, value):
    from fewseg.protocols import PROTOCOLS

    part = dataclasses.replace(INTERACTIVE.training, void=void)
    monkeypatch.setitem(PROTOCOLS, "interactive", INTERACTIVE._replace(training=part))
    data = module(toys, train_shot=0, size=60)
    for batch in training_batches(data):
        assert (batch.query_masks[:, 5:25, 26:28] == value).all()
        assert (batch.query_masks[:, 40:] == 255).all()
        row, col, label = batch.query_clicks.unbind(-1)
        assert not ((label != -1) & (row >= 5) & (row < 25) & (col >= 26) & (col < 28)).any()


def test_other_objects_are_clicked_as_such(toys):
    """DIOS's second strategy: negative clicks on other objects, which move with the image."""
    data = module(toys, train_shot=0, train_clicks="dios", size=60, batch_size=40)
    batch = training_batches(data, 1)[0]
    on_objects = 0
    for spec, rows in zip(batch.specs, batch.query_clicks.tolist(), strict=True):
        objects = toys.objects(spec.query_id)
        on_objects += sum(label == 0 and row < 40 and objects[row, col] in (1, 2, 3, 4) for row, col, label in rows)
    assert on_objects >= 10


def test_baselines_without_clicks_train_on_their_masks(toys):
    data = module(toys, train_shot=0, train_masks="foreground", size=60)
    batch = training_batches(data, 1)[0]
    assert batch.query_clicks.shape[1] == 0
    for spec, mask in zip(batch.specs, batch.query_masks.numpy(), strict=True):
        assert ((mask[:40] == 1) == np.isin(toys.label(spec.query_id), (3, 4))).all()


def test_crops_show_their_object_whole_and_no_click_is_given(toys):
    data = module(toys, "clean", n_shot=1, train_episodes="crops", train_shot=2, size=96)
    assert (data.assembler.protocol.name, data.evaluation_part.task) == ("clean", "semantic")
    for batch in training_batches(data):
        assert batch.task == "semantic"
        assert batch.query_clicks.shape[1] == 0
        for spec, annotations, mask in zip(batch.specs, batch.support_annotations, batch.query_masks, strict=True):
            assert spec.support_ids == (spec.query_id,) * 2
            assert (mask == 1).any()
            # crops are small images, so they are enlarged on the canvas more than the query is
            assert ((annotations == 1).sum((1, 2)) >= (mask == 1).sum()).all()
            assert (annotations == 0).any()
    first = training_batches(data, 1)[0].support_images
    assert not torch.equal(first[:, 0], first[:, 1])
    sparse = module(toys, "clean", n_shot=1, train_episodes="crops", train_points="sparse", size=96)
    assert all((b.support_annotations == 255).float().mean() > 0.9 for b in training_batches(sparse))


def test_an_object_of_one_pixel_works_everywhere(smallest):
    specks = Specks()
    robot = module(specks)
    batch = next(iter(robot.test_dataloader()))
    assert (batch.targets[0] == 1).nonzero().tolist() == [[35, 50]]
    small = {"size": 16, "train_shot": 0}  # nearest sampling passes over the pixel
    for points in (None, 1, 5):
        batch = next(iter(module(specks, "interactive-points", n_points=points, **small).test_dataloader()))
        positive = batch.query_clicks[batch.query_clicks[..., 2] == 1]
        assert positive.tolist() == [[9, 13, 1]] * len(batch)  # (35.5, 50.5) * 16 / 60
    for how in ("uniform", "dios", "fbrs"):
        data = module(specks, train_clicks=how, **small)
        for batch in training_batches(data):
            assert all((mask == 1).nonzero().tolist() == [[9, 13]] for mask in batch.query_masks)
    for batch in training_batches(module(specks, "clean", n_shot=1, train_episodes="crops", size=64)):
        assert (batch.support_annotations == 1).any(-1).any(-1).all()


# ---- options


def test_robot_options_are_kept_and_refused_elsewhere(toys):
    data = module(toys, refine="B", refine_from=2, zoom_in=True, flip=True)
    assert (data.n_clicks, data.refine, data.refine_from, data.zoom_in, data.flip) == (20, "B", 2, True, True)
    assert module(toys, n_clicks=3).n_clicks == 3
    assert module(toys, "thesis").n_clicks == 1
    assert (module(toys, "interactive-points").n_clicks, module(toys, "clean", n_shot=1).n_clicks) == (None, None)
    for bad in ({"n_clicks": 2}, {"refine": "B"}, {"refine_from": 2}, {"zoom_in": True}, {"flip": True}):
        for protocol in ("clean", "interactive-points"):
            with pytest.raises(FewsegError, match=rf"--data.{next(iter(bad))}: .*which has no robot"):
                module(toys, protocol, n_shot=1, **bad)
    for bad in ({"refine_from": 0}, {"n_clicks": 0}, {"n_shot": -1}, {"train_iterations": -1}):
        with pytest.raises(FewsegError, match=rf"--data.{next(iter(bad))}"):
            module(toys, **bad)
    with pytest.raises(FewsegError, match=r"--data.n_shot: got 0, expected at least 1"):
        module(toys, "clean")
    for options in ({"train_episodes": "semantic"}, {"train_masks": "foreground"}, {"train_episodes": "crops"}):
        with pytest.raises(FewsegError, match=r"--data.train_iterations: got 2 beside"):
            module(toys, train_iterations=2, **options)
    with pytest.raises(FewsegError, match=r"--data.cache: got features, expected none or images beside crops"):
        module(toys, train_episodes="crops", cache="features")


def test_training_asks_for_what_the_protocol_tests_unless_told_otherwise(toys):
    assert module(toys).train_episodes == "interactive"
    assert module(toys, "clean", n_shot=1).train_episodes == "semantic"
    semantic = module(toys, train_episodes="semantic", train_shot=1)
    assert training_batches(semantic, 1)[0].specs[0].object_id is None
    other = module(toys, "clean", n_shot=1, train_episodes="interactive", train_shot=0)
    assert training_batches(other, 1)[0].task == "interactive"
    assert next(iter(other.test_dataloader())).task == "semantic"


# ---- with a network


class Shy(torch.nn.Module):
    """Predicts background everywhere, and counts."""

    def __init__(self):
        super().__init__()
        self.norm, self.calls = torch.nn.BatchNorm2d(2), []
        self.norm.eval()  # as a frozen one

    def forward(self, batch):
        self.calls.append((batch.query_clicks.shape[1], self.training, torch.is_grad_enabled()))
        shape = (len(batch), 1, *batch.query_masks.shape[1:])
        return torch.cat([torch.ones(shape), torch.zeros(shape)], 1)


def test_iterations_click_where_the_network_errs(toys, monkeypatch):
    data = module(toys, train_shot=0, train_iterations=3)
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    network = Shy().train()
    network.norm.eval()
    fake = SimpleNamespace(
        training=True, precision_plugin=trainer.precision_plugin, lightning_module=SimpleNamespace(network=network)
    )
    monkeypatch.setattr(data, "trainer", fake)
    rounds = []
    for batch in training_batches(data, 12):
        network.calls.clear()
        after = data.on_after_batch_transfer(batch, 0)
        n = batch.query_clicks.shape[1]
        assert torch.equal(after.query_clicks[:, :n], batch.query_clicks)
        added = after.query_clicks[:, n:]
        assert (added[..., 2] == 1).all()  # all that is wrong is missing foreground
        for mask, rows in zip(batch.query_masks, added, strict=True):
            assert all(mask[row, col] == 1 for row, col, _ in rows.tolist())
        assert network.calls == [(n + i, False, False) for i in range(added.shape[1])]
        assert network.training
        assert not network.norm.training
        assert torch.equal(data.on_after_batch_transfer(batch, 0).query_clicks, after.query_clicks)
        rounds.append(added.shape[1])
    assert set(rounds) == {0, 1, 2, 3}
    fake.training = False
    assert data.on_after_batch_transfer(batch, 0) is batch


def trained(data, **options):
    """GuidedNet after three steps on the data."""
    torch.manual_seed(0)
    model = GuidedNet(encoder="tiny", **options)
    trainer = pl.Trainer(
        max_steps=3, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        val_check_interval=3, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(model, datamodule=data)
    return model, trainer


def test_interactive_training_validates_and_is_the_same_on_cached_features(toys):
    states, scores = [], []
    for cache in ("images", "features"):
        data = module(toys, "interactive-points", train_shot=0, n_points=5, cache=cache, augmentation="flip")
        model, trainer = trained(data, freeze_encoder=True)
        scores.append(float(trainer.callback_metrics["val/miou"]))
        (figures,) = trainer.test(model, datamodule=data, verbose=False)
        states.append(torch.tensor(list(figures.values())))
        assert (data.assembler.features is not None) == (cache == "features")
    assert torch.allclose(*states, atol=0.02)  # features are kept in half precision
    assert abs(scores[0] - scores[1]) < 0.02


def test_clicks_in_the_encoder_and_cached_features_exclude_each_other(toys):
    data = module(toys, cache="features")
    model = GuidedNet(encoder="tiny", freeze_encoder=True)
    data.trainer = SimpleNamespace(lightning_module=model)
    data.setup("test")  # a robot's test uses no features, so nothing is asked of the network
    assert data.assembler.features is None
    for flag in ("encodes_clicks", "early"):
        setattr(model.network, flag, True)
        with pytest.raises(FewsegError, match=r"--data.cache: got features, .*does not read annotations"):
            data.setup("fit")
        setattr(model.network, flag, False)
