"""Options that vary, what is left out and added, data sets side by side, and the estimate of a dry run."""

import dataclasses
import json
import subprocess
import sys

import pytest
import yaml

from fewseg import benchmark, results
from fewseg.benchmark import timings
from fewseg.benchmark.cells import in_short, read_options
from fewseg.benchmark.estimate import Estimate, estimate
from fewseg.cli import main
from fewseg.errors import FewsegError

SMALL = {"class_path": "Shapes5i", "init_args": {"n_train": 300, "n_val": 80}}
SHAPES = {"data": {"dataset": SMALL, "size": 48}, "trainer": {"accelerator": "cpu"}}
OTHER = {"data": {"dataset": {"class_path": "ShapesCoco", "init_args": {"n_train": 40, "n_val": 30}}, "size": 64}}
GUIDED = {"model": {"class_path": "GuidedNet", "init_args": {"lr": 0.002}}}
FGBG = {"model": {"class_path": "FgBg"}}
SIMPLE = {
    "data": SHAPES,
    "methods": {"guided": {"config": GUIDED}, "fgbg": {"config": FGBG}},
    "folds": [0, 1],
    "shots": [1, 2],
    "points": [1, "dense"],
    "n_episodes": 5,
    "training": {"max_steps": 10, "batch_size": 2},
}
IDS = {
    "trainings": ["pretraining-f1-s0-ab4f3c1b", "guided-f1-s0-07a5b306", "fgbg-f1-s0-05f2f2ea"],
    "runs": [
        *("guided-f1-s0-k1-p1-76401e21", "guided-f1-s0-k1-pdense-e2aa7cd8"),
        *("fgbg-f1-s0-k1-p1-a90dfe17", "fgbg-f1-s0-k1-pdense-ae2e7ad9"),
    ],
}
ROBOT = {"protocol": "interactive", "shots": [0], "points": ["dense"]}


@pytest.fixture
def write(tmp_path):
    """Writes a benchmark file: ``SIMPLE`` with changes, where None drops a key."""

    def made(text=None, **changes):
        path = tmp_path / "grid.yaml"
        config = {k: v for k, v in {**SIMPLE, **changes}.items() if v is not None}
        path.write_text(yaml.safe_dump(config, sort_keys=False) + (text or ""))
        return path

    return made


@pytest.fixture
def planned(write):
    return lambda text=None, **changes: benchmark.plan(write(text, **changes))


def configs(plan):
    return list(dict.fromkeys(run.config for run in plan.runs))


def settings(plan):
    return {(r.config, r.training.fold, r.data["n_shot"], r.data["n_points"]) for r in plan.runs}


# -------------------------------------------------------------------------------------------------------------- ids


def test_ids_are_what_they_always_were(planned):
    """Folders of earlier benchmarks are found again: these were written down before grids had options."""
    pretraining = {"config": {"model": {"class_path": "EncoderPretraining"}}, "max_steps": 3}
    plan = planned(folds=[1], shots=[1], pretraining=pretraining)
    assert [one.id for one in (*plan.pretrainings, *plan.trainings)] == IDS["trainings"]
    assert [run.id for run in plan.runs] == IDS["runs"]


def test_a_grid_of_one_value_is_the_method_with_that_value(planned):
    written = planned(methods={"guided": {"config": GUIDED, "model": {"lr": 0.5}}})
    varied = planned(methods={"guided": {"config": GUIDED}}, grid={"model.lr": [0.5]})
    assert [run.id for run in varied.runs] == [run.id for run in written.runs]
    more = planned(methods={"guided": {"config": GUIDED}}, grid={"model.lr": [0.5, 0.25]})
    assert {one.id for one in written.trainings} < {one.id for one in more.trainings}


def test_equal_contents_are_one_training_under_the_first_name(planned):
    methods = {"a": {"config": GUIDED}, "b": {"config": {**GUIDED}, "model": {"lr": 2e-3}}, "c": {"config": FGBG}}
    plan = planned(methods=methods, folds=[0], shots=[1])
    assert [one.name for one in plan.trainings] == ["a", "c"]
    assert [(run.config, run.training.name, run.plain) for run in plan.runs] == [
        *[("a", "a", "a")] * 2,
        *[("b", "a", "b")] * 2,
        *[("c", "c", "c")] * 2,
    ]
    assert len({run.id for run in plan.runs}) == 6


def test_names_that_differ_in_signs_only_do_not_share_folders(planned):
    with pytest.raises(FewsegError, match="b_c and b c, whose runs would share a folder"):
        planned(methods={"b c": {"config": GUIDED}, "b_c": {"config": GUIDED}})


# ------------------------------------------------------------------------------------------------------ options vary


def test_the_product_of_options(planned):
    """2 methods x 2 folds x 2 rates x 2 budgets = 16 trainings, each with 2 K x 2 P = 4 runs."""
    plan = planned(grid={"model.lr": [0.1, 0.2], "training.max_steps": [5, 7]})
    assert (len(plan.trainings), len(plan.runs)) == (16, 64)
    assert configs(plan)[:4] == [f"guided lr={lr} max_steps={n}" for lr in (0.1, 0.2) for n in (5, 7)]
    for one in plan.trainings:
        lr, steps = one.config["model"]["init_args"]["lr"], one.config["trainer"]["max_steps"]
        assert one.name.endswith(f" lr={lr} max_steps={steps}")
        assert one.id.startswith((f"guided-f{one.fold}-s0-", f"fgbg-f{one.fold}-s0-"))
    assert plan.runs[0].id.startswith("guided_lr_0.1_max_steps_5-f0-s0-k1-p1-")
    assert plan.runs[0].plain == plan.runs[0].config


