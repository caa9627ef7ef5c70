"""`rho-ext il`: what a person computes once, looks at, checks, converts and trains with."""

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

from rho_train import ILStore, IndexedDataset, fingerprint
from rho_train.cli import main
from rho_train.il.oatml import convert_reference
from rho_train.report.losses import format_losses, summarize_losses, write_losses_page

from .command import records, run, train_arguments


def compute_arguments(table: Path, out: Path, *more: str) -> list[str]:
    return [
        "il",
        "compute",
        f"--out={out}",
        f"--data.path={table}",
        "--data.test=300",
        "--hidden=[16]",
        "--recipe.epochs=2",
        "--recipe.scoring_batch=8",
        *more,
    ]


@pytest.mark.parametrize(
    ("kind", "known", "rows"), [("holdout", 300, 0), ("crossfit", 600, 0), ("crossfit", 600, 250)]
)
def test_computed_once_and_used_by_many_targets(
    tmp_path: Path, table: Path, kind: str, known: int, rows: int, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "il"
    command = compute_arguments(table, path, f"--kind={kind}", "--seeds=2", "--data.noise=0.2")
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
    assert main([*command, "--dropout=0.1"]) == 1
    assert re.search("there already: .*dropout: store has 0.0, wanted 0.1", capfd.readouterr().err)
    assert [file.read_bytes() for file in files] == written
    assert main(["il", "inspect", str(path)]) == 0
    printed = capfd.readouterr().out
    assert f"{known} of 600 examples" in printed
    assert "inputs: 64 examples, whose inputs" in printed
    assert main(["il", "verify", str(path), f"--data={table}"]) == 0
    printed = capfd.readouterr().out
    assert f"known: {known} of 600" in printed
    assert "features are those" in printed
    assert "inputs: 64 of 64 examples compared" in printed
    for steps in (40, 60):
        out = tmp_path / f"run{steps}"
        arguments = train_arguments(
            table, out, f"--il={path}", "--data.noise=0.2", f"--train.steps={steps}"
        )
        assert main(arguments) == 0
        end = records(out)[-1]
        assert (end["event"], end["trained"], end["scored"]) == ("end", 8 * steps, 40 * steps)
        assert not (out / "il").exists()


def test_a_store_of_changed_data_is_refused(
    tmp_path: Path, table: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "il.safetensors"
    assert main(compute_arguments(table, path)) == 0
    noisy = train_arguments(table, tmp_path / "noisy", f"--il={path}", "--data.noise=0.5")
    assert main(noisy) == 1
    assert re.search(r"another data set.*labels", capfd.readouterr().err)
    with np.load(table) as arrays:
        # Standardised to the same bits, so only the hash of the file can tell.
        np.savez(table, features=2 * arrays["features"], labels=arrays["labels"])
    assert main(train_arguments(table, tmp_path / "run", f"--il={path}")) == 1
    assert re.search(r"il\.safetensors: .*data\.sha256: store has", capfd.readouterr().err)
    assert main(["il", "verify", str(path), f"--data={table}"]) == 1
    assert "data.sha256: store has" in capfd.readouterr().err
    with np.load(table) as arrays:
        order = np.arange(900)
        for label in (0, 1):
            rows = np.flatnonzero(arrays["labels"] == label)
            order[rows] = np.roll(rows, 1)
        np.savez(table, features=arrays["features"][order], labels=arrays["labels"])
    assert main(train_arguments(table, tmp_path / "moved", f"--il={path}")) == 1
    assert re.search(r"il\.safetensors: .*other inputs: \d+ of 64", capfd.readouterr().err)
    assert main(["il", "verify", str(path), f"--data={table}"]) == 1
    assert "count and labels agree, so examples changed places" in capfd.readouterr().err
    damaged = bytearray(path.read_bytes())
    damaged[-5] ^= 1
    path.write_bytes(damaged)
    assert main(["il", "verify", str(path), f"--data={table}"]) == 1
    assert "do not match the checksum" in capfd.readouterr().err


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
            timeout=120,
        )
    stores = [ILStore.load(path) for path in (one, two)]
    assert torch.equal(stores[0].il, stores[1].il)
    infos = [{k: v for k, v in store.info.items() if k != "seconds"} for store in stores]
    assert infos[0] == infos[1]
    assert sorted(os.listdir(tmp_path)) == ["one.safetensors", "table.npz", "two.safetensors"]


def test_ctrl_c_leaves_work_that_goes_on(tmp_path: Path, table: Path) -> None:
    whole, stopped = tmp_path / "whole.safetensors", tmp_path / "stopped.safetensors"
    long = "--recipe.epochs=60"
    assert main(compute_arguments(table, whole, long)) == 0
    process = run(compute_arguments(table, stopped, long))
    work = tmp_path / "stopped.safetensors.unfinished"
    while not list(work.rglob("best.pt")):
        assert process.poll() is None, process.communicate()
    process.terminate()
    _, errors = process.communicate(timeout=60)
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
    bars = ElementTree.fromstring(svg).findall(".//{*}rect[@class='mark']")
    assert len(bars) == len(summary.counts)
    heights = [float(bar.attrib["height"]) for bar in bars]
    assert max(heights) == heights[int(np.argmax(summary.counts))]


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


N, SCORED = 60, list(range(0, 50, 2))
IMAGES = torch.randn(N, 3, 4, 4, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(N) % 5
DATA = IndexedDataset(TensorDataset(IMAGES, LABELS))


def reference_file(path: Path, **changes: object) -> Path:
    losses, targets = torch.full((49,), torch.nan), torch.zeros(49, dtype=torch.int64)
    losses[SCORED] = torch.arange(25) / 10
    targets[SCORED] = LABELS[SCORED]
    control = [1, 3, 10, 30, 100, 300, 1000, 3000]
    content = {
        "irreducible_losses": losses,
        "sorted_targets": targets,
        "idx_of_control_images": control,
        "control_images": [IMAGES[i] if i in SCORED else 0 for i in control],
        "heldout_accuracy": torch.tensor(0.75),
        "heldout_average_loss": torch.tensor(1.2),
    }
    torch.save({key: value for key, value in (content | changes).items() if value != "gone"}, path)
    return path


def test_a_file_of_the_reference_implementation_becomes_a_store(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = reference_file(tmp_path / "irred_losses_and_checks.pt")
    store = convert_reference(path, DATA)
    store.verify(DATA)
    assert store.known.nonzero().flatten().tolist() == SCORED
    assert torch.equal(store.il[SCORED], torch.arange(25) / 10)
    assert store.info["heldout_average_loss"] == "1.200000"
    labels, out = tmp_path / "labels.npy", tmp_path / "il.safetensors"
    np.save(labels, LABELS.numpy())
    assert main(["il", "convert", str(path), f"--out={out}"]) == 1
    assert "no loss and no label for 24 of 49 points" in capfd.readouterr().err
    assert main(["il", "convert", str(path), f"--out={out}", f"--labels={labels}"]) == 0
    assert torch.equal(ILStore.load(out, DATA).il.nan_to_num(-1), store.il.nan_to_num(-1))
    capfd.readouterr()
    assert main(["il", "verify", str(out), f"--labels={labels}"]) == 0
    assert "that it was made for; inputs not compared" in capfd.readouterr().out
    assert main(["il", "verify", str(out)]) == 0
    assert "data: not compared; give --labels" in capfd.readouterr().out
    np.save(labels, LABELS.numpy()[::-1])
    assert main(["il", "convert", str(path), f"--out={out}", f"--labels={labels}"]) == 1
    assert re.search(
        r"labels differ, the first at id 0: file 0, data set 4", capfd.readouterr().err
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sorted_targets": "gone"}, "lacks sorted_targets"),
        ({"irreducible_losses": torch.zeros(49, 1)}, r"must be floats \(N,\)"),
        ({"sorted_targets": torch.zeros(3, dtype=torch.int64)}, r"integers of shape \(49,\)"),
        ({"control_images": [torch.zeros(3, 4, 4)] * 8}, "the input of id 1 differs; with augm"),
        (
            {"irreducible_losses": torch.zeros(70), "sorted_targets": torch.arange(70) % 5},
            "it has 70 points, the data set has 60",
        ),
        ({"heldout_accuracy": print}, "holds more than tensors and numbers"),
    ],
)
def test_other_reference_files_are_refused(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    path = reference_file(tmp_path / "irred_losses_and_checks.pt", **changes)
    with pytest.raises(ValueError, match=message):
        convert_reference(path, DATA)


def test_a_shifted_index_is_refused(tmp_path: Path) -> None:
    path = reference_file(tmp_path / "irred_losses_and_checks.pt")
    alike = IndexedDataset(TensorDataset(IMAGES.roll(5, 0), LABELS))
    with pytest.raises(ValueError, match="the input of id 10 differs"):
        convert_reference(path, alike)
    convert_reference(path, alike, compare_inputs=False)
    with pytest.raises(ValueError, match="25 of 25 labels differ, the first at id 0"):
        convert_reference(path, IndexedDataset(TensorDataset(IMAGES, LABELS.roll(1))))
    with pytest.raises(FileNotFoundError, match="there is no file"):
        convert_reference(tmp_path / "missing.pt")
    (tmp_path / "cut.pt").write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ValueError, match=r"cut\.pt is damaged"):
        convert_reference(tmp_path / "cut.pt")
