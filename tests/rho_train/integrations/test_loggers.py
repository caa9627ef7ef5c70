"""The recipes for loggers on the page of the integrations."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from rho_train import Batch, Selector
from rho_train.integrations import check_framework

from .launch import run_page


def test_recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand-ins take what the loggers take: a name, a float and a step, or a dict of floats."""
    logged: list[tuple[dict[str, float], int]] = []

    class Writer:
        def __init__(self, log_dir: str) -> None:
            pass

        def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
            logged.append(({tag: scalar_value}, global_step))

    def init(*, project: str) -> Any:
        return SimpleNamespace(log=lambda data, step: logged.append((data, step)))

    wandb: Any = SimpleNamespace(init=init)
    tensorboard: Any = SimpleNamespace(SummaryWriter=Writer)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", tensorboard)
    selector, rows = Selector(method="loss", k=1), torch.eye(2)
    selector(nn.Identity(), Batch(rows, torch.tensor([0, 0]), torch.arange(2)))
    run_page("tensorboard", {"selector": selector})
    metrics = selector.metrics()
    assert logged == [({name: value}, 1) for name, value in metrics.items()]
    run_page("wandb", {"selector": selector})
    assert logged[-1] == (metrics, 1)
    assert all(type(value) is float for value in metrics.values())


def test_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"2.6rc1": True, "2.6.dev1": True, "2.5": True, "2.4.9": False, "3.0rc1": False}
    for version, known in found.items():
        monkeypatch.setattr("importlib.metadata.version", lambda _, version=version: version)
        if known:
            check_framework("lightning")
        else:
            with pytest.raises(ImportError, match=f"below 3.0, got {version}"):
                check_framework("lightning")
