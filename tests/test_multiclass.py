"""SG-One's multi-class test: a query has one episode for every class, and their answers are one label map."""

import dataclasses
import itertools
import json
import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import PIL.Image
import pytest
import torch

from fewseg import cli, evaluation
from fewseg.datamodules import FewShotDataModule
from fewseg.datasets import Shapes5i
from fewseg.episode import Box, EpisodeBatch, EpisodeSpec, Frame
from fewseg.errors import FewsegError
from fewseg.functional.label_maps import annotation_map, oslsm_cells
from fewseg.protocols import OSLSM, PROTOCOLS, SGONE, SGONE_MULTICLASS
from fewseg.sampling import (
    evaluation_list,
    groups,
)
from test_sampling import TinyDataset

torch.set_num_threads(1)


class FiveClasses(TinyDataset):
    """60 test images of 100 x 100: image i shows class 1 + i % 5, every third another one, every fourth a small one."""

    class_names = tuple(f"class {c}" for c in range(1, 21))

    def __init__(self):
        super().__init__()
        self.labels = {}
        for i in range(60):
            label = np.zeros((100, 100), np.uint8)
            label[10:90, 10:60] = 1 + i % 5
            if i % 3 == 0:
                label[10:90, 62:95] = 1 + (i + 2) % 5
            if i % 4 == 0:
                label[92:97, 2:7] = 1 + (i + 3) % 5  # too small to be drawn, yet it shows the class
            self.labels[f"im{i:02d}"] = label
        self.splits = {"train": (), "val": tuple(self.labels)}


# ------------------------------------------------------------------------------------------------------- the list


@pytest.fixture(scope="module")
def five():
    return FiveClasses()


@pytest.fixture(scope="module")
def specs(five):
    return evaluation_list(five, SGONE_MULTICLASS, 0, 3, None).specs


def test_a_thousand_queries_are_asked_for_every_class_of_the_fold(specs):
    assert len(specs) == 5000
    assert groups(specs) == [range(i, i + 5) for i in range(0, 5000, 5)]
    for number, places in enumerate(groups(specs)):
        group = specs[places.start : places.stop]
        assert [s.class_id for s in group] == [1, 2, 3, 4, 5]
        assert {s.group for s in group} == {number}
        assert len({s.query_id for s in group}) == 1
    assert len({s.seed for s in specs}) == 5000


def test_supports_show_their_class_and_never_are_the_query(five, specs):
    for spec in specs:
        assert len({spec.query_id, *spec.support_ids}) == 4
        assert all(oslsm_cells(five.labels[i] == spec.class_id) > 2 for i in spec.support_ids)


def test_present_says_whether_the_query_shows_the_class_however_small(five, specs):
    for spec in specs:
        assert spec.present == bool((five.labels[spec.query_id] == spec.class_id).any())
    shares = {sum(s.present for s in specs[p.start : p.stop]) for p in groups(specs)}
    assert shares == {1, 2, 3}


def test_queries_and_their_own_supports_are_those_of_oslsm(five, specs):
    drawn = evaluation_list(five, OSLSM, 0, 3, None).specs
    assert [(s.query_id, s.class_id) for s in evaluation_list(five, SGONE, 0, 3, None).specs] == [
        (s.query_id, s.class_id) for s in drawn
    ]
    for places, own in zip(groups(specs), drawn, strict=True):
        spec = specs[places[own.class_id - 1]]
        assert (spec.query_id, spec.class_id, spec.support_ids) == (own.query_id, own.class_id, own.support_ids)


def test_supports_of_the_other_classes_are_drawn_anew_for_every_query(specs):
    of_one = {s.support_ids for s in specs if s.class_id == 2}
    assert len(of_one) > 600
    assert len({s.support_ids[0] for s in specs if s.class_id == 2}) == 16  # all twelve large ones and four others


def test_lists_are_nested_in_shots_points_and_queries_and_always_the_same(five, specs):
    one = evaluation_list(five, SGONE_MULTICLASS, 0, 1, None, 50).specs  # no exchange of roles either
    assert len(one) == 250
    for a, b in zip(one, specs[:250], strict=True):
        assert dataclasses.replace(b, support_ids=b.support_ids[:1]) == a
    again = evaluation_list(five, SGONE_MULTICLASS, 0, 3, None, 50)
    assert again.specs == specs[:250]
    assert again.sha256 == "ec4130f2e9936d34c58d0e07abf98be062f37cf3d175e2bbcd5e1e82de90b53d"
    assert all(s.support_ids == () for s in evaluation_list(five, SGONE_MULTICLASS, 0, 0, None, 3).specs)


def test_it_trains_as_sgone_does():
    assert SGONE_MULTICLASS.training == SGONE.training
    changed = {"draw": "oslsm", "swap_roles": True}
    assert dataclasses.replace(SGONE_MULTICLASS.evaluation, **changed) == SGONE.evaluation


