import errno
import os
import random
import re
import shutil
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
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
from rho_train.files import from_line, to_line
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
        "labels": (torch.arange(N) % 7).to(torch.uint8),
        "predicted": (torch.arange(N) % 5).int() - 1,
    }
    return ILStore(**(fields | changes))


def bits(il: Tensor) -> list[int]:
    return il.view(torch.int32).tolist()


def same(a: ILStore, b: ILStore) -> bool:
    return (a.fingerprint, a.info, a.input_checksums, bits(a.il)) == (
        b.fingerprint,
        b.info,
        b.input_checksums,
        bits(b.il),
    ) and all(
        (x is y is None) or (x is not None and y is not None and x.dtype == y.dtype and x.equal(y))
        for x, y in ((a.fold, b.fold), (a.labels, b.labels), (a.predicted, b.predicted))
    )


def rows_of(layout: str) -> int:
    """Files of 7 rows leave one for the last."""
    return 0 if layout == "file" else 7


@pytest.fixture(params=["file", "folder"])
def path(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    path = tmp_path / "il.safetensors"
    make().save(path, rows_of(request.param))
    return path


def files_of(path: Path) -> list[Path]:
    return sorted(path.iterdir()) if path.is_dir() else [path]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rho_train.il.blocks._ROWS", 8)


def test_a_store_comes_back_bit_for_bit(tmp_path: Path) -> None:
    data = fingerprint(DATA)
    stores = [make(), make(fold=None), make(info={}), make(fold=torch.arange(N).int())]
    labels_of = torch.arange(N) % 7, torch.arange(N) << 40
    stores += [ILStore.of(data_set(labels), make().il) for labels in labels_of]
    for i, store in enumerate(stores):
        for rows in (0, 7, 25, N, 500):
            path = tmp_path / f"store-{i}-{rows}"
            store.save(path, rows)
            loaded = ILStore.load(path)
            assert (loaded.table is None) == (0 < rows < N)
            assert loaded.sha256 == ILStore.load(path).sha256
            for ids in (torch.arange(N), torch.randint(N, (99,)), torch.tensor([49, 0, 49])):
                assert bits(loaded.gather(ids.int())) == bits(store.il[ids])
                loaded.check_labels(ids, labels_of[i == 5][ids])
            assert loaded.gather(torch.tensor([], dtype=torch.int64)).shape == (0,)
            assert same(loaded, store)
            assert loaded.table is loaded.il
            assert (~loaded.known).nonzero().flatten().tolist() == [4, 30]
            loaded.check()
    with pytest.raises(ValueError, match="holds a store already; give a new folder"):
        store.save(path, 7)
    none = ILStore(torch.empty(0), {**data, "n": "0"})
    for rows in (0, 5):
        none.save(tmp_path / f"none{rows}", rows)
        assert len(ILStore.load(tmp_path / f"none{rows}").known) == 0


def test_a_store_is_a_safetensors_file_that_others_read(path: Path) -> None:
    for file in files_of(path):
        tensors = load_file(file)
        assert sorted(tensors) == ["fold", "il", "labels", "predicted"]
        first = int(file.stem.split("-")[1]) * 7 if path.is_dir() else 0
        assert bits(tensors["il"]) == bits(make().il[first : first + len(tensors["il"])])


def test_a_loaded_table_is_mapped_and_private(path: Path) -> None:
    store = ILStore.load(path)
    maps = Path("/proc/self/maps").read_text()
    assert all(str(file) in maps for file in files_of(path))
    store.il.zero_()
    assert same(ILStore.load(path), make())


def test_a_full_disk_keeps_the_earlier_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "il.safetensors"
    make().save(path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match=r"il\.safetensors: No space left"):
            make(info={}).save(path)
    assert same(ILStore.load(path), make())
    # Also over the file that is mapped.
    store = ILStore.load(path)
    store.save(path)
    assert same(store, make())
    assert same(ILStore.load(path), make())
    assert os.listdir(tmp_path) == [path.name]


def uses(store: ILStore) -> list[Callable[[], object]]:
    """Return what reads all values, in one way or another."""
    ids, labels = torch.arange(N), torch.arange(N) % 7

    def others() -> tuple[Tensor | None, ...]:
        return store.fold, store.predicted

    return [
        store.check,
        lambda: (store.known, store.labels, others()),
        lambda: (store.gather(ids), store.check_labels(ids, labels), others()),
        lambda: (store.lowest(0.5), store.labels, others()),
        lambda: store.replace(info={}),
        lambda: store.save(os.devnull + "/none"),
    ]


def refused(path: Path, use: int) -> bool:
    """Return whether a store is refused when it is loaded or used; else it has its old content."""
    try:
        store = ILStore.load(path)
        uses(store)[use]()
    except ValueError:
        return True
    except OSError:
        assert use == 5
    assert same(store, make())
    return False


def flip_bits(path: Path, count: int) -> int:
    accepted, generator = 0, random.Random(0)
    for file in files_of(path)[-2:]:
        whole = file.read_bytes()
        for i in range(count):
            damaged = bytearray(whole)
            bit = generator.randrange(8 * len(whole))
            damaged[bit // 8] ^= 1 << bit % 8
            file.write_bytes(damaged)
            accepted += not refused(path, i % 6)
        file.write_bytes(whole)
    return accepted


def test_no_flipped_bit_passes(path: Path) -> None:
    assert flip_bits(path, 210 if path.is_file() else 105) == 0
    assert not refused(path, 0)


def test_a_cut_file_is_refused(path: Path) -> None:
    for file in files_of(path):
        whole = file.read_bytes()
        for length in [*range(0, len(whole), 97), len(whole) - 1]:
            file.write_bytes(whole[:length])
            with pytest.raises(ValueError, match=rf"{file} is cut, damaged or no IL store"):
                ILStore.load(path)
        file.write_bytes(whole)
    assert not refused(path, 0)


def test_only_what_is_used_is_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []

    def crc32(data: memoryview) -> int:
        read.append(data.nbytes)
        return zlib.crc32(data)

    monkeypatch.setattr("rho_train.il.blocks.zlib", SimpleNamespace(crc32=crc32))
    store = ILStore.load(path, DATA)
    assert not read
    store.gather(torch.tensor([9, 10, 9]))
    store.check_labels(torch.tensor([9]), torch.tensor([2]))
    assert read == ([32, 8] if path.is_file() else [28, 7])
    store.gather(torch.tensor([10]))
    store.check_labels(torch.tensor([10]), torch.tensor([3]))
    assert len(read) == 2
    assert store.known.sum() == N - 2
    assert sum(read) == 4 * N + read[1]
    assert same(store, make())
    assert sum(read) == (4 + 2 + 1 + 4) * N


def test_values_changed_after_loading_are_not_saved(path: Path) -> None:
    store = ILStore.load(path)
    assert len(store.il) == N  # read once
    store._columns["il"].tensors[0][3] = 1.0
    for act in (store.check, lambda: store.save(path.with_name("other"))):
        with pytest.raises(ValueError, match="changed after loading, then keep them in a new"):
            act()
    assert same(ILStore.load(path), make())


def test_infinite_values_are_not_saved(path: Path) -> None:
    il = torch.zeros(N)
    il[[12, 40]] = -torch.inf
    with pytest.raises(ValueError, match="ILStore: il must be .* at id 12; .*diverged"):
        make(il=il).save(path)
    assert same(ILStore.load(path), make())


def rewrite(file: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Save the file as another program could, with some of its content changed."""
    with safe_open(file, framework="pt") as opened:
        metadata = opened.metadata() if metadata is None else metadata
    kept = {key: tensor.clone() for key, tensor in (load_file(file) | tensors).items()}
    save_file({k: t for k, t in kept.items() if len(t)}, file, metadata)


def test_a_file_that_is_not_this_store_is_refused(path: Path) -> None:
    file = files_of(path)[0]
    whole = file.read_bytes()
    n = N if path.is_file() else 7
    changed: list[tuple[dict[str, Tensor], str]] = [
        ({"extra": torch.zeros(N)}, "its files hold .*extra.*, wanted"),
        ({"fold": torch.empty(0)}, "its files hold"),
        ({"il": torch.zeros(n + 1)}, r"fold must have the shape of il, |labels must have"),
        (
            {"il": torch.zeros(n, 1)},
            rf"il must be .* tensor \(N,\) .*, got .*\({n}, 1\)",
        ),
        ({"il": torch.zeros(n, dtype=torch.float64)}, "il must be .* got float64"),
        ({"fold": torch.zeros(n)}, "fold must be a contiguous int16 or int32"),
        ({"il": torch.zeros(n)}, ""),
        ({"fold": torch.zeros(n, dtype=torch.int16)}, ""),
        ({"fold": (torch.arange(n) % 2).int()}, ""),
    ]
    for tensors, message in changed:
        rewrite(file, tensors)
        with pytest.raises(ValueError, match=message or "fold|il") as caught:
            ILStore.load(path).check()
        start = f"ILStore.load: {path}.*" if message else "ILStore: .* does not match its checksum"
        assert re.match(start, str(caught.value))
        file.write_bytes(whole)


def test_a_record_of_another_form_is_refused(path: Path) -> None:
    """Such as JSON of another shape, with a checksum that is right."""
    with safe_open(files_of(path)[0], framework="pt") as opened:
        line = opened.metadata()["record"]
    record = from_line(line.encode(), path)

    def put(line: str) -> None:
        for file in files_of(path):
            rewrite(file, {}, {"record": line})

    for key, values in {
        "format": (None, "rho_ext.il_store 3"),
        "fingerprint": ({}, [], "text", {**record["fingerprint"], "n": "49"}, {"n": 1}),
        "info": ([1], "text", [["a"]]),
        "input_checksums": (5, [[1]]),
        "checksums": ([], 3, {}, {"il": [[5]] * 9}, {"il": 3}, {"other": [[1]]}, None),
    }.items():
        for value in values:
            put(to_line({**record, key: value}))
            with pytest.raises(ValueError, match=r"ILStore\.load: .* no IL store of this version"):
                ILStore.load(path)
        put(to_line({k: v for k, v in record.items() if k != key}))
        with pytest.raises(ValueError, match="no IL store of this version"):
            ILStore.load(path)
    for text in ("", "[]", "{}", "[" * 200_000, line[:-9], line.replace("MLP", "CNN")):
        put(text)
        with pytest.raises(ValueError, match="its header: the record is damaged: its checksum"):
            ILStore.load(path)
    put(line)
    assert not refused(path, 0)


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "il.safetensors"
    nested = b"[" * 200_000
    header = len(nested).to_bytes(8, "little") + nested
    for content in (b"", b"not safetensors, but long enough for a header", bytes(1000), header):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"il\.safetensors is cut, damaged or no IL store"):
            ILStore.load(path)
    for missing in (tmp_path / "missing", tmp_path):
        with pytest.raises(FileNotFoundError, match=f"no store {missing}; check the path"):
            ILStore.load(missing)


def test_files_of_another_store_are_refused(tmp_path: Path) -> None:
    for folder, il in (("il", make().il), ("other", torch.linspace(1, 2, N))):
        make(il=il).save(tmp_path / folder, 7)
    name = "il-00001-of-00008.safetensors"
    whole = (tmp_path / "il" / name).read_bytes()
    shutil.copy(tmp_path / "other" / name, tmp_path / "il" / name)
    with pytest.raises(ValueError, match=f"{name} .*it belongs to another store than il-00000-of"):
        ILStore.load(tmp_path / "il")
    # Another file of the same store.
    shutil.copy(tmp_path / "il" / "il-00000-of-00008.safetensors", tmp_path / "il" / name)
    store = ILStore.load(tmp_path / "il")
    assert store.gather(torch.tensor([6])) == make().il[6]
    with pytest.raises(ValueError, match=f"rows 0 to 6 of .*{name}: the file is damaged"):
        store.gather(torch.tensor([6, 7]))
    (tmp_path / "il" / name).unlink()
    with pytest.raises(ValueError, match="its files hold .*7.*, wanted .*8"):
        ILStore.load(tmp_path / "il")
    (tmp_path / "il" / name).write_bytes(whole)
    assert not refused(tmp_path / "il", 0)


def test_a_store_of_another_data_set_is_refused(path: Path) -> None:
    relabelled = data_set((torch.arange(N) + 1) % 7)
    longer = data_set(torch.arange(N + 1) % 7)
    with pytest.raises(
        ValueError, match=r"store belongs to another data set \(labels in their order \(SHA"
    ) as bad:
        make().verify(relabelled)
    assert fingerprint(DATA)["labels"] in str(bad.value)
    assert fingerprint(relabelled)["labels"] in str(bad.value)
    message = r"count: store has 50, data set has 51; labels .*recompute the IL"
    with pytest.raises(ValueError, match=message):
        ILStore.load(path, longer)
    # Every label is as often there as before.
    with pytest.raises(ValueError, match=r"another data set \(labels in their order"):
        make().verify(data_set((torch.arange(N) % 7).roll(7).flip(0)))
    foreign = make(fingerprint=fingerprint(DATA) | {"ids": "file name"})
    with pytest.raises(ValueError, match=r"\(id scheme: store has file name, data set has posit"):
        foreign.verify(DATA)


def test_bad_stores_cannot_be_made() -> None:
    form = r"il must be a contiguous float32 tensor \(N,\) on the CPU without gradient, got "
    cases: list[tuple[dict[str, Any], str]] = [
        ({"il": [0.0] * N}, form + "list of 50 el"),
        ({"il": None}, form + "None"),
        ({"il": torch.zeros(N).half()}, form + "float16"),
        ({"il": torch.zeros(1, N)}, form + r".*\(1, 50\)"),
        ({"il": torch.zeros(2 * N)[::2]}, r"pass il\.detach\(\)\.cpu\(\)\.contig"),
        ({"il": torch.zeros(N, requires_grad=True)}, form),
        ({"il": torch.zeros(N, device="meta")}, form),
        ({"fold": torch.zeros(N, dtype=torch.int64)}, "fold must be .* got int64"),
        ({"fold": torch.zeros(N - 1, dtype=torch.int16)}, "fold must have the shape"),
        ({"labels": torch.zeros(N)}, "labels must be .* got float32"),
        ({"predicted": torch.zeros(N)}, "predicted must be .* int32 .* got float32"),
        ({"il": torch.zeros(9), **dict.fromkeys(("fold", "labels", "predicted"))}, "n = 9 as ther"),
        ({"fingerprint": {"n": "50"}}, r"keys n, labels, ids, .*got {'n': '50'}; make it with"),
    ]
    for changes, message in cases:
        with pytest.raises(ValueError, match="^ILStore: .*" + message):
            make(**changes)


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
    with pytest.raises(
        ValueError, match="of 2 examples, 1 of which are wanted, 1 have no irreducible"
    ):
        store.lowest(0.5, torch.tensor([0, 1]))


def test_rare_classes_are_kept_by_an_il_of_zero() -> None:
    labels = torch.tensor([0] * 5 + [3] * 2 + [-100] + [1])
    il = torch.arange(1.0, 10.0).index_fill(0, torch.tensor([2, 6]), torch.nan)
    store = ILStore.of(data_set(labels), il)
    wanted = il.clone()
    wanted[[5, 8]] = 0  # an unknown IL stays unknown, and so does that of no class
    for below in (3, 5):
        torch.testing.assert_close(store.keep_rare(below).il, wanted, equal_nan=True)
    torch.testing.assert_close(store.keep_rare(1).il, il, equal_nan=True)
    store.keep_rare().verify(data_set(labels))
    none = ILStore.of(data_set(labels * 0 - 100), il)
    torch.testing.assert_close(none.keep_rare().il, il, equal_nan=True)
    with pytest.raises(ValueError, match="keep_rare needs labels; make the store by ILStore.of"):
        store.replace(labels=None).keep_rare()


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
        with pytest.raises(ValueError, match=text + ".*use the IndexedDataset of the store"):
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
    make(labels=None).check_labels(ids, wrong)
    assert ILStore.of(IndexedDataset([(0, [0, 1])] * 2), torch.zeros(2)).labels is None


def test_the_identity_of_a_store_is_that_of_its_values(tmp_path: Path) -> None:
    make().save(tmp_path / "one")
    make(info={"other": "text"}).save(tmp_path / "many", rows_a_file=9)
    one, many, read = (ILStore.load(tmp_path / name) for name in ("one", "many", "many"))
    _ = read.known
    assert one.sha256 == many.sha256 == read.sha256 == make().sha256
    other = make().il.clone()
    other[3] += 1
    assert make(il=other).sha256 != one.sha256


def test_threads_may_use_a_store_at_once(tmp_path: Path) -> None:
    make().save(tmp_path / "many", rows_a_file=9)
    ids = torch.randperm(N, generator=torch.Generator().manual_seed(0))
    wanted = make().gather(ids)
    for _ in range(20):
        store = ILStore.load(tmp_path / "many")
        with ThreadPoolExecutor(4) as pool:
            found = [pool.submit(store.gather, ids) for _ in range(8)]
            pool.submit(lambda store=store: store.known).result()
            assert all(bits(one.result()) == bits(wanted) for one in found)
