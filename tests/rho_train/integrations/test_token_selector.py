"""SelectionTrainer on tokens: the Trainer's own results, on the selected tokens."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import Replicate
from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module
from torch.testing._internal.two_tensor import TwoTensor

from rho_train import causal_lm, linear_cross_entropy
from rho_train.identity import module_digest

for needed in ("transformers", "datasets"):
    pytest.importorskip(
        needed, reason=f"{needed} is not installed: pip install 'rho-ext[transformers]'"
    )

import datasets
import tokenizers
import transformers
from transformers import DataCollatorWithFlattening, Trainer

from rho_train.integrations import reference_losses
from rho_train.integrations.reference_losses import at_tokens
from rho_train.integrations.transformers import (
    TokenSelector,
    add_reference_losses,
)

from .launch import run_page
from .test_transformers import (
    Recorded,
    Recording,
    arguments,
    bert,
    characters,
    check_step,
    data,
    history,
    llama,
    losses_by_hand,
    pad_lm,
)

pytestmark = pytest.mark.filterwarnings("ignore")


@functools.cache
def rows(n: int = 96) -> datasets.Dataset:
    texts = data(n).select_columns(["input_ids"])
    # Of several lengths, so that there is padding.
    return texts.map(
        lambda row, i: {"input_ids": row["input_ids"][: 20 + i % 29]}, with_indices=True
    )


def reference(seed: int = 5) -> nn.Module:
    model = llama()
    with torch.no_grad():
        torch.manual_seed(seed)
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def gpt2() -> nn.Module:
    torch.manual_seed(0)
    rates = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    sizes = {"vocab_size": 257, "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 64}
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, **rates))
    model.loss_type = "ForCausalLM"  # else the Trainer also counts the first token of each text
    return model


def gemma() -> nn.Module:
    """A model that bounds its logits."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 257, "hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 16}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8}
    return transformers.Gemma2ForCausalLM(transformers.Gemma2Config(**sizes, **heads))


class Flat(transformers.LlamaForCausalLM):
    """A model whose head does not see sequences."""

    def forward(self, input_ids: Tensor, attention_mask: Any = None, **_: Any) -> Any:
        hidden = self.model(input_ids, attention_mask).last_hidden_state
        logits = self.lm_head(hidden.flatten(0, 1)).view(*input_ids.shape, -1)
        return transformers.modeling_outputs.CausalLMOutput(logits=logits)


def train(model: nn.Module, folder: Path, selector: Any, **options: Any) -> Any:
    kind = options.pop("kind", Recorded if selector else Trainer)
    sets = {"train_dataset": rows(), "data_collator": pad_lm}
    sets |= {name: options.pop(name) for name in tuple(sets) if name in options}
    own = {"selector": selector} if selector else {}
    usual = {"per_device_train_batch_size": 8, "max_steps": 2}
    trainer = kind(model, arguments(folder, **{**usual, **options}), **sets, **own)
    trainer.train()
    return trainer


def test_ratio_one_is_the_trainer(tmp_path: Path) -> None:
    accumulated, checkpointed = {"gradient_accumulation_steps": 4}, {"gradient_checkpointing": True}
    for make, options in (
        (llama, {}),
        (gpt2, {**accumulated, **checkpointed}),  # with a tied head
        (gemma, accumulated),
        (llama, {"bf16": True, **checkpointed}),
    ):
        sets = {"max_grad_norm": 0.1, **options}
        plain = train(make(), tmp_path, None, **sets)
        selecting = train(make(), tmp_path, TokenSelector(ratio=1.0), **sets)
        tolerance = 2e-2 if "bf16" in options else 1e-4
        for wanted, found in zip(history(plain), history(selecting), strict=True):
            assert found == pytest.approx(wanted, rel=tolerance)
        # The evaluation is the Trainer's.
        if not options:
            assert selecting.evaluate(rows(16))["eval_loss"] == pytest.approx(
                plain.evaluate(rows(16))["eval_loss"], rel=1e-4
            )


