"""Images in folders, read when they are asked for."""

from __future__ import annotations

from pathlib import Path

import torch

from experiments.classification import ClassificationData
from experiments.sets.files import find
from rho_train.tasks import ImageFiles, images

_CLOTHES = 14


def load_cinic10(folder: Path, *, size: int = 32) -> ClassificationData:
    """Load CINIC-10 from a folder of train, valid and test: 90,000 images each in 10 classes.

    The part valid, which the paper holds out, is not read. Darlow et al. (2018), arXiv 1810.03505.

    Args:
        folder: that holds train and test, with a folder for each class.
        size: height and width that images are cut to, in pixels.

    Raises:
        FileNotFoundError: a folder is missing, or there is no image in one of the parts.
        ValueError: a file is no image.
        ImportError: Pillow is missing.

    Example:
        >>> load_cinic10(Path("CINIC-10"))  # doctest: +SKIP
    """
    task = images(Path(folder), size=size)
    train, test = (part.datasets[0] for part in (task.train, task.test))
    return ClassificationData(
        train_x=train,
        train_y=task.labels,
        test_x=test,
        test_y=task.test_labels,
        num_classes=len(task.classes),
        kind="image",
        classes=tuple(task.classes),
        split="by folder",
        name="CINIC-10",
        attribution="Darlow, L. N. et al. (2018). CINIC-10 Is Not ImageNet or CIFAR-10. arXiv "
        "1810.03505",
        licence="MIT for the collection; its images come from ImageNet and CIFAR-10",
        source="Darlow et al., arXiv 1810.03505",
    )


def load_clothing1m(folder: Path, *, size: int = 224) -> ClassificationData:
    """Load Clothing-1M from a folder with its images and the published lists.

    14 classes. As in the paper's code, the clean training and validation lists and the noisy list
    are trained on (1,061,883 images), the clean test list is the test set. An image of a clean
    list has its clean label, also where it is in the noisy list; none of the test list is trained
    on. Xiao et al. (2015).

    Args:
        folder: that the names in the lists start from. noisy_label_kv.txt, clean_label_kv.txt,
            and {noisy_train,clean_train,clean_val,clean_test}_key_list.txt lie in it, or in its
            subfolder annotations, and category_names_eng.txt may.
        size: height and width that images are cut to, in pixels.

    Raises:
        FileNotFoundError: a list is missing.
        ValueError: a list is damaged, or names an image without a label.
        ImportError: Pillow is missing.

    Example:
        >>> load_clothing1m(Path("clothing1m"))  # doctest: +SKIP
    """
    where, folder = "load_clothing1m", Path(folder)
    lists = folder / "annotations" if (folder / "annotations").is_dir() else folder
    clean, noisy = (
        _labels(where, find(where, lists, f"{kind}_label_kv.txt")) for kind in ("clean", "noisy")
    )
    train = {
        name: clean.get(name)
        for part in ("clean_train", "clean_val")
        for name in _keys(where, lists, part)
    }
    for name in _keys(where, lists, "noisy_train"):
        train.setdefault(name, noisy.get(name))
    test = {name: clean.get(name) for name in _keys(where, lists, "clean_test")}
    for name in test:
        train.pop(name, None)
    parts = []
    for part_labels in (train, test):
        labels = [label for label in part_labels.values() if label is not None]
        if not labels or len(labels) < len(part_labels):
            missing = [name for name, label in part_labels.items() if label is None]
            raise ValueError(
                f"{where}: the lists in {lists} give {len(missing)} images no label"
                + (f", the first is {missing[0]}" if missing else ", and name no images")
                + "; fetch the lists again"
            )
        files = ImageFiles([folder / name for name in part_labels], size)
        parts.append((files, torch.tensor(labels, dtype=torch.int64)))
    (train_x, train_y), (test_x, test_y) = parts
    return ClassificationData(
        train_x=train_x,
        train_y=train_y,
        test_x=test_x,
        test_y=test_y,
        num_classes=_CLOTHES,
        name="Clothing-1M",
        attribution="Xiao, T. et al. (2015). Learning from Massive Noisy Labeled Data for Image "
        "Classification. CVPR",
        kind="image",
        classes=_category_names(lists / "category_names_eng.txt"),
        licence="on request, for research",
        source="Xiao et al. (2015)",
        split="clean test list; trained on all other lists",
    )


def _keys(where: str, lists: Path, part: str) -> list[str]:
    path = find(where, lists, f"{part}_key_list.txt")
    return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def _category_names(path: Path) -> tuple[str, ...]:
    names = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return tuple(name.strip() for name in names if name.strip())


def _labels(where: str, path: Path) -> dict[str, int]:
    labels = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        name, _, label = line.strip().rpartition(" ")
        if not name or not label.isdecimal() or int(label) >= _CLOTHES:
            raise ValueError(
                f"{where}: {path}, line {number}: wanted the name of an image and a label in "
                f"[0, {_CLOTHES}), got {line!r}"
            )
        labels[name] = int(label)
    return labels
