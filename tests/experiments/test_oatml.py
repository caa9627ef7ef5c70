"""Files of the reference implementation become stores, and files of other data are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from experiments.oatml import convert, main
from rho_train import ILStore, IndexedDataset

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
    store = convert(path, DATA)
    store.verify(DATA)
    assert store.known.nonzero().flatten().tolist() == SCORED
    assert torch.equal(store.il[SCORED], torch.arange(25) / 10)
    assert store.info["heldout_average_loss"] == "1.200000"
    labels, out = tmp_path / "labels.npy", tmp_path / "il.safetensors"
    np.save(labels, LABELS.numpy())
    command = [str(path), f"--out={out}"]
    with pytest.raises(SystemExit, match="no loss and no label for 24 of 49 examples"):
        main(command)
    main([*command, f"--labels={labels}"])
    assert "25 of 60 examples have an IL" in capfd.readouterr().out
    assert torch.equal(ILStore.load(out, DATA).il.nan_to_num(-1), store.il.nan_to_num(-1))
    np.save(labels, LABELS.numpy()[::-1])
    message = "labels differ, the first at id 0: file 0, data set 4"
    with pytest.raises(SystemExit, match=message):
        main([*command, f"--labels={labels}"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sorted_targets": "gone"}, "lacks sorted_targets"),
        ({"irreducible_losses": torch.zeros(49, 1)}, r"must be floats \(N,\)"),
        ({"sorted_targets": torch.zeros(3, dtype=torch.int64)}, r"integers of shape \(49,\)"),
        ({"control_images": [torch.zeros(3, 4, 4)] * 8}, "the input of id 1 differs; with augm"),
        (
            {"irreducible_losses": torch.zeros(70), "sorted_targets": torch.arange(70) % 5},
            "it has 70 examples, the data set has 60",
        ),
        ({"heldout_accuracy": print}, "holds more than tensors and numbers"),
    ],
)
def test_other_reference_files_are_refused(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    path = reference_file(tmp_path / "irred_losses_and_checks.pt", **changes)
    with pytest.raises(ValueError, match=message):
        convert(path, DATA)


def test_a_shifted_index_is_refused(tmp_path: Path) -> None:
    path = reference_file(tmp_path / "irred_losses_and_checks.pt")
    alike = IndexedDataset(TensorDataset(IMAGES.roll(5, 0), LABELS))
    with pytest.raises(ValueError, match="the input of id 10 differs"):
        convert(path, alike)
    convert(path, alike, compare_inputs=False)
    with pytest.raises(ValueError, match="25 of 25 labels differ, the first at id 0"):
        convert(path, IndexedDataset(TensorDataset(IMAGES, LABELS.roll(1))))
    with pytest.raises(FileNotFoundError, match="there is no file"):
        convert(tmp_path / "missing.pt")
    (tmp_path / "cut.pt").write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ValueError, match=r"cut\.pt is damaged"):
        convert(tmp_path / "cut.pt")