def test_only_what_varies_is_in_names_and_equal_names_are_told_in_full(planned):
    one = planned(grid={"model.lr": [0.1], "data.size": [48, 64]})
    assert configs(one) == [f"{name} size={size}" for name in ("guided", "fgbg") for size in (48, 64)]
    assert {t.config["data"]["size"] for t in one.trainings} == {48, 64}
    both = planned(folds=[0], grid={"data.size": [48, 64], "model.size": [1, 2]})
    assert configs(both)[0] == "guided data.size=48 model.size=1"


def test_an_option_deep_inside_trains_and_does_not_test(planned):
    plan = planned(folds=[0], shots=[1], points=["dense"], grid={"data.dataset.init_args.n_train": [200, 300]})
    few, many = (run for run in plan.runs if run.config.startswith("guided"))
    assert few.training.config["data"]["dataset"]["init_args"] == {"n_train": 200, "n_val": 80}
    assert few.options["dataset"] == many.options["dataset"] == SMALL
    assert few.config == "guided n_train=200"


def test_options_of_tests_alone_train_nothing(planned):
    """2 methods x 1 fold; the robot's tests: 2 clicks x 2 refinements; the class test reads neither."""
    tests = [ROBOT, {"protocol": "clean", "shots": [1], "points": [1]}]
    grid = {"data.n_clicks": [2, 3], "data.refine": [None, "features"], "data.size": [48]}
    plan = planned(folds=[0], protocol="interactive", tests=tests, grid=grid)
    assert (len(plan.trainings), len(plan.runs)) == (2, 2 * (4 + 1))
    asked = [(r.config, r.options.get("n_clicks"), r.options.get("refine")) for r in plan.runs][:5]
    assert asked == [
        ("guided n_clicks=2 refine=null", 2, None),
        ("guided n_clicks=2 refine=features", 2, "features"),
        ("guided n_clicks=3 refine=null", 3, None),
        ("guided n_clicks=3 refine=features", 3, "features"),
        ("guided", None, None),
    ]
    assert {one.name for one in plan.trainings} == {"guided", "fgbg"}


def test_numbers_are_read_as_the_command_line_reads_them(planned):
    plan = planned("grid: {model.lr: [1e-4, 1E-3, 2.5e-3]}\n", folds=[0])
    rates = {one.config["model"]["init_args"]["lr"] for one in plan.trainings}
    assert rates == {0.0001, 0.001, 0.0025}
    assert configs(plan)[0] == "guided lr=0.0001"


# ----------------------------------------------------------------------------------------------- left out and added


def test_exclusions_by_hand(planned):
    """Of 2 methods x 2 folds x 2 K x 2 P = 16 runs: fgbg loses fold 1 (4) and all of K 2, P 1 goes (3 more)."""
    plan = planned(exclude=[{"methods": "fgbg", "folds": 1}, {"shots": 2, "points": [1]}])
    assert len(plan.runs) == 16 - 4 - 3
    assert {(one.name, one.fold) for one in plan.trainings} == {("guided", 0), ("guided", 1), ("fgbg", 0)}
    assert not {s for s in settings(plan) if s[:2] == ("fgbg", 1) or s[2:] == (2, 1)}
    assert {one.n_folds for one in plan.trainings} == {4}


def test_nothing_is_trained_or_pretrained_for_nothing(planned):
    pretraining = {"config": {"model": {"class_path": "EncoderPretraining"}}, "max_steps": 3}
    plan = planned(pretraining=pretraining, exclude=[{"folds": [0]}])
    assert {one.fold for one in (*plan.pretrainings, *plan.trainings)} == {1}
    assert len(plan.pretrainings) == 1


def test_exclusions_of_options_and_protocols(planned):
    grid = {"model.lr": [0.1, 0.2], "data.n_clicks": [2, 3]}
    tests = [ROBOT, {"protocol": "clean", "shots": [1], "points": [1]}]
    exclude = [{"model.lr": 0.1, "protocol": "clean"}, {"data.n_clicks": 3, "methods": ["fgbg"]}]
    plan = planned(folds=[0], protocol="interactive", tests=tests, grid=grid, exclude=exclude)
    found = [(r.config, r.data["protocol"]) for r in plan.runs]
    robot = [(f"guided lr={lr} n_clicks={n}", "interactive") for lr in (0.1, 0.2) for n in (2, 3)]
    robot += [(f"fgbg lr={lr} n_clicks=2", "interactive") for lr in (0.1, 0.2)]
    assert sorted(found) == sorted([*robot, ("guided lr=0.2", "clean"), ("fgbg lr=0.2", "clean")])


def test_inclusions_by_hand(planned):
    plain = planned()
    plan = planned(include=[{"methods": "guided", "shots": 4, "points": "dense"}, {"folds": [0, 3], "shots": 1}])
    added = settings(plan) - settings(plain)
    assert added == {
        *(("guided", fold, 4, None) for fold in (0, 1)),
        *((name, 3, 1, points) for name in ("guided", "fgbg") for points in (1, None)),
    }
    assert len(plan.runs) == 16 + 6
    assert {run.id for run in plain.runs} < {run.id for run in plan.runs}


