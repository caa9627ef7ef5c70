from pathlib import Path
from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st

from experiments.classification import ClassificationData
from experiments.duplicates import without_duplicates
from experiments.texts import text_data
from rho_train.tasks import ImageFiles


def features(train: list[int], labels: list[int], test: list[int]) -> ClassificationData:
    def column(values: list[int]) -> Any:
        return torch.tensor(values, dtype=torch.float32).reshape(-1, 1)

    return ClassificationData(
        train_x=column(train),
        train_y=torch.tensor(labels),
        test_x=column(test),
        test_y=torch.zeros(len(test), dtype=torch.int64),
        num_classes=2,
        name="numbers",
    )


values = st.lists(st.integers(0, 6), min_size=1, max_size=12)


@given(values, values)
def test_what_is_left_occurs_once_and_nothing_else_is_lost(
    train: list[int], test: list[int]
) -> None:
    data = features(train, [value % 2 for value in train], test)
    left = without_duplicates(data).train_x.flatten().tolist()
    assert left == [v for v in dict.fromkeys(train) if v not in test]


def test_texts_are_compared_by_their_words_beyond_those_that_are_read() -> None:
    train = [("It's  FINE.", "a"), ("its fine", "b"), ("it's fine today", "a")]
    data = text_data(train, [("it's fine", "a")], min_count=1, max_len=2, name="t")
    # All of them begin with the same two token ids or with unknown ones.
    assert without_duplicates(data).train_texts == ("its fine", "it's fine today")


def test_files_are_compared_by_their_bytes(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in "abc"]
    for path, content in zip(paths, (b"1", b"2", b"1"), strict=True):
        path.write_bytes(content)
    data = ClassificationData(
        train_x=ImageFiles(paths, 8),
        train_y=torch.tensor([0, 1, 1]),
        test_x=ImageFiles(paths[1:2], 8),
        test_y=torch.tensor([0]),
        num_classes=2,
        name="files",
        kind="image",
    )
    assert without_duplicates(data).train_x.paths == (paths[0],)
