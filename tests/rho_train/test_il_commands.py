"""`rho-ext il`: what a person computes once, looks at, checks and trains with."""

from __future__ import annotations

import csv
import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch

from rho_train import ILStore
from rho_train.cli import main

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
    command = compute_arguments(table, path, f"--kind={kind}")
    command.append(f"--rows_a_file={rows}")
    assert main(command) == 0
    assert f"{known} of 600 examples" in capfd.readouterr().out
    assert sorted(os.listdir(tmp_path)) == ["il", "table.npz"]
    files = sorted(path.iterdir())
    assert len(files) == (1 if rows == 0 else 3)
    written = [file.read_bytes() for file in files]
    assert main(command) == 0
    assert "is there already" in capfd.readouterr().out
    assert main([*command, "--seed=1"]) == 2
    assert re.search("there already: .*seed: store has 0, wanted 1", capfd.readouterr().err)
    assert main([*command, "--task.dropout=0.1"]) == 2
    assert re.search(r"there already: .*model: store has", capfd.readouterr().err)
    assert [file.read_bytes() for file in files] == written
    assert main(["il", "inspect", str(path)]) == 0
    printed = capfd.readouterr().out
    assert f"{known} of 600 examples" in printed
    assert main(["il", "verify", str(path), f"--task.path={table}"]) == 0
    printed = capfd.readouterr().out
    assert f"{known} of 600 examples have" in printed
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
    path = tmp_path / "il"
    assert main(compute_arguments(table, path)) == 0
    other = train_arguments(table, tmp_path / "other", f"--il={path}", "--task.test=200")
    assert main(other) == 2
    assert re.search(r"another data set.*labels", capfd.readouterr().err)
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
    assert main(train_arguments(table, tmp_path / "moved", f"--il={path}")) == 2
    assert re.search(r"other inputs: \d+ of 64", capfd.readouterr().err)
    assert main(["il", "verify", str(path), f"--task.path={table}"]) == 2
    assert "count and labels agree, so examples changed places" in capfd.readouterr().err


@pytest.mark.slow
def test_ranks_of_torchrun_compute_il_and_train_over_a_ctrl_c(tmp_path: Path, table: Path) -> None:
    one, two, out = tmp_path / "one", tmp_path / "two", tmp_path / "run"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    # Sums depend on the number of threads: torchrun sets one, as the tests do here.
    assert main(compute_arguments(table, one)) == 0
    command = [*launcher, "-m", "rho_train", *compute_arguments(table, two)]
    subprocess.run(command, check=True, cwd=sys.prefix)
    assert torch.equal(ILStore.load(one).il, ILStore.load(two).il)
    assert sorted(os.listdir(tmp_path)) == ["one", "table.npz", "two"]
    train = train_arguments(table, out, f"--il={two}", "--train.steps=1000", "--scope=global")
    command = [*launcher, "-m", "rho_train", *train]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=sys.prefix)
    checkpoint = out / "runs" / "rho-seed0" / "checkpoint.pt"
    while not checkpoint.exists():
        assert process.poll() is None, process.communicate()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert errors.count("run the same command again to go on") == 1, errors
    stopped = torch.load(checkpoint, weights_only=True)["step"]
    assert 0 < stopped < 1000
    assert f"stopped at step {stopped} of 1,000" in errors
    assert not list(out.rglob("*.tmp"))


@pytest.mark.slow
def test_ctrl_c_leaves_work_that_goes_on(tmp_path: Path, table: Path) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    long = "--recipe.epochs=30"
    assert main(compute_arguments(table, whole, long)) == 0
    process = run(compute_arguments(table, stopped, long))
    work = tmp_path / "stopped.unfinished"
    while not list(work.rglob("losses-*.pt")):
        assert process.poll() is None, process.communicate()
    process.terminate()
    _, errors = process.communicate()
    assert process.returncode == 130, errors
    assert "run the same command again to go on" in errors
    assert "Traceback" not in errors
    assert main(compute_arguments(table, stopped, long)) == 0
    assert torch.equal(ILStore.load(whole).il, ILStore.load(stopped).il)
    assert not work.exists()


def inspect(store: ILStore, folder: Path, capfd: pytest.CaptureFixture[str], *more: str) -> str:
    store.save(folder / "il.safetensors")
    assert main(["il", "inspect", str(folder / "il.safetensors"), *more]) == 0
    return capfd.readouterr().out


