"""Data that changed under the same labels are refused, the same data from elsewhere are not."""

from __future__ import annotations

import dataclasses
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
    ILShards,
    ILStore,
    IndexedDataset,
    average_il,
    fingerprint,
    input_checksums,
    pretrained_il,
    save_shards,
)
from rho_train.cli import main
from rho_train.il.checksums import from_json, to_json

N = 1000
GENERATOR = torch.Generator().manual_seed(0)
IMAGES = torch.rand(N, 3, 8, 8, generator=GENERATOR)
LABELS = torch.randint(5, (N,), generator=GENERATOR)


class Points:
    """A data set of whatever inputs."""

    def __init__(self, read: Callable[[int], Any], n: int = N) -> None:
        self.read, self.labels = read, LABELS[:n]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Any:
        return self.read(index), int(self.labels[index])


def of(read: Callable[[int], Any], n: int = N) -> IndexedDataset:
    return IndexedDataset(Points(read, n))


def images(x: Tensor) -> IndexedDataset:
    return IndexedDataset(TensorDataset(x, LABELS))


def store_of(data: IndexedDataset) -> ILStore:
    return ILStore(torch.zeros(len(data)), fingerprint(data), control=input_checksums(data))


def within_labels(share: float) -> Tensor:
    """Change the places of a share of the points, each with another point of its label."""
    order = torch.arange(N)
    moved = torch.rand(N, generator=torch.Generator().manual_seed(1)) < share
    for label in range(5):
        rows = ((label == LABELS) & moved).nonzero().flatten()
        order[rows] = rows.roll(1)
    assert torch.equal(LABELS[order], LABELS)
    return order


def test_points_that_changed_places_within_their_labels_are_refused_and_named(
    tmp_path: Path,
) -> None:
    store = store_of(images(IMAGES))
    reordered = images(IMAGES[within_labels(1.0)])
    first = store.control[0].id
    message = rf"64 of 64 control points differ, the first has id {first}; count and labels agree"
    with pytest.raises(ValueError, match=message):
        store.verify(reordered)
    order = within_labels(0.3)
    moved = [point.id for point in store.control if order[point.id] != point.id]
    assert 5 < len(moved) < 40
    with pytest.raises(ValueError, match=rf"{len(moved)} of 64 .* first has id {moved[0]};"):
        store.verify(images(IMAGES[order]))
    store.save(tmp_path / "il.safetensors")
    with pytest.raises(ValueError, match=r"il\.safetensors: ILStore: .* are of other inputs: 64"):
        ILStore.load(tmp_path / "il.safetensors", reordered)
    save_shards(store, tmp_path / "il", rows=300)
    with pytest.raises(ValueError, match="other inputs: 64 of 64"):
        ILShards.load(tmp_path / "il", reordered)


def test_the_control_points_are_spread_and_always_the_same() -> None:
    ids = [point.id for point in input_checksums(images(IMAGES))]
    assert [id * 64 // N for id in ids] == pytest.approx(list(range(64)), abs=1)
    assert ids == [point.id for point in input_checksums(images(IMAGES * 2))]
    # No share of the ids that repeats, such as every second one, escapes.
    assert {point.id % 2 for point in input_checksums(of(lambda i: 0, 64 * 14))} == {0, 1}
    few = input_checksums(of(lambda i: IMAGES[i], 3))
    assert [point.id for point in few] == [0, 1, 2]
    many = of(lambda i: 0)
    many.dataset.labels = torch.zeros(1, dtype=torch.int8).expand(100_000_007)
    ids = [point.id for point in input_checksums(many)]
    assert len(set(ids)) == 64
    assert 90_000_000 < max(ids) < len(many)


def normalised(x: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    return (x - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)


IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CIFAR = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


def with_outlier(x: Tensor) -> Tensor:
    """Make one of the control points a million times as large."""
    larger = torch.ones(N, 1, 1, 1)
    larger[input_checksums(images(x))[5].id] = 1e6
    return x * larger


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (IMAGES, 255 * IMAGES),
        (with_outlier(IMAGES), with_outlier(IMAGES[within_labels(0.5)])),
        (normalised(IMAGES, *IMAGENET), normalised(IMAGES, *CIFAR)),
        (IMAGES, IMAGES.flip(1)),  # BGR
        (IMAGES, IMAGES.flip(-1)),
        (IMAGES, IMAGES.transpose(2, 3)),
        ((255 * IMAGES).byte(), 255 - (255 * IMAGES).byte()),
        (IMAGES, torch.rand(IMAGES.shape)),
        (IMAGES[:, :1] + 1e4, IMAGES[:, :1].flip(-1) + 1e4),  # the offset is no part of the scale
    ],
    ids=[
        "range",
        "outlier",
        "normalisation",
        "channels",
        "mirrored",
        "transposed",
        "inverted",
        "other",
        "1e4",
    ],
)
def test_other_preprocessing_is_refused(before: Tensor, after: Tensor) -> None:
    with pytest.raises(ValueError, match="other inputs: .* their inputs changed; recompute the IL"):
        store_of(images(before)).verify(images(after))


