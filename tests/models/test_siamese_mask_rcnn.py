"""Siamese Mask R-CNN: pooled references, matching, losses, warm-up and options, by hand and by properties."""

import dataclasses

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

import fewseg
from fewseg.datamodules import FewShotDataModule
from fewseg.datasets import ShapesCoco
from fewseg.episode import Box, EpisodeBatch, EpisodeSpec, Features, Frame, Instances
from fewseg.errors import FewsegError
from fewseg.evaluation import search
from fewseg.models import SiameseMaskRCNN
from fewseg.models.siamese_mask_rcnn import Guidance, SiameseMaskRCNNNetwork
from fewseg.modules.detection import Detection
from fewseg.modules.encoders import Encoder

torch.set_num_threads(1)

SIZE = (48, 64)


def build(width=8, seed=0, **options):
    torch.manual_seed(seed)
    settings = Detection(width, 4.0, n_proposals=12, n_regions=8, score_threshold=0.0, n_detections=6)
    network = SiameseMaskRCNNNetwork(Encoder("tiny"), settings, **options)
    return stirred(network).eval()


def stirred(network):
    """With regions and scores that depend on the image, as after a training."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "detector" in name or "matching" in name:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return network


def references(n=1, shots=1, size=(32, 24), seed=3):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, shots, 3, *size), dtype=torch.uint8, generator=generator)


def scenes(n=1, size=SIZE, seed=5):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, 3, *size), dtype=torch.uint8, generator=generator)


def objects(*boxes, labels, size=SIZE):
    masks = torch.zeros(len(boxes), *size, dtype=torch.uint8)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes, strict=True):
        mask[y0:y1, x0:x1] = 1
    places = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    return Instances(places, masks, torch.tensor(labels), crowd=torch.zeros(len(boxes), dtype=torch.bool))


def episodes(*instances, class_id=2, masks=None, n=None):
    n = n or max(len(instances), 1)
    return EpisodeBatch(
        support_images=references(n),
        support_annotations=torch.ones(n, 1, 32, 24, dtype=torch.uint8),
        query_images=scenes(n),
        query_clicks=torch.zeros(n, 0, 3, dtype=torch.int32),
        query_masks=torch.zeros(n, *SIZE, dtype=torch.uint8) if masks is None else masks,
        targets=(None,) * n,
        frames=(Frame(SIZE, SIZE, Box(0, 0, *SIZE)),) * n,
        specs=(EpisodeSpec("q", ("s",), class_id, support_objects=(1,)),) * n,
        instances=instances or None,
        task="instance",
    )


def assert_same(some, others, tolerance=1e-4):
    for one, other in zip(some, others, strict=True):
        torch.testing.assert_close(one.boxes, other.boxes, atol=tolerance, rtol=1e-4)
        torch.testing.assert_close(one.scores, other.scores, atol=tolerance, rtol=1e-4)
        assert torch.equal(one.masks, other.masks)


# The reference


def pyramid_of(*levels):
    return Features(tuple(torch.as_tensor(level, dtype=torch.float32) for level in levels), (4, 4))


def test_a_reference_is_the_mean_of_each_level():
    network = build()
    fine, coarse = torch.arange(32.0).view(1, 1, 2, 4, 4), torch.arange(8.0).view(1, 1, 2, 2, 2)
    guidance = network.guide(pyramid_of(fine, coarse), torch.ones(1, 1, 4, 4, dtype=torch.uint8))
    assert guidance.vectors.tolist() == [[[7.5, 23.5], [1.5, 5.5]]]
    assert guidance.present.tolist() == [True]


def test_only_the_annotated_part_of_a_reference_counts():
    network = build()
    level = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).view(1, 1, 1, 2, 2)
    annotation = torch.full((1, 1, 4, 4), 255, dtype=torch.uint8)
    annotation[..., :2, :] = 1  # the upper two cells, and a quarter of the lower left one
    annotation[..., 2, 0] = 1
    annotation[..., 3, 3] = 0
    guidance = network.guide(pyramid_of(level), annotation)
    assert guidance.vectors.item() == pytest.approx((1 + 2 + 3 / 4) / (2 + 1 / 4))


def test_the_paper_pools_over_the_padding_too():
    network = build(pooling="image")
    torch.manual_seed(1)
    shots = pyramid_of(torch.randn(1, 2, 3, 4, 4), torch.randn(1, 2, 3, 2, 2))
    annotation = torch.full((1, 2, 4, 4), 255, dtype=torch.uint8)
    annotation[0, :, 0, 0] = 1
    guidance = network.guide(shots, annotation)
    for i, level in enumerate(shots.maps):
        expected = F.adaptive_avg_pool2d(level[0], 1).mean(0)[:, 0, 0]
        torch.testing.assert_close(guidance.vectors[0, i], expected)


@pytest.mark.parametrize("pooling", ["annotated", "image"])
def test_shots_are_averaged_and_those_without_a_positive_do_not_count(pooling):
    network = build(pooling=pooling)
    level = torch.tensor([2.0, 4.0, 90.0]).view(1, 3, 1, 1, 1).expand(1, 3, 1, 2, 2)
    annotation = torch.ones(1, 3, 4, 4, dtype=torch.uint8)
    annotation[:, 2] = 0
    assert network.guide(pyramid_of(level), annotation).vectors.tolist() == [[[3.0]]]


def test_averaged_references_are_averaged_pyramids():
    """Pooling and averaging commute: K shots are the mean of what each one alone gives."""
    network = build()
    shots, annotation = references(1, 3), torch.ones(1, 3, 32, 24, dtype=torch.uint8)
    together = network.guide(network.encode_support(shots), annotation).vectors
    alone = [network.guide(network.encode_support(shots[:, k : k + 1]), annotation[:, :1]).vectors for k in range(3)]
    torch.testing.assert_close(together, torch.stack(alone).mean(0))
    order = network.guide(network.encode_support(shots.flip(1)), annotation).vectors
    torch.testing.assert_close(together, order)


@pytest.mark.parametrize("pooling", ["annotated", "image"])
def test_where_nothing_is_annotated_nothing_is_found(pooling):
    network = build(pooling=pooling)
    annotation = torch.ones(2, 1, 32, 24, dtype=torch.uint8)
    annotation[1] = 0
    guidance = network.guide(network.encode_support(references(2)), annotation)
    assert guidance.present.tolist() == [True, False]
    assert guidance.vectors.isfinite().all()
    features = network.encode_query(scenes(2))
    some, none = network.detect(features, guidance)
    assert len(some.boxes) > 0
    assert (none.boxes.shape, none.masks.shape, none.scores.shape) == ((0, 4), (0, *SIZE), (0,))
    logits = network.segment(features, guidance)
    assert logits.shape == (2, 2, *SIZE)
    assert logits[1].flatten(1).unique(dim=1).tolist() == [[10.0], [-10.0]]  # as every method says it


# Matching


def test_matching_by_hand():
    network = build(2)
    with torch.no_grad():
        for level, convolution in enumerate(network.matching):
            assert convolution.weight.shape == (3, 4, 1, 1)  # 384 of 256
            weights = torch.tensor([[1.0, 0, 0, 0], [0, 0, 1, 10], [0, 0, 0, 1]])
            convolution.weight.copy_((level + 1) * weights[:, :, None, None])
            convolution.bias.fill_(0.5)
    scene = torch.tensor([3.0, -2.0]).view(1, 2, 1, 1)
    vectors = torch.tensor([[[1.0, 1.0], [5.0, -2.0], [3.0, 0.0]]])
    matched = network.match(pyramid_of(scene, scene, scene), Guidance(vectors, torch.tensor([True])))
    # P = (3, -2); |P - T| = (2, 3), (2, 0), (0, 2)
    rows = [m.flatten().tolist() for m in matched.maps]
    assert rows == [[3.5, 32.5, 3.5], [6.5, 4.5, 0.5], [9.5, 60.5, 6.5]]


def test_one_scene_serves_many_references_and_one_reference_many_scenes():
    network = build()
    guidance = network.guide(network.encode_support(references(3)), torch.ones(3, 1, 32, 24, dtype=torch.uint8))
    features = network.encode_query(scenes(3))
    first = Features(tuple(m[:1] for m in features.maps), features.image_size)
    alone = [network.detect(first, Guidance(*(part[i : i + 1] for part in guidance)))[0] for i in range(3)]
    assert_same(network.detect(first, guidance), alone)
    one = Guidance(*(part[:1] for part in guidance))
    repeated = Guidance(*(part[:1].repeat_interleave(3, 0) for part in guidance))
    assert_same(network.detect(features, one), network.detect(features, repeated))
    assert not torch.equal(alone[0].boxes, alone[1].boxes)  # references matter


def test_a_reference_that_was_kept_gives_what_a_new_one_gives():
    network = build()
    annotation = torch.ones(1, 2, 32, 24, dtype=torch.uint8)
    kept = network.encode_support(references(1, 2))
    for seed in range(3):
        features = network.encode_query(scenes(seed=seed))
        new = network.guide(network.encode_support(references(1, 2)), annotation)
        again = network.guide(kept, annotation)
        assert_same(network.detect(features, again), network.detect(features, new), 0)


def test_detections_are_ordered_and_lie_in_the_image():
    network = build()
    guidance = network.guide(network.encode_support(references()), torch.ones(1, 1, 32, 24, dtype=torch.uint8))
    frame = Frame((90, 40), SIZE, Box(0, 0, 48, 21))
    (found,) = network.detect(network.encode_query(scenes()), guidance, [frame])
    assert 0 < len(found.boxes) <= 6
    assert found.masks.shape == (len(found.boxes), 90, 40)
    assert set(found.labels.tolist()) == {1}
    assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)
    assert (found.boxes >= 0).all()
    assert (found.boxes[:, [0, 2]] <= 40).all()
    assert (found.boxes[:, [1, 3]] <= 90).all()


def test_the_segmentation_is_the_union_of_the_detections():
    network = build()
    guidance = network.guide(network.encode_support(references()), torch.ones(1, 1, 32, 24, dtype=torch.uint8))
    features = network.encode_query(scenes())
    (found,) = network.detect(features, guidance)
    best = (found.masks * found.scores[:, None, None]).amax(0).clamp(1e-4, 1 - 1e-4)
    torch.testing.assert_close(network.segment(features, guidance).softmax(1)[0, 1], best)


def test_a_threshold_leaves_the_best_detections():
    network = build()
    guidance = network.guide(network.encode_support(references()), torch.ones(1, 1, 32, 24, dtype=torch.uint8))
    features = network.encode_query(scenes())
    (found,) = network.detect(features, guidance)
    (best,) = network.detect(features, guidance, threshold=float(found.scores[1]))
    assert_same([best], [found.where(slice(1))], 0)


# Losses


def test_the_losses_have_the_weights_of_the_paper():
    network = build().train()
    batch = episodes(objects((8, 8, 30, 30), labels=[2]))
    torch.manual_seed(7)
    weighted = network.losses(batch)
    guidance = network.guide(network.encode_support(batch.support_images), batch.support_annotations)
    matched = network.match(network.encode_query(batch.query_images), guidance)
    torch.manual_seed(7)
    plain = network.detector.losses(matched, [objects((8, 8, 30, 30), labels=[1])])
    weights = {"rpn_classification": 2.0, "rpn_box": 0.1, "classification": 2.0, "box": 0.5, "mask": 1.0}
    assert weighted.keys() == plain.keys() == weights.keys()
    for name, weight in weights.items():
        assert plain[name] > 0
        torch.testing.assert_close(weighted[name], weight * plain[name], rtol=1e-3, atol=1e-6)


def losses_of(network, batch):
    torch.manual_seed(7)
    return {name: loss.item() for name, loss in network.losses(batch).items()}


def test_objects_of_other_classes_are_background():
    network = build()
    both = episodes(objects((8, 8, 30, 30), (34, 10, 60, 40), labels=[2, 5]))
    alone = episodes(objects((8, 8, 30, 30), labels=[2]))
    assert losses_of(network, both) == losses_of(network, alone)
    other = dataclasses.replace(both, specs=tuple(dataclasses.replace(s, class_id=5) for s in both.specs))
    assert losses_of(network, other) == losses_of(network, episodes(objects((34, 10, 60, 40), labels=[5]), class_id=5))
    assert losses_of(network, other) != losses_of(network, both)


def test_crowds_of_other_classes_are_background_too():
    network = build()
    crowd = objects((8, 8, 30, 30), (34, 10, 60, 40), labels=[2, 5])
    crowd.crowd[1] = True
    assert losses_of(network, episodes(crowd)) == losses_of(network, episodes(objects((8, 8, 30, 30), labels=[2])))
    crowd.labels[1] = 2
    own = losses_of(network, episodes(crowd))
    assert own != losses_of(network, episodes(objects((8, 8, 30, 30), labels=[2])))
    assert own != losses_of(network, episodes(objects((8, 8, 30, 30), (34, 10, 60, 40), labels=[2, 2])))


def test_without_instances_the_parts_of_a_mask_are_the_objects():
    network = build()
    mask = torch.zeros(1, *SIZE, dtype=torch.uint8)
    mask[0, 8:30, 8:24] = 1
    mask[0, 30:40, 24:30] = 1  # hangs together over a corner
    mask[0, 4:20, 40:60] = 1
    mask[0, 40:, 40:] = 255
    found = objects((40, 4, 60, 20), (8, 8, 30, 40), labels=[2, 2])
    found.masks[1] = (mask[0] == 1) & (found.masks[0] == 0)
    assert losses_of(network, episodes(masks=mask)) == pytest.approx(losses_of(network, episodes(found)))
    nothing = losses_of(network, episodes(masks=mask * 0))
    assert all(np.isfinite(list(nothing.values())))
    assert nothing["mask"] == nothing["box"] == 0


@pytest.mark.parametrize("head_norm", ["none", "mask", "both"])
def test_a_batch_whose_instances_all_vanished_trains(head_norm):
    torch.manual_seed(0)
    settings = Detection(8, 4.0, n_proposals=12, n_regions=8, head_norm=head_norm)
    network = SiameseMaskRCNNNetwork(Encoder("tiny"), settings).train()
    nothing = objects(labels=[])
    losses = network.losses(episodes(nothing, nothing))
    torch.stack(list(losses.values())).sum().backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert losses["rpn_classification"] > 0
    assert losses["rpn_box"] == losses["box"] == losses["mask"] == 0
    assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())
    assert all(b.isfinite().all() for b in network.buffers())


def test_a_reference_learns_through_both_branches():
    network = build().train()
    batch = episodes(objects((8, 8, 30, 30), labels=[2]))
    support = batch.support_images.float().sub(128).div(60).requires_grad_()
    query = batch.query_images.float().sub(128).div(60).requires_grad_()
    losses = network.losses(dataclasses.replace(batch, support_images=support, query_images=query))
    torch.stack(list(losses.values())).sum().backward()
    assert support.grad.abs().sum() > 0
    assert query.grad.abs().sum() > 0
    silent = [n for n, p in network.named_parameters() if p.grad is None]
    assert silent == []


# References without mean subtraction


def test_raw_references_are_scaled_and_not_shifted_at_inference_only():
    network, plain = build(raw_references=True), build()
    images = references()
    mean, std = (torch.tensor(c).view(3, 1, 1) for c in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    raw = images / 255 / std
    for found, expected in zip(network.encode_support(images).maps, plain.encode_support(raw).maps, strict=True):
        torch.testing.assert_close(found, expected)
    shifted = (images / 255 - mean) / std
    for found, expected in zip(network.encode_query(images[0]).maps, plain.encode_query(shifted[0]).maps, strict=True):
        torch.testing.assert_close(found, expected)  # scenes are as ever
    network.train()
    plain.train()
    for found, expected in zip(network.encode_support(images).maps, plain.encode_support(images).maps, strict=True):
        torch.testing.assert_close(found, expected)
    floats = torch.randn(1, 1, 3, 16, 16)
    for found, expected in zip(network.encode_support(floats).maps, plain.encode_support(floats).maps, strict=True):
        torch.testing.assert_close(found, expected)  # normalised already


def test_a_session_does_not_share_the_features_of_raw_references():
    """Sessions and caches take an image's features as a scene for those as a reference where these are equal."""
    assert build().shared_encoder
    assert build().cacheable
    raw = build(raw_references=True)
    assert not raw.shared_encoder
    assert not raw.cacheable


