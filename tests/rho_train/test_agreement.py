"""AgreementSampler against the algorithm in float64, resumed, loaded ahead, on noisy letters."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from itertools import islice, pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from rho_train import AgreementSampler, Batch, IndexedDataset, loader
from rho_train.tasks import letters

from .pretend_gpu import GPU, pretend_gpu

Values = Callable[[int, Tensor], Tensor]


def scores(sampler: AgreementSampler, values: Values, batches: Any = None) -> list[list[Tensor]]:
    """Return the ids of the batches of every pass, with margins by the number of the pass."""
    data = IndexedDataset(TensorDataset(torch.zeros(sampler.n, 1), torch.zeros(sampler.n).long()))
    batches = batches or loader(data, sampler)
    passes = []
    while sampler.step < sampler.steps:
        sampler.rescore(
            nn.Identity(), batches, forward=lambda _, batch: values(-sampler.passes, batch.ids)
        )
        passes.append([])
        for batch in batches:
            passes[-1].append(batch.ids)
            assert len(batch.ids) == sampler.batch_size  # an empty one would never end
            sampler.update(batch.ids, values(sampler.passes, batch.ids))
    return passes


def test_passes_are_those_of_the_algorithm_in_float64() -> None:
    n, classes, batch_size = 400, 5, 8
    draw = torch.Generator().manual_seed(0)
    # Class sizes from 8 to 220.
    labels = torch.multinomial(2.0 ** torch.arange(classes), n, replacement=True, generator=draw)
    # A model that learns, apart from wrong labels; some examples get better late, then most.
    wrong, late, most = torch.rand(3, n, generator=draw) < torch.tensor([[0.3], [0.3], [0.75]])

    def logits(number: int, ids: Tensor) -> Tensor:
        noise = torch.Generator().manual_seed(abs(number) + 100 * (number < 0))
        found = torch.randn(n, classes, generator=noise, dtype=torch.float64)
        better = (late & (abs(number) > 6)) | (most & (abs(number) > 11))
        found[torch.arange(n), labels] += torch.where(wrong & ~better, -3, 2)
        return found[ids]

    p = labels.bincount().double() / n
    surprise = (-p.log() + (p * p.log()).sum())[labels]

    def contradicted() -> Tensor:
        margin = running + 0.5 * surprise
        return margin <= -0.5 * margin[margin > 0].mean()

    def margins(number: int, ids: Tensor) -> Tensor:
        found = logits(number, ids)
        own = found[torch.arange(len(ids)), labels[ids]]
        others = found.masked_fill(F.one_hot(labels[ids], classes).bool(), -math.inf)
        return own - others.amax(1)

    data = IndexedDataset(TensorDataset(torch.zeros(n, 1), labels))
    sampler = AgreementSampler(n, batch_size, steps=800, seed=3)
    batches = loader(data, sampler)
    everyone, running, number = torch.arange(n), torch.full((n,), torch.nan).double(), 0
    out, counts, few = torch.zeros(n, dtype=torch.bool), torch.zeros(4), 0
    while sampler.step < sampler.steps:
        number += 1
        selecting = number - 1 - round(0.15 * 800 * batch_size / n)
        forward: Any = lambda _, batch: logits(-sampler.passes, batch.ids)  # noqa: E731
        scored = sampler.rescore(nn.Identity(), batches, forward=forward)
        if selecting > 0 and selecting % 2 == 0:
            out = contradicted()
            out &= out.sum() >= 0.1 * n
            assert scored == int(out.sum())
            running[out] = margins(1 - number, everyone[out])
        else:
            assert scored == 0
        visited = torch.zeros(n, dtype=torch.bool)
        for batch in batches:
            assert len(batch.ids) == batch_size
            assert not visited[batch.ids].any()
            visited[batch.ids] = True
            # In parts and in another order, as gradient accumulation and sorting do.
            for rows in torch.randperm(batch_size, generator=draw).split(5):
                sent = batch.ids[rows], logits(number, batch.ids[rows]), batch.y[rows].int()
                sampler.update(*sent)
                for part in sent:
                    part.zero_()  # it has copies
        before, out = out, torch.zeros(n, dtype=torch.bool)
        learnt = torch.zeros(n, dtype=torch.bool)
        if selecting >= 0:
            found = contradicted()
            few += int(0.06 * n < found.sum() < 0.1 * n)
            if found.sum() >= 0.1 * n:
                out, learnt = found, running > running[~found].mean()
        if sampler.step < sampler.steps:
            assert not (visited & out).any()
            assert int((~visited & ~out & ~learnt).sum()) < batch_size
            counts += torch.stack([learnt & ~visited, learnt, out, before & ~out]).sum(1)
        new = margins(number, everyone)
        running[visited] = torch.where(running.isnan(), new, (running + new) / 2)[visited]
    assert few > 1
    skipped, learnt_, left_out, back = counts.tolist()
    assert left_out > 500
    assert back > 20
    assert abs(skipped - learnt_ / 2) < 5 * (learnt_ / 4) ** 0.5


@given(st.data(), st.integers(1, 30), st.integers(1, 30), st.integers(0, 2**40))
def test_every_pass_is_full_and_disjoint(
    data: st.DataObject, n: int, steps: int, seed: int
) -> None:
    batch_size = data.draw(st.integers(1, n))
    odd = data.draw(st.sampled_from([0.0, 1.0, -1.0, math.nan, math.inf, -math.inf]))
    sampler = AgreementSampler(n, batch_size, steps=steps, seed=seed)

    def values(number: int, ids: Tensor) -> Tensor:
        draw = torch.Generator().manual_seed(abs(number))
        found = torch.randn(n, generator=draw)
        found[torch.rand(n, generator=draw) < 0.3] = odd
        return found[ids]

    passes = scores(sampler, values)
    assert sum(map(len, passes)) == sampler.step == steps
    for batches in passes:
        ids = torch.cat(batches)
        assert len(ids.unique()) == len(ids)
    assert len(passes[0]) == min(steps, n // batch_size)


def test_ids_parts_and_the_cost_of_scoring_again() -> None:
    ids = torch.randperm(90, generator=torch.Generator().manual_seed(0))[:60]
    where = {one: row for row, one in enumerate(ids.tolist())}

    def run(some: int | Tensor, **options: Any) -> tuple[list[list[int]], AgreementSampler]:
        sampler = AgreementSampler(some, 6, steps=120, seed=1, **options)

        def values(number: int, rows: Tensor) -> Tensor:
            if isinstance(some, Tensor):
                rows = torch.tensor([where[one] for one in rows.tolist()])
            noise = torch.randn(60, generator=torch.Generator().manual_seed(abs(number)))
            return (torch.linspace(-3, 3, 60) + noise)[rows]

        data = IndexedDataset(TensorDataset(torch.zeros(90, 1), torch.zeros(90).long()))
        batches, drawn = loader(data, sampler), []
        while sampler.step < sampler.steps:
            for batch in batches:
                assert len(batch.ids) == 6 // options.get("parts", 1)
                drawn.append(batch.ids.tolist())
                sampler.update(batch.ids, values(sampler.passes, batch.ids))
            sampler.rescore(
                nn.Identity(), batches, forward=lambda _, b: values(-sampler.passes, b.ids)
            )
        return drawn, sampler

    plain, sampler = run(60)
    assert len(plain) == 120
    assert sampler.metrics()["selection/scored"] == sampler.scored > 50
    assert 0.1 < sampler.metrics()["selection/left_out"] < 0.5
    by_ids, _ = run(ids)
    assert by_ids == [ids[torch.tensor(rows)].tolist() for rows in plain]
    in_parts, _ = run(60, parts=2)
    assert in_parts == [part for rows in plain for part in (rows[:3], rows[3:])]
    paid, sampler = run(60, rescoring_cost=0.5)
    assert paid == plain[: len(paid)]
    assert len(paid) == sampler.steps == 120 - math.ceil(sampler.scored / 12)


def test_nobody_starves() -> None:
    sampler, seen = AgreementSampler(60, 7, steps=500), [[0] for _ in range(60)]
    draw = torch.Generator().manual_seed(0)

    def values(number: int, ids: Tensor) -> Tensor:
        for one in ids.tolist():
            seen[one].append(abs(number))
        return torch.randn(len(ids), generator=draw) + torch.linspace(-3, 3, 60)[ids]

    passes = len(scores(sampler, values))
    assert passes > 50
    # Visited, or scored again; to be skipped 16 times by chance is rare.
    assert max(b - a for one in seen for a, b in pairwise([*one, passes])) <= 16


def net(inputs: int = 6, classes: int = 3, width: int = 16) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, classes))


class Training:
    """A plain loop that can stop after any step."""

    def __init__(self, workers: int = 0, steps: int = 36) -> None:
        draw = torch.Generator().manual_seed(1)
        x = torch.randn(48, 6, generator=draw)
        y = torch.where(torch.rand(48, generator=draw) < 0.4, 2, (x[:, 0] > 0).long())
        self.model, self.ids = net(), list[Tensor]()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.3, momentum=0.9)
        self.sampler = AgreementSampler(48, 8, steps=steps, seed=5)
        data = IndexedDataset(TensorDataset(x, y))
        self.batches = loader(data, self.sampler, workers=workers)

    def run(self, until: int = 36) -> Training:
        while self.sampler.step < until:
            self.sampler.rescore(self.model, self.batches)
            for batch in islice(self.batches, until - self.sampler.step):
                logits = self.model(batch.x)
                self.optimizer.zero_grad()
                F.cross_entropy(logits, batch.y, label_smoothing=0.3).backward()
                self.optimizer.step()
                self.sampler.update(batch.ids, logits, batch.y)
                self.ids.append(batch.ids)
        return self

    def state(self) -> dict[str, Any]:
        parts = (self.model, self.optimizer, self.sampler)
        return copy.deepcopy({type(part).__name__: part.state_dict() for part in parts})

    def load(self, state: dict[str, Any]) -> Training:
        for part in (self.model, self.optimizer, self.sampler):
            part.load_state_dict(state[type(part).__name__])
        return self


def test_resumes_to_the_bit_at_every_step() -> None:
    whole = Training().run()
    wanted = whole.state()
    assert whole.sampler._rescored == 9  # scored again, last before pass 10
    stopped = Training()
    for step in (1, 6, 7, 15, 20, 23, 29, 35):
        resumed = Training().load(stopped.run(step).state()).run()
        assert torch.equal(torch.stack(resumed.ids), torch.stack(whole.ids[step:])), step
        assert_same(resumed.state(), wanted)
    assert len({one for ids in whole.ids[-4:] for one in ids.tolist()}) < 32


def assert_same(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    for part in ("Sequential", "AgreementSampler"):
        for name, value in wanted[part].items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(found[part][name])), name


def test_a_state_stays_and_mends_after_an_error() -> None:
    training = Training().run(15)
    wanted, state = training.state(), training.sampler.state_dict()
    again = training.run().ids[15:]
    assert_same({**wanted, "AgreementSampler": state}, wanted)
    training.sampler.load_state_dict(Training().run(8).sampler.state_dict())
    training.sampler.update(again[0] + 48, torch.zeros(8))
    for _ in range(2):
        with pytest.raises(ValueError, match="8 ids were not drawn"):
            training.sampler.state_dict()
    training.ids.clear()
    training.load({**wanted, "AgreementSampler": state}).run()
    assert torch.equal(torch.stack(training.ids), torch.stack(again))


def test_workers_load_the_same_and_global_generators_stay() -> None:
    state = torch.get_rng_state()
    alone, ahead = Training(steps=20).run(20), Training(workers=1, steps=20)
    next(iter(ahead.batches))  # a look at a batch does not count
    assert torch.equal(torch.stack(ahead.run(20).ids), torch.stack(alone.ids))
    assert torch.equal(state, torch.get_rng_state())


def test_update_on_cuda_reads_nothing_back() -> None:
    sampler = AgreementSampler(160, 4, steps=80)
    batches = [torch.tensor(ids) for ids in sampler]
    with pretend_gpu() as gpu:
        logits, labels = torch.zeros(4, 3, device=GPU), torch.zeros(4, device=GPU).long()
        for ids in batches[:34]:
            sampler.update(ids, logits, labels)
            sampler.update(ids.int().to(GPU, non_blocking=True), logits[:, 0].half())
        assert sampler._margins.news.device == GPU
        assert sum(gpu.waits.values()) == 0, gpu.waits
    assert sampler.step == 68


def test_what_cannot_be_is_refused() -> None:
    def made(**changes: Any) -> AgreementSampler:
        return AgreementSampler(**{"ids_or_n": 8, "batch_size": 4, "steps": 100, **changes})

    for changes, error, message in (
        ({"ids_or_n": 2.5}, TypeError, r"ids_or_n must be an int64 tensor \(m,\), got float"),
        ({"ids_or_n": torch.tensor([3, 3])}, ValueError, "ids_or_n must not repeat"),
        ({"parts": 3}, ValueError, "multiple of 1 ranks times 3 parts, got 4"),
        ({"steps": 0}, ValueError, "steps must be at least 1"),
        ({"ids_or_n": torch.tensor([2**40])}, IndexError, r"must lie in \[0, 2147483648\)"),
        ({"rescoring_cost": -0.1}, ValueError, "rescoring_cost must be finite, at least 0, got -0"),
        ({"rescoring_cost": math.nan}, ValueError, "rescoring_cost must be finite"),
        ({"batch_size": 9}, ValueError, "batch_size must be at most n, got 9 for 8"),
    ):
        with pytest.raises(error, match=message):
            made(**changes)
    sampler = made()
    first, second = map(torch.tensor, sampler)
    good, labels = torch.zeros(4, 3), torch.zeros(4).long()
    for arguments, error, message in (
        ((first.float(), good, labels), TypeError, "ids must be an int64"),
        ((first, good), TypeError, "pass labels too"),
        ((first, good.long(), labels), TypeError, "floating point"),
        ((first, good[:, 0], labels), TypeError, r"logits \(m, C\)"),
        ((first, good[:3], labels), ValueError, "one row an example"),
        ((first, good, labels[:3]), ValueError, "one row an example"),
        ((first, good, labels.float()), TypeError, "labels must be an int64 tensor"),
        ((first, good, labels.tolist()), TypeError, "labels must be an int64 tensor"),
    ):
        with pytest.raises(error, match=message):
            sampler.update(*arguments)
    assert sampler.step == 0
    # Examples that are ignored have no margin, and stay.
    sampler.update(first, good, torch.tensor([-100, 0, 1, 2]))
    sampler.update(second, torch.tensor([math.nan, math.inf, -math.inf, 0.0]))
    assert len(list(sampler)) == 2
    for ids, classes in zip(sampler, (3, 4), strict=True):  # the choices of a question may differ
        sampler.update(torch.tensor(ids), torch.zeros(4, classes), labels)
    for sent, sent_labels, error, message in (
        ([first], labels + 3, IndexError, r"labels must lie in \[0, 3\)"),
        ([first - 8], labels, ValueError, r"4 ids were not drawn .* \(in \[0, 8\)\)"),
        ([first + 8], labels, ValueError, "4 ids were not drawn in this pass"),
        ([first, first[:1]], labels, ValueError, "1 ids .* updated before"),
        ([torch.cat([first, first[:2]])], torch.zeros(6).long(), ValueError, "2 ids"),
    ):
        wrong = made()
        first = torch.tensor(next(iter(wrong)))
        for ids in sent:
            wrong.update(ids, torch.zeros(len(ids), 3), sent_labels[: len(ids)])
        with pytest.raises(error, match=message):
            wrong.state_dict()
    for late in (False, True):  # in range, but never drawn, or entered before
        wrong = made(ids_or_n=torch.arange(4, 12))
        first = torch.tensor(next(iter(wrong)))
        wrong.update(first, good, labels)
        wrong.state_dict()
        wrong.update(first if late else torch.arange(4), good, labels)
        with pytest.raises(ValueError, match="4 ids were not drawn"):
            wrong.state_dict()

    others = (made(ids_or_n=9), made(steps=99), made(seed=1), made(batch_size=2))
    for other in (*others, made(ids_or_n=torch.arange(8)), made(rescoring_cost=0.3)):
        with pytest.raises(ValueError, match="the state has"):
            other.load_state_dict(sampler.state_dict())

    old = sampler.state_dict()
    del old["labels"]
    with pytest.raises(ValueError, match="the state has no labels; it is of another version"):
        sampler.load_state_dict(old)

    idle = made()
    for _ in range(2):
        assert len(list(idle)) == 2
    with pytest.raises(RuntimeError, match="two passes ended without an update"):
        iter(idle)


def test_rescore_is_demanded_and_checked() -> None:
    n = 12
    sampler = AgreementSampler(n, 2, steps=200)
    data = IndexedDataset(TensorDataset(torch.zeros(n, 1), torch.zeros(n).long()))
    values = torch.linspace(-3, 1, n)

    def train() -> None:
        while True:
            for batch in loader(data, sampler):
                sampler.update(batch.ids, values[batch.ids])

    with pytest.raises(RuntimeError, match=r"call sampler.rescore\(model, batches\)"):
        train()
    other = [Batch(torch.zeros(2, 1), torch.zeros(2).long(), torch.tensor([0, 11]))]
    with pytest.raises(ValueError, match="must load the 8 left out, and loaded 2"):
        sampler.rescore(nn.Identity(), other, forward=lambda _, b: values[b.ids])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="must be a torch.nn.Module"):
        sampler.rescore(loader(data, sampler), nn.Identity())  # type: ignore[arg-type]
    out = int((values <= -0.5 * values[values > 0].mean()).sum())
    batches, fresh = loader(data, sampler), torch.ones(n)
    assert sampler.rescore(nn.Identity(), batches, forward=lambda _, b: fresh[b.ids]) == out
    assert sampler.rescore(nn.Identity(), batches) == 0
    assert len(list(batches)) > 2  # all are back, and those above the mean may be skipped


def test_on_noisy_letters_it_closes_part_of_the_gap_to_true_labels() -> None:
    steps, batch_size = 400, 128
    task = letters(noise=0.4)
    x, y = (part[:7000] for part in task.train.tensors)
    test_x, test_y = task.test.tensors

    def trained(ids: Tensor | None = None) -> float:
        model = net(16, 26, 64)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, fused=True)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        done = 0
        while done < steps:
            if ids is None:
                sampler.rescore(model, stream := batches)
            else:
                order = ids[torch.randperm(len(ids), generator=generator)]
                stream = [Batch(x[i], y[i], i) for i in order.split(batch_size)]
            for batch in islice(stream, steps - done):
                logits = model(batch.x)
                optimizer.zero_grad()
                F.cross_entropy(logits, batch.y).backward()
                optimizer.step()
                schedule.step()
                done += 1
                if ids is None:
                    sampler.update(batch.ids, logits, batch.y)
        with torch.no_grad():
            return float((model(test_x).argmax(1) == test_y).float().mean())

    generator = torch.Generator().manual_seed(0)
    sampler = AgreementSampler(len(y), batch_size, steps=steps)
    batches: Any = loader(IndexedDataset(TensorDataset(x, y)), sampler)
    found, uniform = trained(), trained(torch.arange(len(y)))
    oracle = trained((~task.flags["noisy"][:7000]).nonzero().flatten())
    assert oracle - uniform > 0.05
    assert found - uniform > (oracle - uniform) / 3
