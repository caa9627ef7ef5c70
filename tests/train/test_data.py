import dataclasses
from collections import UserDict, defaultdict
from collections.abc import Callable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import (
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    StackDataset,
    Subset,
    TensorDataset,
    default_collate,
    random_split,
)

import rho_train
from rho_train import ILRecipe, Selector, crossfit_il, holdout_il, pretrained_il
from rho_train.data import (
    Batch,
    IndexedDataset,
    check_loader,
    fingerprint,
    label_noise,
    split,
    take,
    to,
)

X = torch.arange(40, dtype=torch.float32).reshape(8, 5)
Y = torch.tensor([3, 0, 2, 2, 1, 0, 3, 1])


@dataclasses.dataclass(frozen=True)
class Frozen:
    x: Any
    y: Tensor
    ids: Tensor


@dataclasses.dataclass(slots=True)
class Slots:
    x: Any
    y: Tensor
    ids: Tensor
    step: int


class Encoding(UserDict[str, Any]):
    """Built from a dict, like the BatchEncoding of Hugging Face."""


class Pair(NamedTuple):
    left: Any
    right: Any


class Triple(NamedTuple):
    index: Any
    image: Any
    target: Any


def build(kind: str, rows: list[int]) -> Any:
    """A batch of the given kind that holds the examples `rows` of a data set of 8."""
    index = torch.tensor(rows, dtype=torch.int64)
    x, y, ids, texts = X[index], Y[index], index + 100, [f"text {i}" for i in rows]
    words = {"input_ids": x, "texts": texts, "scale": torch.ones(9), "n": None}
    match kind:
        case "batch":
            return Batch(x, y, ids)
        case "nested":
            boxes = tuple(torch.full((i, 4), i) for i in rows)
            return Batch({"pair": Pair(x, x.numpy()), "boxes": boxes, "t": texts}, y, ids.int())
        case "tuple":
            return (x, y, ids)
        case "list":
            return [x, y, ids]
        case "frozen":
            return Frozen(words, y, ids)
        case "slots":
            return Slots(x, y, ids, step=3)
        case "object":
            return SimpleNamespace(x=x, y=y, ids=ids, texts=texts)
        case "dict":
            return {"x": x, "y": y, "ids": ids}
        case "keywords":
            return {**words, "labels": y, "ids": ids}
    return Encoding({**words, "label": y, "ids": ids})


KINDS = ["batch", "nested", "tuple", "list", "frozen", "slots", "object", "dict", "keywords"]
KINDS += ["encoding"]


def equal(a: Any, b: Any) -> bool:
    if type(a) is not type(b):
        return False
    if isinstance(a, Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b)
    if isinstance(a, Mapping):
        return list(a) == list(b) and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, (tuple, list)):
        return len(a) == len(b) and all(map(equal, a, b))
    if isinstance(a, (Frozen, Slots, SimpleNamespace)):
        return all(equal(getattr(a, k), getattr(b, k)) for k in ("x", "y", "ids"))
    return bool(a == b)


@settings(deadline=None, derandomize=True, max_examples=150)
@given(st.data(), st.sampled_from(KINDS), st.integers(0, 8))
def test_take_gives_the_batch_of_the_taken_rows(data: st.DataObject, kind: str, n: int) -> None:
    rows = data.draw(st.permutations(range(8)))[:n]
    batch = build(kind, rows)
    picks = data.draw(st.lists(st.integers(0, n - 1), max_size=10)) if n else []
    taken = take(batch, torch.tensor(picks, dtype=torch.int64))
    assert equal(taken, build(kind, [rows[pick] for pick in picks]))
    assert equal(batch, build(kind, rows))


@pytest.mark.parametrize("kind", KINDS)
def test_split_finds_the_parts(kind: str) -> None:
    rows = [6, 1, 2]
    fields = split(build(kind, rows))
    assert torch.equal(fields.labels, Y[rows])
    assert fields.ids.tolist() == [106, 101, 102]
    if kind in ("keywords", "encoding"):
        assert set(fields.inputs) == {"input_ids", "texts", "scale", "n"}
    elif kind not in ("nested", "frozen"):
        assert torch.equal(fields.inputs, X[rows])