# Proportions


def test_the_proportions_at_width_256_are_those_of_the_paper():
    network = SiameseMaskRCNN("resnet50", width=256).network
    assert network.pyramid.strides == (4, 8, 16, 32, 64)
    assert [block[0].weight.shape[:2] for block in network.pyramid.fpn.inner_blocks] == [
        (256, 256), (256, 512), (256, 1024), (256, 2048)
    ]  # fmt: skip
    assert [m.weight.shape for m in network.matching] == [(384, 512, 1, 1)] * 5
    detector = network.detector
    assert detector.rpn.head.conv[0].weight.shape == (512, 384, 3, 3)
    assert detector.heads.box_head.fc6.weight.shape == (1024, 384 * 7 * 7)
    assert detector.heads.mask_head[0][0].weight.shape == (256, 384, 3, 3)
    assert detector.heads.box_predictor.cls_score.out_features == 2  # match, or not


# Training


def data_module(root, **options):
    settings = {"protocol": "one-shot", "size": 64, "reference_size": 32, "batch_size": 2, "n_val_episodes": 0}
    return FewShotDataModule(ShapesCoco(root=str(root), n_train=30, n_val=10), **{**settings, **options})


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    root = tmp_path_factory.mktemp("shapes")
    ShapesCoco(root=str(root), n_train=30, n_val=10)
    return root