def test_inspect_shows_the_distribution_and_suspects(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    il = torch.linspace(0, 2, 1001)
    il[[17, 400, 3]] = torch.tensor([9.5, torch.nan, 2.0])
    print_of = {"n": "1001", "labels": "", "ids": "position"}
    store = ILStore(il, print_of, None, {"kind": "made up"})
    printed = inspect(store, tmp_path, capfd)
    assert "1,000 of 1,001 examples have an irreducible loss (99.9%)" in printed
    known = il[~il.isnan()]
    assert f"mean {known.double().mean():.4f} nats; quantiles: 0% 0.0000, 1% 0.02" in printed
    assert re.search(r"50% 1\.00\d\d, .*99% 1\.9\d\d\d, 100% 9\.5000\nkind: made up\n", printed)
    assert "labels: not judged; find_wrong_labels: the store has no labels" in printed
    labels = torch.arange(1001).remainder(2)
    labelled = store.replace(labels=labels.byte(), predicted=1 - labels.int())
    printed = inspect(labelled, tmp_path, capfd, "--top=2")
    # Guessing between two classes has a loss of 0.69.
    wrong = int((known > -torch.tensor(0.5).log()).sum())
    assert f"{wrong} of 1,000 labels (65.5%) look wrong" in printed
    suspects = r"\n  id 17 +label 1 +predicted 0 +IL +9\.5000\n  id 3 +label 1 .*\nnext: rho-ext il"
    assert re.search(suspects, printed)
    numbered = labelled.replace(info={"config": '{"classes": [7, 8]}'})
    assert "id 17           label 8 predicted 7 IL" in inspect(numbered, tmp_path, capfd)
    labelled.save(tmp_path / "il.safetensors")
    arguments = ["il", "inspect", str(tmp_path / "il.safetensors"), f"--out={tmp_path / 'page'}"]
    assert main(arguments) == 2
    assert "does not name its task; give --task" in capfd.readouterr().err
    assert main([*arguments, "--top=0"]) == 2
    assert "top must be at least 1, got 0" in capfd.readouterr().err
    assert main(["il", "verify", str(tmp_path / "il.safetensors")]) == 0
    assert "data: not compared; give --task" in capfd.readouterr().out


def test_words_as_labels_are_shown_as_words(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    x = np.random.default_rng(0).normal(size=(900, 2))
    kinds = np.where(x[:, 0] > 0, "=zebra", "cat")
    kinds[:60] = "cat"  # half of them are wrong
    path, store, page = tmp_path / "mine.csv", tmp_path / "il", tmp_path / "page"
    lines = (f"{a},{b},{kind}\n" for (a, b), kind in zip(x, kinds, strict=True))
    path.write_text("a,b,kind\n" + "".join(lines))
    assert main(compute_arguments(path, store)) == 0
    assert main(["il", "inspect", str(store)]) == 0
    assert re.search("label cat +predicted =zebra +IL", capfd.readouterr().out)
    assert main(["il", "inspect", str(store), f"--out={page}"]) == 0
    with open(page / "wrong_labels.csv", newline="") as file:
        row = next(csv.DictReader(file))
    assert (row["class"], row["predicted_class"]) == ("cat", "'=zebra")
    a, b = x[int(row["id"])]
    assert row["example"].removeprefix("'") == f"{a:g} {b:g}"
    shown = (page / "wrong_labels.html").read_text()
    assert "<strong>cat</strong>" in shown
    assert "predicted <strong>=zebra</strong>" in shown


def test_odd_stores_can_be_inspected(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    print_of = {"n": "3", "labels": "", "ids": "position"}
    for value in (torch.nan, 0.0, 0.7, 5.0, 1e6, 1e-30, 3e38):
        il = torch.tensor([value, value, torch.nextafter(torch.tensor(value), torch.tensor(0.0))])
        printed = inspect(ILStore(il, print_of), tmp_path, capfd)
        if value == value:
            assert "3 of 3 examples have" in printed
        else:
            assert "0 of 3 examples have" in printed


def test_a_damaged_store_is_refused_by_every_command(
    tmp_path: Path, table: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for rows in (0, 250):
        path = tmp_path / f"il{rows}"
        command = [*compute_arguments(table, path), f"--rows_a_file={rows}"]
        assert main(command) == 0
        file = sorted(path.iterdir())[0]
        whole = bytearray(file.read_bytes())
        at = len(whole) - (600 if rows == 0 else rows) * (4 + 4 + 2 + 1) + 403
        whole[at] ^= 0x40  # the exponent of an IL
        file.write_bytes(whole)
        for arguments in (
            command,
            ["il", "inspect", str(path)],
            ["il", "verify", str(path)],
            train_arguments(table, tmp_path / "run", f"--il={path}"),
        ):
            capfd.readouterr()
            assert main(arguments) == 2
            message = rf"il does not match its checksum in rows \d+ to \d+ of {file}: the file is"
            assert re.search(message, capfd.readouterr().err), arguments


def test_what_a_kill_leaves_is_removed_and_links_are_followed(
    tmp_path: Path, table: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    link, target = tmp_path / "il", tmp_path / "disk" / "store"
    target.parent.mkdir()
    link.symlink_to(target)
    command = compute_arguments(table, link)
    with monkeypatch.context() as patch:  # killed at its end

        def kill(folder: Path, **_: object) -> None:
            if folder.name == "store.unfinished":
                raise KeyboardInterrupt

        patch.setattr("rho_train.cli_il.shutil.rmtree", kill)
        with suppress(KeyboardInterrupt):
            main(command)
    assert link.is_symlink()
    assert sorted(os.listdir(target.parent)) == ["store", "store.unfinished"]
    assert main(command) == 0
    assert "is there already" in capfd.readouterr().out
    assert os.listdir(target.parent) == ["store"]
    assert ILStore.load(target).labels is not None


def test_a_config_of_another_form_is_refused(
    tmp_path: Path, table: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    print_of = {"n": "3", "labels": "", "ids": "position"}
    for config in ("[1]", "5", "{", "[" * 200_000, '{"options": 3}', '{"classes": "ab"}'):
        store = ILStore(torch.zeros(3), print_of, info={"config": config})
        store.save(tmp_path / "store")
        assert main(["il", "verify", str(tmp_path / "store")]) == 2
        assert re.search("config .* must be the JSON of its settings", capfd.readouterr().err)
    assert main(compute_arguments(table, tmp_path / "store")) == 2
    assert "--out must be a folder, got the file" in capfd.readouterr().err
