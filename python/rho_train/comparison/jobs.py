"""The jobs of a comparison; each leaves its result in the output folder."""

from __future__ import annotations

import re
import shutil
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from rho_train.comparison.spec import SeedData, Spec, Variant
from rho_train.cost import Costs
from rho_train.distributed import on_first, rank_and_world
from rho_train.files import atomic_write, to_line
from rho_train.history import History
from rho_train.identity import digest_of
from rho_train.il import ILStore, crossfit_il, holdout_il
from rho_train.progress import OnStep
from rho_train.selector import Selector
from rho_train.tasks.task import model_identity
from rho_train.trainer import Trainer
from rho_train.trainer.evaluation import evaluate


@dataclass(frozen=True)
class ILWork:
    """The computation of irreducible losses, of the kind "holdout" or "crossfit", for a seed."""

    spec: Spec
    data: SeedData
    kind: str

    def identity(self) -> dict[str, Any]:
        """Return what determines the losses, as plain values."""
        option = "holdout" if self.kind == "holdout" else "folds"
        return {
            "kind": self.kind,
            option: getattr(self.spec, option),
            "data": digest_of(self.data.task.data_identity),
            "validation": self.spec.validation,
            "model": model_identity(self.data.task.il_model(0))["digest"],
            "recipe": repr(self.spec.il),
        }

    def name(self) -> str:
        """Return a name: the same when the losses are the same."""
        return f"{self.kind}-{digest_of(self.identity())[:8]}"

    def steps(self) -> int:
        """Return the training steps that it takes."""
        return sum(map(self.spec.il.steps, self._sizes()))

    def _sizes(self) -> list[int]:
        """Return how many examples each model trains on; copies may move some between folds."""
        n, spec = len(self.data.dataset), self.spec
        if self.kind == "holdout":
            return [round(spec.holdout * n)]
        return [n - len(range(fold, n, spec.folds)) for fold in range(spec.folds)]

    def cost(self, costs: Costs) -> float:
        """Return the counted cost, by that of an example in the IL model.

        The examples that a model scores also validate it, `evals_per_epoch` times an epoch.
        """
        n, recipe, trained = len(self.data.dataset), self.spec.il, 0
        for size in self._sizes():
            trained += recipe.steps(size) * min(recipe.batch_size, size)
        scored = n - self._sizes()[0] if self.kind == "holdout" else n
        passes = recipe.epochs * recipe.evals_per_epoch + 1
        return sum(costs.spent(trained, passes * scored).values())

    def compute(self, seed: int, work: Path, on_step: OnStep) -> ILStore:
        """Compute, resumed from the folder `work`; weights and order by `seed`."""
        spec, data = self.spec, self.data
        # The target has the seed itself: its IL model must not start from the same weights.
        recipe = replace(spec.il, seed=spec.il.seed + 1000 * (seed + 1))
        options: dict[str, Any] = {"folder": work, "on_step": on_step, **data.task.functions}

        def model(seed: int) -> nn.Module:
            return data.task.il_model(seed).to(spec.device)

        if self.kind == "holdout":
            return holdout_il(model, data.dataset, data.held_out, recipe, **options)
        return crossfit_il(model, data.dataset, spec.folds, recipe, groups=data.groups, **options)


def run_path(out: Path, name: str, seed: int) -> Path:
    """Return the folder of the run of one variant."""
    return out / "runs" / f"{name}-seed{seed}"


