"""Sweep files of wandb against the real command line: what an agent would run parses, and logs what it optimises."""

import copy
import itertools
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import wandb
import yaml
from wandb import wandb_agent

import fewseg
import wandb_files
from fewseg.cli import main

ROOT = Path(__file__).parents[1]
SWEEPS = sorted((ROOT / "experiments" / "sweeps").glob("*.yaml"))
TINY = ["--data.size=32", "--data.batch_size=2", "--data.n_val_episodes=3", "--data.eval_batch_size=3"]
TINY += ["--data.dataset.init_args.n_train=120", "--data.dataset.init_args.n_val=60", "--trainer.accelerator=cpu"]
TINY += ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]


@pytest.fixture(autouse=True)
def _agent_environment(tmp_path, monkeypatch):
    """What an agent finds and sets is undone; nothing is written elsewhere."""
    for name in ("WANDB_RUN_ID", "WANDB_SWEEP_PARAM_PATH"):
        monkeypatch.setenv(name, "")  # what the agent sets is taken back
        monkeypatch.delenv(name)
    for name in ("WANDB_DIR", "WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep1")
    monkeypatch.setenv("WANDB_PROJECT", "fewseg")  # that of the sweep
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.chdir(ROOT)  # where a sweep is started from


def each_sweep(test):
    return pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)(test)


def candidates(parameter):
    """Values that a sweep may hand out: all that are listed, or both ends and the middle of a range."""
    if "value" in parameter:
        return [parameter["value"]]
    if "values" in parameter:
        return parameter["values"]
    low, high = parameter["min"], parameter["max"]
    assert 0 < low < high
    return [low, math.sqrt(low * high), high]


def suggestions(sweep):
    """So many members of a sweep that every value of every parameter is in one."""
    lists = {name: candidates(parameter) for name, parameter in sweep["parameters"].items()}
    for place in range(max(map(len, lists.values()))):
        yield {name: values[place % len(values)] for name, values in lists.items()}


def command_of(sweep, values, monkeypatch):
    """Command and environment of one member, as wandb's own agent makes them."""
    started = []

    class Caught:
        def __init__(self, command, env, **more):
            started.append((command, env))

    monkeypatch.setattr(wandb_agent, "AgentProcess", Caught)
    agent = wandb_agent.Agent(api=None, queue=None, sweep_id="sweep1")
    agent._sweep_command = copy.deepcopy(sweep["command"])
    arguments = {name: {"value": value} for name, value in values.items()}
    agent._command_run({"run_id": "member1", "program": sweep["program"], "args": arguments})
    ((command, environment),) = started
    environment.pop("WANDB_SERVICE", None)  # as AgentProcess does
    return command, environment


def own_arguments(command):
    """What follows ``/usr/bin/env fewseg``."""
    assert command[:2] == ["/usr/bin/env", "fewseg"]
    return command[2:]


def accepted(arguments):
    """Whether the real parser takes arguments; it prints the whole config."""
    return main([arguments[0], "--print_config", *arguments[1:]]) == 0


def test_there_are_several():
    assert len(SWEEPS) >= 3


@each_sweep
def test_a_sweep_optimises_the_validation_on_base_classes(path):
    sweep = yaml.safe_load(path.read_text())
    assert sweep["method"] in ("grid", "random", "bayes")
    assert sweep["metric"] == {"name": "val/miou", "goal": "maximize"}
    assert sweep["command"][-1] == "${args}", "a sweep's values overrule the files"
    assert "experiments/trainer/wandb.yaml" in sweep["command"]
    assert not any(name.startswith(("metric", "data.fold")) for name in sweep["parameters"])
    if sweep["method"] == "grid":
        assert all({"value", "values"} & parameter.keys() for parameter in sweep["parameters"].values())


@each_sweep
def test_every_parameter_and_value_is_taken_by_the_command_line(path, monkeypatch, capsys):
    sweep = yaml.safe_load(path.read_text())
    for values in suggestions(sweep):
        command, _ = command_of(sweep, values, monkeypatch)
        assert accepted(own_arguments(command))
        config = yaml.safe_load(capsys.readouterr().out)
        for name, value in values.items():
            section, option = name.split(".")
            found = config[section]["init_args"][option] if section == "model" else config[section][option]
            assert found == value, f"{name} arrives"


