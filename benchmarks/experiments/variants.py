"""Methods that suites name, as arguments of `rho_train.Variant`.

"Half" trains on the half that is not held out for the IL model.
"""

from __future__ import annotations

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


def _entry(name: str, label: str, method: str, **more: Any) -> Entry:
    return {"name": name, "label": label, "method": method, **more}


UNIFORM_HALF = _entry("uniform_half", "Uniform, half", "uniform", examples="rest")
UNIFORM_ALL = _entry("uniform_all", "Uniform, all", "uniform")
UNIFORM_HALF_DECAY, UNIFORM_ALL_DECAY = decayed(UNIFORM_HALF), decayed(UNIFORM_ALL)
RHO_HOLDOUT = _entry("rho_holdout", "RHO-LOSS, half", "rho", il="holdout", examples="rest")
RHO_CROSSFIT = _entry("rho_crossfit", "RHO-LOSS, all", "rho", il="crossfit")
RHO_HOLDOUT_DECAY = decayed(RHO_HOLDOUT)

# The doubt of "No Train No Gain" (Kaddour et al., NeurIPS 2023): uniform sampling with a decayed
# rate, at the cost of RHO-LOSS.
HALF_COST_WITH_IL, HALF_COST = (
    equal_cost(UNIFORM_HALF_DECAY, name, RHO_HOLDOUT_DECAY, note, il)
    for name, note, il in (
        ("half_cost_with_il", "equal cost, IL included", True),
        ("half_cost", "equal cost, precomputed IL", False),
    )
)
# Selection without irreducible losses, on the same half.
TRAIN_LOSS, GRAD_NORM, IMPORTANCE = (
    _entry(name, f"{label}, half", method, examples="rest")
    for name, label, method in (
        ("train_loss", "Training loss", "loss"),
        ("grad_norm", "Gradient norm", "grad_norm"),
        ("importance", "Importance sampling", "importance"),
    )
)
NEG_IL = _entry("neg_il", "Negative IL, half", "neg_il", il="holdout", examples="rest")
