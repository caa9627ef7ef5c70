"""Tokens worth training on, in transformers.Trainer: text of which 40 % is shuffled bytes.

python examples/language_model.py
"""

import tempfile
from pydoc_data.topics import topics

import torch
from datasets import Dataset
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Trainer,
    TrainingArguments,
    default_data_collator,
)

from rho_train.integrations.transformers import (
    SelectionTrainer,
    TokenSelector,
    add_reference_losses,
)

torch.manual_seed(0)
text = torch.tensor(list("\n".join(topics.values()).encode()))
rows = text[: len(text) // 64 * 64].view(-1, 64)
test, trusted, train = rows[torch.randperm(len(rows))[:1600]].split([100, 500, 1000])
shuffled = train.gather(1, torch.rand(train.shape).argsort(1))
train = torch.where(torch.rand(len(train), 1) < 0.4, shuffled, train)


def dataset(rows):
    return Dataset.from_dict({"input_ids": rows.tolist(), "labels": rows.tolist()})


def make_model(width):
    sizes = {"vocab_size": 256, "hidden_size": width, "intermediate_size": 2 * width}
    return LlamaForCausalLM(LlamaConfig(**sizes, num_hidden_layers=1, num_attention_heads=2))


args = TrainingArguments(
    tempfile.mkdtemp(),
    per_device_train_batch_size=16,
    max_steps=80,
    learning_rate=1e-2,
    save_strategy="no",
    report_to="none",
    use_cpu=True,
)
reference = make_model(32)  # learns from text that is known to be good
Trainer(reference, args, train_dataset=dataset(trusted)).train()
trainer = SelectionTrainer(
    make_model(48),
    args,
    train_dataset=add_reference_losses(dataset(train), reference, default_data_collator),
    eval_dataset=dataset(test),
    data_collator=default_data_collator,
    selector=TokenSelector(ratio=0.6, il="il"),
)
trainer.train()
found = trainer.evaluate()["eval_loss"]
print(f"{trainer.state.global_step} steps on 60 % of the tokens, test loss {found:.2f}")