@each_sweep
def test_a_misspelt_parameter_is_refused(path, monkeypatch, capsys):
    sweep = yaml.safe_load(path.read_text())
    values = next(iter(suggestions(sweep)))
    for name in values:
        wrong = {f"{key}x" if key == name else key: value for key, value in values.items()}
        command, _ = command_of(sweep, wrong, monkeypatch)
        assert main(["fit", "--print_config", *own_arguments(command)[1:]]) == 2
        assert f"--{name}x" in capsys.readouterr().err


def test_a_value_of_the_wrong_kind_is_refused(monkeypatch, capsys):
    sweep = yaml.safe_load((ROOT / "experiments/sweeps/guided.yaml").read_text())
    values = next(iter(suggestions(sweep))) | {"model.head": "sharde"}
    command, _ = command_of(sweep, values, monkeypatch)
    assert main(["fit", "--print_config", *own_arguments(command)[1:]]) == 2
    assert "--model.head: got sharde" in capsys.readouterr().err


def member(name, folder, monkeypatch, **inherited):
    """Runs the agent's command in its environment, with a smaller budget on fewer scenes; what it was to try."""
    sweep = yaml.safe_load((ROOT / f"experiments/sweeps/{name}.yaml").read_text())
    values = list(itertools.islice(suggestions(sweep), 2))[1]
    command, environment = command_of(sweep, values, monkeypatch)
    budget = ["--trainer.max_steps=4", "--trainer.val_check_interval=2", f"--trainer.default_root_dir={folder}"]
    budget += ["--trainer.logger.init_args.save_dir", str(folder / "logged")]
    environment |= {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    environment |= {"WANDB_RUN_ID": name, **inherited}
    done = subprocess.run([*command, *TINY, *budget], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.findall("^wandb.*", done.stdout + done.stderr, re.MULTILINE) == [
        line for line in done.stdout.splitlines() if "wandb sync" in line
    ], "one line of wandb's"
    assert f"model: {folder / 'logged' / 'fewseg' / name / 'model'}" in done.stdout.splitlines()
    return values


def test_members_of_sweeps_log_what_is_optimised_and_keep_their_models(tmp_path, monkeypatch):
    """Two of different sweeps into one folder; the second beside a process of wandb that outlives it."""
    wandb.init(dir=tmp_path, mode="offline", settings=wandb.Settings(silent=True, console="off")).finish()
    guided = member("guided", tmp_path, monkeypatch)
    clicks = member("fbrs", tmp_path, monkeypatch, WANDB_SERVICE=os.environ["WANDB_SERVICE"])
    runs = wandb_files.runs(tmp_path / "logged")
    assert runs.keys() == {"guided", "fbrs"}
    for name, values in (("guided", guided), ("fbrs", clicks)):
        run = runs[name]
        assert (run.about.sweep_id, run.about.project) == ("sweep1", "fewseg")
        scores = run.column("val/miou")
        assert len(scores) == 2, "one for each validation"
        assert all(0 <= score <= 1 for score in scores)
        assert run.summary["val/miou"] == scores[-1]
        assert {option: run.config[option] for option in values} == values, "as the sweep names them"
        for option, value in values.items():  # as model and data got them
            section, inner = option.split(".")
            given = run.config[section]["init_args"] if section == "model" else run.config[section]
            assert given[inner] == (value if section != "trainer" else {"max_steps": 4, "val_check_interval": 2}[inner])
        assert run.config["data"]["size"] == 32
        folder = tmp_path / "logged" / "fewseg" / name
        kept = yaml.safe_load((folder / "config.yaml").read_text())["model"]
        assert kept["init_args"]["lr"] == values["model.lr"]
        assert type(fewseg.load_model(folder / "model")).__name__ == kept["class_path"].rpartition(".")[2]
        assert list((folder / "checkpoints").glob("*.ckpt")), "all of a run is in one place"
