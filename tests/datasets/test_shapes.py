import hashlib
import multiprocessing
import subprocess
import sys

import numpy as np
import pytest

from fewseg.datasets import Shapes5i, generated, shapes
from fewseg.datasets.drawing import SHAPES, TEXTURES
from fewseg.datasets.shapes import CLASS_NAMES, Scene, render_scene
from fewseg.errors import FewsegError

LABELS_OF_8_SCENES = "45ed2df34d79a0d9aa1f3406c99122251864c0e5fd9292ae417c8d61f658427d"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FEWSEG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_the_labels_of_the_first_scenes_are_fixed():
    digest = hashlib.sha256()
    for seed in range(8):
        scene = render_scene(seed)
        digest.update(scene.classes.tobytes() + scene.objects.tobytes())
    assert digest.hexdigest() == LABELS_OF_8_SCENES


def test_a_scene_is_a_function_of_its_seed():
    first, again, other = render_scene(3), render_scene(3), render_scene(4)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert first.image.shape != other.image.shape or not np.array_equal(first.image, other.image)


def test_class_5f_plus_s_has_shape_s_and_texture_s_plus_f():
    names = [f"{TEXTURES[(s + f) % 4]} {SHAPES[s]}" for f in range(4) for s in range(5)]
    assert names == list(CLASS_NAMES)
    assert len(set(CLASS_NAMES)) == 20
    # every shape and texture of a fold's classes is seen in the other folds
    for fold in range(4):
        novel = [name.split() for name in CLASS_NAMES[5 * fold : 5 * fold + 5]]
        base = [name.split() for i, name in enumerate(CLASS_NAMES) if i // 5 != fold]
        for axis in (0, 1):
            assert {name[axis] for name in novel} <= {name[axis] for name in base}


def test_what_is_drawn_is_the_class(monkeypatch):
    drawn = []
    polygon, texture = shapes.unit_polygon, shapes.draw_texture
    monkeypatch.setattr(shapes, "unit_polygon", lambda s: drawn.append([s, None]) or polygon(s))
    monkeypatch.setattr(shapes, "draw_texture", lambda t, u, v: drawn[-1].__setitem__(1, t) or texture(t, u, v))
    scene = render_scene(11)
    kept = [(s, t) for s, t in drawn if t is not None]  # a refused object is given no texture
    for number, (shape, texture_id) in enumerate(kept, start=1):
        (class_id,) = set(scene.classes[scene.objects == number].tolist())
        assert divmod(class_id - 1, 5)[1] == shape
        assert texture_id == (shape + (class_id - 1) // 5) % 4


def test_every_object_stays_half_visible_and_every_scene_has_a_distractor(monkeypatch):
    drawn, kept = [], []
    inside, texture = shapes.inside_polygon, shapes.draw_texture
    monkeypatch.setattr(shapes, "inside_polygon", lambda *a: drawn.append(inside(*a)) or drawn[-1])
    monkeypatch.setattr(shapes, "draw_texture", lambda *a: kept.append(drawn[-1]) or texture(*a))
    for seed in range(40):
        kept.clear()
        scene: Scene = render_scene(seed)
        assert 2 <= len(kept) == scene.objects.max() <= 4
        assert len(set(scene.classes[scene.classes > 0].tolist())) >= 2
        for number, silhouette in enumerate(kept, start=1):
            visible = scene.objects == number
            assert (silhouette | ~visible).all()
            assert visible.sum() >= max(60, silhouette.sum() / 2)


def test_the_tree_is_voc(cache):
    dataset = Shapes5i(n_train=6, n_val=3)
    assert dataset.root == cache / "shapes5i-6-3-0-v1"
    assert [p.name for p in cache.iterdir()] == ["shapes5i-6-3-0-v1"]  # nothing left over
    assert len(dataset.ids("train")) == 6
    assert dataset.ids("val") == ("000006", "000007", "000008")
    image, label = dataset.pair("000007")
    scene = render_scene(7)
    assert np.array_equal(label, scene.classes)
    assert np.array_equal(dataset.objects("000007"), scene.objects)
    assert np.abs(image.astype(int) - scene.image).mean() < 8  # JPEG
    assert set(dataset.index().areas) == {f"{i:06d}" for i in range(9)}


def test_the_seed_chooses_other_scenes():
    assert np.array_equal(Shapes5i(n_train=1, n_val=1, seed=2).label("000001"), render_scene(2_000_007).classes)


def test_a_second_interpreter_draws_the_same_tree(tmp_path, monkeypatch):
    one = Shapes5i(str(tmp_path / "one"), n_train=5, n_val=4)
    monkeypatch.setattr(shapes, "SECOND_PROCESS_FROM", 5)
    monkeypatch.setattr(generated.os, "cpu_count", lambda: 2)
    two = Shapes5i(str(tmp_path / "two"), n_train=5, n_val=4)
    assert one.index().fingerprint == two.index().fingerprint
    monkeypatch.setattr(generated.sys, "executable", "/bin/false")
    three = Shapes5i(str(tmp_path / "three"), n_train=5, n_val=4)
    assert one.index().fingerprint == three.index().fingerprint


def test_the_progress_bar_counts_all_that_two_interpreters_draw(tmp_path, monkeypatch):
    bars = []

    class Bar:
        def __init__(self, **options):
            bars.append((options, []))
            self.update = bars[-1][1].append

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

    monkeypatch.setattr(generated, "tqdm", Bar)
    monkeypatch.setattr(shapes, "SECOND_PROCESS_FROM", 5)
    monkeypatch.setattr(generated.os, "cpu_count", lambda: 2)
    Shapes5i(str(tmp_path / "tree"), n_train=5, n_val=4)
    ((options, done),) = bars
    assert (options["desc"], options["unit"], options["total"]) == ("drawing Shapes-5i", "scene", 9)
    assert done == [2, 2, 2, 2, 1]


def _make(root, n_train):
    Shapes5i(root, n_train=n_train, n_val=3)


def test_two_processes_at_once_both_end_well(tmp_path):
    context = multiprocessing.get_context("spawn")
    both = [context.Process(target=_make, args=(str(tmp_path / "tree"), 30)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(60)
    assert [process.exitcode for process in both] == [0, 0]
    assert [p.name for p in tmp_path.iterdir() if p.name != "cache"] == ["tree"]


def test_an_interrupted_generation_leaves_nothing(tmp_path, monkeypatch):
    def stop(seed):
        if seed == 2:
            raise KeyboardInterrupt
        return render_scene(seed)

    monkeypatch.setattr(shapes, "render_scene", stop)
    with pytest.raises(KeyboardInterrupt):
        Shapes5i(str(tmp_path / "tree"), n_train=3, n_val=3)
    assert not list(tmp_path.iterdir())


def test_other_content_at_the_root_is_an_error(tmp_path):
    (tmp_path / "tree").mkdir()
    Shapes5i(str(tmp_path / "tree"), n_train=1, n_val=1)  # an empty folder is fine
    with pytest.raises(FewsegError, match=r"--data.dataset.root"):
        Shapes5i(str(tmp_path / "tree"), n_train=2, n_val=1)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("precious")
    with pytest.raises(FewsegError, match=r"--data.dataset.root"):
        Shapes5i(str(tmp_path / "mine"), n_train=1, n_val=1)


@pytest.mark.parametrize("arguments", [{"n_train": 0}, {"n_val": -1}, {"seed": -1}, {"seed": 4000}])
def test_wrong_arguments(arguments):
    with pytest.raises(FewsegError, match=r"--data.dataset"):
        Shapes5i(**arguments)


def test_data_sets_import_no_torch():
    code = "import sys, fewseg.datasets.prepare; print([m for m in ('torch', 'scipy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
