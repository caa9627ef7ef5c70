"""The benchmarks at their smallest: they run, check before they time, and leave what they promise.

No time is asserted here.
"""

from __future__ import annotations

import csv
import functools
import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
TINY = ["--rows=32", "--classes=10", "--seconds=0.01", "--max-bytes=100000", "--threads=1"]

Results = tuple[Tensor, Tensor, Tensor]
Provider = Callable[..., Results]


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    monkeypatch.syspath_prepend(BENCHMARKS)
    # It looks for half a second how busy the machine is.
    monkeypatch.setattr(importlib.import_module("common"), "_busy", lambda: "0.00")
    return importlib.import_module


def read(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def assert_draws(module: Callable[[str], ModuleType], path: Path, *figures: str) -> None:
    assert module("figures").main([str(path)]) == 0
    for figure in figures:
        assert (path.parent / f"{path.stem}-{figure}.png").stat().st_size > 3_000


def test_select_from_the_root_of_the_repository(
    tmp_path: Path, module: Callable[[str], ModuleType]
) -> None:
    """There the source folder would hide the installed package from `python -c`."""
    out = tmp_path / "select.csv"
    command = [
        *(sys.executable, "benchmarks/bench_select.py", *TINY, f"--out={out}"),
        *("--dtypes", "float32", "bfloat16", "--providers=eager,eager_float32,rho_ext"),
    ]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    result = subprocess.run(
        command, cwd=BENCHMARKS.parent, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    rows = read(out)
    assert tuple(rows[0]) == (*module("common").PROVENANCE, *module("bench_select").COLUMNS)
    found = {(row["dtype"], row["k"], row["provider"]) for row in rows}
    reads = ("read", "read_as_float32")
    # k in 1, 10 % and 50 % for float32; without the upcast, which would do nothing.
    assert found == {
        *(("float32", k, p) for k in ("1", "3", "16") for p in ("eager", "rho_ext", "read")),
        *(("bfloat16", "3", p) for p in ("eager", "eager_float32", "rho_ext", *reads)),
    }
    for row in rows:
        assert 0 < float(row["p20_us"]) <= float(row["median_us"]) <= float(row["p80_us"])
        assert int(row["repeats"]) >= 5
        assert row["torch"] == torch.__version__
        assert row["threads"] == "1"
    half = [row for row in rows if row["dtype"] == "bfloat16"]
    errors = {row["provider"]: float(row["max_error"]) for row in half if row["max_error"]}
    assert errors["rho_ext"] < 1e-5 < errors["eager"]
    assert_draws(module, out, "speedup", "time")


def shifted(right: Provider, *inputs: Any) -> Results:
    values, indices, losses = right(*inputs)
    return values, indices, losses + 1e-4


def one_nan(right: Provider, *inputs: Any) -> Results:
    values, indices, losses = right(*inputs)
    return values, indices, losses.index_fill(0, indices[:1], torch.nan)


def one_row_twice(right: Provider, *inputs: Any) -> Results:
    values, indices, losses = right(*inputs)
    return values[:1].expand(values.shape), indices[:1].expand(indices.shape), losses


def all_but_the_best(right: Provider, *inputs: Any) -> Results:
    *batch, k = inputs
    values, indices, losses = right(*batch, k + 1)
    return values[1:], indices[1:], losses


def losses_as_values(right: Provider, *inputs: Any) -> Results:
    _, indices, losses = right(*inputs)
    return losses[indices], indices, losses


WRONG = (shifted, one_nan, one_row_twice, all_but_the_best, losses_as_values)


@pytest.mark.parametrize("provider", ["eager_float32", "rho_ext"])
def test_a_wrong_provider_stops_the_run(
    provider: str,
    tmp_path: Path,
    module: Callable[[str], ModuleType],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    providers, bench, out = module("providers"), module("bench_select"), tmp_path / "select.csv"
    arguments = [*TINY, "--dtypes=float32", "--k=10%", f"--providers={provider}", f"--out={out}"]
    assert bench.main(arguments) == 0
    right = providers.PROVIDERS[provider]()
    for wrong in WRONG:
        spoilt = {**providers.PROVIDERS, provider: lambda: functools.partial(wrong, right)}  # noqa: B023
        monkeypatch.setattr(bench, "PROVIDERS", spoilt)
        with pytest.raises(module("common").BenchmarkFailed, match=provider):
            bench.main(arguments)
        assert read(out) == [], wrong


@pytest.mark.parametrize("model", ["mlp", pytest.param("cnn", marks=pytest.mark.slow)])
def test_step(
    model: str, tmp_path: Path, module: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, out = module("bench_step"), tmp_path / "step.csv"
    options = ["--quick", "--seconds=0.01", "--threads=1", f"--models={model}"]
    real: Any = torch.compile
    monkeypatch.setattr(torch, "compile", lambda module, mode: real(module, backend="eager"))
    assert bench.main([*options, f"--out={out}"]) == 0
    rows = read(out)
    assert tuple(rows[0]) == (*module("common").PROVENANCE, *bench.COLUMNS)
    found: dict[tuple[str, str], dict[str, dict[str, str]]] = {}
    for row in rows:
        found.setdefault((row["model"], row["step"]), {})[row["part"]] = row
    assert set(found) == {(model, step) for step in bench.STEPS}
    for (_, step), parts in found.items():
        pieces = {"modes", "score", "op", "gather", "train"}
        if step in bench.OPTIONS:
            pieces = {"score", "select", "train"}
        if step == "uniform":
            pieces = {"train"}
        assert set(parts) == pieces | {"total"} | ({"overhead"} if step == "selector" else set())
        shares = [float(parts[piece]["share_of_step"]) for piece in pieces]
        assert sum(shares) == pytest.approx(1, abs=0.01)
    assert_draws(module, out, "parts")


def test_a_step_that_selects_other_examples_stops_the_run(
    module: Callable[[str], ModuleType],
) -> None:
    bench = module("bench_step")
    steps = bench.Steps(bench.TASKS["mlp"], 32, "cpu")
    options = ["selector", "bf16", "micro_batch", "proxy"]
    bench.check(steps, 320, options)
    # The selectors keep the first table.
    steps.il = -3 * steps.il
    for option in options:
        with pytest.raises(module("common").BenchmarkFailed, match=f"with {option} and"):
            bench.check(steps, 320, [option])


@pytest.mark.parametrize("script", sorted(path.name for path in BENCHMARKS.glob("bench_*.py")))
def test_every_script_explains_its_options(
    script: str, module: Callable[[str], ModuleType], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="0"):
        module(script.removesuffix(".py")).main(["--help"])
    assert "--threads" in capsys.readouterr().out


def test_by_default_nothing_runs_that_must_be_installed_first(
    module: Callable[[str], ModuleType],
) -> None:
    usual = ("eager", "eager_float32", "compile", "rho_ext")
    for name in ("bench_select", "bench_memory"):
        assert module(name).parse([]).providers == usual


@pytest.mark.slow
def test_memory_sees_what_eager_torch_takes(
    tmp_path: Path, module: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, out = module("bench_memory"), tmp_path / "memory.csv"
    monkeypatch.setattr(bench, "SIZES", ((4096, 1000, torch.float32),))
    options = ["--providers=eager,rho_ext", "--threads=1", f"--out={out}"]
    assert bench.main(options) == 0
    rows = read(out)
    assert tuple(rows[0]) == (*module("common").PROVENANCE, *bench.COLUMNS)
    over = {row["provider"]: float(row["over_logits"]) for row in rows}
    assert 0.9 < over["eager"] < 1.5
    assert over["rho_ext"] < 0.2
    assert_draws(module, out, "memory")
    # What eager took, rho_ext may not.
    taken = int(rows[0]["extra_bytes"])
    monkeypatch.setattr(bench, "in_fresh_process", lambda *_: taken)
    with pytest.raises(module("common").BenchmarkFailed, match="rho_ext took 15"):
        bench.main(options)


def test_dispatch_without_the_compiled_op(
    tmp_path: Path, module: Callable[[str], ModuleType]
) -> None:
    bench, out = module("bench_dispatch"), tmp_path / "dispatch.csv"
    options = ["--seconds=0.01", "--providers=rho_ext,eager", "--threads=1", f"--out={out}"]
    assert bench.main(options) == 0
    rows = read(out)
    assert tuple(rows[0]) == (*module("common").PROVENANCE, *bench.COLUMNS)
    assert bench.OURS in {row["path"] for row in rows}
    assert_draws(module, out, "dispatch")


def test_a_store_is_checked_before_it_is_measured(
    tmp_path: Path, module: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, out = module("bench_il_store"), tmp_path / "il_store.csv"
    monkeypatch.setattr(bench, "ROWS", 10_001)
    options = ["--threads=1", f"--out={out}"]
    assert bench.main(options) == 0
    rows = read(out)
    assert tuple(rows[0]) == (*module("common").PROVENANCE, *bench.COLUMNS)
    assert [(row["layout"], row["what"]) for row in rows] == [
        (layout, what)
        for layout in ("file", "shards")
        for what in ("save", "open", "first 4096 ids", "4096 ids", "check")
    ]
    monkeypatch.setattr(bench.ILStore, "gather", lambda self, ids: torch.zeros(len(ids)))
    with pytest.raises(module("common").BenchmarkFailed, match="shards: the store gives other"):
        bench.main([*options, "--providers=shards"])


class Recorded:
    """A clock on which every call takes a microsecond, and which keeps what it was asked for."""

    sample_us = 20.0

    def __init__(self, replays: bool) -> None:
        self.replays = replays
        self.calls: list[int] = []

    def sampler(self, function: Any, inputs: Any, calls: int) -> Callable[[], float]:
        self.calls.append(calls)
        return lambda: 1.0


@pytest.mark.parametrize(
    ("replays", "round_calls", "calls"), [(True, 300, 300), (True, 5, 20), (False, 300, 20)]
)
def test_replayed_calls_are_as_many_as_a_cache_does_not_hold(
    replays: bool, round_calls: int, calls: int, module: Callable[[str], ModuleType]
) -> None:
    """A replayed sample has the inputs of the first: twenty small ones would lie in the cache."""
    clock = Recorded(replays)
    times = module("timing").interleaved(
        {"one": print}, [()], clock, seconds=0.0, round_calls=round_calls
    )
    assert clock.calls == [1, calls]
    assert times["one"].median == 1.0


def test_cuda_is_refused_in_one_sentence(
    tmp_path: Path, module: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, failed = module("bench_select"), module("common").BenchmarkFailed
    options = ["--device=cuda", f"--out={tmp_path / 'select.csv'}", *TINY]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(failed, match="torch sees no CUDA device here; use --device cpu"):
        bench.main(options)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch._C, "_dispatch_has_kernel_for_dispatch_key", lambda *_: False)
    with pytest.raises(failed, match="this build of rho_ext has no CUDA kernel"):
        bench.main(options)


@pytest.mark.slow
def test_language_spends_the_same_and_goes_on(
    tmp_path: Path, module: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tokenizers", reason="no tokenizers: pip install tokenizers")
    bench, out, folder = module("bench_language"), tmp_path / "out.csv", tmp_path / "newsgroups"
    monkeypatch.setattr(bench, "RATES", (1.6e-2,))
    monkeypatch.setattr(bench, "WIDEST", 1)
    folder.mkdir()
    for name, text in {
        "20newsgroups-train": "to the moon and back again ",
        "20newsgroups-test": "to the moon and back again ",
        "reuters-r52-train": "shares of grain fell by nine cents ",
    }.items():
        posts = 100 * f"a group\t{60 * text}\n"
        (folder / f"{name}.tab").write_text(f"Category\tText\nd\tstring\nclass\t\n{posts}")
    arguments = ["--quick", f"--data={tmp_path}", f"--out={out}", "--seeds", "0", "1"]
    with torch.random.fork_rng():
        assert bench.main(arguments) == 0
        text = out.read_text()
        assert bench.main(arguments) == 0
    assert out.read_text() == text
    for kind in bench.TEXTS:
        found = {row["method"]: row for row in read(out) if row["text"] == kind}
        assert set(found) == set(bench.METHODS)
        budget = float(found["uniform"]["cost"])
        for method, row in found.items():
            spent, a_step = float(row["cost"]), float(row["cost"]) / int(row["steps"])
            wanted = budget * int(found["sequences"]["steps"]) / 20
            if method == "with_il":
                wanted = budget + float(found["tokens"]["il_cost"])
            elif method != "fewer_steps":
                wanted = budget
            assert wanted - 1.01 * a_step < spent < 1.001 * wanted
            assert (float(row["il_cost"]) > 0) == (method in ("filter", "tokens", "sequences"))
        useless = {method: float(row["useless"]) for method, row in found.items()}
        assert 0.3 < useless["uniform"] < 0.5
        assert useless["filter"] < 0.2
        assert useless["reference"] == 0


def test_language_asks_for_a_tokenizer(
    module: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(module("common").BenchmarkFailed, match="pip install tokenizers"):
        module("bench_language").tokenizer([])


def test_linear(
    tmp_path: Path, module: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, out = module("bench_linear"), tmp_path / "linear.csv"
    # A process takes seconds to start.
    monkeypatch.setattr(bench, "in_fresh_process", lambda function, *task: function(*task))
    arguments = ["--sizes=64x8x100", "--providers=logits,rho_ext", "--repeats=2", "--threads=1"]
    assert bench.main([*arguments, f"--out={out}"]) == 0
    cases = [(row["provider"], row["ratio"]) for row in read(out)]
    assert cases == [("logits", "1.0"), *(("rho_ext", r) for r in ("1.0", "0.6", "0.25"))]
    large = {"provider": "rho_ext", "tokens": 4096, "vocabulary": 128256}
    with pytest.raises(module("common").BenchmarkFailed, match="took 0.2 of the memory"):
        bench.check({**large, "memory_over_logits": "0.2"})
