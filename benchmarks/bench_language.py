"""Train a language model on text of which 40 % is of no use: tokens, sequences, a filter, or all.

pip install tokenizers
python benchmarks/bench_language.py --data DATA
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Sequence
from functools import cache, partial
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from common import BenchmarkFailed, Row, Runs, best_rate, options, prepare, provenance, run
from experiments.sets.files import find, open_text
from rho_train import Batch, LargeBatchSampler, Selector, linear_cross_entropy, linear_score
from rho_train.cost import forward_cost, training_cost

VOCABULARY, LENGTH, WIDTH, BLOCKS = 2048, 64, 64, 2
USELESS, KEPT = 0.4, 0.6
BATCH, LARGE_BATCH = 8, 24
RATES, WIDEST = (4e-3, 8e-3, 1.6e-2), 6
# What the 40 % are: sequences with their tokens shuffled, or news by Reuters in place of posts.
TEXTS = ("shuffled", "reuters")
# The model of "reference" gives the irreducible losses. "fewer_steps": those of "sequences";
# "with_il": the cost of the reference is spent on training.
METHODS = ("reference", "uniform", "filter", "tokens", "sequences", "fewer_steps", "with_il")
COLUMNS = (
    *("command", "text", "method", "lr", "seed", "steps", "cost", "il_cost", "validation"),
    *("test_loss", "useless", "seconds", "cpu_seconds"),
)


class Transformer(nn.Module):
    """A causal transformer: hidden states (n, T, 64) for its `head`."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.tokens = nn.Embedding(VOCABULARY, WIDTH)
        self.places = nn.Parameter(0.02 * torch.randn(LENGTH, WIDTH))
        # Smaller ones learn for hundreds of steps no more than how often each token is.
        nn.init.normal_(self.tokens.weight, std=0.3)
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        layer = partial(
            nn.TransformerEncoderLayer, WIDTH, WIDTH // 32, 4 * WIDTH, dropout=0.0, norm_first=True
        )
        self.blocks = nn.ModuleList(layer(batch_first=True) for _ in range(BLOCKS))
        self.norm = nn.LayerNorm(WIDTH)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(LENGTH))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.tokens(tokens) + self.places
        for block in self.blocks:
            x = block(x, self.mask, is_causal=True)
        found: Tensor = self.norm(x)
        return found


def token_losses(model: nn.Module, tokens: Tensor) -> Tensor:
    """Return the losses of all tokens but the first of each sequence, without a gradient."""
    hidden = model(tokens)[:, :-1]
    return linear_score(hidden, model.head.weight, tokens[:, 1:]).losses  # type: ignore[arg-type]


def losses(model: nn.Module, batch: Batch) -> Tensor:
    """Return the mean loss of each sequence, for the Selector."""
    return token_losses(model, batch.x).mean(1)


@cache
def unit_costs() -> tuple[float, float, float]:
    """Return the multiply-adds for a sequence: scored, trained on, and on its best tokens."""
    tokens = torch.zeros(BATCH, LENGTH, dtype=torch.int64)
    batch, model = Batch(tokens, tokens, torch.arange(BATCH)), Transformer(0)

    def loss(model: nn.Module, batch: Batch, ratio: float) -> Tensor:
        hidden, weight = model(batch.x)[:, :-1], model.head.weight
        return linear_cross_entropy(hidden, weight, batch.x[:, 1:], ratio=ratio)[0]  # type: ignore[arg-type]

    trained = (training_cost(model, batch, forward=partial(loss, ratio=r)) for r in (1.0, KEPT))
    return forward_cost(model, batch, loss_fn=losses), *trained


