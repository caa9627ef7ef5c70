"""SelectionCallback: what Lightning does, on the selected examples."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from rho_train import AgreementSampler, Batch, History, IndexedDataset, Selector
from rho_train.methods.context import ScoringContext, Selected
from rho_train.tasks import letters

pytest.importorskip(
    "lightning", reason="lightning is not installed: pip install 'rho-ext[lightning]'"
)

import lightning
from lightning.pytorch.loggers import CSVLogger

from rho_train.integrations.lightning import SelectionCallback

from ..ways import by_chance
from .launch import launch, run_page

# Lightning warns of workers, devices and what it will change.
pytestmark = pytest.mark.filterwarnings("ignore")
N = 320


def weighted(context: ScoringContext) -> Selected:
    return context.top(context.losses)._replace(weights=torch.arange(1.0, context.k + 1))


class Letters(lightning.LightningModule):
    def __init__(self, dropout: float = 0.1) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(
            nn.Linear(16, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(dropout), nn.Linear(32, 26)
        )
        self.steps: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        self.steps.append(batch.ids)
        logits = self(batch.x)
        self.dtype_seen = logits.dtype
        loss = F.cross_entropy(logits, batch.y)
        self.log("loss", loss)
        return {"loss": loss}

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.log("validation_loss", F.cross_entropy(self(batch.x), batch.y))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), 1e-3)


def data() -> IndexedDataset:
    x, y = letters().train[:N]
    return IndexedDataset(TensorDataset(x, y))


def fit(
    selector: Any, module: Any = None, resume: Any = None, loader: Any = None, **options: Any
) -> Any:
    module = Letters() if module is None else module
    callbacks = [] if selector is None else [SelectionCallback(selector)]
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    usual = {"accelerator": "cpu", "devices": 1, "max_epochs": 2, "enable_checkpointing": False}
    trainer = lightning.Trainer(callbacks=callbacks, **{**quiet, **usual, **options})
    torch.manual_seed(1)
    loader = DataLoader(data(), batch_size=32) if loader is None else loader
    trainer.fit(module, loader, DataLoader(data(), batch_size=64), ckpt_path=resume)
    assert "training_step" not in vars(module)
    return trainer, module


def weights(module: nn.Module) -> Tensor:
    return torch.cat([value.double().flatten() for value in module.state_dict().values()])


def table() -> Tensor:
    return torch.rand(N, generator=torch.Generator().manual_seed(0))


def test_ratio_one_is_lightning_itself_to_the_bit() -> None:
    for options in ({}, {"precision": "bf16-mixed", "accumulate_grad_batches": 4}):
        plain, module = fit(None, **options)
        selector = Selector(il=table(), ratio=1.0)
        trainer, selecting = fit(selector, **options)
        assert torch.equal(weights(module), weights(selecting))
        assert (
            plain.callback_metrics["validation_loss"] == trainer.callback_metrics["validation_loss"]
        )
        # 20 batches, and none of the validation.
        assert selector.steps == 20
        # Scoring is inside of autocast.
        assert selecting.dtype_seen == torch.bfloat16 if options else torch.float32


def test_selects_and_logs(tmp_path: Path) -> None:
    il, logger = table(), CSVLogger(tmp_path, name="", version="")
    selector = Selector(il=il, method="neg_il", k=8)
    _, module = fit(selector, max_epochs=1, logger=logger, log_every_n_steps=5)
    for step, ids in enumerate(module.steps):
        large = torch.arange(32 * step, 32 * step + 32)
        assert ids.tolist() == large[il[large].argsort()[:8]].sort().values.tolist()
    with (tmp_path / "metrics.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["selection/selected"]]
    assert [(row["step"], row["selection/selected"]) for row in rows] == [
        ("4", "40.0"),
        ("9", "80.0"),
    ]


def test_weights_enter_the_loss() -> None:
    def equal(context: ScoringContext) -> Selected:
        best = context.top(context.losses)
        return best._replace(weights=torch.full_like(best.values, 0.25))

    class Plain(Letters):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.net = nn.Linear(16, 26)

        def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
            return {**super().training_step(batch, batch_idx), "n": len(batch.y)}

        def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
            self.outputs = outputs

    x, y = letters().train[:N]
    module, by_hand = Plain(), Plain()
    fit(Selector(method=equal, k=8), module, max_steps=1)
    losses = F.cross_entropy(by_hand.net(x[:32]), y[:32], reduction="none")
    order = losses.detach().argsort(descending=True)[:8].sort().values
    optimizer = by_hand.configure_optimizers()
    (0.25 * losses[order]).mean().backward()
    optimizer.step()
    torch.testing.assert_close(weights(module), weights(by_hand), rtol=1e-6, atol=1e-7)
    assert module.outputs["n"] == 8


def test_resumes(tmp_path: Path) -> None:
    def run(**options: Any) -> Any:
        selector = Selector(
            il=table(),
            method=by_chance,
            ratio=0.25,
            history=History(N),
            phases=lambda step: step < 8,
        )
        # Lightning saves no random state.
        return selector, *fit(selector, Letters(dropout=0.0), **options)

    straight, _, module = run()
    _, trainer, _ = run(max_epochs=1)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    resumed, _, again = run(resume=tmp_path / "half.ckpt")
    assert torch.equal(weights(module), weights(again))
    assert resumed.steps == straight.steps == 20
    ours, theirs = straight.state_dict()["history"], resumed.state_dict()["history"]
    assert all(torch.equal(ours[name].nan_to_num(), theirs[name].nan_to_num()) for name in ours)


def test_by_agreement_it_is_the_plain_loop(tmp_path: Path) -> None:
    dataset = data()
    dataset.labels[::3] = 0  # wrong ones

    def run(steps: int = 60, resume: Any = None) -> Any:
        sampler = AgreementSampler(N, 32, steps=60)
        loader = DataLoader(dataset, batch_sampler=sampler)
        module = Letters(dropout=0.0)
        return sampler, *fit(sampler, module, resume, loader=loader, max_epochs=-1, max_steps=steps)

    sampler, trainer, module = run(steps=-1)
    by_hand, plain = AgreementSampler(N, 32, steps=60), Letters(dropout=0.0)
    optimizer, visited = plain.configure_optimizers(), list[int]()
    batches = DataLoader(dataset, batch_sampler=by_hand)
    while by_hand.step < by_hand.steps:
        by_hand.rescore(plain, batches)
        for batch in batches:
            logits = plain(batch.x)
            optimizer.zero_grad()
            F.cross_entropy(logits, batch.y).backward()
            optimizer.step()
            by_hand.update(batch.ids, logits, batch.y)
            visited.append(batch.ids)
    assert trainer.global_step == 60
    assert torch.equal(torch.stack(module.steps), torch.stack(visited))
    assert torch.equal(weights(module), weights(plain))
    assert sampler.scored == by_hand.scored > 0
    _, trainer, _ = run(steps=33)
    trainer.save_checkpoint(tmp_path / "middle.ckpt")
    resumed, _, again = run(resume=tmp_path / "middle.ckpt")
    assert torch.equal(weights(again), weights(module))
    assert resumed.scored == sampler.scored

    class Silent(Letters):
        def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
            return F.cross_entropy(self.net(batch.x), batch.y)

    idle = AgreementSampler(N, 32, steps=60)
    with pytest.raises(ValueError, match=r"must call self\(inputs\) once, .* calls it 0 times"):
        fit(idle, Silent(), loader=DataLoader(dataset, batch_sampler=idle))


@pytest.mark.slow
def test_two_ranks(tmp_path: Path) -> None:
    done = launch(2, Path(__file__).with_name("lightning_two_ranks.py"), tmp_path)
    assert done.stdout.count("both ranks agree") == 2, done.stderr[-3000:]


def test_bad_input() -> None:
    with pytest.raises(TypeError, match="selector must be a Selector, got float"):
        SelectionCallback(0.25)

    class Failing(Letters):
        def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
            raise RuntimeError("out of memory")

    class Manual(Letters):
        automatic_optimization = False

    class Skipping(Letters):
        def training_step(self, batch: Batch, batch_idx: int) -> None:
            return None

    module = Failing()
    with pytest.raises(RuntimeError, match="out of memory"):
        fit(Selector(method="loss", k=8), module)
    assert "training_step" not in vars(module)
    with pytest.raises(ValueError, match="method <function.*weighted.* gives weights"):
        fit(Selector(method=weighted, k=8), Manual())
    with pytest.raises(ValueError, match="or a dict with 'loss', got None"):
        fit(
            Selector(method=lambda c: c.top(c.losses)._replace(weights=torch.ones(c.k)), k=8),
            Skipping(),
        )
    with pytest.raises(ValueError, match="gave the examples different weights"):
        fit(Selector(method=weighted, k=8))


def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = {"lightning": lightning, "Selector": Selector, "table": table(), "module": Letters()}
    names |= {"AgreementSampler": AgreementSampler, "DataLoader": DataLoader, "data": data()}
    found = run_page("lightning", names | {"loader": DataLoader(data(), batch_size=32)})
    assert found["trainer"].global_step == found["sampler"].step == 20
