"""Devices without kernels of ours: the ops run as plain torch, and say so once."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch.testing import assert_close

from rho_ext import _plain
from rho_ext._library import METHODS, cuda_missing

KEYS = [torch._C.DispatchKey.MPS, torch._C.DispatchKey.XPU]
if cuda_missing():
    KEYS.append(torch._C.DispatchKey.CUDA)


def test_devices_without_kernels_give_what_the_kernels_give() -> None:
    draw = torch.Generator().manual_seed(0)
    n, classes, k = 40, 7, 12
    labels = torch.randint(0, classes, (n,), generator=draw)
    labels[3] = -100
    ids, il = torch.randperm(50, generator=draw)[:n], torch.rand(50, generator=draw)
    bias = torch.rand(n, generator=draw)
    _plain.warn.cache_clear()
    select, score = torch.ops.rho_ext.select, torch.ops.rho_ext.score.default
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for number, method in enumerate(METHODS.values()):
            for key, dtype in zip(KEYS, (torch.float32, torch.bfloat16, torch.float64)):  # noqa: B905
                shape = (4, 10, classes) if number % 2 else (n, classes)
                logits = torch.randn(shape, generator=draw).to(dtype)
                rest: tuple[Any, ...] = (il, method, bias, -100, 0.1)
                wanted = select.default(logits, labels, ids, k, *rest)
                assert_close(select.default._op_dk(key, logits, labels, ids, k, *rest), wanted)
                found = select.workspace._op_dk(
                    key, logits, labels, ids, k, *rest, workspace=torch.empty(0)
                )
                assert_close(found, wanted)
                scores = score._op_dk(key, logits, labels, ids, *rest)
                assert_close(scores, score(logits, labels, ids, *rest))
    assert len(said) == 1
    assert "rho_ext: on cpu select and score run as plain torch" in str(said[0].message)
