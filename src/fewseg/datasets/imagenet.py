"""Which of ImageNet's 1000 classes correspond to COCO's categories, so that a backbone can be pre-trained without them.

Michaelis et al. ("One-Shot Instance Segmentation") pre-train on "the 687 ImageNet categories without correspondence in
MS-COCO". Their list is not at hand. The list made here is our own: ``RULES`` names, category by category, what is left
out. A class corresponds to a category

- if it is one, or a kind of one, by everyday English and by the names and definitions of WordNet, from which ImageNet's
  classes come (a sports car is a car, a tiger a large cat, a ship a boat);
- if it is a part or a content that is pictured with it (a car wheel, a toilet seat, red wine in its glass);
- in doubt (a bagel, in WordNet's words "doughnut-shaped").

It does not correspond only because both may be seen in one picture (a dogsled, a bookshop), nor because it looks alike
(a wolf, a tractor). So pictures of classes that are kept still show objects of COCO's categories, persons above all,
but nobody named them. Names and definitions are those that timm brings along.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import NamedTuple

from fewseg.datasets.coco import COCO_CLASSES
from fewseg.errors import FewsegError


class ImageNetClass(NamedTuple):
    """One of ImageNet's 1000 classes.

    Args:
        names: all that WordNet calls it, e.g. ``("laptop", "laptop computer")``; the first serves as its name.
        definition: WordNet's.
    """

    names: tuple[str, ...]
    definition: str


class Rule(NamedTuple):
    """The ImageNet classes that correspond to a category.

    Args:
        words: a class is meant if one of its names is one of these, or ends in one as a word of its own: English
            compounds end in what they are a kind of, so that "car" means the race car and not the car mirror.
        runs: first and last WordNet id of classes that are all meant. ImageNet's classes are sorted by that id, and
            kinds of animals are neighbours.
        unless: classes that the words do not mean, by their first name.
    """

    words: tuple[str, ...] = ()
    runs: tuple[tuple[str, str], ...] = ()
    unless: tuple[str, ...] = ()


# the categories that are not listed (fire hydrant, suitcase, snowboard, carrot, ...) have no class in ImageNet
RULES: dict[str, Rule] = {
    "person": Rule(("ballplayer", "groom", "scuba diver")),
    # all cycles with pedals
    "bicycle": Rule(("bicycle", "mountain bike", "tricycle", "unicycle")),
    "car": Rule(
        (
            *("car", "convertible", "cab", "jeep", "limousine", "minivan", "Model T", "ambulance", "police van"),
            *("car wheel", "car mirror", "radiator grille"),  # its parts
        ),
        unless=("freight car", "passenger car", "streetcar", "tow truck"),
    ),
    "motorcycle": Rule(("moped", "motor scooter")),
    "airplane": Rule(("airliner", "warplane", "wing")),  # a wing is that of an aeroplane; "plane" is a carpenter's tool
    "bus": Rule(("bus", "minibus", "trolleybus")),
    "train": Rule(("train", "locomotive", "freight car", "passenger car", "streetcar")),
    "truck": Rule(("truck", "moving van", "snowplow", "recreational vehicle")),
    "boat": Rule(
        (
            *("canoe", "catamaran", "fireboat", "gondola", "lifeboat", "speedboat", "trimaran", "yawl", "schooner"),
            # ships: COCO has no other category for them
            *("aircraft carrier", "container ship", "ocean liner", "pirate ship", "submarine", "wreck"),
            "paddlewheel",  # of a steamer
        )
    ),
    "traffic light": Rule(("traffic light",)),
    "stop sign": Rule(("street sign",)),
    "parking meter": Rule(("parking meter",)),
    "bench": Rule(("bench",)),
    "bird": Rule(
        runs=(
            ("n01514668", "n01622779"),  # cock to great grey owl, the kite among them
            ("n01795545", "n01860187"),  # black grouse to black swan
            ("n02002556", "n02058221"),  # white stork to albatross, the crane among them
        )
    ),
    "cat": Rule(runs=(("n02123045", "n02130308"),)),  # tabby to cheetah: WordNet's big cats are cats, too
    "dog": Rule(
        ("dingo", "dhole", "hunting dog"),  # wild dogs, but neither wolves nor foxes
        runs=(("n02085620", "n02113978"),),  # Chihuahua to Mexican hairless
    ),
    "horse": Rule(("sorrel",)),
    "sheep": Rule(("ram", "sheep")),
    "cow": Rule(("ox", "bison")),  # "water ox" is the water buffalo
    "elephant": Rule(("elephant", "tusker")),
    # brown, black, polar, sloth and panda bear
    "bear": Rule(("bear",), unless=("koala", "lesser panda", "teddy")),
    "zebra": Rule(("zebra",)),
    "backpack": Rule(("backpack",)),
    "umbrella": Rule(("umbrella",)),
    "handbag": Rule(("purse", "mailbag")),
    "tie": Rule(("tie",)),
    "skis": Rule(("ski",)),
    "sports ball": Rule(("ball", "baseball", "basketball", "volleyball"), unless=("punching bag",)),
    "tennis racket": Rule(("racket",)),
    "bottle": Rule(
        (
            *("bottle", "jug", "nipple"),  # WordNet: a jug is a large bottle, a nipple the cap of a feeding bottle
            *("lotion", "perfume", "sunscreen"),  # what comes in bottles and is pictured in them
        )
    ),
    "wine glass": Rule(("goblet", "red wine")),
    "cup": Rule(("cup", "coffee mug", "beer glass", "espresso", "eggnog")),  # "cup" is a punch, pictured in cups
    "knife": Rule(("cleaver", "paper knife")),
    "spoon": Rule(("spoon", "ladle")),
    "bowl": Rule(("bowl", "mortar", "consomme", "hot pot")),  # WordNet: a mortar is bowl-shaped; soups are in bowls
    "banana": Rule(("banana",)),
    "apple": Rule(("Granny Smith",)),
    "sandwich": Rule(("cheeseburger",)),
    "orange": Rule(("orange",)),
    "broccoli": Rule(("broccoli",)),
    "hot dog": Rule(("hot dog",)),
    "pizza": Rule(("pizza",)),
    "donut": Rule(("bagel",)),
    "chair": Rule(("chair", "throne")),
    "couch": Rule(("couch",)),
    "potted plant": Rule(("flowerpot",)),
    # WordNet: cribs, cradles and bassinets are babies' beds; the chiton's other name is "sea cradle"
    "bed": Rule(("four-poster", "crib", "cradle", "bassinet"), unless=("chiton",)),
    "dining table": Rule(("dining table",)),
    "toilet": Rule(("toilet seat",)),
    "tv": Rule(("television", "monitor", "CRT screen", "home theater", "entertainment center")),
    "laptop": Rule(("laptop", "notebook")),
    "mouse": Rule(("mouse",)),
    "remote": Rule(("remote",)),
    "keyboard": Rule(("keyboard", "space bar")),
    "cell phone": Rule(("cellular telephone",)),
    "microwave": Rule(("microwave",)),
    "oven": Rule(("oven", "rotisserie", "stove"), unless=("microwave",)),
    "toaster": Rule(("toaster",)),
    "sink": Rule(("washbasin",)),
    "refrigerator": Rule(("refrigerator",)),
    "book": Rule(("book", "book jacket")),
    "clock": Rule(("clock",)),
    "vase": Rule(("vase",)),
    "teddy bear": Rule(("teddy bear",)),
    "hair drier": Rule(("hair drier",)),
}


@cache
def imagenet_classes() -> dict[str, ImageNetClass]:
    """The 1000 classes of ImageNet (ILSVRC 2012) by their WordNet ids, in the order of its numbers.

    Raises:
        FewsegError: timm, or its list of classes, is not installed.

    >>> imagenet_classes()["n03642806"]
    ImageNetClass(names=('laptop', 'laptop computer'), definition='a portable computer small enough to use in your lap')
    """
    found = importlib.util.find_spec("timm")  # does not import it, and so not torch
    folder = Path(found.origin).parent / "data" / "_info" if found and found.origin else Path("timm")
    try:
        ids = (folder / "imagenet_synsets.txt").read_text(encoding="utf-8").split()
        names, definitions = (
            dict(line.split("\t", 1) for line in (folder / file).read_text(encoding="utf-8").splitlines())
            for file in ("imagenet_synset_to_lemma.txt", "imagenet_synset_to_definition.txt")
        )
        return {wnid: ImageNetClass(tuple(names[wnid].split(", ")), definitions[wnid]) for wnid in ids}
    except (OSError, KeyError, ValueError) as error:
        got = f"{folder} without ImageNet's classes ({type(error).__name__})"
        raise FewsegError(
            "timm", got, "the lists that timm 1.0.9 and later bring along", "install timm again"
        ) from None


def means(rule: Rule, wnid: str, names: tuple[str, ...]) -> bool:
    """Whether a rule means a class.

    Args:
        rule: of a category.
        wnid: the class's WordNet id.
        names: what WordNet calls it.

    >>> bear = Rule(("bear",), unless=("teddy",))
    >>> [means(bear, "n0", names) for names in (("polar bear",), ("bearskin",), ("teddy", "teddy bear"))]
    [True, False, False]
    >>> means(Rule(runs=(("n02", "n04"),)), "n03", ("whippet",))
    True
    """
    if any(first <= wnid <= last for first, last in rule.runs):
        return True
    if names[0] in rule.unless:
        return False
    endings = tuple(" " + _plain(word) for word in rule.words)
    return any((" " + _plain(name)).endswith(endings) for name in names)


def excluded_classes(categories: Iterable[str] = COCO_CLASSES) -> dict[str, str]:
    """The ImageNet classes that correspond to categories of COCO, with the category of each.

    Args:
        categories: names of COCO's categories; all of them by default.

    Returns:
        WordNet id -> category, in ImageNet's order.

    Raises:
        FewsegError: a name is none of COCO's.

    >>> [imagenet_classes()[wnid].names[0] for wnid in excluded_classes(["couch", "hot dog"])]
    ['studio couch', 'hotdog']
    """
    chosen = []
    for category in categories:
        if category not in COCO_CLASSES:
            remedy = "see fewseg.datasets.coco.COCO_CLASSES"
            raise FewsegError("categories", repr(category), "names of COCO's 80 categories", remedy)
        chosen.append(category)
    found = {}
    for wnid, each in imagenet_classes().items():
        for category in chosen:
            if means(RULES.get(category, Rule()), wnid, each.names):
                found[wnid] = category
                break
    return found


def kept_classes(categories: Iterable[str] = COCO_CLASSES) -> tuple[str, ...]:
    """The WordNet ids of the ImageNet classes that correspond to none of these categories, in ImageNet's order.

    Args:
        categories: names of COCO's categories; all of them by default.

    Raises:
        FewsegError: a name is none of COCO's.

    >>> len(kept_classes([])), "n03642806" in kept_classes(), "n03642806" in kept_classes(["cat"])
    (1000, False, True)
    """
    excluded = excluded_classes(categories)
    return tuple(wnid for wnid in imagenet_classes() if wnid not in excluded)


def list_text() -> str:
    """The list as a file: a header, what is kept as lines ``id  name``, and what is not, with its category."""
    classes, excluded, kept = imagenet_classes(), excluded_classes(), kept_classes()
    header = (
        f"# {len(kept)} of ImageNet's {len(classes)} classes have no correspondence in COCO, {len(excluded)} have one.",
        "# The paper (Michaelis et al., One-Shot Instance Segmentation) keeps 687; its list is not at hand, and this",
        "# one is not the same. Made by `make imagenet-list` from the rules in src/fewseg/datasets/imagenet.py.",
    )
    return "\n".join(
        (
            *header,
            "",
            "# kept",
            *(f"{wnid}  {', '.join(classes[wnid].names)}" for wnid in kept),
            "",
            "# left out",
            *(f"{wnid}  {', '.join(classes[wnid].names)}  -> {category}" for wnid, category in excluded.items()),
            "",
        )
    )


@cache
def _plain(name: str) -> str:
    return name.replace("-", " ").lower()
