"""What does the work of a benchmark: trains under Lightning and evaluates. Imports torch only to work."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

import fewseg
from fewseg import dashboard, results
from fewseg.benchmark.grid import Config, Run, Training, dataset_of
from fewseg.errors import FewsegError
from fewseg.functional.run_figures import score


@dataclasses.dataclass(frozen=True)
class LightningRunner:
    """Trains and evaluates the zoo's methods, and those of others, under Lightning.

    Args:
        wandb: project of wandb where losses and scores of a training are seen as it goes on; None = nowhere.
    """

    wandb: str | None = None

    def check(self, runs: Sequence[Run], pretrainings: Mapping[str, Training]) -> None:
        """Finds what only the classes themselves know to be wrong, and whether wandb can be reached for."""
        if self.wandb is not None:
            dashboard.check_account()
        if runs:  # else nothing needs torch
            _check(runs, pretrainings)

    def train(self, one: Training, out: Path, report: Callable[[int], None]) -> None:
        """One fit; see ``train``."""
        train(one, out, report, self.wandb)

    def evaluate(self, run: Run, out: Path) -> Config:
        """One evaluation; see ``evaluate``."""
        return evaluate(run, out)


def _check(runs: Iterable[Run], pretrainings: Mapping[str, Training]) -> None:
    """Finds what only the classes themselves know to be wrong, before anything is written."""
    import pytorch_lightning as pl

    from fewseg.datamodules import FewShotDataModule
    from fewseg.evaluation import check_classes, check_finds, check_trains
    from fewseg.models.create import build, check_arguments, class_named
    from fewseg.refinement import check_point
    from fewseg.video_session import check_follows

    sets: dict[str, Any] = {}  # images are looked for once

    def data_of(options: Config) -> FewShotDataModule:
        check_arguments(FewShotDataModule, options)
        key = repr(options.get("dataset"))
        if key not in sets:
            sets[key] = dataset_of(Path("data"), options)
        return FewShotDataModule(**{**options, "dataset": sets[key]})

    for run in {repr((r.training.name, r.model, {**r.data, "fold": 0})): r for r in runs}.values():
        init = {**run.training.config["model"].get("init_args", {}), **run.model}
        check_arguments(class_named(run.training.config["model"]["class_path"]), init)
        data = data_of(run.options)
        scored = data.evaluation_part
        if data.refine is not None or scored.video or scored.search:  # what a network offers only the network knows
            blank = {key: None if key == "weights" else value for key, value in init.items()}
            module: Any = build(run.training.config["model"]["class_path"], blank)
            if scored.search:
                check_finds(module.network, run.training.method, f"methods.{run.config}")
                check_classes(module.network, len(data.dataset.class_names), f"methods.{run.config}: n_classes")
            if scored.video:
                check_follows(module.network, run.training.method, f"methods.{run.config}")
            if data.refine is not None:
                check_point(module.network, data.refine, f"methods.{run.config}: refine", run.training.method)
    every = [run.training for run in runs]
    before = [pretrainings.get(one.pretraining or "") for one in every]
    every = [*filter(None, before), *every]
    seedless = {repr((one.name, {**one.config, "data": {**one.config["data"], "seed": 0}})): one for one in every}
    checked = set()  # names of methods: folds and seeds do not change a network
    for part in seedless.values():
        check_arguments(class_named(part.config["model"]["class_path"]), part.config["model"].get("init_args", {}))
        check_arguments(pl.Trainer, part.config["trainer"])
        data = data_of(part.config["data"])
        data.training_sampler()
        unlike = data.train_episodes == "instance" or data.train_masks != "class"  # what not every network learns
        if unlike and part.name not in checked:
            checked.add(part.name)
            init = {k: None if k == "weights" else v for k, v in part.config["model"].get("init_args", {}).items()}
            learner = getattr(build(part.config["model"]["class_path"], init), "network", None)
            check_trains(learner, data, part.method, f"methods.{part.name}: ")
            check_classes(learner, len(data.dataset.class_names), f"methods.{part.name}: n_classes")


def _build(one: Training, out: Path, run: Run | None = None) -> tuple[Any, Any, Callable[..., Any]]:
    """Model, data module and a trainer factory from a training's config, or from what a run changes in it."""
    import logging
    import warnings

    import pytorch_lightning as pl

    from fewseg.datamodules import FewShotDataModule
    from fewseg.models.create import build

    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    pl.seed_everything(one.seed * 1000 + one.fold, verbose=False)
    init = {**one.config["model"].get("init_args", {}), **(run.model if run else {})}
    if one.pretraining:
        init["weights"] = str(out / "trainings" / one.pretraining / "checkpoint" / "model.safetensors")
    module = build(one.config["model"]["class_path"], init)
    data_config = run.options if run else one.config["data"]
    dataset = dataset_of(out, data_config)
    try:
        data = FewShotDataModule(**{**data_config, "dataset": dataset})
    except TypeError as error:
        raise FewsegError("data", error, "arguments of FewShotDataModule", "correct the spelling") from None

    def trainer(**extra: Any) -> pl.Trainer:
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        quiet |= {"enable_checkpointing": False, "use_distributed_sampler": False}
        options = {"devices": 1, **one.config["trainer"], **quiet, **extra}
        return pl.Trainer(**options)

    return module, data, trainer


