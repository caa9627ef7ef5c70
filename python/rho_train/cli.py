"""The command `rho-ext`."""

from __future__ import annotations

import contextlib
import inspect
import io
import itertools
import logging
import os
import re
import signal
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from jsonargparse import ArgumentError, ArgumentParser, Namespace, set_loader

import rho_ext
from rho_train import cli_il
from rho_train.cli_errors import explained, load_yaml, say
from rho_train.compare import compare
from rho_train.comparison.runner import EXPECTED, JobsFailed, show_warning, warned
from rho_train.comparison.spec import Variant, variants_of
from rho_train.distributed import (
    device_named,
    process_group,
    rank_and_world,
    started_first,
    started_ranks,
)
from rho_train.files import error_text
from rho_train.global_scope import Scope
from rho_train.il import ILRecipe
from rho_train.methods.registry import names, needs_of
from rho_train.planning import RATIOS
from rho_train.planning import plan as measure
from rho_train.progress import Stopped
from rho_train.recommendation import (
    estimate_wrong,
    recommend,
    share_of_duplicates,
)
from rho_train.report import write_report
from rho_train.tasks.task import BUILT_IN, import_here, load_task, options_of, task_function
from rho_train.trainer import TrainConfig
from rho_train.training_step import adamw

_STOPPED = 130  # as a shell reports Ctrl-C
_ERRORS = (*EXPECTED, ImportError, JobsFailed)
_WRONG = (ValueError, TypeError, FileNotFoundError)  # of arguments, or of what they name

# Options that several commands have; what their own docstrings explain goes first.
_HELP = {
    "out": "output folder; interrupted work goes on there.",
    "device": "cpu, cuda, cuda:N, or auto: a GPU if there is one.",
    "seed": "of noise, split, weights and order.",
    "task": "letters, table, images, text, or module:function that returns a rho_train.Task.",
    "task_options": "options of the task, as --task.noise 0.1 or --task.path mine.csv.",
    "holdout": "share of the training examples that a holdout IL model trains on.",
    "folds": "of the cross-fit.",
    "train": "how the target is trained.",
    "recipe": "how the IL models are trained.",
}

# The baselines come first, and "uniform on all data" is what a user would do otherwise.
DEMO = (
    Variant("uniform_half", "Uniform, half", "uniform", examples="rest"),
    Variant("uniform_all", "Uniform, all", "uniform"),
    Variant("smoothing", "Uniform, all, label smoothing", overrides={"train.label_smoothing": 0.3}),
    Variant(
        "agreement",
        "Agreement, all, label smoothing",
        "agreement",
        overrides={"train.label_smoothing": 0.3},
    ),
    Variant("train_loss", "Training loss, half", "loss", examples="rest"),
    Variant("rho_holdout", "RHO-LOSS, half (holdout IL)", "rho", "holdout", "rest"),
    Variant("rho_crossfit", "RHO-LOSS, all (cross-fit IL)", "rho", "crossfit"),
)


def demo(
    out: Path = Path("rho-demo"),
    methods: tuple[str, ...] = (),
    task: str = "letters",
    task_options: dict[str, Any] | None = None,
    seeds: int = 3,
    processes: int = 0,
    device: str = "auto",
    train: TrainConfig = TrainConfig(),  # noqa: B008 (frozen)
    recipe: ILRecipe = ILRecipe(),  # noqa: B008 (frozen)
) -> None:
    """Train on real data with RHO-LOSS beside its baselines, and write a report.

    Args:
        methods: more methods to compare, as --methods [entropy], or those of --import.
        task_options: options of the task, as --task.noise 0.2; letters have noise 0.1 by default.
        seeds: how often every method is repeated, each time with other noise, split and weights.
        processes: how many runs at a time; 0: one for each core, one on a GPU.
    """
    if seeds < 1:
        raise ValueError(f"--seeds must be at least 1, got {seeds}")
    options = {"noise": 0.1} if task == "letters" else {}
    options |= task_options or {}
    made = load_task(task, options)
    about = (
        f"{made.description} “Half” trains on the half that is not held out for the model of the "
        f"irreducible loss, “all” on everything. {made.attribution}"
    )
    _compare(
        *(out, task, (*DEMO, *variants_of(methods)), range(seeds)),
        title=f"RHO-LOSS beside its baselines on {made.name}",
        description=about.strip(),
        task_options=options,
        baseline="uniform_all",
        train=train,
        il=recipe,
        processes=processes,
        device=device,
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
    scope: Scope = "local",
    device: str = "auto",
    train: TrainConfig = TrainConfig(),  # noqa: B008 (frozen)
    recipe: ILRecipe = ILRecipe(),  # noqa: B008 (frozen)
) -> None:
    """Train one model with one method, and write its metrics and report.

    Under torchrun all ranks train it together, each on its share of every batch.

    Args:
        method: uniform, agreement, rho, loss, neg_il, grad_norm, entropy, or an own one.
        il: source of irreducible losses, for methods that need them: holdout, crossfit, or a store
            that `rho-ext il compute` wrote, whose cost is not included.
        scope: of ranks; local: each selects from its own share; global: from those of all.
    """
    needs_il = method in names() and "il" in needs_of(method)
    kind = ("stored" if isinstance(il, Path) else il) if needs_il else "none"
    if kind == "stored" and not Path(il).exists():
        known = "none, holdout, crossfit or the folder of a store"
        raise ValueError(f"--il must be one of {known}, got '{il}'; there is no such store")
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
        scope=scope,
        device=device,
    )