def test_what_is_excluded_can_be_included_in_part(planned):
    plan = planned(exclude=[{"methods": "fgbg"}], include=[{"methods": "fgbg", "folds": 0, "shots": 1, "points": 1}])
    assert {s for s in settings(plan) if s[0] == "fgbg"} == {("fgbg", 0, 1, 1)}


def test_an_inclusion_may_bring_values_and_protocols(planned):
    include = [{"methods": "guided", "model.lr": 0.3, "protocol": "clean-mixed", "shots": 1, "folds": 0, "points": 1}]
    plan = planned(folds=[0], shots=[1], points=[1], grid={"model.lr": [0.1]}, include=include)
    assert [(r.config, r.data["protocol"]) for r in plan.runs] == [
        ("guided lr=0.1", "clean"),
        ("fgbg lr=0.1", "clean"),
        ("guided lr=0.3", "clean-mixed"),
    ]
    assert [one.train_protocol for one in plan.trainings] == ["clean"] * 3


# --------------------------------------------------------------------------------------------------- data side by side


def test_every_method_trains_on_every_data_set(planned, tmp_path):
    (tmp_path / "coco.yaml").write_text(yaml.safe_dump(OTHER))
    plan = planned(data={"shapes": SHAPES, "coco": "coco.yaml"}, folds=[0], shots=[1], points=["dense"])
    assert [(r.config, r.dataset, r.training.train_dataset) for r in plan.runs] == [
        ("guided (shapes)", "shapes5i", "shapes5i"),
        ("fgbg (shapes)", "shapes5i", "shapes5i"),
        ("guided (coco)", "shapes-coco", "shapes-coco"),
        ("fgbg (coco)", "shapes-coco", "shapes-coco"),
    ]
    assert [r.options["size"] for r in plan.runs] == [48, 48, 64, 64]
    one = plan.trainings[0]
    assert (one.train_task, one.train_protocol) == ("semantic", "clean")
    alone = planned(data=SHAPES, folds=[0], shots=[1], points=["dense"])
    assert [one.id for one in alone.trainings] == [one.id for one in plan.trainings[:2]]
    named = planned(data={"shapes": SHAPES}, folds=[0], shots=[1], points=["dense"])
    assert [run.id for run in named.runs] == [run.id for run in alone.runs]
    config = benchmark.self_contained(tmp_path / "grid.yaml")
    assert config["data"] == {"shapes": SHAPES}


def test_a_transfer_matrix(planned, write):
    """Each of 2 trainings is tested on both data sets, by their names."""
    changes = {
        "data": {"shapes": SHAPES, "coco": OTHER},
        "methods": {"guided": {"config": GUIDED}},
        "tests": [{"data": "shapes"}, {"data": "coco"}],
    }
    plan = planned(**changes, folds=[0], shots=[1], points=["dense"])
    matrix = {(r.training.train_dataset, r.dataset, r.options["size"]) for r in plan.runs}
    sizes = {"shapes5i": 48, "shapes-coco": 64}
    assert matrix == {(a, b, sizes[b]) for a in sizes for b in sizes}
    again = write(**benchmark.self_contained(write(**changes, folds=[0], shots=[1], points=["dense"])))
    assert [run.id for run in benchmark.plan(again).runs] == [run.id for run in plan.runs]


def test_data_by_name_is_left_out_and_added(planned):
    data = {"shapes": SHAPES, "coco": OTHER}
    plan = planned(data=data, folds=[0, 1], shots=[1], points=[1], exclude=[{"data": "coco", "folds": 1}])
    assert {(r.config, r.training.fold) for r in plan.runs if "coco" in r.config} == {
        ("guided (coco)", 0),
        ("fgbg (coco)", 0),
    }


