"""Register the behaviour of each op under autograd, and refuse what would silently give zeros."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.compiler import is_dynamo_compiling

from rho_ext import _library  # noqa: F401  (the schemas must exist first)

# Selection is not differentiable. Without this torch would mark the outputs as requiring a gradient
# and drop it silently in backward. A test checks that every op is listed here.
FALL_THROUGH = ("select", "select.workspace", "score")

# Its destructor undoes the registrations.
_fall_through = torch.library.Library("rho_ext", "IMPL")
for _op in FALL_THROUGH:
    _fall_through.impl(_op, torch.library.fallthrough_kernel, "Autograd")


def _is_differentiated(tensor: Tensor) -> bool:
    functorch = torch._C._functorch
    # The last one may require a gradient of backward(), which is an error by itself.
    while functorch.is_functorch_wrapped_tensor(tensor):
        if (torch.is_grad_enabled() and tensor.requires_grad) or _has_tangent(tensor):
            return True
        tensor = functorch.get_unwrapped(tensor)
    return _has_tangent(tensor)


def _has_tangent(tensor: Tensor) -> bool:
    batched = torch._C._functorch.is_batchedtensor(tensor)
    enabled = torch._C._is_fwd_grad_enabled() and not batched
    return enabled and forward_ad.unpack_dual(tensor).tangent is not None


def refuse_derivatives(op: str, **tensors: object) -> None:
    """Raise if torch.func or forward-mode AD differentiates one of the tensors."""
    if is_dynamo_compiling():
        torch._dynamo.graph_break()  # It can trace neither the layers of torch.func nor tangents.
    for name, tensor in tensors.items():
        if isinstance(tensor, Tensor) and _is_differentiated(tensor):
            raise RuntimeError(
                f"{op}: {name} must not be differentiated by torch.func or forward-mode AD: {op} "
                f"has no derivative, and zeros would be wrong; pass {name}.detach()"
            )