def test_episodes_without_a_group_stand_alone():
    alone, grouped = EpisodeSpec("a", (), 1), [EpisodeSpec("a", (), c, group=0) for c in (1, 2)]
    assert groups([alone, alone, *grouped, alone]) == [range(0, 1), range(1, 2), range(2, 4), range(4, 5)]
    assert groups([*grouped, EpisodeSpec("a", (), 1, group=1)]) == [range(0, 2), range(2, 3)]
    assert groups([]) == []


def test_points_are_drawn_for_every_class(five):
    fewer, more = (evaluation_list(five, SGONE_MULTICLASS, 0, 2, n, 4).specs for n in (1, 3))
    assert all(set(a.points) < set(b.points) for a, b in zip(fewer, more, strict=True))
    for spec in more:
        assert len(spec.points) == 2 * 2 * 3
        for shot, row, col, label in spec.points:
            assert annotation_map(five.labels[spec.support_ids[shot]], spec.class_id)[row, col] == label


# --------------------------------------------------------------------------------------------------------- scoring


def batch_of(margins, label, classes, group):
    """A batch whose logits have these margins (n, H, W), and whose targets are the classes of a label map."""
    n, h, w = margins.shape
    frame = Frame((h, w), (h, w), Box(0, 0, h, w))
    logits = torch.stack([torch.full_like(margins, 5.0), margins + 5.0], 1)
    batch = EpisodeBatch(
        support_images=torch.zeros(n, 1, 3, h, w, dtype=torch.uint8),
        support_annotations=torch.zeros(n, 1, h, w, dtype=torch.uint8),
        query_images=torch.zeros(n, 3, h, w, dtype=torch.uint8),
        query_clicks=torch.zeros(n, 0, 3, dtype=torch.int32),
        query_masks=torch.zeros(n, h, w, dtype=torch.uint8),
        targets=tuple(torch.from_numpy(annotation_map(label, c)) for c in classes),
        frames=(frame,) * n,
        specs=tuple(EpisodeSpec("q", ("s",), c, group=group, present=bool((label == c).any())) for c in classes),
    )
    return batch, logits


MARGINS = torch.tensor(
    [
        [[4.0, 2.0, -1.0, 0.5, 3.0, -2.0]],  # of class 1
        [[1.0, 3.0, -2.0, -0.5, 1.0, 2.0]],  # of class 2
    ]
)
LABEL = np.uint8([[1, 1, 0, 0, 255, 255]])  # the label map of the fused answer is 1 2 0 1 1 2


def counts(rows):
    return [(row.tp, row.fp, row.fn, row.tn) for row in rows]


def test_a_pixel_that_two_classes_claim_goes_to_the_larger_margin():
    batch, logits = batch_of(MARGINS, LABEL, (1, 2), group=4)
    first, second = evaluation.masks(batch, logits)
    assert (first + 2 * second).tolist() == [[1, 2, 0, 1, 1, 2]]
    assert first.dtype == second.dtype == np.uint8
    rows = evaluation.rows(batch, logits, SGONE_MULTICLASS.evaluation, [20, 21])
    assert counts(rows) == [(1, 2, 1, 2), (0, 2, 0, 4)]  # void is background
    assert [(r.episode, r.group, r.present) for r in rows] == [(20, 4, True), (21, 4, False)]
    ignoring = dataclasses.replace(SGONE_MULTICLASS.evaluation, void="ignore")
    assert counts(evaluation.rows(batch, logits, ignoring, [0, 1])) == [(1, 1, 1, 1), (0, 1, 0, 3)]


def test_without_a_group_every_episode_answers_for_itself():
    batch, logits = batch_of(MARGINS, LABEL, (1, 2), group=None)
    assert [mask.tolist() for mask in evaluation.masks(batch, logits)] == [[[1, 1, 0, 1, 1, 0]], [[1, 1, 0, 0, 1, 1]]]
    rows = evaluation.rows(batch, logits, SGONE_MULTICLASS.evaluation, [0, 1])
    assert counts(rows) == [(2, 2, 0, 2), (0, 4, 0, 2)]


def test_the_threshold_is_that_of_the_probability():
    batch, logits = batch_of(MARGINS, LABEL, (1, 2), group=0)
    odds = 1 / (1 + math.exp(-2.5))  # margins up to 2.5 are background
    first, second = evaluation.masks(batch, logits, threshold=odds)
    assert (first + 2 * second).tolist() == [[1, 2, 0, 0, 1, 0]]


def test_margins_are_compared_at_scoring_size():
    """The label map at network size, 1 2, made larger would change in the middle."""
    small = torch.tensor([[[8.0, -2.0]], [[-3.0, 1.0]]])
    batch, logits = batch_of(small, np.uint8([[1, 2]]), (1, 2), group=0)
    batch = dataclasses.replace(batch, frames=(Frame((1, 8), (1, 2), Box(0, 0, 1, 2)),) * 2)
    first, second = evaluation.masks(batch, logits)
    # margins of the fifth pixel, five eighths of the way: 8 - 10 * 5 / 8 = 1.75 and -3 + 4 * 5 / 8 = -0.5
    assert (first + 2 * second).tolist() == [[1, 1, 1, 1, 1, 2, 2, 2]]


