import hashlib
import itertools

import numpy as np
import pytest

from fewseg.datasets import Shapes5i, ShapesVideo, generated, shapes_video
from fewseg.datasets.drawing import SHAPES, TEXTURES
from fewseg.datasets.shapes_video import render_clip
from fewseg.errors import FewsegError

OBJECTS_OF_4_CLIPS = "13410c218be5a39029dcb41c2b2a10c631550863e685c5cec41f45f9cb386873"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FEWSEG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def areas(objects):
    """(T, n) visible pixels of each object in each frame."""
    return np.stack([(objects == n).sum((1, 2)) for n in range(1, objects.max() + 1)], 1)


def test_the_objects_of_the_first_clips_are_fixed():
    digest = hashlib.sha256()
    for seed in range(4):
        digest.update(render_clip(seed, 6).objects.tobytes())
    assert digest.hexdigest() == OBJECTS_OF_4_CLIPS


def test_a_clip_is_a_function_of_its_seed_and_a_shorter_one_is_its_start():
    short, long, other = render_clip(5, 3), render_clip(5, 6), render_clip(6, 3)
    assert np.array_equal(short.images, long.images[:3])
    assert np.array_equal(short.objects, long.objects[:3])
    assert not np.array_equal(short.objects, other.objects)


def test_two_or_three_objects_all_seen_at_first_and_hidden_for_a_moment_at_most():
    counts, hidden = set(), 0
    for seed in range(24):
        objects = render_clip(seed).objects
        seen = areas(objects)
        counts.add(seen.shape[1])
        assert set(np.unique(objects).tolist()) == set(range(seen.shape[1] + 1))  # no void
        assert seen[0].min() >= 60
        hidden += int((seen == 0).sum())
    assert counts == {2, 3}
    assert hidden <= 24  # of 1200 object frames


def drawn(monkeypatch, seed, n_frames):
    """What each object of a clip was drawn with: looks (the distractor is the last), silhouettes [look][frame]."""
    looks, silhouettes = [], {}
    make, draw = shapes_video._looks, shapes_video._draw

    def whole(look, motion, t):
        box, silhouette, second = draw(look, motion, t)
        full = np.zeros((shapes_video.HEIGHT, shapes_video.WIDTH), bool)
        full[box] = silhouette
        if looks:
            place = next(i for i, known in enumerate(looks) if known is look)
            silhouettes[place, t] = full
        return box, silhouette, second

    monkeypatch.setattr(shapes_video, "_looks", lambda *a: looks.extend(make(*a)) or looks)
    monkeypatch.setattr(shapes_video, "_draw", whole)
    clip = render_clip(seed, n_frames)
    monkeypatch.undo()
    return clip, looks, silhouettes


@pytest.mark.parametrize("seed", range(8))
def test_the_distractor_has_the_kind_of_an_object_but_not_its_colours_and_is_background(monkeypatch, seed):
    clip, looks, silhouettes = drawn(monkeypatch, seed, 4)
    *objects, distractor = looks
    kinds = [(look.shape, look.texture) for look in objects]
    assert len(set(kinds)) == len(kinds) == clip.objects.max()
    assert (distractor.shape, distractor.texture) in kinds
    assert all(0 <= s < len(SHAPES) and 0 <= t < len(TEXTURES) for s, t in kinds)
    for i, look in enumerate(looks):
        for other in looks[:i]:
            assert np.linalg.norm(look.colours[0] - other.colours[0]) > 80
    for t in range(4):
        own = silhouettes[len(objects), t]
        nobody = ~np.any([silhouettes[i, t] for i in range(len(objects))], axis=0)
        assert not clip.objects[t][own & nobody].any()
        assert (own & (clip.objects[t] == 0)).any() or t  # seen in the first frame
        for i in range(len(objects)):  # an object is where it was drawn, unless something lies above it
            assert silhouettes[i, t][clip.objects[t] == i + 1].all()


@pytest.mark.parametrize("seed", range(6))
def test_the_depth_order_is_fixed(monkeypatch, seed):
    clip, looks, silhouettes = drawn(monkeypatch, seed, 12)
    n = len(looks) - 1
    for i in range(n):
        for j in range(i):
            above = []
            for t in range(12):
                both = silhouettes[i, t] & silhouettes[j, t]
                above += np.unique(clip.objects[t][both]).tolist()
            assert not {i + 1, j + 1} <= set(above)  # one of the two always hides the other


@pytest.mark.parametrize("seed", range(6))
def test_objects_move_turn_and_deform_but_not_by_leaps(monkeypatch, seed):
    _, looks, silhouettes = drawn(monkeypatch, seed, 20)
    moved = []
    for i in range(len(looks)):
        shapes_of_i = [silhouettes[i, t] for t in range(20)]
        for before, after in itertools.pairwise(shapes_of_i):
            area = min(before.sum(), after.sum())
            assert not np.array_equal(before, after)
            assert area < 150 or (before & after).sum() > 0.35 * area
            assert area < 150 or max(before.sum(), after.sum()) < 1.5 * area
        moved.append((shapes_of_i[0] & shapes_of_i[-1]).sum() < 0.5 * shapes_of_i[0].sum())
    assert any(moved)


def test_the_colours_of_an_object_stay(monkeypatch):
    clip, looks, _ = drawn(monkeypatch, 3, 12)
    for number, look in enumerate(looks[:-1], start=1):
        colours = np.clip(np.stack(look.colours), 0, 255)
        for t in range(12):
            pixels = clip.images[t][clip.objects[t] == number].astype(float)
            if len(pixels) > 60:
                near = np.linalg.norm(pixels[:, None] - colours, axis=2).min(1)
                assert np.quantile(near, 0.9) < 15  # noise of 5 grey levels a channel
                assert near.max() < 40


