import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import TensorDataset

from rho_train.dataset import IndexedDataset, fingerprint
from rho_train.il.store import ILStore

N = 50


def data_set(labels: Tensor) -> IndexedDataset:
    return IndexedDataset(TensorDataset(torch.zeros(len(labels), 1), labels))


DATA = data_set(torch.arange(N) % 7)
INFO = {"model": "MLP 256-256", "weights": "sha256:0123", "holdout loss": "0.31", "sha256": "mine"}


def make(**changes: Any) -> ILStore:
    il = torch.linspace(0, 3, N)
    il[[4, 30]] = float("nan")
    fold = (torch.arange(N) % 2).to(torch.int16)
    fields: dict[str, Any] = {
        "il": il,
        "fingerprint": fingerprint(DATA),
        "fold": fold,
        "info": INFO,
    }
    return ILStore(**(fields | changes))


def same(a: ILStore, b: ILStore) -> bool:
    folds = (a.fold, b.fold)
    return (
        torch.equal(a.il.view(torch.int32), b.il.view(torch.int32))
        and (a.fingerprint, a.info) == (b.fingerprint, b.info)
        and (folds == (None, None) or all(f is not None for f in folds))
        and (a.fold is None or (b.fold is not None and torch.equal(a.fold, b.fold)))
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    make().save(tmp_path / "il.safetensors")
    return tmp_path / "il.safetensors"


@pytest.mark.parametrize(
    "store",
    [make(), make(fold=None), make(info={}), make(fold=torch.arange(N, dtype=torch.int32))],
    ids=["int16 fold", "no fold", "no info", "int32 fold"],
)
def test_a_store_comes_back_bit_for_bit(store: ILStore, tmp_path: Path) -> None:
    path = tmp_path / "store"
    store.save(path)
    loaded = ILStore.load(path, DATA)
    assert same(loaded, store)
    if store.fold is not None and loaded.fold is not None:
        assert loaded.fold.dtype == store.fold.dtype
    assert (~loaded.known).nonzero().flatten().tolist() == [4, 30]


def test_a_store_is_a_safetensors_file_that_others_read(path: Path) -> None:
    tensors = load_file(path)
    assert list(tensors) == ["fold", "il"] or list(tensors) == ["il", "fold"]
    assert torch.equal(tensors["il"].nan_to_num(-1), make().il.nan_to_num(-1))


def test_a_loaded_table_is_mapped_and_private(path: Path) -> None:
    store = ILStore.load(path)
    assert str(path) in Path("/proc/self/maps").read_text()
    store.il.zero_()
    assert same(ILStore.load(path), make())


def test_saving_over_the_file_that_is_mapped_is_safe(path: Path) -> None:
    store = ILStore.load(path)
    store.save(path)
    assert same(store, make())
    assert same(ILStore.load(path), make())


def test_a_full_disk_keeps_the_earlier_store(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match=r"il\.safetensors: No space left"):
            make(info={}).save(path)
    assert same(ILStore.load(path), make())
    assert os.listdir(path.parent) == [path.name]


def test_a_cut_file_is_refused(path: Path) -> None:
    whole = path.read_bytes()
    for length in [*range(0, len(whole), 64), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"il\.safetensors is cut, damaged or no IL store"):
            ILStore.load(path)


def test_no_flipped_byte_passes(path: Path) -> None:
    whole = path.read_bytes()
    values = len(whole) - N * (4 + 2)
    # Every third byte, and each time another bit of it.
    for position in range(0, len(whole), 3):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        if position < values:
            with pytest.raises(ValueError, match=r"il\.safetensors"):
                ILStore.load(path)
        else:
            with pytest.raises(ValueError, match=r"do not match the checksum|infinite value"):
                ILStore.load(path).check()
    path.write_bytes(whole)
    ILStore.load(path).check()


def test_opening_does_not_read_the_values(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> NoReturn:
        raise AssertionError("the values were read")

    with monkeypatch.context() as patch:
        patch.setattr("rho_train.il.store._bytes", fail)
        patch.setattr(Tensor, "isinf", fail)
        store = ILStore.load(path, DATA)
    store.check()
    store.il[7] = 1.0
    for act in (store.check, lambda: store.save(path)):
        with pytest.raises(ValueError, match="changed after loading, then keep them in a new"):
            act()
    assert same(ILStore.load(path), make())


def test_infinite_values_are_neither_saved_nor_loaded(path: Path) -> None:
    il = torch.zeros(N)
    il[[12, 40]] = -torch.inf
    with pytest.raises(ValueError, match="ILStore: il must be .* at id 12; .*diverged"):
        make(il=il).save(path)
    assert same(ILStore.load(path), make())
    rewrite(path, {}, {"il": il})
    with pytest.raises(ValueError, match="infinite value at id 12"):
        ILStore.load(path).check()


def rewrite(path: Path, metadata: dict[str, str | None], tensors: dict[str, Tensor]) -> None:
    """Save the store as another program could, with some of its content changed."""
    with safe_open(path, framework="pt") as file:
        texts = file.metadata() | metadata
    kept = {key: text for key, text in texts.items() if text is not None}
    save_file(
        {key: tensor.clone() for key, tensor in (load_file(path) | tensors).items()}, path, kept
    )


@pytest.mark.parametrize(
    ("metadata", "tensors", "message"),
    [
        ({"format": None}, {}, r"no IL store .*\(format None .*, wanted rho_ext\.il_store ver"),
        ({"format": "pt"}, {}, r"\(format 'pt' version '3', wanted"),
        ({"version": "4"}, {}, "version '4', wanted rho_ext.il_store version 3"),
        ({"version": "2"}, {}, "version '2', wanted .* version 3.*recompute"),
        ({"version": None}, {}, "version None, wanted"),
        ({"fingerprint.n": "49"}, {}, "metadata do not match their checksum"),
        ({"fingerprint.ids": None}, {}, "metadata do not match their checksum"),
        ({"fingerprint.labels": "00"}, {}, "metadata do not match their checksum"),
        ({"info.model": "MLP 512"}, {}, "metadata do not match their checksum"),
        ({"sha256": None}, {}, "metadata do not match their checksum"),
        ({"header_sha256": None}, {}, "metadata do not match their checksum"),
        ({}, {"extra": torch.zeros(N)}, "tensors must be il and fold, got .*extra"),
        ({}, {"il": torch.zeros(N + 1)}, r"fold must have the shape of il, \(51,\)"),
        ({}, {"il": torch.zeros(N, 1)}, r"il must be a float32 tensor \(N,\), got .*\(50, 1\)"),
        ({}, {"il": torch.zeros(N, dtype=torch.float64)}, "il must be .* got float64"),
        ({}, {"fold": torch.zeros(N)}, "fold must be a int16 or int32"),
        ({}, {"fold": torch.zeros(3, dtype=torch.int16)}, "fold must have the shape of il"),
    ],
)
def test_a_file_that_is_not_this_store_is_refused(
    path: Path, metadata: dict[str, str | None], tensors: dict[str, Tensor], message: str
) -> None:
    rewrite(path, metadata, tensors)
    with pytest.raises(ValueError, match=r"ILStore\.load: \S*il\.safetensors.*" + message):
        ILStore.load(path)


def test_a_store_without_its_table_is_refused(path: Path) -> None:
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    save_file({"fold": torch.zeros(N, dtype=torch.int16)}, path, metadata)
    with pytest.raises(ValueError, match=r"damaged .*tensors must be il and fold, got fold\)"):
        ILStore.load(path)


def test_other_files_are_refused(path: Path) -> None:
    for content in (b"", b"not safetensors, but long enough for a header", bytes(1000)):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"il\.safetensors is cut, damaged or no IL store"):
            ILStore.load(path)
    for missing in (path.parent / "missing", path.parent):
        with pytest.raises(FileNotFoundError, match=f"no file {missing}; check the path"):
            ILStore.load(missing)


def test_a_store_of_another_data_set_is_refused(path: Path) -> None:
    relabelled = data_set((torch.arange(N) + 1) % 7)
    longer = data_set(torch.arange(N + 1) % 7)
    with pytest.raises(
        ValueError, match=r"store belongs to another data set \(labels in their order \(SHA"
    ) as bad:
        make().verify(relabelled)
    assert fingerprint(DATA)["labels"] in str(bad.value)
    assert fingerprint(relabelled)["labels"] in str(bad.value)
    message = r"il\.safetensors.*count: store has 50, data set has 51; labels .*recompute the IL"
    with pytest.raises(ValueError, match=message):
        ILStore.load(path, longer)
    # Every label is as often there as before.
    with pytest.raises(ValueError, match=r"another data set \(labels in their order"):
        make().verify(data_set((torch.arange(N) % 7).roll(7).flip(0)))
    foreign = make(fingerprint=fingerprint(DATA) | {"ids": "file name"})
    with pytest.raises(ValueError, match=r"\(id scheme: store has file name, data set has posit"):
        foreign.verify(DATA)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"il": [0.0] * N}, ValueError, r"il must be a float32 tensor \(N,\), got list of 50 el"),
        ({"il": torch.zeros(N).half()}, ValueError, "got float16"),
        ({"il": torch.zeros(1, N)}, ValueError, r"\(1, 50\)"),
        ({"il": torch.zeros(N - 1), "fold": None}, ValueError, "49 rows for a data set of 50"),
        ({"il": torch.zeros(2 * N)[::2]}, ValueError, r"pass il\.detach\(\)\.cpu\(\)\.contig"),
        ({"il": torch.zeros(N, requires_grad=True)}, ValueError, "without gradient"),
        ({"il": torch.zeros(N, device="meta")}, ValueError, "CPU tensor"),
        ({"fold": torch.zeros(N, dtype=torch.int64)}, ValueError, "fold must be .* got int64"),
        ({"fold": torch.zeros(N - 1, dtype=torch.int16)}, ValueError, "fold must have the shape"),
        ({"fingerprint": {"n": "50"}}, ValueError, "keys n, labels, ids, got n; make it with"),
        ({"fingerprint": fingerprint(DATA) | {"n": 50}}, TypeError, "'n': 50; use str"),
        ({"info": {"loss": 0.3}}, TypeError, r"info must map text to text, got 'loss': 0\.3"),
    ],
)
def test_bad_stores_cannot_be_made(
    changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match="^ILStore: .*" + message):
        make(**changes)


