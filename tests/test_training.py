"""Training and evaluation through the data module: exact resumption, episodes, caches, geometry, rows."""

import csv
import dataclasses
import pickle
import shutil

import cv2
import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import nn

import fewseg
from fewseg.callbacks import Checkpoint, Curve
from fewseg.datamodules import FewShotDataModule, assembler
from fewseg.datasets import Shapes5i, VocDataset
from fewseg.datasets.base import FewShotDataset
from fewseg.errors import FewsegError
from fewseg.models.base import FewShotSegmentor
from fewseg.models.guided import GuidedNetwork
from fewseg.modules.encoders import Encoder
from fewseg.protocols import OSLSM, PROTOCOLS, Protocol
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


class Kill(pl.Callback):
    """Raises in a hook at a step, as a kill at that moment."""

    def __init__(self, hook, step):
        def kill(trainer, *rest):
            if trainer.global_step == step:
                raise RuntimeError("killed")

        setattr(self, hook, kill)


def validated_training(scenes, folder, *more):
    """Eight steps with a validation at every second and a checkpoint at every fourth; resumes where it can."""
    keeper = Checkpoint(folder, every=4, validate_every=2)
    module = fresh()
    runner = trainer(
        8,
        callbacks=[Curve(folder / "curve.csv"), keeper, *more],
        num_sanity_val_steps=0,
        check_val_every_n_epoch=None,
        val_check_interval=2,
    )
    last = keeper.last if keeper.last.is_file() else None
    runner.fit(module, datamodule=data(scenes, n_val_episodes=3), ckpt_path=last, weights_only=True)
    lines = list(csv.DictReader((folder / "curve.csv").read_text().splitlines()))
    return state(module), [(line["step"], line["miou"]) for line in lines], keeper.best_step


@pytest.mark.parametrize(
    ("hook", "step"),
    [("on_validation_start", 4), ("on_validation_batch_end", 4), ("on_train_batch_end", 5), ("on_validation_start", 2)],
)
def test_no_validation_is_lost_to_a_kill(scenes, tmp_path, hook, step):
    weights, validations, best_step = validated_training(scenes, tmp_path / "whole")
    assert [int(s) for s, _ in validations] == [2, 4, 6, 8]
    with pytest.raises(RuntimeError, match="killed"):
        validated_training(scenes, tmp_path / "killed", Kill(hook, step))
    assert (tmp_path / "killed/last.ckpt").is_file() == (step > 2)
    again = validated_training(scenes, tmp_path / "killed")
    assert equal(again[0], weights)
    assert again[1:] == (validations, best_step)
    kept = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "killed")]
    assert kept[0] == kept[1]


class Saves(pl.Trainer):
    """Notes at which step a checkpoint is asked for."""

    def save_checkpoint(self, path, *rest, **more):
        self.saved = [*getattr(self, "saved", []), self.global_step]
        super().save_checkpoint(path, *rest, **more)


