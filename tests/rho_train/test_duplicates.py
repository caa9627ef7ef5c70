"""Duplicates are found by their inputs, whatever their labels."""

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


def test_what_is_no_indexed_data_set_is_refused() -> None:
    with pytest.raises(TypeError, match="dataset must be an IndexedDataset"):
        find_duplicates([1, 2])  # type: ignore[arg-type]
