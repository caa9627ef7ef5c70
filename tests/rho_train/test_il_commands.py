"""`rho-ext il`: what a person computes once, looks at, checks and trains with."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from rho_train import ILStore, IndexedDataset, fingerprint, input_checksums
from rho_train.cli import main
from rho_train.report.il_page import format_losses, summarize_losses, write_losses_page

from .command import records, run, train_arguments


def compute_arguments(table: Path, out: Path, *more: str) -> list[str]:
    return [
        "il",
        "compute",
        f"--out={out}",
        "--task=table",
        f"--task.path={table}",
        "--task.test=300",
        "--task.hidden=[16]",
        "--recipe.epochs=2",
        "--recipe.scoring_batch=8",
        *more,
    ]


@pytest.mark.parametrize(("kind", "known", "rows"), [("holdout", 300, 0), ("crossfit", 600, 250)])
def test_computed_once_and_used_by_many_targets(
    tmp_path: Path,
    table: Path,
    kind: str,
    known: int,
    rows: int,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("rho_train.cli.write_report", lambda out: out)
    path = tmp_path / "il"
    command = compute_arguments(table, path, f"--kind={kind}", "--seeds=2")
    command.append(f"--rows_a_file={rows}")
    assert main(command) == 0
    assert f"{known} of 600 examples" in capfd.readouterr().out
    assert sorted(os.listdir(tmp_path)) == ["il", "table.npz"]
    files = [path] if rows == 0 else sorted(path.iterdir())
    assert len(files) == (1 if rows == 0 else 3 + 1)
    written = [file.read_bytes() for file in files]
    assert main(command) == 0
    assert "is there already" in capfd.readouterr().out
    assert main([*command, "--seeds=1"]) == 1
    assert re.search("there already: .*seeds: store has 2, wanted 1", capfd.readouterr().err)
    assert main([*command, "--task.dropout=0.1"]) == 1
    assert re.search(r"there already: .*model: store has", capfd.readouterr().err)
    assert [file.read_bytes() for file in files] == written
    assert main(["il", "inspect", str(path)]) == 0
    printed = capfd.readouterr().out
    assert f"{known} of 600 examples" in printed
    assert "inputs: 64 examples, whose inputs" in printed
    assert main(["il", "verify", str(path), f"--task.path={table}"]) == 0
    printed = capfd.readouterr().out
    assert f"known: {known} of 600" in printed
    assert "labels and ids are those" in printed
    assert "inputs: 64 of 64 examples compared" in printed
    for steps in (40, 60):
        out = tmp_path / f"run{steps}"
        arguments = train_arguments(table, out, f"--il={path}", f"--train.steps={steps}")
        assert main(arguments) == 0
        end = records(out)[-1]
        assert (end["event"], end["trained"], end["scored"]) == ("end", 8 * steps, 40 * steps)
        assert not (out / "il").exists()


def test_a_store_of_changed_data_is_refused(
    tmp_path: Path, table: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "il.safetensors"
    assert main(compute_arguments(table, path)) == 0
    other = train_arguments(table, tmp_path / "other", f"--il={path}", "--task.test=200")
    assert main(other) == 1
    assert re.search(r"il\.safetensors: .*another data set.*labels", capfd.readouterr().err)
    with np.load(table) as arrays:
        # Standardised to the same bits: the same data.
        np.savez(table, features=2 * arrays["features"], labels=arrays["labels"])
    assert main(["il", "verify", str(path)]) == 0
    with np.load(table) as arrays:
        order = np.arange(900)
        for label in (0, 1):
            rows = np.flatnonzero(arrays["labels"] == label)
            order[rows] = np.roll(rows, 1)
        np.savez(table, features=arrays["features"][order], labels=arrays["labels"])
    assert main(train_arguments(table, tmp_path / "moved", f"--il={path}")) == 1
    assert re.search(r"il\.safetensors: .*other inputs: \d+ of 64", capfd.readouterr().err)
    assert main(["il", "verify", str(path), f"--task.path={table}"]) == 1
    assert "count and labels agree, so examples changed places" in capfd.readouterr().err
    damaged = bytearray(path.read_bytes())
    damaged[-5] ^= 1
    path.write_bytes(damaged)
    assert main(["il", "verify", str(path), f"--task.path={table}"]) == 1
    assert "do not match the checksum" in capfd.readouterr().err


@pytest.mark.slow
def test_ranks_compute_what_one_process_computes(tmp_path: Path, table: Path) -> None:
    one, two = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
    ranks = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    for launcher, out in (([], one), (ranks, two)):
        command = [*launcher, "-m", "rho_train", *compute_arguments(table, out)]
        subprocess.run(
            [sys.executable, *command],
            check=True,
            cwd=sys.prefix,
            # As torchrun sets it for its ranks: sums depend on the number of threads.
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
    stores = [ILStore.load(path) for path in (one, two)]
    assert torch.equal(stores[0].il, stores[1].il)
    infos = [{k: v for k, v in store.info.items() if k != "seconds"} for store in stores]
    assert infos[0] == infos[1]
    assert sorted(os.listdir(tmp_path)) == ["one.safetensors", "table.npz", "two.safetensors"]


@pytest.mark.slow
def test_ctrl_c_leaves_work_that_goes_on(tmp_path: Path, table: Path) -> None:
    whole, stopped = tmp_path / "whole.safetensors", tmp_path / "stopped.safetensors"
    long = "--recipe.epochs=60"
    assert main(compute_arguments(table, whole, long)) == 0
    process = run(compute_arguments(table, stopped, long))
    work = tmp_path / "stopped.safetensors.unfinished"
    while not list(work.rglob("best.pt")):
        assert process.poll() is None, process.communicate()
    process.terminate()
    _, errors = process.communicate()
    assert process.returncode == 130, errors
    assert "run the same command again to go on" in errors
    assert "Traceback" not in errors
    assert main(compute_arguments(table, stopped, long)) == 0
    assert torch.equal(ILStore.load(whole).il, ILStore.load(stopped).il)
    assert not work.exists()


def test_inspect_draws_the_distribution_and_lists_the_extreme_points(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    il = torch.linspace(0, 2, 1001)
    il[[17, 400]] = torch.tensor([9.5, torch.nan])
    labels = torch.zeros(1001, dtype=torch.int64)
    print_of = fingerprint(IndexedDataset(TensorDataset(labels, labels)))
    ILStore(il, print_of, info={"kind": "<made> & up"}).save(tmp_path / "il.safetensors")
    page = tmp_path / "il.html"
    command = ["il", "inspect", str(tmp_path / "il.safetensors"), f"--out={page}", "--extremes=2"]
    assert main(command) == 0
    printed = capfd.readouterr().out
    assert "1,000 of 1,001 examples have an irreducible loss (99.9%)" in printed
    assert "inputs: none, inputs are not compared" in printed
    assert re.search(r"highest\n  id 17 +9\.5000\n  id 1000 +2\.0000\n\nlowest\n  id 0 ", printed)
    summary = summarize_losses(ILStore.load(tmp_path / "il.safetensors"))
    assert sum(summary.counts) == summary.known == 1000
    assert summary.quantiles[0.5] == pytest.approx(1.0, abs=0.01)
    known = il[~il.isnan()]
    assert summary.mean == pytest.approx(float(known.double().mean()))
    for low, high, count in zip(
        summary.edges[:-2], summary.edges[1:-1], summary.counts[:-1], strict=True
    ):
        assert count == int(((il >= low) & (il < high)).sum())
    html = page.read_text()
    assert "&lt;made&gt; &amp; up" in html
    assert "http" not in html.replace("http://www.w3.org/2000/svg", "").replace("http-equiv", "")
    (svg,) = re.findall(r"<svg.*?</svg>", html, re.DOTALL)
    paths = [path.get("d", "") for path in ElementTree.fromstring(svg).findall(".//{*}path")]
    corners = max((re.findall(r"([\d.]+) ([\d.]+)", path) for path in paths), key=len)
    # From the base up to the first bar, then along the top of each.
    tops = [float(y) for _, y in corners[1:-1:2]]
    assert len(tops) == len(summary.counts)
    assert min(tops) == tops[int(np.argmax(summary.counts))]
    assert sorted(range(len(tops)), key=lambda bar: -tops[bar]) == sorted(
        range(len(tops)), key=lambda bar: summary.counts[bar]
    )


def test_a_store_that_knows_nothing_can_be_inspected(tmp_path: Path) -> None:
    store = ILStore(torch.full((3,), torch.nan), {"n": "3", "labels": "", "ids": "position"})
    summary = summarize_losses(store)
    assert format_losses(summary).startswith("0 of 3 examples have")
    write_losses_page(summary, "il", tmp_path / "il.html")
    assert "<svg" not in (tmp_path / "il.html").read_text()


@pytest.mark.parametrize("value", [0.0, 0.7, 2.0, 5.0, 1e6, 1e-30])
def test_a_store_of_equal_losses_can_be_inspected(tmp_path: Path, value: float) -> None:
    print_of = {"n": "3", "labels": "", "ids": "position"}
    summary = summarize_losses(ILStore(torch.full((3,), value), print_of))
    assert sum(summary.counts) == 3
    assert len(set(summary.edges)) == len(summary.edges)
    assert "3 of 3 examples have" in format_losses(summary)
    write_losses_page(summary, "il", tmp_path / "il.html")
    assert "<svg" in (tmp_path / "il.html").read_text()


def test_a_store_is_compared_with_labels_alone(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    y = torch.arange(60) % 5
    store, labels = tmp_path / "il.safetensors", tmp_path / "labels.npy"
    data = IndexedDataset(TensorDataset(torch.rand(60, 2), y))
    checksums = input_checksums(data)
    ILStore(torch.zeros(60), fingerprint(data), input_checksums=checksums).save(store)
    np.save(labels, y.numpy())
    assert main(["il", "verify", str(store), f"--labels={labels}"]) == 0
    assert "that it was made for; inputs not compared" in capfd.readouterr().out
    assert main(["il", "verify", str(store)]) == 0
    assert "data: not compared; give --task or --labels" in capfd.readouterr().out
    np.save(labels, y.numpy()[::-1])
    assert main(["il", "verify", str(store), f"--labels={labels}"]) == 1
    assert "another data set (labels" in capfd.readouterr().err