def fitted(model, batches, steps):
    trainer = pl.Trainer(
        max_steps=steps, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[Watch()],
    )  # fmt: skip
    trainer.fit(model, **({"datamodule": batches} if isinstance(batches, FewShotDataModule) else batches))
    return trainer.callbacks[0]


class Watch(pl.Callback):
    """Encoder, rest and rates after every step."""

    def __init__(self):
        self.encoders, self.others, self.rates = [], [], []

    def on_train_start(self, trainer, module):
        self.keep(module)

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.keep(module)
        self.rates.append(trainer.optimizers[0].param_groups[-1]["lr"])

    def keep(self, module):
        encoder = [p.detach().clone() for p in module.network.encoder.parameters()]
        self.encoders.append(torch.cat([p.flatten() for p in encoder]))
        self.others.append(module.network.detector.rpn.head.cls_logits.weight.detach().clone())


def small(**options):
    torch.manual_seed(0)
    settings = {"width": 8, "n_proposals": 8, "n_regions": 8, "anchor_scale": 4.0}
    return SiameseMaskRCNN(**{**settings, **options})


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_the_encoder_waits_until_the_warm_up_is_over(tree, optimizer):
    model = small(warmup_steps=2, schedule="constant", lr=1e-3, optimizer=optimizer)
    seen = fitted(model, data_module(tree), 4)
    still = [torch.equal(a, b) for a, b in zip(seen.encoders, seen.encoders[1:], strict=False)]
    assert still == [True, True, False, False]
    assert not any(torch.equal(a, b) for a, b in zip(seen.others, seen.others[1:], strict=False))
    assert all(p.requires_grad for p in model.network.parameters())


