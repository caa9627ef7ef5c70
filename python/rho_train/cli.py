"""The command `rho-ext`."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from jsonargparse import ArgumentParser, Namespace

import rho_ext
from rho_train import cli_il, cli_plan
from rho_train.experiment import (
    DataConfig,
    ExperimentConfig,
    Method,
    ModelConfig,
    load_experiment,
    run_experiment,
)
from rho_train.experiment.config import DEMO_METHODS, ILKind
from rho_train.experiment.run import JobsFailed
from rho_train.files import error_text
from rho_train.il import ILRecipe
from rho_train.methods.registry import names, needs_of
from rho_train.progress import Stopped
from rho_train.report import (
    MAX_METHODS,
    format_table,
    read_experiment,
    summarize,
    write_report,
)
from rho_train.tasks.letters import load_letters
from rho_train.trainer import TrainConfig

_REPORT = Path("rho-report")
_STOPPED = 130  # as a shell reports Ctrl-C


def demo(
    out: Path = Path("rho-demo"),
    seeds: int = 3,
    processes: int = 0,
    train: TrainConfig = TrainConfig(),  # noqa: B008 (frozen)
    il: ILRecipe = ILRecipe(),  # noqa: B008 (frozen)
) -> None:
    """Train on real data with RHO-LOSS beside its baselines, and write a report.

    Args:
        out: output folder; an interrupted demo goes on there.
        seeds: how often every method is repeated, each time with other noise, split and weights.
        processes: how many runs at a time; 0: one for each core.
        train: how the target is trained.
        il: how the models of the irreducible loss are trained.
    """
    config = ExperimentConfig(
        title="RHO-LOSS beside its baselines on Letter Recognition",
        description="14,668 real training examples in 26 classes, 10 % of their labels drawn at "
        "random, and 4,000 clean test examples. “Half” trains on the half that is not held out "
        f"for the model of the irreducible loss, “all” on everything. {load_letters().attribution}",
        methods=DEMO_METHODS,
        baseline="uniform_all",
        seeds=tuple(range(seeds)),
        data=DataConfig(noise=0.1),
        train=train,
        il=il,
    )
    _run(config, out, processes)


def train(
    out: Path = Path("runs/train"),
    method: str = "rho",
    il: Literal["none", "holdout", "crossfit"] | Path = "crossfit",
    seed: int = 0,
    hidden: tuple[int, ...] = (256, 256),
    dropout: float = 0.0,
    holdout: float = 0.5,
    folds: int = 2,
    data: DataConfig = DataConfig(),  # noqa: B008 (frozen)
    train: TrainConfig = TrainConfig(),  # noqa: B008 (frozen)
    recipe: ILRecipe = ILRecipe(),  # noqa: B008 (frozen)
) -> None:
    """Train one model with one method, and write its metrics and report.

    Args:
        out: output folder; an interrupted run goes on there.
        method: uniform, rho, loss, neg_il, grad_norm, entropy, importance, boltzmann,
            selective_backprop, class_quota or reducr; with dropout also bald, predictive_entropy,
            conditional_entropy, loss_minus_entropy or loss_plus_entropy.
        il: where irreducible losses come from, for methods that need them: holdout, crossfit, or
            a store that `rho-ext il compute` wrote, whose seconds are not charged.
        seed: of noise, split, weights and order.
        hidden: widths of the hidden layers of the MLP.
        dropout: rate after each hidden layer, in [0, 1).
        holdout: share of the training points that a holdout IL model trains on.
        folds: of the cross-fit.
        data: what to train on.
        train: how.
        recipe: how the IL models are trained.
    """
    needs_il = method in names() and "il" in needs_of(method)
    store = il if isinstance(il, Path) and needs_il else None
    kind: ILKind = "stored" if isinstance(il, Path) else il
    needed: ILKind = kind if needs_il else "none"
    chosen = Method(method, method, method, needed, "rest" if needed == "holdout" else "all")
    loaded = data.load()
    config = ExperimentConfig(
        title=f"{method} on {loaded.name}",
        description=f"One run of {train.steps} steps, {data.noise:.0%} label noise. "
        f"{loaded.attribution}",
        methods=(chosen,),
        baseline=method,
        seeds=(seed,),
        data=data,
        model=ModelConfig(widths=hidden, dropout=dropout),
        train=train,
        il=recipe,
        holdout=holdout,
        folds=folds,
        store=store,
    )
    _run(config, out, 1)


def experiment(
    file: Path,
    out: Path | None = None,
    processes: int = 0,
) -> None:
    """Run an experiment that a YAML file describes: methods, seeds, data, models, baselines.

    Args:
        file: with the fields of `rho_train.experiment.ExperimentConfig`.
        out: output folder, runs/NAME of the file by default; what was interrupted goes on there.
        processes: how many runs at a time; 0: one for each core.
    """
    config = load_experiment(file)
    out = Path("runs") / file.stem if out is None else out
    try:
        run_experiment(config, out, processes=processes)
    except JobsFailed:
        # What is finished is worth looking at all the same.
        with contextlib.suppress(ValueError):
            _compare(config, out)
        raise
    _compare(config, out)


def _compare(config: ExperimentConfig, out: Path) -> None:
    print(format_table(summarize(read_experiment(out))))
    if len(config.methods) > MAX_METHODS:
        print(
            f"no report: it tells at most {MAX_METHODS} methods apart, here are {len(config.methods)}"
        )
    else:
        print(f"report: {write_report(out)}")


def report(runs: list[Path], out: Path | None = None) -> None:
    """Write the report of an experiment again, or of several side by side, from their metrics.

    Args:
        runs: output folders of `demo` or `train`; of several, made on the same data, the methods
            stand side by side, and the first folder has the baseline.
        out: where to write; by default into the folder if it is one, else into rho-report.
    """
    print(f"report: {write_report(*runs, out=out or _REPORT if len(runs) > 1 else out)}")


def doctor() -> None:
    """Print what was built and what is in use, for a bug report."""
    for name, value in rho_ext.build_info().items():
        print(f"{name:14} {', '.join(value) if isinstance(value, list) else value}")


def _run(config: ExperimentConfig, out: Path, processes: int) -> None:
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError(
            "one process trains one model in this version; start it without torchrun. In a loop of "
            "your own several can: rho_train.Selector(scope='global'), see README.md"
        )
    try:
        run_experiment(config, out, processes=processes)
    except JobsFailed as error:
        # What is finished is worth looking at all the same.
        with contextlib.suppress(ValueError):
            print(f"report: {write_report(out)}")
        raise error
    print(format_table(summarize(read_experiment(out))))
    print(f"report: {write_report(out)}")


_COMMANDS: dict[str, Callable[..., None] | dict[str, Callable[..., None]]] = {
    "demo": demo,
    "train": train,
    "experiment": experiment,
    "plan": cli_plan.plan,
    "il": cli_il.COMMANDS,
    "report": report,
    "doctor": doctor,
}


_IL = "Compute, look at, check and convert irreducible losses."
_CONFIGURED = (demo, train, cli_plan.plan, cli_il.compute)


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="rho-ext",
        description="Train on the points that are learnable, worth learning and not yet learnt.",
        epilog="examples: 'rho-ext demo', 'rho-ext train --method rho --train.steps 5000'",
        version=rho_ext.__version__,
    )
    _add_commands(parser, _COMMANDS)
    return parser


def _add_commands(parser: ArgumentParser, functions: Mapping[str, Any]) -> None:
    commands = parser.add_subcommands(required=True, dest="command")
    for name, function in functions.items():
        nested = isinstance(function, dict)
        summary = _IL if nested else (function.__doc__ or "").partition("\n")[0]
        command = ArgumentParser(description=summary)
        commands.add_subcommand(name, command, help=summary)
        if nested:
            _add_commands(command, function)
            continue
        if function in _CONFIGURED:
            command.add_argument("--config", action="config", help="YAML file with options")
        folders = function is report
        if folders:
            # Of a list, jsonargparse would make one argument in JSON.
            command.add_argument(
                "runs", nargs="+", type=Path, help="output folders of demo or train"
            )
        command.add_function_arguments(
            function, as_group=False, as_positional=True, skip={"runs"} if folders else None
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code.

    0: done; 1: an error, named on standard error; 2: wrong arguments; 130: stopped, resumable.
    """
    logging.basicConfig(format="%(message)s")
    parser = _parser()
    parsed = parser.parse_args(arguments)
    try:
        ready: Namespace = parser.instantiate(parsed)
        function: Any = _COMMANDS
        while isinstance(function, dict):
            function, ready = function[ready.command], ready[ready.command]
        options: dict[str, Any] = dict(vars(ready))
        options.pop("config", None)
        function(**options)
    except Stopped as stopped:
        print(f"rho-ext: {stopped}", file=sys.stderr)
        return _STOPPED
    except (ValueError, IndexError, OSError, FloatingPointError, JobsFailed) as error:
        for line in error_text(error).splitlines():
            print(f"rho-ext: error: {line}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
