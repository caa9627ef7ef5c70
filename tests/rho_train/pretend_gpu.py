"""A GPU that is not there: tensors that say they are on cuda:0, and ops that refuse to mix them.

It counts what makes the host wait for a GPU.
"""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest import mock

import torch
import torch._dynamo  # before anything is patched
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.weak import WeakIdKeyDictionary

GPU, CPU = torch.device("cuda", 0), torch.device("cpu")
_DEVICE = (Tensor.device, Tensor.is_cuda, Tensor.is_cpu)
_MOVES = (Tensor.copy_, torch._foreach_copy_, torch._has_compatible_shallow_copy_type)
# Ops that read a value or a size from the device; an index by a mask or that adds up does too.
_READS = {
    *("_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique2", "unique_dim"),
    *("unique_consecutive", "bincount", "repeat_interleave.Tensor"),
}
# In inference mode these dispatch nothing.
_VALUES = {"__bool__", "__float__", "__index__", "__int__", "item", "tolist"}
_INDEXED = {"index", "index_put", "index_put_", "_index_put_impl_"}


class _Reads(TorchDispatchMode):
    """Calls `note` for every op, inside of others too, for which the host waits."""

    def __init__(self, note: Callable[[str], None]) -> None:
        super().__init__()
        self.note = note

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::")
        overload = f"{name}.{func._schema.overload_name}"
        indices = [one for one in tree_leaves(args[1:2]) if isinstance(one, Tensor)]
        masked = name in _INDEXED and any(one.dtype == torch.bool for one in indices)
        adding = name in _INDEXED and any(one is True for one in args[3:])
        if {name, overload} & _READS or masked or adding:
            self.note(name)
        return func(*args, **(kwargs or {}))


class PretendGPU(TorchFunctionMode):
    """Every tensor stays where it is, but has a device to show.

    Results are on the device of the arguments, or of the keyword `device`. An op whose tensors are
    on both raises, but for scalars and copies. `waits` counts by op and line of rho_train what the
    host waits for: reads of values and sizes, and copies but those to the GPU with non_blocking.
    """

    def __init__(self) -> None:
        super().__init__()
        self.on_gpu = WeakIdKeyDictionary()
        self.ops = 0
        self.waits: Counter[str] = Counter()
        self._reads = _Reads(self.wait)

    def wait(self, what: str) -> None:
        """Count a wait, with the line of rho_train that caused it."""
        stack = [one for one in traceback.extract_stack() if "/rho_train/" in one.filename]
        own = [one for one in stack if "/tests/" not in one.filename]
        self.waits[" ".join([what, *(f"{one.filename}:{one.lineno}" for one in own[-1:])])] += 1

    def device(self, tensor: Tensor) -> torch.device:
        return GPU if tensor in self.on_gpu else CPU

    def mark(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            self.on_gpu[value] = True
        return value

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        tensors = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
        here = {self.device(one) for one in tensors}
        if name == "__get__" and func.__self__ in _DEVICE:
            device = self.device(args[0])
            return {"device": device, "is_cuda": device == GPU, "is_cpu": device == CPU}[
                func.__self__.__name__
            ]
        if name == "__set__" and func.__self__ is Tensor.data:
            func(*args)
            return self.mark(args[0]) if self.device(args[1]) == GPU else None
        if func is torch.device or name == "_parse_to":  # of nn.Module.to
            return func(*args, **kwargs)
        wanted = [one for one in (*args, *kwargs.values()) if isinstance(one, torch.device)]
        if isinstance(kwargs.get("device"), str):
            wanted.append(torch.device(kwargs["device"]))
        if func in (Tensor.to, Tensor.cpu):
            wanted += [self.device(one) for one in args[1:] if isinstance(one, Tensor)]
            wanted += [torch.device(one) for one in args[1:2] if isinstance(one, str)]
            target = CPU if func is Tensor.cpu else (wanted or [self.device(args[0])])[0]
            if target.type != self.device(args[0]).type:
                unasked = not (kwargs.get("non_blocking") or any(one is True for one in args[1:]))
                if unasked or target == CPU:
                    self.wait(f"copy to {target}")
            rest = [one for one in args[1:] if isinstance(one, torch.dtype)]
            dtype = kwargs.get("dtype") or next(iter(rest), args[0].dtype)
            result = func(args[0], dtype) if dtype != args[0].dtype else args[0]
            if target.type == self.device(args[0]).type and result is args[0]:
                return result
            result = args[0].clone() if result is args[0] else result
            return self.mark(result) if target.type == "cuda" else result
        args, kwargs = tree_map(lambda v: CPU if isinstance(v, torch.device) else v, (args, kwargs))
        if kwargs.get("device") == "cuda":
            kwargs["device"] = CPU
        sized = {self.device(one) for one in tensors if one.ndim}
        if len(sized) > 1 and func not in _MOVES:
            shown = [(str(self.device(one)), tuple(one.shape)) for one in tensors]
            raise RuntimeError(f"{name}: tensors are on two devices: {shown}")
        if name == "numpy" and GPU in here:
            raise TypeError("can't convert cuda tensor to numpy")
        self.ops += GPU in here
        target_gpu = wanted[0].type == "cuda" if wanted else GPU in here
        if func is Tensor.pin_memory:
            return args[0].clone()
        new = func in (torch.tensor, torch.as_tensor) and target_gpu and not here
        read = name in _VALUES and GPU in here
        if new or read or (func is Tensor.copy_ and len(here) > 1):
            self.wait(name)
        with self._reads if GPU in here and not read else nullcontext():
            result = func(*args, **kwargs)
        return tree_map(self.mark, result) if target_gpu else result


@contextmanager
def pretend_gpu() -> Iterator[PretendGPU]:
    """Let torch have a GPU, on which everything runs as on the CPU."""
    mode, none = PretendGPU(), lambda *_: None
    state = torch.zeros(16, dtype=torch.uint8)
    patches: dict[str, Callable[..., Any]] = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "get_device_name": lambda *_: "Pretended GPU",
        "get_rng_state": lambda *_: state,
        "set_rng_state": none,
        "manual_seed": none,
        "synchronize": lambda *_: mode.wait("synchronize"),
        "is_bf16_supported": lambda *_, **__: True,
        "device": lambda *_: nullcontext(),
    }
    deepcopy = nn.Parameter.__deepcopy__

    def copied(parameter: nn.Parameter, memo: dict[int, Any]) -> Any:
        copy = deepcopy(parameter, memo)  # by no function that a mode sees
        return mode.mark(copy) if parameter in mode.on_gpu else copy

    copying = mock.patch.object(nn.Parameter, "__deepcopy__", copied)
    with mock.patch.multiple(torch.cuda, **patches), copying, mode:
        yield mode
