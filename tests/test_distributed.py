"""Two processes on the CPU: one run of fit, test and predict gives what one process gives, every episode once."""

import csv
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import yaml

from fewseg.cli import main
from fewseg.datamodules import FewShotDataModule
from fewseg.datasets import Shapes5i, ShapesCoco
from fewseg.errors import FewsegError

TINY = Path(__file__).parent / "conf" / "tiny.yaml"
N_EPISODES = 7  # two does not divide it
LIMIT = 240  # seconds; processes that wait for each other for ever shall fail the test, not stop it
CODE = """
import dataclasses, sys
from pathlib import Path
from fewseg.cli import main
from fewseg.models.base import FewShotSegmentor
from fewseg.protocols import PROTOCOLS, SGONE_MULTICLASS
from fewseg.metrics import EpisodeIoU

def refuse(*args, **options):
    raise AssertionError("a test gathers rows; NCCL could not gather tensors of the CPU")

folder, *options = sys.argv[1:]
model = [*options, "--model", "PANet"]
assert main(["fit", *model, "--trainer.default_root_dir", folder + "/fit"]) == 0
EpisodeIoU.sync = refuse
for verb in ("test", "predict"):
    output = ["--trainer.default_root_dir", folder + "/" + verb]
    assert main([verb, *model, "--ckpt_path", folder + "/last.ckpt", *output]) == 0
part = dataclasses.replace(SGONE_MULTICLASS.evaluation, min_cells=0)  # which no object in 96 pixels passes
PROTOCOLS["sgone-multiclass"] = SGONE_MULTICLASS._replace(evaluation=part)
groups = ["--data.protocol", "sgone-multiclass", "--data.n_episodes", "3", "--data.n_val_episodes", "0"]
for verb in ("test", "predict"):
    output = ["--trainer.default_root_dir", folder + "/groups-" + verb]
    assert main([verb, *model, *groups, "--ckpt_path", folder + "/last.ckpt", *output]) == 0
search = ["--config", str(Path(options[1]).with_name("instance-siamese.yaml")), "--data.n_episodes", "15"]
if "--trainer.devices" in options:
    def remember(self, *rest):
        total = sum(float(p.detach().double().abs().sum()) for p in self.network.encoder.parameters())
        with Path(folder, f"encoder-{self.global_rank}.txt").open("a") as file:
            file.write(f"{total!r}\\n")
    FewShotSegmentor.on_train_batch_end = remember
    warm = ["--trainer.max_steps", "3", "--model.warmup_steps", "2", "--data.n_val_episodes", "0"]
    assert main(["fit", *options, *search, *warm, "--trainer.default_root_dir", folder + "/instances-fit"]) == 0
for verb in ("test", "predict"):  # untrained, from the seed that all processes have
    assert main([verb, *options, *search, "--trainer.default_root_dir", folder + "/instances-" + verb]) == 0
"""


