"""The command `rho-ext`."""

from __future__ import annotations

import contextlib
import inspect
import logging
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from jsonargparse import ArgumentError, ArgumentParser, Namespace

import rho_ext
from rho_train import cli_il
from rho_train.compare import compare
from rho_train.comparison.runner import JobsFailed
from rho_train.comparison.spec import Variant
from rho_train.files import error_text
from rho_train.il import ILRecipe
from rho_train.methods.registry import names, needs_of
from rho_train.optim import adamw
from rho_train.planning import RATIOS
from rho_train.planning import plan as measure
from rho_train.progress import Stopped
from rho_train.report import write_report
from rho_train.tasks.task import BUILT_IN, load_task, options_of, task_function
from rho_train.trainer import TrainConfig

_REPORT = Path("rho-report")
_STOPPED = 130  # as a shell reports Ctrl-C
_ERRORS = (ValueError, IndexError, OSError, FloatingPointError, ImportError, JobsFailed)

# The baselines come first, and "uniform on all data" is what a user would do otherwise.
DEMO = (
    Variant("uniform_half", "Uniform, half", "uniform", examples="rest"),
    Variant("uniform_all", "Uniform, all", "uniform"),
    Variant("train_loss", "Training loss, half", "loss", examples="rest"),
    Variant("rho_holdout", "RHO-LOSS, half (holdout IL)", "rho", "holdout", "rest"),
    Variant("rho_crossfit", "RHO-LOSS, all (cross-fit IL)", "rho", "crossfit"),
)


def demo(
    out: Path = Path("rho-demo"),
    task: str = "letters",
    task_options: dict[str, Any] | None = None,
    seeds: int = 3,
    processes: int = 0,
    train: TrainConfig = TrainConfig(),  # noqa: B008 (frozen)
    il: ILRecipe = ILRecipe(),  # noqa: B008 (frozen)
) -> None:
    """Train on real data with RHO-LOSS beside its baselines, and write a report.

    Args:
        out: output folder; an interrupted demo goes on there.
        task: letters, table, images, text, or module:function that returns a rho_train.Task.
        task_options: options of the task, as --task.noise 0.2; letters have noise 0.1 by default.
        seeds: how often every method is repeated, each time with other noise, split and weights.
        processes: how many runs at a time; 0: one for each core.
        train: how the target is trained.
        il: how the models of the irreducible loss are trained.
    """
    options = {"noise": 0.1} if task == "letters" else {}
    options |= task_options or {}
    made = load_task(task, options)
    about = (
        f"{made.description} “Half” trains on the half that is not held out for the model of the "
        f"irreducible loss, “all” on everything. {made.attribution}"
    )
    _compare(
        *(out, task, DEMO, range(seeds)),
        title=f"RHO-LOSS beside its baselines on {made.name}",
        description=about.strip(),
        task_options=options,
        baseline="uniform_all",
        train=train,
        il=il,
        processes=processes,
    )


def train(
    out: Path = Path("runs/train"),
    method: str = "rho",
    il: Literal["none", "holdout", "crossfit"] | Path = "crossfit",
    seed: int = 0,
    task: str = "letters",
    task_options: dict[str, Any] | None = None,
    holdout: float = 0.5,
    folds: int = 2,
    train: TrainConfig = TrainConfig(),  # noqa: B008 (frozen)
    recipe: ILRecipe = ILRecipe(),  # noqa: B008 (frozen)
) -> None:
    """Train one model with one method, and write its metrics and report.

    Args:
        out: output folder; an interrupted run goes on there.
        method: uniform, rho, loss, neg_il, grad_norm, entropy, importance, boltzmann,
            selective_backprop, class_quota or reducr; with dropout also bald, predictive_entropy,
            conditional_entropy, loss_minus_entropy or loss_plus_entropy.
        il: source of irreducible losses, for methods that need them: holdout, crossfit, or a store
            that `rho-ext il compute` wrote, whose seconds are not included.
        seed: of noise, split, weights and order.
        task: letters, table, images, text, or module:function that returns a rho_train.Task.
        task_options: options of the task, as --task.noise 0.1 or --task.path mine.npz.
        holdout: share of the training examples that a holdout IL model trains on.
        folds: of the cross-fit.
        train: how the target is trained.
        recipe: how the IL models are trained.
    """
    needs_il = method in names() and "il" in needs_of(method)
    kind = ("stored" if isinstance(il, Path) else il) if needs_il else "none"
    variant = Variant(method, method, method, kind, "rest" if kind == "holdout" else "all")
    _compare(
        *(out, task, [variant], [seed]),
        task_options=task_options,
        train=train,
        il=recipe,
        holdout=holdout,
        folds=folds,
        store=il if kind == "stored" else None,
        processes=1,
    )


