"""Duplicates are found by their inputs, whatever their labels, and near ones by embeddings."""

import pytest
import torch
from torch.utils.data import TensorDataset

from rho_train import IndexedDataset, find_duplicates


def test_the_first_of_equal_inputs_is_named() -> None:
    values = [5, 7, 5, 8, 5, 7]
    labels = torch.tensor([0, 1, 1, 0, 0, 1])
    column = torch.tensor(values).unsqueeze(1).float()
    for examples in (
        TensorDataset(column, labels),
        [({"text": f"word {value}"}, label) for value, label in zip(values, labels, strict=True)],
    ):
        data = IndexedDataset(examples, labels=labels)
        assert find_duplicates(data).tolist() == [0, 1, 0, 3, 0, 1]


def test_near_duplicates_are_joined_by_chains_in_any_block(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    angles = torch.tensor([0.0, 1.0, 0.2, 0.4, 3.0, 1.1, 0.1]).double()
    near = torch.stack([angles.cos(), angles.sin()], 1) * torch.arange(1, 8).unsqueeze(1)
    data = IndexedDataset(TensorDataset(torch.arange(7.0), torch.arange(7)))
    for rows in (1024, 2):
        monkeypatch.setattr("rho_train.checksums._ROWS", rows)
        found = find_duplicates(data, embeddings=near, similarity=0.975)
        assert found.tolist() == [0, 1, 0, 0, 4, 1, 0]
    copies = IndexedDataset(TensorDataset(torch.zeros(7), torch.arange(7)))
    assert not find_duplicates(copies, embeddings=near).any()


def test_wrong_embeddings_are_refused() -> None:
    data = IndexedDataset(TensorDataset(torch.zeros(3, 2), torch.arange(3)))
    for embeddings, similarity, error, message in (
        (torch.zeros(3, 2).long(), 0.9, TypeError, "must be floating point"),
        (torch.zeros(2, 2), 0.9, ValueError, r"finite \(3, d\), got .*2, 2"),
        (torch.full((3, 2), torch.nan), 0.9, ValueError, "must be finite"),
        (torch.ones(3, 2), 90.0, ValueError, r"similarity must lie in \(0, 1\], got 90"),
    ):
        with pytest.raises(error, match=message):
            find_duplicates(data, embeddings=embeddings, similarity=similarity)
    with pytest.raises(TypeError, match="dataset must be an IndexedDataset"):
        find_duplicates([1, 2])  # type: ignore[arg-type]
