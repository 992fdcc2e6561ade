"""Training and evaluation through the data module: exact resumption, episodes, the feature cache, rows."""

import dataclasses

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import nn

import fewseg
from fewseg.datamodules import FewShotDataModule
from fewseg.datasets import Shapes5i
from fewseg.errors import FewsegError
from fewseg.models.base import FewShotSegmentor
from fewseg.models.guided import GuidedNetwork
from fewseg.modules.encoders import Encoder
from fewseg.results import read_rows, write_rows

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def scenes():
    return Shapes5i(n_train=120, n_val=60)


def data(scenes, **changes):
    defaults = {"size": 48, "batch_size": 2, "eval_batch_size": 3, "n_episodes": 7, "n_val_episodes": 0}
    return FewShotDataModule(scenes, **{**defaults, **changes})


def trainer(max_steps=0, **more):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    quiet |= {"enable_checkpointing": False, "use_distributed_sampler": False, "accelerator": "cpu"}
    return pl.Trainer(max_steps=max_steps, **{**quiet, **more})


class Dropping(FewShotSegmentor):
    """A guided network with dropout in its head, so that training draws random numbers of its own."""

    def __init__(self) -> None:
        network = GuidedNetwork(Encoder("tiny"), width=16)
        network.head.layers = nn.Sequential(network.head.layers, nn.Dropout2d(0.5))
        super().__init__(network=network, lr=1e-3)


def fresh(cls=Dropping):
    torch.manual_seed(0)
    return cls()


def state(module):
    return {name: value.clone() for name, value in module.network.state_dict().items()}


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# -------------------------------------------------------------------------------------------------------- resuming


class Stop(pl.Callback):
    """Ends a training after some steps, as a kill would: the schedule has been made for all of them."""

    def __init__(self, after, path):
        self.after, self.path = after, path

    def on_train_batch_end(self, trainer, *rest):
        if trainer.global_step == self.after:
            trainer.save_checkpoint(self.path)
            raise KeyboardInterrupt


@pytest.mark.parametrize("accumulate", [1, 2])
def test_an_interrupted_training_continues_exactly(scenes, tmp_path, accumulate):
    how = {"accumulate_grad_batches": accumulate}
    whole = fresh()
    start = state(whole)
    trainer(6, **how).fit(whole, datamodule=data(scenes, train_points="mixed"))

    half, path = fresh(), tmp_path / "half.ckpt"
    with pytest.raises(SystemExit):  # Lightning turns the interrupt into an exit
        trainer(6, callbacks=[Stop(3, path)], **how).fit(half, datamodule=data(scenes, train_points="mixed"))
    torch.rand(7)  # the resumed process is in another random state
    resumed = fresh()
    again = trainer(6, **how)
    again.fit(resumed, datamodule=data(scenes, train_points="mixed"), ckpt_path=path, weights_only=True)

    assert again.global_step == 6
    assert not equal(state(whole), start)
    assert not equal(state(half), state(whole))
    assert equal(state(resumed), state(whole))


def test_the_same_training_gives_the_same_weights_and_another_seed_does_not(scenes):
    weights = []
    for seed in (0, 0, 1):
        module = fresh()
        trainer(2).fit(module, datamodule=data(scenes, seed=seed))
        weights.append(state(module))
    assert equal(weights[0], weights[1])
    assert not equal(weights[0], weights[2])


def test_loader_processes_do_not_change_a_training(scenes):
    weights = []
    for num_workers in (0, 2):
        module = fresh()
        trainer(2).fit(module, datamodule=data(scenes, num_workers=num_workers, augmentation="full"))
        weights.append(state(module))
    assert equal(*weights)


# -------------------------------------------------------------------------------------------------------- episodes


def training_batches(scenes, max_steps, **changes):
    module = data(scenes, **changes)
    module.trainer = trainer(max_steps)
    return list(module.train_dataloader())


def same_batch(one, other):
    if one.specs != other.specs:
        return False
    tensors = [f.name for f in dataclasses.fields(one) if isinstance(getattr(one, f.name), torch.Tensor)]
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in tensors)


def test_training_batches_do_not_depend_on_the_number_of_workers(scenes):
    kind = {"augmentation": "full", "train_points": "sparse"}
    alone, helped = (training_batches(scenes, 3, num_workers=n, **kind) for n in (0, 2))
    assert len(alone) == 3
    assert all(same_batch(a, b) for a, b in zip(alone, helped, strict=True))


def test_training_episodes_do_not_depend_on_the_batch_size(scenes):
    singles = training_batches(scenes, 4, batch_size=1, augmentation="full")
    pairs = training_batches(scenes, 2, batch_size=2, augmentation="full")
    assert [s for b in singles for s in b.specs] == [s for b in pairs for s in b.specs]
    assert torch.equal(torch.cat([b.support_images for b in singles]), torch.cat([b.support_images for b in pairs]))
    assert torch.equal(torch.cat([b.query_masks for b in singles]), torch.cat([b.query_masks for b in pairs]))