@pytest.mark.parametrize(("validate_every", "expected"), [(None, [2, 4]), (3, [2, 3, 4])])
def test_a_checkpoint_is_written_once_a_step(scenes, tmp_path, validate_every, expected):
    """Four batches are one step; batches within a step, step 0 and the last one write none."""
    how = {"accumulate_grad_batches": 4, "num_sanity_val_steps": 0, "check_val_every_n_epoch": None}
    how |= {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    interval = {"limit_val_batches": 0} if validate_every is None else {"val_check_interval": 4 * validate_every}
    keeper = Checkpoint(tmp_path, every=2, validate_every=validate_every)
    runner = Saves(max_steps=6, callbacks=[keeper], use_distributed_sampler=False, **how, **interval)
    runner.fit(fresh(), datamodule=data(scenes, batch_size=1, n_val_episodes=2))
    assert runner.saved == expected


def test_a_curve_averages_the_losses_since_its_last_line(scenes, tmp_path):
    seen = []

    class Losses(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, *rest):
            seen.append(outputs["loss"].item())
            assert all(isinstance(loss, torch.Tensor) for loss in curve.losses)  # nobody has waited for a number

    curve = Curve(tmp_path / "curve.csv", every=2)
    trainer(2, accumulate_grad_batches=2, callbacks=[curve, Losses()]).fit(fresh(), datamodule=data(scenes))
    lines = list(csv.DictReader((tmp_path / "curve.csv").read_text().splitlines()))
    assert [line["step"] for line in lines] == ["2"]
    assert float(lines[0]["loss"]) == pytest.approx(np.mean(seen), abs=1e-5)


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


# ------------------------------------------------------------------------------------------------ loader processes


def loaders(scenes, **changes):
    """The loaders of a training and of a test, from a data module that a trainer holds."""
    module = data(scenes, **changes)
    model = frozen()
    runner = trainer(2)
    runner.fit(model, datamodule=module)
    module.trainer = trainer(2)
    return module.train_dataloader(), module.test_dataloader()


@pytest.mark.parametrize("cache", ["none", "images", "features"])
def test_what_loader_processes_get_is_small_and_whole(scenes, cache):
    for loader in loaders(scenes, cache=cache, train_points="mixed", augmentation="flip"):
        text = pickle.dumps(loader.dataset)
        assert b"Trainer" not in text
        assert len(text) < 300_000  # neither features nor decoded images
        again = pickle.loads(text)
        samples = [loader.collate_fn([dataset[i] for i in range(3)]) for dataset in (loader.dataset, again)]
        if cache == "features":
            for batch in samples:
                assert batch.query_images.maps[0].dtype == torch.float16
            assert torch.equal(*(batch.query_images.maps[0] for batch in samples))
        assert same_batch(*samples)


@pytest.mark.parametrize("cache", ["images", "features"])
def test_spawned_loader_processes_give_the_same_batches(scenes, cache):
    alone, _ = loaders(scenes, cache=cache, train_points="mixed")
    helped, _ = loaders(scenes, cache=cache, train_points="mixed", num_workers=2)
    helped.multiprocessing_context = "spawn"
    pairs = list(zip(alone, helped, strict=True))
    assert len(pairs) == 2
    assert all(same_batch(*pair) for pair in pairs)


def test_the_data_module_travels(scenes):
    module = pickle.loads(pickle.dumps(data(scenes, cache="images")))
    assert same_batch(*(d.batch_of(module.episode_list().specs[:2]) for d in (module, data(scenes))))


def test_the_cache_of_images_is_bounded(scenes):
    reads = []
    ids = scenes.ids("train")[:4]
    size = sum(array.nbytes for array in scenes.pair(ids[0]))
    memory = assembler._Memory(lambda image_id: reads.append(image_id) or scenes.pair(ids[0]), 2 * size)
    for image_id in (*ids, *ids):
        assert np.array_equal(memory(image_id)[0], scenes.image(ids[0]))
    assert reads == [*ids, *ids[2:]]  # the first two are kept
    assert memory.held == 2 * size
    assert data(scenes, cache="images", num_workers=4).assembler.pair.limit == assembler.CACHE_BYTES // 4


# -------------------------------------------------------------------------------------------------------- geometry


@pytest.fixture
def stretching(monkeypatch):
    """The name of a protocol as oslsm without its filter, which no object in 96 pixels passes."""
    parts = [dataclasses.replace(part, min_cells=0) for part in (OSLSM.training, OSLSM.evaluation)]
    monkeypatch.setitem(PROTOCOLS, "stretching", Protocol("stretching", *parts, "of tests"))
    return "stretching"


def test_a_protocol_that_stretches_queries_stretches_every_image(scenes, stretching):
    assert data(scenes).resize == "letterbox"
    stretched = data(scenes, protocol=stretching)
    assert stretched.resize == "square"
    batch = stretched.batch_of(stretched.episode_list().specs[:3])
    whole = (0, 0, 48, 48)
    assert all(tuple(frame.box) == whole for frame in batch.frames)
    assert all((batch.support_annotations != 255).flatten(1).all(1))  # no padding, and void is background
    stretched.trainer = trainer(2)
    assert all(tuple(frame.box) == whole for b in stretched.train_dataloader() for frame in b.frames)


def test_an_explicit_resize_wins(scenes, stretching):
    boxed = data(scenes, protocol=stretching, resize="letterbox")
    boxed.trainer = trainer(2)
    batches = [boxed.batch_of(boxed.episode_list().specs[:5]), *boxed.train_dataloader()]
    shapes = {(frame.original, tuple(frame.box)) for batch in batches for frame in batch.frames}
    assert any(box != (0, 0, 48, 48) for _, box in shapes)
    assert data(scenes, resize="square").resize == "square"


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


@pytest.mark.parametrize("resize", [None, "letterbox"])
def test_cached_features_score_as_images_do_where_the_protocol_stretches(scenes, stretching, resize):
    how = {"protocol": stretching, "resize": resize, "n_episodes": 12}
    plain, cached = (counts(scored(scenes, frozen(), cache=cache, **how)) for cache in ("none", "features"))
    assert (plain.sum(1) == 500 * 500).all()
    assert (np.abs(cached - plain) / 500**2).max() < 0.01


def cached_folder(dataset, **changes):
    module = data(dataset, cache="features", **changes)
    trainer().test(frozen(), datamodule=module, verbose=False)
    return module.assembler.folder


def test_features_belong_to_a_resize_mode_and_to_the_image_files(scenes, tmp_path):
    root = tmp_path / "scenes"
    shutil.copytree(scenes.root, root)
    dataset = Shapes5i(str(root), n_train=120, n_val=60)
    first = cached_folder(dataset)
    assert cached_folder(dataset) == first
    assert cached_folder(dataset, resize="square") != first
    path = str(root / "JPEGImages" / f"{dataset.ids('val')[0]}.jpg")
    cv2.imwrite(path, 255 - cv2.imread(path))
    assert cached_folder(dataset) != first  # the labels are what they were


def test_an_image_stamp_tells_images_apart(scenes):
    ids = scenes.ids("val")[:3]
    for stamp in (VocDataset.image_stamp, FewShotDataset.image_stamp):
        assert stamp(scenes, ids) == stamp(scenes, ids) != stamp(scenes, ids[:2])


def test_images_and_their_mirror_images_are_cached_apart(scenes):
    model = frozen()
    module = data(scenes, cache="features", augmentation="flip")
    runner = trainer(1)
    runner.fit(model, datamodule=module)
    cache = module.assembler.features
    image_id = scenes.ids("train")[0]
    canvas = torch.from_numpy(module.assembler.canvas(image_id)).permute(2, 0, 1)[None]
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
