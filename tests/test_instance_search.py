"""The door for people with crops of objects."""

import numpy as np
import pytest
import torch
from PIL import Image

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


def test_nothing_below_the_threshold_is_pasted(model, monkeypatch):
    asked = []
    detect = model.network.detect
    monkeypatch.setattr(
        model.network, "detect", lambda *given, **options: asked.append(options) or detect(*given, **options)
    )
    fewseg.find_instances(model, [CROP], SCENE, 0.25)
    assert asked == [{"threshold": 0.25}]


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
    given = fewseg.find_instances(model, [CROP], SCENE, 0.02)
    assert [one.box for one in given] == [one.box for one in found]


MASK = np.ones(SCENE.shape[:2], np.uint8)
LIST = ", expected a list of crops; put it in a list: [crop] or [(image, annotation)]"
PAIR = "references: got an image and its annotation, expected a list of crops or of pairs; put the pair in a list: [(im"


@pytest.mark.parametrize(
    ("references", "message"),
    [
        ([], "references: got none, expected at least one crop"),
        ((), "references: got none"),
        (CROP, "references: got an array (12, 18, 3)" + LIST),
        (np.zeros((0, 12, 18, 3), np.uint8), "references: got an array (0, 12, 18, 3)" + LIST),
        (Image.fromarray(CROP), "references: got Image" + LIST),
        ("crop.png", "references: got str" + LIST),
        (None, "references: got NoneType" + LIST),
        (iter([CROP]), "references: got list_iterator" + LIST),
        ((SCENE, MASK), PAIR),
        ([SCENE, MASK], PAIR),
        ((Image.fromarray(SCENE), Image.fromarray(MASK)), PAIR),
        ((SCENE, MASK.astype(bool)), PAIR),
        ([(SCENE, np.zeros(SCENE.shape[:2], np.uint8))], "references[0]: got no positive pixel"),
        ([(SCENE,)], "references[0]: got 1 values, expected a crop, or an image and its annotation"),
        ([[SCENE, MASK, MASK]], "references[0]: got 3 values"),
        ([CROP, ()], "references[1]: got 0 values"),
        ([CROP.astype(float)], "references[0]: got float64 (12, 18, 3)"),
        ([MASK], "references[0]: got uint8 (40, 60)"),
        ([np.zeros((0, 9, 3), np.uint8)], "references[0]: got uint8 (0, 9, 3)"),
        ([CROP, "crop.png"], "references[1]: got str, expected a crop, or an image and its annotation"),
        ([None], "references[0]: got NoneType"),
        ([(SCENE, "mask.png")], "references[0][1]: got ()"),
    ],
)
def test_references_that_show_nothing_are_refused(model, references, message):
    with pytest.raises(FewsegError) as caught:
        fewseg.find_instances(model, references, SCENE)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "reference",
    [Image.fromarray(CROP), (CROP, np.ones((12, 18), bool)), [CROP, np.ones((12, 18), np.uint8)]],
    ids=["picture", "bool", "list"],
)
def test_a_reference_may_be_written_in_several_ways(model, reference):
    expected = [one.box for one in fewseg.find_instances(model, [CROP], SCENE, 0.02)]
    assert expected
    assert [one.box for one in fewseg.find_instances(model, [reference], Image.fromarray(SCENE), 0.02)] == expected


def test_two_crops_of_one_size_are_no_pair(model):
    both = [CROP, CROP[::-1].copy()]
    boxes = [one.box for one in fewseg.find_instances(model, both, SCENE, 0.02)]
    assert boxes == [one.box for one in fewseg.find_instances(model, tuple(both), SCENE, 0.02)]
    grey = Image.fromarray(CROP).convert("L")
    fewseg.find_instances(model, [Image.fromarray(CROP[:5]), grey], SCENE, 0.02)  # of another size


def test_a_method_of_masks_is_refused():
    with pytest.raises(FewsegError, match="model: got PANet, expected SiameseMaskRCNN or MaskRCNN"):
        fewseg.find_instances(fewseg.create_model("PANet"), [CROP], SCENE)


@pytest.mark.parametrize("size", [-1, 0, 64.5, "64", True, (64, 64), np.float32(64)])
def test_a_bad_size_is_refused(model, size):
    with pytest.raises(FewsegError, match=r"size: got .*, expected a side of at least 1 pixel, or None; leave it out"):
        fewseg.find_instances(model, [CROP], SCENE, size=size)


def test_a_size_may_come_from_numpy(model):
    found = fewseg.find_instances(model, [CROP], SCENE, 0.02, size=np.int64(48))
    assert [one.box for one in found] == [one.box for one in fewseg.find_instances(model, [CROP], SCENE, 0.02, 48)]


@pytest.mark.parametrize("threshold", [1.5, 0, "0.5", None])
def test_a_bad_threshold_is_refused(model, threshold):
    with pytest.raises(FewsegError, match=r"threshold: got .*, expected a probability between 0 and 1"):
        fewseg.find_instances(model, [CROP], SCENE, threshold=threshold)