def test_a_store_keeps_its_texts_when_the_callers_change() -> None:
    info = dict(INFO)
    store = make(info=info)
    info["model"] = "other"
    assert store.info == INFO


def test_nothing_is_pickled(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> NoReturn:
        raise AssertionError("pickle was used")

    actions: list[Callable[[], object]] = [lambda: make().save(path), lambda: ILStore.load(path)]
    for module in ("pickle.loads", "pickle.load", "pickle.dumps", "pickle.dump", "torch.load"):
        monkeypatch.setattr(module, fail)
    for action in actions:
        action()


@given(seed=st.integers(0, 1000), share=st.floats(0.01, 1.0), some=st.booleans())
def test_the_lowest_share_is_that_of_a_sort(seed: int, share: float, some: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    il = torch.randint(0, 9, (60,), generator=generator).float()  # with ties
    il[torch.randint(0, 60, (5,), generator=generator)] = torch.nan
    store = ILStore(il, {"n": "60", "labels": "none", "ids": "position"})
    ids = store.known.nonzero().flatten()
    if some:
        ids = ids[::2]
    count = round(share * len(ids))
    if count == 0:
        with pytest.raises(ValueError, match="are 0; there must be one at least"):
            store.lowest(share, ids if some else None)
        return
    found = store.lowest(share, ids if some else None)
    wanted = sorted(ids.tolist(), key=lambda i: (float(il[i]), i))[:count]
    assert found.tolist() == sorted(wanted)


def test_what_has_no_lowest_share() -> None:
    store = ILStore(torch.tensor([1.0, torch.nan]), {"n": "2", "labels": "none", "ids": "position"})
    with pytest.raises(ValueError, match=r"share must lie in \(0, 1\], got 1.5"):
        store.lowest(1.5)
    with pytest.raises(ValueError, match="of 2 examples 1 have no irreducible loss"):
        store.lowest(0.5, torch.tensor([0, 1]))


def test_labels_of_other_examples_are_refused() -> None:
    generator = torch.Generator().manual_seed(0)
    for high, dtype in ((7, torch.uint8), (300, torch.int16), (70_000, torch.int32)):
        labels = torch.randint(high, (N,), generator=generator)
        labels[3] = high
        store = ILStore.of(data_set(labels), torch.zeros(N))
        assert store.labels is not None
        assert store.labels.dtype == dtype
        ids = torch.randint(N, (32,), generator=generator)
        store.check_labels(ids, labels[ids])
        store.check_labels(ids.int(), labels[ids].int())
        wrong = labels[ids]
        wrong[[5, 9]] += 1
        text = rf"labels of 2 of 32 .*: id {ids[5]} has label {wrong[5]}, and had {labels[ids[5]]};"
        with pytest.raises(ValueError, match=text + ".*use the IndexedDataset that the store"):
            store.check_labels(ids, wrong)
        with pytest.raises(IndexError, match=r"ids must lie in \[0, 50\), got 50"):
            store.check_labels(ids + (N - int(ids.max())), labels[ids])
        # Mixed labels and labels of tokens cannot be compared.
        store.check_labels(ids, wrong.float())
        store.check_labels(ids, wrong[:, None])
    ignored = ILStore.of(data_set(torch.full((N,), -100)), torch.zeros(N))
    ignored.check_labels(ids, torch.full((32,), -100))
    # A type that 300 does not fit into must not make it 44.
    store = ILStore.of(data_set(torch.full((N,), 300)), torch.zeros(N))
    with pytest.raises(ValueError, match="id 3 has label 44, and had 300"):
        store.check_labels(torch.tensor([3]), torch.tensor([44], dtype=torch.uint8))
    make().check_labels(ids, wrong)
    assert ILStore.of(IndexedDataset([(0, [0, 1])] * 2), torch.zeros(2)).labels is None
