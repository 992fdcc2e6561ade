import dataclasses
import json

import pytest

from fewseg.errors import FewsegError
from fewseg.protocols import CLEAN, CLEAN_ABSENT, ORACLE, PROTOCOLS, get_protocol
from fewseg.sampling import EpisodeList, TrainingSampler, evaluation_list, training_pool
from test_sampling import ListedDataset

SEMANTIC = [
    "clean",
    "clean-mixed",
    "clean-absent",
    "oracle",
    "oslsm",
    "sgone",
    "sgone-multiclass",
    "hsnet",
    "pfenet",
    "panet",
    "revolver",
]
INTERACTIVE = ["interactive", "interactive-component", "interactive-points", "thesis"]
VIDEO = ["video", "interactive-video"]
INSTANCE = ["one-shot", "one-shot-base", "one-shot-all", "one-shot-code"]
NAMES = [*SEMANTIC, *INTERACTIVE, *VIDEO, *INSTANCE]


def test_names():
    assert list(PROTOCOLS) == NAMES
    assert all(get_protocol(name).name == name and get_protocol(name).note for name in NAMES)
    expected = (
        r"protocol: got clena, expected one of clean, .*thesis, video, interactive-video, one-shot, .*one-shot-code"
    )
    with pytest.raises(FewsegError, match=expected):
        get_protocol("clena")


@pytest.mark.parametrize("name", [*SEMANTIC, *INTERACTIVE])
def test_every_protocol_trains_and_tests_on_a_small_data_set(name):
    protocol, dataset = get_protocol(name), ListedDataset()
    for n_points in (2, *([] if name == "clean-mixed" else [None])):
        episodes = evaluation_list(dataset, protocol, 1, 1, n_points, 9)
        assert all(((s.object_id is None) == (name in SEMANTIC)) for s in episodes.specs)
        assert len(episodes) == (18 if name == "sgone-multiclass" else 9)  # two classes a fold
        assert EpisodeList.from_text(episodes.text()) == episodes
        assert {s.class_id for s in episodes.specs} <= set(dataset.novel_classes(1))
        assert episodes.sha256 == evaluation_list(dataset, protocol, 1, 1, n_points, 9).sha256
        on_query = name == "interactive-points"
        assert all((s.points is None) == (n_points is None or on_query) for s in episodes.specs)
        assert all(len(s.clicks) == (2 * n_points if on_query and n_points else 0) for s in episodes.specs)
    pool = training_pool(dataset, protocol.training, 1)
    seen = {TrainingSampler(pool, 0, "dense", 0).draw(i).spec.class_id for i in range(100)}
    assert seen == set(range(1, 9) if name == "oracle" else dataset.base_classes(1))


def test_parts_are_plain_data_so_that_ids_can_hash_them():
    for protocol in PROTOCOLS.values():
        for part in (protocol.training, protocol.evaluation):
            assert json.loads(json.dumps(dataclasses.asdict(part)))
            assert hash(part) == hash(dataclasses.replace(part))


def test_the_oracle_differs_from_clean_in_its_training_classes_only():
    assert dataclasses.replace(ORACLE.training, classes="base") == CLEAN.training
    assert ORACLE.evaluation == CLEAN.evaluation


def test_clean_absent_differs_from_clean_in_half_of_its_queries_only():
    assert CLEAN_ABSENT.training == CLEAN.training  # one training serves both
    assert dataclasses.replace(CLEAN_ABSENT.evaluation, absent=None) == CLEAN.evaluation
    assert {n: p.evaluation.absent for n, p in PROTOCOLS.items() if p.evaluation.absent} == {"clean-absent": 0.5}


def test_what_the_author_protocols_are_known_for():
    parts = {name: get_protocol(name).evaluation for name in SEMANTIC}
    assert {n: p.seed for n, p in parts.items() if p.seed} == {
        "oslsm": 1385,
        "sgone": 1385,
        "sgone-multiclass": 1385,
        "pfenet": 321,
        "panet": 1234,
        "revolver": 1337,
    }
    assert {n for n, p in parts.items() if p.void == "background"} == {"oslsm", "sgone", "sgone-multiclass"}
    assert {n for n, p in parts.items() if p.support_may_equal_query} == {"revolver"}
    assert {n for n, p in parts.items() if p.supports_may_repeat} == {"hsnet", "revolver"}
    assert {n for n, p in parts.items() if p.scoring_size == "original"} == {
        "clean",
        "clean-mixed",
        "clean-absent",
        "oracle",
        "sgone",
        "sgone-multiclass",
        "revolver",
    }