def selected_by_hand(losses: Tensor, il: Tensor, ratio: float) -> Tensor:
    k = max(1, int(ratio * len(losses) + 0.5))
    return losses[(losses.detach() - il).argsort(descending=True, stable=True)[:k]]


def test_the_loss_is_the_mean_over_the_selected_tokens_of_all_batches(tmp_path: Path) -> None:
    stored = add_reference_losses(rows(), reference(), pad_lm)
    online, column = (
        (TokenSelector(ratio=0.6, reference=reference()), rows()),
        (TokenSelector(ratio=0.6, il="il"), stored),
    )
    for make, accumulation, (selector, examples) in (
        (llama, 4, online),
        (llama, 1, column),
        (gemma, 4, column),
    ):
        options = {"gradient_accumulation_steps": accumulation, "max_steps": 1}
        trainer = train(make(), tmp_path, selector, **options, train_dataset=examples)
        model, parts = make(), list[Tensor]()
        for batch in trainer.small:
            with torch.no_grad():
                il = losses_by_hand(reference().eval(), batch)
            il = il.half().float() if selector.il else il
            parts.append(selected_by_hand(losses_by_hand(model, batch), il, 0.6))
        assert len(trainer.small) == accumulation
        check_step(trainer, model, torch.cat(parts).mean())
        assert trainer.state.log_history[0]["selection/selected"] == len(parts[-1])


def test_makes_logits_only_where_something_follows_the_head(tmp_path: Path) -> None:
    wrapped = {"wraps": linear_cross_entropy}
    for make, calls in (
        (llama, 2),
        (gpt2, 2),
        (gemma, 1),
        (lambda: llama().double(), 0),
        (lambda: Flat(llama().config), 0),
    ):
        with mock.patch.object(causal_lm, "linear_cross_entropy", **wrapped) as found:
            trainer = train(make(), tmp_path, TokenSelector(ratio=0.6))
        assert found.call_count == calls
        assert "forward" not in vars(trainer.model.get_output_embeddings())
    # As accelerate compiles DistributedDataParallel; its module is a model that is not compiled.
    parallel, batch = torch.compile(nn.DataParallel(llama())), pad_lm([rows()[0]])
    with (
        torch.compiler.set_stance("force_eager"),
        mock.patch.object(causal_lm, "linear_cross_entropy", **wrapped) as found,
    ):
        assert TokenSelector(ratio=0.6)(parallel, batch).k > 0
    assert found.call_count == 0