class Text:
    """Sequences (N, 64) of tokens of one kind of text.

    `pool` to train on, `reference` of other posts and all useful, `validation`, `test` of later
    posts; `others` take the place of useful sequences.
    """

    def __init__(self, folder: Path, kind: str, steps: int) -> None:
        self.kind, self.steps, tests = kind, steps, min(1000, 2 * steps)
        # Characters for all sequences to train on: a token has about four.
        size = 8 * LENGTH * 10 * steps
        posts = text_of(folder, "20newsgroups-train.tab")
        news = text_of(folder, "reuters-r52-train.tab")[:size] if kind == "reuters" else ""
        encode = tokenizer([posts[:size], news])
        self.pool, self.others = encode(posts[:size]), encode(news)
        rows = encode(posts[size : 2 * size])
        self.validation, self.reference = rows[: tests // 2], rows[tests // 2 :][: 5 * steps]
        self.test = encode(text_of(folder, "20newsgroups-test.tab")[:size])[:tests]

    def training(self, seed: int) -> tuple[Tensor, Tensor]:
        """Return sequences to train on, and which of them are of no use."""
        generator = torch.Generator().manual_seed(seed)

        def draw(rows: Tensor, n: int) -> Tensor:
            return rows[torch.randperm(len(rows), generator=generator)[:n]]

        train = draw(self.pool, 10 * self.steps)
        useless = torch.rand(len(train), generator=generator) < USELESS
        if self.kind == "shuffled":
            order = torch.rand(train.shape, generator=generator).argsort(1)
            return torch.where(useless[:, None], train.gather(1, order), train), useless
        train[useless] = draw(self.others, int(useless.sum()))
        return train, useless


def text_of(folder: Path, name: str) -> str:
    """Return the texts of an Orange table, the last column after three lines of header, mixed."""
    with open_text(find("bench_language", folder, name)) as file:
        texts = [line.rstrip("\r\n").rpartition("\t")[2] for line in islice(file, 3, None)]
    order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(0))
    return " ".join(texts[i] for i in order)