# ----------------------------------------------------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"grid": ["model.lr"]}, r"grid: got \['model.lr'\], expected a mapping from options to lists"),
        (
            {"grid": {"modle.lr": [1]}},
            "grid.modle.lr: got an option of no section, expected .*model., data., training.",
        ),
        ({"grid": {"lr": [1]}}, "grid.lr: got an option of no section"),
        ({"grid": {"model.lr": 0.1}}, "grid.model.lr: got 0.1, expected a list"),
        ({"grid": {"model.lr": []}}, r"grid.model.lr: got \[\], expected a list"),
        ({"grid": {"model.lr": [1, 1]}}, "expected every value once"),
        (
            {"grid": {"data.size.x": [1, 2]}},
            "grid.data.size.x: got an option inside of 48, expected one inside of a map",
        ),
        ({"grid": {"trainer.val_check_interval": [1, 2]}}, "grid.trainer.val_check_interval: .*training.validations"),
        ({"grid": {"trainer.logger.init_args.name": ["a"]}}, "grid.trainer.logger: got an option that the benchmark"),
        ({"grid": {"trainer.max_steps": [1, 2]}}, "expected training.max_steps"),
        ({"grid": {"training.validations": ["x"]}}, "grid.training.validations: got x, expected whole numbers from 0"),
        ({"grid": {"training.batch_size": [2, 0]}}, "grid.training.batch_size: got 0, expected whole numbers from 1"),
        ({"grid": {"data.fold": [1]}}, "grid.data.fold: got an option with a key of its own, expected folds"),
        ({"grid": {"data.batch_size": [1]}}, "expected training.batch_size"),
        ({"grid": {"data.num_workers": [1, 2]}}, "an option that changes no number"),
        ({"grid": {"training.max_step": [1]}}, "grid.training.max_step: got an unknown key"),
        ({"grid": {"training.max_steps": ["x"]}}, "grid.training.max_steps: got x, expected whole numbers from 0"),
        ({"exclude": {"folds": 1}}, "exclude: got .*expected a list of mappings"),
        ({"exclude": [{}]}, r"exclude\[0\]: got {}, expected a mapping"),
        ({"exclude": [{"fold": 1}]}, r"exclude\[0\].fold: got an unknown key, expected one of .*folds"),
        ({"exclude": [{"model.lr": 1}]}, r"exclude\[0\].model.lr: got an unknown key"),
        ({"exclude": [{"methods": "panet"}]}, r"exclude\[0\].methods: got panet, expected one of guided, fgbg"),
        ({"exclude": [{"folds": [1, 3]}]}, r"exclude\[0\].folds: got 3, expected one of 0, 1"),
        ({"exclude": [{"points": 5}]}, r"exclude\[0\].points: got 5, expected one of 1, dense"),
        ({"exclude": [{"folds": []}]}, r"exclude\[0\].folds: got \[\], expected a value"),
        ({"exclude": [{"methods": ["guided", "fgbg"]}]}, "exclude: got all of the grid"),
        (
            {
                "exclude": [{"methods": "fgbg", "data.n_clicks": 2, "protocol": "clean"}],
                "grid": {"data.n_clicks": [2, 3]},
                "protocol": "interactive",
                "tests": [ROBOT, {"protocol": "clean"}],
            },
            r"exclude\[0\]: got methods fgbg; data.n_clicks 2; protocol clean, expected a part.*leaves nothing out",
        ),
        ({"include": [{"folds": 0}]}, r"include\[0\]: got what the grid has already"),
        ({"include": [{"methods": "panet"}]}, r"include\[0\].methods: got panet, expected one of guided, fgbg"),
        ({"include": [{"folds": 7}]}, "folds: got 7, expected folds from 0 to 3"),
        ({"include": [{"seeds": "x"}]}, r"include\[0\].seeds: got .*expected whole numbers"),
        ({"include": [{"shots": -1}]}, "shots: got"),
        ({"include": [{"points": "sparse"}]}, "points: got sparse"),
        ({"include": [{"protocol": "cleen"}]}, "include.protocol: got cleen"),
        ({"include": [{"tests": 1}]}, r"include\[0\].tests: got an unknown key"),
        ({"data": {"dataset": SMALL, "size": 48}}, "data.dataset: got a config without the key data"),
        ({"data": {"shapes": SHAPES, "size": 48}}, "data.size: got 48, expected a data config"),
        ({"data": {**SHAPES, "trainer": {"devices": 2}}}, "guided: trainer: got {'devices': 2}, expected one device"),
        ({"data": {**SHAPES, "trainer": {"strategy": "ddp"}}}, "trainer: got {'strategy': 'ddp'}, expected one device"),
        ({"data": {**SHAPES, "trainer": {"num_nodes": 2}}}, "trainer: got {'num_nodes': 2}, expected one device"),
        (
            {"compare": "fgbg", "grid": {"model.lr": [1, 2]}},
            "compare: got fgbg, expected one of guided lr=1, guided lr",
        ),
        (
            {
                "methods": {"g": {"config": GUIDED, "variants": {"+r": {"data": {"refine": "features"}}}}},
                "grid": {"data.refine": [None, "image"]},
            },
            r"grid.data.refine: got an option that the variant g\+r sets",
        ),
        (
            {
                "methods": {"g": {"config": GUIDED, "variants": {"+s": {"repeat": {"a": [3, 4]}}}}},
                "include": [{"seeds": 1}],
            },
            "seeds: got .*expected one seed",
        ),
    ],
)
def test_wrong_grids_are_refused_in_one_line(planned, changes, message):
    with pytest.raises(FewsegError, match=message) as error:
        planned(**changes)
    assert "\n" not in str(error.value)


PRETRAINING = {"config": {"model": {"class_path": "EncoderPretraining"}}, "max_steps": 3}
OWN_KEYS = {
    "fold": "folds",
    "seed": "seeds",
    "n_shot": "shots",
    "n_points": "points",
    "protocol": "tests",
    "n_episodes": "n_episodes",
    "batch_size": "training.batch_size",
    "n_val_episodes": "training.n_val_episodes",
}


