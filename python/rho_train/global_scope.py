"""`Selector(scope="global")`: the ranks choose from all their large batches as from one.

Every rank scores its own points. The best k scores of each are gathered, and every rank ranks them
alike, so that it knows how many of its own are among the k best of all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from rho_train.distributed import all_gather, rank_and_world
from rho_train.methods.context import Selected, ranked
from rho_train.online import OnlineModel
from rho_train.schedules import UniformPhases
from rho_train.scoring import Scoring
from rho_train.selector_checks import nothing_left

Scope = Literal["local", "global"]


def check_scope(
    scope: object, method: object, pointwise: bool, scoring: Scoring, parts: Mapping[str, object]
) -> None:
    """Refuse what several ranks would not choose as one process does.

    Args:
        scope: of the Selector.
        method, pointwise: whether the method scores each point for itself.
        scoring: of the Selector.
        parts: arguments of the Selector by name, of which an OnlineModel would learn apart on
            every rank, and UniformPhases draw.
    """
    if scope not in get_args(Scope):
        raise ValueError(f"Selector: scope must be 'local' or 'global', got {scope!r}")
    if scope == "local":
        return
    if not pointwise:
        raise ValueError(
            "Selector: scope='global' needs a method that scores each point for itself, and "
            f"{method!r} does not say so; choose rho or loss, for example, or scope='local'. For a "
            "method of your own that does: register(name, pointwise=True)"
        )
    if scoring.refresh < 1.0 or scoring.train_mode:
        raise ValueError(
            "Selector: scope='global' needs scores that do not depend on the rank; leave "
            "Scoring(refresh=..., train_mode=...) at their defaults, or choose scope='local'"
        )
    for name, part in parts.items():
        if isinstance(part, (OnlineModel, UniformPhases)):
            raise ValueError(
                f"Selector: scope='global' does not go with {name}={type(part).__name__}(...), "
                "which is of one rank; leave it out, or choose scope='local'"
            )


def place(n: int, settings: Sequence[float], device: torch.device) -> tuple[int, int]:
    """Return where the points of this rank begin among those of all ranks, and how many all are.

    Args:
        n: points of this rank's large batch.
        settings: numbers that all ranks must agree on.
        device: for the exchange.

    Raises:
        ValueError: they do not agree, or a rank has no points. All ranks raise it.
    """
    rank, _ = rank_and_world()
    row = torch.tensor([n, *settings], dtype=torch.float64, device=device)
    rows = all_gather(row).tolist()
    counts = [int(count) for count, *_ in rows]
    for other, (count, *found) in enumerate(rows):
        if count == 0:
            raise ValueError(
                f"Selector: scope='global': the large batch of rank {other} is empty; give every "
                "rank the same number of batches"
            )
        if found != rows[0][1:]:
            raise ValueError(
                "Selector: scope='global': all ranks must make the same selection, but (steps, "
                f"seed, k, ratio) is {_said(rows[0])} on rank 0 and {_said(rows[other])} on rank "
                f"{other}; ratio and k are of the points of all ranks"
            )
    return sum(counts[:rank]), sum(counts)


def _said(row: Sequence[float]) -> str:
    return f"({', '.join(f'{value:g}' for value in row[1:])})"


def keep(chosen: Selected, k: int, labelled: Tensor, step: int) -> tuple[Selected, bool]:
    """Cut what this rank chose to what is among the k best of all ranks.

    Ties go to the lower rank and there to the lower row, so to the row that comes first where the
    large batches of the ranks are joined. The weights of the r points of this rank are
    `world * r / K`, K <= k being the points of all ranks: the mean over the ranks of the weighted
    mean loss, which is what DistributedDataParallel and FSDP2 differentiate, is then the mean loss
    of the K points.

    Args:
        chosen: the best of this rank, the highest score first.
        k: points to keep of all ranks.
        labelled: bool (n,), rows whose label is not ignored.
        step: of the selection, for errors.

    Returns:
        The choice, without padding, and whether it is a stand-in: where no point is among the best,
        the first row that has a label and a finite loss, with weight 0, because the rank must take
        part in the backward pass.

    Raises:
        FloatingPointError: no rank has a point with a usable score, or one that keeps none has no
            stand-in. All ranks raise it.
    """
    rank, world = rank_and_world()
    assert chosen.losses is not None
    sound = labelled & chosen.losses.isfinite()
    mine = chosen.values.new_full((k + 1,), -torch.inf)
    mine[: len(chosen.values)] = chosen.values
    mine[k] = sound.any()
    every = all_gather(mine)
    best = ranked(every[:, :k].flatten(), k).indices  # -1 where there are not enough
    owners = best.div(k, rounding_mode="floor")
    ranks = torch.arange(world, device=owners.device)
    kept = (owners == ranks[:, None]).sum(1)
    # The only thing that the host reads.
    kept, stand_ins = torch.stack([kept, every[:, k].long()]).tolist()
    total = sum(kept)
    if total == 0:
        raise nothing_left(step, len(labelled), int(chosen.invalid), chosen.losses)
    for other in range(world):
        if not kept[other] and not stand_ins[other]:
            raise FloatingPointError(
                f"Selector: step {step}: no point of rank {other} has a label and a finite loss, "
                "so that it cannot take part in the step; look at its batch"
            )
    count = kept[rank]
    if count == 0:
        first = sound.int().argmax()[None]
        none = torch.full_like(first, -torch.inf, dtype=torch.float32)
        return chosen._replace(indices=first, values=none, weights=torch.zeros_like(none)), True
    weights = torch.full((count,), world * count / total, device=chosen.values.device)
    if chosen.weights is not None:
        weights *= chosen.weights[:count]
    return (
        chosen._replace(
            indices=chosen.indices[:count], values=chosen.values[:count], weights=weights
        ),
        False,
    )
