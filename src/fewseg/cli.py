"""The command line: ``fewseg fit | validate | test | predict | benchmark | report | data``.

Only the Lightning commands import torch. A wrong option, file or value ends with status 2 and one line.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import inspect
import itertools
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import fewseg
from fewseg.errors import FewsegError

LIGHTNING = {
    "fit": "train a method on the base classes of a fold",
    "validate": "score a checkpoint on base-class episodes",
    "test": "score a checkpoint on the protocol's list of novel-class episodes",
    "predict": "write the masks of those episodes as palette PNGs, and a CSV",
}
_HOMES = {"data": "fewseg.datamodules.FewShotDataModule", "trainer": "pytorch_lightning.Trainer"}
EXAMPLE = """
example:
  fewseg fit --config experiments/models/guided.yaml --config experiments/data/shapes.yaml --trainer.max_steps 500
  fewseg benchmark experiments/benchmarks/shapes.yaml --out runs/shapes
"""


class _Parser(argparse.ArgumentParser):
    """Errors in one line, with the remedy."""

    def error(self, message: str) -> NoReturn:
        raise said_our_way(message, self.prog)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        "fewseg",
        description=(fewseg.__doc__ or "").splitlines()[0],
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=fewseg.__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, purpose in LIGHTNING.items():
        commands.add_parser(name, help=purpose, add_help=False)
    benchmark = commands.add_parser("benchmark", help="train and compare a grid of methods; resumes where it stopped")
    benchmark.add_argument("config", type=Path, help="a YAML file of experiments/benchmarks")
    benchmark.add_argument("--out", type=Path, required=True, help="the benchmark's folder, e.g. runs/shapes")
    benchmark.add_argument("--workers", type=int, help="trainings at once (default: one a GPU, or 2 on a CPU)")
    told = "where trainings run: on this machine, or as tasks of Ray (pip install fewseg[ray])"
    benchmark.add_argument("--executor", choices=["local", "ray"], default="local", help=f"{told} (default: local)")
    told = "a running Ray cluster to join (default: one is started on this machine)"
    benchmark.add_argument("--ray-address", metavar="ADDRESS", help=told)
    told = "list trainings and runs, what is done and how long the rest may take, and stop"
    benchmark.add_argument("--dry-run", action="store_true", help=told)
    report = commands.add_parser("report", help="rebuild tables and report.html from what is on disk")
    report.add_argument("out", type=Path, help="a benchmark's folder")
    for command, what in ((benchmark, "log to wandb while it runs"), (report, "send what is done to wandb")):
        project = os.environ.get("WANDB_PROJECT") or "fewseg"
        told = f"{what}, offline unless WANDB_MODE=online (default: {project})"
        command.add_argument("--wandb", metavar="PROJECT", nargs="?", const=project, help=told)
    data = commands.add_parser("data", help="prepare or check a data set")
    data.add_argument("action", choices=["prepare", "check"])
    data.add_argument("name", choices=["pascal5i", "davis", "coco", "shapes", "shapes-video", "shapes-coco"])
    data.add_argument("--root", type=Path, help="the data set's own tree")
    data.add_argument("--archive", type=Path, action="append", default=[], help="an archive that you already have")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status: 0, 1 where runs failed, 2 where the input was wrong."""
    argv = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if argv and argv[0] in LIGHTNING:
            return _lightning(argv)
        options = _parsed(argv)
        if options.command == "benchmark":
            return _benchmark(options)
        if options.command == "report":
            return _report(options.out, options.wandb)
        return _data(options)
    except FewsegError as error:
        print(f"fewseg: error: {error}", file=sys.stderr)
        return 2
    except RuntimeError as error:
        said = re.search(r"^fewseg\.errors\.FewsegError: (.+)$", str(error), re.MULTILINE)
        if said is None:
            raise
        print(f"fewseg: error: {said[1]}", file=sys.stderr)  # a loader's worker hands on no more than the text
        return 2
    except OSError as error:
        if error.filename is None or isinstance(error, BrokenPipeError):
            raise
        expected, remedy = "a place that can be read and written", "check the path and its permissions"
        print(f"fewseg: error: {FewsegError(error.filename, error.strerror, expected, remedy)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("fewseg: stopped; run the same command again to go on", file=sys.stderr)
        return 130


def _parsed(argv: Sequence[str]) -> argparse.Namespace:
    """The options of a command that is not Lightning's."""
    try:
        return _parser().parse_args(argv)
    except FewsegError as error:
        value = dict(itertools.pairwise(argv)).get("--wandb")
        if error.argument not in ("config", "out") or value is None or not Path(value).exists():
            raise
        raise FewsegError("--wandb", value, "a project", f"write {value} before --wandb") from None


def _benchmark(options: argparse.Namespace) -> int:
    from fewseg import benchmark
    from fewseg.benchmark.reading import check_executor

    if options.dry_run:
        check_executor(options.workers, options.executor, options.ray_address)
        cluster = options.ray_address is not None
        print(benchmark.describe(benchmark.plan(options.config), options.out, options.workers, cluster))
        return 0
    runner = benchmark.LightningRunner(options.wandb)
    status = benchmark.execute(
        options.config, options.out, options.workers, options.executor, options.ray_address, runner
    )
    from fewseg.report import build_report
    from fewseg.results import is_current

    report = options.out / "report.html"
    if not (report.is_file() and is_current(options.out, "report")):
        build_report(options.out)
    print(f"report: {report}")
    try:
        _upload(options.out, options.wandb)
    except FewsegError as error:  # nothing is lost
        again = f"the benchmark is kept, and fewseg report {options.out} --wandb {options.wandb} sends it"
        print(f"fewseg: not on the dashboard: {error}; {again}", file=sys.stderr)
    return status


def _report(out: Path, wandb: str | None) -> int:
    from fewseg.report import build_report
    from fewseg.results import collect, in_the_terminal, summarise

    if not out.is_dir():
        raise FewsegError("out", out, "a benchmark's folder", "run fewseg benchmark first")
    if not ((out / "plan.json").is_file() or collect(out)):
        got = f"{out}, which holds no plan.json and no run"
        raise FewsegError("out", got, "a benchmark's folder", "name the --out of a fewseg benchmark")
    board = summarise(out)
    print(in_the_terminal(board))
    print(f"report: {build_report(out)}")
    _upload(out, wandb)
    return 0 if board.rows else 1


def _upload(out: Path, project: str | None) -> None:
    """Sends a benchmark to wandb, where that is asked for."""
    if project is not None:
        from fewseg.dashboard import upload

        print(upload(out, project))


def _data(options: argparse.Namespace) -> int:
    from fewseg.datasets import prepare

    act = prepare.prepare(options.name, options.root, options.archive) if options.action == "prepare" else None
    for line in act if act is not None else prepare.check(options.name, options.root):
        print(line)
    return 0


def _lightning(argv: list[str]) -> int:
    """The LightningCLI commands; the parser's own errors are said in our way."""
    import logging
    import warnings

    import pytorch_lightning as pl
    from jsonargparse import ArgumentError
    from lightning_fabric.utilities.exceptions import MisconfigurationException
    from pytorch_lightning.callbacks import ModelCheckpoint
    from pytorch_lightning.cli import LightningCLI

    import fewseg.datasets
    import fewseg.models  # noqa: F401  (class names become known to the parser)
    from fewseg.callbacks import EpisodePanels, SaveConfig, SaveModel, WritePredictions, WriteRows
    from fewseg.datamodules import FewShotDataModule

    class CommandLine(LightningCLI):
        """Keeps a fit resumable; says in our way what is wrong with a checkpoint or with what constructors judge."""

        def parse_arguments(self, parser: Any, args: Any) -> None:
            super().parse_arguments(parser, args)
            options = self.config[self.config.subcommand]
            _check_checkpoint(options.ckpt_path, options.model.class_path)
            _check_kind(options.data, trains=self.config.subcommand == "fit")

        def instantiate_classes(self) -> None:
            try:
                super().instantiate_classes()
            except (ValueError, TypeError, OSError, MisconfigurationException) as error:
                raise _cause(error) from None

        def instantiate_trainer(self, **changes: Any) -> pl.Trainer:
            options = self.config_init[self.config.subcommand].trainer
            given = options.callbacks if isinstance(options.callbacks, list) else [options.callbacks]
            given = [callback for callback in given if callback is not None]
            decided = options.enable_checkpointing is False or any(isinstance(c, ModelCheckpoint) for c in given)
            if not decided:  # two would write the same files
                changes["callbacks"] = [*given, ModelCheckpoint(every_n_train_steps=100, save_last=True)]
            trainer: pl.Trainer = super().instantiate_trainer(**changes)
            return trainer

    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    warnings.filterwarnings("ignore", message=".*_pytree.*")
    ours = [WriteRows(), WritePredictions(), SaveModel(), EpisodePanels()]
    try:
        CommandLine(
            pl.LightningModule,
            FewShotDataModule,
            subclass_mode_model=True,
            seed_everything_default=0,
            trainer_defaults={
                "callbacks": ours,
                "use_distributed_sampler": False,
                "default_root_dir": "runs/lightning",
            },
            save_config_callback=SaveConfig,
            save_config_kwargs={"overwrite": True},
            parser_kwargs={name: {"exit_on_error": False} for name in LIGHTNING} | {"exit_on_error": False},
            args=[*_root_last(argv)],
        )
    except ArgumentError as error:
        raise said_our_way(str(error), f"fewseg {argv[0]}") from None
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def _root_last(argv: list[str]) -> list[str]:
    """``--data.root DIR`` is the data set's own argument, which the parser knows once the data set is named."""
    kept: list[str] = []
    root: list[str] = []
    words = iter(argv)
    for word in words:
        if word == "--data.root":
            root = ["--data.dataset.init_args.root", next(words, "")]
        elif word.startswith("--data.root="):
            root = ["--data.dataset.init_args.root", word.partition("=")[2]]
        else:
            kept.append(word)
    return kept + root


def _check_kind(options: Any, trains: bool) -> None:
    """A data set without what a protocol asks for, videos or instances, is refused before it is perhaps generated."""
    import fewseg.datasets
    from fewseg.protocols import get_protocol
    from fewseg.sampling import check_search, check_videos

    kind = getattr(fewseg.datasets, options.dataset.class_path.rpartition(".")[2], None)
    if kind is None:
        return
    protocol, asks = get_protocol(options.protocol), options.train_episodes
    if not trains or asks in (None, "video"):
        check_videos(kind, protocol)
    if not trains or asks in (None, "instance"):
        check_search(kind, protocol)


def _check_checkpoint(path: str | None, class_path: str) -> None:
    """A checkpoint brings its hyper-parameters and its class along; another class than asked for would go unseen."""
    if path in (None, "best", "last", "hpc", "registry"):
        return
    import torch

    try:
        content = torch.load(str(path), map_location="cpu", weights_only=True)
        found = str(content.get("hyper_parameters", {}).get("_class_path", class_path))
    except FileNotFoundError:
        raise FewsegError("--ckpt_path", path, "an existing checkpoint", "check the path") from None
    except Exception as error:  # torch, zipfile and pickle errors have no common class
        reason = f"{path} ({type(error).__name__})"
        raise FewsegError("--ckpt_path", reason, "a checkpoint that fewseg fit wrote", "choose another") from None
    asked, saved = (name.rpartition(".")[2] for name in (class_path, found))
    if asked != saved:
        raise FewsegError("--ckpt_path", f"a checkpoint of {saved}", f"one of {asked}", f"pass --model {saved}")


def _cause(error: BaseException) -> FewsegError:
    """Our own error, where the parser has wrapped one; else the reason that a constructor of others gave."""
    inner: BaseException | None = error
    while inner is not None and not isinstance(inner, FewsegError):
        inner = inner.__cause__ or inner.__context__
    return inner or FewsegError("options", str(error)[:300], "options that go together", "see fewseg fit --help")


def said_our_way(message: str, program: str = "fewseg fit") -> FewsegError:
    r"""One line from what argparse or jsonargparse say, which may be a nested report: the innermost option and reason.

    Args:
        message: theirs.
        program: whose help the remedy names; what else than options it takes has no dashes.

    >>> print(said_our_way('Parser key "data.fold":\n  Expected a <class \'int\'>. Got value: x'))
    --data.fold: got x, expected int; see fewseg fit --help
    >>> print(said_our_way("Subcommand 'fit' does not accept option 'data.foldd'"))
    --data.foldd: got an unknown option, expected an option of FewShotDataModule; did you mean --data.fold?
    """
    keys = re.findall(r'[Pp]arser key "([^"]+)"', message)
    option, help_remedy = ".".join(keys), f"see {program} --help"
    tail = message.rpartition("Parser key")[2]  # what is said of the innermost option

    if found := re.search(r"class_path '([\w.]+)':\s+Option '([^']+)' is not accepted", tail):
        return _unknown_option(_flag(f"{option}.{found[2]}"), found[1], help_remedy)
    if found := re.search(r"does not accept option '([^']+)'|unrecognized arguments: (\S+)", message):
        name = _flag(found[1]) if found[1] else found[2].partition("=")[0]
        return _unknown_option(name, _HOMES.get(name.lstrip("-").partition(".")[0], ""), help_remedy)
    if found := re.search(r"arguments are required: (\S+)", message):
        name = re.sub(r"^(fit|validate|test|predict)\.", "", found[1].rstrip(","))
        options = program.rpartition(" ")[2] in LIGHTNING  # whose parser names options without dashes
        return FewsegError(_flag(name) if options else name, "nothing", "a value", help_remedy)
    if found := re.search(r"argument (\S+): invalid choice: '?(.*?)'? \(choose from (.*)\)", message):
        return FewsegError(found[1], found[2], f"one of {found[3]}".replace("'", ""), help_remedy)
    if found := re.search(r"argument (\S+): invalid (\w+) value: '(.*)'", message):
        return FewsegError(found[1], found[3], found[2], help_remedy)
    if found := re.search(r"argument (\S+): expected (.*)", message):
        return FewsegError(found[1], "nothing", found[2], help_remedy)
    if found := re.search(r"File does not exist: '([^']+)'", tail):
        return FewsegError(_flag(option), found[1], "an existing YAML file", "check the path")
    if found := re.search(r"(?:Problems parsing|Unexpected) config: (.*)", message, re.DOTALL):
        return FewsegError("--config", found[1][:200], "a YAML file that maps keys to values", "mend the file")
    if found := re.search(r"Expected a dot import path string: (.*)", tail):
        return _unknown_class(option, found[1], help_remedy)
    if found := re.search(r"Subtypes: \[(.*)\]\n(?:.*\n)*?\s*Given value: (.*)", tail):
        return FewsegError(_flag(option), found[2], f"one of {_types(found[1])}", help_remedy)
    if found := re.search(r"Expected an? (.*?)\. Got value: (.*)", tail):
        return FewsegError(_flag(option), found[2], _types(found[1]), help_remedy)
    return FewsegError(_flag(option or "arguments"), tail[:300], "a valid value", help_remedy)


def _flag(option: str) -> str:
    return option if option.startswith("-") or option == "arguments" else f"--{option}"


def _types(said: str) -> str:
    """Types as people say them.

    >>> _types("<class 'int'>, typing.Literal['flip', 'full'], <class 'NoneType'>")
    'int, flip, full, null'
    """
    said = re.sub(r"<class '(?:[\w]+\.)*(\w+)'>", r"\1", said)
    said = re.sub(r"typing\.Literal\[([^\]]*)\]", r"\1", said).replace("'", "")
    return re.sub(r"\bNoneType\b", "null", said)


def _unknown_option(option: str, home: str, remedy: str) -> FewsegError:
    """An option that its class does not have.

    Args:
        option: as on the command line, e.g. ``--model.lrr``.
        home: import path of the class, where the prefix tells it.
        remedy: where no known option resembles it.
    """
    prefix, dot, name = option.rpartition(".")
    if home in ("pytorch_lightning.LightningModule", "pytorch_lightning.Callback", "fewseg.datasets.FewShotDataset"):
        return FewsegError(option, "an option of no class", f"{prefix} CLASS before it", "name the class first")
    module, _, cls = home.rpartition(".")
    known = [*inspect.signature(getattr(importlib.import_module(module), cls)).parameters] if home else []
    close = difflib.get_close_matches(name, known, 1)
    wanted = (
        f"one of {', '.join(known)}" if 0 < len(known) <= 25 else f"an option of {cls}" if cls else "a known option"
    )
    return FewsegError(
        option, "an unknown option", wanted, f"did you mean {prefix}{dot}{close[0]}?" if close else remedy
    )


def _unknown_class(option: str, name: str, remedy: str) -> FewsegError:
    """A class name that nothing answers to."""
    package = {"model": "fewseg.models", "data.dataset": "fewseg.datasets"}.get(option)
    known: list[str] = list(importlib.import_module(package).__all__) if package else []
    close = difflib.get_close_matches(name, known, 1)
    wanted = f"one of {', '.join(known)}, or an import path" if known else "a class name or an import path"
    return FewsegError(_flag(option), name, wanted, f"did you mean {close[0]}?" if close else remedy)


def entry() -> NoReturn:
    """For the console script; a reader that closes the pipe, as ``head`` does, ends it without a word."""
    try:
        status = main()
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    sys.exit(status)


if __name__ == "__main__":
    entry()
