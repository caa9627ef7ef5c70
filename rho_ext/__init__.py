"""rho_ext: fused RHO-LOSS data selection for PyTorch.

`rho_ext.select(logits, labels, ids, k)` scores every row of a large batch by its training loss
minus its irreducible loss and returns the k best rows, in one pass over the logits.
"""

__version__ = "0.1.0"

from rho_ext import _plain, reference  # noqa: F401  (registers)
from rho_ext._library import build_info
from rho_ext.ops import Scores, Selection, score, select, use_il, workspace

__all__ = [
    "Scores",
    "Selection",
    "build_info",
    "reference",
    "score",
    "select",
    "use_il",
    "workspace",
]
