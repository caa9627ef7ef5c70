"""Examples whose inputs occurred before in a data set."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from rho_train.batch import describe
from rho_train.dataset import IndexedDataset, check_indexed
from rho_train.il.checksums import read_checksums

_ROWS = 1024  # compared with all earlier ones at once


def find_duplicates(
    dataset: IndexedDataset, *, embeddings: Tensor | None = None, similarity: float = 0.98
) -> Tensor:
    """Return for each example the id of the first one with the same inputs, int64 (n,).

    An example that did not occur before has its own id. Labels do not count, so copies with
    different labels are found; give `IndexedDataset` the labels where it cannot see them.

    Args:
        dataset: read once, without augmentation. Texts count as they are: lower their case before.
        embeddings: floating point (n, d), one row an example, such as the features of a pretrained
            encoder: an example that points the same way as earlier ones is a duplicate of the first
            of them, and of what that one is a duplicate of. Takes n^2 d / 2 multiply-adds.
        similarity: the lowest cosine of such a pair, in (0, 1].

    Raises:
        TypeError: `dataset` is not an IndexedDataset, or `embeddings` is no such tensor.
        ValueError: `embeddings` have other rows or values that are not finite, or `similarity` is
            out of range.

    Examples:
        >>> from torch.utils.data import Subset, TensorDataset
        >>> examples = TensorDataset(torch.tensor([[1.0], [2.0], [1.0]]), torch.tensor([0, 1, 1]))
        >>> first = find_duplicates(IndexedDataset(examples))
        >>> first
        tensor([0, 1, 0])
        >>> distinct = Subset(examples, first.unique().tolist())
    """
    check_indexed("find_duplicates", dataset)
    n, known, first = len(dataset), dict[str, int](), []
    for found in read_checksums(dataset, range(n)):
        first.append(known.setdefault(found.sha256, found.id))
    firsts = torch.tensor(first, dtype=torch.int64, device="cpu")
    if embeddings is None:
        return firsts
    if not isinstance(embeddings, Tensor) or not embeddings.is_floating_point():
        got = describe(embeddings)
        raise TypeError(f"find_duplicates: embeddings must be floating point (n, d), got {got}")
    if embeddings.ndim != 2 or len(embeddings) != n or not bool(embeddings.isfinite().all()):
        raise ValueError(
            f"find_duplicates: embeddings must be finite, with a row for each of the {n} examples, "
            f"got {describe(embeddings)}"
        )
    if not 0 < similarity <= 1:
        raise ValueError(f"find_duplicates: similarity must lie in (0, 1], got {similarity}")
    with torch.no_grad():
        unit = F.normalize(embeddings.detach().float())
        for begin in range(0, n, _ROWS):
            end = min(begin + _ROWS, n)
            near = (unit[begin:end] @ unit[:end].T >= similarity).cpu()
            near[:, begin:].fill_diagonal_(True)
            firsts[begin:end] = torch.minimum(firsts[begin:end], near.int().argmax(1))
    while not firsts[firsts].equal(firsts):
        firsts = firsts[firsts]
    return firsts