def launch(folder, *options):
    """What the three commands print, by one Python process that may start others."""
    (folder / "run.py").write_text(CODE)
    config = ["--config", str(TINY), "--data.n_episodes", str(N_EPISODES), "--data.eval_batch_size", "1"]
    child = subprocess.Popen(
        [sys.executable, str(folder / "run.py"), str(folder), *config, *options],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        printed, _ = child.communicate(timeout=LIMIT)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        printed, _ = child.communicate()
        pytest.fail(f"no end after {LIMIT} seconds: {printed[-2000:]}")
    assert child.returncode == 0, printed[-4000:]
    return printed


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The same commands by one process and by two; both score the model that one process trains first."""
    Shapes5i(n_train=120, n_val=60)
    ShapesCoco(n_train=40, n_val=30)
    start = tmp_path_factory.mktemp("start")
    assert main(["fit", "--config", str(TINY), "--model", "PANet", "--trainer.default_root_dir", str(start)]) == 0
    checkpoint = next(start.rglob("last.ckpt"))
    made = {}
    for devices in (1, 2):
        made[devices] = tmp_path_factory.mktemp(f"processes{devices}")
        (made[devices] / "last.ckpt").write_bytes(checkpoint.read_bytes())
        several = ["--trainer.devices", "2", "--trainer.strategy", "ddp"] if devices == 2 else []
        (made[devices] / "printed.txt").write_text(launch(made[devices], *several))
    return made


def only(folder, name):
    found = list(folder.rglob(name))
    assert len(found) == 1, found
    return found[0]


def test_rows_are_those_of_one_process(folders):
    one, two = (pd.read_parquet(only(folders[n] / "test", "episodes.parquet")) for n in (1, 2))
    assert two.episode.tolist() == list(range(N_EPISODES))
    untimed = [name for name in one.columns if not name.startswith("seconds")]
    pd.testing.assert_frame_equal(one[untimed], two[untimed])


def test_groups_stay_whole_and_have_the_rows_of_one_process(folders):
    one, two = (pd.read_parquet(only(folders[n] / "groups-test", "episodes.parquet")) for n in (1, 2))
    assert two.episode.tolist() == list(range(15))
    assert two.group.tolist() == [0] * 5 + [1] * 5 + [2] * 5
    untimed = [name for name in one.columns if not name.startswith("seconds")]
    pd.testing.assert_frame_equal(one[untimed], two[untimed])


def test_figures_are_those_of_one_process(folders):
    one, two = (json.loads(only(folders[n] / "test", "metrics.json").read_text()) for n in (1, 2))
    timed = {name for name in one if name.startswith("seconds")}
    assert {k: v for k, v in one.items() if k not in timed} == {k: v for k, v in two.items() if k not in timed}
    assert (folders[2] / "printed.txt").read_text().count(f"over {N_EPISODES} episodes") == 1


@pytest.mark.parametrize(("verb", "episodes"), [("predict", N_EPISODES), ("groups-predict", 15)])
def test_predictions_are_those_of_one_process(folders, verb, episodes):
    tables = [only(folders[n] / verb, "predictions.csv") for n in (1, 2)]
    assert tables[0].read_text() == tables[1].read_text()
    lines = list(csv.DictReader(tables[1].read_text().splitlines()))
    assert [int(line["episode"]) for line in lines] == list(range(episodes))
    for line in lines:
        one, two = (table.parent / line["file"] for table in tables)
        assert one.read_bytes() == two.read_bytes()
    assert len(list(tables[1].parent.glob("*.png"))) == episodes


def test_instances_are_those_of_one_process(folders):
    one, two = (pd.read_parquet(only(folders[n] / "instances-test", "episodes.parquet")) for n in (1, 2))
    assert two.episode.unique().tolist() == list(range(15))
    assert two.score.notna().sum() > 15
    untimed = [name for name in one.columns if not name.startswith("seconds")]
    pd.testing.assert_frame_equal(one[untimed], two[untimed])
    for verb in ("test", "predict"):
        for number in range(5):
            own = [only(folders[n] / f"instances-{verb}", f"detections-{number}.json").read_text() for n in (1, 2)]
            assert own[0] == own[1]
    tables = [only(folders[n] / "instances-predict", "predictions.csv").read_text() for n in (1, 2)]
    assert tables[0] == tables[1]


def test_an_encoder_learns_after_its_warm_up_in_both_processes(folders):
    """Of three steps the third; the processes neither wait for gradients that do not come nor drift apart."""
    one, two = ((folders[2] / f"encoder-{rank}.txt").read_text().splitlines() for rank in (0, 1))
    assert one == two
    assert len(one) == 3
    assert one[0] == one[1] != one[2]
    only(folders[2] / "instances-fit", "model.safetensors")


def test_a_training_of_two_processes_leaves_one_model(folders):
    config = json.loads(only(folders[2] / "fit", "config.json").read_text())
    assert config["method"] == "PANet"
    assert yaml.safe_load(only(folders[2] / "fit", "config.yaml").read_text())["trainer"]["devices"] == "2"
    only(folders[2] / "fit", "model.safetensors")


def test_more_processes_than_episodes_are_refused():
    data = FewShotDataModule(Shapes5i(n_train=120, n_val=60), n_episodes=2)
    data.trainer = SimpleNamespace(global_rank=0, world_size=3)
    with pytest.raises(
        FewsegError, match=r"--trainer.devices: got 3, expected at most 2, one for each episode or group"
    ):
        data.test_dataloader()
    data.trainer.world_size = 2
    assert len(data.test_dataloader().dataset) == 1


def recipe(heading):
    """The commands of a section of docs/scaling.md, one for each of its machines."""
    text = (Path(__file__).parents[1] / "docs" / "scaling.md").read_text()
    section = text.split(f"### {heading}\n")[1].split("\n#")[0]
    return section.split("```sh\n")[1].split("```")[0].replace("\\\n", " ").strip().splitlines()


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def test_two_nodes_give_the_rows_of_one_process_by_the_recipe_of_the_docs(tmp_path):
    """The commands of the page, word for word, with an address, files and a size that fit a test."""
    here = {
        "10.0.0.1": "127.0.0.1",
        "--trainer.devices 4": "--trainer.devices 1",
        "experiments/models/guided.yaml": str(tmp_path / "guided.yaml"),
        "experiments/data/shapes.yaml": str(TINY),
    }
    guided = Path(__file__).parents[1] / "experiments" / "models" / "guided.yaml"
    (tmp_path / "guided.yaml").write_text(guided.read_text())
    lines = recipe("Several machines")
    fits, tests = ([line for line in lines if f"fewseg {verb}" in line] for verb in ("fit", "test"))
    assert len(fits) == len(tests) == 2
    extra = f" --data.n_episodes {N_EPISODES} --data.eval_batch_size 1"
    for commands in (fits, tests):
        here["29500"] = str(free_port())
        nodes = []
        for command in commands:
            for word, ours in here.items():
                command = command.replace(word, ours)
            command = command.replace("fewseg ", f"{sys.executable} -m fewseg.cli ") + extra
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
            nodes.append(
                subprocess.Popen(command, shell=True, cwd=tmp_path, env=environment, start_new_session=True, **streams)
            )
        for node in nodes:
            try:
                printed, _ = node.communicate(timeout=LIMIT)
            except subprocess.TimeoutExpired:
                for other in nodes:
                    os.killpg(other.pid, signal.SIGKILL)
                pytest.fail(f"no end after {LIMIT} seconds")
            assert node.returncode == 0, printed[-4000:]
    # one process tests what the two have trained
    last = only(tmp_path / "runs" / "guided", "last.ckpt")
    alone = ["test", "--config", str(TINY), "--config", str(tmp_path / "guided.yaml"), "--ckpt_path", str(last)]
    options = ["--data.n_episodes", str(N_EPISODES), "--data.eval_batch_size", "1"]
    assert main([*alone, *options, "--trainer.default_root_dir", str(tmp_path / "alone")]) == 0
    one, two = (pd.read_parquet(only(tmp_path / name, "episodes.parquet")) for name in ("alone", "runs/guided-test"))
    assert two.episode.tolist() == list(range(N_EPISODES))
    untimed = [name for name in one.columns if not name.startswith("seconds")]
    pd.testing.assert_frame_equal(one[untimed], two[untimed])
