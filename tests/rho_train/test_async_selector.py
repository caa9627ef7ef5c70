"""Selection while the model trains: the algorithm by hand, its order, its errors, its end."""

from __future__ import annotations

import copy
import dataclasses
import threading
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from rho_train import (
    AsyncSelector,
    Batch,
    History,
    IndexedDataset,
    OnlineModel,
    Scoring,
    Selector,
    Trainer,
)
from rho_train.methods.classes import Reducr
from rho_train.progress import Stopped
from rho_train.schedules import UniformPhases
from rho_train.trainer.time_breakdown import STEP_PARTS

from .test_metrics import CONFIG, Clock, SlowData, on_step
from .ways import CONFIG as TRAINING
from .ways import ending, make_trainer, small_model

N, STEPS = 120, 8
GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(N, 5, generator=GENERATOR)
Y = torch.randint(3, (N,), generator=GENERATOR)
IL = torch.rand(N, generator=GENERATOR)
BATCHES = [
    Batch(X[ids], Y[ids], ids)
    for ids in (torch.randperm(N, generator=GENERATOR)[:24] for _ in range(STEPS))
]
CASES: dict[str, Any] = {
    "rho": {},
    "draws": {"method": "boltzmann"},
    "weights": {"method": "importance"},
    "learns": {"method": Reducr(lr=1.0)},
    "refresh": {"scoring": Scoring(refresh=0.5)},
    "bf16, in parts": {"scoring": Scoring(bf16=True, micro_batch=7)},
    "phases": {"phases": UniformPhases(steps=STEPS, warmup=2, anneal=0.3)},
    "proxy": {"scorer": small_model(7)},
}


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    torch.manual_seed(1)
    threads, alive = torch.get_num_threads(), threading.active_count()
    yield
    assert threading.active_count() == alive
    assert torch.get_num_threads() == threads


def make_selector(**options: Any) -> Selector:
    return Selector(**{"il": IL, "k": 6, "seed": 3, "history": History(N), **options})


class Training:
    """A model with dropout and BatchNorm, its optimizer, and everything that a step changes."""

    def __init__(self) -> None:
        self.model = small_model(1)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.5, momentum=0.9)
        self.found: list[Any] = []

    def step(self, selector: Selector, small: Batch) -> None:
        last = selector.last
        assert last is not None
        losses = F.cross_entropy(self.model(small.x), small.y, reduction="none")
        self.optimizer.zero_grad()
        (losses if last.weights is None else last.weights * losses).mean().backward()
        self.optimizer.step()
        state = {**self.model.state_dict(), **selector.state_dict()["history"]}
        values = [small.ids, last.indices, last.values, *state.values(), torch.get_rng_state()]
        self.found += [value.numpy().tobytes() for value in values]
        self.found += [selector.steps, selector.scored, selector.selected, selector.invalid]


def by_hand(selector: Selector) -> list[Any]:
    """Select for step t + 1 with the weights from before update t, one after the other."""
    run = Training()
    old = copy.deepcopy(run.model)
    for batch in BATCHES:
        small = selector(old, batch)
        old.load_state_dict(run.model.state_dict())
        run.step(selector, small)
    return run.found


@pytest.mark.parametrize("case", CASES)
def test_the_algorithm_by_hand_whichever_is_slower(case: str) -> None:
    slow = ("scoring", "training")[list(CASES).index(case) % 2]

    def forward(model: nn.Module, batch: Batch) -> Tensor:
        time.sleep(0.003 if slow == "scoring" else 0.0)
        logits: Tensor = model(batch.x)
        return logits

    # torch starts with the same threads for both: they decide how sums are rounded.
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads // 2))
    options = copy.deepcopy(CASES[case])
    wanted = by_hand(make_selector(**copy.deepcopy(options)))
    torch.set_num_threads(threads)
    torch.manual_seed(1)
    run, selector = Training(), make_selector(**options, forward=forward)
    assert all(module.training for module in run.model.modules())
    for small in AsyncSelector(selector, run.model)(BATCHES):
        assert torch.is_grad_enabled()
        assert all(module.training for module in run.model.modules())
        run.step(selector, small)
        time.sleep(0.003 if slow == "training" else 0.0)
    assert run.found == wanted
    assert 0.0 < selector.score_seconds < selector.seconds


