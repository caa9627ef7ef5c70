import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rho_train.tasks.text import Tokenizer, text_data, words_of


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Don't PANIC!", ["don't", "panic"]),
        ("'quoted' 42nd_street", ["quoted", "42nd", "street"]),
        ("Ünï-çødé 東京", ["ünï", "çødé", "東京"]),
        (" \n\t...", []),
    ],
)
def test_words(text: str, words: list[str]) -> None:
    assert words_of(text) == words


def test_ids_are_ranks_by_count_then_alphabet() -> None:
    tokenizer = Tokenizer(["b b a", "c a d"], min_count=1)
    assert tokenizer.words[2:] == ("a", "b", "c", "d")
    assert Tokenizer(["c a d", "b b a"], min_count=1).words == tokenizer.words
    assert Tokenizer(["b b a", "c a d"], min_count=2).words[2:] == ("a", "b")
    ids = tokenizer.encode(["d B e", "a", ""], max_len=2)
    assert ids.tolist() == [[5, 3], [2, 0], [0, 0]]
    assert ids.dtype == torch.int64


@given(st.lists(st.text("aAb c'.", max_size=12), min_size=1, max_size=6))
def test_the_ids_of_known_texts_say_their_words(texts: list[str]) -> None:
    tokenizer = Tokenizer(texts)
    for text, row in zip(texts, tokenizer.encode(texts, max_len=12).tolist(), strict=True):
        assert [tokenizer.words[i] for i in row if i] == words_of(text)
        assert 1 not in row


def test_the_vocabulary_is_that_of_the_training_part() -> None:
    train, test = [("one two", "b"), ("two", "a")], [("two three", "a")]
    data = text_data(train, test, min_count=1, max_len=3, name="small")
    assert data.words == ("<padding>", "<unknown>", "two", "one")
    assert data.test_x.tolist() == [[2, 1, 0]]
    assert (data.train_y.tolist(), data.test_y.tolist()) == ([1, 0], [0])


@pytest.mark.parametrize(
    ("train", "test", "options", "message"),
    [
        ([("x", "a")], [("x", "b")], {}, "got a, b without b"),
        ([("x", "a")], [("x", "a")], {}, "at least two, got a"),
        ([("x", "a"), ("x", "b")], [], {}, "got 2 to train and 0 to test on"),
        ([("x", "a"), ("x", "b")], [("x", "a")], {"min_count": 0}, "min_count must be at least 1"),
        ([("x", "a"), ("x", "b")], [("x", "a")], {"max_len": 0}, "max_len must be at least 1"),
    ],
)
def test_texts_that_are_no_task_are_refused(
    train: list[tuple[str, str]],
    test: list[tuple[str, str]],
    options: dict[str, int],
    message: str,
) -> None:
    with pytest.raises(ValueError, match=message):
        text_data(train, test, name="x", **{"min_count": 1, "max_len": 2, **options})
