"""Selection inside training frameworks: transformers and TRL, Lightning, Accelerate."""

from __future__ import annotations

import importlib.metadata
import re
import warnings
from contextlib import suppress
from typing import Any

from torch import Tensor

from rho_train.agreement import AgreementSampler
from rho_train.batch import to
from rho_train.distributed import on_all, rank_and_world
from rho_train.selector import Selector

# The first version and the first that is not known, as in the extras of pyproject.toml. Before 5.15
# transformers count the items of smoothed and of shifted labels otherwise.
VERSIONS = {"transformers": ((5, 15), (6, 0)), "lightning": ((2, 5), (3, 0))}


def check_framework(name: str) -> None:
    """Raise an ImportError if a framework is missing, or its hooks are not known."""
    (low, high), version = VERSIONS[name], "none"
    with suppress(importlib.metadata.PackageNotFoundError):
        version = importlib.metadata.version(name)
    if not low <= tuple(int(number) for number in re.findall(r"\d+", version)[:2]) < high:
        raise ImportError(
            f"rho_train.integrations.{name} needs {name} from {low[0]}.{low[1]} and below "
            f"{high[0]}.{high[1]}, got {version}; pip install 'rho-ext[{name}]'"
        )


def check_selector(where: str, selector: object) -> None:
    """Raise a TypeError if an argument is no Selector."""
    if not isinstance(selector, Selector):
        kind = type(selector).__name__
        raise TypeError(f"{where}: selector must be a Selector, got {kind}")


def factor_of(weights: Tensor) -> Tensor:
    """Return the one weight of all examples, which a framework's own mean loss can be scaled by."""
    if bool((weights != weights[0]).any()):
        raise ValueError(
            "Selector: a method gave the examples different weights, which cannot enter the mean "
            "loss of a framework; choose another method, or a training loop of your own"
        )
    return weights[0]


class EveryRank:
    """The state of a Selector or AgreementSampler on every rank, for what saves rank 0 alone.

    All ranks call `state_dict` together.

    Examples:
        >>> state = EveryRank(Selector(method="loss", ratio=0.1))
        >>> state.load_state_dict(state.state_dict())  # or register_for_checkpointing(state)
    """

    def __init__(self, selector: Selector | AgreementSampler) -> None:
        self.selector = selector

    def state_dict(self) -> dict[str, Any]:
        """Return the states of all ranks, with their tensors on the CPU."""
        return {"ranks": on_all(lambda: to(self.selector.state_dict(), "cpu"))}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state of this rank; a warning if there were more or fewer ranks."""
        states, (rank, world) = state["ranks"], rank_and_world()
        if len(states) != world:
            warnings.warn(
                f"Selector: {len(states)} ranks saved their states and {world} load them, so its "
                "counters and History are those of other ranks; resume with as many",
                stacklevel=2,
            )
        self.selector.load_state_dict(states[rank % len(states)])
