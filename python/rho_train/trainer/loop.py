"""The training loop: plain PyTorch, with an optional Selector before the step."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import KW_ONLY, asdict, dataclass, field
from itertools import chain, islice, repeat
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import Dataset

from rho_train.agreement import AgreementSampler
from rho_train.batch import ids_of, to
from rho_train.checks import check_counts
from rho_train.cost import Costs
from rho_train.dataset import IndexedDataset, fingerprint
from rho_train.distributed import agree, any_rank, on_all, on_first, rank_and_world
from rho_train.identity import architecture_digest, digest
from rho_train.il.store import ILStore
from rho_train.progress import OnStep, Stopped, no_op, stop_signals
from rho_train.rng import generator
from rho_train.run_folder import RunFolder, random_state, restore_random_state
from rho_train.sampler import LargeBatchSampler, loader
from rho_train.scoring import ForwardFunction, device_of
from rho_train.selector import Selector
from rho_train.trainer.checks import check_run, check_trained
from rho_train.trainer.evaluation import eval_data
from rho_train.trainer.metrics_logger import MetricsLogger
from rho_train.training_step import (
    LRSchedule,
    adamw,
    check_adamw,
    lr_schedule,
    subnormals_flushed,
    training_step,
)

_CHECKPOINT = "checkpoint.pt"
_WAIT = "wait for it, or train in another folder"


@dataclass(frozen=True)
class TrainConfig:
    """Settings of a training run.

    Args:
        steps: optimizer steps.
        large_batch: examples that are drawn and scored for a step, n_B.
        batch: examples that a step trains on, n_b.
        lr: learning rate of AdamW.
        weight_decay: weight decay of AdamW.
        label_smoothing: of the loss that a step trains on, in [0, 1]; evaluations are without.
        gce: q of `rho_train.gce_losses`, which a step trains on; 0: on the cross-entropy.
        schedule: of the learning rate: constant (as in the paper), linear or cosine to zero.
        bf16: forward passes under bfloat16 autocast.
        compile: run the model through torch.compile; compiling, at every start, counts as training.
        eval_every: steps between evaluations.
        log_every: steps between training records.
        checkpoint_every: steps between checkpoints.
        workers: processes that load batches; neither the batches nor random transforms that draw
            from the global generators of torch, NumPy or random depend on them.

    Raises:
        TypeError, ValueError: a setting has another type, or is out of range.

    Examples:
        >>> TrainConfig(steps=100, large_batch=64, batch=16).lr
        0.001
    """

    steps: int = 2000
    large_batch: int = 320
    batch: int = 32
    lr: float = 1e-3
    weight_decay: float = 0.01
    label_smoothing: float = 0.0
    gce: float = 0.0
    schedule: LRSchedule = "constant"
    bf16: bool = False
    compile: bool = False
    eval_every: int = 50
    log_every: int = 50
    checkpoint_every: int = 1000
    workers: int = 0

    def __post_init__(self) -> None:
        counts = ("steps", "large_batch", "batch", "eval_every", "log_every", "checkpoint_every")
        check_counts(self, *counts)
        check_counts(self, "workers", least=0)
        if self.batch > self.large_batch:
            raise ValueError(
                f"TrainConfig: batch = {self.batch} must not be larger than large_batch = "
                f"{self.large_batch}, which it is selected from"
            )
        losses = {"label_smoothing": self.label_smoothing, "gce": self.gce}
        for name, value in losses.items():
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"TrainConfig: {name} must lie in [0, 1], got {value}")
        if all(losses.values()):
            raise ValueError(f"TrainConfig: give one of {' and '.join(losses)}, got {losses}")
        check_adamw("TrainConfig", self.lr, self.weight_decay, self.schedule)


@dataclass(eq=False, repr=False)
class Trainer:
    """Train a classifier on some examples of a data set, with metrics and checkpoints in a folder.

    With a Selector every step draws a large batch and trains on the examples that it selects, else
    it draws the small batch directly. `fit` seeds torch's global generators (dropout draws from
    them), or restores them when it resumes. In a process group all ranks train one model, in
    DistributedDataParallel, each on its share of every batch; the first writes the folder.

    Args:
        model: trained in place, on the device of its parameters.
        dataset: training data with ids.
        train_ids: int64 (n,), the examples to train on.
        eval_set: map-style data set of evaluations, its labels shown as `IndexedDataset` needs it.
        config: settings of the training.
        folder: for metrics.jsonl and checkpoint.pt, from which a run resumes; with a History in the
            Selector, selected.json is added at the end.
        name: of the method, in every record.
        seed: of the order of the batches.
        selector: selects from large batches; None: plain training.
        agreement: draw the small batches by an `AgreementSampler`, which with `costs` makes fewer
            steps, so that the run costs as much as `config.steps` uniform ones; not with a
            Selector.
        forward: called as `forward(model, batch)`, returns logits (n, C); the Selector must have
            the same one. None: the model's call.
        flags: known properties of all examples by id, such as `noisy`; records count them.
        il_seconds, costs, classes: seconds of the irreducible losses, counted cost of an example
            (`rho_train.cost`) and names of the classes, for the records.
        show: returns what people see of the example with an id, a text or a tensor; None: what the
            model gets.

    Raises:
        TypeError, IndexError, ValueError: an argument does not fit the others, the irreducible
            losses or the checkpoint belong to another run or data set, all losses are unknown, the
            ranks differ, or another process trains in the folder.
        RuntimeError: not all ranks of the process group make a Trainer.
        OSError: the folder cannot be written.

    Examples:
        >>> import tempfile
        >>> from torch.utils.data import TensorDataset
        >>> from rho_train import IndexedDataset, Selector, TrainConfig
        >>> data = TensorDataset(torch.randn(64, 2), torch.arange(64) % 2)
        >>> config = TrainConfig(steps=3, large_batch=8, batch=4)
        >>> selector = Selector(k=4, method="loss")
        >>> trainer = Trainer(nn.Linear(2, 2), IndexedDataset(data), torch.arange(64), data, config,
        ...     tempfile.mkdtemp(), name="loss", selector=selector)
        >>> trainer.fit()
        >>> trainer.step, selector.scored, selector.selected
        (3, 24, 12)
    """

    model: nn.Module
    dataset: IndexedDataset
    train_ids: Tensor
    eval_set: Dataset[Any]
    config: TrainConfig
    folder: str | Path
    _: KW_ONLY
    name: str
    seed: int = 0
    selector: Selector | None = None
    agreement: bool = False
    forward: ForwardFunction | None = None
    flags: Mapping[str, Tensor] = field(default_factory=dict)
    il_seconds: float = 0.0
    costs: Costs | None = None
    classes: Sequence[str] = ()
    show: Callable[[int], object] | None = None

    def __post_init__(self) -> None:
        model, config, selector = self.model, self.config, self.selector
        self.device, self.ranks = device_of(model), rank_and_world()
        self.eval_set = eval_data(self.eval_set, self.device)
        check_run(self)
        self.flags = {name: flag.to(self.device) for name, flag in self.flags.items()}
        identity = {
            "config": asdict(config),
            "name": self.name,
            "seed": self.seed,
            "data": fingerprint(self.dataset),
            "train_ids": digest(self.train_ids),
            "selection": self.agreement or (selector and selector.identity(config.steps)),
            "architecture": architecture_digest(model),
            "ranks": self.ranks[1],
        }
        agree("Trainer", identity)
        self.optimizer = adamw(model, config.lr, config.weight_decay)
        self.schedule = lr_schedule(self.optimizer, config.schedule, config.steps)
        # What has the same state on all ranks.
        self._parts: dict[str, Any] = {"model": model, "optimizer": self.optimizer}
        self._parts["schedule"] = self.schedule
        self.runner: Any = torch.compile(model) if config.compile else model
        rank, world = self.ranks
        if world > 1:
            self.runner = DistributedDataParallel(self.runner)
        self.step = self.trained = 0
        self.sampler: AgreementSampler | None = None
        if self.agreement:
            costs = self.costs
            self.sampler = AgreementSampler(
                self.train_ids,
                config.batch,
                steps=config.steps,
                seed=self.seed,
                rescoring_cost=costs.forward / costs.training if costs and costs.training else 0.0,
            )
        self._random_state: dict[str, Any] | None = None
        self.work = RunFolder(self.folder, where="Trainer", identity=identity)
        with self.work.lock(_WAIT):
            # Records beyond the checkpoint are cut off, so nobody may write any meanwhile.
            state = on_first(lambda: self.work.load(_CHECKPOINT))
            if state is not None:
                own, self.step = state["of_ranks"][rank], state["step"]
                self.trained, self._random_state = own["trained"], own["random_state"]
                for key, part in self._parts.items():
                    part.load_state_dict(state[key])
                if (stateful := selector or self.sampler) is not None:
                    stateful.load_state_dict(own["selector"])
                for buffer, saved in zip(model.buffers(), own["buffers"], strict=False):
                    buffer.copy_(saved)
                state |= own

            def log() -> None:
                self.metrics = MetricsLogger(self, state)

            on_all(log)

    @property
    def steps(self) -> int:
        """Steps of the run: those of the config, less those that re-scoring has cost."""
        return self.config.steps if self.sampler is None else self.sampler.steps

    @property
    def finished(self) -> bool:
        """True if all steps are made."""
        return self.step >= self.steps

    def fit(self, on_step: OnStep = no_op) -> None:
        """Make the remaining steps; `on_step` is called with 1 after each, returns whether to stop.

        Stopped: Ctrl-C, SIGTERM or `on_step` asked for it; the checkpoint holds the last step.
        FloatingPointError: the loss is NaN or infinite. ValueError: another process trains there.
        """
        if self.finished:
            return
        config = self.config
        with (
            self.work.lock(_WAIT),
            stop_signals() as signalled,
            subnormals_flushed(),
            closing(self._small_batches()) as batches,
        ):
            if self._random_state is None:
                rank, _ = self.ranks
                own = generator(self.seed, "rank", rank).initial_seed()
                torch.manual_seed(own if rank else self.seed)
                self.metrics.evaluate(0)
            else:
                restore_random_state(self._random_state, self.device)
            self.model.train()
            while not self.finished:
                self.metrics.start_clock()
                self._train_step(batches)
                self.metrics.write(self.step, self.trained)
                stop = any_rank(on_step(1) or signalled.is_set())
                if self.finished or stop or self.step % config.checkpoint_every == 0:
                    self.save()
                if stop and not self.finished:
                    at = f"stopped at step {self.step} of {self.steps}"
                    raise Stopped(f"{at}; run the same command again to go on from there")

    def _train_step(self, batches: Iterator[Any]) -> None:
        selector, weights, invalid, selected = self.selector, None, 0, self.config.batch
        if selector is None:
            batch = next(batches)
            selected //= self.ranks[1]
        else:
            invalid, selected = selector.invalid, selector.selected
            batch = next(batches)
            assert selector.last is not None
            weights = selector.last.weights
            # A stand-in, which a rank without selected examples trains on, does not count.
            invalid, selected = selector.invalid - invalid, selector.selected - selected
        made = training_step(
            self.runner,
            batch,
            self.optimizer,
            self.schedule,
            where="Trainer",
            weights=weights,
            forward=self.forward,
            label_smoothing=self.config.label_smoothing,
            gce=self.config.gce,
            bf16=self.config.bf16,
        )
        if self.step == 0 and self.ranks[1] > 1:
            check_trained(self.model)
        self.step += 1
        self.trained += selected
        self.metrics.count(made, invalid, selected)
        if (sampler := self.sampler) is not None:
            assert made.logits is not None
            sampler.update(made.fields.ids, made.logits, made.fields.labels)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.bf16):
                sampler.rescore(self.runner, self._batches, forward=self.forward)

    def _small_batches(self) -> Generator[Any, None, None]:
        """Give the batch that each remaining step trains on."""
        selector, config = self.selector, self.config
        drawn = config.batch if selector is None else config.large_batch
        place: dict[str, Any] = {"rank": self.ranks[0], "world": self.ranks[1], "start": self.step}
        sampler = self.sampler or LargeBatchSampler(self.train_ids, drawn, seed=self.seed, **place)
        self._batches = loader(self.dataset, sampler, workers=config.workers, seed=self.seed)
        batches: Any = self._batches
        if self.sampler is not None:
            batches = chain.from_iterable(repeat(batches))  # pass after pass
        il = None if selector is None else selector.il
        in_files = isinstance(il, ILStore) and il.table is None
        # Workers start here, before the clock.
        some = (
            to(batch, self.device, keep=ids_of(batch) if in_files else None)
            for batch in islice(batches, config.steps - self.step)
        )
        return some if selector is None else (selector(self.runner, batch) for batch in some)

    def save(self) -> None:
        """Write the checkpoint; all ranks call it together."""
        self._random_state = random_state(self.device)
        # BatchNorm sees the examples of its rank; those of the first are in the model's state.
        buffers = list(self.model.buffers()) if self.ranks[0] else []
        shared = {name: part.state_dict() for name, part in self._parts.items()}

        def own() -> dict[str, Any]:
            # The checkpoint must not reach the disk before the records that it counts on.
            state = self.metrics.state_dict(self.step)
            if (stateful := self.selector or self.sampler) is not None:
                state["selector"] = stateful.state_dict()
            state |= {"trained": self.trained, "random_state": self._random_state}
            return to({**state, "buffers": buffers}, "cpu")

        ranks = on_all(own)
        state = {**shared, "step": self.step, "of_ranks": ranks}
        on_first(lambda: self.work.save(_CHECKPOINT, state))
