"""Images in folders are found, probed once, and decoded as people see them."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rho_train.tasks import ImageFiles, images


def paint(path: Path, colour: tuple[int, int, int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 4), colour).save(path)


def test_images_of_folders(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no folder .*train"):
        images(tmp_path)
    paint(tmp_path / "train/dog/b.png", (1, 2, 3))
    paint(tmp_path / "train/cat/deeper/a.PNG", (4, 5, 6))
    paint(tmp_path / "test/dog/t.png", (250, 0, 0))
    (tmp_path / "train/dog/notes.txt").write_text("no image")
    made = images(tmp_path, size=8)
    assert made.classes == ("cat", "dog")
    dataset = made.dataset()
    batch = dataset.collate(dataset.__getitems__([1, 0]))
    assert (batch.x[:, 0, 0, 0].tolist(), batch.y.tolist(), batch.ids.tolist()) == (
        [1, 4],
        [1, 0],
        [1, 0],
    )
    assert made.eval_set().labels.tolist() == [1]
    assert made.make_model(0)(batch.x).shape == (2, 2)
    with pytest.raises(ValueError, match="at least 1 pixel, got 0"):
        images(tmp_path, size=0)
    (tmp_path / "train/cat/deeper/a.PNG").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"a\.PNG is no readable image"):
        dataset[0]


def test_images_are_drawn_where_no_folder_holds_the_test_set(tmp_path: Path) -> None:
    for i in range(60):
        paint(tmp_path / ("cat", "dog")[i % 2] / f"{i}.png", (i, 2, 3))
    with pytest.raises(FileNotFoundError, match=r"no folder .*/train; wanted .* CLASS/FILE and te"):
        images(tmp_path)

    def colours() -> list[list[tuple[int, int]]]:
        made = images(tmp_path, size=2, test=20)
        assert made.classes == ("cat", "dog")
        return [
            [(int(x[0, 0, 0]), y) for x, y, _ in map(data.__getitem__, range(len(data)))]
            for data in (made.dataset(), made.eval_set())
        ]

    train, test = found = colours()
    assert (len(train), len(test)) == (40, 20)
    # Each image once, with its label, in the order of the files; drawn from all classes, and again.
    assert sorted(train + test) == [(i, i % 2) for i in range(60)]
    files = sorted(range(60), key=lambda i: (i % 2, f"{i}.png"))
    assert all(part == [(i, i % 2) for i in files if (i, i % 2) in part] for part in found)
    assert 0 < sum(label for _, label in test) < 20
    assert colours() == found
    with pytest.raises(ValueError, match=r"test must lie in \[1, 60\), .*, got 60"):
        images(tmp_path, test=60)
    (tmp_path / "test").mkdir()
    with pytest.raises(ValueError, match="has a folder train or test; leave test=20 out"):
        images(tmp_path, test=20)


def test_all_images_are_decoded_before_training_but_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in ("train/cat/a.png", "train/dog/b.jpg", "test/cat/c.png", "test/dog/d.png"):
        paint(tmp_path / path, (1, 2, 3))
    for hidden in ("train/cat/._a.png", "test/dog/.trash/x.png", "train/__MACOSX/a.png"):
        (tmp_path / hidden).parent.mkdir(exist_ok=True)
        (tmp_path / hidden).write_bytes(b"no image")
    (tmp_path / "train/.ipynb_checkpoints").mkdir()
    (tmp_path / "train/cat/folder.png").mkdir()
    opened: list[Path] = []
    whole = Image.open
    monkeypatch.setattr(Image, "open", lambda path: opened.append(path) or whole(path))
    for _ in range(2):
        assert images(tmp_path, size=4).classes == ("cat", "dog")
    assert sorted(path.name for path in opened) == ["a.png", "b.jpg", "c.png", "d.png"]
    # Each of the bad files is named, and how many there are.
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "test/dog/cut.jpg")
    content = (tmp_path / "test/dog/cut.jpg").read_bytes()
    (tmp_path / "test/dog/cut.jpg").write_bytes(content[: len(content) // 2])
    Image.fromarray(noise).save(tmp_path / "test/dog/cut.png")
    content = (tmp_path / "test/dog/cut.png").read_bytes()
    (tmp_path / "test/dog/cut.png").write_bytes(content[: len(content) // 2])
    (tmp_path / "test/cat/link.png").symlink_to(tmp_path / "gone.png")
    Image.new("F", (4, 4), 0.5).save(tmp_path / "test/cat/float.tif")
    Image.fromarray(np.full((4, 4), 300, np.uint16)).save(tmp_path / "test/cat/deep.png")
    Image.new("1", (80, 80)).save(tmp_path / "test/cat/bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5000)
    with pytest.raises(ValueError, match="6 of 8 files are no readable images; restore") as error:
        images(tmp_path, size=4)
    message = str(error.value)
    for part in ("bomb.png: Image size (6400 pixels)", "float.tif: pixels of mode F have no known"):
        assert part in message
    for name in ("link.png: ", "cut.jpg: image file is truncated", "cut.png: "):
        assert name in message
    # A child process reads what its parent has decoded.
    module = importlib.import_module("rho_train.tasks.images")
    monkeypatch.setattr(module, "parent_process", lambda: "parent")
    assert len(images(tmp_path, size=4).eval_set()) == 8
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 3000)
    with pytest.raises(ValueError, match=r"bomb\.png is no readable image \(Image size \(6400"):
        ImageFiles([tmp_path / "test/cat/bomb.png"], 4)[0]


def test_classes_without_training_images_are_named(tmp_path: Path) -> None:
    for path in ("train/cat/a.png", "train/dog/b.png", "test/owl/c.png"):
        paint(tmp_path / path, (1, 2, 3))
    (tmp_path / "train/empty").mkdir()
    with (
        pytest.warns(UserWarning, match=r"classes \['owl'\] are only in the test set"),
        pytest.warns(UserWarning, match=r"classes \['empty'\] are without an example"),
    ):
        assert images(tmp_path, size=4).classes == ("cat", "dog", "empty", "owl")


def test_pixels_are_those_that_people_see(tmp_path: Path) -> None:
    grey, clear = np.array([[0, 9], [128, 255]], np.uint8), np.full((2, 2), 255, np.uint8)
    half = np.array([[0, 255], [255, 0]], np.uint8)
    on_white = np.where(half == 0, 255, grey)
    palette = Image.fromarray(grey).convert("P")
    turned = Image.Exif()
    turned[0x0112] = 6  # the camera was turned to the left
    alpha = Image.merge("LA", [Image.fromarray(grey), Image.fromarray(half)])
    for name, image, options, wanted in (
        ("grey.png", Image.fromarray(grey), {}, grey),
        ("palette.png", palette, {}, grey),
        ("bytes.png", palette, {"transparency": bytes([0] * 9 + [255] * 247)}, None),
        ("alpha.png", alpha, {}, on_white),
        ("rgba.png", alpha.convert("RGBA"), {}, on_white),
        ("opaque.png", Image.merge("LA", [Image.fromarray(a) for a in (grey, clear)]), {}, grey),
        ("turned.png", Image.fromarray(grey), {"exif": turned}, np.rot90(grey, -1)),
        ("exif.png", Image.fromarray(grey), {"exif": b"Exif\0\0damaged"}, grey),
    ):
        image.save(tmp_path / name, **options)
        (found,) = ImageFiles([tmp_path / name], size=2)
        if wanted is None:
            wanted = np.where(grey < 9, 255, grey)
        for channel in found.numpy():
            np.testing.assert_array_equal(channel, wanted, name)


def test_the_middle_of_an_image_is_cut_out(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 8, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    (image,) = ImageFiles([tmp_path / "wide.png"], size=4)
    np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), pixels[:, 2:6])
