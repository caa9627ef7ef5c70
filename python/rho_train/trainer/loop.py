"""The training loop: plain PyTorch, with an optional Selector before the step."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from rho_train.batch import to
from rho_train.checkpoint import architecture_digest, random_state, restore_random_state
from rho_train.dataset import fingerprint
from rho_train.distributed import agree, any_rank, on_all, on_first, rank_and_world
from rho_train.identity import digest
from rho_train.optim import adamw, lr_schedule, subnormals_flushed
from rho_train.progress import OnStep, Stopped, no_op
from rho_train.rng import generator
from rho_train.run_folder import RunFolder
from rho_train.sampler import LargeBatchSampler, loader
from rho_train.scoring import device_of
from rho_train.trainer.checks import check_run, check_trained
from rho_train.trainer.config import RunData
from rho_train.trainer.evaluation import eval_data
from rho_train.trainer.metrics_logger import MetricsLogger
from rho_train.training_step import training_step

_CHECKPOINT = "checkpoint.pt"
_WAIT = "wait for it, or train in another folder"


@dataclass(eq=False, repr=False)
class Trainer(RunData):
    """Train a classifier on some examples of a data set, with metrics and checkpoints in a folder.

    With a Selector every step draws a large batch and trains on the examples that it selects, else
    it draws the small batch directly. `fit` seeds torch's global generators (dropout draws from
    them), or restores them when it resumes.

    In a process group of torch.distributed all ranks train one model, in DistributedDataParallel,
    each on its share of every batch. The first writes the folder, with the state of all.

    Args:
        model: trained in place, on the device of its parameters.
        dataset: training data with ids.
        train_ids: int64 (n,), the examples to train on.
        eval_set: map-style data set of evaluations, its labels shown as `IndexedDataset` needs it.
        config: settings of the training.
        folder: for metrics.jsonl and checkpoint.pt, from which a run resumes. With a History in the
            Selector, history.safetensors and selected.json are added at the end.
        name: of the method, in every record.
        seed: of the order of the batches.
        selector: selects from large batches; None: plain training.
        forward: called as `forward(model, batch)`, returns logits (n, C), in training and
            evaluation; the Selector must have the same one. None: the model's call.
        flags: known properties of all examples by id, such as `noisy`; records count them.
        il_seconds: time that the irreducible losses took, for the records only.
        costs: counted cost of an example, see `rho_train.cost`, for the records only.
        classes: names of the classes, for the records only.
        show: returns what people see of the example with an id, a text or a tensor; None: what the
            model gets.

    Raises:
        TypeError: the training set is no IndexedDataset, the evaluation set not map-style, or the
            ids are no int64 tensor.
        IndexError: an id lies outside the data set, or the model has no class for a label.
        ValueError: the checkpoint or the irreducible losses belong to another run or data set, or
            all losses are unknown (some: a warning). The Selector, the evaluation set or the flags
            do not fit. Another process trains in the folder. The ranks have other settings.
        RuntimeError: not all ranks of the process group make a Trainer.
        OSError: the folder cannot be written.

    Example:
        >>> import tempfile
        >>> from torch.utils.data import TensorDataset
        >>> from torch import nn
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

    def __post_init__(self) -> None:
        model, config, selector = self.model, self.config, self.selector
        self.device, self.ranks = device_of(model), rank_and_world()
        self.eval_set = eval_data(self.eval_set, self.device)
        self.flags = {
            name: flag.to(self.device) if isinstance(flag, Tensor) else flag
            for name, flag in (self.flags or {}).items()
        }
        check_run(self)
        identity = {
            "config": asdict(config),
            "name": self.name,
            "seed": self.seed,
            "data": fingerprint(self.dataset),
            "train_ids": digest(self.train_ids),
            "selection": selector and selector.identity(),
            "architecture": architecture_digest(model),
            "ranks": self.ranks[1],
        }
        agree("Trainer", identity)
        self.optimizer = adamw(model, config.lr, config.weight_decay)
        self.schedule = lr_schedule(self.optimizer, config.schedule, config.steps)
        self.runner = torch.compile(model) if config.compile else model  # type: ignore[assignment]
        rank, world = self.ranks
        if world > 1:
            self.runner = DistributedDataParallel(self.runner)
        self.step = self.trained = 0
        self._random_state: dict[str, Any] | None = None
        self.work = RunFolder(self.folder, where="Trainer", identity=identity)
        with self.work.lock(_WAIT):
            # Records beyond the checkpoint are cut off, so nobody may write any meanwhile.
            state = on_first(lambda: self.work.load(_CHECKPOINT))
            if state is not None:
                own, self.step = state["of_ranks"][rank], state["step"]
                self.trained, self._random_state = own["trained"], own["random_state"]
                for key, part in self._shared().items():
                    part.load_state_dict(state[key])
                for key, part in self._own().items():
                    part.load_state_dict(own[key])
                for buffer, saved in zip(model.buffers(), own["buffers"], strict=False):
                    buffer.copy_(saved)
                state |= own

            def log() -> None:
                self.metrics = MetricsLogger(self, state)

            on_all(log)

    @property
    def finished(self) -> bool:
        """True if all steps are made."""
        return self.step >= self.config.steps

    def fit(self, on_step: OnStep = no_op) -> None:
        """Make the remaining steps; `on_step` is called with 1 after each, returns whether to stop.

        Raises:
            Stopped: Ctrl-C, SIGTERM or `on_step` asked for it; the checkpoint holds the last step.
            FloatingPointError: the loss is NaN or infinite.
            ValueError: another process trains in the folder.
        """
        if self.finished:
            return
        self.work.on_step = on_step
        self.times.start()
        with (
            self.work.lock(_WAIT),
            self.work.stopping_on_signals(),
            subnormals_flushed(),
            closing(self._small_batches()) as batches,
        ):
            self._fit(batches)

    def _fit(self, batches: Iterator[Any]) -> None:
        config = self.config
        if self._random_state is None:
            rank, _ = self.ranks
            own = generator(self.seed, "rank", rank).initial_seed()
            torch.manual_seed(own if rank else self.seed)
            self.metrics.evaluate(0)
        else:
            restore_random_state(self._random_state, self.device)
        self.model.train()
        # Workers that start once more when a run resumes do not count as loading.
        self.times.add("other")
        while not self.finished:
            self._train_step(batches)
            self.metrics.write(self.step, self.trained)
            stop = any_rank(self.work.step())
            if self.finished or stop or self.step % config.checkpoint_every == 0:
                self.save()
            if stop and not self.finished:
                at = f"stopped at step {self.step} of {config.steps}"
                raise Stopped(f"{at}; run the same command again to go on from there")
            self.times.add("other")

    def _train_step(self, batches: Iterator[Any]) -> None:
        selector, weights, invalid, selected = self.selector, None, 0, self.config.batch
        if selector is None:
            batch = next(batches)
            selected //= self.ranks[1]
        else:
            invalid, selected, scoring = selector.invalid, selector.selected, selector.score_seconds
            batch = next(batches)
            assert selector.last is not None
            weights = selector.last.weights
            # A stand-in, which a rank without selected examples trains on, does not count.
            invalid, selected = selector.invalid - invalid, selector.selected - selected
            self.times.add("selecting", scoring=selector.score_seconds - scoring)
        made = training_step(
            self.runner,
            batch,
            self.optimizer,
            self.schedule,
            where="Trainer",
            weights=weights,
            forward=self.forward,
            bf16=self.config.bf16,
        )
        if self.step == 0 and self.ranks[1] > 1:
            check_trained(self.model)
        self.step += 1
        self.trained += selected
        self.metrics.count(made, invalid, selected)
        self.times.add("training")

    def _small_batches(self) -> Generator[Any, None, None]:
        """Give the batch that each remaining step trains on."""
        selector, config = self.selector, self.config
        drawn = config.batch if selector is None else config.large_batch
        place: dict[str, Any] = {"rank": self.ranks[0], "world": self.ranks[1], "start": self.step}
        sampler = LargeBatchSampler(self.train_ids, drawn, seed=self.seed, **place)
        batches = loader(self.dataset, sampler, workers=config.workers, seed=self.seed)
        loaded = self._loaded(islice(batches, config.steps - self.step))
        return loaded if selector is None else (selector(self.runner, batch) for batch in loaded)

    def _loaded(self, batches: Iterable[Any]) -> Generator[Any, None, None]:
        for batch in batches:
            moved = to(batch, self.device)
            self.times.add("loading")
            yield moved

    def save(self) -> None:
        """Write the checkpoint; all ranks call it together."""
        self._random_state = random_state(self.device)
        self.times.add("other")
        # BatchNorm sees the examples of its rank; those of the first are in the model's state.
        buffers = list(self.model.buffers()) if self.ranks[0] else []
        shared = {name: part.state_dict() for name, part in self._shared().items()}

        def own() -> dict[str, Any]:
            # The checkpoint must not reach the disk before the records that it counts on.
            state = self.metrics.state_dict(self.step)
            state |= {name: part.state_dict() for name, part in self._own().items()}
            state |= {"trained": self.trained, "random_state": self._random_state}
            return to({**state, "buffers": buffers}, "cpu")

        ranks = on_all(own)
        state = {**shared, "step": self.step, "of_ranks": ranks}
        on_first(lambda: self.work.save(_CHECKPOINT, state))

    def _shared(self) -> dict[str, Any]:
        """Return what has the same state on all ranks."""
        return {"model": self.model, "optimizer": self.optimizer, "schedule": self.schedule}

    def _own(self) -> dict[str, Any]:
        """Return what has a state of its own on every rank."""
        return {} if self.selector is None else {"selector": self.selector}
