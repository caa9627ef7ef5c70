"""Scoring the next large batch while the model trains on this one."""

from __future__ import annotations

import copy
import time
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from rho_train.batch import Fields, split
from rho_train.methods.context import Method, ScoringContext, Selected
from rho_train.online import OnlineModel
from rho_train.scoring import device_of, uncompiled
from rho_train.selector import Selector

T = TypeVar("T")


@dataclass(frozen=True)
class _Pending(Generic[T]):
    """A large batch that is being scored for a step."""

    batch: T
    fields: Fields
    step: int
    choice: Future[tuple[ScoringContext, Selected, Method]]


class AsyncSelector:
    """Score the next large batch while the model trains on this one.

    The points of step t + 1 are chosen by the weights from before the update of step t, in a copy
    of the model: scores are one update old, which saves waiting for them. A thread makes the
    choice, on CUDA in a stream of its own. On the CPU the loop and the thread get half of torch's
    threads each, at least one, until the loop ends. The result does not depend on which of the two
    is faster: the same seed gives the same bits.

    Everything of the Selector means what it means without: after a batch is given, `last`, the
    counters, `history` and `state_dict` are of it and of those before; `score_seconds` is what the
    loop waited for scores. A loop that is left has loaded one batch more than it gave.

    Args:
        selector: chooses; its `forward`, if it has one, is called in the thread.
        model: what is trained. Its parameters and buffers are copied at every step, what else
            changes in it is not.

    Raises:
        TypeError: the model cannot be copied.
        ValueError: the Selector does what two threads cannot do at a time: passes with dropout or
            in training mode, a compiled scorer, an OnlineModel; or several ranks train.

    Example:
        >>> from rho_train import Batch
        >>> model, selector = nn.Linear(2, 2), Selector(k=1, method="loss")
        >>> loader = [Batch(torch.randn(4, 2), torch.tensor([0, 1, 0, 1]), torch.arange(4))] * 3
        >>> [len(batch.ids) for batch in AsyncSelector(selector, model)(loader)], selector.steps
        ([1, 1, 1], 3)
    """

    def __init__(self, selector: Selector, model: nn.Module) -> None:
        _check(selector)
        inner = uncompiled(selector._target(model))
        self.selector = selector
        self._source = inner.module if isinstance(inner, DistributedDataParallel) else inner
        try:
            self._copy = copy.deepcopy(self._source)
        except (RuntimeError, TypeError) as error:
            raise TypeError(
                f"AsyncSelector: the model scores in a copy, and {type(self._source).__name__} cannot be "
                f"copied: {error}"
            ) from error
        self._copy.eval().requires_grad_(False).zero_grad(set_to_none=True)
        self._weights = _tensors(self._copy)
        # Of the thread, whose seconds are not the loop's.
        self._passes = copy.copy(selector._passes)
        self._device = device_of(self._copy)
        self._stream: torch.cuda.Stream | None = None
        if self._device.type == "cuda":
            self._stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        self._scoring = False
        self._restored = False
        self._seen = False

    def __call__(self, loader: Iterable[T]) -> Generator[T, None, None]:
        """Give the small batch of every large batch of a loader, in its structure.

        Raises:
            RuntimeError: the Selector has selected elsewhere in between.
            ValueError: the model draws random numbers while it scores.
            Exception: whatever `Selector.__call__` raises, when the batch is due.
        """
        batches, pending = iter(loader), None
        with self._thread() as thread:
            for batch in batches:
                small = None if pending is None else self._finish(pending)
                begin = self._begin if self._seen else self._first
                pending = begin(thread, batch)
                if small is not None:
                    yield small
            if pending is not None:
                small = self._finish(pending)
                self._scoring = False
                yield small

    def state_dict(self) -> dict[str, Any]:
        """Return the weights that the batch after the last one given is scored with."""
        pending = self._scoring or self._restored
        return {"weights": self._copy.state_dict() if pending else None}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Score the first batch of the next loop with the weights that `state_dict` returned."""
        self._restored = state["weights"] is not None
        if self._restored:
            self._copy.load_state_dict(state["weights"])

    @contextmanager
    def _thread(self) -> Iterator[ThreadPoolExecutor]:
        """Give a thread that lives as long as the loop."""
        threads = torch.get_num_threads()
        share = max(1, threads // 2) if self._stream is None else threads
        torch.set_num_threads(share)
        try:
            with ThreadPoolExecutor(
                1, "rho_train.AsyncSelector", torch.set_num_threads, (share,)
            ) as pool:
                yield pool
        finally:
            self._scoring = False
            self._join()
            torch.set_num_threads(threads)

    def _first(self, thread: ThreadPoolExecutor, batch: T) -> _Pending[T]:
        """Score the first batch that is scored, beside which nothing trains; see what it draws."""
        before = _random_states(self._device)
        pending = self._begin(thread, batch)
        # An error is raised again when the batch is due.
        with suppress(Exception):
            _, chosen, _ = self._wait(pending)
            # Uniform steps score nothing.
            self._seen = chosen.losses is not None
        if any(map(_differ, before, _random_states(self._device))):
            raise ValueError(
                "AsyncSelector: scoring draws from torch's global generators, and the training step draws "
                "from them at the same time; call the Selector itself"
            )
        return pending

    def _begin(self, thread: ThreadPoolExecutor, batch: T) -> _Pending[T]:
        """Let the thread score a batch with the weights of now."""
        started = time.perf_counter()
        fields = split(batch)
        if not self._restored:
            with torch.no_grad():
                torch._foreach_copy_(self._weights, _tensors(self._source))
        self._restored, self._scoring = False, True
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream(self._device))
        kind = self._device.type
        # Autocast belongs to a thread.
        autocast = torch.autocast(
            kind, torch.get_autocast_dtype(kind), enabled=torch.is_autocast_enabled(kind)
        )
        step = self.selector.steps
        choice = thread.submit(self._choose, batch, fields, step, autocast)
        self.selector.seconds += time.perf_counter() - started
        return _Pending(batch, fields, step, choice)

    def _choose(
        self, batch: object, fields: Fields, step: int, autocast: torch.autocast
    ) -> tuple[ScoringContext, Selected, Method]:
        with torch.cuda.stream(self._stream), autocast:
            return self.selector._choose(
                self._copy, batch, fields, self._passes, step, keep_random=False
            )

    def _wait(self, pending: _Pending[T]) -> tuple[ScoringContext, Selected, Method]:
        started = time.perf_counter()
        try:
            choice = pending.choice.result()
            self._join()
        finally:
            waited = time.perf_counter() - started
            self.selector.seconds += waited
            self.selector.score_seconds += waited
        return choice

    def _finish(self, pending: _Pending[T]) -> T:
        """Wait for the choice and take it over."""
        choice = self._wait(pending)
        started = time.perf_counter()
        if self.selector.steps != pending.step:
            raise RuntimeError(
                f"AsyncSelector: the Selector chose for step {pending.step} and stands at step "
                f"{self.selector.steps} now; use one Selector in one loop at a time"
            )
        if self._stream is not None:
            for tensor in filter(torch.is_tensor, choice[1]):
                tensor.record_stream(torch.cuda.current_stream(self._device))
        small = self.selector._keep(pending.batch, pending.fields, *choice)
        self.selector.seconds += time.perf_counter() - started
        return small

    def _join(self) -> None:
        """Let the stream of the loop wait for that of the thread."""
        if self._stream is not None:
            torch.cuda.current_stream(self._device).wait_stream(self._stream)


def _check(selector: Selector) -> None:
    """Refuse what would race with the training step."""
    if "dropout" in selector._needs:
        raise ValueError(
            f"AsyncSelector: method {selector.method!r} draws dropout from torch's global generators, and "
            "the training step draws from them at the same time; call the Selector itself"
        )
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        raise ValueError(
            f"AsyncSelector: {dist.get_world_size()} ranks train, and what they exchange to score and to "
            "train could come in another order on each; call the Selector itself"
        )
    if selector.scoring.train_mode:
        raise ValueError(
            "AsyncSelector: Scoring(train_mode=True) lets BatchNorm learn from the large batch, and here a "
            "copy scores, whose statistics nobody keeps; call the Selector itself"
        )
    if selector.scoring.compile:
        raise ValueError(
            "AsyncSelector: torch.compile is not safe in two threads at a time; leave "
            "Scoring(compile=...) at False"
        )
    if isinstance(selector.il, OnlineModel) or isinstance(selector.scorer, OnlineModel):
        raise ValueError(
            "AsyncSelector: an OnlineModel learns from every small batch before it scores the next large "
            "one; call the Selector itself"
        )


def _tensors(model: nn.Module) -> list[Tensor]:
    # nn.Module.parameters() and buffers() walk through all modules by name, which takes longer.
    parts = [(*part._parameters.values(), *part._buffers.values()) for part in model.modules()]
    return [tensor for part in parts for tensor in part if tensor is not None]


def _random_states(device: torch.device) -> list[Tensor]:
    on_cuda = [torch.cuda.get_rng_state(device)] if device.type == "cuda" else []
    return [torch.default_generator.get_state(), *on_cuda]


def _differ(a: Tensor, b: Tensor) -> bool:
    return not torch.equal(a, b)
