"""A file on what a run selected, with renderings, so that the report never needs the data set."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from rho_train.batch import split, to
from rho_train.dataset import IndexedDataset
from rho_train.distributed import on_all, on_first
from rho_train.files import atomic_write, to_line
from rho_train.history import History

if TYPE_CHECKING:
    from rho_train.trainer.loop import Trainer

_SHOWN, _SIDE, _CHARACTERS, _TOKENS = 12, 32, 240, 48


def save_selected(run: Trainer, history: History) -> None:
    """Write selected.json of the selections of all ranks, called by all."""
    ranks = on_all(lambda: to(history.state_dict(), "cpu"))
    on_first(lambda: atomic_write(run.work / "selected.json", to_line(selected_record(run, ranks))))


def selected_record(run: Trainer, ranks: Sequence[Mapping[str, Tensor]]) -> dict[str, Any]:
    """Return which of the training examples were selected, as plain values, by all histories.

    `most_selected` are the 12 that were selected most, `never_selected` 12 of the `never` ones that
    were seen and never selected, evenly in the order of their last loss.
    """
    assert run.selector is not None
    ids = run.train_ids.sort().values
    il = run.selector.il_of(ids.to(run.device))
    ids, known = ids.cpu(), None if il is None else il.cpu()
    seen, selected, loss, step = (
        torch.stack([one[name][ids] for one in ranks])
        for name in ("seen", "selected", "loss", "step")
    )
    last = step.argmax(0, keepdim=True)  # the rank that scored an example last
    seen, selected, loss = seen.sum(0), selected.sum(0), loss.gather(0, last)[0]
    labels, noisy = run.dataset.labels.cpu(), run.flags.get("noisy")
    flags = None if noisy is None else noisy.cpu()

    def example(row: int) -> dict[str, Any]:
        i = int(ids[row])
        return {
            "id": i,
            "label": int(labels[i]),
            "noisy": None if flags is None else bool(flags[i]),
            "il": None if known is None else _finite(known[row]),
            "loss": _finite(loss[row]),
            "seen": int(seen[row]),
            "selected": int(selected[row]),
            **render(shown(run.dataset, run.show, i)),
        }

    ranked = selected.argsort(stable=True, descending=True)[: int((selected > 0).sum())]
    never = ((seen > 0) & (selected == 0)).nonzero().flatten()
    never = never[loss[never].argsort(stable=True)]
    count = min(_SHOWN, len(never))
    evenly = torch.linspace(0, max(0, len(never) - 1), count, dtype=torch.float32, device="cpu")
    return {
        "classes": list(run.classes) or None,
        "never": len(never),
        "most_selected": [example(int(row)) for row in ranked[:_SHOWN]],
        "never_selected": [example(int(row)) for row in never[evenly.round().long()]],
    }


def _finite(value: Tensor) -> float | None:
    """Return the number, None for what JSON cannot hold."""
    return float(value) if bool(value.isfinite()) else None


def shown(dataset: IndexedDataset, show: Callable[[int], object] | None, position: int) -> object:
    """Return what people see of an example, else the first input that a model gets."""
    if show is not None:
        return show(position)
    inputs = split(dataset.collate(dataset.__getitems__([position])), "Trainer").inputs
    return (next(iter(inputs.values())) if isinstance(inputs, Mapping) else inputs)[0]


def render(x: object, side: int = _SIDE) -> dict[str, Any]:
    """Return {"image": PNG as data URI} or {"text": ...}.

    Paths are those of image files. Tensors and arrays (H, W), (1 or 3, H, W) and (H, W, 1 or 3) are
    images, stretched to the full range if they are not uint8. An image is at most `side` pixels
    wide. Anything else is described in words.
    """
    if isinstance(x, Path):
        from PIL import Image, ImageOps

        with Image.open(x) as image:
            return {"image": _as_uri(ImageOps.exif_transpose(image).convert("RGB"), side)}
    if isinstance(x, str):
        return {"text": x if len(x) <= _CHARACTERS else f"{x[: _CHARACTERS - 1]}…"}
    try:
        plain = x if isinstance(x, Tensor) else np.asarray(x)
        tensor = torch.as_tensor(plain, device="cpu").detach()
    except (TypeError, ValueError, RuntimeError):
        return {"text": f"({type(x).__name__})"}
    if (pixels := _pixels(tensor)) is not None:
        from PIL import Image

        return {"image": _as_uri(Image.fromarray(pixels.squeeze(2).numpy()), side)}
    if tensor.ndim == 1:
        form = ".3g" if tensor.is_floating_point() else ""
        shown = " ".join(f"{value:{form}}" for value in tensor[:_TOKENS].tolist())
        return {"text": shown if len(tensor) <= _TOKENS else f"{shown} …"}
    return {"text": f"({str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)})"}


def _as_uri(image: Any, side: int) -> str:
    from PIL import Image

    file = io.BytesIO()
    image.thumbnail((side, side), Image.Resampling.BOX)
    image.save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def _pixels(x: Tensor) -> Tensor | None:
    """Return pixels uint8 (H, W, 1 or 3), None for what is no image."""
    if x.ndim == 2:
        x = x.unsqueeze(2)
    elif x.ndim == 3 and x.shape[0] in (1, 3):
        x = x.permute(1, 2, 0)
    if x.ndim != 3 or x.shape[2] not in (1, 3) or min(x.shape[:2]) < 2 or x.is_complex():
        return None
    if x.dtype == torch.uint8:
        return x
    if not bool(x.isfinite().all()):
        return None
    # Inputs are normalised in an unknown way: the image gets the range of its own values.
    low, high = x.double().aminmax()
    return ((x.double() - low) / (high - low).clamp_min(1e-12) * 255).round().to(torch.uint8)
