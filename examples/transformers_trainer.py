"""RHO-LOSS in transformers.Trainer: from which page of Python's reference is a paragraph?

python examples/transformers_trainer.py
"""

import re
import tempfile
from pydoc_data.topics import topics

import numpy as np
import torch
from datasets import Dataset
from torch.nn.utils.rnn import pad_sequence
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

from rho_train import Selector
from rho_train.integrations.transformers import SelectionTrainer, add_il

pages = ["compound", "formatstrings", "specialnames", "string-methods", "types"]
texts = [(text, i) for i, page in enumerate(pages) for text in re.split(r"\n\s*\n", topics[page])]
words = [(re.findall(r"\w+", text.lower()), i) for text, i in texts if len(text) > 40]
number = {word: i for i, word in enumerate(sorted({word for text, _ in words for word in text}), 1)}
rows = [{"input_ids": [number[word] for word in text[:32]], "labels": i} for text, i in words]
data = Dataset.from_list(rows).train_test_split(0.2, seed=0)


def collate(rows):
    ids = pad_sequence([torch.tensor(row["input_ids"]) for row in rows], batch_first=True)
    labels = torch.tensor([row["labels"] for row in rows])
    return {"input_ids": ids, "attention_mask": (ids > 0).long(), "labels": labels}


def make_model(size):
    sizes = {"vocab_size": len(number) + 1, "hidden_size": size, "intermediate_size": size}
    layers = {"num_hidden_layers": 1, "num_attention_heads": 2, "num_labels": len(pages)}
    return BertForSequenceClassification(BertConfig(**sizes, **layers))


def accuracy(prediction):
    return {"accuracy": float(np.mean(prediction.predictions.argmax(1) == prediction.label_ids))}


args = TrainingArguments(
    tempfile.mkdtemp(),
    per_device_train_batch_size=64,
    num_train_epochs=10,
    learning_rate=2e-3,
    save_strategy="no",
    report_to="none",
    use_cpu=True,
)
train = add_il(
    data["train"],
    lambda part: Trainer(make_model(16), args, train_dataset=part, data_collator=collate),
)
trainer = SelectionTrainer(
    make_model(32),
    args,
    train_dataset=train,
    eval_dataset=data["test"],
    data_collator=collate,
    compute_metrics=accuracy,
    selector=Selector(il="il", ratio=0.25),
)
trainer.train()
found = trainer.evaluate()["eval_accuracy"]
print(f"{trainer.selector.steps} steps of 16 examples, test accuracy {found:.1%}")