def test_what_the_interactive_protocols_are_known_for():
    parts = {name: get_protocol(name).evaluation for name in INTERACTIVE}
    assert all(
        p.interaction is None and p.video is None and p.search is None and p.task == "semantic"
        for n, p in PROTOCOLS.items()
        for p in [p.evaluation]
        if n in SEMANTIC
    )
    robots = {name: (part.interaction.source, part.interaction.n_clicks) for name, part in parts.items()}
    assert robots.pop("interactive-points")[0] == "points"
    assert robots == {
        "interactive": ("inscribed", 20),
        "interactive-component": ("component", 20),
        "thesis": ("inscribed", 1),
    }
    assert {n: p.threshold for n, p in parts.items() if p.threshold != 0.5} == {
        "interactive": 0.49,  # of the code of f-BRS
        "interactive-component": 0.49,
    }
    assert all((p.void, p.scoring_size, p.task) == ("ignore", "original", "interactive") for p in parts.values())
    assert {n: get_protocol(n).training.heldout for n in INTERACTIVE} == {
        "interactive": "drop",
        "interactive-component": "drop",
        "interactive-points": "drop",
        "thesis": "background",
    }
    trained = get_protocol("interactive").training
    assert dataclasses.replace(trained, min_area=1) == CLEAN.training


def test_what_the_video_protocols_are_known_for():
    parts = {name: get_protocol(name).evaluation for name in VIDEO}
    assert [(p.video.frames, p.task) for p in parts.values()] == [("first", "video"), ("random", "interactive_video")]
    assert [n for n, p in PROTOCOLS.items() if p.evaluation.video is not None] == VIDEO
    for part in parts.values():
        assert (part.void, part.support_void, part.scoring_size) == ("background", "background", "original")
        assert (part.split, part.n_episodes, part.threshold, part.interaction) == ("val", None, 0.5, None)
    trained = [get_protocol(name).training for name in VIDEO]
    assert trained[0] == trained[1]
    assert (trained[0].hold_out_tenth, trained[0].classes, trained[0].min_area) == (True, "all", 64)


def test_what_the_one_shot_protocols_are_known_for():
    parts = {name: get_protocol(name).evaluation for name in INSTANCE}
    assert {name: (part.search.reference, part.search.classes) for name, part in parts.items()} == {
        "one-shot": ("other", "novel"),
        "one-shot-base": ("other", "base"),
        "one-shot-all": ("other", "all"),
        "one-shot-code": ("any", "novel"),
    }
    assert [n for n, p in PROTOCOLS.items() if p.evaluation.search is not None] == INSTANCE
    for part in parts.values():
        assert (part.task, part.split, part.n_episodes, part.runs) == ("instance", "val", None, 5)
        assert (part.void, part.scoring_size, part.interaction, part.video) == ("ignore", "original", None, None)


def test_one_training_serves_three_one_shot_protocols():
    one_shot, base, every, code = (get_protocol(name).training for name in INSTANCE)
    assert one_shot == base == code
    assert (one_shot.split, one_shot.heldout, one_shot.classes) == ("train", "background", "base")
    assert not one_shot.hold_out_tenth  # the data set holds images out
    assert dataclasses.replace(every, classes="base") == one_shot


def test_lists_are_the_same_on_every_platform_and_python():
    """Python guarantees ``random.random`` only; PANet's and PFENet's draws need its other methods to stay as well."""
    dataset = ListedDataset()
    lists = {name: evaluation_list(dataset, get_protocol(name), 1, 2, 3, 30) for name in SEMANTIC}
    digests = {name: episodes.sha256[:16] for name, episodes in lists.items()}
    assert digests == {
        "clean": "0df3f3b2b6087f75",
        "clean-mixed": "ecb31fddb9081ad3",
        "clean-absent": "3240f0c44645b213",
        "oracle": "0df3f3b2b6087f75",
        "oslsm": "c816961e6b8a8cc8",
        "sgone": "c816961e6b8a8cc8",
        "sgone-multiclass": "2339cceacd704833",
        "hsnet": "e1502c80e0dce71c",
        "pfenet": "ec919f214cc9eb93",
        "panet": "3b2f078a993324d3",
        "revolver": "cb2fc3cb16299878",
    }
