"""Comparisons: several methods and seeds on one task, resumable and in processes."""

from __future__ import annotations

import os
import pickle
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

import torch
from torch import nn

import rho_ext
from rho_train.comparison.jobs import ILWork, Run
from rho_train.comparison.runner import Job, JobsFailed, run_jobs
from rho_train.comparison.spec import EqualCost, SeedData, Spec, Variant, variants_of
from rho_train.cost import Costs, forward_cost, training_cost
from rho_train.distributed import device_named, on_first, rank_and_world
from rho_train.dry_run import dry_run
from rho_train.files import atomic_write, from_line, to_line
from rho_train.global_scope import Scope
from rho_train.identity import digest_of
from rho_train.il import ILRecipe
from rho_train.methods.registry import find
from rho_train.progress import progress_bar
from rho_train.report import read_experiment, write_report
from rho_train.run_folder import RunFolder
from rho_train.scoring import Scoring
from rho_train.tasks.task import TaskSource
from rho_train.trainer import TrainConfig

Where = Mapping[str, str | int]
_COUNTED = 32  # examples of the batch whose passes are counted


@dataclass(frozen=True)
class Comparison:
    """The finished runs of `compare`, in `folder`; as text, the table of their results."""

    folder: Path

    def __str__(self) -> str:
        return f"{read_experiment(self.folder)}"

    def _repr_html_(self) -> str:
        return f"<pre>{escape(str(self))}</pre>"

    def report(self, out: str | Path | None = None) -> Path:
        """Write the report, into the folder itself unless `out` is given, and return its path."""
        return write_report(self.folder, None if out is None else Path(out))


