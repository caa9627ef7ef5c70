"""Train a language model on text of which 40 % is noise: RHO-LOSS, a filter, uniform sampling.

python benchmarks/bench_language.py --data DATA
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import TensorDataset

import rho_ext
from common import CsvFile, Row, options, provenance, run
from experiments.sets import load_newsgroups
from rho_train import (
    Batch,
    ILRecipe,
    ILStore,
    IndexedDataset,
    LargeBatchSampler,
    Selector,
    crossfit_il,
    loader,
    sequence_losses,
)

LETTERS = " abcdefghijklmnopqrstuvwxyz"
LENGTH, TEST = 64, 500
NOISE, KEPT = 0.4, 0.6
BATCH, LARGE_BATCH, EVALUATIONS = 32, 96, 10
# An IL model that has learnt no more than how often each letter is tells the target nothing.
IL_EPOCHS = 8
# Sequences, and steps.
SIZE, QUICK = (20_000, 1000), (4_000, 100)
METHODS = ("uniform", "rho", "rho_tokens", "filter", "uniform_minutes", "uniform_minutes_with_il")
COLUMNS = (
    *("method", "seed", "lr", "step", "steps", "test_loss", "seconds", "il_seconds"),
    *("noisy", "parameters", "il_parameters"),
)


class Transformer(nn.Module):
    """A causal transformer over letters: logits (n, T, 27) of the next one."""

    def __init__(self, width: int, blocks: int, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.letters = nn.Embedding(len(LETTERS), width)
        self.places = nn.Parameter(0.02 * torch.randn(LENGTH, width))
        layer = partial(
            nn.TransformerEncoderLayer, width, width // 32, 4 * width, dropout=0.0, norm_first=True
        )
        self.blocks = nn.ModuleList(layer(batch_first=True) for _ in range(blocks))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, len(LETTERS))
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(LENGTH))

    def forward(self, letters: Tensor) -> Tensor:
        x = self.letters(letters) + self.places
        for block in self.blocks:
            x = block(x, self.mask, is_causal=True)
        logits: Tensor = self.head(self.norm(x))
        return logits


target = partial(Transformer, 96, 2)
il_model = partial(Transformer, 64, 1)


def losses(model: nn.Module, batch: Batch) -> Tensor:
    """Return the mean loss of the letters of each sequence."""
    return sequence_losses(model(batch.x), batch.x, shift=True)


@dataclass(frozen=True)
class Text:
    """Sequences (N, 64) to train on, some with their letters shuffled, and others to test with."""

    train: Tensor
    noisy: Tensor
    test: Tensor

    @classmethod
    def load(cls, folder: Path, sequences: int, seed: int) -> Text:
        """Cut the posts into sequences, draw some, and shuffle the letters of 40 % of them."""
        data = load_newsgroups(folder)
        assert data.train_texts is not None
        assert data.test_texts is not None
        generator = torch.Generator().manual_seed(seed)
        train = _cut(data.train_texts, sequences, generator)
        test = _cut(data.test_texts, TEST, torch.Generator().manual_seed(0))
        noisy = torch.rand(sequences, generator=generator) < NOISE
        order = torch.rand(sequences, LENGTH, generator=generator).argsort(1)
        train = torch.where(noisy[:, None], train.gather(1, order), train)
        return cls(train, noisy, test)


def _cut(texts: Sequence[str], count: int, generator: torch.Generator) -> Tensor:
    numbers = {letter: number for number, letter in enumerate(LETTERS)}
    long = " ".join(texts).lower()
    ids = torch.tensor([numbers.get(letter, 0) for letter in long])
    rows = ids[: len(ids) // LENGTH * LENGTH].view(-1, LENGTH)
    return rows[torch.randperm(len(rows), generator=generator)[:count]]


@dataclass(frozen=True)
class Losses:
    """The irreducible losses of a seed: of each sequence, and of each letter but the first."""

    store: ILStore
    letters: Tensor
    seconds: float

    @classmethod
    def make(cls, data: IndexedDataset, letters: Tensor, seed: int) -> Losses:
        """Train two small models, each on a half, and let each score the other half."""
        models: list[nn.Module] = []

        def make_model(seed: int) -> nn.Module:
            models.append(il_model(seed))
            return models[-1]

        recipe = ILRecipe(epochs=IL_EPOCHS, batch_size=BATCH, lr=3e-3, seed=seed)
        store = crossfit_il(make_model, data, 2, recipe, loss_fn=losses)
        table = torch.empty(len(letters), LENGTH - 1)
        assert store.fold is not None
        with torch.inference_mode():
            for fold, model in enumerate(models):
                for ids in (store.fold == fold).nonzero().flatten().split(1000):
                    rows = letters[ids]
                    logits = model.eval()(rows)
                    table[ids] = F.cross_entropy(
                        logits[:, :-1].flatten(0, 1), rows[:, 1:].flatten(), reduction="none"
                    ).view(-1, LENGTH - 1)
        return cls(store, table, float(store.info["seconds"]))


class Run:
    """One method with one seed: a loop as a user writes it, timed.

    Evaluation on the test set costs no seconds, and nothing is selected by it.
    """

    def __init__(self, text: Text, il: Losses, method: str, seed: int, lr: float) -> None:
        self.text, self.il, self.method, self.seed, self.lr = text, il, method, seed, lr
        self.model = target(seed)
        self.selector = Selector(il=il.store, k=BATCH, loss_fn=losses)
        self.trained = self.wrong = 0

    def rows(self, steps: int) -> Iterator[Row]:
        """Train, and yield a row at each evaluation."""
        data = IndexedDataset(TensorDataset(self.text.train, self.text.train))
        ids = torch.arange(len(data))
        if self.method == "filter":
            ids = self.il.store.lowest(KEPT)
        drawn = LARGE_BATCH if self.method == "rho" else BATCH
        batches = iter(loader(data, LargeBatchSampler(ids, drawn, seed=self.seed)))
        optimizer = AdamW(self.model.parameters(), lr=self.lr, weight_decay=0.01, fused=True)
        schedule = LambdaLR(optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * step / steps)))
        seconds = 0.0
        for step in range(1, steps + 1):
            began = time.perf_counter()
            batch = next(batches)
            if self.method == "rho":
                batch = self.selector(self.model, batch)
            optimizer.zero_grad(set_to_none=True)
            self._loss(batch).backward()
            optimizer.step()
            schedule.step()
            seconds += time.perf_counter() - began
            self._count(batch.ids)
            if step % (steps // EVALUATIONS) == 0 or step == steps:
                yield self._row(step, steps, seconds)

    def _loss(self, batch: Batch) -> Tensor:
        if self.method != "rho_tokens":
            return losses(self.model, batch).mean()
        # The pass that trains is the one that scores.
        logits = self.model(batch.x)[:, :-1].flatten(0, 1)
        labels = batch.x[:, 1:].flatten()
        il = self.il.letters[batch.ids].flatten()
        selected = rho_ext.select(logits, labels, None, round(KEPT * len(labels)), il=il).indices
        self._selected = selected
        return F.cross_entropy(logits[selected], labels[selected])

    def _count(self, ids: Tensor) -> None:
        wrong = self.text.noisy[ids]
        if self.method == "rho_tokens":
            wrong = wrong[self._selected // (LENGTH - 1)]
        self.trained += len(wrong)
        self.wrong += int(wrong.sum())

    def _row(self, step: int, steps: int, seconds: float) -> Row:
        with torch.inference_mode():
            found = [
                losses(self.model, Batch(part, part, None)) for part in self.text.test.split(500)
            ]
        uses_il = not self.method.startswith("uniform")
        return {
            "method": self.method,
            "seed": self.seed,
            "lr": self.lr,
            "step": step,
            "steps": steps,
            "test_loss": f"{float(torch.cat(found).mean()):.5f}",
            "seconds": f"{seconds:.3f}",
            "il_seconds": f"{self.il.seconds if uses_il else 0.0:.3f}",
            "noisy": f"{self.wrong / self.trained:.4f}",
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "il_parameters": sum(p.numel() for p in il_model(0).parameters()),
        }


def seed_rows(
    folder: Path, size: tuple[int, int], methods: Sequence[str], rates: Sequence[float], seed: int
) -> list[Row]:
    """Run the methods one after the other, uniform sampling also in the seconds of RHO-LOSS."""
    torch.set_num_threads(1)
    # A mean gradient that decays to a subnormal number would make a step several times slower.
    torch.set_flush_denormal(True)
    text = Text.load(folder, size[0], seed)
    data = IndexedDataset(TensorDataset(text.train, text.train))
    il = Losses.make(data, text.train, seed)
    found: list[Row] = []
    for method in methods:
        for lr in rates:
            steps = size[1]
            if method.startswith("uniform_minutes"):
                seconds = _last(found, "rho") + il.seconds * method.endswith("with_il")
                steps = int(seconds * steps / _last(found, "uniform"))
            found += Run(text, il, method, seed, lr).rows(steps)
            print(f"seed {seed} {method} lr {lr}: {found[-1]['test_loss']}", flush=True)
    return found


def _last(rows: Sequence[Row], method: str) -> float:
    row = next(row for row in reversed(rows) if row["method"] == method)
    return float(str(row["seconds"]))


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = options("bench_language", str(__doc__).partition("\n")[0], METHODS)
    parser.add_argument("--data", type=Path, default=Path("data"), help="holds newsgroups")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3])
    parser.add_argument("--rates", type=float, nargs="+", default=[3e-3])
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse(argv)
    if arguments.quick:
        arguments.seeds = arguments.seeds[:1]
    work: Callable[[int], list[Row]] = partial(
        *(seed_rows, arguments.data / "newsgroups", QUICK if arguments.quick else SIZE),
        *(arguments.providers, arguments.rates),
    )
    torch.set_num_threads(1)
    origin = provenance("language", arguments)
    context = multiprocessing.get_context("spawn")
    with (
        CsvFile(arguments.out, origin, COLUMNS) as file,
        ProcessPoolExecutor(min(len(arguments.seeds), arguments.threads), context) as pool,
    ):
        for rows in pool.map(work, arguments.seeds):
            for row in rows:
                file.write(row)
    print(f"rows: {arguments.out}")
    return 0


if __name__ == "__main__":
    run("bench_language", main)
