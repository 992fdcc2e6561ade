"""What people hand in is checked at every door, and annotations keep what they say on the network's canvas."""

import numpy as np
import pytest

import fewseg
from fewseg.errors import FewsegError
from fewseg.pictures import checked_threshold, on_canvas, resize_of
from fewseg.transforms import frame_of


def test_dense_maps_are_resized_and_sparse_ones_moved():
    frame = frame_of((64, 64), (32, 32))
    half = np.zeros((64, 64), np.uint8)
    half[:, 32:] = 1
    assert (on_canvas(half, frame) == np.repeat([[0] * 16 + [1] * 16], 32, 0)).all()
    few = np.full((64, 64), 255, np.uint8)
    few[0, ::2] = 1
    assert (on_canvas(few, frame) == 1).sum() == 32


@pytest.mark.parametrize(
    ("mode", "place"),
    [("letterbox", (3, 7)), ("square", (6, 7))],  # 90 rows fill 10 or 20 of them
)
def test_a_tiny_dense_object_keeps_one_positive_pixel(mode, place):
    annotation = np.zeros((90, 90), np.uint8)
    annotation[30:32, 70:72] = 1  # between the columns that resizing looks at
    fitted = on_canvas(annotation, frame_of((90, 90), (20 if mode == "square" else 10, 10), mode), mode)
    assert np.argwhere(fitted == 1).tolist() == [list(place)]
    assert (fitted != 1).sum() == (fitted == 0).sum(), "all else is negative still"


def test_nothing_is_added_where_resizing_leaves_a_positive_pixel_or_there_is_none():
    annotation = np.zeros((90, 90), np.uint8)
    frame = frame_of((90, 90), (10, 10))
    assert not on_canvas(annotation, frame).any()
    annotation[27:36, 63:72] = 1  # one whole pixel of the canvas
    annotation[0, 0] = 1  # lost
    assert np.argwhere(on_canvas(annotation, frame) == 1).tolist() == [[3, 7]]


@pytest.mark.parametrize("value", [0, 1, -0.5, "0.5", None, True, float("nan")])
def test_a_threshold_is_a_probability(value):
    with pytest.raises(FewsegError, match=r"^threshold: got .*, expected a probability between 0 and 1; leave it out$"):
        checked_threshold(value)


def test_images_are_resized_as_asked_for_else_as_in_the_training():
    class Trained:
        image_resize = "square"

    assert [resize_of(Trained(), given) for given in (None, "letterbox", "square")] == ["square", "letterbox", "square"]
    with pytest.raises(FewsegError, match=r"^resize: got '', expected 'letterbox' or 'square'; or leave it out$"):
        resize_of(Trained(), "")


IMAGE = np.zeros((20, 30, 3), np.uint8)
DOORS = {
    "segment_image": lambda model: fewseg.segment_image(model, [(IMAGE, IMAGE[..., 0])], IMAGE),
    "InteractiveSession": lambda model, **options: fewseg.InteractiveSession(model, IMAGE, **options),
    "VideoSession": lambda model, **options: fewseg.VideoSession(model, [IMAGE], **options),
}


@pytest.mark.parametrize("door", DOORS)
def test_every_door_asks_for_a_model(door):
    with pytest.raises(FewsegError, match=r"^model: got NoneType, expected a model; pass what create_model or load_"):
        DOORS[door](None)


@pytest.mark.parametrize("door", ["InteractiveSession", "VideoSession"])
@pytest.mark.parametrize(("option", "got"), [("threshold", "a"), ("resize", "'foo'")])
def test_both_sessions_name_the_wrong_option(door, option, got):
    model = fewseg.create_model("PANet", encoder="tiny")
    with pytest.raises(FewsegError, match=f"^{option}: got {got}, expected "):
        DOORS[door](model, **{option: got.strip("'")})
