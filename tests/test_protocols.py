import dataclasses
import json

import pytest

from fewseg.errors import FewsegError
from fewseg.protocols import CLEAN, ORACLE, PROTOCOLS, get_protocol
from fewseg.sampling import EpisodeList, TrainingSampler, evaluation_list, training_pool
from test_sampling import ListedDataset

NAMES = ["clean", "clean-mixed", "oracle", "oslsm", "sgone", "sgone-multiclass", "hsnet", "pfenet", "panet", "revolver"]


def test_names():
    assert list(PROTOCOLS) == NAMES
    assert all(get_protocol(name).name == name and get_protocol(name).note for name in NAMES)
    with pytest.raises(FewsegError, match=r"protocol: got clena, expected one of clean, clean-mixed, .*revolver"):
        get_protocol("clena")


@pytest.mark.parametrize("name", NAMES)
def test_every_protocol_trains_and_tests_on_a_small_data_set(name):
    protocol, dataset = get_protocol(name), ListedDataset()
    for n_points in (2, *([] if name == "clean-mixed" else [None])):
        episodes = evaluation_list(dataset, protocol, 1, 1, n_points, 9)
        assert len(episodes) == (18 if name == "sgone-multiclass" else 9)  # two classes a fold
        assert EpisodeList.from_text(episodes.text()) == episodes
        assert {s.class_id for s in episodes.specs} <= set(dataset.novel_classes(1))
        assert episodes.sha256 == evaluation_list(dataset, protocol, 1, 1, n_points, 9).sha256
        assert all((s.points is None) == (n_points is None) for s in episodes.specs)
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


def test_what_the_author_protocols_are_known_for():
    parts = {name: get_protocol(name).evaluation for name in NAMES}
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
        "oracle",
        "sgone",
        "sgone-multiclass",
        "revolver",
    }


def test_lists_are_the_same_on_every_platform_and_python():
    """Python guarantees ``random.random`` only; PANet's and PFENet's draws need its other methods to stay as well."""
    dataset = ListedDataset()
    digests = {name: evaluation_list(dataset, p, 1, 2, 3, 30).sha256[:16] for name, p in PROTOCOLS.items()}
    assert digests == {
        "clean": "0df3f3b2b6087f75",
        "clean-mixed": "ecb31fddb9081ad3",
        "oracle": "0df3f3b2b6087f75",
        "oslsm": "c816961e6b8a8cc8",
        "sgone": "c816961e6b8a8cc8",
        "sgone-multiclass": "2339cceacd704833",
        "hsnet": "e1502c80e0dce71c",
        "pfenet": "ec919f214cc9eb93",
        "panet": "3b2f078a993324d3",
        "revolver": "cb2fc3cb16299878",
    }