def test_the_form_of_other_inputs_is_named() -> None:
    store = store_of(images(IMAGES))
    larger = images(nn.functional.interpolate(IMAGES, scale_factor=2))
    with pytest.raises(ValueError, match=r"which was float \(3, 8, 8\) and is float \(3, 16, 16\)"):
        store.verify(larger)
    nested = of(lambda i: {"pixels": IMAGES[i], "text": "a"})
    with pytest.raises(ValueError, match=r"and is {pixels: float \(3, 8, 8\), text: text};"):
        store.verify(nested)


TOKENS = torch.randint(30_000, (N, 20), generator=GENERATOR)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (lambda i: TOKENS[i], lambda i: TOKENS[i].where(TOKENS[i] != TOKENS[i, 7], 29_999)),
        (lambda i: TOKENS[i].tolist(), lambda i: [*TOKENS[i, :-1].tolist(), 1]),
        (lambda i: f"text {i}", lambda i: f"Text {i}"),
        (lambda i: [f"text {i}", "b"], lambda i: [f"text {i}b", ""]),
        (lambda i: i, lambda i: i + 1),
        (lambda i: bytes([i % 7]), lambda i: bytes([i % 8])),
        (lambda i: (IMAGES[i], TOKENS[i]), lambda i: (IMAGES[i], TOKENS[i] + 1)),
        (lambda i: {"a": TOKENS[i], "b": i / N}, lambda i: {"a": TOKENS[i], "b": i / N + 0.1}),
        (lambda i: np.array(["a", str(i)]), lambda i: np.array(["a", str(i + 1)])),
        (lambda i: torch.tensor([1.0, 2.0, float("nan")]), lambda i: torch.tensor([1.0, 2.0, 0.0])),
        (lambda i: IMAGES[i].bfloat16(), lambda i: IMAGES[i].bfloat16() + 0.1),
        (
            lambda i: torch.complex(IMAGES[i], IMAGES[i]),
            lambda i: torch.complex(*2 * [IMAGES[i - 1]]),
        ),
        (lambda i: IMAGES[i].to_sparse(), lambda i: IMAGES[i - 1].to_sparse()),
        (lambda i: torch.tensor(i % 3 == 0), lambda i: torch.tensor(i % 3 == 1)),
    ],
)
def test_texts_and_integers_must_be_equal(
    before: Callable[[int], Any], after: Callable[[int], Any]
) -> None:
    store = store_of(of(before))
    assert store.verify(of(before)) == 64
    with pytest.raises(ValueError, match=r"\d+ of 64 control points differ"):
        store.verify(of(after))


def last_bits(x: Tensor) -> Tensor:
    return torch.nextafter(x, torch.where(torch.rand(x.shape) < 0.5, -9.0, 9.0))


def decoded_elsewhere(levels: Tensor) -> Tensor:
    noise = torch.randint(-1, 2, levels.shape, generator=torch.Generator().manual_seed(2))
    return (levels.int() + noise).clamp(0, 255).byte()


LEVELS = (255 * IMAGES).byte()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (IMAGES, IMAGES),
        (IMAGES, IMAGES.double()),
        (IMAGES, last_bits(IMAGES)),
        (IMAGES + 1e3, last_bits(IMAGES + 1e3)),
        (IMAGES[:1].repeat(N, 1, 1, 1), last_bits(IMAGES[:1].repeat(N, 1, 1, 1))),
        (LEVELS, decoded_elsewhere(LEVELS)),
        (normalised(LEVELS / 255, *CIFAR), normalised(decoded_elsewhere(LEVELS) / 255, *CIFAR)),
        (TOKENS, TOKENS.int()),
    ],
    ids=["same", "float64", "last bit", "offset", "all equal", "levels", "normalised", "int32"],
)
def test_the_same_data_are_accepted_from_elsewhere(
    before: Tensor, after: Tensor, tmp_path: Path
) -> None:
    store_of(images(before)).save(tmp_path / "il")
    store = ILStore.load(tmp_path / "il", images(after))
    assert store.verify(images(after)) == 64


def test_sketches_measure_distances() -> None:
    """The root mean square of 64 differences of independent points, by their sketches."""
    x = torch.randn(2, N, 3, 32, 32, generator=GENERATOR, dtype=torch.float64)
    one, two = (np.array([p.sketches[0] for p in input_checksums(images(part))]) for part in x)
    assert one.shape == (64, 16)
    # Var(x - y) = 2; the mean of 64 * 16 squares of normal variables: a standard error of 4.4 %.
    assert np.mean(((one - two) ** 2).sum(1)) == pytest.approx(2, rel=5 * 0.044)


