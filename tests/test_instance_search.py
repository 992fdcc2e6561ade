"""The door for people with crops of objects."""

import numpy as np
import pytest
import torch

import fewseg
from fewseg.errors import FewsegError

torch.set_num_threads(1)
rng = np.random.RandomState(0)
SCENE = rng.randint(0, 256, (40, 60, 3)).astype(np.uint8)
CROP = rng.randint(0, 256, (12, 18, 3)).astype(np.uint8)
SMALL = {"width": 8, "n_proposals": 20, "score_threshold": 0.01}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    made = fewseg.create_model("SiameseMaskRCNN", **SMALL)
    with torch.no_grad():
        for parameter in made.network.parameters():
            parameter.add_(torch.randn_like(parameter) / 20)
    return made


def test_instances_lie_in_the_query_and_the_best_comes_first(model):
    found = fewseg.find_instances(model, [CROP], SCENE, threshold=0.02, size=48)
    assert found
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
    for one in found:
        x0, y0, x1, y1 = one.box
        assert 0 <= x0 < x1 <= 60
        assert 0 <= y0 < y1 <= 40
        assert one.mask.shape == (40, 60)
        assert set(np.unique(one.mask)) <= {0, 1}
        assert one.label == 1


def test_an_annotated_image_is_the_crop_around_its_positive_pixels(model):
    image, annotation = rng.randint(0, 256, (50, 50, 3)).astype(np.uint8), np.full((50, 50), 255, np.uint8)
    image[20:32, 10:28] = CROP
    annotation[20, 10], annotation[31, 27], annotation[0, 0] = 1, 1, 0
    by_pair = fewseg.find_instances(model, [(image, annotation)], SCENE, 0.02)
    by_crop = fewseg.find_instances(model, [CROP], SCENE, 0.02)
    assert [one.box for one in by_pair] == [one.box for one in by_crop]


def test_scores_below_the_threshold_do_not_count(model):
    every = fewseg.find_instances(model, [CROP], SCENE, 0.02)
    limit = every[len(every) // 2].score
    assert len(fewseg.find_instances(model, [CROP], SCENE, limit)) == sum(one.score > limit for one in every)


def test_the_canvas_of_the_training_is_remembered(model, tmp_path):
    model.image_size, model.reference_size = 48, 24
    again = fewseg.load_model(model.save(tmp_path))
    model.image_size = model.reference_size = None
    assert (again.image_size, again.reference_size) == (48, 24)
    boxes = [one.box for one in fewseg.find_instances(again, [CROP], SCENE, 0.02)]
    assert boxes != [one.box for one in fewseg.find_instances(again, [CROP], SCENE, 0.02, size=60)]


def test_a_fixed_list_of_classes_needs_no_reference():
    torch.manual_seed(0)
    model = fewseg.create_model("MaskRCNN", n_classes=5, **SMALL)
    found = fewseg.find_instances(model, [], SCENE, 0.02)
    assert {one.label for one in found} <= set(range(1, 6))


@pytest.mark.parametrize(
    ("references", "message"),
    [
        ([], "references: got none, expected at least one crop"),
        ([(SCENE, np.zeros(SCENE.shape[:2], np.uint8))], r"references\[0\]: got no positive pixel"),
        ([(SCENE,)], r"references\[0\]: got 1 values"),
        ([CROP.astype(float)], r"references\[0\]"),
    ],
)
def test_references_that_show_nothing_are_refused(model, references, message):
    with pytest.raises(FewsegError, match=message):
        fewseg.find_instances(model, references, SCENE)


def test_a_method_of_masks_is_refused():
    with pytest.raises(FewsegError, match="model: got PANet, expected SiameseMaskRCNN or MaskRCNN"):
        fewseg.find_instances(fewseg.create_model("PANet"), [CROP], SCENE)


def test_a_bad_size_or_threshold_is_refused(model):
    with pytest.raises(FewsegError, match="size: got -1"):
        fewseg.find_instances(model, [CROP], SCENE, size=-1)
    with pytest.raises(FewsegError, match=r"threshold: got 1\.5"):
        fewseg.find_instances(model, [CROP], SCENE, threshold=1.5)
