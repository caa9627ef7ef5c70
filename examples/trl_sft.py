"""RHO-LOSS on tokens in SFTTrainer of TRL, where 40 % of the answers are wrong.

python examples/trl_sft.py
"""

import random
import tempfile

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import SFTConfig, SFTTrainer

from rho_train.integrations.transformers import SelectionMixin, TokenSelector


class SelectingSFTTrainer(SelectionMixin, SFTTrainer):
    """An SFTTrainer that takes a Selector or a TokenSelector."""


random.seed(0)
torch.manual_seed(0)
colours = {"grass": "green", "snow": "white", "coal": "black", "blood": "red", "sun": "yellow"}
words = ["[PAD]", "[EOS]", "[UNK]", "is", *colours, *colours.values()]
backend = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
backend.pre_tokenizer = pre_tokenizers.Whitespace()
special = {"pad_token": "[PAD]", "eos_token": "[EOS]", "unk_token": "[UNK]"}
tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **special)


def answers(n, wrong):
    things = random.choices(list(colours), k=n)
    any_colour = random.choices(list(colours.values()), k=n)
    said = [any_colour[i] if i < wrong * n else colours[thing] for i, thing in enumerate(things)]
    return Dataset.from_list(
        [{"prompt": f"{a} is", "completion": f" {b}"} for a, b in zip(things, said, strict=True)]
    )


def trained(trainer, data, **options):
    sizes = {"vocab_size": len(words), "hidden_size": 32, "intermediate_size": 32}
    model = LlamaForCausalLM(LlamaConfig(**sizes, num_hidden_layers=1, num_attention_heads=2))
    args = SFTConfig(
        tempfile.mkdtemp(),
        max_steps=30,
        per_device_train_batch_size=32,
        learning_rate=1e-2,
        report_to="none",
        use_cpu=True,
        bf16=False,
    )
    options |= {"processing_class": tokenizer, "eval_dataset": answers(40, wrong=0.0)}
    made = trainer(model, args, train_dataset=data, **options)
    made.train()
    return made


reference = trained(SFTTrainer, answers(100, wrong=0.0)).model  # learns from curated answers
selector = TokenSelector(ratio=0.6, reference=reference)
trainer = trained(SelectingSFTTrainer, answers(1000, wrong=0.4), selector=selector)
found = trainer.evaluate()["eval_loss"]
print(f"{trainer.state.global_step} steps on 60 % of the tokens, test loss {found:.2f}")