def test_a_data_set_that_augments_has_none_and_is_not_compared() -> None:
    store = store_of(images(IMAGES))

    def mirrored(index: int) -> Tensor:
        return IMAGES[index].flip(-1) if random.random() < 0.5 else IMAGES[index]

    def noisy(index: int) -> Tensor:
        return IMAGES[index] + torch.tensor(np.random.normal(0, 1e-4), dtype=torch.float32)  # noqa: NPY002

    for augmented in (of(mirrored), of(noisy), of(lambda i: IMAGES[i] + torch.rand(1))):
        assert input_checksums(augmented) == ()
        # Training may augment what was scored without.
        assert store.verify(augmented) in (0, 64)
        with pytest.raises(ValueError, match="so it augments"):
            pretrained_il(nn.Sequential(nn.Flatten(), nn.Linear(192, 5)), augmented)
    assert store.verify(of(mirrored)) == 0


def test_reading_leaves_the_random_state_alone() -> None:
    data = of(lambda i: IMAGES[i] + torch.rand(1) + random.random() + np.random.rand())  # noqa: NPY002
    store = store_of(images(IMAGES))
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # type: ignore[index]  # noqa: NPY002
    assert input_checksums(data) == ()
    assert store.verify(data) == 0
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # type: ignore[index]  # noqa: NPY002
    assert before[:2] == after[:2]
    assert torch.equal(before[2], after[2])


def test_ids_are_global_in_subsets_and_sums() -> None:
    data = images(IMAGES)
    store = store_of(data)
    with pytest.raises(TypeError, match="pass the whole IndexedDataset"):
        store.verify(Subset(data, [0, 1]))  # type: ignore[arg-type]
    halves = [Subset(data.dataset, range(500)), Subset(data.dataset, range(500, N))]
    assert store.verify(IndexedDataset(halves[0]) + halves[1]) == 64
    assert store.verify(IndexedDataset(ConcatDataset(halves))) == 64
    with pytest.raises(ValueError, match="count: store has 1000, data set has 500"):
        store.verify(IndexedDataset(halves[0]))


def test_a_store_without_control_points_is_read_as_before(tmp_path: Path) -> None:
    data, other = images(IMAGES), images(1 - IMAGES)
    old = ILStore(torch.zeros(N), fingerprint(data))
    old.save(tmp_path / "old")
    assert b"control" not in (tmp_path / "old").read_bytes()
    assert ILStore.load(tmp_path / "old", other).verify(other) == 0
    save_shards(old, tmp_path / "shards", rows=400)
    assert ILShards.load(tmp_path / "shards", other).verify(other) == 0
    new = store_of(data)
    new.save(tmp_path / "new")
    loaded = ILStore.load(tmp_path / "new")
    assert loaded.control == new.control
    assert dataclasses.replace(loaded, control=()).verify(other) == 0
    save_shards(new, tmp_path / "both", rows=400)
    assert ILShards.load(tmp_path / "both").join().control == new.control


def test_the_command_says_what_it_compares(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    store_of(images(IMAGES)).save(tmp_path / "il")
    np.save(tmp_path / "labels.npy", LABELS.numpy())
    command = ["il", "verify", str(tmp_path / "il"), f"--labels={tmp_path / 'labels.npy'}"]
    assert main(command) == 0
    assert "labels and ids are those that it was made for; inputs not" in capfd.readouterr().out


def test_averages_keep_what_all_their_stores_know() -> None:
    known, other = store_of(images(IMAGES)), store_of(images(IMAGES.flip(-1)))
    unknown = dataclasses.replace(known, control=())
    assert average_il([known, store_of(images(last_bits(IMAGES)))]).control == known.control
    assert average_il([known, unknown]).control == ()
    with pytest.raises(ValueError, match=r"stores 0 and 1 .* \(inputs differ\)"):
        average_il([known, other])


class Encoding(Mapping[str, Tensor]):
    """What tokenizers return: a mapping that is no dict."""

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


def test_every_kind_of_input_has_a_form() -> None:
    pixels = LEVELS.permute(0, 2, 3, 1).numpy()
    forms: dict[str, Callable[[int], Any]] = {
        "{mask: int (20,), tokens: int (20,)}": Encoding,
        "{left: float (3, 8, 8), right: object}": lambda i: Pair(IMAGES[i], object()),
        "uint8 (8, 8, 3)": lambda i: Image.fromarray(pixels[i]),
        "2 x float (3, 8, 8)": lambda i: [IMAGES[i], IMAGES[i]],
        "int (3,)": lambda i: (i, True, 3),
        "(int, text)": lambda i: (2**70, "\ud800"),
        "(object, text)": lambda i: np.array([object(), "a"], dtype=object),
        "(NoneType, bool (), ())": lambda i: (None, True, []),
        "float (0,)": lambda i: torch.empty(0),
    }
    for form, read in forms.items():
        points = input_checksums(of(read))
        assert {point.form for point in points} == {form}
        assert from_json(to_json(points)) == points


def test_only_the_inputs_of_a_dict_count() -> None:
    def dicts(path: str) -> IndexedDataset:
        rows = [
            {"inputs": x, "labels": y, "path": path} for x, y in zip(IMAGES, LABELS, strict=True)
        ]
        return IndexedDataset(rows, labels=LABELS)

    assert store_of(dicts("here")).verify(dicts("there")) == 64