def guided(**changes):
    return {"methods": {"guided": {"config": GUIDED, **changes}}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training": 5}, "yaml: training: got 5, expected a mapping"),
        ({"training": [5]}, r"yaml: training: got \[5\], expected a mapping"),
        ({"pretraining": 5}, "yaml: pretraining: got 5, expected a mapping"),
        ({"pretraining": [PRETRAINING]}, "yaml: pretraining: got .*expected a mapping"),
        ({"pretraining": {**PRETRAINING, "max_steps": "x"}}, "pretraining.max_steps: got x, expected whole numbers"),
        ({"pretraining": {**PRETRAINING, "batch_size": 0}}, "pretraining.batch_size: got 0, expected whole numbers"),
        ({"pretraining": {**PRETRAINING, "config": 5}}, "pretraining.config: got 5, expected a model config"),
        ({"pretraining": {**PRETRAINING, "data": 5}}, "pretraining.data: got 5, expected a mapping"),
        (
            {"pretraining": {**PRETRAINING, "data": {"batch_size": 2}}},
            "data.batch_size: .*expected pretraining.batch_si",
        ),
        (
            {"pretraining": {**PRETRAINING, "config": {**FGBG, "seed": 1}}},
            "pretraining.config.seed: got an unknown key",
        ),
        ({"methods": {5: {"config": GUIDED}}}, "methods.5: got 5, expected a name"),
        ({"methods": {True: {"config": GUIDED}}}, "methods.True: got True, expected a name"),
        ({"methods": {"guided": None}}, "methods.guided.config: got None, expected a model config"),
        ({"data": {5: SHAPES, "other": OTHER}}, "data.5: got 5, expected a name"),
        ({"data": {"data": {**SHAPES["data"], "dataset": 5}}}, "data.dataset: got 5, expected one of"),
        (guided(model=5), "methods.guided.model: got 5, expected a mapping"),
        (guided(data=["size"]), "methods.guided.data: got .*expected a mapping"),
        (guided(training=5), "methods.guided.training: got 5, expected a mapping"),
        (guided(training={"validations": -1}), "guided.training.validations: got -1, expected whole numbers from 0"),
        ({"n_episodes": "x"}, "yaml: n_episodes: got x, expected whole numbers from 1"),
        ({"n_episodes": 0}, "yaml: n_episodes: got 0, expected whole numbers from 1"),
        ({"tests": [{"n_episodes": "x"}]}, r"tests\[0\]: n_episodes: got x"),
        ({"training": {"max_steps": 3, "validations": "x"}}, "training.validations: got x, expected whole numbers"),
        ({"training": {"max_steps": 3, "validations": -1}}, "training.validations: got -1, expected whole numbers"),
        (
            {"training": {"max_steps": 3, "batch_size": "x"}},
            "training.batch_size: got x, expected whole numbers from 1",
        ),
        ({"training": {"max_steps": True}}, "training.max_steps: got True, expected whole numbers"),
        ({"training": {"batch_size": 2}}, "training.max_steps: got None, expected whole numbers"),
        ({"seeds": ["a"]}, "yaml: seeds: got a, expected whole numbers"),
        ({"seeds": [-1]}, "yaml: seeds: got -1, expected whole numbers"),
        ({"seeds": [0.5]}, "yaml: seeds: got 0.5, expected whole numbers"),
        ({"seeds": [0, 0]}, r"yaml: seeds: got \[0, 0\], expected every value once; remove the other"),
        ({"folds": [True]}, "yaml: folds: got True, expected folds from 0 to 3"),
        ({"shots": [True]}, "yaml: shots: got True, expected whole numbers"),
        ({"points": [True]}, "yaml: points: got True, expected positive counts"),
        ({"include": [{"shots": [True]}]}, r"include\[0\].shots: got True, expected whole numbers"),
        ({"include": [{"seeds": -1}]}, r"include\[0\].seeds: got -1, expected whole numbers"),
    ],
)
def test_wrong_values_are_refused_in_one_line(planned, changes, message):
    with pytest.raises(FewsegError, match=message) as error:
        planned(**changes)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("option", "key"), OWN_KEYS.items())
def test_options_with_keys_of_their_own_are_written_there(planned, option, key):
    with pytest.raises(FewsegError, match=f"methods.guided.data.{option}: .*expected {key}; write it there"):
        planned(**guided(data={option: 1}))


@pytest.mark.parametrize("place", ["data", "methods.guided.config", "pretraining.config"])
@pytest.mark.parametrize(
    ("option", "wanted"),
    [
        ("val_check_interval", "training.validations; write it there"),
        ("check_val_every_n_epoch", "training.validations; write it there"),
        ("limit_val_batches", "training.validations; write it there"),
        ("num_sanity_val_steps", "training.validations; write it there"),
        ("max_epochs", "training.max_steps; write it there"),
        *((name, "remove it") for name in ("callbacks", "logger", "enable_checkpointing", "enable_model_summary")),
        *((name, "remove it") for name in ("enable_progress_bar", "use_distributed_sampler", "default_root_dir")),
    ],
)
def test_options_of_the_trainer_that_a_benchmark_sets_are_refused(planned, place, option, wanted):
    trainer = {"trainer": {option: 1}}
    changes = {
        "data": {"data": {**SHAPES, **trainer}},
        "methods.guided.config": {"methods": {"guided": {"config": {**GUIDED, **trainer}}}},
        "pretraining.config": {"pretraining": {**PRETRAINING, "config": {**PRETRAINING["config"], **trainer}}},
    }[place]
    with pytest.raises(FewsegError, match=rf"{place}.trainer.{option}: got an option that.*{wanted}"):
        planned(**changes)


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"data": {**SHAPES, "sise": 3}}, "data.sise"),
        ({"data": {**SHAPES, "model": FGBG["model"]}}, "data.model"),
        ({"data": {"a": {**SHAPES, "optimizer": {}}, "b": OTHER}}, "data.a.optimizer"),
        ({"methods": {"guided": {"config": {**GUIDED, "optimizer": {}}}}}, "methods.guided.config.optimizer"),
        (
            {"methods": {"guided": {"config": {**GUIDED, "seed_everything": 3}}}},
            "config.seed_everything: .*write seeds",
        ),
    ],
)
def test_unknown_keys_of_data_and_models_are_refused(planned, changes, where):
    with pytest.raises(FewsegError, match=f"{where}.*"):
        planned(**changes)


