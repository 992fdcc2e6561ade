"""The grid: planning, sharing of trainings, resuming after SIGKILL, and what is refused."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

import fewseg
from fewseg import benchmark, results
from fewseg.datamodules import FewShotDataModule
from fewseg.errors import FewsegError
from fewseg.functional.run_figures import score
from fewseg.models.create import check_arguments, class_named

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
CONF = Path(__file__).parent / "conf"
SMALL = {"class_path": "Shapes5i", "init_args": {"n_train": 300, "n_val": 80}}
VOLATILE = {"device", "versions", "run"}


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    """A folder with a benchmark file that two methods finish in seconds."""
    folder = tmp_path_factory.mktemp("grid")
    data = {"dataset": SMALL, "size": 48, "cache": "images", "eval_batch_size": 4}
    (folder / "data.yaml").write_text(yaml.safe_dump({"data": data, "trainer": {"accelerator": "cpu"}}))
    for name in ("guided", "fgbg", "pretraining"):
        (folder / f"{name}.yaml").write_text((EXPERIMENTS / "models" / f"{name}.yaml").read_text())
    config = {
        "data": "data.yaml",
        "methods": {"guided": "guided.yaml", "fgbg": "fgbg.yaml"},
        "folds": [0, 1],
        "shots": [1, 2],
        "points": [1, "dense"],
        "n_episodes": 5,
        "pretraining": {"config": "pretraining.yaml", "max_steps": 6, "batch_size": 2},
        "training": {"max_steps": 30, "batch_size": 2, "validations": 2, "n_val_episodes": 4},
    }
    path = folder / "grid.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def changed(grid, **changes):
    config = yaml.safe_load(grid.read_text())
    path = grid.with_name(f"{results.content_id({'c': repr(changes)})}.yaml")
    path.write_text(yaml.safe_dump({**config, **changes}))
    return path


def stable(rows):
    return [{k: v for k, v in row.items() if k not in VOLATILE and not k.startswith("seconds")} for row in rows]


def start(grid, out):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "fewseg.cli", "benchmark", str(grid), "--out", str(out), "--workers", "2"]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def children(pid, patience=3.0):
    """Workers of a dead process that are still there after a while: found by the parent's id that they were given."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        left = [p for p in WORKERS.get(pid, ()) if Path(f"/proc/{p}").is_dir() and "Z" not in state(p)]
        if not left:
            return []
        time.sleep(0.1)
    return left


WORKERS: dict[int, list[int]] = {}


def state(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


def note_workers(pid):
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError):
            if int(stat.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(stat.parent.name))
    WORKERS[pid] = found


def test_one_training_serves_all_shots_and_points(grid):
    plan = benchmark.plan(grid)
    assert len(plan.trainings) == 2 * 2
    assert len(plan.pretrainings) == 2
    assert len(plan.runs) == len(plan.trainings) * 4
    assert len({run.id for run in plan.runs}) == len(plan.runs)
    other = benchmark.plan(changed(grid, shots=[3], points=[2], n_episodes=3))
    assert [one.id for one in other.trainings] == [one.id for one in plan.trainings]
    assert not {run.id for run in other.runs} & {run.id for run in plan.runs}


def test_ids_hash_what_changes_numbers_and_nothing_else(grid, tmp_path):
    plan = benchmark.plan(grid)
    data = yaml.safe_load((grid.parent / "data.yaml").read_text())
    data["data"] |= {"num_workers": 3, "pin_memory": True, "eval_batch_size": 2}
    (grid.parent / "other.yaml").write_text(yaml.safe_dump(data))
    same = benchmark.plan(changed(grid, data="other.yaml"))
    assert [run.id for run in same.runs] == [run.id for run in plan.runs]
    budget = yaml.safe_load(grid.read_text())["training"]
    longer = benchmark.plan(changed(grid, training={**budget, "max_steps": 31}))
    assert not {one.id for one in longer.trainings} & {one.id for one in plan.trainings}
    assert [one.id for one in longer.pretrainings] == [one.id for one in plan.pretrainings]


