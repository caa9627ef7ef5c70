"""Forward passes without side effects: modes, BatchNorm statistics and RNG are restored."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.parameter import is_lazy

from rho_train.batch import Fields, describe
from rho_train.checks import check_counts

ForwardFunction = Callable[[nn.Module, Any], Tensor]
"""Called as `forward(model, batch)`, returns logits (n, C)."""

LossFunction = Callable[[nn.Module, Any], Tensor]
"""Called as `loss_fn(model, batch)`, returns the losses, floating point (n,), NaN for none."""


@dataclass(frozen=True)
class Scoring:
    """Options of the forward passes of a `Selector`; `rho-ext plan` measures what each saves.

    Args:
        bf16: score under bfloat16 autocast, or without; None: as it is outside.
        micro_batch: examples of one forward pass; bounds the memory. None: the whole large batch.
        compile: score through `torch.compile`; a string is its mode: "reduce-overhead" replays the
            pass as a CUDA graph, for large batches of one size.
        train_mode: score in training mode, as the paper's code does: dropout is on, and BatchNorm
            normalises with the statistics of the large batch and learns them.

    Examples:
        >>> Scoring(micro_batch=64, bf16=True).compile
        False
    """

    bf16: bool | None = None
    micro_batch: int | None = None
    compile: bool | str = False
    train_mode: bool = False

    def __post_init__(self) -> None:
        if self.micro_batch is not None:
            check_counts(self, "micro_batch")
        if self.train_mode and self.micro_batch is not None:
            raise ValueError(
                "Scoring: train_mode is of the whole large batch; leave micro_batch out, got "
                f"{self.micro_batch}"
            )


def share_of(n: int, share: float) -> int:
    """Return max(1, round(share * n)), halves upwards."""
    # Not int(): 0.29 * 100 is 28.999... in floating point.
    return max(1, math.floor(share * n + 0.5))


@contextmanager
def scoring_mode(
    model: nn.Module, *, bf16: bool | None = None, train_mode: bool = False
) -> Iterator[nn.Module]:
    """Give a model in eval mode without autograd, and restore what scoring could change.

    A DistributedDataParallel model is given unwrapped: its forward would synchronise buffers a
    second time in one step. A model that `fully_shard` sharded gathers its parameters, so all ranks
    must make the same passes. A model that keeps tensors of its first pass (rotary tables, masks)
    must run once before: made here, they could not enter autograd.
    """
    # A compiled model has it as a submodule. getattr would raise, for most, at every step.
    inner = model.get_submodule("_orig_mod") if "_orig_mod" in model._modules else model
    module = inner.module if isinstance(inner, DistributedDataParallel) else model
    parts, device = list(module.modules()), device_of(module)
    flipped = [] if train_mode and module.training else parts
    cpu_state = torch.default_generator.get_state()
    cuda_state = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    if bf16 is not None or torch.is_autocast_enabled(device.type):
        # A cache would keep weights that were cast in inference mode for the step that trains.
        dtype = torch.get_autocast_dtype(device.type) if bf16 is None else torch.bfloat16
        autocast: AbstractContextManager[Any] = torch.autocast(
            device.type, dtype, enabled=bf16 is not False, cache_enabled=False
        )
    else:
        autocast = nullcontext()
    try:
        # FSDP2 keeps the parameters that it gathers for the step, where autograd needs them.
        no_grad = torch.no_grad() if sharded(parts) else torch.inference_mode()
        with modes_set(flipped, train_mode), no_grad, autocast:
            yield module
    finally:
        if not train_mode:
            torch.default_generator.set_state(cpu_state)
            if cuda_state is not None:
                torch.cuda.set_rng_state(cuda_state, device)


def check_module(where: str, model: object) -> None:
    """Refuse what is no module, and a module whose parameters have no shape yet."""
    if not isinstance(model, nn.Module):
        got = f"the class {model.__name__}" if isinstance(model, type) else type(model).__name__
        raise TypeError(
            f"{where}: the model must be a torch.nn.Module, got {got}; call selector(model, batch) "
            "with the model first, and give a model in place of the function that makes it"
        )
    for name, parameter in model.named_parameters():
        if is_lazy(parameter):
            fix = "call the model on one batch before it is given to the optimizer and the Selector"
            raise ValueError(f"{where}: the parameter {name} has no shape yet (LazyLinear); {fix}")


@contextmanager
def seeded(device: torch.device, seed: int) -> Iterator[None]:
    """Let torch's global generators draw from `seed`, and restore their state."""
    cuda = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if cuda else []):
        torch.default_generator.manual_seed(seed)
        if cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