def test_batches_of_several_groups_and_of_one_give_the_same_rows():
    generator = torch.Generator().manual_seed(0)
    margins = torch.randn(6, 5, 7, generator=generator)
    label = np.random.RandomState(0).choice(np.uint8([0, 1, 2, 255]), (5, 7))
    parts = [batch_of(margins[i : i + 2], label, (1, 2), group=i) for i in (0, 2, 4)]
    apart = [evaluation.masks(*part) for part in parts]
    whole, logits = batch_of(margins, label, (1, 2) * 3, group=None)
    specs = tuple(spec for part, _ in parts for spec in part.specs)
    together = evaluation.masks(dataclasses.replace(whole, specs=specs), logits)
    assert np.array_equal(np.stack(together), np.stack([mask for masks in apart for mask in masks]))
    for first, second in apart:
        assert (first + second).max() == 1


# ----------------------------------------------------------------------------------------------- through the house


@pytest.fixture
def unfiltered(monkeypatch):
    """The protocol without its filter, which no object in 96 pixels passes."""
    part = dataclasses.replace(SGONE_MULTICLASS.evaluation, min_cells=0)
    monkeypatch.setitem(PROTOCOLS, "sgone-multiclass", SGONE_MULTICLASS._replace(evaluation=part))


@pytest.mark.parametrize(("eval_batch_size", "sizes"), [(1, [5] * 4), (9, [5] * 4), (10, [10, 10]), (17, [15, 5])])
def test_a_step_holds_whole_groups_and_at_least_one(unfiltered, eval_batch_size, sizes):
    scenes = Shapes5i(n_train=120, n_val=60)
    options = {"protocol": "sgone-multiclass", "size": 32, "n_episodes": 4, "eval_batch_size": eval_batch_size}
    data = FewShotDataModule(scenes, **options)
    batches = list(data.test_dataloader())
    assert [len(batch) for batch in batches] == sizes
    assert tuple(itertools.chain(*(batch.specs for batch in batches))) == data.episode_list().specs
    assert data.places() == list(range(20))


def test_processes_share_the_list_by_groups(unfiltered):
    scenes = Shapes5i(n_train=120, n_val=60)
    data = FewShotDataModule(scenes, protocol="sgone-multiclass", size=32, n_episodes=3)
    specs, places = data.episode_list().specs, []
    for rank in (0, 1):
        data.trainer = SimpleNamespace(global_rank=rank, world_size=2)
        places.append(data.places())
        tested = [spec for batch in data.test_dataloader() for spec in batch.specs]
        assert tested == [specs[place] for place in data.places()]
    assert places == [[0, 1, 2, 3, 4, 10, 11, 12, 13, 14], [5, 6, 7, 8, 9]]
    data.trainer.world_size = 4
    with pytest.raises(FewsegError, match="got 4, expected at most 3, one for each episode or group"):
        data.test_dataloader()


def test_the_command_line_scores_and_predicts_label_maps(unfiltered, tmp_path):
    options = [
        *("--model", "PANet", "--model.encoder", "tiny", "--data.dataset", "Shapes5i", "--data.dataset.n_train", "120"),
        *("--data.dataset.n_val", "60", "--data.size", "48", "--data.protocol", "sgone-multiclass"),
        *("--data.n_episodes", "3", "--data.eval_batch_size", "10", "--trainer.accelerator", "cpu"),
        *("--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"),
        *("--trainer.default_root_dir", str(tmp_path)),
    ]
    assert cli.main(["test", *options]) == 0
    rows = pd.read_parquet(next(tmp_path.rglob("episodes.parquet")))
    assert rows.episode.tolist() == list(range(15))
    assert rows.group.tolist() == [g for g in range(3) for _ in range(5)]
    assert rows.class_id.tolist() == [1, 2, 3, 4, 5] * 3
    assert (rows.present == (rows.tp + rows.fn > 0)).all()
    assert 1 <= rows.present.sum() < 15
    scenes = Shapes5i(n_train=120, n_val=60)
    pixels = (rows.tp + rows.fp + rows.fn + rows.tn).to_numpy()
    assert pixels.tolist() == [scenes.label(q).size for q in rows["query"]]  # void is background
    claimed = (rows.tp + rows.fp).groupby(rows.group).sum().to_numpy()
    assert (claimed > 0).all()
    assert (claimed <= pixels[::5]).all()
    figures = json.loads(next(tmp_path.rglob("metrics.json")).read_text())
    by_class = rows.groupby("class_id")[["tp", "fp", "fn"]].sum()
    assert figures["miou"] == pytest.approx((by_class.tp / by_class.sum(axis=1)).mean())

    assert cli.main(["predict", *options]) == 0
    files = sorted(next(tmp_path.rglob("predictions.csv")).parent.glob("*.png"))
    assert len(files) == 15
    for places in (range(0, 5), range(5, 10), range(10, 15)):
        masks = np.stack([np.array(PIL.Image.open(files[place])) for place in places]) > 0
        assert masks.sum(0).max() == 1
        assert [int(mask.sum()) for mask in masks] == (rows.tp + rows.fp).iloc[list(places)].tolist()
