"""Methods that suites name, as arguments of `rho_train.Variant`.

"Half" trains on the half that is not held out for the IL model.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

Entry = dict[str, Any]


def changed(entry: Entry, name: str, label: str, **overrides: Any) -> Entry:
    """Return a method with another name and label; `train__lr=0.1` overrides `train.lr`."""
    dotted = {key.replace("__", "."): value for key, value in overrides.items()}
    more = {**entry.get("overrides", {}), **dotted}
    return {**entry, "name": name, "label": label, "overrides": more}


def decayed(entry: Entry) -> Entry:
    """Return the method with a learning rate that decays to zero (half a cosine)."""
    name, label = f"{entry['name']}_decay", f"{entry['label']}, decayed"
    return changed(entry, name, label, train__schedule="cosine")


def equal_cost(entry: Entry, name: str, to: Entry, note: str, il: bool) -> Entry:
    """Return the method with as many steps as have the counted cost of `to`.

    Args:
        entry: the method whose steps follow.
        name, note: of the new method, and what its label says beside that of `entry`.
        to: the method whose cost is given.
        il: whether the IL cost of both counts.
    """
    cost = {"to": to["name"], "il": il}
    return {**entry, "name": name, "label": f"{entry['label']}, {note}", "cost": cost}


def grid(entry: Entry, **options: Sequence[Any]) -> list[Entry]:
    """Return a method for each combination of values: `grid(RHO, il__epochs=[3, 6])`.

    Example:
        >>> [made["name"] for made in grid(UNIFORM_ALL, train__lr=[0.1, 0.2])]
        ['uniform_all-lr-0.1', 'uniform_all-lr-0.2']
    """
    made = []
    for values in itertools.product(*options.values()):
        name, label = entry["name"], entry["label"]
        for key, value in zip(options, values, strict=True):
            short = key.rpartition("__")[2]
            text = "x".join(map(str, value)) if isinstance(value, list) else f"{value}"
            name += f"-{short}-{text}"
            label += f", {short.replace('_', ' ')} {text}"
        made.append(changed(entry, name, label, **dict(zip(options, values, strict=True))))
    return made


def _entry(name: str, label: str, method: str, **more: Any) -> Entry:
    return {"name": name, "label": label, "method": method, **more}


UNIFORM_HALF = _entry("uniform_half", "Uniform, half", "uniform", examples="rest")
UNIFORM_ALL = _entry("uniform_all", "Uniform, all", "uniform")
UNIFORM_HALF_DECAY, UNIFORM_ALL_DECAY = decayed(UNIFORM_HALF), decayed(UNIFORM_ALL)
RHO_HOLDOUT = _entry("rho_holdout", "RHO-LOSS, half", "rho", il="holdout", examples="rest")
RHO_CROSSFIT = _entry("rho_crossfit", "RHO-LOSS, all", "rho", il="crossfit")
RHO_HOLDOUT_DECAY, RHO_CROSSFIT_DECAY = decayed(RHO_HOLDOUT), decayed(RHO_CROSSFIT)

# The doubt of "No Train No Gain" (Kaddour et al., NeurIPS 2023): uniform sampling with a decayed
# rate, at the cost of RHO-LOSS.
HALF_COST_WITH_IL, HALF_COST = (
    equal_cost(UNIFORM_HALF_DECAY, name, RHO_HOLDOUT_DECAY, note, il)
    for name, note, il in (
        ("half_cost_with_il", "equal cost, IL included", True),
        ("half_cost", "equal cost, precomputed IL", False),
    )
)
ALL_COST_WITH_IL, ALL_COST = (
    equal_cost(UNIFORM_ALL_DECAY, name, RHO_CROSSFIT_DECAY, note, il)
    for name, note, il in (
        ("all_cost_with_il", "equal cost, IL included", True),
        ("all_cost", "equal cost, precomputed IL", False),
    )
)


def _filtered(share: int) -> tuple[Entry, Entry, Entry]:
    """Filter by IL once: uniform sampling, in the same steps or at equal cost, and RHO-LOSS."""
    lowest = f"{share} % with the lowest IL, decayed"
    il = {"il": "crossfit", "keep": share / 100, "overrides": {"train.schedule": "cosine"}}
    plain = _entry(f"filter_{share}_decay", f"Uniform, {lowest}", "uniform", **il)
    return (
        plain,
        equal_cost(plain, f"filter_{share}_cost", RHO_CROSSFIT_DECAY, "equal cost", True),
        _entry(f"rho_{share}_decay", f"RHO-LOSS, {lowest}", "rho", **il),
    )


FILTER_60_DECAY, FILTER_60_COST, RHO_60_DECAY = _filtered(60)
FILTER_75_DECAY, FILTER_75_COST, RHO_75_DECAY = _filtered(75)
FILTER_90_DECAY, FILTER_90_COST, RHO_90_DECAY = _filtered(90)

# Selection without irreducible losses, on the same half.
TRAIN_LOSS, GRAD_NORM, ENTROPY, IMPORTANCE, SELECTIVE_BACKPROP = (
    _entry(name, f"{label}, half", method, examples="rest")
    for name, label, method in (
        ("train_loss", "Training loss", "loss"),
        ("grad_norm", "Gradient norm", "grad_norm"),
        ("entropy", "Entropy", "entropy"),
        ("importance", "Importance sampling", "importance"),
        ("selective_backprop", "Selective backprop", "selective_backprop"),
    )
)
# Selection with them.
BOLTZMANN, NEG_IL = (
    _entry(name, label, name, il="holdout", examples="rest")
    for name, label in (
        ("boltzmann", "RHO-LOSS, Boltzmann, half"),
        ("neg_il", "Negative IL, half"),
    )
)
CLASS_QUOTA = _entry("class_quota", "RHO-LOSS with class quotas, all", "class_quota", il="crossfit")
REDUCR = _entry("reducr", "REDUCR, all", "reducr", il="crossfit")
