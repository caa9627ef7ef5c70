"""SelectionTrainer: the Trainer's own results, on the selected examples."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rho_train import (
    AgreementSampler,
    History,
    IndexedDataset,
    Selector,
    causal_lm,
    linear_score,
    loader,
)
from rho_train.methods.context import ScoringContext, Selected

from ..ways import by_chance
from .launch import launch, run_page
from .text import PAGES, paragraphs, tokens

for needed in ("transformers", "datasets"):
    pytest.importorskip(
        needed, reason=f"{needed} is not installed: pip install 'rho-ext[transformers]'"
    )

import datasets
import transformers
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DataCollatorWithFlattening,
    LlamaConfig,
    LlamaForCausalLM,
    Trainer,
    TrainingArguments,
)

from rho_train.integrations.transformers import SelectionMixin, SelectionTrainer, add_il, lm_losses

# The frameworks warn of what they will change.
pytestmark = pytest.mark.filterwarnings("ignore")
datasets.disable_progress_bars()
transformers.logging.set_verbosity_error()


def data(n: int = 320) -> datasets.Dataset:
    texts, labels = paragraphs()
    order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(0))[:n].tolist()
    columns = {"text": [texts[i] for i in order], "labels": [labels[i] for i in order]}
    columns["input_ids"] = [tokens(text) for text in columns["text"]]
    columns["il"] = torch.rand(n, generator=torch.Generator().manual_seed(1)).tolist()
    return datasets.Dataset.from_dict(columns)


def pad(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
    """A collator as users write it, which drops what it does not know."""
    texts = [torch.tensor(row["input_ids"]) for row in rows]
    ids = nn.utils.rnn.pad_sequence(texts, batch_first=True)
    labels = torch.tensor([row["labels"] for row in rows])
    return {"input_ids": ids, "attention_mask": (ids > 0).long(), "labels": labels}


def pad_lm(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
    batch = pad([{**row, "labels": 0} for row in rows])
    return {**batch, "labels": batch["input_ids"].masked_fill(batch["input_ids"] == 0, -100)}


def bert(seed: int = 0, dropout: float = 0.1) -> nn.Module:
    torch.manual_seed(seed)
    sizes = {"vocab_size": 257, "hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 16}
    rates = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    config = BertConfig(**sizes, **rates, num_attention_heads=2, num_labels=len(PAGES))
    model = BertForSequenceClassification(config)
    # It takes num_items_in_batch and ignores it: the Trainer alone would add up 4 means as 4 times
    # their mean.
    model.accepts_loss_kwargs = False
    return model


def llama() -> nn.Module:
    torch.manual_seed(0)
    sizes = {"vocab_size": 257, "hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 16}
    return LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=2, pad_token_id=0))


def arguments(folder: Path, **options: Any) -> TrainingArguments:
    usual = {"per_device_train_batch_size": 32, "max_steps": 20, "logging_steps": 1, "seed": 0}
    quiet = {"report_to": [], "use_cpu": True, "disable_tqdm": True, "save_strategy": "no"}
    return TrainingArguments(output_dir=str(folder), **{**usual, **quiet, **options})


def weights(model: nn.Module) -> Tensor:
    return torch.cat([value.detach().flatten() for value in model.state_dict().values()])


def history(trainer: Trainer) -> list[dict[str, float]]:
    """Return what was logged, without times and selection."""
    timed = ("runtime", "per_second", "flos", "selection/")
    return [
        {key: value for key, value in row.items() if not any(word in key for word in timed)}
        for row in trainer.state.log_history
    ]


def test_ratio_one_is_the_trainer_itself_to_the_bit(tmp_path: Path) -> None:
    options = {
        "gradient_accumulation_steps": 2,
        "label_smoothing_factor": 0.1,
        "eval_strategy": "steps",
        "eval_steps": 10,
    }
    runs = []
    for make in (Trainer, SelectionTrainer):
        own = {"selector": Selector(il="il", ratio=1.0)} if make is SelectionTrainer else {}
        sets = {"train_dataset": data(), "eval_dataset": data(80), "data_collator": pad}
        trainer = make(bert(), arguments(tmp_path, **options), **sets, **own)
        trainer.train()
        runs.append(trainer)
    plain, selecting = runs
    assert torch.equal(weights(plain.model), weights(selecting.model))
    assert history(plain) == history(selecting)
    # 20 steps of two batches, and none of the evaluations.
    assert selecting.selector.steps == 40
    assert selecting.state.log_history[0]["selection/selected"] == 64.0


class Recording(SelectionMixin):
    """Keeps the small batches of the last step."""

    def get_batch_samples(self, *args: Any) -> Any:
        found = super().get_batch_samples(*args)
        self.small = [{**batch} for batch in found[0]]
        return found


class Recorded(Recording, Trainer):
    pass


def losses_by_hand(
    model: nn.Module, batch: Any, smoothing: float = 0, bf16: bool = False
) -> Tensor:
    """Return the losses of the examples, or of the tokens that count."""
    inputs = {key: batch[key] for key in ("input_ids", "attention_mask")}
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        logits, labels = model.train()(**inputs).logits.float(), batch["labels"]
    if labels.ndim == 2:
        logits, labels = logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
        logits, labels = logits[labels != -100], labels[labels != -100]
    return F.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)


def check_step(trainer: Trainer, model: nn.Module, loss: Tensor) -> None:
    """The loss and the gradient norm that the Trainer logged are those of `loss`."""
    loss.backward()
    loss = loss.detach()
    norm = torch.stack([p.grad.norm() for p in model.parameters()]).norm()
    logged, tolerance = trainer.state.log_history[0], 2e-2 if trainer.args.bf16 else 1e-4
    assert logged["loss"] == pytest.approx(float(loss), rel=tolerance)
    assert logged["grad_norm"] == pytest.approx(float(norm), rel=tolerance)


def test_loss_and_gradient_are_the_mean_over_the_selected_examples(tmp_path: Path) -> None:
    for language in (False, True):
        for accumulation, smoothing, bf16 in (
            (1, 0.0, True),
            (4, 0.0, False),
            (1, 0.1, False),
            (4, 0.1, True),
        ):
            options = {"gradient_accumulation_steps": accumulation, "bf16": bf16, "max_steps": 1}
            trainer = Recorded(
                llama() if language else bert(dropout=0.0),
                arguments(tmp_path, **options, label_smoothing_factor=smoothing),
                train_dataset=data(),
                data_collator=pad_lm if language else pad,
                selector=Selector(il="il", ratio=0.25, loss_fn=lm_losses if language else None),
            )
            trainer.train()
            assert [len(batch["labels"]) for batch in trainer.small] == [8] * accumulation
            model = llama() if language else bert(dropout=0.0)
            parts = [losses_by_hand(model, batch, smoothing, bf16) for batch in trainer.small]
            check_step(trainer, model, torch.cat(parts).mean())


def test_weights_of_a_method_enter_the_loss(tmp_path: Path) -> None:
    def equal(context: ScoringContext) -> Selected:
        best = context.top(context.losses)
        return best._replace(weights=torch.full_like(best.values, 0.25))

    for accumulation in (1, 4):
        trainer = Recorded(
            bert(dropout=0.0),
            arguments(tmp_path, gradient_accumulation_steps=accumulation, max_steps=1),
            train_dataset=data(),
            data_collator=pad,
            selector=Selector(method=equal, ratio=0.25),
        )
        trainer.train()
        model = bert(dropout=0.0)
        parts = [
            (batch["selection_weights"] * losses_by_hand(model, batch)).mean()
            for batch in trainer.small
        ]
        check_step(trainer, model, torch.stack(parts).mean())


def test_ids_and_il_follow_their_examples(tmp_path: Path) -> None:
    """Through shuffles, removed columns, length groups and a collator that drops them.

    A table is by the column of ids, or by position in an IndexedDataset.
    """
    n = 128
    rows = data(n).remove_columns("il").add_column("ids", list(range(n)))
    rank = torch.randperm(n, generator=torch.Generator().manual_seed(2)).float()
    by_column = rows.add_column("rank", rank.tolist()).shuffle(seed=3)
    where = {tuple(text): row for row, text in enumerate(rows["input_ids"])}
    by_position = IndexedDataset(rows.remove_columns("ids"))
    for il, train in (("rank", by_column), (rank, rows.shuffle(seed=3)), (rank, by_position)):
        for strategy in ("random", "group_by_length"):
            selector = Selector(il=il, method="neg_il", k=8, history=History(n))
            trainer = Recorded(
                bert(),
                arguments(tmp_path, max_steps=1, train_sampling_strategy=strategy),
                train_dataset=train,
                # Of its columns an evaluation gets those of the model.
                eval_dataset=train,
                data_collator=pad,
                selector=selector,
            )
            trainer.train()
            trainer.evaluate()
            (small,) = trainer.small
            assert set(small) == {"input_ids", "attention_mask", "labels"}
            texts = [[int(i) for i in text if i] for text in small["input_ids"]]
            kept = [where[tuple(text)] for text in texts]
            ids = selector.last.ids
            assert sorted(kept) == sorted(ids[rank[ids].argsort()[:8]].tolist())
            assert selector.steps == 1
            assert int(selector.history.seen.sum()) == 32


def test_evaluates_data_with_ids_and_il(tmp_path: Path) -> None:
    """They are as without, and the Selector does not see them."""

    def all_columns(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        names = ("il", "ids")
        return {**pad(rows), **{name: torch.tensor([row[name] for row in rows]) for name in names}}

    rows = data(64)
    plain = Trainer(bert(), arguments(tmp_path), data_collator=pad)
    selecting = SelectionTrainer(
        bert(),
        arguments(tmp_path, remove_unused_columns=False),
        train_dataset=rows.add_column("ids", list(range(64))),
        data_collator=all_columns,
        selector=Selector(il="il", ratio=0.25, history=History(64)),
    )
    wanted, found = plain.predict(rows), selecting.predict(selecting.train_dataset)
    assert (wanted.predictions == found.predictions).all()
    assert wanted.metrics["test_loss"] == found.metrics["test_loss"]
    assert selecting.selector.steps == int(selecting.selector.history.seen.sum()) == 0


def test_resumes_in_mid_epoch(tmp_path: Path) -> None:
    def run(folder: str, resume: str | None = None, **options: Any) -> SelectionTrainer:
        n = 320
        selector = Selector(
            il="il",
            method=by_chance,
            ratio=0.25,
            history=History(n),
            phases=lambda step: step < 6,
        )
        trainer = SelectionTrainer(
            bert(),
            arguments(tmp_path / folder, max_steps=14, **options),
            train_dataset=data(n).add_column("ids", list(range(n))),
            data_collator=pad,
            selector=selector,
        )
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    straight = run("straight", save_strategy="steps", save_steps=5)
    checkpoint = tmp_path / "straight" / "checkpoint-5"
    resumed = run("resumed", str(checkpoint))
    assert torch.equal(weights(straight.model), weights(resumed.model))
    ours, theirs = straight.selector.state_dict(), resumed.selector.state_dict()
    for name in ("steps", "scored", "selected", "invalid"):
        assert ours[name] == theirs[name]
    for name, column in ours["history"].items():
        assert torch.equal(column.nan_to_num(), theirs["history"][name].nan_to_num()), name
    (checkpoint / "selector-0-of-1.pt").unlink()
    with pytest.warns(UserWarning, match="the Selector starts anew"):
        assert run("anew", str(checkpoint)).selector.steps == 9


def test_by_agreement_it_is_the_plain_loop(tmp_path: Path) -> None:
    rows, n, batch = data(96).remove_columns(["il", "text"]), 96, 16
    labels = [0 if i % 3 == 0 else label for i, label in enumerate(rows["labels"])]  # wrong ones
    rows = rows.remove_columns("labels").add_column("labels", labels)
    options: dict[str, Any] = {"optim": "sgd", "learning_rate": 0.5, "max_grad_norm": 0.0}
    options |= {"lr_scheduler_type": "constant", "label_smoothing_factor": 0.1}
    options |= {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 2}

    class Recording(SelectionTrainer):
        seen: list[Tensor]

        def compute_loss(self, model: Any, inputs: Any, **options: Any) -> Any:
            self.seen = [*getattr(self, "seen", ()), inputs["ids"]]
            return super().compute_loss(model, inputs, **options)

    def run(resume: Path | None = None, dropout: float = 0.1, **more: Any) -> Recording:
        args = arguments(tmp_path, max_steps=-1, num_train_epochs=8, **options, **more)
        trainer = Recording(
            *(bert(dropout=dropout), args), train_dataset=rows, data_collator=pad, agreement=True
        )
        trainer.train(resume_from_checkpoint=resume and str(resume))
        return trainer

    trainer = run(dropout=0.0)
    sampler, model = AgreementSampler(n, batch, steps=48, seed=0, parts=2), bert(dropout=0.0)
    batches = loader(IndexedDataset(rows, collate_fn=pad), sampler)
    optimizer, visited = torch.optim.SGD(model.parameters(), 0.5), list[Tensor]()
    while sampler.step < sampler.steps:
        sampler.rescore(model, batches)
        for number, found in enumerate(batches):
            visited.append(found.pop("ids"))
            labels = found.pop("labels")
            logits = model.train()(**found).logits
            (F.cross_entropy(logits, labels, label_smoothing=0.1) / 2).backward()
            sampler.update(visited[-1], logits, labels)
            if number % 2:
                optimizer.step()
                optimizer.zero_grad()
    assert torch.equal(torch.stack(trainer.seen), torch.stack(visited))
    torch.testing.assert_close(weights(trainer.model), weights(model), rtol=1e-4, atol=1e-5)
    assert trainer.sampler.scored == sampler.scored > 0
    assert trainer.state.log_history[-2]["selection/passes"] == sampler.passes
    assert trainer.state.epoch == 8

    straight = run(save_strategy="steps", save_steps=21)
    resumed = run(tmp_path / "checkpoint-21")
    assert torch.equal(weights(straight.model), weights(resumed.model))
    assert torch.equal(torch.stack(straight.seen[42:]), torch.stack(resumed.seen))
    assert history(straight)[21:-1] == history(resumed)[21:-1]
    with pytest.raises(ValueError, match="a training set with a length, and no selector"):
        SelectionTrainer(
            *(bert(), arguments(tmp_path)),
            train_dataset=rows,
            agreement=True,
            selector=Selector(k=1, method="loss"),
        )


def test_counts_anew_after_want_of_memory(tmp_path: Path) -> None:
    class Failing(SelectionTrainer):
        calls = 0

        def training_step(self, *args: Any, **options: Any) -> Tensor:
            self.calls += 1
            if self.calls in (3, 5):
                raise RuntimeError("CUDA out of memory.")
            return super().training_step(*args, **options)

    trainer = Failing(
        bert(),
        arguments(tmp_path, max_steps=4, auto_find_batch_size=True),
        train_dataset=data().add_column("ids", list(range(320))),
        data_collator=pad,
        selector=Selector(il="il", ratio=0.25, history=History(320)),
    )
    trainer.train()
    selector = trainer.selector
    seen = int(selector.history.seen.sum())
    assert selector.steps == trainer.state.global_step == 4
    assert selector.scored == seen == 4 * trainer._train_batch_size


def test_streams(tmp_path: Path) -> None:
    class Stream(torch.utils.data.IterableDataset[Any]):
        def __iter__(self) -> Any:
            return iter(data(96))

    for stream in (Stream(), data(96).to_iterable_dataset()):
        trainer = Recorded(
            bert(),
            arguments(tmp_path, max_steps=3),
            train_dataset=stream,
            data_collator=pad,
            selector=Selector(il="il", ratio=0.25),
        )
        trainer.train()
        assert trainer.selector.selected == 3 * 8


def test_add_il_is_cross_fit_by_the_users_trainer(tmp_path: Path) -> None:
    made = []

    def make(part: datasets.Dataset) -> Trainer:
        options = {"max_steps": 3, "save_strategy": "steps", "save_steps": 3}
        args = arguments(tmp_path, **options, train_sampling_strategy="group_by_length")
        made.append(Trainer(bert(len(made)), args, train_dataset=part, data_collator=pad))
        return made[-1]

    rows = data(90).remove_columns("il")
    found = add_il(rows, make, folds=3)
    assert found.column_names == [*rows.column_names, "il"]
    texts = [set(trainer.train_dataset["text"]) for trainer in made]
    assert [len(part) for part in texts] == [60, 60, 60]
    for row in found:
        (fold,) = [fold for fold, part in enumerate(texts) if row["text"] not in part]
        with torch.no_grad():
            batch = pad([row])
            loss = made[fold].model.eval()(**batch).loss
        assert row["il"] == pytest.approx(float(loss), rel=1e-4)
    # No run in the user's folder could resume from these models.
    assert sorted(path.name for path in tmp_path.iterdir()) == ["il-0", "il-1", "il-2"]
    with pytest.raises(ValueError, match="got 'il' beside the columns text, labels, input_ids, il"):
        add_il(found, make)
    with pytest.raises(ValueError, match="must make a new model each time"):
        add_il(rows, lambda _: made[0], folds=3)
    with pytest.raises(ValueError, match="a Trainer of the data that it is given"):
        add_il(rows, lambda _: make(rows))
    with pytest.raises(ValueError, match="the model sees the examples that it scores"):
        add_il(rows, lambda _: make(rows.select(range(40))))
    before = len(list(tmp_path.iterdir()))
    with pytest.raises(IndexError, match="label"):
        add_il(rows.remove_columns("labels").add_column("labels", [99] * 90), make)
    # Not even begun.
    assert made[-1].state.global_step == 0
    assert len(list(tmp_path.iterdir())) == before
    with pytest.raises(TypeError, match="must be a datasets.Dataset, got list"):
        add_il([{"text": "a"}], make)


def test_bad_input_is_refused_before_the_first_step(tmp_path: Path) -> None:
    rows, column = data(96), Selector(il="il", ratio=0.25)
    gap = rows.remove_columns("il").add_column("il", [None, float("nan"), *[0.5] * 94])
    table = Selector(il=torch.rand(96), ratio=0.25)
    bare, flat = rows.remove_columns("il"), {"data_collator": DataCollatorWithFlattening()}
    text = r"column 'il' must hold numbers, as add_il gives, got \['a', 'a', 'a'\]"
    names = r"column 'ids' must hold integers, the positions in the data set, got \['0', '1', '2'\]"
    cases: list[tuple[Any, Selector, dict[str, Any], str]] = [
        (rows.remove_columns("il"), column, {}, "no column 'il', got text, labels, input_ids; add"),
        (gap, column, {}, "column 'il' has no finite IL in 2 rows"),
        (bare.add_column("il", ["a"] * 96), column, {}, text),
        (bare.add_column("il", [[0.5]] * 96), column, {}, "column 'il' must hold numbers"),
        (rows, table, {}, "no column 'ids'"),
        (rows.add_column("ids", [str(i) for i in range(96)]), table, {}, names),
        (rows, column, flat, "collator DataCollatorWithFlattening makes one row of a batch"),
        (rows, Selector(method="loss", k=40), {}, "k = 40 is larger than a batch of 32"),
        (rows.select(range(70)), Selector(method="loss", k=8), {}, "than a batch of 6"),
    ]
    for train, selector, options, message in cases:
        with pytest.raises(ValueError, match=message):
            SelectionTrainer(
                bert(),
                arguments(tmp_path),
                **{"train_dataset": train, "data_collator": pad, "selector": selector, **options},
            )
    with pytest.raises(TypeError, match="selector must be a Selector, got float"):
        SelectionTrainer(bert(), arguments(tmp_path), train_dataset=rows, selector=0.25)
    listed = [{**row, "il": "a"} for row in rows]
    with pytest.raises(ValueError, match=text):
        SelectionTrainer(
            bert(), arguments(tmp_path), train_dataset=listed, data_collator=pad, selector=column
        ).train()
    used = Selector(method="loss", ratio=0.25)
    used.steps = 3
    with pytest.raises(ValueError, match="the Selector has made 3 selections already"):
        SelectionTrainer(
            bert(), arguments(tmp_path), train_dataset=rows, data_collator=pad, selector=used
        )
    # Without a Selector it is a Trainer.
    trainer = SelectionTrainer(
        bert(), arguments(tmp_path, max_steps=1), train_dataset=rows, data_collator=pad
    )
    trainer.train()


def test_works_below_sft_trainer(tmp_path: Path) -> None:
    trl = pytest.importorskip("trl", reason="no trl: pip install trl")

    class Recorded(Recording, trl.SFTTrainer):
        pass

    def make(rows: Any, **options: Any) -> Any:
        usual = {"per_device_train_batch_size": 16, "max_steps": 1, "logging_steps": 1}
        quiet = {"report_to": [], "use_cpu": True, "disable_tqdm": True, "save_strategy": "no"}
        plain = {"bf16": False, "max_length": None}
        args = trl.SFTConfig(output_dir=str(tmp_path), **{**usual, **quiet, **plain, **options})
        selector = Selector(il="il", ratio=0.25, loss_fn=lm_losses)
        return Recorded(
            llama(), args, train_dataset=rows, processing_class=characters(), selector=selector
        )

    # SFTTrainer makes tokens of the text, and labels of the tokens.
    rows = data(64).select_columns(["text", "il"])
    trainer = make(rows, gradient_accumulation_steps=2, max_length=40)
    trainer.train()
    assert [len(batch["labels"]) for batch in trainer.small] == [4, 4]
    model = llama()
    losses = torch.cat([losses_by_hand(model, small) for small in trainer.small])
    check_step(trainer, model, losses.mean())
    with pytest.raises(ValueError, match="no column 'il'"):
        make(rows, packing=True, packing_strategy="wrapped", max_length=40)
    with pytest.raises(ValueError, match="makes one row of a batch"):
        make(rows, padding_free=True)


def characters() -> Any:
    """Return a tokenizer of single characters, as no file of one is at hand."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers

    vocabulary = {"<pad>": 0} | {chr(code): code for code in range(1, 127)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), behavior="isolated")
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="~"
    )


