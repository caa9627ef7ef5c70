"""Selection with `scope="global"`: all ranks select from all their large batches as from one.

The best k scores of each rank are gathered, and every rank ranks them alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from rho_train.distributed import all_gather, rank_and_world
from rho_train.methods.context import Selected, ranked

Scope = Literal["local", "global"]


def count_globally(n: int, settings: Sequence[float], device: torch.device) -> int:
    """Return the number of the examples of all ranks, of which this one has n.

    All ranks raise if they differ in `settings` (steps, seed, k, ratio), or one has no examples.
    """
    rows = all_gather(torch.tensor([n, *settings], dtype=torch.float64, device=device)).tolist()
    for other, (count, *theirs) in enumerate(rows):
        if count == 0:
            raise ValueError(
                f"Selector: scope='global': the large batch of rank {other} is empty; give every "
                "rank the same number of batches"
            )
        if theirs != rows[0][1:]:
            raise ValueError(
                "Selector: scope='global': all ranks must make the same selection of the examples "
                f"of all, got [steps, seed, k, ratio] = {rows[0][1:]} on rank 0 and {theirs} on "
                f"rank {other}"
            )
    return int(sum(count for count, *_ in rows))


def select_globally(
    selected: Selected, k: int, labelled: Tensor, step: int
) -> tuple[Selected, bool]:
    """Cut a selection of this rank to its examples among the k best of all ranks.

    Ties go to the lower rank and there to the lower row. The weights of the r examples of this rank
    are `world * r / K`, with K <= k of all ranks: the mean over the ranks of the weighted mean
    loss, which DistributedDataParallel and FSDP2 differentiate, is then the mean loss of the K.

    `labelled` bool (n,) are the rows whose label is not ignored. Returns the selection, without
    padding, and whether it is a stand-in: a rank without an example among the best takes part in
    the backward pass by its first labelled row with a finite loss, with weight 0. All ranks raise a
    FloatingPointError if none has a usable example, or one without any has no stand-in.
    """
    rank, world = rank_and_world()
    assert selected.losses is not None
    sound = labelled & selected.losses.isfinite()
    own = selected.values.new_full((k + 1,), -torch.inf)
    own[: len(selected.values)] = selected.values
    own[k] = sound.any()
    gathered = all_gather(own)
    best = ranked(gathered[:, :k].flatten(), k).indices  # -1 where there are not enough
    owners = best.div(k, rounding_mode="floor")
    ranks = torch.arange(world, dtype=torch.int64, device=owners.device)
    counts = (owners == ranks[:, None]).sum(1)
    # The only read by the host.
    counts, stand_ins = torch.stack([counts, gathered[:, k].long()]).tolist()
    total, count = sum(counts), counts[rank]
    if total == 0:
        # Raises, because no index is left.
        selected.rows(slice(0)).without_padding(step, len(labelled))
    for other in range(world):
        if not counts[other] and not stand_ins[other]:
            raise FloatingPointError(
                f"Selector: step {step}: no example of rank {other} has a label and a finite loss "
                "and can take part in the step; check its batch"
            )
    if count == 0:
        first = sound.int().argmax()[None]
        none = torch.full_like(first, -torch.inf, dtype=torch.float32)
        return selected._replace(indices=first, values=none, weights=torch.zeros_like(none)), True
    weights = torch.full_like(selected.values[:count], world * count / total)
    selected = selected.rows(slice(count))
    if selected.weights is not None:
        weights *= selected.weights
    return selected._replace(weights=weights), False
