import numpy as np
import PIL.Image
import pytest
import torch
from safetensors.torch import save_file

import fewseg
from fewseg.errors import FewsegError

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return fewseg.create_model("PANet", encoder="tiny")


def image(height, width, seed=0):
    return np.random.RandomState(seed).randint(0, 256, (height, width, 3)).astype(np.uint8)


def half(height, width):
    """Positive on the left."""
    annotation = np.zeros((height, width), np.uint8)
    annotation[:, : width // 2] = 1
    return annotation


def two_colours(height, width, seed=0):
    """Red on the left, blue on the right, with some noise."""
    noise = image(height, width, seed) // 8
    noise[:, : width // 2, 0] += 200
    noise[:, width // 2 :, 2] += 200
    return noise


def test_arrays_and_pictures_are_the_same(model):
    support, annotation, query = image(20, 30), half(20, 30), image(25, 18, 1)
    mask = fewseg.segment_image(model, [(support, annotation)], query)
    pictures = [(PIL.Image.fromarray(support), PIL.Image.fromarray(annotation))]
    assert np.array_equal(fewseg.segment_image(model, pictures, PIL.Image.fromarray(query)), mask)
    assert mask.dtype == np.uint8
    assert set(np.unique(mask)) <= {0, 1}


@pytest.mark.parametrize("query", [(40, 64), (64, 40), (7, 90), (1, 1)])
def test_the_mask_has_the_size_of_the_query(model, query):
    supports = [(image(30, 22), half(30, 22)), (image(16, 50), half(16, 50))]  # of two sizes
    assert fewseg.segment_image(model, supports, image(*query, 1)).shape == query
    assert fewseg.segment_image(model, supports, image(*query, 1), size=32).shape == query


def test_it_works_at_the_size_of_the_training_where_that_is_known(model):
    pair, query = (image(30, 22), half(30, 22)), image(50, 44, 1)
    at_48 = fewseg.segment_image(model, [pair], query, size=48)
    model.image_size = 48
    try:
        assert np.array_equal(fewseg.segment_image(model, [pair], query), at_48)
        assert not np.array_equal(fewseg.segment_image(model, [pair], query, size=24), at_48)
    finally:
        model.image_size = None


def test_it_segments_what_was_annotated(model):
    """The colours of the halves separate even what an untrained encoder sees."""
    support, query = two_colours(48, 48), two_colours(48, 48, 1)[:, ::-1].copy()
    red = fewseg.segment_image(model, [(support, half(48, 48))], query)
    blue = fewseg.segment_image(model, [(support, 1 - half(48, 48))], query)
    truth = half(48, 48)[:, ::-1]
    assert (red == truth).mean() > 0.85
    assert (blue == 1 - truth).mean() > 0.85


def test_boolean_annotations_are_masks(model):
    support, query = image(20, 30), image(25, 18, 1)
    dense = fewseg.segment_image(model, [(support, half(20, 30))], query)
    assert np.array_equal(fewseg.segment_image(model, [(support, half(20, 30) > 0)], query), dense)


def test_single_pixels_survive_a_smaller_canvas(model):
    """Resizing would lose an odd pixel; without any positive the mask would be empty."""
    support, query = two_colours(96, 96), two_colours(96, 96, 1)
    sparse = np.full((96, 96), 255, np.uint8)
    sparse[33, 21], sparse[47, 71] = 1, 0
    mask = fewseg.segment_image(model, [(support, sparse)], query, size=32)
    assert (mask == half(96, 96)).mean() > 0.85


def test_nothing_positive_is_all_background(model):
    support, query = image(20, 30), image(25, 18, 1)
    for value in (0, 255):
        assert not fewseg.segment_image(model, [(support, np.full((20, 30), value, np.uint8))], query).any()


def test_the_model_is_left_as_it_was(model):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fewseg.segment_image(model, [(image(20, 30), half(20, 30))], image(25, 18, 1))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


RGB, MAP = image(20, 30), half(20, 30)


@pytest.mark.parametrize(
    ("supports", "query", "argument"),
    [
        ([], RGB, "supports"),
        ([(RGB, MAP)], RGB / 255, "query"),
        ([(RGB, MAP)], RGB[..., 0], "query"),
        ([(RGB, MAP)], RGB[:0], "query"),
        ([(RGB.astype(np.float32), MAP)], RGB, r"supports\[0\]\[0\]"),
        ([(RGB, MAP), (RGB, RGB)], RGB, r"supports\[1\]\[1\]"),
        ([(RGB, MAP * 2)], RGB, r"supports\[0\]\[1\]"),
        ([(RGB, MAP.astype(np.float32))], RGB, r"supports\[0\]\[1\]"),
        ([(RGB, MAP[:-1])], RGB, r"supports\[0\]\[1\]"),
    ],
)
def test_wrong_input_is_named(model, supports, query, argument):
    with pytest.raises(FewsegError, match=f"^{argument}: got .+, expected .+; .+"):
        fewseg.segment_image(model, supports, query)


def test_a_wrong_size_is_named(model):
    with pytest.raises(FewsegError, match=r"^size: got "):
        fewseg.segment_image(model, [(RGB, MAP)], RGB, size=-5)


# ---------------------------------------------------------------------------------------------- what a model remembers


def test_a_stretched_training_stretches(model):
    pair, query = (two_colours(60, 30), half(60, 30)), two_colours(20, 50, 1)
    boxed = fewseg.segment_image(model, [pair], query, size=40)
    model.image_resize = "square"
    try:
        stretched = fewseg.segment_image(model, [pair], query, size=40)
        squares = [np.asarray(PIL.Image.fromarray(a).resize((40, 40), PIL.Image.NEAREST)) for a in (*pair, query)]
        square = fewseg.segment_image(model, [(squares[0], squares[1])], squares[2], size=40)
    finally:
        model.image_resize = None
    assert stretched.shape == (20, 50)
    assert not np.array_equal(stretched, boxed)
    shrunk = np.asarray(PIL.Image.fromarray(stretched).resize((40, 40), PIL.Image.NEAREST))
    assert (shrunk == square).mean() > 0.95


def test_too_many_supports_are_named(model, monkeypatch):
    monkeypatch.setattr(type(model.network), "max_shot", 1)
    fewseg.segment_image(model, [(RGB, MAP)], RGB)
    with pytest.raises(FewsegError, match=r"^supports: got 2 pairs, expected at most 1 for PANet; pass fewer"):
        fewseg.segment_image(model, [(RGB, MAP)] * 2, RGB)


def test_a_saved_model_keeps_its_canvas_and_its_frozen_norms(model, tmp_path):
    model.image_size, model.image_resize = 48, "square"
    try:
        plain = fewseg.load_model(model.save(tmp_path / "plain"))
    finally:
        model.image_size = model.image_resize = None
    assert (plain.image_size, plain.image_resize, plain.network.encoder.norm) == (48, "square", "train")

    weights = str(tmp_path / "encoder.safetensors")
    save_file(model.network.encoder.state_dict(), weights)
    started = fewseg.create_model("PANet", encoder="tiny", weights=weights)
    loaded = fewseg.load_model(started.save(tmp_path / "once"))
    loaded = fewseg.load_model(loaded.save(tmp_path / "twice"))
    norms = [m for m in loaded.train().modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert norms
    assert not any(norm.training for norm in norms)