def test_scoring_with_a_plain_head_makes_no_logits() -> None:
    sizes = {"vocab_size": 61, "num_attention_heads": 2, "hidden_size": 16, "head_dim": 8}
    gemma = transformers.Gemma2Config(
        **sizes, num_hidden_layers=1, num_key_value_heads=2, intermediate_size=16
    )

    class InPlace(LlamaForCausalLM):
        def forward(self, *args: Any, **options: Any) -> Any:
            found = super().forward(*args, **options)
            found.logits[:, 1:].mul_(0.5)
            return found

    class Banned(LlamaForCausalLM):
        def forward(self, *args: Any, **options: Any) -> Any:
            found = super().forward(*args, **options)
            found.logits[:, :, [3, 5]] = -50.0
            return found

    config = llama().config
    # Gemma bounds its logits. That is found out once.
    for model, calls in (
        (llama(), 2),
        (transformers.Gemma2ForCausalLM(gemma), 1),
        (InPlace(config), 1),
        (Banned(config), 1),
    ):
        ids = torch.randint(1, 61, (5, 9), generator=torch.Generator().manual_seed(0))
        labels = ids.masked_fill(torch.arange(9) < 3, -100)
        labels[2] = -100
        batch = {"input_ids": ids, "labels": labels}
        wanted = lm_losses(model.eval(), batch)
        assert wanted.requires_grad
        with (
            torch.inference_mode(),
            mock.patch.object(causal_lm, "linear_score", wraps=linear_score) as scored,
        ):
            for _ in range(2):
                found = lm_losses(model, batch)
                torch.testing.assert_close(found, wanted.detach(), equal_nan=True)
        assert scored.call_count == calls
        assert "forward" not in vars(model.get_output_embeddings())


@pytest.mark.slow
def test_two_ranks(tmp_path: Path) -> None:
    program = Path(__file__).with_name("two_ranks.py")
    done = launch(2, program, tmp_path)
    assert done.stdout.count("both ranks agree") == 2, done.stderr[-3000:]


def test_the_page_runs(tmp_path: Path) -> None:
    names = {"Trainer": Trainer, "Selector": Selector, "make_model": bert, "collate": pad}
    names |= {"args": arguments(tmp_path, max_steps=2), "train": data(64).remove_columns("il")}
    assert run_page("transformers", names)["trainer"].sampler.step == 2


def test_the_tutorial_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_page("transformers", {}, "tutorial_text")["trainer"].selector.steps == 18