@contextmanager
def modes_set(parts: Iterable[nn.Module], training: bool) -> Iterator[None]:
    """Set the mode of each module, without its children, and restore it."""
    flipped = [one for one in parts if one.training != training]

    def set_modes(training: bool) -> None:
        # nn.Module looks through its parameters and submodules before it sets a flag, a microsecond
        # for every module and step. Script modules keep the flag elsewhere.
        for one in flipped:
            plain = type(one).__setattr__ is nn.Module.__setattr__
            (object.__setattr__ if plain else setattr)(one, "training", training)

    set_modes(training)
    try:
        yield
    finally:
        set_modes(not training)


def sharded(parts: Iterable[nn.Module]) -> bool:
    """Return whether `fully_shard` has sharded one of the modules."""
    # A sharded model has imported FSDP; importing it here takes most of a second.
    fsdp = sys.modules.get("torch.distributed.fsdp")
    return fsdp is not None and any(isinstance(one, fsdp.FSDPModule) for one in parts)


def rounding_of(model: nn.Module) -> float:
    """Return the largest epsilon of the numbers that a model computes with."""
    # Errors of rounding add up in long sums: at worst 3,000 of float32 reach its root.
    device, kinds = device_of(model).type, {torch.float32}
    kinds |= {one.dtype for one in model.parameters() if one.is_floating_point()}
    if torch.is_autocast_enabled(device):
        kinds.add(torch.get_autocast_dtype(device))
    tf32 = 2.0**-10 if device == "cuda" else 0.0  # to which convolutions round float32
    return max(tf32, *(torch.finfo(kind).eps for kind in kinds))


def device_of(model: nn.Module) -> torch.device:
    """Return the device of the first parameter, the CPU if there is none."""
    # nn.Module.parameters() walks through all modules once more, by name.
    for one in model.modules():
        for parameter in one._parameters.values():
            if parameter is not None:
                return parameter.device
    return torch.device("cpu")


def output_of(
    where: str,
    model: nn.Module,
    batch: Any,
    fields: Fields,
    forward: ForwardFunction | None,
    loss_fn: LossFunction | None,
) -> Tensor:
    """Return the logits (n, C) of a batch, by `forward`, or by `loss_fn` its losses, float32 (n,).

    Without a function the model is called on the inputs, keyword arguments if they are a dict, and
    its output may hold `logits`. ValueError for what is no tensor of logits or of losses.
    """
    if forward is not None and loss_fn is not None:
        raise ValueError(f"{where}: give forward= or loss_fn=, which calls the model itself")
    if forward is not None:
        return forward(model, batch)
    if loss_fn is not None:
        n, found = fields.ids.shape[0], loss_fn(model, batch)
        if isinstance(found, Tensor) and found.shape == (n,) and found.is_floating_point():
            return found.float()
        raise ValueError(
            f"{where}: loss_fn must return the loss of each example, floating point ({n},), "
            f"got {describe(found)}; leave out the mean over the batch, as reduction='none' does"
        )
    inputs = fields.inputs
    output = model(**inputs) if isinstance(inputs, Mapping) else model(inputs)
    if isinstance(output, Tensor):
        return output
    logits = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", 0)
    if not isinstance(logits, Tensor):
        raise ValueError(
            f"{where}: the model returned {type(output).__name__}, wanted a tensor of logits "
            "(n, C) or an object with .logits; give forward= to pick them"
        )
    return logits
