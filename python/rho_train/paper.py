"""The settings of the paper's own code."""

from __future__ import annotations

from typing import Any

from rho_train.il_source import ILSource
from rho_train.scoring import Scoring
from rho_train.selector import Selector


def paper_mode(il: ILSource | None = None, **options: Any) -> Selector:
    """Return a Selector as the reference implementation of RHO-LOSS selects.

    32 points of a large batch (of 320 there), the highest CE - IL, negative ones too, scored in
    training mode: BatchNorm normalises with the statistics of the large batch and learns them, so
    that with its step on the small batch it learns twice (Mindermann et al., ICML 2022, appendix
    B), and dropout is on. `TrainConfig()` has the rest: AdamW, a constant learning rate of 1e-3,
    weight decay 0.01, no clipping of gradients.

    Args:
        il: as in `Selector`.
        options: others of Selector's.

    Example:
        >>> import torch
        >>> selector = paper_mode(torch.zeros(4))
        >>> selector.k, selector.scoring.train_mode
        (32, True)
    """
    return Selector(il=il, **{"k": 32, "scoring": Scoring(train_mode=True), **options})
