"""Input checksums refuse data that changed under the same labels."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, Subset, TensorDataset

from rho_train import (
    ILStore,
    IndexedDataset,
    fingerprint,
    input_checksums,
    pretrained_il,
)
from rho_train.checksums import InputChecksum

N = 1000
GENERATOR = torch.Generator().manual_seed(0)
IMAGES = torch.rand(N, 3, 8, 8, generator=GENERATOR)
LABELS = torch.randint(5, (N,), generator=GENERATOR)
LEVELS = (255 * IMAGES).byte()
TOKENS = torch.randint(30_000, (N, 20), generator=GENERATOR)


class Examples:
    """A data set of whatever inputs."""

    def __init__(self, read: Callable[[int], Any], n: int = N) -> None:
        self.read, self.labels = read, LABELS[:n]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Any:
        return self.read(index), int(self.labels[index])


def of(read: Callable[[int], Any], n: int = N) -> IndexedDataset:
    return IndexedDataset(Examples(read, n))


def images(x: Tensor) -> IndexedDataset:
    return IndexedDataset(TensorDataset(x, LABELS))


def store_of(data: IndexedDataset) -> ILStore:
    checksums = input_checksums(data)
    return ILStore(torch.zeros(len(data)), fingerprint(data), input_checksums=checksums)


def within_labels(share: float) -> Tensor:
    """Change the places of a share of the examples, each with another one of its label."""
    order = torch.arange(N)
    moved = torch.rand(N, generator=torch.Generator().manual_seed(1)) < share
    for label in range(5):
        rows = ((label == LABELS) & moved).nonzero().flatten()
        order[rows] = rows.roll(1)
    assert torch.equal(LABELS[order], LABELS)
    return order


def test_examples_that_changed_places_within_their_labels_are_refused_and_named(
    tmp_path: Path,
) -> None:
    store = store_of(images(IMAGES))
    reordered = images(IMAGES[within_labels(1.0)])
    first = store.input_checksums[0].id
    message = rf"64 of 64 examples differ, the first has id {first}; count and labels agree"
    with pytest.raises(ValueError, match=message):
        store.verify(reordered)
    order = within_labels(0.3)
    moved = [one.id for one in store.input_checksums if order[one.id] != one.id]
    assert 5 < len(moved) < 40
    with pytest.raises(ValueError, match=rf"{len(moved)} of 64 .* first has id {moved[0]};"):
        store.verify(images(IMAGES[order]))
    store.save(tmp_path / "il.safetensors")
    with pytest.raises(ValueError, match=r"ILStore: .* are of other inputs: 64"):
        ILStore.load(tmp_path / "il.safetensors", reordered)
    store.save(tmp_path / "il", rows_a_file=300)
    with pytest.raises(ValueError, match="other inputs: 64 of 64"):
        ILStore.load(tmp_path / "il", reordered)


def test_the_examples_are_spread_and_always_the_same() -> None:
    ids = [one.id for one in input_checksums(images(IMAGES))]
    assert [id * 64 // N for id in ids] == pytest.approx(list(range(64)), abs=1)
    assert ids == [one.id for one in input_checksums(images(IMAGES * 2))]
    # No share of the ids that repeats, such as every second one, escapes.
    assert {one.id % 2 for one in input_checksums(of(lambda i: 0, 64 * 14))} == {0, 1}
    few = input_checksums(of(lambda i: IMAGES[i], 3))
    assert [one.id for one in few] == [0, 1, 2]
    many = of(lambda i: 0)
    many.dataset.labels = torch.zeros(1, dtype=torch.int8).expand(3_000_017)
    ids = [one.id for one in input_checksums(many)]
    assert len(set(ids)) == 64
    assert 2_900_000 < max(ids) < len(many)


CHANGES: dict[str, tuple[Callable[[int], Any], Callable[[int], Any]]] = {
    "last bit": (lambda i: IMAGES[i], lambda i: torch.nextafter(IMAGES[i], torch.tensor(9.0))),
    "token": (
        lambda i: TOKENS[i],
        lambda i: TOKENS[i].where(TOKENS[i] != TOKENS[i, 7], 29_999),
    ),
    "list": (lambda i: TOKENS[i].tolist(), lambda i: [*TOKENS[i, :-1].tolist(), 1]),
    "text": (lambda i: f"text {i}", lambda i: f"Text {i}"),
    "cut elsewhere": (lambda i: [f"text {i}", "b"], lambda i: [f"text {i}b", ""]),
    "one of two": (lambda i: (IMAGES[i], TOKENS[i]), lambda i: (IMAGES[i], TOKENS[i] + 1)),
    "key": (lambda i: {"a": TOKENS[i], "b": i / N}, lambda i: {"a": TOKENS[i], "b": i / N + 0.1}),
    "nan": (lambda i: torch.tensor([1.0, torch.nan]), lambda i: torch.tensor([1.0, 0.0])),
    "bfloat16": (lambda i: IMAGES[i].bfloat16(), lambda i: IMAGES[i].bfloat16() + 0.1),
    "complex": (
        lambda i: torch.complex(IMAGES[i], IMAGES[i]),
        lambda i: torch.complex(IMAGES[i], IMAGES[i - 1]),
    ),
    "sparse": (lambda i: IMAGES[i].to_sparse(), lambda i: IMAGES[i - 1].to_sparse()),
    "bool": (lambda i: torch.tensor(i % 3 == 0), lambda i: torch.tensor(i % 3 == 1)),
}


def test_any_change_of_the_inputs_is_refused() -> None:
    for name, (before, after) in CHANGES.items():
        store = store_of(of(before, 200))
        assert store.verify(of(before, 200)) == 64, name
        with pytest.raises(ValueError, match=r"\d+ of 64 examples differ") as caught:
            store.verify(of(after, 200))
        assert "their inputs changed; recompute the IL" in str(caught.value), name


def test_the_same_numbers_in_another_dtype_are_accepted(tmp_path: Path) -> None:
    for before, after in ((IMAGES, IMAGES.double()), (TOKENS, TOKENS.int())):
        store_of(images(before)).save(tmp_path / "il")
        assert ILStore.load(tmp_path / "il", images(after)).verify(images(after)) == 64


def test_a_data_set_that_augments_has_none_and_is_not_compared() -> None:
    store = store_of(images(IMAGES))

    def mirrored(index: int) -> Tensor:
        return IMAGES[index].flip(-1) if random.random() < 0.5 else IMAGES[index]

    def noisy(index: int) -> Tensor:
        return IMAGES[index] + torch.tensor(np.random.normal(0, 1e-4), dtype=torch.float32)  # noqa: NPY002

    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 5))
    states = random.getstate(), str(np.random.get_state()), torch.get_rng_state()  # noqa: NPY002
    for augmented in (of(mirrored), of(noisy), of(lambda i: IMAGES[i] + torch.rand(1))):
        assert input_checksums(augmented) == ()
        # Training may augment what was scored without.
        assert store.verify(augmented) == 0
        with pytest.raises(ValueError, match="so it augments"):
            pretrained_il(model, augmented)
    # Reading leaves the random state alone.
    assert (random.getstate(), str(np.random.get_state())) == states[:2]  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), states[2])


def test_ids_are_global_in_subsets_and_joined_sets() -> None:
    data = images(IMAGES)
    store = store_of(data)
    with pytest.raises(TypeError, match="pass the whole IndexedDataset"):
        store.verify(Subset(data, [0, 1]))  # type: ignore[arg-type]
    halves = [Subset(data.dataset, range(500)), Subset(data.dataset, range(500, N))]
    assert store.verify(IndexedDataset(ConcatDataset(halves))) == 64
    with pytest.raises(ValueError, match="count: store has 1000, data set has 500"):
        store.verify(IndexedDataset(halves[0]))


def test_a_store_without_checksums_compares_no_inputs(tmp_path: Path) -> None:
    data, other = images(IMAGES), images(1 - IMAGES)
    plain = ILStore(torch.zeros(N), fingerprint(data))
    plain.save(tmp_path / "plain")
    assert ILStore.load(tmp_path / "plain", other).verify(other) == 0
    plain.save(tmp_path / "files", rows_a_file=400)
    assert ILStore.load(tmp_path / "files", other).verify(other) == 0
    assert store_of(data).replace(input_checksums=()).verify(other) == 0


class Encoding(Mapping[str, Tensor]):
    """A mapping that is no dict, as tokenizers return."""

    def __init__(self, index: int) -> None:
        self.index = index

    def __getitem__(self, key: str) -> Tensor:
        return TOKENS[self.index]

    def __iter__(self):  # type: ignore[no-untyped-def]
        return iter(["tokens", "mask"])

    def __len__(self) -> int:
        return 2


@dataclasses.dataclass
class Pair:
    left: Tensor
    right: object


def test_inputs_of_any_kind_count_and_survive_json() -> None:
    pixels = LEVELS.permute(0, 2, 3, 1).numpy()
    kinds: list[Callable[[int], Any]] = [
        Encoding,
        lambda i: Pair(IMAGES[i], object()),
        lambda i: Image.fromarray(pixels[i]),
        lambda i: [IMAGES[i], IMAGES[i, 0]],
        lambda i: (2**70, i, "\ud800"),
        lambda i: np.array([object(), i], dtype=object),
        lambda i: (None, True, [], i),
    ]
    for read in kinds:
        found = input_checksums(of(read, 128))
        assert tuple(InputChecksum(*row) for row in json.loads(json.dumps(found))) == found
        assert len({one.sha256 for one in found}) == 64
    alike = [lambda i: TOKENS[i], lambda i: TOKENS[i].tolist(), lambda i: TOKENS[i].numpy()]
    assert len({input_checksums(of(read)) for read in alike}) == 1


def test_only_the_inputs_of_a_dict_count() -> None:
    def dicts(path: str) -> IndexedDataset:
        rows = [
            {"inputs": x, "labels": y, "path": path} for x, y in zip(IMAGES, LABELS, strict=True)
        ]
        return IndexedDataset(rows, labels=LABELS)

    assert store_of(dicts("here")).verify(dicts("there")) == 64