def test_unknown_keys_name_the_file_that_has_them(planned, tmp_path):
    (tmp_path / "fgbg.yaml").write_text(yaml.safe_dump({**FGBG, "optimiser": {}, "trainer": {"logger": False}}))
    with pytest.raises(
        FewsegError, match=r"fgbg.yaml: optimiser: got an unknown key, expected one of data, model, trai"
    ):
        planned(methods={"fgbg": "fgbg.yaml"})
    (tmp_path / "coco.yaml").write_text(yaml.safe_dump({**OTHER, "sise": 3}))
    with pytest.raises(FewsegError, match=r"coco.yaml: sise: got an unknown key, expected one of data, trainer"):
        planned(data="coco.yaml")
    with pytest.raises(FewsegError, match=r"coco.yaml: sise: got an unknown key, expected one of data, trainer"):
        planned(tests=[{"data": "coco.yaml"}])


def test_what_is_left_empty_is_not_given(planned):
    plain = planned(**guided())
    empty = guided(model=None, data=None, training=None, variants=None)
    assert [run.id for run in planned(**empty).runs] == [run.id for run in plain.runs]
    config = {"model": {**GUIDED["model"]}, "data": None, "trainer": None}
    again = planned(methods={"guided": {"config": config}}, data={**SHAPES, "trainer": None})
    assert [run.id for run in again.runs] == [run.id for run in plain.runs]
    assert planned(methods={"guided": {"config": {"model": {"class_path": "GuidedNet", "init_args": None}}}}).runs
    variants = planned(**guided(variants={"+x": None}), shots=[1], points=[1], folds=[0])
    assert configs(variants) == ["guided", "guided+x"]


def test_lengths_of_other_recipes_are_replaced(planned):
    """Files for ``fewseg fit`` say how long they train; the benchmark's budget holds for all."""
    config = {**GUIDED, "trainer": {"max_steps": 90000, "gradient_clip_val": 1.0}}
    (one, *_) = planned(methods={"guided": {"config": config}}).trainings
    assert (one.max_steps, one.config["trainer"]["gradient_clip_val"]) == (10, 1.0)