def test_a_query_is_never_its_own_support_and_novel_classes_never_train(scenes):
    novel = set(scenes.novel_classes(2))
    areas = scenes.index().areas
    for batch in training_batches(scenes, 8, fold=2):
        for spec in batch.specs:
            assert spec.query_id not in spec.support_ids
            assert spec.class_id not in novel
            assert all(novel.isdisjoint(areas[i]) for i in (spec.query_id, *spec.support_ids))


# ------------------------------------------------------------------------------------------------------ evaluation


def scored(scenes, module, **changes):
    trainer().test(module, datamodule=data(scenes, **changes), verbose=False)
    return module.rows


def counts(rows):
    return np.array([[row.tp, row.fp, row.fn, row.tn] for row in rows])


@pytest.mark.parametrize("eval_batch_size", [1, 3, 7])
def test_every_episode_is_scored_once_and_rows_do_not_depend_on_batches(scenes, eval_batch_size, tmp_path):
    rows = scored(scenes, fresh().eval(), eval_batch_size=eval_batch_size, num_workers=eval_batch_size % 2)
    assert [row.episode for row in rows] == list(range(7))
    specs = data(scenes).episode_list().specs
    assert [(row.query, row.support, row.class_id) for row in rows] == [
        (spec.query_id, " ".join(spec.support_ids), spec.class_id) for spec in specs
    ]
    for row, pixels in zip(rows, counts(rows).sum(1), strict=True):
        label = scenes.label(row.query)
        assert pixels == (label != 255).sum()  # scored at original size, outside void
        assert row.tp + row.fn == (label == row.class_id).sum()
        assert row.seconds_encode > 0
        assert row.seconds_segment > 0
    alone = counts(scored(scenes, fresh().eval(), eval_batch_size=1))
    assert np.abs(counts(rows) - alone).max() <= 2  # sums of floats differ in their last bits
    write_rows(tmp_path / "episodes.parquet", rows)
    assert read_rows(tmp_path / "episodes.parquet").tp.tolist() == [row.tp for row in rows]


def test_a_second_test_starts_counting_anew(scenes):
    module = fresh().eval()
    first = scored(scenes, module)
    assert counts(scored(scenes, module)).tolist() == counts(first).tolist()


# --------------------------------------------------------------------------------------------------- feature cache


def frozen():
    torch.manual_seed(0)
    return fewseg.create_model("GuidedNet", encoder="tiny", freeze_encoder=True, width=16)


def test_cached_features_score_as_images_do(scenes):
    plain, cached = (counts(scored(scenes, frozen(), cache=cache)) for cache in ("none", "features"))
    pixels = plain.sum(1, keepdims=True)
    assert (cached.sum(1, keepdims=True) == pixels).all()
    assert (np.abs(cached - plain) / pixels).max() < 0.01  # half precision turns a pixel here and there


def test_images_and_their_mirror_images_are_cached_apart(scenes):
    model = frozen()
    module = data(scenes, cache="features", augmentation="flip")
    runner = trainer(1)
    runner.fit(model, datamodule=module)
    cache = module.features
    image_id = scenes.ids("train")[0]
    canvas = torch.from_numpy(module._canvas(image_id)).permute(2, 0, 1)[None]
    with torch.inference_mode():
        expected = {flipped: model.network.encoder(canvas.flip(-1) if flipped else canvas) for flipped in (False, True)}
    for flipped, features in expected.items():
        for tap, wanted in zip(cache.read(image_id, flipped), features.maps, strict=True):
            torch.testing.assert_close(tap.float(), wanted[0], rtol=2e-3, atol=2e-3)
    assert not torch.equal(cache.read(image_id, True)[0], cache.read(image_id, False)[0].flip(-1))


def test_training_on_cached_features_is_training_on_images(scenes):
    """Both see the same episodes with the same flips, so that the weights differ by half precision only."""
    weights = []
    for cache in ("none", "features"):
        model = frozen()
        trainer(3).fit(model, datamodule=data(scenes, cache=cache, augmentation="flip", train_points="mixed"))
        weights.append(torch.cat([p.flatten() for p in model.network.parameters() if p.requires_grad]))
    start = torch.cat([p.flatten() for p in frozen().network.parameters() if p.requires_grad])
    assert (weights[0] - weights[1]).norm() < 0.05 * (weights[0] - start).norm()


def test_cached_images_are_the_same_images(scenes):
    assert counts(scored(scenes, frozen(), cache="images")).tolist() == counts(scored(scenes, frozen())).tolist()


def test_features_of_what_learns_or_is_augmented_are_not_cached(scenes):
    learning = fewseg.create_model("GuidedNet", encoder="tiny")
    with pytest.raises(FewsegError, match=r"--data.cache: got features, expected a frozen encoder"):
        trainer(1).fit(learning, datamodule=data(scenes, cache="features"))
    with pytest.raises(FewsegError, match=r"--data.augmentation: got full, expected none or flip"):
        data(scenes, cache="features", augmentation="full")