def plan(
    task: str = "letters",
    task_options: dict[str, Any] | None = None,
    proxy: dict[str, Any] | None = None,
    ratios: tuple[int, ...] = RATIOS,
    seconds: float = 8.0,
    models: int = 1,
    device: str = "auto",
    train: TrainConfig = TrainConfig(),  # noqa: B008 (frozen)
) -> None:
    """Measure what a step with selection costs here, and recommend a way to train.

    Args:
        proxy: options that make the model of the task one that could score in its place, as
            --proxy.hidden [32]; none: no proxy is measured.
        ratios: sizes of the large batch, in times train.batch.
        seconds: how long to measure, compiling not counted.
        models: how many will be trained on these data, for the recommendation.
        train: how the target is trained; large_batch is not used.
    """
    if models < 1:
        raise ValueError(f"--models must be at least 1, got {models}")
    if started_ranks() > 1:
        raise ValueError("plan: it measures one process on one device; start it without torchrun")
    made = load_task(task, task_options)
    where = device_named(device)
    small = load_task(task, {**(task_options or {}), **proxy}).model(0).to(where) if proxy else None
    model, data = made.model(0).to(where), made.dataset()
    found = measure(
        model,
        data,
        batch=train.batch,
        ratios=ratios,
        proxy=small,
        **made.functions,
        optimizer=lambda module: adamw(module, train.lr, train.weight_decay),
        bf16=train.bf16,
        workers=train.workers,
        seconds=seconds,
    )
    print(found)
    if made.loss_fn is None:
        wrong = estimate_wrong(
            *(model, data),
            batch=train.batch,
            lr=train.lr,
            steps=int(seconds / found.uniform),
            forward=made.forward,
        )
        said = recommend(
            wrong=wrong,
            models=models,
            passes=train.steps * train.batch / len(data),
            duplicates=share_of_duplicates(data),
        )
        print(said)


def report(run: Path, out: Path | None = None) -> None:
    """Write the report of a comparison again, from its metrics.

    Args:
        run: output folder of `demo` or `train`.
        out: folder that gets report.html; by default that of the run.
    """
    if out is not None and (out.is_file() or out.suffix in (".html", ".htm")):
        fix = f"as {out.with_suffix('')}, which gets report.html"
        raise ValueError(f"--out must be a folder, {fix}; got {out}")
    print(f"next: open {write_report(run, out)}")


def doctor() -> None:
    """Print what was built and what is in use, for a bug report."""
    for name, value in rho_ext.build_info().items():
        print(f"{name:14} {', '.join(value) if isinstance(value, list) else value}")
    print("next: rho-ext demo")


def _compare(out: Path, *arguments: Any, device: str, **options: Any) -> None:
    table: object = ""
    with process_group(device_named(device)):
        first = rank_and_world()[0] == 0
        try:
            table = compare(*arguments, out=out, device=device, **options)
        except JobsFailed:
            # A report on the runs that are finished is of use all the same.
            with contextlib.suppress(ValueError):
                if first:
                    print(f"next: open {write_report(out)}, which has the others")
            raise
    if first:
        # The table comes after the page, so that no terminal can cost it.
        page = write_report(out)
        print(f"{table}\nnext: open {page}")


