"""The forward pass that only looks: nothing of the model or of the random state changes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.parallel import DistributedDataParallel

from rho_train.batch import describe, split

ForwardFunction = Callable[[nn.Module, Any], Tensor]
"""Called as `forward(model, batch)`, returns logits (n, C)."""

LossFunction = Callable[[nn.Module, Any], Tensor]
"""Called as `losses(model, batch)`, returns the loss of each example, floating point (n,); NaN for
an example that has none."""


@contextmanager
def scoring(
    model: nn.Module,
    *,
    bf16: bool | None = None,
    train_mode: bool = False,
    keep_random: bool = True,
) -> Iterator[nn.Module]:
    """Give the model in eval mode without autograd, and put everything back.

    Dropout is off and BatchNorm uses and keeps its running statistics. Modes are restored module
    by module, so that a part frozen in eval mode stays frozen, and so is the state of the random
    generators. A DistributedDataParallel model is given unwrapped: its forward would synchronise
    buffers a second time in one step. One that `fully_shard` sharded gathers its parameters, so all
    ranks must make the same passes. A model that makes and keeps tensors in its first forward
    pass (rotary tables, masks) must run once before: made here, they could not enter autograd.

    Args:
        model: any module.
        bf16: run the forward pass under bfloat16 autocast, or without autocast; None: as it is
            outside.
        train_mode: the opposite: the mode that the model trains in, in which dropout draws from
            the global generators and BatchNorm uses the statistics of the batch and learns them; a
            part frozen in eval mode does not.
        keep_random: put back the state of the random generators; False beside a thread that draws
            from them.

    Example:
        >>> model = nn.Dropout()
        >>> with scoring(model) as scorer:
        ...     scorer(torch.ones(3))
        tensor([1., 1., 1.])
        >>> model.training
        True
    """
    inner = uncompiled(model)
    module = inner.module if isinstance(inner, DistributedDataParallel) else model
    parts = list(module.modules())
    as_it_is = train_mode and module.training
    flipped = [] if as_it_is else [part for part in parts if part.training != train_mode]
    device = _first_device(parts)
    cpu_state = torch.default_generator.get_state()
    cuda_state = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    for part in flipped:
        _set_training(part, train_mode)
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
        with torch.no_grad() if _sharded(parts) else torch.inference_mode(), autocast:
            yield module
    finally:
        for part in flipped:
            _set_training(part, not train_mode)
        if keep_random and not train_mode:
            torch.default_generator.set_state(cpu_state)
            if cuda_state is not None:
                torch.cuda.set_rng_state(cuda_state, device)


def uncompiled(model: nn.Module) -> nn.Module:
    """Return the model that `torch.compile` was given, or the model itself."""
    # A compiled model has it as a submodule. getattr would raise, for most, at every step.
    return model.get_submodule("_orig_mod") if "_orig_mod" in model._modules else model


@contextmanager
def seeded(device: torch.device, seed: int) -> Iterator[None]:
    """Let torch's global generators draw from `seed`, and put their state back.

    Example:
        >>> before = torch.get_rng_state()
        >>> with seeded(torch.device("cpu"), 3):
        ...     _ = torch.rand(1)
        >>> torch.equal(torch.get_rng_state(), before)
        True
    """
    cuda = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if cuda else []):
        torch.default_generator.manual_seed(seed)
        if cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


def dropout_layers(model: nn.Module) -> list[nn.Module]:
    """Return the modules of a model that drop units when they train, and do nothing else then.

    Example:
        >>> dropout_layers(nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.0), nn.Dropout(0.1)))
        [Dropout(p=0.1, inplace=False)]
    """
    return [
        part
        for part in model.modules()
        if (isinstance(part, _DropoutNd) and part.p > 0.0)
        or (isinstance(part, (nn.MultiheadAttention, nn.RNNBase)) and part.dropout > 0.0)
    ]


@contextmanager
def dropout_on(model: nn.Module) -> Iterator[None]:
    """Put the dropout layers of a model that scores into training mode, and back."""
    # In eval mode an encoder layer may take torch's fast path, which has no dropout.
    encoders = [part for part in model.modules() if isinstance(part, nn.TransformerEncoderLayer)]
    layers = [part for part in (*dropout_layers(model), *encoders) if not part.training]
    for part in layers:
        _set_training(part, True)
    try:
        yield
    finally:
        for part in layers:
            _set_training(part, False)


def _sharded(parts: Iterable[nn.Module]) -> bool:
    # Who shards has imported it; importing it here would cost everybody most of a second.
    fsdp = sys.modules.get("torch.distributed.fsdp")
    return fsdp is not None and any(isinstance(part, fsdp.FSDPModule) for part in parts)


def device_of(model: nn.Module) -> torch.device:
    """Return the device of the first parameter, the CPU if there is none."""
    return _first_device(model.modules())


def _first_device(parts: Iterable[nn.Module]) -> torch.device:
    # nn.Module.parameters() walks through all modules once more, by name.
    for part in parts:
        for parameter in part._parameters.values():
            if parameter is not None:
                return parameter.device
    return torch.device("cpu")


def forward_pass(model: nn.Module, batch: Any, forward: ForwardFunction | None) -> Tensor:
    """Return the logits (n, C) of a batch, by `forward` or by calling the model on its inputs."""
    return logits_of(model, split(batch).inputs) if forward is None else forward(model, batch)


def _set_training(part: nn.Module, training: bool) -> None:
    # nn.Module looks through its parameters and submodules before it sets a flag, a microsecond
    # for every module and step. Script modules keep the flag elsewhere.
    if type(part).__setattr__ is nn.Module.__setattr__:
        object.__setattr__(part, "training", training)
    else:
        part.training = training


def logits_of(model: nn.Module, inputs: Any) -> Tensor:
    """Call the model on the inputs of a batch and find the logits in what it returns.

    A dict of inputs is passed as keyword arguments. The output may be a tensor, or an object or
    mapping with `logits`, as Hugging Face models return.

    Raises:
        TypeError: the output holds no logits.
    """
    output = model(**inputs) if isinstance(inputs, Mapping) else model(inputs)
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping):
        output = output.get("logits", output)
    logits = getattr(output, "logits", output)
    if not isinstance(logits, Tensor):
        raise TypeError(
            f"Selector: the model returned {type(output).__name__}, wanted a tensor of logits "
            "(n, C) or an object with .logits; pass Selector(forward=...) to pick them"
        )
    return logits


def name_of(function: object) -> str:
    """Return the name of a function, or of the type of what is called like one.

    Example:
        >>> name_of(name_of), name_of(partial(round, ndigits=2))
        ('name_of', 'round(ndigits=2)')
    """
    if isinstance(function, partial):
        given = [_told(value) for value in function.args]
        given += [f"{key}={_told(value)}" for key, value in function.keywords.items()]
        return f"{name_of(function.func)}({', '.join(given)})"
    return getattr(function, "__qualname__", type(function).__qualname__)


def _told(value: object) -> str:
    # Not by repr: that of a function has its address, which is another one at every start.
    plain = value is None or isinstance(value, (bool, int, float, str))
    return repr(value) if plain else name_of(value)


def losses_of(where: str, model: nn.Module, batch: Any, losses: LossFunction, count: int) -> Tensor:
    """Return the losses that a function gives for a batch of `count` examples, float32 (count,).

    Raises:
        ValueError: it returned something else; `where` names the caller.
    """
    found: object = losses(model, batch)
    if not isinstance(found, Tensor) or found.shape != (count,) or not found.is_floating_point():
        raise ValueError(
            f"{where}: losses must return the loss of each example, floating point ({count},), got "
            f"{describe(found)}; leave out the mean over the batch, as reduction='none' does"
        )
    return found.float()
