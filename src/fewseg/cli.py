"""The command line: ``fewseg fit | validate | test | predict | benchmark | report | data``.

Only the Lightning commands import torch. A wrong option, file or value ends with status 2 and one line.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import fewseg
from fewseg.errors import FewsegError

LIGHTNING = {
    "fit": "train a method on the base classes of a fold",
    "validate": "score a checkpoint on base-class episodes",
    "test": "score a checkpoint on the protocol's list of novel-class episodes",
    "predict": "write the masks of those episodes as palette PNGs, and a CSV",
}
EXAMPLE = """
example:
  fewseg fit --config experiments/models/guided.yaml --config experiments/data/shapes.yaml --trainer.max_steps 500
  fewseg benchmark experiments/benchmarks/shapes.yaml --out runs/shapes
"""


class _Parser(argparse.ArgumentParser):
    """Errors in one line, with the remedy."""

    def error(self, message: str) -> NoReturn:
        raise FewsegError(self.prog, message, "valid arguments", f"see {self.prog} --help")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        "fewseg", description=fewseg.__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=fewseg.__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, purpose in LIGHTNING.items():
        commands.add_parser(name, help=purpose, add_help=False)
    benchmark = commands.add_parser("benchmark", help="train and compare a grid of methods; resumes where it stopped")
    benchmark.add_argument("config", type=Path, help="a YAML file of experiments/benchmarks")
    benchmark.add_argument("--out", type=Path, required=True, help="the benchmark's folder, e.g. runs/shapes")
    benchmark.add_argument("--workers", type=int, help="trainings at once (default: one a GPU, or 2 on a CPU)")
    benchmark.add_argument("--dry-run", action="store_true", help="list trainings and runs, and what is done")
    report = commands.add_parser("report", help="rebuild tables and report.html from what is on disk")
    report.add_argument("out", type=Path, help="a benchmark's folder")
    data = commands.add_parser("data", help="prepare or check a data set")
    data.add_argument("action", choices=["prepare", "check"])
    data.add_argument("name", choices=["pascal5i", "shapes"])
    data.add_argument("--root", type=Path, help="the data set's own tree")
    data.add_argument("--archive", type=Path, action="append", default=[], help="an archive that you already have")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status: 0, 1 where runs failed, 2 where the input was wrong."""
    argv = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if argv and argv[0] in LIGHTNING:
            return _lightning(argv)
        options = _parser().parse_args(argv)
        if options.command == "benchmark":
            return _benchmark(options)
        if options.command == "report":
            return _report(options.out)
        return _data(options)
    except FewsegError as error:
        print(f"fewseg: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("fewseg: stopped; run the same command again to go on", file=sys.stderr)
        return 130


def _benchmark(options: argparse.Namespace) -> int:
    from fewseg import benchmark

    if options.dry_run:
        print(benchmark.describe(benchmark.plan(options.config), options.out))
        return 0
    status = benchmark.execute(options.config, options.out, options.workers)
    from fewseg.report import build_report

    print(f"report: {build_report(options.out)}")
    return status


def _report(out: Path) -> int:
    from fewseg.benchmark import folds_of
    from fewseg.report import build_report
    from fewseg.results import summarise, table

    if not out.is_dir():
        raise FewsegError("out", out, "a benchmark's folder", "run fewseg benchmark first")
    n_folds = folds_of(out)
    rows = summarise(out, n_folds)
    print(table(rows, out, n_folds))
    print(f"report: {build_report(out)}")
    return 0


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
    from pytorch_lightning.cli import LightningCLI

    import fewseg.datasets
    import fewseg.models  # noqa: F401  (class names become known to the parser)
    from fewseg.callbacks import EpisodePanels, SaveModel, WritePredictions, WriteRows
    from fewseg.datamodules import FewShotDataModule

    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    warnings.filterwarnings("ignore", message=".*_pytree.*")
    ours = [WriteRows(), WritePredictions(), SaveModel(), EpisodePanels()]
    try:
        LightningCLI(
            pl.LightningModule,
            FewShotDataModule,
            subclass_mode_model=True,
            seed_everything_default=0,
            trainer_defaults={
                "callbacks": ours,
                "use_distributed_sampler": False,
                "default_root_dir": "runs/lightning",
            },
            save_config_kwargs={"overwrite": True},
            parser_kwargs={name: {"exit_on_error": False} for name in LIGHTNING} | {"exit_on_error": False},
            args=[*_root_last(argv)],
        )
    except ArgumentError as error:
        raise said_our_way(str(error)) from None
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


def said_our_way(message: str) -> FewsegError:
    """One line from jsonargparse's nested report: the innermost option and reason.

    >>> print(said_our_way('Parser key "data.fold": Expected a <class int>. Got value: x'))
    data.fold: got Expected a <class int>. Got value: x, expected a valid value; see fewseg fit --help
    """
    text = " ".join(message.split())
    key = re.findall(r'(?:Parser key|Key|key|Option|option) ["\']([^"\']+)["\']', text)
    unknown = re.findall(r"[Uu]nrecognized arguments?: (\S+)", text)
    argument = unknown[0] if unknown else key[-1] if key else "arguments"
    reason = re.sub(r'^.*Parser key ["\'][^"\']+["\']:\s*', "", text)[:300]
    return FewsegError(argument, reason, "a valid value", "see fewseg fit --help")


def entry() -> NoReturn:
    """For the console script."""
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    sys.exit(status)


if __name__ == "__main__":
    entry()
