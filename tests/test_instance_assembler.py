"""From the spec of a search to its arrays: references, instances on the canvas and at original size, crowds."""

import json
from types import SimpleNamespace

import cv2
import numpy as np
import pycocotools.mask
import pytest
import torch

from fewseg.datamodules import FewShotDataModule
from fewseg.datamodules.assembler import CACHE_BYTES, annotated_instances, on_canvas
from fewseg.datasets import CocoOneShot
from fewseg.datasets.base import AnnotatedInstance
from fewseg.datasets.coco import COCO_CLASSES
from fewseg.episode import POSITIVE, UNKNOWN, VOID, Box, EpisodeSpec, Frame, Instances
from fewseg.evaluation import detected, instance_rows, search
from fewseg.models import SiameseMaskRCNN
from fewseg.transforms import fit

torch.set_num_threads(1)

IDS = [i for i in range(1, 91) if i not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)]  # COCO's own
HEIGHT, WIDTH = 48, 96
NOVEL, BASE, OTHER = 1, 2, 3  # class ids; in fold 0 the first is novel


def outline(x, y, w, h):
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[y : y + h, x : x + w] = 1
    runs = pycocotools.mask.encode(np.asfortranarray(mask))
    return {"size": [HEIGHT, WIDTH], "counts": runs["counts"].decode()}


