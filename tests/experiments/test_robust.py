"""A robust loss by its formula, and the skipping of learnt examples."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from experiments.robust import EarlyLearning, infobatch


def test_elr_is_the_formula_over_two_visits() -> None:
    elr = EarlyLearning(6, 3)
    draw = torch.Generator().manual_seed(1)
    first, second = torch.randn(2, 2, 3, generator=draw).unbind()
    labels, ids = torch.tensor([0, 2]), torch.tensor([5, 1])
    elr.losses(first, labels, ids)
    found = elr.losses(second, labels, ids)
    t = 0.7 * (0.3 * first.softmax(1)) + 0.3 * second.softmax(1)
    pull = 3 * (1 - (second.softmax(1) * t).sum(1)).log()
    wanted = F.cross_entropy(second, labels, reduction="none") + pull
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
    assert not elr.targets[[0, 2, 3, 4]].any()


def test_infobatch_skips_learnt_examples_and_keeps_the_mean() -> None:
    draw = torch.Generator().manual_seed(2)
    losses = torch.rand(4000, generator=draw)
    low = losses < losses.mean()
    ids, weights = infobatch(losses, 0.5, draw)
    assert len(ids.unique()) == len(ids)
    assert set((~low).nonzero().flatten().tolist()) <= set(ids.tolist())
    assert abs(float(weights[ids].sum()) - 4000) < 5 * int(low.sum()) ** 0.5
    for known, progress in ((losses, 0.9), (losses.clone().index_fill_(0, ids[:1], math.inf), 0.1)):
        every, ones = infobatch(known, progress, draw)
        assert sorted(every.tolist()) == list(range(4000))
        assert bool((ones == 1).all())