def test_a_training_that_ends_within_the_warm_up_leaves_a_model_that_can_learn(tree):
    model = small(warmup_steps=9, schedule="constant")
    seen = fitted(model, data_module(tree), 1)
    assert torch.equal(seen.encoders[0], seen.encoders[-1])
    assert all(p.requires_grad for p in model.network.parameters())


def test_a_frozen_encoder_stays_frozen_after_the_warm_up(tree):
    model = small(warmup_steps=1, freeze_encoder=True, schedule="constant")
    seen = fitted(model, data_module(tree), 2)
    assert torch.equal(seen.encoders[0], seen.encoders[-1])
    assert not any(p.requires_grad for p in model.network.encoder.parameters())


def test_the_rate_falls_to_a_tenth_for_the_last_quarter():
    batch = episodes(objects((8, 8, 30, 30), labels=[2]))
    loader = DataLoader([batch] * 8, batch_size=None)
    model = small(schedule="step", lr=1e-3, encoder_lr_factor=0.3)
    seen = fitted(model, {"train_dataloaders": loader}, 8)
    # the rate is noted after the step of the schedule: that of the next batch
    assert seen.rates == pytest.approx([1e-3] * 5 + [1e-4] * 3)
    rates = [group["lr"] for group in model.trainer.optimizers[0].param_groups]
    assert rates == pytest.approx([3e-5, 1e-4])