_COMMANDS: dict[str, Any] = {
    "demo": demo,
    "train": train,
    "plan": plan,
    **{f"il {name}": function for name, function in cli_il.COMMANDS.items()},
    "report": report,
    "doctor": doctor,
}


def _parser(**options: Any) -> ArgumentParser:
    return ArgumentParser(exit_on_error=False, allow_abbrev=False, **options)


def parsers() -> dict[str, ArgumentParser]:
    """Return the parser of every command by its words, after that of `rho-ext` itself."""
    set_loader("yaml", load_yaml, (yaml.YAMLError,))
    root = _parser(
        prog="rho-ext",
        description="Train on the examples that are learnable, worth learning and not yet learnt.",
        epilog="examples: 'rho-ext demo', 'rho-ext train --method rho --train.steps 5000'",
        version=rho_ext.__version__,
    )
    options = (f"{name}: {', '.join(options_of(task_function(name)))}" for name in BUILT_IN)
    tasks = "options of the tasks, given as --task.OPTION: " + "; ".join(options)
    made, groups = {"": root}, {"": root.add_subcommands(required=True, dest="command")}
    for command, function in _COMMANDS.items():
        above, _, name = command.rpartition(" ")
        if above not in groups:
            made[above] = group = _parser(description=cli_il.__doc__)
            groups[""].add_subcommand(above, group, help=cli_il.__doc__)
            groups[above] = group.add_subcommands(required=True, dest="command")
        parameters = inspect.signature(function).parameters
        summary, _, own = f"{inspect.getdoc(function)}".partition("\n\nArgs:")
        shared = [name for name in parameters if name in _HELP and f"\n    {name}: " not in own]
        lines = (f"    {name}: {_HELP[name]}" for name in shared)
        function.__doc__ = "\n".join([f"{summary}\n\nArgs:{own}", *lines])
        has_task = "task" in parameters
        made[command] = parser = _parser(description=summary, epilog=tasks if has_task else None)
        groups[above].add_subcommand(name, parser, help=summary)
        if has_task:
            parser.add_argument("--config", action="config", help="YAML file with options")
        if {"method", "methods"} & {*parameters}:
            text = "module that registers methods of your own, as my_methods for my_methods.py"
            parser.add_argument("--import", type=str, default="", help=text)
        parser.add_function_arguments(function, as_group=False, as_positional=True)
    return made


def _mend_streams() -> None:
    """Make closed streams drop what is printed, and standard output show "?" if it must."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # It takes the lowest free number; else a checkpoint would, and get what is printed.
            os.open(os.devnull, os.O_RDWR)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, io.StringIO())
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code.

    0: done; 1: an error, named on standard error; 2: wrong arguments, or data or a folder that they
    name; 130: stopped, resumable.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    _mend_streams()
    logging.basicConfig(format="%(message)s")
    with warnings.catch_warnings():
        warned.clear()
        warnings.showwarning = show_warning
        # Options of a task belong to another function, so jsonargparse takes them as a mapping.
        return _main([re.sub(r"^--task\.", "--task_options.", argument) for argument in given])


def _main(given: list[str]) -> int:
    known = parsers()
    words = itertools.accumulate(given, "{} {}".format)
    command = "".join([*itertools.takewhile(known.__contains__, words)][-1:])
    try:
        try:
            ready: Namespace = known[""].instantiate(known[""].parse_args(given))
            for word in command.split():
                ready = ready[word]
            values = {k: v for k, v in vars(ready).items() if k != "config"}
            if module := values.pop("import", ""):
                import_here(f"--import {module}", module)
        except (ArgumentError, *EXPECTED) as error:
            say("error: ", explained(" ".join(f"{error}".split()), given, command, known))
            print(f"see {f'rho-ext {command}'.rstrip()} --help", file=sys.stderr)
            return 2
        _COMMANDS[command](**values)
        sys.stdout.flush()
    except (Stopped, KeyboardInterrupt) as stopped:
        # One Ctrl-C more would only add a traceback.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        said = f"{stopped}" or "stopped"
        if started_first():
            again = "" if "again" in said else "; run the same command again to go on"
            say("", f"{said}{again}")
        return _STOPPED
    except BrokenPipeError:
        # Nobody reads on, as after `| head`; Python would try again when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except _ERRORS as error:
        say("error: ", explained(error_text(error), given, command, known))
        return 2 if isinstance(error, _WRONG) else 1
    return 0
