"""The recommendation of `plan`, on letters of which the answer is known."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch.utils.data import TensorDataset

from rho_train import IndexedDataset
from rho_train.recommendation import estimate_wrong, recommend, share_of_duplicates
from rho_train.tasks import letters


def test_it_follows_from_the_numbers() -> None:
    cases: list[tuple[dict[str, Any], str, str]] = [
        ({"wrong": None}, "--method uniform", "did not tell wrong labels"),
        ({"wrong": 0.05, "models": 99, "passes": 99}, "label_smoothing 0.3", "5 % of the labels"),
        ({"wrong": 0.3, "passes": 15}, "--method uniform", "30 % .* no way to train is sure"),
        ({"wrong": 0.4, "passes": 15}, "--method agreement", "40 % .* 15 passes .* worst class"),
        ({"wrong": 0.3, "passes": 6}, "--train.gce 0.3", "6.0 passes are few"),
        ({"wrong": 0.3, "passes": 4, "models": 99}, "--train.gce 0.3", "4.0 passes are few"),
        ({"wrong": 0.4, "passes": 4, "models": 10}, "il compute once", "10 models of 4.0 passes"),
        ({"wrong": 0.4, "passes": 4, "models": 9}, "--train.gce 0.3", "4.0 passes are few"),
        ({"wrong": 0.3, "duplicates": 0.5}, "find_duplicates", "50 % of the examples repeat"),
    ]
    for numbers, what, why in cases:
        first, second = recommend(**numbers).splitlines()
        assert what in first
        assert re.search(why, second), second


def test_letters_show_what_they_are() -> None:
    for noise, cases in (
        (0.0, [(15, 1, "--method uniform"), (15, 50, "--method uniform")]),
        (0.2, [(15, 50, "--method uniform"), (4, 1, "train.gce")]),
        (0.4, [(15, 50, "--method agreement"), (4, 1, "train.gce"), (4, 50, "il compute once")]),
    ):
        task, state = letters(noise=noise), torch.get_rng_state()
        wrong = estimate_wrong(task.model(0), task.dataset(), batch=32, lr=3e-3, steps=300)
        assert torch.equal(state, torch.get_rng_state())
        repeats = share_of_duplicates(task.dataset())
        for passes, models, what in cases:
            said = recommend(wrong=wrong, passes=passes, models=models, duplicates=repeats)
            assert what in said, (noise, said)
    x, y = task.train[:2000]
    twice = IndexedDataset(TensorDataset(x.repeat(2, 1), y.repeat(2)))
    assert share_of_duplicates(twice) == 0.5
    # Too few examples; nothing is learnt; the loss becomes NaN; one batch has more than there are.
    for batch, steps, lr in ((32, 90, 3e-3), (32, 200, 1e-6), (32, 200, 1e30), (9999, 1, 1e-6)):
        assert estimate_wrong(task.model(0), twice, batch=batch, lr=lr, steps=steps) is None