def test_scores_are_old_and_the_first_ones_are_not() -> None:
    """The bias counts updates: the passes see 0, 0, 1, 2, ..."""
    model, seen = nn.Linear(5, 3), []

    def forward(scorer: nn.Module, batch: Batch) -> Tensor:
        seen.append(float(scorer.bias[0]))
        logits: Tensor = scorer(batch.x)
        return logits

    model.bias.data.zero_()
    for _ in AsyncSelector(make_selector(forward=forward), model)(BATCHES):
        model.bias.data += 1
    assert seen == [0.0, 0.0, *range(STEPS - 1)]  # the second pass is the check


def test_a_state_that_is_taken_over_goes_on_with_the_old_weights() -> None:
    whole = by_hand(make_selector())
    torch.manual_seed(1)
    run, selector, rest = Training(), make_selector(), iter(BATCHES)
    ahead = AsyncSelector(selector, run.model)
    assert ahead.state_dict() == {"weights": None}
    small = ahead(rest)
    for _ in range(3):
        run.step(selector, next(small))
    states = copy.deepcopy((ahead.state_dict(), selector.state_dict()))
    small.close()
    assert ahead.state_dict() == {"weights": None}
    again = make_selector()
    ahead = AsyncSelector(again, run.model)
    ahead.load_state_dict(states[0])
    assert ahead.state_dict()["weights"].keys() == states[0]["weights"].keys()
    again.load_state_dict(states[1])
    for small_batch in ahead(BATCHES[3:]):
        run.step(again, small_batch)
    assert run.found == whole
    # Nothing is pending after the last batch: the next loop starts with the weights of then.
    assert ahead.state_dict() == {"weights": None}


def test_short_loaders() -> None:
    for count in range(3):
        selector = make_selector()
        found = list(AsyncSelector(selector, small_model(1))(BATCHES[:count]))
        assert [len(small.ids) for small in found] == [6] * count
        assert selector.steps == count


@pytest.mark.parametrize(("warmup", "bad"), [(0, 1), (0, 3), (2, 1)])
def test_errors_of_the_thread_arrive_when_their_batch_is_due(warmup: int, bad: int) -> None:
    calls = []

    def broken_pass(model: nn.Module, batch: Batch) -> Tensor:
        calls.append(threading.current_thread())
        if len(calls) == bad:
            raise ZeroDivisionError("in a pass")
        logits: Tensor = model(batch.x)
        return logits

    phases = UniformPhases(STEPS, warmup)
    selector, given = make_selector(forward=broken_pass, phases=phases, check_batches=False), []
    with pytest.raises(ZeroDivisionError, match="in a pass") as caught:
        given.extend(AsyncSelector(selector, small_model(1))(BATCHES))
    assert "broken_pass" in "".join(traceback.format_exception(caught.value))
    assert len(given) == selector.steps == warmup + bad - 1
    assert threading.main_thread() not in calls
    assert len(set(calls)) == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, None])
def test_a_loop_that_is_left_ends_the_thread(error: type[BaseException] | None) -> None:
    def loop() -> None:
        for _ in AsyncSelector(make_selector(), small_model(1))(BATCHES):
            assert threading.active_count() > alive
            if error is not None:
                raise error
            break

    alive = threading.active_count()
    if error is None:
        loop()
    else:
        # The traceback keeps the frame of the loop, and nothing may keep its thread.
        with pytest.raises(error):
            loop()
    assert threading.active_count() == alive


def test_half_of_the_threads_for_each() -> None:
    threads, seen = torch.get_num_threads(), []

    def forward(model: nn.Module, batch: Batch) -> Tensor:
        seen.append(torch.get_num_threads())
        logits: Tensor = model(batch.x)
        return logits

    torch.set_num_threads(5)
    for _ in AsyncSelector(make_selector(forward=forward), small_model(1))(BATCHES):
        assert torch.get_num_threads() == 2
    assert torch.get_num_threads() == 5
    assert set(seen) == {2}
    torch.set_num_threads(threads)


def test_autocast_around_the_loop_holds_in_the_thread() -> None:
    def losses(bf16: bool) -> Tensor:
        selector = make_selector()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            small = AsyncSelector(selector, small_model(1))(BATCHES[:2])
            next(small)
            next(small)
        assert selector.last is not None
        assert selector.last.losses is not None
        return selector.last.losses

    selector = make_selector(scoring=Scoring(bf16=True))
    selector(small_model(1), BATCHES[1])
    assert selector.last is not None
    assert selector.last.losses is not None
    assert torch.equal(losses(bf16=True), selector.last.losses)
    assert not torch.equal(losses(bf16=True), losses(bf16=False))


