"""Tasks: the data, the model and the evaluation of one training, by name or as a function."""

from __future__ import annotations

import importlib
import inspect
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, Subset, TensorDataset

from rho_train.batch import describe
from rho_train.checks import MakeModel, build_model, check_factory, check_flags, warn_of_classes
from rho_train.checksums import input_checksums
from rho_train.dataset import IndexedDataset, fingerprint
from rho_train.identity import architecture_digest, digest, digest_of, name_of
from rho_train.scoring import ForwardFunction, LossFunction


@dataclass(frozen=True, eq=False, kw_only=True)
class Task:
    """A task: data sets, models, and what people should know of them.

    Args:
        name: of the task, for people.
        train: map-style training set of n examples, (x, y) pairs or dicts.
        test: map-style test set, its examples of the same form.
        make_model: builds the model that is trained, from a seed.
        make_il_model: builds the model of the irreducible losses; None: `make_model`.
        labels: int64 (n,), for a training set that does not show its labels itself.
        test_labels: the same for the test set.
        collate_fn: joins examples into a batch, see `IndexedDataset`; None: as torch.
        forward: called as `forward(model, batch)`, returns logits (n, C); None: the model's call.
        loss_fn: for examples that are no classification, called as `loss_fn(model, batch)`, returns
            the loss of each, floating point (n,). They need no labels. `rho-ext il compute` and
            `plan` take such a task; train it in a loop of your own.
        classes: names of the classes.
        show: what people see of training example i, a text, a tensor or the Path of an image file;
            None: what the model gets.
        groups: int64 (n,), copies of an example share a number and a side of every split.
        flags: what is known of the training examples, bool (n,) by name, such as "noisy".
        description: one sentence under the title of a report.
        attribution: whom to name when results are shown.

    Warns of classes without training examples.

    Raises:
        ValueError: a data set is not map-style; labels, groups or flags do not have one value an
            example; `make_model` is no function of a seed; `forward` and `loss_fn` are given.

    Examples:
        >>> import torch
        >>> x, y = torch.randn(40, 3), torch.arange(40) % 2
        >>> task = Task(name="random", train=TensorDataset(x, y), test=TensorDataset(x, y),
        ...     make_model=lambda seed: nn.Linear(3, 2))
        >>> len(task.dataset()), task.dataset()[7].ids
        (40, 7)
    """

    name: str
    train: Dataset[Any]
    test: Dataset[Any]
    make_model: MakeModel
    make_il_model: MakeModel | None = None
    labels: Tensor | None = None
    test_labels: Tensor | None = None
    collate_fn: Callable[[list[Any]], Any] | None = None
    forward: ForwardFunction | None = None
    loss_fn: LossFunction | None = None
    classes: Sequence[str] = ()
    show: Callable[[int], object] | None = None
    groups: Tensor | None = None
    flags: Mapping[str, Tensor] = field(default_factory=dict)
    description: str = ""
    attribution: str = ""

    def __post_init__(self) -> None:
        where, labels, sets = f"Task {self.name}", list[Tensor](), list[IndexedDataset]()
        if self.forward and self.loss_fn:
            raise ValueError(f"{where}: give forward or loss_fn, which calls the model itself")
        for make in (self.make_model, self.make_il_model or self.make_model):
            check_factory(where, make)
        for options, read in (
            ("train, labels", self.dataset),
            ("test, test_labels", self.eval_set),
        ):
            try:
                sets.append(read())
                if self.loss_fn is None:
                    labels.append(sets[-1].labels)
            except (TypeError, ValueError) as error:
                raise ValueError(f"{where}: {options}: {error}") from error
        n = len(sets[0])
        if not n or not len(sets[1]):
            raise ValueError(f"{where}: train and test must have examples")
        groups = self.groups
        if groups is not None and not (
            isinstance(groups, Tensor) and groups.shape == (n,) and groups.dtype == torch.int64
        ):
            got = describe(groups)
            raise ValueError(
                f"{where}: groups must be int64 ({n},), one number an example, got {got}"
            )
        check_flags(where, self.flags, n)
        if self.loss_fn is None:
            warn_of_classes(where, labels[0], labels[1], self.classes)

    def dataset(self, rows: Tensor | None = None) -> IndexedDataset:
        """Return the training set with ids, or `rows`, int64 (m,), of it, which get ids from 0."""
        return self._indexed(self.train, self.labels, rows)

    def eval_set(self) -> IndexedDataset:
        """Return the test set, read as the training set is."""
        return self._indexed(self.test, self.test_labels, None)

    def model(self, seed: int) -> nn.Module:
        """Build the model that is trained."""
        return build_model(f"Task {self.name}", self.make_model, seed)

    def il_model(self, seed: int) -> nn.Module:
        """Build the model of the irreducible losses."""
        return build_model(f"Task {self.name}", self.make_il_model or self.make_model, seed)

    @property
    def functions(self) -> dict[str, Any]:
        """Return `forward` and `loss_fn`, by name."""
        return {"forward": self.forward, "loss_fn": self.loss_fn}

    @cached_property
    def data_identity(self) -> dict[str, Any]:
        """Counts, names of functions, and hashes of labels, groups, flags and inputs."""
        train, test = self.dataset(), self.eval_set()
        functions = {**self.functions, "collate_fn": self.collate_fn}
        parts = [data.tensors for data in (self.train, self.test) if type(data) is TensorDataset]
        return {
            "task": self.name,
            "train": fingerprint(train),
            "test": fingerprint(test),
            "inputs": digest_of([input_checksums(train), input_checksums(test)]),
            "content": digest(*chain(*parts)),
            "groups": None if self.groups is None else digest(self.groups),
            "flags": {name: digest(flag) for name, flag in sorted(self.flags.items())},
            **{name: name_of(function) for name, function in functions.items() if function},
        }

    def _indexed(
        self, data: Dataset[Any], labels: Tensor | None, rows: Tensor | None
    ) -> IndexedDataset:
        if rows is not None:
            labels = None if labels is None else labels[rows]
            if type(data) is TensorDataset:
                # One read a batch, where a Subset would read example by example.
                data = TensorDataset(*(part[rows] for part in data.tensors))
            else:
                data = Subset(data, rows.tolist())
        return IndexedDataset(data, labels=labels, collate_fn=self.collate_fn)


