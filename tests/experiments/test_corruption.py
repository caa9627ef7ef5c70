from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from experiments.classification import ClassificationData
from experiments.corruption import Corruption, CorruptionConfig
from experiments.noise import label_noise

CLASSES = 10
TRAIN_Y = torch.arange(2000) * 7 % CLASSES
TEST_Y = torch.arange(500) * 3 % CLASSES
EVERYTHING: dict[str, Any] = {"noise": 0.3, "redundancy": 0.2, "copies": 4, "relevance": 0.25}


def draw(seed: int = 0, **config: Any) -> Corruption:
    return Corruption.draw(TRAIN_Y, TEST_Y, CLASSES, CorruptionConfig(**config), seed=seed)


def data() -> ClassificationData:
    return ClassificationData(
        train_x=torch.arange(2000.0).unsqueeze(1),
        train_y=TRAIN_Y,
        test_x=torch.arange(500.0).unsqueeze(1),
        test_y=TEST_Y,
        num_classes=CLASSES,
        name="rows",
        train_texts=tuple(map(str, range(2000))),
        confidence=torch.arange(2000) / 2000,
    )


def tensors(corruption: Corruption) -> list[Tensor]:
    return [v for v in vars(corruption).values() if isinstance(v, Tensor)]


def test_nothing_is_corrupted_by_default() -> None:
    none = draw()
    clean = data()
    assert none.apply(clean).train_y.equal(TRAIN_Y)
    # Not even copied: a large set would need twice the memory.
    assert none.apply(clean).train_x is clean.train_x
    assert none.flags == {}


def test_noise_of_a_corruption_is_that_of_label_noise() -> None:
    labels, noisy = label_noise(TRAIN_Y, 0.3, CLASSES, seed=4)
    made = draw(4, noise=0.3)
    assert made.label.equal(labels)
    assert made.noisy.equal(noisy)


def test_copies_are_whole_and_counted() -> None:
    made = draw(noise=0.5, redundancy=0.2, copies=4)
    assert len(made.row) == 2000 + 400 * 3
    assert int(made.redundant.sum()) == 1200
    assert made.row[:2000].equal(torch.arange(2000))
    times = made.row.bincount()
    assert times.unique().tolist() == [1, 4]
    assert int((times == 4).sum()) == 400
    source = made.source
    assert source[source].equal(source)
    for column in (made.row, made.label, made.original):
        assert column[source].equal(column)
    assert 0 < int(made.noisy[made.redundant].sum()) < 1200


def test_less_relevant_classes_become_rare_in_both_parts() -> None:
    made = draw(relevance=0.06, relevant_classes=0.2)
    relevant = made.original[made.relevant].unique()
    assert len(relevant) == 2
    # 200 training and 50 test points a class.
    for y, full, kept in ((made.original, 200, 12), (TEST_Y[made.test_row], 50, 3)):
        counts = y.bincount(minlength=CLASSES)
        wanted = torch.full((CLASSES,), kept)
        wanted[relevant] = full
        assert counts.equal(wanted)
    assert TRAIN_Y[made.row].equal(made.original)
    assert made.row.diff().min() > 0
    # The paper's CIFAR-100: 10,000 points of 20 classes, 2,400 of 80, 80.6 % and 19.4 %.
    cifar = Corruption.draw(
        torch.arange(50_000) % 100,
        torch.arange(10_000) % 100,
        100,
        CorruptionConfig(relevance=0.06),
        seed=0,
    )
    assert (int(cifar.relevant.sum()), int((~cifar.relevant).sum())) == (10_000, 2400)


def test_the_test_set_can_be_thinned_by_itself() -> None:
    made = draw(relevance_test=0.0)
    assert len(made.row) == 2000
    assert set(TEST_Y[made.test_row].tolist()) == set(made.original[made.relevant].tolist())


def test_data_follow_their_rows() -> None:
    made = draw(**EVERYTHING)
    result = made.apply(data())
    assert result.train_x.flatten().tolist() == made.row.tolist()
    assert result.train_y.equal(made.label)
    assert result.train_texts == tuple(map(str, made.row.tolist()))
    assert result.confidence is not None
    torch.testing.assert_close(result.confidence, made.row / 2000)
    assert result.test_x.flatten().tolist() == made.test_row.tolist()
    assert result.test_y.equal(TEST_Y[made.test_row])


def test_a_corruption_depends_on_its_arguments_alone() -> None:
    state = torch.get_rng_state()
    one, same, other = (tensors(draw(seed, **EVERYTHING)) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(map(torch.equal, one, same))
    assert not any(map(torch.equal, one, other))


def test_flags_are_those_of_the_corruptions_that_were_asked_for() -> None:
    made = draw(**EVERYTHING)
    assert tuple(made.flags) == ("noisy", "less_relevant", "redundant")
    assert list(draw(noise=0.1).flags) == ["noisy"]
    assert list(draw(relevance=0.5).flags) == ["less_relevant"]
    for name, flag in (
        ("noisy", made.label != made.original),
        ("less_relevant", ~made.relevant),
        ("redundant", torch.arange(len(made.label)) >= int((~made.redundant).sum())),
    ):
        assert made.flags[name].equal(flag)
        assert flag.any()


def test_a_corruption_of_other_data_is_refused() -> None:
    made = draw(**EVERYTHING)
    for other in (
        replace(data(), train_y=TRAIN_Y.flip(0)),
        data().take(train=torch.arange(500)),
        data().take(test=torch.arange(9)),
    ):
        with pytest.raises(ValueError, match="drawn for other training labels than those of rows"):
            made.apply(other)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"noise": 1.5}, r"rate must lie in \[0, 1\], got 1.5"),
        ({"noise": 0.1, "noise_kind": "white"}, "one of uniform, pair, structured, got 'white'"),
        ({"noise": 0.5, "noise_kind": "structured"}, "needs the pairs of confused classes"),
        ({"noise": 0.5, "confused": ((3, 5),)}, "and no other, needs the pairs"),
        ({"noise_kind": "structured", "confused": ((3, 5), (3, 4))}, "from different classes"),
        ({"noise_kind": "structured", "confused": ((3, 3),)}, "to other classes"),
        ({"redundancy": -0.1}, "redundancy must lie"),
        ({"redundancy": 0.1, "copies": 1}, "copies must be at least 2, got 1"),
        ({"relevance": 0.0}, r"relevance must lie in \(0, 1\], got 0.0"),
        ({"relevance_test": 2.0}, "relevance_test must lie"),
        ({"relevance": 0.5, "relevant_classes": 1.0}, "relevant_classes must lie"),
    ],
)
def test_a_corruption_that_cannot_be_is_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CorruptionConfig(**config)
