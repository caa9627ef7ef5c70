"""Experimental: score the next large batch while the model trains on this one."""

from __future__ import annotations

import copy
import time
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from rho_train.distributed import rank_and_world
from rho_train.online import OnlineModel
from rho_train.scoring import check_module, device_of, uncompiled
from rho_train.selection import PendingSelection
from rho_train.selector import Selector

T = TypeVar("T")

_DRAWS = "draws from torch's global generators, and the training step does at the same time"
_ITSELF = "call the Selector itself"


class AsyncSelector:
    """Score the next large batch while the model trains on this one.

    The examples of step t + 1 are selected by the weights from before the update of step t, in a
    copy of the model. A thread selects, on CUDA in a stream of its own. On the CPU the loop and the
    thread get half of torch's threads each until the loop ends. The same seed gives the same bits.

    After a batch is given, `last`, the counters, `history` and `state_dict` of the Selector are of
    it and of those before; `score_seconds` is what the loop waited for scores. A loop that is left
    early has loaded one batch more than it gave.

    Args:
        selector: selects; its `forward` is called in the thread.
        model: the model that trains. Its parameters and buffers are copied at every step.

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
        check_module("AsyncSelector", model)
        inner = uncompiled(selector.scorer_for(model))
        self.selector = selector
        self._source = inner.module if isinstance(inner, DistributedDataParallel) else inner
        try:
            self._copy = copy.deepcopy(self._source)
        except (RuntimeError, TypeError) as error:
            name = type(self._source).__name__
            raise TypeError(
                f"AsyncSelector: the model scores in a copy, and {name} cannot be copied: {error}"
            ) from error
        self._copy.eval().requires_grad_(False).zero_grad(set_to_none=True)
        self._weights = _tensors(self._copy)
        self._device = device_of(self._copy)
        self._stream: torch.cuda.Stream | None = None
        if self._device.type == "cuda":
            self._stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        # Whether a batch is being scored, the weights come from a state, and a pass was checked.
        self._scoring = self._restored = self._checked = False

    def __call__(self, loader: Iterable[T]) -> Generator[T, None, None]:
        """Yield the selected examples of each large batch of a loader, in its structure.

        Raises what `Selector.__call__` raises, when the batch is due; a RuntimeError if the
        Selector has selected elsewhere in between; a ValueError if the model draws while it scores.
        """
        pending = None
        with self._thread() as thread:
            for batch in loader:
                small = None if pending is None else self._finish(pending)
                pending = self._begin(thread, batch)
                if small is not None:
                    yield small
            if pending is not None:
                small = self._finish(pending)
                self._scoring = False
                yield small

    def state_dict(self) -> dict[str, Any]:
        """Return the weights that score the batch after the last one given."""
        pending = self._scoring or self._restored
        return {"weights": self._copy.state_dict() if pending else None}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Score the first batch of the next loop with the weights of `state_dict`."""
        self._restored = state["weights"] is not None
        if self._restored:
            self._copy.load_state_dict(state["weights"])

    @contextmanager
    def _thread(self) -> Iterator[ThreadPoolExecutor]:
        """Give a thread that lives as long as the loop."""
        threads = torch.get_num_threads()
        share = max(1, threads // 2) if self._stream is None else threads
        torch.set_num_threads(share)
        name = "rho_train.AsyncSelector"
        try:
            with ThreadPoolExecutor(1, name, torch.set_num_threads, (share,)) as pool:
                yield pool
        finally:
            self._scoring = False
            self._join_streams()
            torch.set_num_threads(threads)

    def _begin(self, thread: ThreadPoolExecutor, batch: T) -> Future[PendingSelection[T]]:
        """Let the thread select from a batch with the present weights."""
        started, checked = time.perf_counter(), self._checked
        before = [] if checked else _random_states(self._device)
        if not self._restored:
            with torch.no_grad():
                torch._foreach_copy_(self._weights, _tensors(self._source))
        self._restored, self._scoring = False, True
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream(self._device))
        # Autocast belongs to a thread.
        kind, enabled = self._device.type, torch.is_autocast_enabled(self._device.type)
        autocast = torch.autocast(kind, torch.get_autocast_dtype(kind), enabled=enabled)
        future = thread.submit(self._select, batch, self.selector.steps, autocast)
        self.selector.seconds += time.perf_counter() - started
        if not checked:
            # Nothing trains beside the first pass. An error is raised again when it is due.
            with suppress(Exception):
                # Uniform steps score nothing.
                self._checked = self._wait(future).selected.losses is not None
            if not all(map(torch.equal, before, _random_states(self._device))):
                raise ValueError(f"AsyncSelector: scoring {_DRAWS}; {_ITSELF}")
        return future

    def _select(self, batch: T, step: int, autocast: torch.autocast) -> PendingSelection[T]:
        with torch.cuda.stream(self._stream), autocast:
            pending = self.selector.select(self._copy, batch, step=step, keep_random=False)
        # The loop counts its waiting instead.
        pending.score_seconds = 0.0
        return pending

    def _wait(self, future: Future[PendingSelection[T]]) -> PendingSelection[T]:
        started = time.perf_counter()
        try:
            pending = future.result()
            self._join_streams()
        finally:
            waited = time.perf_counter() - started
            self.selector.seconds += waited
            self.selector.score_seconds += waited
        return pending

    def _finish(self, future: Future[PendingSelection[T]]) -> T:
        pending = self._wait(future)
        started = time.perf_counter()
        if self._stream is not None:
            for tensor in filter(torch.is_tensor, pending.selected):
                tensor.record_stream(torch.cuda.current_stream(self._device))
        small = self.selector.apply(pending)
        self.selector.seconds += time.perf_counter() - started
        return small

    def _join_streams(self) -> None:
        """Let the stream of the loop wait for that of the thread."""
        if self._stream is not None:
            torch.cuda.current_stream(self._device).wait_stream(self._stream)


def _check(selector: Selector) -> None:
    """Refuse what would race with the training step."""
    _, world = rank_and_world()
    reason, fix = None, _ITSELF
    if "dropout" in selector.needs:
        reason = f"method {selector.method!r} {_DRAWS}"
    elif world > 1:
        reason = f"{world} ranks train, whose exchanges could come in another order on each"
    elif selector.scoring.train_mode:
        reason = "Scoring(train_mode=True) lets BatchNorm learn, here in a copy, which is lost"
    elif selector.scoring.compile:
        reason = "torch.compile is not safe in two threads at a time"
        fix = "leave Scoring(compile=...) at False"
    elif any(isinstance(part, OnlineModel) for part in (selector.il, selector.scorer)):
        reason = "an OnlineModel learns from every small batch before it scores the next large one"
    if reason is not None:
        raise ValueError(f"AsyncSelector: {reason}; {fix}")


def _tensors(model: nn.Module) -> list[Tensor]:
    # nn.Module.parameters() and buffers() walk through all modules by name, which takes longer.
    parts = [(*one._parameters.values(), *one._buffers.values()) for one in model.modules()]
    return [tensor for part in parts for tensor in part if tensor is not None]


def _random_states(device: torch.device) -> list[Tensor]:
    on_cuda = [torch.cuda.get_rng_state(device)] if device.type == "cuda" else []
    return [torch.default_generator.get_state(), *on_cuda]
