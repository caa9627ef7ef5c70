"""Register the behaviour of each op under autograd."""

from __future__ import annotations

import torch

from rho_ext import _library  # noqa: F401  (the schemas must exist first)

# Selection is not differentiable. Without this torch would mark the outputs as requiring a gradient
# and drop it silently in backward. A test checks that every op is listed here.
FALL_THROUGH = ("select", "select.workspace", "score")

# Its destructor undoes the registrations.
_fall_through = torch.library.Library("rho_ext", "IMPL")
for _op in FALL_THROUGH:
    _fall_through.impl(_op, torch.library.fallthrough_kernel, "Autograd")