@dataclass(frozen=True)
class Run:
    """One variant with one seed, in a comparison whose output folder is `out`."""

    spec: Spec
    """Its own, with the overrides in place."""
    out: Path
    variant: Variant
    seed: int
    il: str
    """The name of its irreducible losses, empty if it computes none."""
    costs: Costs
    steps: int

    def cost(self, steps: int, *, il: bool) -> float:
        """Return the counted cost of so many of its steps, as the run will count it itself."""
        train = self.spec.train
        scored = steps * train.large_batch if self.variant.selects else 0
        parts = self.costs.spent(steps * train.batch, scored)
        return sum(parts.values()) if il else parts["training"] + parts["scoring"]

    @property
    def step_cost(self) -> float:
        """The cost of a step without selection."""
        return self.costs.spent(self.spec.train.batch, 0)["training"]

    def equal_steps(self, runs: Mapping[str, Run]) -> int:
        """Return its steps, as many as have the cost of another of the runs if it is to equal one.

        A ValueError says that it has none, or that torch can count no work in its model.
        """
        name, equal = self.variant.name, self.variant.cost
        if equal is None:
            return self.steps
        known = [name for name, run in runs.items() if run.variant.cost is None]
        if equal.to not in known:
            raise ValueError(
                f"variant {name}: cost: to must be one with cost=None ({', '.join(known)}), got "
                f"{equal.to!r}"
            )
        other = runs[equal.to]
        if not (self.costs.forward and other.costs.forward):
            raise ValueError(
                f"variant {name}: cost: torch counts no work in its model or that of {equal.to}, "
                "as of operators of your own; compare them with equal steps"
            )
        budget, unit = other.cost(other.steps, il=equal.il), other.step_cost
        steps = bisect_right(range(1, 1 << 60), budget, key=partial(self.cost, il=equal.il))
        if steps < 1:
            raise ValueError(
                f"variant {name}: cost: {equal.to} costs {budget / unit:,.1f} uniform steps, the "
                f"irreducible losses of {name} alone {self.costs.il / unit:,.1f}, so no step is "
                f"left; give {equal.to} more train.steps, take fewer il.epochs or a smaller IL "
                "model, or precompute the losses: il = stored"
            )
        return steps

    @property
    def store(self) -> Path:
        """The file of the irreducible losses that are computed for it."""
        return self.out / "il" / f"{self.il}.safetensors"

    def compute_il(self, on_step: OnStep) -> None:
        """Compute its irreducible losses, unless the store is there already."""
        data = SeedData.make(self.spec, self.seed)
        il, work = ILWork(self.spec, data, self.variant.il), self.store.with_suffix(".unfinished")
        if self.store.exists():
            ILStore.load(self.store, data.dataset).check()
            on_step(il.steps())
        else:
            found = il.compute(self.seed, work, on_step)
            on_first(lambda: found.save(self.store))
        on_first(lambda: shutil.rmtree(work, ignore_errors=True))

    def check(self, data: SeedData) -> None:
        """Refuse what the run could not do, before hours go into irreducible losses."""
        if self.variant.computes_il:  # any will do
            zeros = torch.zeros(len(data.dataset), dtype=torch.float32, device="cpu")
            il: ILStore | None = ILStore.of(data.dataset, zeros)
        elif (il := self._il(data)) is not None:
            il.check()
        try:
            with TemporaryDirectory() as folder:
                Trainer(**self._arguments(data, il) | {"folder": folder})
        except (ValueError, TypeError, IndexError) as error:
            raise ValueError(f"variant {self.variant.name}: {error}") from error

    def train(self, where: Mapping[str, str | int], on_step: OnStep) -> None:
        """Train, and write origin.json first and test.json at the end."""
        data = SeedData.make(self.spec, self.seed)
        task, store = data.task, self._il(data)
        given = self._arguments(data, store)
        model, train, folder = given["model"], given["config"], given["folder"]
        folder.mkdir(parents=True, exist_ok=True)

        def write_origin() -> None:
            if not (path := folder / "origin.json").exists():
                own = {} if store is None else {"il_loss": _loss(store)}
                atomic_write(path, to_line({**where, **own}))

        def test() -> None:
            if (path := folder / "test.json").exists():
                return
            found = evaluate(model, task.eval_set(), bf16=train.bf16, forward=task.forward)
            accuracies = {"accuracy": found.accuracy, "class_accuracy": found.class_accuracy}
            atomic_write(path, to_line(accuracies))

        on_first(write_origin)
        il_seconds = (
            float(store.info["seconds"]) if store is not None and self.variant.computes_il else 0.0
        )
        trainer = Trainer(**given, il_seconds=il_seconds)
        on_step(trainer.step)
        trainer.fit(on_step)
        on_first(test)

    def _il(self, data: SeedData) -> ILStore | None:
        path = self.store if self.variant.computes_il else self.spec.store
        return ILStore.load(path, data.dataset) if path and self.variant.uses_il else None

    def _arguments(self, data: SeedData, il: ILStore | None) -> dict[str, Any]:
        """Return the arguments of the Trainer."""
        spec, variant, task, selector = self.spec, self.variant, data.task, None
        train, ids = replace(spec.train, steps=self.steps), data.rest
        if variant.examples == "all":
            ids = torch.arange(len(data.dataset), dtype=torch.int64, device="cpu")
        if il is not None and variant.il == "stored":
            ids = il.known.nonzero().flatten()
        if il is not None and variant.keep < 1.0:
            ids = il.lowest(variant.keep, ids)
        if variant.selects:
            world = rank_and_world()[1] if spec.scope == "local" else 1
            scoring = spec.scoring
            selector = Selector(
                il=il,
                k=train.batch // world,
                method=variant.method,
                # Losses of a store are those without.
                label_smoothing=train.label_smoothing if il is None else 0.0,
                scoring=replace(scoring, bf16=train.bf16) if scoring.bf16 is None else scoring,
                forward=task.forward,
                history=History(len(data.dataset)),
                seed=self.seed,
                scope=spec.scope,
            )
        return {
            "model": task.model(self.seed).to(spec.device),
            "dataset": data.dataset,
            "train_ids": ids,
            "eval_set": data.eval_set,
            "config": train,
            "folder": run_path(self.out, variant.name, self.seed),
            "name": variant.name,
            "seed": self.seed,
            "selector": selector,
            "agreement": variant.method == "agreement",
            "forward": task.forward,
            "flags": data.flags,
            "costs": self.costs,
            "classes": task.classes,
            "show": None if task.show is None else data.show,
        }


def _loss(store: ILStore) -> float | None:
    """Return the mean loss of the IL models on what they score; a converted store has none."""
    # One value a model; seeds that were averaged are separated by another sign.
    losses = re.findall(r"[^;, ]+", store.info.get("holdout_loss", ""))
    return fmean(map(float, losses)) if losses else None