def compare(
    task: TaskSource,
    methods: Sequence[str | Variant],
    seeds: Sequence[int],
    *,
    out: str | Path,
    task_options: Mapping[str, Any] | None = None,
    baseline: str | None = None,
    train: TrainConfig | None = None,
    il: ILRecipe | None = None,
    scoring: Scoring | None = None,
    holdout: float = 0.5,
    folds: int = 2,
    validation: float = 0.0,
    store: str | Path | None = None,
    processes: int = 0,
    scope: Scope = "local",
    device: str = "auto",
    title: str = "",
    description: str = "",
    equal_cost: bool = False,
    origin: Where | None = None,
) -> Comparison:
    """Train every method with every seed, and keep metrics, stores and checkpoints in a folder.

    All methods of a seed have the same data, noise and split, so differences are paired by seed.
    Variants with equal options for their irreducible losses share one computation. Finished runs
    in `out` are kept, unfinished ones go on, and more methods and seeds are added to them. A run
    that fails does not stop the others.

    Args:
        task: see `load_task`; for several processes its function must be importable.
        methods: Variants, or names of methods of selection, with cross-fit irreducible losses where
            they need any; in the order of the table.
        seeds: each draws its own split, initial weights and order, and seeds the task.
        out: output folder.
        task_options: keyword arguments of the task's function.
        baseline: name of the variant that the others are compared with; None: the first.
        train: how the target is trained.
        il: how the IL models are trained.
        scoring: how large batches are scored; bf16 as in training unless it says otherwise.
        holdout: share of the training examples that a holdout IL model trains on.
        folds: of the cross-fit.
        validation: share of the training examples that curves are of, and nothing trains on; the
            test set is then read once, at the end of a run. 0: curves are of the test set.
        store: irreducible losses for variants with `il="stored"`: a file, or a folder of several.
        processes: how many runs at a time; 0: one for each core, one on a GPU. A script that asks
            for more than one needs `if __name__ == "__main__":`.
        scope: of several ranks that train one run together, see `Selector`; "local" selects the
            same share of each rank's part of a large batch.
        device: cpu, cuda, cuda:N, or auto: a GPU if there is one.
        title, description: of the report; empty: those of the task.
        equal_cost: every variant makes as many steps as have the counted cost of the baseline, see
            `rho_train.cost`: scoring and IL included, IL of a store not. False: all make
            `train.steps`. For some variants alone, or with precomputed IL, give `Variant(cost=)`.
        origin: what else to record of where the numbers come from, such as a commit.

    Raises:
        ValueError: an argument is out of range, the task cannot be made, a variant changes the
            data, its IL cost more than all of the baseline, `out` holds runs with other data or
            settings, or another process is writing there.
        OSError: `out` cannot be written.
        JobsFailed: runs failed; raised when all others are done.
        Stopped: Ctrl-C or SIGTERM; call it again to go on.

    Examples:
        >>> import tempfile
        >>> config = TrainConfig(steps=20, eval_every=10)
        >>> done = compare("letters", ["uniform", "loss"], [0], out=tempfile.mkdtemp(),
        ...     train=config, processes=1)
        >>> sorted(path.name for path in (done.folder / "runs").iterdir())
        ['loss-seed0', 'uniform-seed0']
    """
    if processes < 0:
        raise ValueError(f"processes must be at least 0, got {processes}")
    variants = variants_of(methods)
    baseline = baseline or (variants[0].name if variants else "")
    if equal_cost:
        equal = EqualCost(baseline)
        variants = tuple(
            v if v.cost or v.name == baseline else replace(v, cost=equal) for v in variants
        )
    spec = Spec(
        task=task,
        variants=variants,
        seeds=tuple(seeds),
        baseline=baseline,
        task_options=dict(task_options or {}),
        train=train or TrainConfig(),
        il=il or ILRecipe(),
        scoring=scoring or Scoring(),
        holdout=holdout,
        folds=folds,
        validation=validation,
        store=None if store is None else Path(store),
        scope=scope,
        device=device_named(device),
    )
    rank, world = rank_and_world()
    if world > 1 and len(variants) * len(spec.seeds) > 1:
        raise ValueError(
            f"compare: {world} ranks train one run together; give one method and one seed, or "
            "start it without torchrun, for it runs processes by itself"
        )
    out = Path(out)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    on_gpu = spec.device.type == "cuda"
    processes = min(processes or (1 if on_gpu else cores) or 1, len(variants) * len(spec.seeds))
    threads = torch.get_num_threads() if processes == 1 else max(1, (cores or 1) // processes)
    where = {**_environment(max(processes, world), threads, spec.device), **(origin or {})}
    jobs, planned = _plan(spec, out, where)
    planned["environment"] = where
    if processes > 1:
        try:
            pickle.dumps([job.work for job in jobs])
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise ValueError(
                f"compare: {processes} processes must be able to import the task ({error}); "
                "move it to the top of a module, or give processes=1"
            ) from error
    with (
        RunFolder(out, where="compare").lock("wait for it, or choose another --out", below=True),
        progress_bar(sum(job.steps for job in jobs), hidden=rank > 0) as progress,
    ):
        on_first(partial(_describe, out / "experiment.json", planned, title, description))
        failed = run_jobs(jobs, progress, processes, threads)
    if failed:
        raise JobsFailed("\n".join(f"{name}: {error}" for name, error in failed.items()))
    return Comparison(out)


def _plan(spec: Spec, out: Path, where: Where) -> tuple[list[Job], dict[str, Any]]:
    """Make and check data and models; return the jobs, and what experiment.json says of them."""
    il_jobs, run_jobs = dict[str, Job](), list[Job]()
    data_of, step_cost = dict[str, str](), dict[str, float]()
    for seed in spec.seeds:
        base, runs = SeedData.make(spec, seed), dict[str, Run]()
        loaded, counted = {_key(spec): base}, dict[str, Costs]()
        data_of[f"{seed}"] = digest_of(base.task.data_identity)
        for variant in spec.variants:
            own = spec.of(variant)
            key = _key(own)
            data = loaded[key] = loaded.get(key) or SeedData.make(own, seed)
            if data.task.loss_fn is not None:
                raise ValueError(
                    f"task {data.task.name} has a loss_fn, and runs are compared by accuracy; use "
                    "`rho-ext il compute` and `rho-ext plan`, and rho_train.Selector(loss_fn=...) "
                    "in a loop of your own"
                )
            if not torch.equal(data.dataset.labels, base.dataset.labels):
                raise ValueError(
                    f"variant {variant.name}: its task options change the training data; give "
                    "them to all variants"
                )
            if key not in counted:
                counted[key] = _costs(data.task.model(seed), data)
            il, il_name, il_cost = ILWork(own, data, variant.il), "", 0.0
            if variant.computes_il:
                il_name = f"{il.name()}-seed{seed}"
                if il_name not in counted:
                    counted[il_name] = _costs(data.task.il_model(0), data)
                il_cost = il.cost(counted[il_name])
            passes = getattr(find(variant.method), "passes", 1) if variant.selects else 1
            costs = replace(counted[key], passes=passes, il=il_cost)
            run = runs[variant.name] = Run(own, out, variant, seed, il_name, costs, own.train.steps)
            run.check(data)
            if il_name:
                il_jobs.setdefault(il_name, Job(il_name, run.compute_il, il.steps()))
        for name, run in runs.items():
            run = replace(run, steps=run.equal_steps(runs))
            run_jobs.append(Job(f"{name}-{seed}", partial(run.train, where), run.steps, run.il))
        step_cost[f"{seed}"] = runs[spec.baseline].step_cost
    planned = {
        "title": base.task.name,
        "description": f"{base.task.description} {base.task.attribution}".strip(),
        "methods": [{"name": v.name, "label": v.label, "settings": f"{v}"} for v in spec.variants],
        "seeds": list(spec.seeds),
        "baseline": spec.baseline,
        "step_cost": step_cost,
        "config": spec.identity(base.task),
        "data": data_of,
    }
    return [*il_jobs.values(), *run_jobs], planned


def _key(spec: Spec) -> str:
    return repr([spec.task_options, spec.holdout])


def _costs(model: nn.Module, data: SeedData) -> Costs:
    """Return the costs of an example, by some from the whole data set."""
    n, functions = len(data.dataset), data.task.functions
    ids = torch.arange(0, n, -(-n // _COUNTED), dtype=torch.int64, device="cpu")
    batch, forward = dry_run("compare", model, data.dataset, ids, **functions), data.task.forward
    return Costs(
        forward_cost(model, batch, forward=forward), training_cost(model, batch, forward=forward)
    )


def _describe(path: Path, planned: dict[str, Any], title: str, description: str) -> None:
    """Write experiment.json, with the methods and seeds that it had before."""
    described = dict(planned)
    if path.exists():
        found = from_line(path.read_bytes(), path)
        config, had = planned["config"], {one["name"]: one for one in found["methods"]}
        methods = {one["name"]: one for one in planned["methods"]}
        differing = [key for key in sorted(config) if found["config"].get(key) != config[key]]
        for seed, data in planned["data"].items():
            differing += [f"data of seed {seed}"] if found["data"].get(seed, data) != data else []
        for name, own in methods.items():
            same = had.get(name, own)["settings"] == own["settings"]
            differing += [] if same else [f"method {name}"]
        if differing:
            raise ValueError(
                f"{path.parent} holds another comparison: {', '.join(differing)} differ; choose "
                "another --out, or delete that folder"
            )
        described |= {
            "methods": list((had | methods).values()),  # labels may be others now
            "seeds": list(dict.fromkeys([*found["seeds"], *planned["seeds"]])),
            **{key: found[key] | planned[key] for key in ("data", "step_cost")},
            "environment": found["environment"],  # each run has its own in its origin.json
        }
    labels = ", ".join(one["label"] for one in described["methods"])
    described["title"] = title or f"{labels} on {planned['title']}"
    described["description"] = description or planned["description"]
    atomic_write(path, to_line(described))


def _environment(processes: int, threads: int, device: torch.device) -> dict[str, str | int]:
    """Describe machine and software, for the report."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text("utf-8", "replace").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    gpu = f" ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else ""
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "processor": names[0] if names else platform.processor() or "unknown",
        "device": f"{device}{gpu}",
        "processes": processes,
        "threads per process": threads,
        "instruction set": str(rho_ext.build_info()["isa"]),
        "rho_ext": rho_ext.__version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
    }
