"""Losses of examples under a finished model: bounded memory, resumable, shared among ranks."""

from __future__ import annotations

import warnings
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import rho_ext
from rho_train.batch import describe, split, to
from rho_train.checksums import input_checksums
from rho_train.dataset import IndexedDataset, fingerprint
from rho_train.distributed import agree, on_all, rank_and_world
from rho_train.identity import architecture_digest, digest, digest_of, module_digest, name_of
from rho_train.progress import OnStep, Stopped, no_op
from rho_train.run_folder import RunFolder
from rho_train.sampler import loader
from rho_train.scoring import ForwardFunction, LossFunction, device_of, output_of, scoring_mode

SCORING_BATCH = 4096
_IGNORED = -100
_BATCHES = 16  # in a piece, which is what a kill can cost
# A model whose losses are within 5 % of guessing explains less than 5 % of what labels say (the
# measure of McFadden, 1974, of which 20 % is a fair fit). The mean of fewer examples has an error
# of as much.
_NEAR, _FEW = 0.95, 100
_NONE = torch.empty(0, 2, dtype=torch.float32, device="cpu")


def score_examples(
    model: nn.Module,
    dataset: IndexedDataset,
    ids: Tensor,
    *,
    forward: ForwardFunction | None = None,
    loss_fn: LossFunction | None = None,
    batch_size: int = SCORING_BATCH,
    predicted: Tensor | None = None,
    folder: str | Path | None = None,
    on_step: OnStep = no_op,
) -> Tensor:
    """Return the loss of the model at each of the examples, float32 (len(ids),) in nats.

    The model is in eval mode. Examples with the label -100 (ignore_index) have no loss: NaN.

    Args:
        model: its first parameter says on which device.
        dataset: the examples, without augmentation (paper, Appendix B).
        ids: int64 (n,).
        forward, loss_fn: as in `holdout_il`.
        batch_size: examples that are scored at once.
        predicted: int32 (n,), which gets the most likely class of each; -1 with `loss_fn`.
        folder: for finished pieces of 16 batches; the same call resumes with the same bits. With
            one the ranks of a process group share the pieces, and each returns all losses.
        on_step: called with 0 after each batch; returns whether to stop.

    Raises:
        IndexError, ValueError: an id or label is out of range, `loss_fn` does not return one loss
            an example, `predicted` has another form, or the folder holds other losses.
        OSError, Stopped: as in `holdout_il`.

    Examples:
        >>> from torch.utils.data import TensorDataset
        >>> data = IndexedDataset(TensorDataset(torch.zeros(3, 2), torch.tensor([0, 1, -100])))
        >>> score_examples(nn.Linear(2, 1, bias=False), data, torch.tensor([0, 2]))
        tensor([0., nan])
    """
    device = device_of(model)
    if predicted is not None and (predicted.dtype, predicted.shape) != (torch.int32, ids.shape):
        wanted = f"an int32 tensor ({len(ids)},), a row for each id"
        raise ValueError(f"score_examples: predicted must be {wanted}, got {describe(predicted)}")

    def scored(ids: Tensor) -> Tensor:
        found = [_NONE]
        begins = range(0, len(ids), batch_size)
        for batch in loader(dataset, (ids[i : i + batch_size].tolist() for i in begins)):
            batch = to(batch, device)
            fields = split(batch, "score_examples", needs_labels=loss_fn is None)
            with scoring_mode(model) as scorer:
                output = output_of("score_examples", scorer, batch, fields, forward, loss_fn)
                losses, classes = output, output.new_full((len(output),), -1, dtype=torch.int64)
                if loss_fn is None:
                    losses = rho_ext.score(output, fields.labels, None, method="loss").losses
                    losses = losses.masked_fill(fields.labels == _IGNORED, torch.nan)
                    classes = output.argmax(-1)
            found.append(torch.stack([losses.float(), classes.float()], 1).cpu())
            if on_step(0):
                raise Stopped("the scoring of examples was stopped")
        return torch.cat(found)

    identity: dict[str, Any] = {}
    if folder is not None:
        identity = {
            "data": fingerprint(dataset),
            "inputs": digest_of(input_checksums(dataset)),
            "architecture": architecture_digest(model),
            "weights_sha256": module_digest(model),
            "ids_sha256": digest(ids),
            **names_of(dataset, loss_fn, forward=forward),
        }
        agree("score_examples", {**identity, "batch_size": batch_size})
    rank, world = (0, 1) if folder is None else rank_and_world()
    size = _BATCHES * batch_size
    pieces = range(0, len(ids), size)

    def share() -> list[Tensor]:
        found = list[Tensor]()
        for begin in pieces[rank::world]:
            work = RunFolder(folder, where="score_examples", identity={**identity, "begin": begin})
            # After a kill for lack of memory the batch size may be another.
            name = f"losses-{batch_size}-{begin:010}.pt"
            state = work.load(name)
            if state is None:
                state = {"losses": scored(ids[begin : begin + size])}
                work.save(name, state)
            found.append(state["losses"])
        return found

    parts = [share()] if folder is None else on_all(share)
    rows = torch.cat([_NONE, *(parts[i % world][i // world] for i in range(len(pieces)))])
    if predicted is not None:
        predicted.copy_(rows[:, 1])
    return rows[:, 0].contiguous()


def warn_near_chance(where: str, il: Tensor, labels: Tensor) -> None:
    """Warn of cross-entropies il (n,) that tell hardly more than the frequencies of labels (n,)."""
    known = ~il.isnan()
    counts = labels[known].unique(return_counts=True)[1].double()  # type: ignore[no-untyped-call]
    shares = counts / counts.sum()
    mean, chance = float(il[known].double().mean()), float(-(shares * shares.log()).sum())
    first = rank_and_world()[0] == 0  # of ranks, one is enough to say it
    if first and counts.sum() >= _FEW and chance > 0.0 and mean > _NEAR * chance:
        warnings.warn(
            f"{where}: the mean irreducible loss is {mean:.3f} nats, and guessing by the "
            f"frequencies of the labels has {chance:.3f}: such losses are mostly noise, which "
            "selection would follow. Train the IL model longer or at a lower rate "
            "(ILRecipe.finetune() if it is pretrained), or take a better one",
            stacklevel=3,
        )


def names_of(
    dataset: IndexedDataset, loss_fn: LossFunction | None, **others: object
) -> dict[str, str | None]:
    """Return the names of the functions that decide the losses, as folders and stores record."""
    others["collate_fn"] = dataset.collate_fn
    names = {key: None if one is None else _full_name(one) for key, one in others.items()}
    return {"loss_function": "cross-entropy" if loss_fn is None else _full_name(loss_fn), **names}


def _full_name(function: object) -> str:
    """Return the name of a function with that of its module."""
    inner = function
    while isinstance(inner, partial):
        inner = inner.func
    module = getattr(inner, "__module__", None) or type(inner).__module__
    # In a spawned process the program has another name.
    return f"{'__main__' if module == '__mp_main__' else module}.{name_of(function)}"