def test_a_head_in_parts_gives_logits(tmp_path: Path) -> None:
    """As tensor parallelism cuts it."""
    batch, model = pad_lm([rows()[0]]), llama()
    wanted = TokenSelector(ratio=0.6)(model, batch).loss
    dist.init_process_group("gloo", f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        plan = {"lm_head": ColwiseParallel(output_layouts=Replicate())}
        parallelize_module(model, dist.init_device_mesh("cpu", (1,)), plan)
        torch.testing.assert_close(TokenSelector(ratio=0.6)(model, batch).loss, wanted)
    finally:
        dist.destroy_process_group()


def test_moves_a_reference_only_from_another_device(tmp_path: Path) -> None:
    """One of 8 bits, or on several devices, refuses it."""
    model = reference()
    with mock.patch.object(model, "to") as moved:
        selector = TokenSelector(ratio=0.6, reference=model)
        train(llama(), tmp_path, selector, max_steps=1)
        assert moved.call_count == 0
        model.model.embed_tokens.to("meta")
        Recorded(llama(), arguments(tmp_path), train_dataset=rows(), selector=selector)
        moved.assert_called_once_with(torch.device("cpu"))


def test_one_row_of_all_examples_trains_on_the_same_tokens(tmp_path: Path) -> None:
    """Packed by position ids."""
    runs = []
    for collate in (pad_lm, DataCollatorWithFlattening()):
        stored = add_reference_losses(rows(), reference(), collate)
        known = [len(row) - sum(value != value for value in row) for row in stored["il"][:]]
        assert known == [len(row) - 1 for row in stored["input_ids"][:]]
        selector = TokenSelector(ratio=0.6, il="il")
        sets = {"train_dataset": stored, "data_collator": collate}
        runs.append(history(train(llama(), tmp_path, selector, **sets)))
    for wanted, found in zip(*runs, strict=True):
        assert found == pytest.approx(wanted, rel=1e-3)


def test_a_column_follows_its_tokens() -> None:
    ids, values = torch.tensor([[0, 7, 8], [4, 5, 6]]), [[0.1, None], [0.3, 0.4, 0.5]]
    nan = torch.nan
    for batch, wanted in (
        ({"attention_mask": ids > 0}, [[nan, 0.1, nan], [0.3, 0.4, 0.5]]),
        ({"attention_mask": ids.flip(1) > 0}, [[0.1, nan, nan], [0.3, 0.4, 0.5]]),
        ({}, [[0.1, nan, nan], [0.3, 0.4, 0.5]]),
        ({"input_ids": torch.tensor([[7, 8, 4, 5, 6]])}, [[0.1, nan, 0.3, 0.4, 0.5]]),
    ):
        found = at_tokens("il", values, {"input_ids": ids, **batch})
        torch.testing.assert_close(found, torch.tensor(wanted), equal_nan=True)
    # Rows that were padded before have a value at padding, too.
    whole, mask = [[0.1, 0.2, None], [0.3, 0.4, 0.5]], ids.flip(1) > 0
    found = at_tokens("il", whole, {"input_ids": ids, "attention_mask": mask})
    wanted = torch.tensor([[0.1, 0.2, nan], [0.3, 0.4, 0.5]])
    torch.testing.assert_close(found, wanted, equal_nan=True)


def test_reference_losses_are_read_again(tmp_path: Path) -> None:
    rows().save_to_disk(str(tmp_path))
    kept, flat = datasets.load_from_disk(str(tmp_path)), DataCollatorWithFlattening()
    wrapped = {"wraps": causal_lm.predicted_losses}
    with mock.patch.object(reference_losses, "predicted_losses", **wrapped) as scored:
        for seed, sign, collate, wanted in (
            (5, 1, pad_lm, 12),
            (5, 1, pad_lm, 12),
            (5, 1, flat, 24),
            (5, -1, pad_lm, 36),
            (6, 1, pad_lm, 48),
        ):
            model = reference(seed)
            model.lm_head.weight.data.mul_(sign)
            found = add_reference_losses(kept, model, collate)
            assert scored.call_count == wanted
    assert found.column_names == ["input_ids", "il"]
    with torch.no_grad():
        losses = losses_by_hand(reference(6).eval(), pad_lm([found[7]]))
    torch.testing.assert_close(torch.tensor(found[7]["il"][1:]), losses, rtol=1e-3, atol=1e-3)


def test_weights_that_hold_tensors_are_told_apart() -> None:
    """As weights of few bits, values and their scales."""
    values = [TwoTensor(torch.ones(2), torch.full((2,), scale)) for scale in (1.0, 2.0, 2.0)]
    found = [module_digest(nn.ParameterList([value])) for value in values]
    assert found[0] != found[1] == found[2]


def test_losses_of_another_tokenizer_are_refused(tmp_path: Path) -> None:
    own, other = characters(), characters()
    other.backend_tokenizer.model = tokenizers.models.WordLevel({"<pad>": 0, "a": 1}, "<pad>")
    collate = transformers.DataCollatorForLanguageModeling(other, mlm=False)
    parts = [rows().shard(2, i) for i in range(2)]
    stored = [add_reference_losses(part, llama(), pad_lm, tokenizer=own) for part in parts]
    both = datasets.concatenate_datasets(stored).shuffle(seed=0).map(lambda row: row)
    both.save_to_disk(str(tmp_path / "both"))
    for kept in (both, datasets.load_from_disk(str(tmp_path / "both"))):
        sets = {"train_dataset": kept, "selector": TokenSelector(ratio=0.5, il="il")}
        for tokenizer in (own, None):
            Recorded(llama(), arguments(tmp_path), processing_class=tokenizer, **sets)
        for own_options in ({"processing_class": other}, {"data_collator": collate}):
            with pytest.raises(ValueError, match="'il' holds losses .* of another tokenizer than"):
                Recorded(llama(), arguments(tmp_path), **own_options, **sets)
    # What the error asks for.
    again = add_reference_losses(both.remove_columns("il"), llama(), collate)
    sets["train_dataset"] = again
    Recorded(llama(), arguments(tmp_path), processing_class=other, data_collator=collate, **sets)
    with pytest.raises(ValueError, match="tokenizer, that of the model, and the collator's"):
        add_reference_losses(rows(), llama(), collate, tokenizer=own)


def test_bad_input_is_refused(tmp_path: Path) -> None:
    for options, error, message in (
        ({"ratio": 0.0}, ValueError, r"TokenSelector: ratio must be in \(0, 1\], got 0.0"),
        ({"ratio": 0.5, "reference": "gpt2"}, TypeError, "reference must be a model, got"),
        ({"ratio": 0.5, "il": torch.rand(3)}, TypeError, "il must be the name of a column, got"),
        ({"ratio": 0.5, "il": "il", "reference": llama()}, ValueError, "or its losses in il"),
    ):
        with pytest.raises(error, match=message):
            TokenSelector(**options)
    short = rows().add_column("il", [[0.5] * 5] * 96)
    word = rows().add_column("il", ["a"] * 96)
    small, routed = llama(), llama()
    small.config.vocab_size, routed.config.output_router_logits = 99, True
    column, plain = TokenSelector(ratio=0.5, il="il"), TokenSelector(ratio=0.5)
    other = TokenSelector(ratio=0.5, reference=small)
    for model, selector, options, message in (
        (llama(), column, {}, "no column 'il', got input_ids; .* by add_reference_losses"),
        (llama(), column, {"train_dataset": short}, r"'il': examples of \[5, 5, .*do not fit"),
        (llama(), column, {"train_dataset": word}, "'il' must hold a list of numbers for each"),
        (llama(), other, {}, "the vocabulary of the model, 257 tokens, got 99"),
        (small, other, {}, "must be another one than the model that is trained"),
        (llama(), plain, {"label_smoothing_factor": 0.1}, "label_smoothing_factor at 0"),
        (routed, plain, {}, "losses of routers; set output_router_logits .* to False"),
        (llama(), plain, {"data_collator": unlabelled}, r"must have labels \(B, T\), got None"),
        (bert(), plain, {}, "for causal language models, got BertForSequenceClassification"),
    ):
        with pytest.raises(ValueError, match=message):
            train(model, tmp_path, selector, **options)
    batch = {**pad_lm([rows()[0]]), "il": torch.rand(1, 4)}
    with pytest.raises(ValueError, match=r"column 'il' must have the shape of labels, \(1, 20\)"):
        column(llama(), batch)
    model, wide = llama(), {**batch, "il": torch.rand(1, 20).double()}
    with pytest.raises(ValueError, match="il must be float32, float16 or bfloat16"):
        column(model, wide)
    assert model.lm_head not in causal_lm._NOT_PLAIN
    # float16 has no number for a loss above 65,504.
    unknown = {**batch, "il": torch.tensor([torch.inf, torch.nan, 1.0, 2.0]).repeat(1, 5)}
    assert column(llama(), unknown).k == column.count(unknown) == 5
    none = {**batch, "il": torch.full((1, 20), torch.nan)}
    assert column(llama(), none).loss == 0
    with pytest.warns(UserWarning, match="no token of the last batch has a label and a reference"):
        column.metrics()
    with pytest.raises(TypeError, match=r"must be a datasets.Dataset, got list"):
        add_reference_losses([], llama(), pad_lm)
    with pytest.raises(ValueError, match="got 'il' beside the columns input_ids, il"):
        add_reference_losses(short, llama(), pad_lm)


def unlabelled(batch: list[dict[str, Any]]) -> dict[str, Tensor]:
    found = pad_lm(batch)
    return {name: value for name, value in found.items() if name != "labels"}


def test_the_page_runs(tmp_path: Path) -> None:
    names = {"train": rows(), "reference": reference(), "collate": pad_lm, "model": llama()}
    names["args"] = arguments(tmp_path, max_steps=2)
    assert run_page("transformers", names, "language_models")["trainer"].selector.last.k > 0


def texts(batch: Any) -> list[dict[str, Tensor]]:
    """Return the batch, or the texts that are packed into its single row as batches of one."""
    places = batch.get("position_ids")
    if places is None:
        return [{"attention_mask": torch.ones_like(batch["input_ids"]), **batch}]
    sizes = (places[0] == 0).nonzero()[1:, 0].tolist()
    both = (batch[name].tensor_split(sizes, dim=1) for name in ("input_ids", "labels"))
    return [
        {"input_ids": ids, "labels": labels, "attention_mask": torch.ones_like(ids)}
        for ids, labels in zip(*both, strict=True)
    ]


def test_works_below_sft_trainer(tmp_path: Path) -> None:
    trl = pytest.importorskip("trl", reason="no trl: pip install trl")

    class Selecting(Recording, trl.SFTTrainer):
        pass

    def made(kind: Any, train: Any, options: dict[str, Any], **own: Any) -> Any:
        usual = {"per_device_train_batch_size": 8, "max_steps": 1, "logging_steps": 1}
        quiet = {"report_to": [], "use_cpu": True, "disable_tqdm": True, "save_strategy": "no"}
        args = trl.SFTConfig(str(tmp_path), bf16=False, **usual, **quiet, **options)
        return kind(llama(), args, train_dataset=train, processing_class=characters(), **own)

    text, packing = data(64).select_columns(["text"]), {"packing": True, "max_length": 100}
    prompts = text.map(lambda row: {"prompt": row["text"][:9], "completion": row["text"][9:]})
    prompts, wrapped = prompts.remove_columns("text"), {"packing_strategy": "wrapped"}
    trainers = [
        made(Selecting, train, options, selector=TokenSelector(ratio=0.6, reference=reference()))
        for train, options in (
            (text, {}),
            (prompts, {}),
            (text, {**packing, **wrapped}),
            (rows(64), packing),
        )
    ]
    prepared = made(trl.SFTTrainer, rows(64), packing)
    train = add_reference_losses(prepared.train_dataset, reference(), prepared.data_collator)
    packing["dataset_kwargs"] = {"skip_prepare_dataset": True}
    trainers.append(made(Selecting, train, packing, selector=TokenSelector(ratio=0.6, il="il")))
    with pytest.raises(ValueError, match="loss_type at nll"):
        made(Selecting, text, {"loss_type": "dft"}, selector=TokenSelector(ratio=0.6))
    for trainer in trainers:
        with mock.patch.object(causal_lm, "select_tokens", side_effect=AssertionError("logits")):
            trainer.train()
        model, (batch,) = llama(), trainer.small
        assert len(texts(batch)) == 1 or len(texts(batch)) > 15  # of 8 rows
        losses = torch.cat([losses_by_hand(model, own) for own in texts(batch)])
        with torch.no_grad():
            il = torch.cat([losses_by_hand(reference().eval(), own) for own in texts(batch)])
        if trainer.selector.il:
            found = batch["il"][batch["labels"] != -100]
            torch.testing.assert_close(found, il, rtol=0, atol=0.003)  # of float16
            il = found
        check_step(trainer, model, selected_by_hand(losses, il, 0.6).mean())


def test_the_page_runs_in_trl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("trl", reason="no trl: pip install trl")
    monkeypatch.chdir(tmp_path)
    options = {"packing": True, "max_length": 40, "max_steps": 1, "save_strategy": "no"}
    options |= {"report_to": [], "bf16": False, "use_cpu": True, "disable_tqdm": True}
    names = {"model": llama(), "reference": reference(), "tokenizer": characters()}
    names |= {"text": data(32).select_columns(["text"]), "options": options}
    names |= {"TokenSelector": TokenSelector, "add_reference_losses": add_reference_losses}
    assert run_page("trl", names, "language_models")["trainer"].selector.last.k > 0