@pytest.mark.parametrize("kind", KINDS)
def test_to_moves_every_tensor_and_keeps_the_rest(kind: str) -> None:
    batch = build(kind, [1, 2, 0])
    assert split(to(batch, "meta")).ids.device.type == "meta"
    assert equal(to(batch, "cpu"), batch)


def test_take_keeps_columns_apart_from_examples() -> None:
    columns = Batch([X, X + 1], Y, torch.arange(8))
    assert torch.equal(take(columns, torch.tensor([5])).x[1], X[5:6] + 1)
    two = Batch([X[:2], X[2:4]], Y[:2], torch.arange(2))
    with pytest.raises(ValueError, match="list of 2 tensors with 2 rows each may hold"):
        take(two, torch.tensor([0]))


def test_take_of_a_mapping_that_no_dict_can_build_is_a_dict() -> None:
    batch = defaultdict(list, build("dict", [4, 2]))
    assert equal(take(batch, torch.tensor([1])), build("dict", [2]))


@pytest.mark.parametrize(
    ("indices", "error", "message"),
    [
        ([0], TypeError, "got list of 1 elements"),
        (torch.tensor([0], dtype=torch.int32), TypeError, r"got int32 tensor \(1,\)"),
        (torch.tensor(0), TypeError, r"got int64 tensor \(\)"),
        (torch.tensor([0, 3]), IndexError, r"\[0, 3\), got 3"),
        (torch.tensor([0, -1]), IndexError, r"got -1; drop the padding"),
    ],
)
def test_take_refuses_bad_indices(indices: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        take(build("keywords", [0, 1, 2]), indices)


@pytest.mark.parametrize(
    ("batch", "error", "message"),
    [
        ((X, Y), ValueError, "no ids: got tuple of 2 elements.*IndexedDataset before the Data"),
        ([X, Y], ValueError, "no ids: got list of 2 elements.*third element through the collate"),
        ({"x": X, "labels": Y}, ValueError, "keys 'x', 'labels'.*'ids' through the collate_fn"),
        (Pair(X, Y), ValueError, "no ids: got Pair with the fields left, right"),
        (Triple(Y, X, Y), ValueError, "no ids: got Triple with the fields index, image, target"),
        (X, ValueError, r"no ids: got float32 tensor \(8, 5\)"),
        (None, ValueError, "no ids: got NoneType"),
        ((X, Y, Y.float()), TypeError, r"ids must be an int64 or int32 .* float32 tensor \(8,\)"),
        ((X, Y, list(range(8))), TypeError, "ids must be .* got list of 8 elements"),
        ((X, Y, Y.unsqueeze(1)), ValueError, r"ids must have shape \(n,\), got \(8, 1\)"),
        ((X, Y[:5], Y), ValueError, r"labels \(5,\) and ids \(8,\)"),
        ((X, Y.tolist(), Y), TypeError, "labels must be a tensor of 8 rows, got list"),
        ({"x": X, "ids": Y}, ValueError, "no labels: got dict with the keys 'x', 'ids'"),
        ({"labels": Y, "ids": Y}, ValueError, "no inputs"),
    ],
)
def test_a_batch_that_lost_something_is_refused(
    batch: object, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match="^here: .*" + message):
        split(batch, "here")


def assert_ids_follow(loader: DataLoader[Any], ids: list[int]) -> None:
    """Each id leads back to the example it came with."""
    batches = list(loader)
    assert [i for batch in batches for i in batch.ids.tolist()] == ids
    for batch in batches:
        assert isinstance(batch, Batch)
        assert torch.equal(batch.x, X[batch.ids])
        assert torch.equal(batch.y, Y[batch.ids])


class Pairs(Dataset[Any]):
    """A data set that only has __len__ and __getitem__."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return X[index], int(Y[index])


EXAMPLES: Any = list(zip(X, Y, strict=True))
COLUMNS: Any = (X, Y)


@pytest.mark.parametrize(
    "source",
    [TensorDataset(X, Y), Pairs(), EXAMPLES, StackDataset(*COLUMNS)],
    ids=["TensorDataset", "Pairs", "list", "StackDataset"],
)
def test_ids_are_positions_however_the_data_set_is_read(source: Any) -> None:
    indexed = IndexedDataset(source)
    assert indexed[-1].ids == 7
    assert torch.equal(indexed[-1].x, X[7])
    # With torch's own collate function and with the one that keeps rows read as one batch.
    for collate in (None, indexed.collate):
        assert_ids_follow(DataLoader(indexed, 3, collate_fn=collate), list(range(8)))
        subset = Subset(indexed, [6, 1, 7, 0])
        assert_ids_follow(DataLoader(subset, 3, collate_fn=collate), [6, 1, 7, 0])
    with pytest.raises(IndexError, match="index 8 is outside a data set of 8"):
        indexed[8]
    with pytest.raises(IndexError, match="index -9 is outside a data set of 8"):
        indexed.__getitems__([0, -9])


def test_ids_of_a_concatenation_are_global() -> None:
    joined: ConcatDataset[Any] = ConcatDataset(
        [TensorDataset(X[:3], Y[:3]), TensorDataset(X[3:], Y[3:])]
    )
    assert_ids_follow(DataLoader(IndexedDataset(joined), 5), list(range(8)))


def test_a_subclass_of_tensor_dataset_keeps_its_own_reading() -> None:
    class Doubled(TensorDataset):
        def __getitem__(self, index: int) -> tuple[Tensor, ...]:
            return 2 * X[index], Y[index]

    batch = next(iter(DataLoader(IndexedDataset(Doubled(X, Y)), 8)))
    assert torch.equal(batch.x, 2 * X)


def test_dict_examples_get_a_key() -> None:
    source = [{"input_ids": x, "labels": y} for x, y in EXAMPLES]
    batch = next(iter(DataLoader(IndexedDataset(source), 8)))
    assert list(batch) == ["input_ids", "labels", "ids"]
    assert batch["ids"].tolist() == list(range(8))
    assert "ids" not in source[0]


def test_rows_read_at_once_equal_rows_read_one_by_one() -> None:
    indexed, picks = IndexedDataset(TensorDataset(X, Y)), [3, -1, 3, 0]
    at_once = indexed.collate(indexed.__getitems__(picks))
    assert equal(at_once, default_collate([indexed[i] for i in picks]))


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter([(0, 0)])

    def __len__(self) -> int:
        return 4


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (IndexedDataset([(0, 0)]), "wrapped already"),
        (Subset(IndexedDataset([(0, 0)]), [0]), "Subset carry ids already, of 1 IndexedDataset"),
        (ConcatDataset(2 * [IndexedDataset([(0, 0)])]), r"of 2 .*once.*join two by a \+ b"),
        (Stream(), "map-style.*got Stream"),
        (iter([(0, 0)]), "map-style.*got list_iterator"),
    ],
)
def test_a_data_set_without_positions_is_refused(source: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        IndexedDataset(source)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ([X[0]], r"\(x, y\) pairs or dicts, got Tensor"),
        ([(X, Y, 3)], "got tuple of 3 elements"),
        ([{"x": X, "ids": 3}], "a key 'ids' already"),
        ([Batch(X, Y, 0)], "carry ids already"),
    ],
)
def test_examples_that_cannot_carry_ids_are_refused(source: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        IndexedDataset(source)[0]


def test_labels_are_found_without_loading_an_example() -> None:
    class Targets:
        targets = Y.tolist()

        def __len__(self) -> int:
            return 8

        def __getitem__(self, index: int) -> None:
            raise AssertionError("an example was loaded")

    found = [
        IndexedDataset(TensorDataset(X, Y.int())),
        IndexedDataset(Targets()),
        IndexedDataset(Pairs(), labels=Y.numpy()),
        IndexedDataset(TensorDataset(X, torch.rand(8)), labels=Y.tolist()),
    ]
    for dataset in found:
        assert equal(dataset.labels, Y)
        assert fingerprint(dataset) == fingerprint(found[0])


def test_the_fingerprint_is_the_documented_hash_and_sees_every_label() -> None:
    def prints(labels: Tensor) -> dict[str, str]:
        return fingerprint(IndexedDataset(TensorDataset(torch.zeros(len(labels), 1), labels)))

    # sha256sum of the bytes 03 00 00 00 00 00 00 00 01 00 00 00 00 00 00 00
    known = "9b768a7138e147b4158a6b26c2e04ee536af084a18f7b751a9439af1a7cc0765"
    assert prints(torch.tensor([3, 1])) == {"n": "2", "labels": known, "ids": "position"}
    others = [Y.flip(0), Y + 1, Y[:-1], torch.cat([Y, Y[:1]])]
    assert all(prints(labels) != prints(Y) for labels in others)


@pytest.mark.parametrize(
    ("source", "labels", "message"),
    [
        (Pairs(), None, "Pairs has no attribute labels or targets; pass the labels"),
        (TensorDataset(X, torch.rand(8)), None, "the second tensor must be integer"),
        (Pairs(), [0, 1], r"labels= must be integer class indices of shape \(8,\)"),
        (Pairs(), ["cat"] * 8, "labels= must be class indices .* got list"),
        ([(0, 0)], [[0]], r"got torch\.int64 \(1, 1\)"),
    ],
)
def test_unknown_or_bad_labels_are_refused(source: Any, labels: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _ = IndexedDataset(source, labels=labels).labels


@pytest.mark.parametrize("source", [Pairs(), TensorDataset(X, torch.rand(8))])
def test_data_that_show_no_classes_have_a_fingerprint_all_the_same(source: Any) -> None:
    wanted = {"n": str(len(source)), "labels": "none", "ids": "position"}
    assert fingerprint(IndexedDataset(source)) == wanted


PARTS: Any = [TensorDataset(X[:3], Y[:3]), TensorDataset(X[3:], Y[3:])]


def test_ids_are_global_through_subsets_and_concatenations_of_each_other() -> None:
    joined: Any = ConcatDataset([PARTS[0], ConcatDataset([PARTS[1], Subset(PARTS[0], [2, 0])])])
    indexed = IndexedDataset(joined)
    x, y = torch.cat([X, X[[2, 0]]]), torch.cat([Y, Y[[2, 0]]])
    # The labels are found through all of them.
    assert torch.equal(indexed.labels, y)
    left, right = random_split(indexed, [4, 6], torch.Generator().manual_seed(0))
    both = ConcatDataset([left, Subset(right, [5, 1, 0]), Subset(Subset(indexed, [9, 4]), [1])])
    seen = next(iter(DataLoader(both, 8)))
    assert torch.equal(seen.x, x[seen.ids])
    assert torch.equal(seen.y, y[seen.ids])
    wanted = [*left.indices, *(right.indices[i] for i in (5, 1, 0)), 4]
    assert seen.ids.tolist() == wanted


def test_the_sum_of_two_counts_on() -> None:
    first, second = IndexedDataset(PARTS[0]), IndexedDataset(EXAMPLES, labels=Y)
    total = first + second + PARTS[1]
    batch = next(iter(DataLoader(total, 16)))
    assert batch.ids.tolist() == list(range(16))
    assert torch.equal(batch.x, torch.cat([X[:3], X, X[3:]]))
    assert torch.equal(total.labels, torch.cat([Y[:3], Y, Y[3:]]))


def by_tuple(samples: list[Any]) -> Any:
    x, y, ids = zip(*samples, strict=True)
    return torch.stack(x), torch.stack(y), torch.tensor(ids)


@pytest.mark.parametrize(
    ("examples", "collate"),
    [
        ("pairs", None),
        ("pairs", by_tuple),
        ("pairs", lambda samples: list(by_tuple(samples))),
        ("pairs", lambda samples: Frozen(*by_tuple(samples))),
        ("pairs", lambda samples: Slots(*by_tuple(samples), step=1)),
        ("dicts", None),
        ("dicts", lambda samples: Encoding(default_collate(samples))),
    ],
)
def test_ids_lead_back_to_their_points_through_collate_and_selection(
    examples: str, collate: Any
) -> None:
    source: Any = TensorDataset(X, Y)
    if examples == "dicts":
        source = [{"input_ids": x, "labels": y, "text": f"row {y}"} for x, y in EXAMPLES]
    own = torch.Generator().manual_seed(3)
    loader = DataLoader(IndexedDataset(source), 8, True, collate_fn=collate, generator=own)
    states = torch.get_rng_state(), own.get_state()
    check_loader(loader)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert torch.equal(own.get_state(), states[1])
    batch = next(iter(loader))
    small = Selector(k=3, method="loss", forward=lambda model, b: model(inputs(b)))(
        nn.Linear(5, 4), batch
    )
    assert type(small) is type(batch)
    fields = split(small)
    assert len(fields.ids) == 3
    assert torch.equal(inputs(small), X[fields.ids])
    assert torch.equal(fields.labels, Y[fields.ids])


def inputs(batch: Any) -> Tensor:
    found = split(batch).inputs
    return found["input_ids"] if isinstance(found, Mapping) else found


class Forgetful(DataLoader[Any]):
    def __iter__(self) -> Any:
        return ((batch.x, batch.y) for batch in super().__iter__())


INDEXED: Any = IndexedDataset(TensorDataset(X, Y))
JOINED: Any = ConcatDataset([INDEXED, INDEXED])


@pytest.mark.parametrize(
    ("loader", "error", "message"),
    [
        (
            DataLoader(TensorDataset(X, Y)),
            TypeError,
            "the data set adds no ids: an example of TensorDataset is tuple of 2 elements; wrap it",
        ),
        (DataLoader(JOINED), TypeError, "ids of the 2 IndexedDatasets inside would clash"),
        (
            DataLoader(INDEXED, 2, collate_fn=lambda samples: by_tuple(samples)[:2]),
            ValueError,
            r"the collate_fn <lambda> loses the ids: of .* \[0, 1\] it makes tuple of 2 elements",
        ),
        (
            DataLoader(INDEXED, 2, collate_fn=lambda s: by_tuple([(x, y, 0) for x, y, _ in s])),
            ValueError,
            r"changes the ids: the examples have \[0, 1\], the batch has \[0, 0\]",
        ),
        (Forgetful(INDEXED, 2), ValueError, "Forgetful loses the ids that the collate_fn default_"),
    ],
)
def test_the_step_that_loses_the_ids_is_named(
    loader: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match="^check_loader: .*" + message):
        check_loader(loader)


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (TensorDataset(X, Y), "got TensorDataset; wrap it"),
        (Subset(INDEXED, [0, 1]), "got Subset; of a subset, pass the whole"),
        (JOINED, r"got ConcatDataset; the ids .* clash, each begins at 0: join them by a \+ b"),
    ],
)
def test_only_a_whole_data_set_with_ids_is_taken(dataset: Any, message: str) -> None:
    def make(seed: int) -> nn.Module:
        return nn.Linear(5, 4)

    takers: list[Callable[[], object]] = [
        lambda: fingerprint(dataset),
        lambda: rho_train.loader(dataset, [[0]]),
        lambda: holdout_il(make, dataset, torch.tensor([0]), ILRecipe(epochs=1)),
        lambda: crossfit_il(make, dataset, 2, ILRecipe(epochs=1)),
        lambda: pretrained_il(make(0), dataset),
    ]
    for take_it in takers:
        with pytest.raises(TypeError, match=message):
            take_it()


def test_noise_hits_the_documented_share_and_marks_what_changed() -> None:
    n, classes = 100_000, 10
    clean = torch.arange(n) % classes
    labels, noisy = label_noise(clean, 0.1, classes, seed=0)
    assert torch.equal(labels != clean, noisy)
    # 10,000 points are hit, each stays right with probability 1 / 10: mean 9000, variance 900.
    assert int(noisy.sum()) <= 10_000
    assert abs(int(noisy.sum()) - 9000) < 5 * 30
    assert torch.equal(clean, torch.arange(n) % classes)


def test_noise_is_uniform_over_all_classes() -> None:
    labels, noisy = label_noise(torch.zeros(100_000, dtype=torch.uint8), 1.0, 4, seed=1)
    counts = torch.bincount(labels, minlength=4)
    # Each count is binomial with mean 25000 and variance 18750.
    assert (counts - 25_000).abs().max() < 5 * 18_750**0.5
    assert int((~noisy).sum()) == int(counts[0])


def test_pair_noise_leads_to_the_next_class() -> None:
    labels, noisy = label_noise(torch.arange(1000) % 4, 0.2, 4, kind="pair", seed=0)
    clean = torch.arange(1000) % 4
    assert int(noisy.sum()) == 200
    assert torch.equal(labels[noisy], (clean[noisy] + 1) % 4)
    assert torch.equal(labels[~noisy], clean[~noisy])


def test_structured_noise_hits_half_of_each_confused_class() -> None:
    clean = torch.arange(1000) % 10
    pairs = [(3, 5), (4, 9), (9, 7)]
    labels, noisy = label_noise(clean, 0.5, 10, kind="structured", pairs=pairs, seed=0)
    # No label moves twice: a 4 that became a 9 does not go on to 7.
    for a, b in pairs:
        assert labels[clean == a].bincount(minlength=10)[[a, b]].tolist() == [50, 50]
    assert int(noisy.sum()) == 150


def test_noise_depends_on_its_seed_alone() -> None:
    state = torch.get_rng_state()
    first, again, other = (label_noise(Y.repeat(99), 0.5, 4, seed=s) for s in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.labels, again.labels)
    assert not torch.equal(first.labels, other.labels)
    untouched = label_noise(Y, 0.0, 4, seed=0)
    assert torch.equal(untouched.labels, Y)
    assert not untouched.noisy.any()


def test_noise_is_unrelated_to_a_split_of_the_same_seed() -> None:
    n = 20_000
    noisy = label_noise(torch.zeros(n, dtype=torch.int64), 0.1, 100, seed=5).noisy
    half = torch.randperm(n, generator=torch.Generator().manual_seed(5))[: n // 2]
    # Of about 1980 noisy points each lies in the half with probability 1 / 2.
    assert abs(int(noisy[half].sum()) - int(noisy.sum()) / 2) < 5 * (1980 / 4) ** 0.5


@pytest.mark.parametrize(
    ("labels", "rate", "error", "message"),
    [
        (Y, 1.5, ValueError, r"rate must lie in \[0, 1\], got 1.5"),
        (Y, -0.1, ValueError, "rate must lie"),
        (Y, float("nan"), ValueError, "rate must lie"),
        (Y + 1, 0.1, ValueError, r"\[0, num_classes = 4\), got 1 to 4"),
        (Y - 1, 0.1, ValueError, "got -1 to 2"),
        (Y.float(), 0.1, TypeError, "integer tensor"),
        (Y.tolist(), 0.1, TypeError, "got list"),
        (Y.unsqueeze(0), 0.1, ValueError, r"shape \(n,\), got \(1, 8\)"),
    ],
)
def test_bad_noise_is_refused(
    labels: Any, rate: float, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        label_noise(labels, rate, 4, seed=0)


def test_pairs_of_classes_that_are_not_there_are_refused() -> None:
    with pytest.raises(ValueError, match=r"pairs must be classes in .* 4\), got \[\(3, 4\)\]"):
        label_noise(Y, 0.5, 4, kind="structured", pairs=[(3, 4)], seed=0)