def test_planning_imports_no_torch(grid):
    code = (
        f"from fewseg.cli import main; import sys; main(['benchmark', {str(grid)!r}, '--out', 'x', '--dry-run']); "
        "print([m for m in ('torch', 'pytorch_lightning', 'plotly', 'wandb') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[0].startswith("6 trainings, 16 runs")
    assert done.stdout.splitlines()[-1] == "[]"


def killed_when(grid, out, ready):
    """Starts a benchmark and kills it as soon as something is there; its workers end with it."""
    process = start(grid, out)
    deadline = time.monotonic() + 200
    while not ready() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    note_workers(process.pid)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "the kill landed"
    assert not children(process.pid), "a worker outlived the benchmark"


def test_a_killed_benchmark_resumes_to_the_same_summary(grid, tmp_path):
    """Real training is killed twice: within it, and between two evaluations."""
    small = changed(grid, folds=[0])
    undisturbed, out = tmp_path / "undisturbed", tmp_path / "killed"
    assert benchmark.execute(small, undisturbed, workers=2) == 0
    rows = json.loads((undisturbed / "summary.json").read_text())
    assert len(rows) == 8

    def methods(name):
        found = out.glob(f"trainings/*/{name}")
        return [path for path in found if "pretraining-" not in str(path.relative_to(out))]

    killed_when(small, out, lambda: methods("checkpoint/last.ckpt"))
    assert not list(out.glob("*-k*/metrics.json")), "in the middle of the trainings"
    assert len(methods("metrics.json")) < 2
    trained = {path: path.stat().st_mtime_ns for path in out.glob("trainings/*/metrics.json")}

    killed_when(small, out, lambda: list(out.glob("*-k*/metrics.json")))
    finished = {path: path.stat().st_mtime_ns for path in out.glob("*-k*/metrics.json")}
    assert 0 < len(finished) < 8, "in the middle of the evaluations"
    late = set(out.glob("*-k*/metrics.json")) - set(finished)
    assert len(late) <= 2, "workers went on after the kill"  # one each may have been between its last two writes

    second = start(small, out)
    text, errors = second.communicate(timeout=300)
    assert second.returncode == 0, errors
    assert "report:" in text
    kept = {**trained, **finished}
    assert all(path.stat().st_mtime_ns == before for path, before in kept.items()), "something finished was repeated"
    assert stable(json.loads((out / "summary.json").read_text())) == stable(rows)

    again = start(small, out)
    text, errors = again.communicate(timeout=100)
    assert again.returncode == 0, errors
    assert stable(json.loads((out / "summary.json").read_text())) == stable(rows)
    for row in rows:
        assert (undisturbed / "episodes" / f"{row['episode_list_sha256']}.jsonl").is_file()


def test_one_folder_serves_one_benchmark_at_a_time(grid, tmp_path):
    with (
        benchmark.engine.locked(tmp_path),
        pytest.raises(FewsegError, match="no other benchmark"),
        benchmark.engine.locked(tmp_path),
    ):
        pass


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"fold": [0]}, "fold: got an unknown key"),
        ({"training": {"max_step": 3}}, "training.max_step: got an unknown key"),
        ({"methods": {"guided": {"config": "guided.yaml", "modle": {}}}}, "methods.guided.modle: got an unknown key"),
        ({"methods": {"guided": {"config": "guided.yaml", "model": {"widht": 3}}}}, "GuidedNet.widht"),
        ({"methods": {"guided": {"config": "guided.yaml", "data": {"sise": 3}}}}, "FewShotDataModule.sise"),
        ({"methods": {"guided": {"config": {"modle": {}}}}}, "without model.class_path"),
        ({"methods": ["guided.yaml"]}, "methods: got list"),
        ({"pretraining": {"max_steps": 3}}, "pretraining.config: got nothing"),
        ({"shots": [500]}, "n_shot: got 500"),
        ({"methods": {"guided": "guidde.yaml"}}, "guidde.yaml: got No such file"),
        ({"folds": [4]}, "folds: got 4, expected folds from 0 to 3"),
        ({"points": ["sparse"]}, "points: got sparse, expected positive counts or 'dense'"),
        ({"shots": []}, "shots: got \\[\\], expected a list"),
        ({"protocol": "cleen"}, "cleen"),
        ({"training": {}}, "training: got nothing"),
    ],
)
def test_a_wrong_file_is_refused_before_anything_runs(grid, tmp_path, changes, says):
    with pytest.raises(FewsegError, match=says):
        benchmark.execute(changed(grid, **changes), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_check_reads_a_data_set_once_and_no_seed_twice(grid, monkeypatch):
    plan, read, drawn = benchmark.plan(changed(grid, seeds=[0, 1, 2])), [], []
    made, sampler = benchmark.runner.dataset_of, FewShotDataModule.training_sampler
    monkeypatch.setattr(benchmark.runner, "dataset_of", lambda *args: read.append(1) or made(*args))
    monkeypatch.setattr(FewShotDataModule, "training_sampler", lambda data: drawn.append(data.fold) or sampler(data))
    benchmark.LightningRunner().check(plan.runs, {one.id: one for one in plan.pretrainings})
    assert len(read) == 1
    assert sorted(drawn) == [0, 0, 0, 1, 1, 1], "two methods and the pre-training on each fold"


def test_an_unwritable_folder_is_refused(grid, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FewsegError, match="expected a folder that can be written"):
        benchmark.execute(grid, tmp_path / "file" / "out")


def test_a_failing_training_is_reported_and_the_others_go_on(grid, tmp_path, capsys):
    """Among them a method of somebody else, named by its import path."""
    methods = {
        "broken": {"config": "guided.yaml", "model": {"output_stride": 3}},
        "toy": str(CONF / "toy.yaml"),
        "fgbg": "fgbg.yaml",
    }
    small = {"max_steps": 3, "batch_size": 2}
    one = {"folds": [0], "shots": [1], "points": ["dense"]}
    path = changed(grid, methods=methods, pretraining=None, training=small, compare="fgbg", **one)
    assert benchmark.execute(path, tmp_path / "out", workers=2) == 1  # with one thread each
    said = capsys.readouterr()
    assert "output_stride: got 3" in said.err
    rows = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert {(row["config"], row["method"]) for row in rows} == {("toy", "Toy"), ("fgbg", "FgBg")}


def test_a_method_may_have_a_budget_of_its_own(grid):
    methods = {"guided": {"config": "guided.yaml", "training": {"max_steps": 7}}, "fgbg": "fgbg.yaml"}
    steps = {one.name: one.max_steps for one in benchmark.plan(changed(grid, methods=methods)).trainings}
    assert steps == {"guided": 7, "fgbg": 30}


AJ = {"data": {"refine": "features", "refine_from": 1}}


def interactive(grid, **changes):
    """One training a fold that clicks, tested on objects and on classes."""
    tests = [
        {"protocol": "interactive", "shots": [0, 1], "points": ["dense"], "data": {"n_clicks": 3}},
        {"protocol": "interactive-points", "shots": [0], "points": [1, "dense"]},
        {"protocol": "clean", "n_episodes": 7},
    ]
    methods = {"guided": {"config": "guided.yaml", "variants": {"+AJ": AJ}}, "fgbg": "fgbg.yaml"}
    common = {"pretraining": None, "methods": methods, "points": [1], "protocol": "interactive", "tests": tests}
    return benchmark.plan(changed(grid, **{**common, **changes}))


def test_one_training_serves_several_tests_and_variants(grid):
    plan = interactive(grid)
    assert len(plan.trainings) == 2 * 2
    assert len({run.id for run in plan.runs}) == len(plan.runs)
    settings = [
        (run.data["protocol"], run.config, run.data["n_shot"], run.data["n_points"])
        for run in plan.runs
        if (run.training.name, run.training.fold) == ("guided", 0)
    ]
    robot, points = "interactive", "interactive-points"
    assert sorted(settings, key=str) == sorted(
        [
            *((robot, config, k, None) for config in ("guided", "guided+AJ") for k in (0, 1)),
            *((points, "guided", 0, p) for p in (1, None)),  # no robot: nothing to refine after its clicks
            *(("clean", "guided", k, 1) for k in (1, 2)),
        ],
        key=str,
    )
    refined = next(run for run in plan.runs if run.config == "guided+AJ")
    assert refined.options["refine"] == "features"
    assert refined.options["n_clicks"] == 3
    assert refined.options["size"] == 48
    assert {run.data["n_episodes"] for run in plan.runs} == {5, 7}
    assert {run.training.fold for run in plan.runs} == {run.data["fold"] for run in plan.runs} == {0, 1}


def test_options_of_test_time_are_hashed_into_runs_and_not_into_trainings(grid):
    plain = interactive(grid)
    robot = {"protocol": "interactive", "points": ["dense"]}

    def ids(**changes):
        plan = interactive(grid, **changes)
        return {one.id for one in plan.trainings}, {run.id for run in plan.runs}

    trainings, runs = ids(tests=[robot])
    assert trainings == {one.id for one in plain.trainings}
    others = [
        ids(tests=[{**robot, "data": {"n_clicks": 5}}]),
        ids(tests=[{**robot, "data": {"size": 64}}]),
        ids(tests=[robot], methods={"guided": {"config": "guided.yaml", "variants": {"": {"data": {"flip": True}}}}}),
        ids(tests=[robot], methods={"guided": {"config": "guided.yaml", "data": {"flip": True}}}),
    ]
    for other_trainings, other_runs in others:
        assert other_trainings <= trainings
        assert not other_runs & runs
    same = ids(tests=[{**robot, "data": {"num_workers": 2, "flip": False, "refine": None}}])
    assert same == (trainings, runs)
    semantic, _ = ids(protocol="clean", tests=[robot])
    assert not semantic & trainings  # training asks for classes and not for objects
    explicit, tested = ids(protocol="clean", data={"data": {**grid_data(grid), "train_episodes": "interactive"}})
    assert not explicit & (semantic | trainings)
    assert not tested & runs


def grid_data(grid):
    return yaml.safe_load((grid.parent / "data.yaml").read_text())["data"]


def test_a_point_that_a_network_lacks_is_refused_before_anything_is_written(grid, tmp_path):
    """Also of a method of somebody else, which takes no weights."""
    methods = {"toy": {"config": str(CONF / "toy.yaml"), "variants": {"+x": {"data": {"refine": "AJ"}}}}}
    tests = [{"protocol": "interactive", "shots": [1], "n_episodes": 2}]
    path = changed(grid, methods=methods, pretraining=None, folds=[0], protocol="interactive", tests=tests)
    with pytest.raises(FewsegError, match=r"methods.toy\+x: refine: got AJ, expected one of image, features for Toy"):
        benchmark.execute(path, tmp_path / "out", workers=1)
    assert not (tmp_path / "out").exists()


def test_a_variant_repeats_a_hyper_parameter(grid):
    variants = {"+seeds": {"model": {"steps": 3}, "repeat": {"seed": [4, 7]}}}
    methods = {"tuned": {"config": str(EXPERIMENTS / "models" / "fine-tune.yaml"), "variants": variants}}
    plan = interactive(
        grid, methods=methods, compare="tuned+seeds", folds=[0], tests=[{"protocol": "clean", "shots": [1]}]
    )
    assert [(run.config, run.seed, run.model) for run in plan.runs] == [
        ("tuned", 0, {}),
        ("tuned+seeds", 4, {"steps": 3, "seed": 4}),
        ("tuned+seeds", 7, {"steps": 3, "seed": 7}),
    ]
    assert len({run.id for run in plan.runs}) == 3
    assert [run.pictures for run in plan.runs] == [True, True, False]


def test_a_run_of_the_robot_can_be_scored_again_from_its_rows(grid, tmp_path):
    methods = {"guided": {"config": "guided.yaml", "variants": {"+AJ": AJ}}}
    tests = [{"protocol": "interactive", "shots": [0], "data": {"n_clicks": 3}}]
    training = {"max_steps": 0, "batch_size": 2}
    plan = interactive(grid, methods=methods, tests=tests, folds=[1], n_episodes=2, training=training)
    (one,) = plan.trainings
    benchmark.runner.train(one, tmp_path, lambda steps: None)
    for run in plan.runs:
        row = benchmark.runner.evaluate(run, tmp_path)
        frame = results.read_rows(tmp_path / run.id / "episodes.parquet")
        assert (row["task"], row["config"], row["fold"], row["n_folds"]) == ("interactive", run.config, 1, 4)
        assert (row["n_clicks"], len(row["iou_at"]), row["n_episodes"], row["n_shot"]) == (3, 3, 2, 0)
        assert row["seconds_per_click"] > row["seconds_network_per_click"] > 0
        again = score(frame, [f"c{i}" for i in range(20)], range(6, 11), n_clicks=3)
        names = ("miou", "positive_iou", "iou_at", "noc85", "over_limit90", "seconds_at", "ci95")
        assert {name: row[name] for name in names} == {name: again[name] for name in names}
        (index,) = (tmp_path / run.id / "pictures").glob("index.json")
        assert all(1 <= entry["clicks"] <= 3 for entry in json.loads(index.read_text()))
    refined = [results.read_rows(tmp_path / run.id / "episodes.parquet")["seconds_refine"].sum() for run in plan.runs]
    assert refined[1] > 10 * refined[0]


class Whole(fewseg.datasets.Shapes5i):
    """Without folds: every class is novel."""

    name, n_folds = "whole", 1


def test_a_data_set_of_one_fold_tests_the_trainings_of_all_folds(grid, monkeypatch):
    monkeypatch.setattr(fewseg.datasets, "Whole", Whole, raising=False)
    monkeypatch.setattr(fewseg.datasets, "__all__", [*fewseg.datasets.__all__, "Whole"])
    test = {"data": {"dataset": {**SMALL, "class_path": "Whole"}, "size": 64}, "shots": [1]}
    plan = interactive(grid, protocol="clean", methods={"fgbg": "fgbg.yaml"}, tests=[test, {}])
    whole, own = ([run for run in plan.runs if run.dataset == name] for name in ("whole", "shapes5i"))
    assert [run.training.fold for run in whole] == [0, 1]
    assert [run.options["fold"] for run in whole] == [0, 0]
    assert [run.options["size"] for run in whole] == [64, 64]
    assert {run.options["size"] for run in own} == {48}
    assert len(plan.trainings) == 2
    with pytest.raises(FewsegError, match=r"tests\[0\].folds: got 0 of shapes5i with 4"):
        interactive(
            grid,
            data={"data": {**grid_data(grid), "dataset": test["data"]["dataset"]}},
            folds=[0],
            tests=[{"data": {"dataset": SMALL}}],
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tests": [{"protocol": "clean", "epsiodes": 3}]}, r"tests\[0\].epsiodes: got an unknown key"),
        ({"tests": [{"folds": [1, 2]}]}, r"tests\[0\].folds: got 2 of shapes5i"),
        ({"tests": ["clean"]}, r"tests\[0\]: got clean, expected a mapping"),
        ({"tests": []}, "tests: got"),
        ({"tests": [{}, {"n_episodes": 3}]}, "two evaluations of fgbg on shapes5i under interactive with K = 1"),
        ({"protocol": "clean", "tests": [{}]}, "guided\\+AJ.*expected tests with a robot"),
        (
            {"methods": {"guided": {"config": "guided.yaml", "variants": {"+AJ": {"data": {"size": 3}}}}}},
            "AJ.data.size",
        ),
        ({"methods": {"guided": {"config": "guided.yaml", "variants": ["+AJ"]}}}, "variants: got .*expected a mapping"),
        (
            {"methods": {"guided": {"config": "guided.yaml", "variants": {"+AJ": {"repeat": {"a": 3}}}}}},
            "repeat.a: got 3",
        ),
        (
            {"seeds": [0, 1], "methods": {"g": {"config": "guided.yaml", "variants": {"+s": {"repeat": {"a": [3]}}}}}},
            "seeds: got .*expected one seed",
        ),
        (
            {"methods": {"a": {"config": "fgbg.yaml", "variants": {"b": {}}}, "ab": "fgbg.yaml"}},
            "two evaluations of ab",
        ),
    ],
)
def test_wrong_tests_and_variants_are_named(grid, change, message):
    with pytest.raises(FewsegError, match=message):
        interactive(grid, **change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"compare": "panet"}, "compare: got panet, expected one of fgbg, guided; name the method"),
        ({"methods": {"fgbg": {"config": "fgbg.yaml", "training": {"steps": 7}}}}, "methods.fgbg.training.steps"),
        ({"methods": {"fgbg": {"config": "fgbg.yaml", "training": {"max_steps": -7}}}}, "training.max_steps: got -7"),
    ],
)
def test_wrong_comparisons_and_budgets_are_named(grid, change, message):
    with pytest.raises(FewsegError, match=message):
        benchmark.plan(changed(grid, **change))


@pytest.mark.parametrize("path", sorted((EXPERIMENTS / "benchmarks").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_benchmark_names_methods_and_arguments_that_exist(path):
    """Also those whose data are not at hand, which cannot be planned here."""
    config = benchmark.self_contained(path)
    assert set(config) <= benchmark.grid.KEYS
    assert config.get("compare") in (None, *config["methods"])
    for name, entry in config["methods"].items():
        assert set(entry) <= benchmark.grid.METHOD_KEYS
        model = entry["config"]["model"]
        options = {**model["init_args"], **entry.get("model", {})}
        for variant in benchmark.grid.variants_of(path, name, entry):
            check_arguments(class_named(model["class_path"]), {**options, **variant.model})
        with torch.device("meta"):  # which has no numbers to draw
            fewseg.create_model(model["class_path"], **{**options, "weights": None})