IMAGES = {  # number -> class, x, y, width, height, crowd
    "train": {
        1: [(BASE, 8, 6, 20, 30, 0), (NOVEL, 40, 10, 16, 16, 0), (BASE, 64, 8, 30, 24, 1), (OTHER, 70, 12, 10, 12, 0)],
        2: [(BASE, 70, 20, 24, 12, 0), (BASE, 90, 4, 1, 1, 0)],
    },
    "val": {
        3: [(NOVEL, 10, 8, 30, 20, 0), (NOVEL, 20, 0, 60, 40, 1), (BASE, 70, 30, 12, 14, 0), (NOVEL, 88, 40, 1, 1, 0)],
        4: [(NOVEL, 0, 0, 50, 30, 0)],
    },
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    root = tmp_path_factory.mktemp("coco")
    (root / "annotations").mkdir()
    random, number = np.random.RandomState(0), 0
    for split, images in IMAGES.items():
        (root / f"{split}2017").mkdir()
        annotations = []
        for image, shown in images.items():
            pixels = cv2.resize(random.randint(0, 256, (6, 12, 3), np.uint8), (WIDTH, HEIGHT))
            cv2.imwrite(str(root / f"{split}2017/{image:012d}.png"), pixels)
            for c, x, y, w, h, crowd in shown:
                number += 1
                found = {"id": number, "image_id": image, "category_id": IDS[c - 1], "iscrowd": crowd}
                annotations.append({**found, "bbox": [x, y, w, h], "segmentation": outline(x, y, w, h)})
        listed = [{"id": i, "file_name": f"{i:012d}.png", "height": HEIGHT, "width": WIDTH} for i in images]
        categories = [{"id": i, "name": name} for i, name in zip(IDS, COCO_CLASSES, strict=True)]
        content = {"images": listed, "categories": categories, "annotations": annotations}
        (root / f"annotations/instances_{split}2017.json").write_text(json.dumps(content))
    return CocoOneShot(str(root), n_held_out=0)


def data_module(dataset, **options):
    settings = {"protocol": "one-shot-code", "size": 64, "reference_size": 32, "n_val_episodes": 0}
    return FewShotDataModule(dataset, **{**settings, **options})


def name(number):
    return f"{number:012d}"


def spec_of(query, references, class_id, seed=0):
    ids, numbers = tuple(name(image) for image, _ in references), tuple(number for _, number in references)
    return EpisodeSpec(name(query), ids, class_id, seed=seed, support_objects=numbers)


def extent(mask):
    columns, rows = mask.any(0).nonzero()[:, 0], mask.any(1).nonzero()[:, 0]
    return [columns[0].item(), rows[0].item(), columns[-1].item() + 1, rows[-1].item() + 1]


# Training


def train(dataset, query=1, class_id=BASE, seed=0, **options):
    spec = spec_of(query, [(1, 1)], class_id, seed)
    return data_module(dataset, **options).assembler.assemble(spec, training=True)


def test_a_training_episode_has_the_annotated_objects_of_the_classes_that_train(dataset):
    sample = train(dataset, augmentation="none")
    found = sample.instances
    assert found.labels.tolist() == [BASE, BASE, OTHER]  # whatever is asked for, but nothing novel
    assert found.crowd.tolist() == [False, True, False]
    corners = [[x, y, x + w, y + h] for c, x, y, w, h, _ in IMAGES["train"][1] if c != NOVEL]
    np.testing.assert_allclose(found.boxes.numpy(), np.array(corners) * 64 / 96, rtol=1e-6)
    assert found.boxes.dtype == torch.float32
    for box, mask in zip(found.boxes.tolist(), found.masks, strict=True):
        assert np.abs(np.array(extent(mask)) - box).max() <= 1
    assert found.masks.shape == (3, 64, 64)
    assert not found.masks[:, 32:].any()  # padding
    assert sample.task == "instance"
    assert sample.target is None
    everything = train(dataset, augmentation="none", protocol="one-shot-all").instances
    assert everything.labels.tolist() == [BASE, NOVEL, BASE, OTHER]


def test_a_mirrored_training_episode_is_mirrored_in_all_its_parts(dataset):
    seed = next(s for s in range(99) if data_module(dataset).assembler.augment.flipped(s))
    plain, mirrored = train(dataset, seed=seed, augmentation="none"), train(dataset, seed=seed, augmentation="flip")
    assert np.array_equal(mirrored.query, plain.query[:, ::-1])
    assert np.array_equal(mirrored.mask, plain.mask[:, ::-1])
    one, other = plain.instances, mirrored.instances
    assert torch.equal(other.masks, one.masks.flip(-1))
    expected = torch.stack([64 - one.boxes[:, 2], one.boxes[:, 1], 64 - one.boxes[:, 0], one.boxes[:, 3]], 1)
    torch.testing.assert_close(other.boxes, expected)
    for box, mask in zip(other.boxes.tolist(), other.masks, strict=True):
        assert np.abs(np.array(extent(mask)) - box).max() <= 1
    own = (other.labels == BASE) & ~other.crowd
    assert np.array_equal(other.masks[own].any(0), mirrored.mask == 1)


def test_crowds_are_void_in_the_mask_of_a_query(dataset):
    sample = train(dataset, augmentation="none")
    own = sample.instances.labels == BASE
    crowd = sample.instances.masks[own & sample.instances.crowd][0].bool().numpy()
    assert set(sample.mask[:32][crowd[:32]]) == {VOID}
    assert set(np.unique(sample.mask)) == {0, 1, VOID}
    other = train(dataset, class_id=OTHER, augmentation="none")
    assert set(np.unique(other.mask[:32])) == {0, 1}  # of another class than the crowd's


def test_objects_below_a_pixel_on_the_canvas_do_not_train(dataset):
    assert train(dataset, query=2, augmentation="none").instances.labels.tolist() == [BASE]
    large = train(dataset, query=2, augmentation="none", size=96).instances
    assert large.labels.tolist() == [BASE, BASE]
    assert large.masks[1].sum() == 1


def test_references_of_a_training_are_mirrored_each_on_its_own(dataset):
    assembler = data_module(dataset, augmentation="flip").assembler
    plain = data_module(dataset, augmentation="none").assembler
    seen = set()
    for seed in range(30):
        spec = spec_of(1, [(1, 1), (2, 1)], BASE, seed)
        drawn, still = (a.assemble(spec, training=True) for a in (assembler, plain))
        pair = []
        for image, as_it_was in zip(drawn.supports, still.supports, strict=True):
            flipped = np.array_equal(image, as_it_was[:, ::-1])
            assert flipped or np.array_equal(image, as_it_was)
            pair.append(flipped)
        for annotation, as_it_was, flipped in zip(drawn.annotations, still.annotations, pair, strict=True):
            assert np.array_equal(annotation, as_it_was[:, ::-1] if flipped else as_it_was)
        seen.add(tuple(pair))
    assert len(seen) == 4


def test_episodes_without_references(dataset):
    spec = spec_of(1, [], BASE)
    data = data_module(dataset, train_shot=0)
    batch = data_module(dataset).batch_of([spec])
    assert data.assembler.assemble(spec, training=True).supports == []
    assert batch.support_images.shape[:2] == (1, 0)


# Evaluation


def test_an_evaluation_episode_has_all_annotations_at_original_size(dataset):
    batch = data_module(dataset).batch_of([spec_of(3, [(4, 1)], NOVEL)])
    (truth,) = batch.instances
    assert truth.labels.tolist() == [NOVEL, NOVEL, BASE, NOVEL]
    assert truth.crowd.tolist() == [False, True, False, False]
    assert truth.boxes.tolist() == [[x, y, x + w, y + h] for _, x, y, w, h, _ in IMAGES["val"][3]]
    assert truth.boxes.dtype == torch.float64
    assert truth.masks.shape == (4, HEIGHT, WIDTH)
    assert [extent(mask) for mask in truth.masks] == truth.boxes.tolist()  # of the crowd, too, behind an object
    (target,) = batch.targets
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[0:40, 20:80] = VOID
    expected[8:28, 10:40] = 1
    expected[40, 88] = 1
    assert np.array_equal(target, expected)
    assert batch.frames[0] == Frame((HEIGHT, WIDTH), (64, 64), Box(0, 0, 32, 64))


def test_references_are_crops_fitted_on_a_square_and_unknown_around(dataset):
    batch = data_module(dataset).batch_of([spec_of(3, [(4, 1), (3, 1)], NOVEL)])
    assert batch.support_images.shape == (1, 2, 3, 32, 32)
    crop = dataset.image(name(4))[0:30, 0:50]
    expected = fit(crop, None, (32, 32))[0]
    assert np.array_equal(batch.support_images[0, 0].permute(1, 2, 0), expected)
    annotation = batch.support_annotations[0, 0]
    assert (annotation[:19] == POSITIVE).all()  # 30 / 50 of 32
    assert (annotation[19:] == UNKNOWN).all()
    second = fit(dataset.image(name(3))[8:28, 10:40], None, (32, 32))[0]
    assert np.array_equal(batch.support_images[0, 1].permute(1, 2, 0), second)


def test_pictures_of_references_are_the_crops_themselves(dataset):
    ((crop, annotation),) = data_module(dataset).pictures_of_supports(spec_of(3, [(4, 1)], NOVEL))
    assert np.array_equal(crop, dataset.image(name(4))[0:30, 0:50])
    assert annotation.shape == (30, 50)
    assert (annotation == POSITIVE).all()


def test_a_reference_of_one_pixel_is_searched_with(dataset):
    data = data_module(dataset)
    spec = spec_of(3, [(3, 3)], NOVEL)  # its third object: crowds have no number
    batch = data.batch_of([spec])
    assert dataset.reference(*(name(3), 3)).shape == (1, 1, 3)
    assert (batch.support_annotations == POSITIVE).all()
    torch.manual_seed(0)
    model = SiameseMaskRCNN(width=8, n_proposals=8, n_detections=5, score_threshold=0.0).eval()
    found = search(model.network, batch)
    assert len(found.instances[0].boxes) > 0
    assert found.z.isfinite().all()
    rows = instance_rows(batch, [detected(one) for one in found.instances], data.evaluation_part, [0])
    assert rows[0].truth == f"{NOVEL}:2 {BASE}:1"
    assert len(rows) == 1 + len(found.instances[0].boxes)


def test_batches_of_workers_are_those_of_one_process(dataset):
    plain = data_module(dataset, n_shot=2, eval_batch_size=2)
    (one, *_), (other, *_) = (
        list(data.predict_dataloader())
        for data in (plain, data_module(dataset, n_shot=2, eval_batch_size=2, num_workers=1))
    )
    assert one.specs == other.specs
    assert one.support_images.shape == (2, 2, 3, 32, 32)
    assert one.query_images.shape == (2, 3, 64, 64)
    for field in ("support_images", "support_annotations", "query_images", "query_masks"):
        assert torch.equal(getattr(one, field), getattr(other, field))
    for some, others in zip(one.instances, other.instances, strict=True):
        for part in ("boxes", "masks", "labels", "crowd"):
            assert torch.equal(getattr(some, part), getattr(others, part))


def test_all_of_a_batch_goes_to_the_device(dataset):
    batch = data_module(dataset).batch_of([spec_of(3, [(4, 1)], NOVEL)]).to("meta")
    (truth,) = batch.instances
    parts = (batch.support_images, batch.query_images, *batch.targets, truth.boxes, truth.masks, truth.crowd)
    assert {part.device.type for part in parts} == {"meta"}
    assert truth.scores is None


@pytest.mark.parametrize("trains", [True, False])
def test_instances_go_to_the_device_in_training_only(dataset, trains):
    data = data_module(dataset)
    batch = data.batch_of([spec_of(3, [(4, 1)], NOVEL)])
    data.trainer = SimpleNamespace(training=trains)
    moved = data.transfer_batch_to_device(batch, torch.device("meta"), 0)
    parts = (moved.support_images, moved.support_annotations, moved.query_images, moved.query_masks)
    assert {part.device.type for part in parts} == {"meta"}
    (truth,) = moved.instances
    where = {part.device.type for part in (truth.boxes, truth.masks, truth.labels, truth.crowd)}
    assert where == {"meta" if trains else "cpu"}
    assert moved.specs == batch.specs


def test_other_batches_go_to_the_device_whole(dataset):
    data = data_module(dataset, protocol="clean", train_episodes="instance")
    moved = data.transfer_batch_to_device(
        data.batch_of([EpisodeSpec(name(3), (name(4),), NOVEL)]), torch.device("meta"), 0
    )
    assert moved.instances is None
    assert moved.query_images.device.type == "meta"
    assert data.transfer_batch_to_device(torch.zeros(2), torch.device("meta"), 0).device.type == "meta"


# A cache of images


def test_cached_images_serve_queries_and_references(dataset, monkeypatch):
    reads, read = [], CocoOneShot.image
    monkeypatch.setattr(CocoOneShot, "image", lambda self, image_id: reads.append(image_id) or read(self, image_id))
    cached, plain = (data_module(dataset, cache=cache) for cache in ("images", "none"))
    specs = [spec_of(3, [(4, 1)], NOVEL), spec_of(4, [(3, 1)], NOVEL), spec_of(3, [(3, 3)], NOVEL)]
    wanted = plain.batch_of(specs)
    assert len(reads) == 6
    reads.clear()
    batch = cached.batch_of(specs)
    assert sorted(reads) == [name(3), name(4)]
    for field in ("support_images", "support_annotations", "query_images"):
        assert torch.equal(getattr(batch, field), getattr(wanted, field))


@pytest.mark.parametrize(
    ("options", "share"),
    [({}, 1), ({"protocol": "clean"}, 1), ({"protocol": "clean", "train_episodes": "instance"}, 2)],
)
def test_images_and_pairs_share_the_limit_of_a_cache(dataset, options, share):
    """Where only one of them is read it may have all."""
    made = data_module(dataset, cache="images", **options).assembler
    assert made.image.limit == made.pair.limit == CACHE_BYTES // share


# The functions


def test_annotated_instances_as_tensors():
    mask = np.zeros((4, 6), bool)
    mask[1:3, 2:5] = True
    found = annotated_instances([AnnotatedInstance(7, True, (1.5, 1.0, 3.25, 2.0), mask)], (4, 6))
    assert found.boxes.tolist() == [[1.5, 1.0, 4.75, 3.0]]
    assert (found.labels.tolist(), found.crowd.tolist()) == ([7], [True])
    assert np.array_equal(found.masks[0], mask)
    nothing = annotated_instances([], (4, 6))
    assert (nothing.boxes.shape, nothing.masks.shape, nothing.labels.shape) == ((0, 4), (0, 4, 6), (0,))
    assert nothing.crowd.shape == (0,)


def given(*boxes, size=(100, 200)):
    masks = torch.zeros(len(boxes), *size, dtype=torch.uint8)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes, strict=True):
        mask[round(y0) : round(y1), round(x0) : round(x1)] = 1
    places = torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4)
    numbers = torch.arange(1, len(boxes) + 1)
    return Instances(places, masks, numbers, crowd=numbers == 1)


