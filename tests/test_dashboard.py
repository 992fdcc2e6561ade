"""Benchmarks on wandb: what is logged while they run and what is sent afterwards, read back from the offline files."""

import dataclasses
import json
import os
import pickle
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import wandb
import yaml

import wandb_files
from fewseg import benchmark, dashboard, results
from fewseg.benchmark import LightningRunner, runner
from fewseg.callbacks import Dashboard
from fewseg.cli import main
from fewseg.errors import FewsegError
from fewseg.functional import ranking

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
MODELS = Path(__file__).parents[1] / "experiments" / "models"
STEPS = 60


@pytest.fixture(autouse=True)
def _own_folders(tmp_path, monkeypatch):
    """Nothing of wandb's goes into the user's home, and no setting of theirs matters."""
    for name in ("WANDB_PROJECT", "WANDB_SWEEP_ID", "WANDB_RUN_GROUP", "WANDB_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    folder = tmp_path_factory.mktemp("grid")
    dataset = {"class_path": "Shapes5i", "init_args": {"n_train": 120, "n_val": 60}}
    data = {"dataset": dataset, "size": 32, "cache": "images", "eval_batch_size": 3}
    config = {
        "data": {"data": data, "trainer": {"accelerator": "cpu"}},
        "methods": {"guided": str(MODELS / "guided.yaml")},
        "folds": [0],
        "points": [2, "dense"],
        "n_episodes": 7,
        "training": {"max_steps": STEPS, "batch_size": 2, "validations": 2, "n_val_episodes": 3},
    }
    path = folder / "grid.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.fixture(scope="module")
def live(grid, tmp_path_factory):
    """A benchmark that was logged while it ran, before anything is sent afterwards."""
    out = tmp_path_factory.mktemp("benches") / "bench"
    plan, doer = benchmark.plan(grid), LightningRunner("live-project")
    environment = {"WANDB_MODE": "offline", "WANDB_DATA_DIR": str(out.parent / "data")}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        out.mkdir()
        doer.check(plan.runs, {})
        doer.train(plan.trainings[0], out, lambda steps: None)
        for run in plan.runs:
            doer.evaluate(run, out)
    about = {"n_folds": 4, "runs": [run.id for run in plan.runs], "compare": None}
    results.write_json(out / "plan.json", about)
    (out / "benchmark.yaml").write_text(yaml.safe_dump(benchmark.self_contained(grid)))
    return out


@pytest.fixture
def finished(live, tmp_path):
    """A copy, so that tests can change it."""
    return Path(shutil.copytree(live, tmp_path / "bench", symlinks=True))


def training_of(out):
    (folder,) = (out / "trainings").iterdir()
    return folder


def curve_of(out):
    lines = (training_of(out) / "curve.csv").read_text().splitlines()[1:]
    return [line.split(",") for line in lines]


# -------------------------------------------------------------------------------------------------- while it runs


def test_losses_and_scores_are_logged_while_a_training_runs(live):
    (run,) = wandb_files.runs(live / "wandb").values()
    assert run.finished
    assert (run.about.project, run.about.run_group, run.about.job_type) == ("live-project", "bench", "training")
    assert run.about.display_name == training_of(live).name
    assert run.about.run_id == dashboard.run_id("bench", training_of(live).name)
    assert len(run.column("train/loss")) == STEPS // 50  # as often as Lightning does
    scores = [float(line[2]) for line in curve_of(live) if line[2]]
    assert run.column("val/miou") == pytest.approx(scores, abs=1e-4)
    assert len(scores) == 2
    assert run.config["method"] == "GuidedNet"
    assert run.config["model"]["init_args"]["head"] == "separate"


def test_a_training_that_is_not_asked_for_goes_nowhere(grid, tmp_path):
    (one,) = benchmark.plan(grid).trainings
    short = one.config["trainer"] | {"max_steps": 2}
    one = type(one)(one.id, one.name, 0, 0, {**one.config, "trainer": short})
    LightningRunner().train(one, tmp_path, lambda steps: None)
    assert not (tmp_path / "wandb").exists()


def test_the_runner_travels_to_workers():
    assert pickle.loads(pickle.dumps(LightningRunner("p"))) == LightningRunner("p")


def test_every_quick_run_keeps_pictures_of_the_same_episodes(live):
    """The masks that are kept are those that were scored."""
    indices = sorted(live.glob("*/pictures/index.json"))
    assert len(indices) == 2
    for index in indices:
        entries, rows = json.loads(index.read_text()), results.read_rows(index.parents[1] / "episodes.parquet")
        assert [entry["kind"] for entry in entries] == ["worst", "median", "best"] + ["list"] * 4
        assert [entry["episode"] for entry in entries[3:]] == [0, 1, 2, 3]
        for entry in entries:
            files = {part: index.parent / file for part, file in entry["overlay"].items()}
            pred, truth = (cv2.imread(str(files[part]), cv2.IMREAD_GRAYSCALE) for part in ("prediction", "truth"))
            assert cv2.imread(str(files["query"])).shape[:2] == pred.shape == truth.shape
            known = truth != 255
            both, either = ((pred == 1) & (truth == 1))[known].sum(), ((pred == 1) | (truth == 1))[known].sum()
            assert entry["iou"] == pytest.approx(both / max(either, 1))
            assert (index.parent / entry["file"]).is_file()
            (row,) = rows[rows.episode == entry["episode"]].itertuples()
            assert ((pred == 1)[known].sum(), (truth == 1).sum()) == (row.tp + row.fp, row.tp + row.fn)


def test_slow_methods_show_three_episodes_of_one_run(live, grid, tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "_QUICK", 0.0)
    out = Path(shutil.copytree(live, tmp_path / "slow"))
    kinds = {}
    for run in benchmark.plan(grid).runs:
        benchmark.LightningRunner().evaluate(run, out)
        index = out / run.id / "pictures/index.json"
        kinds[run.data["n_points"]] = [e["kind"] for e in json.loads(index.read_text())] if index.is_file() else None
    assert kinds == {2: None, None: ["worst", "median", "best"]}


def test_figures_say_what_a_training_was_taught_on(live):
    for row in results.collect(live):
        taught = {name: row[name] for name in ("train_dataset", "train_task", "train_protocol")}
        assert taught == {"train_dataset": "shapes5i", "train_task": "semantic", "train_protocol": "clean"}


# ---------------------------------------------------------------------------------------------------- afterwards


def test_a_finished_benchmark_is_sent_whole(finished, capfd):
    (finished / "report.html").write_text("<html>")
    said = dashboard.upload(finished, "project")
    assert said == dashboard.upload_hint(finished / "wandb")
    assert capfd.readouterr() == ("", "")
    found = wandb_files.runs(finished / "wandb")
    name = training_of(finished).name
    assert sorted(found) == sorted([name, "summary"])
    run = found[name]
    assert run.finished
    assert (run.about.project, run.about.run_group, run.about.job_type) == ("project", "bench", "training")
    config = yaml.safe_load((training_of(finished) / "config.yaml").read_text())
    assert {key: run.config[key] for key in config} == config
    assert {"benchmark": "bench", "method": "GuidedNet", "config": "guided", "fold": 0, "seed": 0}.items() <= (
        run.config.items()
    )
    # history
    lines = curve_of(finished)
    assert run.column(dashboard.STEP)[: len(lines)] == [int(line[0]) for line in lines]
    assert run.column("train/loss") == [float(line[1]) for line in lines if line[1]]
    assert run.column("val/miou") == [float(line[2]) for line in lines if line[2]]
    # evaluations
    rows = {row["n_points"]: row for row in results.collect(finished)}
    for n_points, points in ((2, "2"), (None, "dense")):
        key, row = f"shapes5i/clean/K1-P{points}", rows[n_points]
        assert run.summary[f"{key}/miou"] == row["miou"]
        assert (run.summary[f"{key}/ci95_low"], run.summary[f"{key}/ci95_high"]) == tuple(row["ci95"])
        assert run.summary[f"{key}/seconds_per_episode"] == row["seconds_per_episode"]
    (sparse, dense) = run.table("evaluations")
    assert (sparse["n_points"], dense["n_points"]) == ("2", "dense")
    assert dense["miou"] == rows[None]["miou"]
    classes = {row["class"]: row["iou"] for row in run.table("classes") if row["setting"].endswith("dense")}
    assert classes == rows[None]["per_class_iou"]
    assert len(run.table("episodes")) == 2 * 7


def test_masks_arrive_as_they_were_kept(finished):
    dashboard.upload(finished, "project")
    name = training_of(finished).name
    run = wandb_files.runs(finished / "wandb")[name]
    (dense,) = (row["run"] for row in results.collect(finished) if row["n_points"] is None)
    for entry in json.loads((finished / dense / "pictures/index.json").read_text()):
        kind = f"list-{entry['episode']}" if entry["kind"] == "list" else entry["kind"]
        (image,) = run.column(f"shapes5i/clean/K1-Pdense/{kind}")
        labels = run.config["_wandb"]["mask/class_labels"]
        for part in ("prediction", "truth"):
            sent = cv2.imread(str(run.path.parent / "files" / image["masks"][part]["path"]), cv2.IMREAD_GRAYSCALE)
            kept = cv2.imread(str(finished / dense / "pictures" / entry["overlay"][part]), cv2.IMREAD_GRAYSCALE)
            assert np.array_equal(sent, kept)
            told = labels[f"shapes5i/clean/K1-Pdense/{kind}_wandb_delimeter_{part}"]["value"]
            assert told == {"0": "background", "1": entry["class_name"], "255": "unknown"}


def test_weights_and_episode_lists_are_artifacts(finished):
    dashboard.upload(finished, "project")
    name = training_of(finished).name
    artifacts = {one.name: one for one in wandb_files.runs(finished / "wandb")[name].artifacts}
    weights = artifacts[name]
    assert weights.type == "model"
    assert {entry.path for entry in weights.manifest.contents} == {"model.safetensors", "config.json"}
    lists = {row["episode_list_sha256"] for row in results.collect(finished)}
    assert {name for name, one in artifacts.items() if one.type == "episodes"} == {f"episodes-{one}" for one in lists}
    for digest in lists:
        (entry,) = artifacts[f"episodes-{digest}"].manifest.contents
        assert Path(entry.local_path).read_bytes() == (finished / "episodes" / f"{digest}.jsonl").read_bytes()
        assert json.loads(artifacts[f"episodes-{digest}"].metadata) == {"sha256": digest}


def test_the_summary_has_leaderboard_comparisons_and_report(finished, monkeypatch):
    """A second configuration, which repeats the first one's rows, is compared with it."""
    monkeypatch.setattr(ranking, "LEAST_CLUSTERS", 2)  # so few images have no ranks
    plan = json.loads((finished / "plan.json").read_text())
    for row in results.collect(finished):
        other = row["run"].replace("guided", "other")
        shutil.copytree(finished / row["run"], finished / other)
        changed = {**row, "config": "other", "run": other, "training": "other-f0-s0-00000000"}
        (finished / other / "metrics.json").write_text(json.dumps(changed))
        plan["runs"].append(other)
    (finished / "plan.json").write_text(json.dumps({**plan, "compare": {"reference": "guided"}}))
    (finished / "report.html").write_text("<html>")
    dashboard.upload(finished, "project")
    run = wandb_files.runs(finished / "wandb")["summary"]
    assert run.about.job_type == "summary"
    lines = run.table("leaderboard")
    board = results.read_board(finished)
    expected = [*board.lines, *board.trivial]
    assert [(line["config"], line["n_shot"], line["n_points"], line["miou"]) for line in lines] == [
        (one.config, None, None, one.miou)
        if one.trivial
        else (one.config, one.n_shot, results.points(one.n_points), one.miou)
        for one in expected
    ]
    assert [(line["ci95_low"], line["ci95_high"]) for line in lines] == [one.ci95 for one in expected]
    ranks = [one.rank for one in expected]
    assert [(line["rank from"], line["rank to"]) for line in lines] == [
        (rank.low, rank.high) if rank else (None, None) for rank in ranks
    ]
    assert any(ranks)
    assert len(board.trivial) > 0
    assert len(run.table("summary")) == 4
    compared = run.table("comparisons")
    assert [(row["config"], row["reference"], row["difference"]) for row in compared] == [("other", "guided", 0.0)] * 2
    reports = [one for one in run.artifacts if one.type == "report"]
    assert [entry.path for one in reports for entry in one.manifest.contents] == ["report.html"]


def test_a_chart_holds_one_task_and_clicks_of_one_setting():
    """Two tasks with a protocol of one name, and clicks after 1 and 5 points: none of them hides another."""

    def line(config, task, n_points, first):
        clicks = results.ClickCurve((first, 0.75), None, ())
        return results.Line(
            "d", task, "p", config, "M", 1, n_points, {}, first, None, {}, {}, 1, 1, "", (), clicks=clicks
        )

    lines = [line("guided", "interactive", n_points, first) for n_points, first in ((1, 0.125), (5, 0.25))]
    lines += [line("panet", "interactive", 1, 0.5), line("guided", "semantic", 1, 0.375)]
    charts = dashboard._curves(lines)
    assert charts.keys() == {
        "d/interactive/p/K1/points",
        "d/interactive/p/K1-P1/clicks",
        "d/interactive/p/K1-P5/clicks",
        "d/semantic/p/K1-P1/clicks",
    }
    told = {name: [row[1:] for row in chart.table.data] for name, chart in charts.items()}
    assert sorted(told["d/interactive/p/K1-P1/clicks"]) == [
        ["guided", 0.125], ["guided", 0.75], ["panet", 0.5], ["panet", 0.75],
    ]  # fmt: skip
    assert told["d/interactive/p/K1-P5/clicks"] == [["guided", 0.25], ["guided", 0.75]]
    assert told["d/semantic/p/K1-P1/clicks"] == [["guided", 0.375], ["guided", 0.75]]


def test_the_note_of_a_trivial_answer_says_what_it_holds_for():
    line = results.Line("d", "semantic", "p", "all background", "Trivial", 1, 5, {}, 0.0, None, {}, {}, 1, 1, "", ())
    told = dashboard._leaderboard_row(dataclasses.replace(line, trivial=True, given=("1, 5", "")))
    assert told["note"] == "K = 1, 5"
    assert not {"n_shot", "n_points"} & told.keys()
    assert dashboard._leaderboard_row(line)["n_points"] == "5"


def test_sending_twice_makes_no_second_run(finished):
    dashboard.upload(finished, "project")
    first = {name: run.about.run_id for name, run in wandb_files.runs(finished / "wandb").items()}
    dashboard.upload(finished, "project")
    again = {name: run.about.run_id for name, run in wandb_files.runs(finished / "wandb").items()}
    assert first == again  # runs() itself refuses two of one id
    assert len(first) == 2


def test_another_benchmark_has_other_runs(finished):
    dashboard.upload(finished, "project")
    other = finished.with_name("other")
    shutil.copytree(finished, other, ignore=shutil.ignore_patterns("wandb"))
    dashboard.upload(other, "project")
    ids = [{run.about.run_id for run in wandb_files.runs(out / "wandb").values()} for out in (finished, other)]
    assert not ids[0] & ids[1]


def test_what_is_not_done_is_not_sent(finished):
    shutil.rmtree(finished / "wandb")
    (training_of(finished) / "metrics.json").unlink()
    dashboard.upload(finished, "project")
    assert list(wandb_files.runs(finished / "wandb")) == ["summary"]


def test_a_folder_with_little_in_it_is_sent_too(finished):
    """As another runner may leave it: no curve, no weights, no pictures, no benchmark file."""
    for path in (finished / "benchmark.yaml", *finished.glob("trainings/*/c*")):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for path in (*finished.glob("*/pictures"), finished / "episodes", finished / "wandb"):
        shutil.rmtree(path)
    dashboard.upload(finished, "project")
    run = wandb_files.runs(finished / "wandb")[training_of(finished).name]
    assert {one.type for one in run.artifacts} == {"run_table"}
    assert "shapes5i/clean/K1-Pdense/miou" in run.summary
    assert not run.column("train/loss")


# ------------------------------------------------------------------------------------------------ the command line


def test_the_command_line_sends_and_tells_nobody(finished, tmp_path):
    """``fewseg report --wandb`` prints one line, loads no torch, and neither it nor wandb's own process goes out."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        code = (
            "import sys\n"
            "def hook(event, args):\n"
            "    if event == 'socket.connect' and not isinstance(args[1], str) and args[1][0] != '127.0.0.1':\n"
            "        raise AssertionError(f'connects to {args[1]}')\n"
            "sys.addaudithook(hook)\n"
            "from fewseg.cli import main\n"
            f"status = main(['report', {str(finished)!r}, '--wandb', 'sent'])\n"
            "print([m for m in ('torch', 'pytorch_lightning') if m in sys.modules])\n"
            "sys.exit(status)\n"
        )
        environment = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
        environment |= {"WANDB_BASE_URL": address, "HTTPS_PROXY": address, "HTTP_PROXY": address, "HOME": str(tmp_path)}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
        server.settimeout(0.2)
        with pytest.raises(TimeoutError):  # neither the server nor a proxy was asked for anything
            server.accept()
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout.splitlines()[-2:] == [dashboard.upload_hint(finished / "wandb"), "[]"]
    assert done.stdout.count("wandb:") == 1
    assert {run.about.project for run in wandb_files.runs(finished / "wandb").values()} >= {"sent"}


def test_a_benchmark_logs_where_it_is_told_to(finished, grid, monkeypatch, capsys):
    """Everything is done already, so what is left is to hand on the option and to send."""
    asked = []
    execute = benchmark.execute

    def watched(*args):
        asked.extend(arg.wandb for arg in args if isinstance(arg, LightningRunner))
        return execute(*args)

    monkeypatch.setattr(benchmark, "execute", watched)
    command = ["benchmark", str(grid), "--out", str(finished)]
    assert main(command) == 0
    assert "wandb" not in capsys.readouterr().out
    assert main([*command, "--wandb", "mine"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == dashboard.upload_hint(finished / "wandb")
    monkeypatch.setenv("WANDB_PROJECT", "theirs")
    assert main([*command, "--wandb"]) == 0
    assert asked == [None, "mine", "theirs"]
    assert {run.about.project for run in wandb_files.runs(finished / "wandb").values()} == {"theirs"}


def test_the_mode_is_respected(finished, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "onlin")
    with pytest.raises(FewsegError, match="WANDB_MODE: got onlin, expected one of offline, online, disabled"):
        LightningRunner("p").check([], {})
    before = sorted(finished.rglob("*"))
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert "WANDB_MODE=disabled" in dashboard.upload(finished, "project")
    assert [path for path in sorted(finished.rglob("*.wandb")) if path not in before] == []


@pytest.mark.parametrize(
    ("environment", "expected"),
    [({}, "offline"), ({"WANDB_SWEEP_ID": "s"}, "online"), ({"WANDB_MODE": "online"}, "online")],
)
def test_the_logger_of_fit_is_offline_unless_told_otherwise(tmp_path, monkeypatch, environment, expected):
    monkeypatch.delenv("WANDB_MODE")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    logger = Dashboard(save_dir=str(tmp_path))
    assert logger._wandb_init["mode"] == expected
    assert "WANDB_MODE" not in os.environ or os.environ["WANDB_MODE"] == environment["WANDB_MODE"]


# ------------------------------------------------------------------------------------------- where wandb is not there


def no_account(patch, folder):
    """Online, on a machine where nobody has logged in."""
    patch.setenv("WANDB_MODE", "online")
    patch.delenv("WANDB_API_KEY", raising=False)
    patch.setenv("NETRC", str(folder / "no-netrc"))


def no_network(patch, folder):
    """What wandb does where its server does not answer, without the time that it waits."""

    def waits(**options):
        raise wandb.errors.CommError("Timed out while retrying")

    patch.setattr(wandb, "init", waits)


@pytest.mark.parametrize("prepare", [no_account, no_network])
def test_a_dashboard_that_fails_stops_no_training(grid, tmp_path, monkeypatch, capsys, prepare):
    prepare(monkeypatch, tmp_path)
    (one,) = benchmark.plan(grid).trainings
    short = one.config["trainer"] | {"max_steps": 2}
    one = type(one)(one.id, one.name, 0, 0, {**one.config, "trainer": short})
    LightningRunner("p").train(one, tmp_path, lambda steps: None)
    assert results.is_done(tmp_path / "trainings" / one.id)
    (line,) = (line for line in capsys.readouterr().err.splitlines() if "without a dashboard" in line)
    assert line.startswith(f"{one.id} is trained without a dashboard: wandb: got ")


@pytest.mark.parametrize("prepare", [no_account, no_network])
def test_a_report_that_cannot_be_sent_says_so_in_a_line(finished, tmp_path, monkeypatch, capsys, prepare):
    prepare(monkeypatch, tmp_path)
    assert main(["report", str(finished), "--wandb"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(("fewseg: error: wandb: got ", "fewseg: error: WANDB_MODE: got online"))  # asked again
    assert "run wandb login" in line


def test_a_benchmark_that_cannot_be_sent_is_done_all_the_same(finished, grid, monkeypatch, capsys):
    no_network(monkeypatch, finished)
    assert main(["benchmark", str(grid), "--out", str(finished), "--wandb", "mine"]) == 0
    (line,) = (line for line in capsys.readouterr().err.splitlines() if "dashboard" in line)
    assert "Timed out while retrying" in line
    assert line.endswith(f"fewseg report {finished} --wandb mine sends it")
    monkeypatch.setattr(benchmark, "execute", lambda *args: 1)
    assert main(["benchmark", str(grid), "--out", str(finished), "--wandb", "mine"]) == 1


def test_evaluations_have_the_same_names_for_all_methods():
    """Whatever varies in a grid, and however a variant's suffix begins."""
    base = {"dataset": "shapes", "protocol": "clean", "n_shot": 1, "n_points": None, "seed": 0}
    names = {}
    for method in ("panet", "guided+x"):
        for told, rate in (("", " lr=0.1"), ("", " lr=0.2"), ("+AJ", " lr=0.1"), (" lx", " lr=0.1")):
            for size in (" size=32", " size=64"):  # of the test
                row = base | {"config": f"{method}{told}{rate}{size}", "plain": f"{method}{rate}{size}"}
                names.setdefault(method, []).append(dashboard.setting(row, {"config": f"{method}{rate}", "seed": 0}))
    assert names["panet"] == names["guided+x"]
    assert len(set(names["panet"])) == 6  # a rate is that of a training, which is a run of its own
    assert names["panet"][4] == "shapes/clean/K1-Pdense+AJ size=32"