def train(one: Training, out: Path, report: Callable[[int], None], wandb: str | None = None) -> None:
    """One fit, resumed from its last checkpoint where there is one.

    Args:
        one: the training.
        out: the benchmark's folder.
        report: see ``Runner``.
        wandb: project where it is seen as it goes on; None = nowhere.
    """
    folder = out / "trainings" / one.id
    if results.is_done(folder):
        return
    from fewseg.callbacks import Checkpoint, Curve, Progress
    from fewseg.models.base import count_parameters

    folder.mkdir(parents=True, exist_ok=True)
    results.write_text(folder / "config.yaml", yaml.safe_dump(one.config, sort_keys=False))
    module, data, make_trainer = _build(one, out)
    validate = one.validations > 0 and data.validates
    interval = max(1, one.max_steps // one.validations) if validate else None
    curve = Curve(folder / "curve.csv")
    keeper = Checkpoint(folder / "checkpoint", every=max(20, one.max_steps // 10), validate_every=interval)
    learns = one.max_steps > 0 and any(p.requires_grad for p in module.parameters())
    logger = _logger(one, out, wandb) if learns and wandb is not None else None
    trainer = make_trainer(
        logger=logger or False,
        callbacks=[curve, keeper, Progress(report)],
        num_sanity_val_steps=0,
        check_val_every_n_epoch=None,
        val_check_interval=interval and interval * one.config["trainer"].get("accumulate_grad_batches", 1),
        limit_val_batches=1.0 if validate else 0,
    )
    device = trainer.strategy.root_device
    if learns:
        last = keeper.last if keeper.last.is_file() else None
        try:
            trainer.fit(module, datamodule=data, ckpt_path=last, weights_only=True)
        finally:
            if logger is not None:
                _close(logger)
    keeper.finish(module, one.max_steps)
    total, trained = count_parameters(getattr(module, "network", module))
    figures = {
        "id": one.id,
        "method": one.method,
        "config": one.name,
        "fold": one.fold,
        "seed": one.seed,
        "max_steps": one.max_steps,
        "kept_step": keeper.best_step,
        "n_parameters": total,
        "n_trained_parameters": trained,
        "seconds_train": round(curve.elapsed(), 2),
        "device": device_name(device),
        "versions": versions(),
    }
    results.write_json(folder / "metrics.json", figures)
    keeper.last.unlink(missing_ok=True)  # not before: a kill in between would train from the start again


def _logger(one: Training, out: Path, project: str) -> Any:
    """Lightning's logger for the run that ``dashboard.upload`` writes again when everything is done.

    None where wandb cannot be reached: a dashboard stops no training.
    """
    from pytorch_lightning.loggers import WandbLogger

    about = {"method": one.method, "config": one.name, "fold": one.fold, "seed": one.seed}
    config = dashboard.config_of(one.config, about)
    try:
        with dashboard.plainly():
            run = dashboard.begin(out, project, one.id, "training", config, live=True)
    except FewsegError as error:
        print(f"{one.id} is trained without a dashboard: {error}", file=sys.stderr)
        return None
    return WandbLogger(save_dir=str(out), experiment=run)


def _close(logger: Any) -> None:
    """Ends the run of a training, for the next one of this process is another run."""
    try:
        with dashboard.plainly():
            logger.experiment.finish()
    except FewsegError as error:
        print(f"what was logged may be incomplete: {error}", file=sys.stderr)


_QUICK = 1.0  # seconds per episode
_LISTED = 4


def evaluate(run: Run, out: Path) -> Config:
    """One evaluation of a finished training: rows, pictures and the summary row, which makes it done.

    Pictures are the best, median and worst episodes and the first 4 of the list; where an episode takes longer than a
    second, only the first three, and only of the run that ``run.pictures`` marks. That goes for strips of videos too,
    which show the same videos for all methods anyway.
    """
    from fewseg.callbacks import save_pictures, write_detections

    one = run.training
    module, data, make_trainer = _build(one, out, run)
    module.load_weights(out / "trainings" / one.id / "checkpoint" / "model.safetensors")
    started = time.perf_counter()
    trainer = make_trainer()
    trainer.test(module, datamodule=data, verbose=False)
    quick = time.perf_counter() - started <= _QUICK * len(data.episode_list().specs)
    folder = out / run.id
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    frame = pd.DataFrame(module.rows)
    trained = results.read_metrics(out / "trainings" / one.id)
    assert trained is not None
    part = data.evaluation_part
    figures = {
        "method": one.method,
        "config": run.config,
        "plain": run.plain,
        "dataset": data.dataset.name,
        "task": part.task,
        "protocol": data.protocol.name,
        "fold": one.fold,
        "n_shot": data.n_shot,
        "n_points": data.n_points,
        "seed": run.seed,
        "training": one.id,
        "train_dataset": one.train_dataset,
        "train_task": one.train_task,
        "train_protocol": one.train_protocol,
        "run": run.id,
        "pretraining": one.pretraining,
        "episode_list_sha256": data.episode_list().sha256,
        **score(frame, data.dataset.class_names, data.scored_classes(), part.runs, data.n_clicks),
        **module.figures,
        **{k: trained[k] for k in ("n_parameters", "n_trained_parameters", "seconds_train")},
        "seconds_evaluation": round(time.perf_counter() - started, 2),
        "eval_batch_size": data.eval_batch_size,
        "n_folds": one.n_folds,
        "max_steps": one.max_steps,
        "training_note": one.note if trained["n_trained_parameters"] else _untrained(one),
        "device": device_name(trainer.strategy.root_device),
        "versions": versions(),
    }
    if run.pictures or (quick and part.video is None):
        save_pictures(module, data, module.rows, folder / "pictures", _LISTED if quick else 0)
    write_detections(folder, module.detections, part)
    results.write_text(out / "episodes" / f"{figures['episode_list_sha256']}.jsonl", data.episode_list().text())
    results.finish_run(folder, {**one.config, "run": {"data": run.data, "model": run.model}}, module.rows, figures)
    return figures


def _untrained(one: Training) -> str:
    """The note of a method that learns nothing from episodes."""
    return "no parameter learns from episodes" + ("; the pre-trained encoder is used" if one.pretraining else "")


def device_name(device: Any) -> str:
    """A torch device in words, with the threads that a CPU used."""
    import torch

    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return f"{platform.machine()} CPU, {torch.get_num_threads()} thread(s)"


@functools.cache
def versions() -> dict[str, str]:
    """The code that produced a number, as it was when the process first asked."""
    import numpy
    import torch

    own = fewseg.__version__
    root = Path(__file__).resolve().parents[3]
    if (root / ".git").exists():  # a checkout of this project, not another repository that happens to be around it
        command = ["git", "-C", str(root), "describe", "--always", "--dirty"]
        with contextlib.suppress(OSError):
            described = subprocess.run(command, capture_output=True, text=True, check=False)
            own += f"+{described.stdout.strip()}"
    return {
        "fewseg": own,
        "torch": torch.__version__,
        "pytorch_lightning": metadata.version("pytorch-lightning"),
        "numpy": numpy.__version__,
        "python": platform.python_version(),
    }