TaskSource: TypeAlias = str | Callable[..., Task]
"""A built-in task by name, "module:function", or a function that returns a Task."""

BUILT_IN = ("letters", "table", "images", "text")


def load_task(source: TaskSource, options: Mapping[str, Any] | None = None, seed: int = 0) -> Task:
    """Make a task of a built-in name, "module:function" or a function, by its options.

    `seed` is for its own noise or split, if it takes one. A ValueError says what does not fit.

    Examples:
        >>> load_task("letters", {"noise": 0.1}, seed=3).name
        'Letter Recognition'
    """
    function, options = task_function(source), dict(options or {})
    name = source if isinstance(source, str) else function.__qualname__
    signature = inspect.signature(function)
    for option, value in options.items():
        if parameter := signature.parameters.get(option):
            options[option] = converted(f"task {name}: {option}", value, parameter)
    if "seed" in signature.parameters:
        options.setdefault("seed", seed)
    try:
        signature.bind(**options)
    except TypeError as error:
        known = ", ".join(options_of(function)) or "none"
        raise ValueError(f"task {name}: {error}; its options are {known}") from error
    made = function(**options)
    if not isinstance(made, Task):
        got = type(made).__name__
        raise ValueError(f"task {name}: the function must return a rho_train.Task, got {got}")
    return made


def converted(where: str, value: Any, parameter: inspect.Parameter) -> Any:
    """Return the value of an option in the type of its default, or as a Path."""
    default, wanted = parameter.default, type(parameter.default)
    if isinstance(value, str) and "Path" in str(parameter.annotation):
        return Path(value)
    if default is None or default is parameter.empty:
        return value
    accepted = {float: (float, int), str: (str, int, float), tuple: (tuple, list)}
    if not isinstance(value, accepted.get(wanted, wanted)) or (
        isinstance(value, bool) and wanted is not bool
    ):
        fix = f"; write [{value}]" if wanted is tuple and type(value) is int else ""
        got = f"as {default!r} is, got {value!r}{fix}"
        raise ValueError(f"{where} must be {wanted.__name__}, {got}")
    return value if isinstance(value, wanted) else wanted(value)


def plain_options(source: TaskSource, options: Mapping[str, Any]) -> dict[str, str]:
    """Return options as texts, of files and folders the name alone: their content counts."""
    parameters = inspect.signature(task_function(source)).parameters
    return {
        option: Path(value).name
        if option in parameters and "Path" in str(parameters[option].annotation)
        else str(list(value) if isinstance(value, tuple) else value)
        for option, value in sorted(options.items())
    }


def options_of(function: Callable[..., Task]) -> list[str]:
    """Return the options of a task with their defaults, such as "noise=0.0", without `seed`."""
    parameters = inspect.signature(function).parameters.values()
    return [f"{p.replace(annotation=p.empty)}" for p in parameters if p.name != "seed"]


def task_function(source: TaskSource) -> Callable[..., Task]:
    """Find the function of a task."""
    if callable(source):
        return source
    full = f"rho_train.tasks:{source}" if source in BUILT_IN else source
    module_name, _, name = full.partition(":")
    if not module_name or not name:
        known = ", ".join(BUILT_IN)
        raise ValueError(f"task must be one of {known} or module:function, got {source!r}")
    function: Any = getattr(import_here(f"task {source}", module_name), name, None)
    if not callable(function):
        raise ValueError(f"task {source}: {module_name} has no function {name!r}")
    return function  # type: ignore[no-any-return]


def import_here(where: str, module: str) -> ModuleType:
    """Import a module of the user; a ValueError names the caller."""
    if module.startswith(".") or module.endswith(".py") or "/" in module:
        fix = "give the name of a module, as my_module for my_module.py"
        raise ValueError(f"{where}: {fix}")
    # A console command does not look into the folder that it is called in.
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(module)
    except (ImportError, SyntaxError) as error:
        raise ValueError(f"{where}: {error}") from error
    except Exception as error:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if f.name == "<module>"]
        at = "".join(f" ({Path(f.filename).name}, line {f.lineno})" for f in frames[-1:])
        raise ValueError(f"{where}: {type(error).__name__}: {error}{at}") from error


def model_identity(model: nn.Module) -> dict[str, Any]:
    """Return the architecture of a model as plain values; its weights differ between machines."""
    return {
        "class": type(model).__name__,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "digest": architecture_digest(model)[:16],
    }