def test_what_two_threads_cannot_do_is_refused_when_it_is_made() -> None:
    refused: list[tuple[dict[str, Any], str]] = [
        ({"method": "bald"}, "method 'bald' draws from torch's global generators"),
        ({"scoring": Scoring(train_mode=True)}, "train_mode=True.* lets BatchNorm learn"),
        ({"scoring": Scoring(compile=True)}, "torch.compile is not safe in two threads"),
        ({"il": OnlineModel(small_model(2))}, "an OnlineModel learns from every small batch"),
        ({"scorer": OnlineModel(small_model(2))}, "an OnlineModel learns from every small batch"),
    ]
    for options, message in refused:
        with pytest.raises(ValueError, match=f"AsyncSelector: .*{message}"):
            AsyncSelector(make_selector(**options), small_model(1))


def test_ranks_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 0)
    with pytest.raises(ValueError, match="AsyncSelector: 2 ranks train"):
        AsyncSelector(make_selector(), small_model(1))


def test_a_model_that_cannot_be_copied_is_named() -> None:
    model = nn.Linear(5, 3)
    model.cache = model.weight * 2
    with pytest.raises(
        TypeError, match="AsyncSelector: the model scores in a copy, and Linear cannot be"
    ):
        AsyncSelector(make_selector(), model)


def test_a_model_that_draws_when_it_scores_is_refused_at_the_first_pass() -> None:
    def forward(model: nn.Module, batch: Batch) -> Tensor:
        logits: Tensor = model(batch.x)
        return logits + torch.rand(3)

    # Uniform steps make no pass that could draw.
    for phases in (None, UniformPhases(STEPS, warmup=2)):
        ahead = AsyncSelector(make_selector(forward=forward, phases=phases), small_model(1))
        with pytest.raises(
            ValueError, match="AsyncSelector: scoring draws from torch's global generators"
        ):
            list(ahead(BATCHES))


def test_a_selector_in_two_loops_is_refused() -> None:
    selector, model = make_selector(), small_model(1)
    small = AsyncSelector(selector, model)(BATCHES)
    next(small)
    selector(model, BATCHES[0])
    with pytest.raises(RuntimeError, match="selected for step 1 and stands at step 2 now"):
        next(small)


class SlowTraining(nn.Linear):
    """A training pass takes 4 seconds of the test's clock."""

    clock = Clock()

    def forward(self, x: Tensor) -> Tensor:
        self.clock.now += 4.0 if torch.is_grad_enabled() else 0.0
        return super().forward(x)


def test_waiting_counts_as_scoring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result, clock = Future.result, SlowTraining.clock

    def wait(future: Future[Any]) -> Any:
        clock.now += 2.0
        return result(future)

    monkeypatch.setattr(time, "perf_counter", clock.read)
    monkeypatch.setattr(Future, "result", wait)
    trainer = Trainer(
        SlowTraining(4, 3),
        IndexedDataset(SlowData(clock)),
        torch.arange(40),
        TensorDataset(torch.eye(4), torch.tensor([0, 1, 2, 0])),
        dataclasses.replace(CONFIG, async_selection=True),
        tmp_path,
        name="ahead",
        selector=Selector(k=2, method="loss", check_batches=False),
    )
    began, steps = clock.now, CONFIG.steps
    trainer.fit(on_step(clock))
    spent = trainer.times.seconds
    assert sum(spent.values()) == clock.now - began
    # The first batch is waited for before the second one is loaded too.
    assert [spent[part] for part in STEP_PARTS] == [steps, 2 * (steps + 1), 0, 4 * steps]


def test_stopped_after_every_step_equals_the_whole_run(tmp_path: Path) -> None:
    config = dataclasses.replace(TRAINING, steps=8, eval_every=3, checkpoint_every=4)
    make_trainer(tmp_path / "whole", "ahead", config).fit()
    for _ in range(config.steps - 1):
        with pytest.raises(Stopped):
            make_trainer(tmp_path / "parts", "ahead", config).fit(lambda _: True)
    make_trainer(tmp_path / "parts", "ahead", config).fit(lambda _: True)
    assert ending(tmp_path / "parts") == ending(tmp_path / "whole")
