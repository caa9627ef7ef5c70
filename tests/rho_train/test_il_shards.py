"""A folder of shards gives what one file gives, and no damaged or foreign shard passes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch.utils.data import TensorDataset

from rho_train import ILShards, ILStore, IndexedDataset, fingerprint, save_shards

N = 103
LABELS = torch.arange(N) % 7
DATA = IndexedDataset(TensorDataset(torch.zeros(N, 1), LABELS))


def make(offset: float = 0.0) -> ILStore:
    il = torch.linspace(0, 3, N) + offset
    il[[4, 30, 102]] = torch.nan
    fold = (torch.arange(N) % 3).to(torch.int16)
    return ILStore(il, fingerprint(DATA), fold, {"kind": "made up"})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_shards(make(), tmp_path / "il", rows=25)
    return tmp_path / "il"


def bits(il: torch.Tensor) -> list[int]:
    return il.view(torch.int32).tolist()


@pytest.mark.parametrize("rows", [10, 25, 103, 500])
def test_shards_give_what_one_file_gives(tmp_path: Path, rows: int) -> None:
    save_shards(make(), tmp_path / "il", rows)
    shards = ILShards.load(tmp_path / "il", DATA)
    assert len(shards) == N
    assert len(shards.shards) == -(-N // rows)
    for ids in (torch.arange(N), torch.randint(N, (300,)), torch.tensor([102, 0, 102])):
        assert bits(shards.gather(ids)) == bits(make().il[ids])
    assert shards.gather(torch.tensor([], dtype=torch.int64)).shape == (0,)
    shards.check()
    joined = shards.join()
    joined.verify(DATA)
    assert bits(joined.il) == bits(make().il)
    assert joined.fold is not None
    assert joined.fold.equal(torch.arange(N) % 3)
    assert joined.info == {"kind": "made up"}


def test_ids_out_of_range_are_refused(folder: Path) -> None:
    for bad in (-1, N):
        with pytest.raises(IndexError, match=rf"ids must lie in \[0, 103\), got .*{bad}"):
            ILShards.load(folder).gather(torch.tensor([5, bad]))


def test_damage_is_refused(folder: Path) -> None:
    shard = folder / "il-00002-of-00005.safetensors"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1])
    with pytest.raises(ValueError, match=r"il-00002-of-00005\.safetensors is cut"):
        ILShards.load(folder)
    shard.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ValueError, match="ILShards: shard 2: .*do not match the checksum"):
        ILShards.load(folder).check()
    shard.unlink()
    with pytest.raises(FileNotFoundError, match="there is no file .*il-00002-of"):
        ILShards.load(folder)


def test_a_foreign_shard_is_refused(folder: Path, tmp_path: Path) -> None:
    save_shards(make(offset=1.0), tmp_path / "other", rows=25)
    name = "il-00001-of-00005.safetensors"
    shutil.copy(tmp_path / "other" / name, folder / name)
    with pytest.raises(ValueError, match="is a shard of another store"):
        ILShards.load(folder)
    shutil.copy(folder / "il-00000-of-00005.safetensors", folder / name)
    with pytest.raises(ValueError, match="is a shard of another store"):
        ILShards.load(folder)


def test_a_damaged_index_is_refused(folder: Path) -> None:
    index = folder / "index.json"
    whole = index.read_text()
    changed = json.loads(whole) | {"rows": 24}
    for text in (
        "",
        "[]",
        "{}",
        whole[:-9],
        json.dumps(changed),
        whole.replace("made up", "other"),
    ):
        index.write_text(text)
        with pytest.raises(ValueError, match=r"index\.json is damaged or no index"):
            ILShards.load(folder)
    index.unlink()
    with pytest.raises(FileNotFoundError, match=r"no file .*index\.json"):
        ILShards.load(folder)
    save_shards(make(), folder, rows=25)
    with pytest.raises(ValueError, match="holds a store already"):
        save_shards(make(), folder, rows=25)
    with pytest.raises(ValueError, match="rows must be at least 1, got 0"):
        save_shards(make(), folder / "deeper", rows=0)


def test_another_data_set_is_refused(folder: Path) -> None:
    relabelled = IndexedDataset(TensorDataset(torch.zeros(N, 1), LABELS.roll(1)))
    with pytest.raises(ValueError, match=r"another data set \(labels"):
        ILShards.load(folder, relabelled)