@pytest.mark.parametrize(("name", "value"), [("warmup_steps", -1), ("width", 0), ("nms", 1.5), ("head_norm", "batch")])
def test_values_out_of_range_are_refused(name, value):
    with pytest.raises(FewsegError, match=rf"^{name}: got {value}, expected "):
        small(**{name: value})


# Batches, files and sessions


def specs_of(data, n):
    return data.episode_list().specs[:n]


@pytest.mark.parametrize("reference_size", [32, 40])
def test_a_batch_of_mixed_sizes_finds_what_its_episodes_find_alone(tree, reference_size):
    data = data_module(tree, protocol="one-shot-all", n_shot=2, size=80, reference_size=reference_size)
    dataset, by_size = data.dataset, {}
    for spec in data.episode_list().specs:
        by_size.setdefault(dataset.image(spec.query_id).shape[:2], []).append(spec)
    assert set(by_size) == {(96, 96), (96, 72), (72, 96)}
    specs = [spec for found in by_size.values() for spec in found[:2]]
    shapes = {dataset.reference(*of).shape for s in specs for of in zip(s.support_ids, s.support_objects, strict=True)}
    assert len(shapes) > 3
    network = build()
    together = search(network, data.batch_of(specs)).instances
    assert_same(together, [search(network, data.batch_of([spec])).instances[0] for spec in specs])
    for spec, found in zip(specs, together, strict=True):
        assert len(found.boxes) > 0
        assert found.masks.shape[1:] == dataset.image(spec.query_id).shape[:2]


def test_save_and_load(tmp_path, tree):
    data = data_module(tree, n_shot=2)
    model = small(score_threshold=0.0, n_detections=5, rectify=True, pooling="image", head_norm="both").eval()
    stirred(model.network)
    batch = data.batch_of(specs_of(data, 2))
    loaded = fewseg.load_model(model.save(tmp_path / "model"))
    assert loaded.hparams == model.hparams
    assert_same(search(loaded.network, batch).instances, search(model.network, batch).instances, 0)


def test_a_whole_image_with_a_mask_is_a_support():
    random = np.random.RandomState(0)
    image, query = (random.randint(0, 256, size, np.uint8) for size in ((40, 56, 3), (50, 36, 3)))
    annotation = np.zeros((40, 56), np.uint8)
    annotation[10:30, 20:40] = 1
    model = small(score_threshold=0.0).eval()
    stirred(model.network)
    mask = fewseg.segment_image(model, [(image, annotation)], query, size=64)
    assert mask.shape == (50, 36)
    assert set(np.unique(mask)) <= {0, 1}
    assert not fewseg.segment_image(model, [(image, annotation * 0)], query, size=64).any()
