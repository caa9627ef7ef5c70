"""What each op does under autograd; a test lists every op under exactly one kind."""

from __future__ import annotations

import torch

from rho_ext import _library  # noqa: F401  (the schemas must exist first)

# Selection is not differentiable. Without a registration torch would mark the outputs as
# requiring a gradient and drop it silently in backward; falling through says that there is none.
FALL_THROUGH = ("select", "select.workspace", "score")

# The object must live: its destructor takes the registrations back.
_fall_through = torch.library.Library("rho_ext", "IMPL")
for _op in FALL_THROUGH:
    _fall_through.impl(_op, torch.library.fallthrough_kernel, "Autograd")
