"""Mask R-CNN with a fixed list of classes: labels are class ids, and references are not read."""

import dataclasses

import numpy as np
import pytest
import torch

import fewseg
from fewseg.datamodules import FewShotDataModule
from fewseg.datasets import ShapesCoco
from fewseg.episode import Box, EpisodeBatch, EpisodeSpec, Features, Frame, Instances
from fewseg.errors import FewsegError
from fewseg.evaluation import search
from fewseg.models import MaskRCNN, SiameseMaskRCNN
from fewseg.models.mask_rcnn import MaskRCNNNetwork
from fewseg.modules.detection import Detection
from fewseg.modules.encoders import Encoder

torch.set_num_threads(1)

SIZE = (48, 64)


def build(n_classes=3, **options):
    torch.manual_seed(0)
    settings = {"anchor_scale": 4.0, "n_proposals": 12, "n_regions": 8, "score_threshold": 0.0, "n_detections": 30}
    network = MaskRCNNNetwork(Encoder("tiny"), n_classes, Detection(8, **{**settings, **options}))
    with torch.no_grad():
        for parameter in network.detector.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return network.eval()


def episodes(class_ids, instances=None, masks=None):
    n, generator = len(class_ids), torch.Generator().manual_seed(1)
    return EpisodeBatch(
        support_images=torch.randint(0, 256, (n, 1, 3, 32, 24), dtype=torch.uint8, generator=generator),
        support_annotations=torch.ones(n, 1, 32, 24, dtype=torch.uint8),
        query_images=torch.randint(0, 256, (1, 3, *SIZE), dtype=torch.uint8, generator=generator).expand(n, -1, -1, -1),
        query_clicks=torch.zeros(n, 0, 3, dtype=torch.int32),
        query_masks=torch.zeros(n, *SIZE, dtype=torch.uint8) if masks is None else masks,
        targets=(None,) * n,
        frames=(Frame(SIZE, SIZE, Box(0, 0, *SIZE)),) * n,
        specs=tuple(EpisodeSpec("q", ("s",), c, support_objects=(1,)) for c in class_ids),
        instances=instances,
        task="instance",
    )


def objects(*boxes, labels):
    masks = torch.zeros(len(boxes), *SIZE, dtype=torch.uint8)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes, strict=True):
        mask[y0:y1, x0:x1] = 1
    return Instances(torch.tensor(boxes, dtype=torch.float32), masks, torch.tensor(labels))


def losses_of(network, batch):
    torch.manual_seed(7)
    return {name: loss.item() for name, loss in network.losses(batch).items()}


def test_labels_are_class_ids():
    network = build()
    (found,) = network.detect(network.encode_query(episodes([1]).query_images), torch.zeros(1, 0))
    assert set(found.labels.tolist()) == {1, 2, 3}
    assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)


def test_a_search_keeps_the_detections_of_the_class_asked_for():
    network, batch = build(), episodes([2, 3, 1])
    (everything,) = network.detect(network.encode_query(batch.query_images[:1]), torch.zeros(1, 0))
    found = search(network, batch).instances
    assert sum(len(one.boxes) for one in found) == len(everything.boxes)
    for class_id, one in zip([2, 3, 1], found, strict=True):
        own = everything.labels == class_id
        assert own.any()
        assert set(one.labels.tolist()) == {class_id}
        torch.testing.assert_close(one.boxes, everything.boxes[own])
        torch.testing.assert_close(one.scores, everything.scores[own])
        assert torch.equal(one.masks, everything.masks[own])


def test_references_are_not_read():
    network, batch = build(), episodes([2])
    assert not network.uses_support
    assert network.encode_support(batch.support_images).maps == ()
    other = dataclasses.replace(
        batch, support_images=batch.support_images.flip(-1), support_annotations=batch.support_annotations * 0
    )
    (one,), (two,) = search(network, batch).instances, search(network, other).instances
    assert torch.equal(one.boxes, two.boxes)
    assert len(one.boxes) > 0
    assert search(network, batch).z is None


def test_one_scene_is_searched_once_for_each_episode():
    network = build()
    features = network.encode_query(episodes([1]).query_images)
    one, two = network.detect(features, torch.zeros(2, 0))
    assert torch.equal(one.boxes, two.boxes)


def test_all_classes_of_an_image_are_learnt_whatever_is_asked_for():
    network = build()
    shown = objects((8, 8, 30, 30), (34, 10, 60, 40), labels=[2, 3])
    asked = [losses_of(network, episodes([c], (shown,))) for c in (1, 2, 3)]
    assert asked[0] == asked[1] == asked[2]
    assert losses_of(network, episodes([2], (objects((8, 8, 30, 30), labels=[2]),))) != asked[0]
    swapped = objects((8, 8, 30, 30), (34, 10, 60, 40), labels=[3, 2])
    assert losses_of(network, episodes([2], (swapped,)))["classification"] != asked[0]["classification"]


