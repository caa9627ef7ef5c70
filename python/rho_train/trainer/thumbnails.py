"""Small renderings of examples: an image, a text or the features of a table."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rho_train.batch import split
from rho_train.dataset import IndexedDataset

_SIDE, _FEATURES, _CHARACTERS, _TOKENS = 32, 64, 240, 48


def input_of(dataset: IndexedDataset, position: int) -> object:
    """Return what a model gets of one example: a tensor, or the first of several inputs."""
    inputs = split(dataset.collate(dataset.__getitems__([position])), "input_of").inputs
    return (next(iter(inputs.values())) if isinstance(inputs, Mapping) else inputs)[0]


def render(x: object) -> dict[str, Any]:
    """Return {"image": PNG as data URI}, {"features": [...]} or {"text": ...}.

    Tensors and arrays (H, W), (1 or 3, H, W) and (H, W, 1 or 3) are images, at most 32 pixels wide.
    Those that are not uint8 are stretched to the full range of grey or colour. Floating point (d,)
    are features, the first 64; anything else is described in words.

    Example:
        >>> render(torch.rand(3, 8, 8))["image"][:22]
        'data:image/png;base64,'
        >>> render("a b"), render(torch.tensor([0.25, 2.0])), render(torch.tensor([4, 7]))
        ({'text': 'a b'}, {'features': [0.25, 2.0]}, {'text': '4 7'})
    """
    if isinstance(x, str):
        return {"text": x if len(x) <= _CHARACTERS else f"{x[: _CHARACTERS - 1]}…"}
    try:
        tensor = torch.as_tensor(x).detach().cpu()
    except (TypeError, ValueError, RuntimeError):
        return {"text": f"({type(x).__name__})"}
    image = _as_image(tensor)
    if image is not None:
        return {"image": f"data:image/png;base64,{base64.b64encode(_png(image)).decode()}"}
    if tensor.ndim == 1 and tensor.is_floating_point() and bool(tensor.isfinite().all()):
        return {"features": [float(f"{value:.3g}") for value in tensor[:_FEATURES].tolist()]}
    if tensor.ndim == 1:
        shown = " ".join(map(str, tensor[:_TOKENS].tolist()))
        return {"text": shown if len(tensor) <= _TOKENS else f"{shown} …"}
    return {"text": f"({str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)})"}


def _as_image(x: Tensor) -> Tensor | None:
    """Return pixels uint8 (H, W, 1 or 3), None for what is no image."""
    if x.ndim == 2:
        x = x.unsqueeze(0)
    elif x.ndim == 3 and x.shape[0] not in (1, 3):
        x = x.permute(2, 0, 1)
    if x.ndim != 3 or x.shape[0] not in (1, 3) or min(x.shape[1:]) < 2 or x.is_complex():
        return None
    pixels = x.double()
    if not bool(pixels.isfinite().all()):
        return None
    longest = max(pixels.shape[1:])
    if longest > _SIDE:
        height, width = (max(1, round(side * _SIDE / longest)) for side in pixels.shape[1:])
        pixels = F.adaptive_avg_pool2d(pixels, (height, width))
    if x.dtype != torch.uint8:
        # Inputs are normalised in an unknown way: the image gets the range of its own values.
        low, high = pixels.aminmax()
        pixels = (pixels - low) / (high - low).clamp_min(1e-12) * 255
    return pixels.round().to(torch.uint8).permute(1, 2, 0).contiguous()


def _png(pixels: Tensor) -> bytes:
    """Return the PNG file of uint8 (H, W, 1 or 3)."""
    from PIL import Image  # matplotlib depends on it

    file = io.BytesIO()
    Image.fromarray(pixels.squeeze(2).numpy()).save(file, "PNG")
    return file.getvalue()
