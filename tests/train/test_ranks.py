"""Selection by several processes: what each keeps for itself, and what they keep together."""

from __future__ import annotations

import shutil
import subprocess
import sys
from typing import Any

import pytest
import torch

from . import ranks_program as program

WORLD = 2
Found = list[dict[str, Any]]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """What each of two processes found."""
    out = tmp_path_factory.mktemp("ranks")
    # Away from the source tree, which holds the packages without the library.
    path = shutil.copy(program.__file__, out)
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={WORLD}"]
    process = subprocess.run(
        [sys.executable, *launcher, path, str(out)],
        cwd=sys.prefix,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert process.returncode == 0, process.stderr
    return [torch.load(out / f"rank{rank}.pt") for rank in range(WORLD)]


@pytest.mark.parametrize("method", program.DRAWING)
def test_ranks_draw_apart_and_the_same_again(found: Found, method: str) -> None:
    alone = program.draws()[method]
    first, second = (rank["draws"][method] for rank in found)
    assert first[0] == first[1] == alone[0]
    assert second[0] == second[1] != first[0]


def test_a_wrapped_model_is_scored_and_trained(found: Found) -> None:
    first, second = (rank["ddp"] for rank in found)
    # Dropout and the points differ between the ranks, the parameters must not.
    assert torch.equal(first["parameters"], second["parameters"])
    assert first["ids"] != second["ids"]
    assert not first["moved"]
    assert not second["moved"]


def test_a_sharded_model_selects_and_trains_as_a_wrapped_one(found: Found) -> None:
    for rank in found:
        # FSDP2 leaves its buffers to each rank.
        ddp = rank["ddp, own buffers"]
        assert rank["fsdp"]["ids"] == ddp["ids"]
        # To the bit: of two ranks a sum has one order, and halving is exact.
        assert torch.equal(rank["fsdp"]["parameters"], ddp["parameters"])
        assert not rank["fsdp"]["moved"]