def test_the_clutter_moves(monkeypatch):
    clip, _, silhouettes = drawn(monkeypatch, 2, 20)
    free = ~np.any(list(silhouettes.values()), axis=0)
    first, last = clip.images[0][free].astype(int), clip.images[-1][free].astype(int)
    still = np.abs(clip.images[1][free].astype(int) - first).mean()
    assert free.sum() > 1000
    assert np.abs(last - first).mean() > still + 1  # more than the noise


def test_the_tree_is_davis_2017(cache):
    dataset = ShapesVideo(n_train=2, n_val=1, n_frames=4)
    assert (dataset.name, dataset.root) == ("shapes-video", cache / "shapes-video-2-1-4-0-v1")
    assert [p.name for p in cache.iterdir()] == ["shapes-video-2-1-4-0-v1"]  # nothing left over
    assert (dataset.class_names, dataset.n_folds, dataset.splits) == (("object",), 1, ("train", "val"))
    assert (dataset.sequences("train"), dataset.sequences("val")) == (("0000", "0001"), ("0002",))
    assert dataset.frames("0002") == tuple(f"0002/{t:05d}" for t in range(4))
    assert dataset.ids("val") == dataset.frames("0002")  # every frame stands for an image
    assert ShapesVideo(n_train=2, n_val=1, n_frames=4, every=3).ids("val") == ("0002/00000", "0002/00003")
    clip = render_clip(2, 4)
    for t, image_id in enumerate(dataset.frames("0002")):
        image, _ = dataset.pair(image_id)
        assert np.array_equal(dataset.objects(image_id), clip.objects[t])
        assert np.abs(image.astype(int) - clip.images[t]).mean() < 8  # JPEG
    assert dataset.check_sequence("0002") == (4, (96, 128), 4, tuple(range(1, clip.objects.max() + 1)), ())


def test_the_seed_chooses_other_clips():
    dataset = ShapesVideo(n_train=1, n_val=1, n_frames=3, seed=2)
    assert np.array_equal(dataset.objects("0001/00002"), render_clip(2_000_007, 3).objects[2])


def test_a_second_interpreter_draws_the_same_tree(tmp_path, monkeypatch):
    one = ShapesVideo(str(tmp_path / "one"), n_train=2, n_val=2, n_frames=3)
    monkeypatch.setattr(shapes_video, "SECOND_PROCESS_FROM", 2)
    monkeypatch.setattr(generated.os, "cpu_count", lambda: 2)
    two = ShapesVideo(str(tmp_path / "two"), n_train=2, n_val=2, n_frames=3)
    assert one.object_fingerprint() == two.object_fingerprint()


def test_without_a_second_interpreter_the_first_one_draws_all(tmp_path, monkeypatch):
    monkeypatch.setattr(shapes_video, "SECOND_PROCESS_FROM", 2)
    monkeypatch.setattr(generated.os, "cpu_count", lambda: 2)
    monkeypatch.setattr(generated.sys, "executable", "/bin/false")
    (tmp_path / "tree").mkdir()  # an empty folder is fine
    dataset = ShapesVideo(str(tmp_path / "tree"), n_train=2, n_val=2, n_frames=3)
    assert [dataset.check_sequence(name).frames for name in dataset.sequences()] == [3] * 4
    before = dataset.objects("0001/00002")
    (tmp_path / "tree/Annotations/480p/0003/00001.png").unlink()
    shapes_video.write_clips(str(tmp_path / "tree"), 0, 3, 1, 4, 2)  # over the beginning that a killed one has left
    assert dataset.check_sequence("0003").masks == 3
    assert np.array_equal(dataset.objects("0001/00002"), before)


def test_the_progress_bar_counts_videos(tmp_path, monkeypatch):
    seen, bar = [], generated.tqdm
    monkeypatch.setattr(generated, "tqdm", lambda **options: seen.append(options) or bar(**options))
    ShapesVideo(str(tmp_path / "tree"), n_train=1, n_val=1, n_frames=3)
    assert [(options["desc"], options["unit"], options["total"]) for options in seen] == [
        ("drawing Shapes-video", "video", 2)
    ]


def test_other_content_at_the_root_is_an_error(tmp_path):
    ShapesVideo(str(tmp_path / "tree"), n_train=1, n_val=1, n_frames=3)
    for other in ({"n_train": 2}, {"n_frames": 4}, {"seed": 1}):
        with pytest.raises(FewsegError, match=r"--data.dataset.root: got .*tree, which holds \{'n_train': 1,"):
            ShapesVideo(str(tmp_path / "tree"), **{"n_train": 1, "n_val": 1, "n_frames": 3, **other})
    with pytest.raises(FewsegError, match=r"--data.dataset.root: got .*which holds other files"):
        Shapes5i(str(tmp_path / "tree"), 1, 1)
    (tmp_path / "tree/shapes-video.json").write_text("{")
    with pytest.raises(FewsegError, match=r"shapes-video.json: got a broken file"):
        ShapesVideo(str(tmp_path / "tree"), n_train=1, n_val=1, n_frames=3)


@pytest.mark.parametrize("arguments", [{"n_train": 0}, {"n_val": 0}, {"n_frames": 2}, {"seed": -1}, {"seed": 4000}])
def test_wrong_arguments(arguments):
    with pytest.raises(FewsegError, match=rf"--data.dataset.*{next(iter(arguments))}"):
        ShapesVideo(**arguments)