def test_instances_on_the_canvas_by_hand():
    frame = Frame((100, 200), (64, 64), Box(0, 0, 32, 64))
    # the second one is 3 pixels wide: 0.96 of the canvas; the third one 0.96 high
    instances = given((25.0, 12.5, 75.0, 62.5), (10, 10, 13, 50), (10, 90, 60, 93), (100, 0, 200, 100))
    placed = on_canvas(instances, frame, "letterbox", flipped=False)
    assert placed.boxes.tolist() == [[8, 4, 24, 20], [32, 0, 64, 32]]
    assert placed.labels.tolist() == [1, 4]
    assert placed.crowd.tolist() == [True, False]
    assert [extent(mask) for mask in placed.masks] == [[8, 4, 24, 20], [32, 0, 64, 32]]
    assert placed.masks.dtype == torch.uint8
    mirrored = on_canvas(instances, frame, "letterbox", flipped=True)
    assert mirrored.boxes.tolist() == [[40, 4, 56, 20], [0, 0, 32, 32]]
    assert [extent(mask) for mask in mirrored.masks] == [[40, 4, 56, 20], [0, 0, 32, 32]]


def test_instances_on_a_stretched_canvas():
    placed = on_canvas(given((50, 25, 100, 75)), Frame((100, 200), (64, 64), Box(0, 0, 64, 64)), "square", False)
    assert placed.boxes.tolist() == [[16, 16, 32, 48]]
    assert extent(placed.masks[0]) == [16, 16, 32, 48]


def test_an_instance_without_a_pixel_on_the_canvas_is_left_out():
    instances = given((0, 0, 100, 100), (100, 0, 200, 100))
    instances.masks[0] = 0
    instances.masks[0, 0, 1] = 1  # alone, which resizing to a third skips
    placed = on_canvas(instances, Frame((100, 200), (64, 64), Box(0, 0, 32, 64)), "letterbox", flipped=False)
    assert placed.labels.tolist() == [2]
    assert placed.crowd.tolist() == [False]
    assert placed.boxes.tolist() == [[32, 0, 64, 32]]
    assert [extent(mask) for mask in placed.masks] == placed.boxes.tolist()


def test_no_instances_on_the_canvas():
    placed = on_canvas(given(), Frame((100, 200), (64, 64), Box(0, 0, 32, 64)), "letterbox", True)
    assert (placed.boxes.shape, placed.masks.shape) == ((0, 4), (0, 64, 64))