def test_the_losses_have_no_weights():
    network = build()
    batch = episodes([2], (objects((8, 8, 30, 30), labels=[2]),))
    torch.manual_seed(7)
    plain = network.detector.losses(network.encode_query(batch.query_images), batch.instances)
    assert losses_of(network, batch) == {name: loss.item() for name, loss in plain.items()}


def test_without_instances_the_parts_of_a_mask_are_of_the_class_of_the_episode():
    network = build()
    mask = torch.zeros(1, *SIZE, dtype=torch.uint8)
    mask[0, 8:30, 8:30] = 1
    expected = losses_of(network, episodes([3], (objects((8, 8, 30, 30), labels=[3]),)))
    assert losses_of(network, episodes([3], masks=mask)) == pytest.approx(expected)


def test_a_batch_whose_instances_all_vanished_trains():
    network = build().train()
    nothing = Instances(torch.zeros(0, 4), torch.zeros(0, *SIZE, dtype=torch.uint8), torch.zeros(0, dtype=torch.int64))
    losses = network.losses(episodes([1, 2], (nothing, nothing)))
    torch.stack(list(losses.values())).sum().backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert losses["rpn_box"] == losses["box"] == losses["mask"] == 0
    assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize(("name", "value"), [("n_classes", 0), ("warmup_steps", -1), ("n_regions", 0)])
def test_values_out_of_range_are_refused(name, value):
    with pytest.raises(FewsegError, match=rf"^{name}: got {value}, expected .*; "):
        MaskRCNN(**{name: value})


def test_every_parameter_learns():
    network = build().train()
    torch.stack(list(network.losses(episodes([2], (objects((8, 8, 30, 30), labels=[2]),))).values())).sum().backward()
    assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []


def test_it_is_the_detector_of_its_sibling_with_more_classes():
    torch.manual_seed(0)
    fixed = MaskRCNN(n_classes=20, width=16).network.detector
    siamese = SiameseMaskRCNN(width=16).network.detector
    assert fixed.heads.box_predictor.cls_score.out_features == 21
    assert fixed.heads.mask_predictor.mask_fcn_logits.out_channels == 21
    for part in ("cls_logits", "bbox_pred"):
        assert getattr(fixed.rpn.head, part).weight.shape == getattr(siamese.rpn.head, part).weight.shape
    assert fixed.rpn.head.conv[0].in_channels == 16
    assert siamese.rpn.head.conv[0].in_channels == 24  # 384 of 256


def test_cached_features_are_read():
    network, batch = build(), episodes([2])
    cached: Features = network.encoder(batch.query_images)
    (one,), (two,) = (network.detect(network.encode_query(q), torch.zeros(1, 0)) for q in (cached, batch.query_images))
    assert torch.equal(one.boxes, two.boxes)


def test_a_batch_of_mixed_sizes_finds_what_its_episodes_find_alone(tmp_path):
    dataset = ShapesCoco(root=str(tmp_path), n_train=30, n_val=10)
    data = FewShotDataModule(dataset, protocol="one-shot-all", size=80, reference_size=32)
    by_size = {dataset.image(spec.query_id).shape: spec for spec in data.episode_list().specs}
    assert len(by_size) == 3
    network, specs = build(20, n_detections=60), list(by_size.values())
    together = search(network, data.batch_of(specs)).instances
    assert sum(len(found.boxes) for found in together) > 0
    for spec, found in zip(specs, together, strict=True):
        (alone,) = search(network, data.batch_of([spec])).instances
        torch.testing.assert_close(found.boxes, alone.boxes, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(found.scores, alone.scores, atol=1e-4, rtol=1e-4)
        assert torch.equal(found.masks, alone.masks)


def test_save_and_load_and_segment_an_image(tmp_path):
    torch.manual_seed(0)
    model = MaskRCNN(n_classes=4, width=8, n_proposals=10, score_threshold=0.0, head_norm="both").eval()
    loaded = fewseg.load_model(model.save(tmp_path / "model"))
    assert loaded.hparams == model.hparams
    image = np.random.RandomState(0).randint(0, 256, (40, 56, 3), np.uint8)
    annotation = np.ones((40, 56), np.uint8)
    masks = [fewseg.segment_image(one, [(image, annotation)], image, size=64) for one in (model, loaded)]
    assert masks[0].shape == (40, 56)
    assert np.array_equal(*masks)