def plan(
    task: str = "letters",
    task_options: dict[str, Any] | None = None,
    proxy: dict[str, Any] | None = None,
    ratios: tuple[int, ...] = RATIOS,
    il_seconds: float = 0.0,
    seconds: float = 8.0,
    json: bool = False,
    train: TrainConfig = TrainConfig(),  # noqa: B008 (frozen)
) -> None:
    """Measure what a step with selection costs here, and how many steps it must save to pay.

    Args:
        task: letters, table, images, text, or module:function that returns a rho_train.Task.
        task_options: options of the task, as --task.hidden [512,512].
        proxy: options that make the model of the task one that could score in its place, as
            --proxy.hidden [32]; none: no proxy is measured.
        ratios: sizes of the large batch, in times train.batch.
        il_seconds: what the irreducible losses cost, spread over train.steps.
        seconds: how long to measure, compiling not counted.
        json: print everything as JSON.
        train: how the target is trained; large_batch is not used.
    """
    made = load_task(task, task_options)
    small = load_task(task, {**(task_options or {}), **proxy}).model(0) if proxy else None
    found = measure(
        made.model(0),
        made.dataset(),
        batch=train.batch,
        ratios=ratios,
        proxy=small,
        optimizer=lambda module: adamw(module, train.lr, train.weight_decay),
        bf16=train.bf16,
        workers=train.workers,
        il_seconds=il_seconds,
        steps=train.steps,
        seconds=seconds,
    )
    print(found.to_json() if json else found)


def report(runs: list[Path], out: Path | None = None) -> None:
    """Write the report of a comparison again, or of several side by side, from their metrics.

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


def _compare(out: Path, *arguments: Any, **options: Any) -> None:
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError(
            "one process trains one model in this version; start it without torchrun. In a loop of "
            "your own several can: rho_train.Selector(scope='global'), see docs/processes.md"
        )
    try:
        print(compare(*arguments, out=out, **options))
    except JobsFailed:
        # A report on the runs that are finished is of use all the same.
        with contextlib.suppress(ValueError):
            print(f"report: {write_report(out)}")
        raise
    print(f"report: {write_report(out)}")


_COMMANDS: dict[str, Any] = {
    "demo": demo,
    "train": train,
    "plan": plan,
    "il": cli_il.COMMANDS,
    "report": report,
    "doctor": doctor,
}


def _add_commands(parser: ArgumentParser, functions: Mapping[str, Any]) -> None:
    commands = parser.add_subcommands(required=True, dest="command")
    options = (f"{name}: {', '.join(options_of(task_function(name)))}" for name in BUILT_IN)
    tasks = "options of the tasks, given as --task.OPTION: " + "; ".join(options)
    for name, function in functions.items():
        nested = isinstance(function, dict)
        summary = ((cli_il if nested else function).__doc__ or "").partition("\n")[0]
        has_task = not nested and "task" in inspect.signature(function).parameters
        command = ArgumentParser(
            description=summary, epilog=tasks if has_task else None, exit_on_error=False
        )
        commands.add_subcommand(name, command, help=summary)
        if nested:
            _add_commands(command, function)
            continue
        if has_task:
            command.add_argument("--config", action="config", help="YAML file with options")
        skipped: set[str | int] = set()
        if function is report:
            # Of a list, jsonargparse would make one argument in JSON.
            command.add_argument("runs", nargs="+", type=Path, help="folders of demo or train")
            skipped = {"runs"}
        command.add_function_arguments(function, as_group=False, as_positional=True, skip=skipped)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code.

    0: done; 1: an error, named on standard error; 2: wrong arguments; 130: stopped, resumable.
    """
    logging.basicConfig(format="%(message)s")
    given = list(sys.argv[1:] if arguments is None else arguments)
    # Options of a task belong to another function, so jsonargparse takes them as a mapping.
    given = [re.sub(r"^--task\.", "--task_options.", argument) for argument in given]
    parser = ArgumentParser(
        prog="rho-ext",
        description="Train on the examples that are learnable, worth learning and not yet learnt.",
        epilog="examples: 'rho-ext demo', 'rho-ext train --method rho --train.steps 5000'",
        version=rho_ext.__version__,
        exit_on_error=False,
    )
    _add_commands(parser, _COMMANDS)
    try:
        ready: Namespace = parser.instantiate(parser.parse_args(given))
        function: Any = _COMMANDS
        while isinstance(function, dict):
            function, ready = function[ready.command], ready[ready.command]
        function(**{k: v for k, v in vars(ready).items() if k != "config"})
    except Stopped as stopped:
        again = "" if "again" in str(stopped) else "; run the same command again to go on"
        print(f"rho-ext: {stopped}{again}", file=sys.stderr)
        return _STOPPED
    except ArgumentError as error:
        print(f"rho-ext: error: {error}", file=sys.stderr)
        print("see rho-ext --help, or rho-ext COMMAND --help", file=sys.stderr)
        return 2
    except _ERRORS as error:
        for line in error_text(error).splitlines():
            print(f"rho-ext: error: {line}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