def test_an_unknown_option_is_refused_before_anything_runs(write, tmp_path):
    with pytest.raises(FewsegError, match=r"GuidedNet\.lrr"):
        benchmark.execute(write(grid={"model.lrr": [1, 2]}), tmp_path / "out")
    with pytest.raises(FewsegError, match=r"FewShotDataModule\.sise"):
        benchmark.execute(write(grid={"data.sise": [48, 64]}), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_value_that_is_a_list_is_one_value(write):
    path = write(grid={"model.taps": [[1, 2], [2]]}, exclude=[{"model.taps": [1, 2]}])
    assert read_options(path, yaml.safe_load(path.read_text())) == {"model.taps": [[1, 2], [2]]}
    assert configs(benchmark.plan(path)) == ["guided", "fgbg"]
    assert in_short([1, [2, None]]) == "[1,[2,null]]"


# ---------------------------------------------------------------------------------------------------------- estimates


@pytest.fixture(autouse=True)
def own_timings(tmp_path, monkeypatch):
    """A memory of its own, whatever has run here."""
    monkeypatch.setattr(timings, "cache_dir", lambda: tmp_path / "cache")
    monkeypatch.setattr(timings, "gpus", lambda: [])


def done(out, plan, trainings=(), runs=(), device="x86_64 CPU, 1 thread(s)", per_step=2.0, per_episode=3.0):
    """Leaves what finished trainings and runs leave."""
    for one in trainings:
        results.write_json(
            out / "trainings" / one.id / "metrics.json", {"device": device, "seconds_train": per_step * one.max_steps}
        )
    for run in runs:
        figures = {"device": device, "seconds_evaluation": per_episode * run.n_episodes}
        results.write_json(out / run.id / "metrics.json", figures)


def test_an_estimate_from_what_is_done(planned, tmp_path):
    """guided took 2 s a step and 3 s an episode: 10 steps and 4 x 5 episodes make 80 s a fold."""
    plan, out = planned(methods={"guided": {"config": GUIDED}}, folds=[0, 1, 2]), tmp_path / "out"
    assert estimate(plan, out, 1).in_words() == "no estimate: nothing like it has run here yet"
    first = plan.trainings[0]
    done(out, plan, [first], [run for run in plan.runs if run.training is first])
    assert {run.n_episodes for run in plan.runs} == {5}
    assert estimate(plan, out, 1) == Estimate(2 * 80.0, 1, 2, 2, 8, 8, True)
    assert estimate(plan, out, 2).seconds == 80.0
    assert estimate(plan, out, 2).in_words() == "about 80 s with 2 workers (2 of 2 trainings and 8 of 8 runs measured)"
    done(out, plan, plan.trainings, plan.runs)
    assert estimate(plan, out).in_words() == "nothing is left to do"


def test_guesses_from_the_class_then_from_all(planned, tmp_path):
    out = tmp_path / "out"
    methods = {"a": {"config": GUIDED}, "b": {"config": GUIDED, "model": {"lr": 1}}, "fgbg": {"config": FGBG}}
    plan = planned(methods=methods, folds=[0], shots=[1], points=[1])
    a, _, fgbg = plan.trainings
    done(out, plan, [a], per_step=2.0)
    found = estimate(plan, out, 1)
    assert (found.seconds, found.trainings, found.trainings_measured) == (2 * 10 + 2 * 10, 2, 0)
    told = "at least 40 s with 1 worker (0 of 2 trainings and 0 of 3 runs measured, the others are guesses)"
    assert found.in_words() == told
    done(out, plan, [fgbg], per_step=8.0)
    assert estimate(plan, out, 1).seconds == 2 * 10  # b, as a of its class
    other = planned(methods={"panet": {"config": {"model": {"class_path": "PANet"}}}}, folds=[0], shots=[1], points=[1])
    timings.record(plan, out)
    assert estimate(other, tmp_path / "elsewhere", 1).seconds == 5 * 10  # the mean of both classes
    done(out, plan, [], plan.runs[:1], per_episode=3.0)
    assert estimate(plan, out, 1).seconds == 2 * 10 + 2 * 5 * 3.0
    assert estimate(plan, out, 1).whole


def test_the_memory_outlives_the_folder_and_knows_devices(planned, tmp_path):
    plan = planned(methods={"guided": {"config": GUIDED}}, folds=[0])
    done(tmp_path / "gpu", plan, plan.trainings, plan.runs, device="NVIDIA H200", per_step=0.1)
    timings.record(plan, tmp_path / "gpu")
    assert estimate(plan, tmp_path / "new", 1).seconds is None
    done(tmp_path / "cpu", plan, plan.trainings, plan.runs)
    timings.record(plan, tmp_path / "cpu")
    assert estimate(plan, tmp_path / "new", 1).seconds == 80.0
    longer = planned(
        methods={"guided": {"config": GUIDED}},
        folds=[3],
        n_episodes=9,
        training={**SIMPLE["training"], "max_steps": 20},
    )
    assert estimate(longer, tmp_path / "new", 1) == Estimate(20 * 2.0 + 4 * 9 * 3.0, 1, 1, 1, 4, 4, True)
    (tmp_path / "cache" / timings.FILE).write_text('[["step"]]')
    assert estimate(plan, tmp_path / "new", 1).seconds is None
    timings.record(plan, tmp_path / "cpu")
    assert estimate(plan, tmp_path / "new", 1).seconds == 80.0


def test_what_was_not_measured_is_not_kept(planned, tmp_path):
    """Nobody's device, or no time: but a method that learns nothing takes none."""
    plan, out = planned(methods={"guided": {"config": GUIDED}}, folds=[0]), tmp_path / "out"
    (one,), run = plan.trainings, plan.runs[0]
    place, figures = out / "trainings" / one.id / "metrics.json", {"device": "x86_64 CPU, 1 thread(s)"}
    for seconds in ({"seconds_train": 20.0}, {**figures, "seconds_train": 0.0}, {**figures, "seconds_train": -1.0}):
        results.write_json(place, seconds)
        assert not list(timings.measured(plan, out))
    results.write_json(place, {**figures, "seconds_train": 0.0, "n_trained_parameters": 0})
    assert [seconds for _, seconds in timings.measured(plan, out)] == [0.0]
    results.write_json(place, {**figures, "seconds_train": 20.0, "n_trained_parameters": 0})
    for seconds in ({"seconds_evaluation": 20.0}, {**figures, "seconds_evaluation": 0.0}):
        results.write_json(out / run.id / "metrics.json", seconds)
        assert [seconds for _, seconds in timings.measured(plan, out)] == [2.0]
    timings.record(plan, out)
    assert [seconds for *_, seconds in json.loads((tmp_path / "cache" / timings.FILE).read_text())] == [2.0]


def test_times_are_those_of_the_device_that_figures_name(planned, tmp_path, monkeypatch):
    """A cluster's GPU is not that of this machine: what it took is a guess here."""
    plan = planned(methods={"guided": {"config": GUIDED}}, folds=[0])
    monkeypatch.setattr(timings, "gpus", lambda: ["0"])
    monkeypatch.setattr(timings, "gpu_name", lambda: "NVIDIA T4")
    plan = dataclasses.replace(
        plan,
        trainings=tuple(
            dataclasses.replace(t, config={**t.config, "trainer": {"max_steps": 10}}) for t in plan.trainings
        ),
    )
    plan = dataclasses.replace(plan, runs=tuple(dataclasses.replace(r, training=plan.trainings[0]) for r in plan.runs))
    done(tmp_path / "far", plan, plan.trainings, plan.runs, device="NVIDIA H200", per_step=0.1)
    timings.record(plan, tmp_path / "far")
    assert {place.device for place in timings.read().known} == {"NVIDIA H200"}
    assert estimate(plan, tmp_path / "new", 1) == Estimate(10 * 0.1 + 4 * 5 * 3.0, 1, 1, 0, 4, 0, True)
    done(tmp_path / "near", plan, plan.trainings, plan.runs, device="NVIDIA T4", per_step=0.5, per_episode=4.0)
    timings.record(plan, tmp_path / "near")
    assert estimate(plan, tmp_path / "new", 1) == Estimate(10 * 0.5 + 4 * 5 * 4.0, 1, 1, 1, 4, 4, True)


def test_trainings_without_a_step_take_no_time_and_are_no_guess(planned, tmp_path):
    budget = {"max_steps": 0, "batch_size": 2}
    plan, out = planned(methods={"guided": {"config": GUIDED}}, folds=[0, 1], training=budget), tmp_path / "out"
    assert estimate(plan, out, 1) == Estimate(None, 1, 2, 2, 8, 0, False)
    done(out, plan, runs=plan.runs[:4])
    assert estimate(plan, out, 1) == Estimate(4 * 5 * 3.0, 1, 2, 2, 4, 4, True)
    assert estimate(plan, out, 1).in_words() == "about 60 s with 1 worker (2 of 2 trainings and 4 of 4 runs measured)"


def test_the_workers_of_a_cluster_are_not_known(planned, tmp_path):
    plan, out = planned(methods={"guided": {"config": GUIDED}}, folds=[0, 1, 2]), tmp_path / "out"
    said = [benchmark.describe(plan, out, None, cluster=True).splitlines()[1]]
    done(out, plan, plan.trainings[:1], plan.runs[:4])
    said += [benchmark.describe(plan, out, n, cluster=True).splitlines()[1] for n in (None, 2)]
    done(out, plan, plan.trainings, plan.runs)
    said += [benchmark.describe(plan, out, None, cluster=True).splitlines()[1]]
    measured = "(2 of 2 trainings and 8 of 8 runs measured)"
    assert said == [
        "time: no estimate: nothing like it has run here yet",
        f"time: about 3 min with 1 worker {measured}; how many workers the cluster has is not known here",
        f"time: about 80 s with 2 workers {measured}",
        "time: nothing is left to do",
    ]


def test_a_cache_that_cannot_be_written_stops_nothing(planned, tmp_path):
    plan = planned(folds=[0])
    (tmp_path / "cache").write_text("a file")
    done(tmp_path / "out", plan, plan.trainings)
    timings.record(plan, tmp_path / "out")
    assert (tmp_path / "cache").read_text() == "a file"


def test_no_workers_are_refused(planned, tmp_path):
    with pytest.raises(FewsegError, match="--workers: got 0"):
        estimate(planned(folds=[0]), tmp_path, 0)


# ------------------------------------------------------------------------------------------------------- command line


def test_the_dry_run_is_readable(write, tmp_path, capsys):
    path, out = (
        write(methods={"guided": {"config": GUIDED}}, shots=[1, 2, 3], grid={"model.lr": [0.1, 0.2]}),
        tmp_path / "o",
    )
    plan = benchmark.plan(path)
    done(out, plan, plan.trainings[:1], [r for r in plan.runs if r.training is plan.trainings[0]][:2])
    assert main(["benchmark", str(path), "--out", str(out), "--dry-run", "--workers", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"4 trainings, 24 runs in {out}; done: 1 trainings, 2 runs"
    # left are 4 x 15 s on the first worker, then 20 + 6 x 15 s three times: the second ends after two of them
    told = "1 of 3 trainings and 2 of 22 runs measured, the others are guesses"
    assert lines[1] == f"time: about 4 min with 2 workers ({told})"
    assert lines[2:4] == [
        f"  training {plan.trainings[0].id} (guided lr=0.1): 10 steps, done",
        "    6 runs guided lr=0.1 on shapes5i, clean: K 1, 2, 3 with P 1, dense: 2 done",
    ]
    assert lines[-1] == "    6 runs guided lr=0.2 on shapes5i, clean: K 1, 2, 3 with P 1, dense: to do"
    assert len(lines) == 2 + 4 * 2


def test_few_runs_are_listed_one_by_one_and_odd_settings_are_told(planned, tmp_path):
    plan = planned(methods={"guided": {"config": GUIDED}}, folds=[0])
    said = benchmark.describe(plan, tmp_path).splitlines()
    assert said[3:] == [f"    run {run.id}: to do" for run in plan.runs]
    odd = planned(methods={"guided": {"config": GUIDED}}, folds=[0], include=[{"shots": 4, "points": "dense"}])
    said = benchmark.describe(odd, tmp_path).splitlines()
    assert said[3:] == ["    5 runs guided on shapes5i, clean: K 1, 2 with P 1, dense; K 4 with P dense: to do"]


def test_the_command_line_plans_a_grid_without_torch(write, tmp_path):
    path = write(grid={"model.lr": [0.1, 0.2]}, exclude=[{"methods": "fgbg", "model.lr": 0.2}])
    code = "import sys; from fewseg.cli import main; s = main(sys.argv[1:]); print(s, 'torch' in sys.modules)"
    call = [sys.executable, "-c", code, "benchmark", str(path), "--out", str(tmp_path / "out"), "--dry-run"]
    ended = subprocess.run(call, capture_output=True, text=True, check=True)
    assert ended.stdout.startswith("6 trainings, 24 runs")
    assert ended.stdout.splitlines()[-1] == "0 False"


def test_options_of_executors(write, tmp_path, capsys):
    call = ["benchmark", str(write()), "--out", str(tmp_path / "out")]
    assert main([*call, "--executor", "slurm"]) == 2
    assert "--executor: got slurm, expected one of local, ray" in capsys.readouterr().err
    assert main([*call, "--ray-address", "auto"]) == 2
    assert "--ray-address: got auto, expected --executor ray" in capsys.readouterr().err
    assert main([*call, "--dry-run", "--workers", "0"]) == 2
    assert "--workers: got 0" in capsys.readouterr().err
    assert main([*call, "--dry-run", "--ray-address", "auto"]) == 2
    assert "--ray-address: got auto, expected --executor ray" in capsys.readouterr().err
    assert main([*call, "--dry-run", "--executor", "ray", "--ray-address", "auto"]) == 0
    assert main([*call, "--dry-run", "--executor", "ray"]) == 0
