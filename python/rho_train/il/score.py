"""The losses of points under a finished model: bounded memory, resumable, shared among ranks."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import rho_ext
from rho_train.batch import split, to
from rho_train.checkpoint import architecture_digest, load_checkpoint, save_checkpoint
from rho_train.dataset import IndexedDataset, fingerprint
from rho_train.distributed import rank_and_world
from rho_train.identity import name_of
from rho_train.progress import OnStep, Stopped, no_op
from rho_train.sampler import loader
from rho_train.scoring import (
    LossFunction,
    device_of,
    logits_of,
    losses_of,
    scoring_mode,
)

SCORING_BATCH = 4096
_IGNORED = -100
_BATCHES = 16  # in a piece, which is what a kill can cost
_POLL_SECONDS = 0.1


def score_examples(
    model: nn.Module,
    dataset: IndexedDataset,
    ids: Tensor,
    *,
    losses: LossFunction | None = None,
    batch_size: int = SCORING_BATCH,
    folder: str | Path | None = None,
    on_step: OnStep = no_op,
) -> Tensor:
    """Return the loss of the model at each of the points, float32 (len(ids),) in nats.

    Eval mode, and whatever transform the data set applies: give it without augmentation
    (paper, Appendix B). Points with the label -100 (ignore_index) have no loss: NaN.

    With a folder, finished pieces of 16 batches are kept there, and calling it again with the same
    arguments goes on after them. Under an initialised process group the ranks share the pieces
    through the folder, which all must see, and each returns all losses. Pieces hold whole batches
    whoever scores them, so the bits do not depend on interruptions or on the number of ranks.

    Args:
        model: its first parameter says on which device.
        dataset: the points.
        ids: int64 (n,).
        losses: for points that are no classification, see `Selector`.
        batch_size: points that are scored at once.
        folder: for the pieces; it must exist.
        on_step: called with 0 after each batch; returns whether to stop.

    Raises:
        IndexError: an id or a label is out of range.
        ValueError: `losses` does not return one loss a point, or the folder holds losses of
            another model, data set or ids, or of a function of another name.
        OSError: the folder cannot be written.
        Stopped: `on_step` asked for it.

    Example:
        >>> from torch.utils.data import TensorDataset
        >>> data = IndexedDataset(TensorDataset(torch.zeros(3, 2), torch.tensor([0, 1, -100])))
        >>> score_examples(nn.Linear(2, 1, bias=False), data, torch.tensor([0, 2]))
        tensor([0., nan])
    """
    found = torch.empty(len(ids))
    if folder is None:
        for begin, piece in _batches(model, dataset, ids, losses, batch_size, on_step):
            found[begin : begin + len(piece)] = piece
        return found
    folder = Path(folder)
    rank, world = rank_and_world()
    identity = {
        "data": fingerprint(dataset),
        "architecture": architecture_digest(model),
        "weights_sha256": weights_sha256(model),
        "ids_sha256": ids_sha256(ids),
        **loss_identity(losses),
    }
    rows = _BATCHES * batch_size
    begins = range(0, len(ids), rows)
    for begin in begins[rank::world]:
        path = _piece(folder, begin, batch_size)
        if not path.exists():
            part = ids[begin : begin + rows]
            piece = score_examples(
                model, dataset, part, losses=losses, batch_size=batch_size, on_step=on_step
            )
            save_checkpoint(path, {**identity, "begin": begin, "losses": piece})
    for begin in begins:
        path = _piece(folder, begin, batch_size)
        wait_for(path, on_step)
        found[begin : begin + rows] = load_checkpoint(path, {**identity, "begin": begin})["losses"]
    return found


def wait_for(path: Path, on_step: OnStep) -> None:
    """Wait until another rank has written the file; hours may pass, no collective would wait."""
    while not path.exists():
        if on_step(0):
            raise Stopped("stopped while waiting for another rank")
        time.sleep(_POLL_SECONDS)


def weights_sha256(*models: nn.Module) -> str:
    """Return the SHA-256 of names and values in the state of the models."""
    digest = hashlib.sha256()
    for model in models:
        for name, value in model.state_dict().items():
            digest.update(name.encode())
            # What else a module may keep there, by get_extra_state, is no weight.
            if isinstance(value, Tensor):
                digest.update(value.cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def loss_identity(losses: LossFunction | None) -> dict[str, str]:
    """Return what a folder and a store say of the loss: the name of its function."""
    return {"loss_function": "cross-entropy" if losses is None else name_of(losses)}


def ids_sha256(ids: Tensor) -> str:
    """Return the SHA-256 of ids."""
    return hashlib.sha256(ids.cpu().contiguous().numpy().data).hexdigest()


def _piece(folder: Path, begin: int, batch_size: int) -> Path:
    # Those of another size are left alone: less may be scored at once after a kill for lack of
    # memory.
    return folder / f"losses-{batch_size}-{begin:010}.pt"


def _batches(
    model: nn.Module,
    dataset: IndexedDataset,
    ids: Tensor,
    losses: LossFunction | None,
    batch_size: int,
    on_step: OnStep,
) -> Iterator[tuple[int, Tensor]]:
    device = device_of(model)
    positions = (
        ids[begin : begin + batch_size].tolist() for begin in range(0, len(ids), batch_size)
    )
    begin = 0
    batch: Any
    for batch in loader(dataset, positions):
        batch = to(batch, device)
        fields = split(batch, "score_examples")
        with scoring_mode(model) as scorer:
            if losses is not None:
                scored = losses_of("score_examples", scorer, batch, losses, len(fields.ids))
            else:
                logits = logits_of(scorer, fields.inputs)
                scored = rho_ext.score(logits, fields.labels, None, method="loss").losses
                scored = scored.masked_fill(fields.labels == _IGNORED, torch.nan)
        yield begin, scored.cpu()
        begin += len(scored)
        if on_step(0):
            raise Stopped("the scoring of points was stopped")
