"""ImageNet's classes against COCO's categories: every rule does something, picked classes lie where they must."""

import subprocess
import sys
from pathlib import Path

import pytest

from fewseg.datasets.coco import COCO_CLASSES
from fewseg.datasets.imagenet import RULES, Rule, excluded_classes, imagenet_classes, kept_classes, list_text, means
from fewseg.errors import FewsegError

LIST = Path(__file__).parents[2] / "experiments" / "imagenet_without_coco.txt"
# number among ImageNet's 1000, first name, category; None is kept
PICKED = [
    (15, "robin", "bird"),
    (21, "kite", "bird"),
    (134, "crane", "bird"),
    (145, "king penguin", "bird"),
    (151, "Chihuahua", "dog"),
    (264, "Cardigan", "dog"),
    (268, "Mexican hairless", "dog"),
    (273, "dingo", "dog"),
    (281, "tabby", "cat"),
    (292, "tiger", "cat"),
    (296, "ice bear", "bear"),
    (388, "giant panda", "bear"),
    (339, "sorrel", "horse"),
    (346, "water buffalo", "cow"),
    (349, "bighorn", "sheep"),
    (386, "African elephant", "elephant"),
    (404, "airliner", "airplane"),
    (440, "beer bottle", "bottle"),
    (444, "bicycle-built-for-two", "bicycle"),
    (457, "bow tie", "tie"),
    (530, "digital clock", "clock"),
    (559, "folding chair", "chair"),
    (589, "hand blower", "hair drier"),
    (628, "liner", "boat"),
    (651, "microwave", "microwave"),
    (664, "monitor", "tv"),
    (671, "mountain bike", "bicycle"),
    (705, "passenger car", "train"),
    (751, "racer", "car"),
    (765, "rocking chair", "chair"),
    (817, "sports car", "car"),
    (829, "streetcar", "train"),
    (831, "studio couch", "couch"),
    (850, "teddy", "teddy bear"),
    (861, "toilet seat", "toilet"),
    (864, "tow truck", "truck"),
    (874, "trolleybus", "bus"),
    (920, "traffic light", "traffic light"),
    (934, "hotdog", "hot dog"),
    (948, "Granny Smith", "apple"),
    (950, "orange", "orange"),
    (968, "cup", "cup"),
    (981, "ballplayer", "person"),
    (983, "scuba diver", "person"),
    (0, "tench", None),
    (105, "koala", None),  # "koala bear"
    (116, "chiton", None),  # "sea cradle"
    (269, "timber wolf", None),
    (344, "hippopotamus", None),  # "river horse"
    (383, "Madagascar cat", None),  # a lemur
    (387, "lesser panda", None),  # "cat bear"
    (439, "bearskin", None),
    (448, "birdhouse", None),
    (474, "cardigan", None),  # the other one is a dog
    (488, "chain", None),
    (517, "crane", None),  # lifts and moves heavy objects
    (527, "desktop computer", None),
    (726, "plane", None),  # a carpenter's
    (747, "punching bag", None),  # "punching ball"
    (755, "radio telescope", None),
    (866, "tractor", None),
    (904, "window screen", None),
    (953, "pineapple", None),
    (956, "custard apple", None),
    (990, "buckeye", None),  # "horse chestnut"
]


def test_there_are_the_thousand_classes():
    classes = imagenet_classes()
    assert len(classes) == 1000
    assert list(classes) == sorted(classes), "runs of ids rest on this"
    assert classes["n03792782"].names == ("mountain bike", "all-terrain bike", "off-roader")


def test_picked_classes():
    classes, excluded, kept = list(imagenet_classes().items()), excluded_classes(), kept_classes()
    assert [classes[number][1].names[0] for number, *_ in PICKED] == [name for _, name, _ in PICKED]
    found = [(number, name, excluded.get(classes[number][0])) for number, name, _ in PICKED]
    assert found == PICKED
    assert [classes[number][0] in kept for number, *_ in PICKED] == [category is None for *_, category in PICKED]


def test_kept_and_excluded_make_up_imagenet():
    kept, excluded = kept_classes(), excluded_classes()
    assert len(kept) + len(excluded) == len({*kept, *excluded}) == 1000
    assert list(kept) == sorted(kept)
    assert set(excluded.values()) == set(RULES)


def test_no_class_has_two_categories():
    for wnid, each in imagenet_classes().items():
        assert len([category for category, rule in RULES.items() if means(rule, wnid, each.names)]) <= 1, each.names


def test_every_word_run_and_exception_does_something():
    classes = imagenet_classes()
    for category, rule in RULES.items():
        assert category in COCO_CLASSES
        for word in rule.words:
            only = Rule((word,), unless=rule.unless)
            assert any(means(only, wnid, each.names) for wnid, each in classes.items()), (category, word)
        for run in rule.runs:
            assert set(run) <= set(classes), (category, run)
        for name in rule.unless:
            (names,) = [each.names for each in classes.values() if each.names[0] == name]
            assert means(Rule(rule.words), "", names), f"{category}: {name} is not meant anyway"


def test_runs_hold_the_kinds_that_their_definitions_name():
    """Every class in the three runs of birds, and no other, is a bird; of dogs all 118 breeds."""
    birds = [wnid for wnid, category in excluded_classes(["bird"]).items() if category]
    numbers = [list(imagenet_classes()).index(wnid) for wnid in birds]
    assert numbers == [*range(7, 25), *range(80, 101), *range(127, 147)]
    breeds = [list(imagenet_classes()).index(wnid) for wnid in excluded_classes(["dog"])]
    assert breeds == [*range(151, 269), 273, 274, 275]


def test_a_word_means_the_end_of_a_name_only():
    car = Rule(("car",), unless=("freight car",))
    for names, meant in (
        (("car",), True),
        (("racer", "race car"), True),
        (("race-car",), True),
        (("car mirror",), False),
        (("oscar",), False),
        (("freight car",), False),
    ):
        assert means(car, "n1", names) == meant, names


def test_some_categories_exclude_less():
    some, everything = excluded_classes(["dog", "cat"]), excluded_classes()
    assert some == {wnid: category for wnid, category in everything.items() if category in ("dog", "cat")}
    assert excluded_classes([]) == {} == excluded_classes(["fire hydrant"])
    with pytest.raises(FewsegError, match="'animal', expected names of COCO's 80 categories"):
        kept_classes(["dog", "animal"])


def test_the_committed_list_is_that_of_the_rules():
    assert LIST.read_text(encoding="utf-8") == list_text(), "make imagenet-list"


def test_the_list_says_what_it_is():
    head, kept, left = list_text().split("\n\n")
    assert head.startswith(f"# {len(kept_classes())} of ImageNet's 1000 classes have no correspondence in COCO")
    assert "687" in head
    assert [line.split("  ")[0] for line in kept.splitlines()[1:]] == list(kept_classes())
    lines = [line.split("  ") for line in left.splitlines()[1:]]
    assert {wnid: category.removeprefix("-> ") for wnid, _, category in lines} == excluded_classes()


def test_it_needs_no_torch():
    code = "from fewseg.datasets.imagenet import kept_classes as k; k(); import sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_without_the_lists_of_timm(monkeypatch):
    imagenet_classes.cache_clear()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    try:
        with pytest.raises(FewsegError, match=r"timm: got .* install timm again"):
            imagenet_classes()
    finally:
        imagenet_classes.cache_clear()