def tokenizer(texts: Sequence[str]) -> Callable[[str], Tensor]:
    """Train a byte-pair tokenizer; return a function that cuts a text into rows of tokens."""
    try:
        from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    except ImportError:
        raise BenchmarkFailed("byte-pair tokens are missing; pip install tokenizers") from None
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(texts, trainer)

    def encode(text: str) -> Tensor:
        ids = torch.tensor(made.encode(text).ids, dtype=torch.int64)
        return ids[: len(ids) // LENGTH * LENGTH].view(-1, LENGTH)

    return encode


def all_losses(model: nn.Module, rows: Tensor) -> Tensor:
    """Return the losses (n, T - 1) of the tokens of sequences."""
    with torch.no_grad():
        return torch.cat([token_losses(model.eval(), part) for part in rows.split(500)])


def train_model(
    method: str, lr: float, seed: int, steps: int, data: tuple[Tensor, Tensor], il: Tensor | None
) -> tuple[nn.Module, float]:
    """Return a model, and the share of useless tokens among those that it was trained on.

    As a user writes it: `data` are sequences and which are of no use, `il` losses of their tokens.
    """
    train, useless = data
    model, ids = Transformer(seed + 1000 * (method == "reference")), torch.arange(len(train))
    selector, drawn, ratio = None, BATCH, KEPT if method == "tokens" else 1.0
    if il is not None and method == "filter":
        ids = il.mean(1).argsort()[: round(KEPT * len(ids))]
    if il is not None and method == "sequences":
        selector, drawn = Selector(il=il.mean(1), k=BATCH, loss_fn=losses), LARGE_BATCH
    optimizer = AdamW(model.parameters(), lr=lr, weight_decay=0.01, fused=True)

    def factor(step: int) -> float:
        return min(1, 10 * (step + 1) / steps) * 0.5 * (1 + math.cos(math.pi * step / steps))

    schedule = LambdaLR(optimizer, factor)
    wrong = count = 0
    for drawn_ids in islice(LargeBatchSampler(ids, drawn, seed=seed), steps):
        at = torch.tensor(drawn_ids)
        batch = Batch(train[at], None, at)
        if selector:
            batch = selector(model, batch)
        tokens, of_batch = batch.x, None if il is None else il[batch.ids]
        loss, selection = linear_cross_entropy(
            *(model(tokens)[:, :-1], model.head.weight, tokens[:, 1:]), il=of_batch, ratio=ratio
        )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        wrong += int(selection.mask[useless[batch.ids]].sum())
        count += int(selection.k)
    return model, wrong / count


class Study:
    """The runs on one kind of text, and their learning rates by the validation split."""

    def __init__(self, runs: Runs, text: Text, seed: int) -> None:
        self.runs, self.text, self.seed = runs, text, seed
        self.references: dict[tuple[float, int], nn.Module] = {}
        self.il: dict[int, Tensor] = {}

    def best_rate(self, method: str) -> float:
        """Return the rate of the lowest loss with the first seed."""

        def quality(lr: float) -> float:
            loss = float(str(self.row(method, lr, self.seed)["validation"]))
            return -math.inf if math.isnan(loss) else -loss

        return best_rate(RATES, WIDEST, quality)

    def row(self, method: str, lr: float, seed: int) -> Row:
        """Return the row of a run."""
        key = {"text": self.text.kind, "method": method, "lr": f"{lr:g}", "seed": seed}
        return self.runs.row(key, lambda: self._run(method, lr, seed))

    def _run(self, method: str, lr: float, seed: int) -> Row:
        data, il, il_cost = self.text.training(seed), None, 0.0
        scored, trained, on_tokens = unit_costs()
        budget = self.text.steps * BATCH * trained
        reference_cost = budget + len(data[0]) * scored
        if method in ("filter", "tokens", "sequences"):
            il, il_cost = self._irreducible_losses(data[0], seed), reference_cost
        elif method == "reference":
            data = self.text.reference, torch.zeros(len(self.text.reference), dtype=torch.bool)
        elif method == "with_il":
            budget += reference_cost
        selecting = BATCH * trained + LARGE_BATCH * scored
        a_step = {"tokens": BATCH * on_tokens, "sequences": selecting}.get(method, BATCH * trained)
        steps = int(budget / (selecting if method == "fewer_steps" else a_step) + 1e-6)
        began = time.perf_counter(), time.process_time()
        model, share = train_model(method, lr, seed, steps, data, il)
        row: Row = {
            "seconds": f"{time.perf_counter() - began[0]:.1f}",
            "cpu_seconds": f"{time.process_time() - began[1]:.1f}",
            **{"steps": steps, "cost": f"{steps * a_step:.4g}", "il_cost": f"{il_cost:.4g}"},
            "useless": f"{share:.4f}",
        }
        if method == "reference":
            self.references[lr, seed] = model
        for name, rows in (("validation", self.text.validation), ("test_loss", self.text.test)):
            row[name] = f"{float(all_losses(model, rows).mean()):.4f}"
        return row

    def _irreducible_losses(self, train: Tensor, seed: int) -> Tensor:
        at = self.best_rate("reference"), seed
        if seed not in self.il:
            if at not in self.references:  # its row was read from the file
                self._run("reference", *at)
            self.il[seed] = all_losses(self.references[at], train)
        return self.il[seed]


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = options("bench_language", str(__doc__).partition("\n")[0], METHODS)
    parser.add_argument("--data", type=Path, default=Path("data"), help="holds newsgroups")
    parser.add_argument("--steps", type=int, default=1000, help="of uniform sampling: the budget")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    arguments = parser.parse_args(argv)
    if arguments.quick:
        arguments.steps, arguments.seeds = 20, arguments.seeds[:1]
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse(argv)
    prepare(arguments)
    # A mean gradient that decays to a subnormal number would make a step several times slower.
    torch.set_flush_denormal(True)
    command = f"bench_language.py --steps {arguments.steps}"
    runs = Runs(arguments.out, {**provenance("language", arguments), "command": command}, COLUMNS)
    folder, first = arguments.data / "newsgroups", arguments.seeds[0]
    studies = [Study(runs, Text(folder, kind, arguments.steps), first) for kind in TEXTS]
    chosen = [
        (study, name, study.best_rate(name)) for study in studies for name in arguments.providers
    ]
    for seed in arguments.seeds[1:]:
        for study, method, lr in chosen:
            study.row(method, lr, seed)
    return 0


if __name__ == "__main__":
    run("bench_language", main)
